"""The sampler: how often each start is drawn, with ends and without; masks at every start (sheet 12.13)."""

import numpy as np
import pytest
import torch

from common.replay_buffer import ReplayBuffer
from common.replay_sampling import uniform_window
from common.spaces import Spaces
from paper3_dreamerv2.utils import end_window, sample

DISCRETE = Spaces({"vector": (2,)}, 5, True)
CONTINUOUS = Spaces({"vector": (2,)}, 3, False)


def fill(lengths: list[int], spaces: Spaces = DISCRETE, is_open: bool = False, num: int = 1) -> ReplayBuffer:
    """Episodes of those lengths: vector = (episode, row), act = the row (mod 5), rew = 100 e + row."""
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


def draw(replay: ReplayBuffer, batch: int, length: int, ends: bool = True, spaces: Spaces = DISCRETE) -> dict:
    return sample(replay, batch, length, ends, spaces, torch.device("cpu"))


def chances(ends: bool, rows: int, length: int) -> np.ndarray:
    """Of every start, as the sheet says: min(U{0..N}, N - L), or all the same."""
    starts = np.zeros(rows)
    last = rows - length
    if ends:
        starts[:last], starts[last] = 1 / (rows + 1), (length + 1) / (rows + 1)
    else:
        starts[: last + 1] = 1 / (last + 1)
    return starts


@pytest.mark.parametrize("ends", [True, False])
def test_starts_of_an_episode_of_the_papers_size(ends):
    """N = 501, L = 50: the last window 51 / 502, the other 451 starts 1 / 502 each; or 1 / 452 each."""
    draws, rule = 200_000, end_window if ends else uniform_window
    starts = rule(np.random.default_rng(0), np.full(draws, 501), 50)
    counts, expected = np.bincount(starts, minlength=501), draws * chances(ends, 501, 50)
    assert counts[expected == 0].sum() == 0 and starts.max() == 451
    used = expected > 0
    z = (counts[used] - expected[used]) / np.sqrt(expected[used])
    assert abs(z).max() < 5 and z.std() < 1.2
    assert (starts == 451).mean() == pytest.approx(0.1016 if ends else 0.0022, abs=0.002)


@pytest.mark.parametrize("ends", [True, False])
def test_what_the_replay_hands_out(ends):
    """The same through the buffer: episodes of different lengths, equally often; no chunk crosses an end."""
    batch = draw(fill([12, 30, 21]), 30_000, 8, ends)
    episode, row = batch["vector"].unbind(-1)
    assert (episode == episode[:, :1]).all() and (row - row[:, :1] == torch.arange(8)).all()
    for e, rows in enumerate((12, 30, 21)):
        mine = episode[:, 0] == e
        assert mine.float().mean().item() == pytest.approx(1 / 3, abs=0.015)
        counts = torch.bincount(row[mine, 0].long(), minlength=rows).numpy()
        expected = counts.sum() * chances(ends, rows, 8)
        assert counts[expected == 0].sum() == 0
        np.testing.assert_allclose(counts, expected, atol=5 * np.sqrt(expected.max()))


@pytest.mark.parametrize("spaces", [DISCRETE, CONTINUOUS])
@pytest.mark.parametrize("ends", [True, False])
def test_every_chunk_starts_anew(spaces, ends):
    """is_first at row 0 and prev_act zero there, wherever in its episode it starts; inside, act[t - 1]."""
    batch = draw(fill([12, 30, 5, 5, 5], spaces), 500, 8, ends, spaces)
    row = batch["vector"][..., 1]
    assert batch["is_first"][:, 0].all()
    assert torch.equal(batch["is_first"][:, 1:], row[:, 1:] == 0)  # the seams of short episodes
    if spaces.discrete:
        before = torch.nn.functional.one_hot(((row - 1) % 5).long(), 5).float()
    else:
        before = ((row - 1) / 100)[..., None].expand(-1, -1, 3)
    expected = before * (~batch["is_first"])[..., None]
    torch.testing.assert_close(batch["prev_act"], expected)
    assert (row[:, 0] > 0).any() and not batch["prev_act"][:, 0].any()  # none, not action 0
    assert batch["prev_act"].shape == (500, 8, spaces.act)


def test_rewards_and_ends_travel_with_their_rows():
    batch = draw(fill([12, 30]), 500, 8)
    episode, row = batch["vector"].unbind(-1)
    assert torch.equal(batch["rew"], 100 * episode + row)
    assert torch.equal(batch["is_terminal"], (episode == 0) & (row == 11))
    assert batch.keys() == {"vector", "rew", "is_first", "is_terminal", "prev_act"}
    assert all(value.shape[:2] == (500, 8) for value in batch.values())


def test_short_episodes_are_drawn_as_often_and_run_on():
    batch = draw(fill([3, 40, 4, 3, 30]), 20_000, 8, False)
    episode, row = batch["vector"].unbind(-1)
    shares = [(episode[:, 0] == e).float().mean().item() for e in range(5)]
    assert shares == pytest.approx([0.2] * 5, abs=0.015)
    short = episode[:, 0] == 0
    assert (row[short, 0] == 0).all() and (episode[short, 3] == 1).all()


@pytest.mark.parametrize("ends", [True, False])
def test_an_open_episode_waits_until_it_has_ended(ends):
    closed = draw(fill([20, 20, 30], is_open=True), 2_000, 8, ends)
    assert set(closed["vector"][..., 0].unique().tolist()) == {0.0, 1.0}
    alone = draw(fill([30], is_open=True), 10, 8, ends)  # better than nothing
    assert (alone["vector"][..., 0] == 0).all()


def test_streams_of_several_envs_are_one_population():
    batch = draw(fill([10, 20], num=3), 5_000, 8)
    assert (batch["vector"][:, 0, 0] == 0).float().mean().item() == pytest.approx(0.5, abs=0.03)
