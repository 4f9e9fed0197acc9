"""The sampler: how often each start is drawn, short and open episodes, the action before (sheet 12.11)."""

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.replay_buffer import ReplayBuffer
from common.spaces import Spaces
from paper2_dreamerv1.buffer import RULES, sample

DISCRETE = Spaces({"vector": (2,)}, 5, True)
CONTINUOUS = Spaces({"vector": (2,)}, 3, False)


def fill(lengths: list[int], spaces: Spaces = DISCRETE, is_open: bool = False, num: int = 1) -> ReplayBuffer:
    """Episodes of those lengths: vector = (episode, row), act = row (mod 5, or / 100), rew = 100 e + row."""
    replay = ReplayBuffer(10_000, spaces.fields(), num, seed=0)
    for e, length in enumerate(lengths):
        for t in range(length):
            is_end = t == length - 1 and not (is_open and e == len(lengths) - 1)
            act = np.full(num, t % 5) if spaces.discrete else np.full((num, 3), t / 100, np.float32)
            flags = {"is_first": t == 0, "is_last": is_end, "is_terminal": is_end and e % 2 == 0}
            row = {name: np.full(num, flag) for name, flag in flags.items()}
            row |= {"act": act, "rew": np.full(num, 100 * e + t, np.float32)}
            replay.add(row | {"vector": np.full((num, 2), (e, t), np.float32)})
    return replay


def draw(replay: ReplayBuffer, batch: int, length: int, rule: str, spaces: Spaces = DISCRETE) -> dict:
    return sample(replay, batch, length, rule, spaces, torch.device("cpu"))


def chances(rule: str, rows: int, length: int) -> np.ndarray:
    """Of every start, as the sheet says."""
    starts = np.zeros(rows)
    if rule == "faithful":
        starts[: rows - length] = 1 / (rows - length)
    elif rule == "uniform":
        starts[: rows - length + 1] = 1 / (rows - length + 1)
    else:
        starts[: rows - length] = 1 / rows
        starts[rows - length] = length / rows
    return starts


@pytest.mark.parametrize("rule", RULES)
def test_starts_of_an_episode_of_the_papers_size(rule):
    """N = 501, L = 50: 451 equal starts; 0..450 and nothing of the last row; the last window 50 / 501."""
    draws = 200_000
    starts = RULES[rule](np.random.default_rng(0), np.full(draws, 501), 50)
    counts, expected = np.bincount(starts, minlength=501), draws * chances(rule, 501, 50)
    assert counts[expected == 0].sum() == 0
    used = expected > 0
    z = (counts[used] - expected[used]) / np.sqrt(expected[used])
    assert abs(z).max() < 5 and z.std() < 1.2
    assert starts.max() == (450 if rule == "faithful" else 451)
    if rule == "balanced":
        assert (starts == 451).mean() == pytest.approx(50 / 501, abs=0.003)


@pytest.mark.parametrize("rule", RULES)
def test_what_the_replay_hands_out(rule):
    """The same through the buffer: two episodes of different lengths, equally often; none crosses an end."""
    batch = draw(fill([12, 30, 21]), 30_000, 8, rule)
    episode, row = batch["vector"].unbind(-1)
    assert (episode == episode[:, :1]).all() and (row - row[:, :1] == torch.arange(8)).all()
    for e, rows in enumerate((12, 30, 21)):
        mine = episode[:, 0] == e
        assert mine.float().mean().item() == pytest.approx(1 / 3, abs=0.015)
        counts = torch.bincount(row[mine, 0].long(), minlength=rows).numpy()
        expected = counts.sum() * chances(rule, rows, 8)
        assert counts[expected == 0].sum() == 0
        np.testing.assert_allclose(counts, expected, atol=5 * np.sqrt(expected.max()))
        assert bool((row[mine] == rows - 1).any()) == (rule != "faithful")  # is the last row ever seen?
        ends = batch["is_terminal"][mine & (episode[:, 0] % 2 == 0)]
        assert not len(ends) or bool(ends.any()) == (rule != "faithful")


def test_rewards_and_flags_travel_with_their_rows():
    batch = draw(fill([12, 30]), 500, 8, "uniform")
    episode, row = batch["vector"].unbind(-1)
    assert torch.equal(batch["rew"], 100 * episode + row)
    assert torch.equal(batch["is_terminal"], (episode == 0) & (row == 11))
    assert batch["is_first"][:, 0].all() and not batch["is_first"][:, 1:].any()
    assert all(value.shape[:2] == (500, 8) for value in batch.values())


@pytest.mark.parametrize("spaces", [DISCRETE, CONTINUOUS])
def test_the_action_that_led_to_a_row_is_known_in_mid_episode(spaces):
    """Row t comes with act[t - 1], at a window's start too; where an episode begins zeros, not action 0."""
    batch = draw(fill([12, 30, 5, 5, 5], spaces), 500, 8, "uniform", spaces)
    row = batch["vector"][..., 1]
    if spaces.discrete:
        before = torch.nn.functional.one_hot(((row - 1) % 5).long(), 5).float()
    else:
        before = ((row - 1) / 100)[..., None].expand(-1, -1, 3)
    expected = before * (row > 0)[..., None]
    torch.testing.assert_close(batch["prev_act"], expected)
    starts = row[:, 0]
    assert (starts == 0).any() and (starts > 0).any()
    assert batch["prev_act"].shape == (500, 8, spaces.act)


def test_short_episodes_are_drawn_as_often_and_run_on():
    batch = draw(fill([3, 40, 4, 3]), 20_000, 8, "uniform")
    episode, row = batch["vector"].unbind(-1)
    # Episode 2 (rows 43..46) runs on into episode 3; that one, at the end of the stream, is shifted back.
    shifted = (episode[:, 0] == 1) & (episode[:, -1] == 3)
    shares = [(episode[:, 0] == e).float().mean().item() for e in range(4)]
    assert shares[0] == pytest.approx(0.25, abs=0.015)
    assert shifted.float().mean().item() == pytest.approx(0.5, abs=0.015)  # 2 and 3 end less than 8 rows on
    assert torch.equal(batch["is_first"][:, 1:], row[:, 1:] == 0)  # the seams
    assert batch["is_first"][:, 0].all()


def test_faithful_skips_short_episodes():
    batch = draw(fill([3, 9, 8, 30]), 2_000, 8, "faithful")
    assert set(batch["vector"][:, 0, 0].tolist()) == {1.0, 3.0}  # 8 rows are one too few
    assert not batch["is_first"][:, 1:].any()


def test_faithful_without_a_long_episode_says_what_to_do():
    with pytest.raises(UserError, match="more than 8 rows.*--replay.sampling uniform.*--replay.length"):
        draw(fill([3, 8, 8]), 4, 8, "faithful")


@pytest.mark.parametrize("rule", RULES)
def test_an_open_episode_waits_until_it_has_ended(rule):
    closed = draw(fill([20, 20, 30], is_open=True), 2_000, 8, rule)
    assert set(closed["vector"][..., 0].unique().tolist()) == {0.0, 1.0}
    alone = draw(fill([30], is_open=True), 10, 8, rule)  # better than nothing
    assert (alone["vector"][..., 0] == 0).all()


def test_streams_of_several_envs_are_one_population():
    batch = draw(fill([10, 20], num=3), 5_000, 8, "uniform")
    assert (batch["vector"][:, 0, 0] == 0).float().mean().item() == pytest.approx(0.5, abs=0.03)
