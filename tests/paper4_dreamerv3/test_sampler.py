"""From the replay to a batch and back: alignment, context row, fresh windows, latents, the ratio (11.10)."""

import numpy as np
import pytest
import torch

from common.env_wrapper import EnvSpec
from common.replay_buffer import ReplayBuffer
from common.spaces import Spaces
from paper4_dreamerv3.agent import UNKNOWN, DreamerV3Agent
from paper4_dreamerv3.presets import PRESETS
from paper4_dreamerv3.sampler import sample
from paper4_dreamerv3.train import Learner, schedule

DISCRETE = Spaces({"vector": (2,)}, 5, True)
CONTINUOUS = Spaces({"vector": (2,)}, 3, False)
SEVERAL = Spaces({"vector": (2,)}, 5, True, (2, 3))


def make_agent(cfg, spaces: Spaces = DISCRETE) -> DreamerV3Agent:
    return DreamerV3Agent(cfg, EnvSpec("toy_catch", {}), spaces)


def latents(rng: np.random.Generator, num: int) -> dict[str, np.ndarray]:
    """What a policy might have stored."""
    bits = torch.from_numpy(rng.uniform(-1, 1, (num, 16))).to(torch.bfloat16).view(torch.uint16).numpy()
    return {"deter": bits, "stoch": rng.integers(4, size=(num, 3)).astype(np.uint8)}


def fill(agent: DreamerV3Agent, rows: int, num: int = 1, episode: int = 13, online: int = 0) -> ReplayBuffer:
    """Episodes of 13 rows: vector = (env, count), every fourth a true end, the others time limits."""
    fields = agent.spaces.fields() | agent.replay_fields()
    replay, rng = ReplayBuffer(100_000, fields, num, seed=0, online=online), np.random.default_rng(0)
    for t in range(rows):
        place, number = t % episode, t // episode
        is_end = place == episode - 1
        flags = {"is_first": place == 0, "is_last": is_end, "is_terminal": is_end and number % 4 == 0}
        row = {name: np.full(num, flag) for name, flag in flags.items()}
        row |= {"act": agent.spaces.random(rng, num), "rew": rng.normal(size=num).astype(np.float32)}
        row["vector"] = np.stack([np.arange(num), np.full(num, t)], 1).astype(np.float32)
        replay.add(row | latents(rng, num))
    return replay


def test_rewards_are_learned_in_the_coin_that_is_asked_for(small):
    agent = make_agent(small(**{"model.reward_scale": 100.0}))
    replay = fill(agent, 60)
    batch, ids = sample(replay, agent)
    np.testing.assert_allclose(batch["rew"].numpy(), 100 * replay.gather(ids)["rew"])


@pytest.mark.parametrize("spaces", [DISCRETE, CONTINUOUS, SEVERAL])
def test_a_batch_is_runs_of_rows_with_the_action_before(small, spaces):
    """Three envs with 200 rows each, 16 x 65 rows: contiguous, row 0 dropped, flags as they are stored."""
    agent = make_agent(small(**{"replay.batch": 16, "replay.length": 64}), spaces)
    replay = fill(agent, 200, 3)
    batch, ids = sample(replay, agent)
    env, count = batch["vector"].unbind(-1)
    assert env.shape == ids.shape == (16, 64)
    assert (env == env[:, :1]).all() and (count.diff(dim=1) == 1).all()
    assert np.array_equal(ids, 3 * count.numpy().astype(int) + env.numpy().astype(int))
    before = replay.gather(ids - 3)
    act = spaces.encode(torch.from_numpy(before["act"]))
    later = (~batch["is_first"])[..., None]  # what stands in first rows is cut by `observe`
    assert torch.equal(batch["prev_act"] * later, act * later)
    stored = replay.gather(ids)
    for name in ("rew", "is_first", "is_last", "is_terminal", "vector"):
        np.testing.assert_array_equal(batch[name].numpy(), stored[name])
    assert torch.equal(batch["is_first"], count % 13 == 0) and not batch["is_first"][:, 0].all()
    for name, value in zip(("deter", "stoch"), agent.unpack(before["deter"], before["stoch"]), strict=True):
        assert torch.equal(batch[name], value[:, 0]) and not batch[name].requires_grad
    names = {"vector", "rew", "is_first", "is_last", "is_terminal", "prev_act", "deter", "stoch"}
    assert batch.keys() == names


def test_five_rows_by_hand(small):
    """The stream is exactly one sample: a whole episode, and two rows of the next."""
    agent = make_agent(small(**{"replay.batch": 2, "replay.length": 6}))
    replay = ReplayBuffer(100, DISCRETE.fields() | agent.replay_fields(), 1, seed=0)
    for act, rew, first, last in (
        *((3, 0, True, False), (1, 10, False, False), (4, 20, False, False), (2, 30, False, False)),
        *((0, 40, False, True), (2, 0, True, False), (1, 60, False, False)),
    ):
        row = {"act": act, "rew": rew, "is_first": first, "is_last": last, "is_terminal": last}
        row = {name: np.array([value]) for name, value in row.items()}
        replay.add(row | {"vector": np.full((1, 2), rew, np.float32)} | agent.unknown(1))
    batch, ids = sample(replay, agent)
    expected = torch.nn.functional.one_hot(torch.tensor([3, 1, 4, 2, 0, 2]), 5).float()
    for row in range(2):
        later = torch.arange(6) != 4  # what stands in a first row is cut by `observe`
        assert torch.equal(batch["prev_act"][row][later], expected[later])
        assert batch["rew"][row].tolist() == [10, 20, 30, 40, 0, 60]
        assert batch["is_terminal"][row].tolist() == [False, False, False, True, False, False]
        assert batch["is_first"][row].tolist() == [False, False, False, False, True, False]
        assert ids[row].tolist() == [1, 2, 3, 4, 5, 6]


# --- fresh windows


def test_every_fresh_window_is_trained_on_once_and_in_order(small):
    """Rows 1 + 65 k to 65 + 65 k, the first of them context; then uniform draws."""
    agent = make_agent(small(**{"replay.batch": 3, "replay.length": 64}))
    replay = fill(agent, 5 * 65 + 20, online=65)
    starts = [ids[:, 0].tolist() for _, ids in (sample(replay, agent) for _ in range(3))]
    assert starts[0] == [2, 67, 132] and starts[1][:2] == [197, 262]
    later = [start for _, ids in (sample(replay, agent) for _ in range(20)) for start in ids[:, 0].tolist()]
    assert len({*later}) > 40 and 1 <= min(later) <= max(later) <= 282  # a queue that began anew would have 5


def test_without_the_queue_all_draws_are_uniform(small):
    agent = make_agent(small(**{"replay.batch": 2_000, "replay.length": 8}))
    _, ids = sample(fill(agent, 60), agent)
    counts = np.bincount(ids[:, 0], minlength=60)
    assert not counts[0] and not counts[53:].any() and counts[1:53].min() > 10  # each about 38 times


# --- latents


def test_latents_are_packed_and_come_back(small):
    agent = make_agent(small())
    post = agent.model.rssm.imagine(agent.model.rssm.initial(50), torch.randn(50, 5))
    packed = agent.pack(post)
    assert packed["deter"].dtype == np.uint16 and packed["stoch"].dtype == np.uint8
    assert packed["deter"].shape == (50, 16) and packed["stoch"].shape == (50, 3)
    deter, stoch = agent.unpack(**packed)
    assert torch.equal(stoch, post.stoch) and stoch.dtype == deter.dtype == torch.float32
    assert torch.equal(deter, post.deter.bfloat16().float())
    again = agent.pack(post._replace(deter=deter, stoch=stoch))
    assert all(np.array_equal(again[name], packed[name]) for name in packed)


def test_rows_that_nobody_computed_start_from_zeros(small):
    agent = make_agent(small())
    unknown = agent.unknown(4)
    assert (unknown["stoch"] == UNKNOWN).all()
    assert not any(part.any() for part in agent.unpack(**unknown))
    assert agent.replay_fields().keys() == unknown.keys() == {"deter", "stoch"}


@pytest.mark.parametrize("spaces", [DISCRETE, CONTINUOUS])
def test_an_update_writes_its_latents_under_the_rows_they_belong_to(small, spaces):
    """Fresh windows never overlap, so every row has one posterior."""
    agent = make_agent(small(**{"replay.batch": 3, "replay.length": 20}), spaces)
    replay, learner = fill(agent, 80, online=21), Learner(agent)
    batch, ids = sample(replay, agent)
    before = replay.gather(np.arange(80))
    found, losses = [], learner.losses
    learner.losses = lambda batch: found.append(losses(batch)) or found[0]
    _, latents = learner.update(batch)
    _, post, _ = found[0]
    replay.update(ids, {name: part.numpy() for name, part in latents.items()})
    stored = replay.gather(ids)
    index = post.stoch.unflatten(-1, (3, 4)).argmax(-1)
    np.testing.assert_array_equal(stored["stoch"], index.numpy())
    deter, _ = agent.unpack(stored["deter"], stored["stoch"])
    torch.testing.assert_close(deter, post.deter.detach(), rtol=2**-8, atol=1e-6)
    after, others = replay.gather(np.arange(80)), np.setdiff1d(np.arange(80), ids)
    assert len(others) == 20
    for name in before:  # nothing else has changed
        rows = others if name in ("deter", "stoch") else np.arange(80)
        np.testing.assert_array_equal(before[name][rows], after[name][rows])
    assert (before["deter"][ids] != after["deter"][ids]).any(-1).all()


def test_the_next_sample_starts_from_what_was_written(small):
    agent = make_agent(small(**{"replay.batch": 4, "replay.length": 10}))
    replay = fill(agent, 60)
    fresh = latents(np.random.default_rng(7), 60)
    replay.update(np.arange(60), fresh)
    batch, ids = sample(replay, agent)
    deter, stoch = agent.unpack(*(fresh[name][ids[:, 0] - 1] for name in ("deter", "stoch")))
    assert torch.equal(batch["deter"], deter) and torch.equal(batch["stoch"], stoch)


def test_what_is_not_finite_is_not_stored(small):
    agent = make_agent(small())
    state = agent.model.rssm.initial(2)
    state.deter[0] = float("nan")
    deter, stoch = agent.unpack(**agent.pack(state))
    assert deter.isfinite().all() and stoch.isfinite().all()


# --- the ratio


def test_a_thousand_decisions_are_500_updates_at_ratio_512():
    cfg = PRESETS["paper"]
    assert cfg.train_ratio == 512 and cfg.replay.batch * cfg.replay.length == 1024
    updates = [schedule(cfg, step, 0) for step in range(5_000)]
    assert updates[1_023] == 0 and updates[1_024] == 1  # the first batch of rows is one update
    for start in (1_024, 2_000, 3_999):
        assert abs(updates[start + 1_000] - updates[start] - 500) <= 1
    assert set(np.diff(updates).tolist()) == {0, 1}


@pytest.mark.parametrize("ratio, per_step", [(32, 1 / 32), (1024, 1.0), (3000, 3000 / 1024)])
def test_fractions_of_updates_carry_over(small, ratio, per_step):
    more = {"train_ratio": float(ratio), "replay.batch": 16, "replay.length": 64}
    counts = [schedule(small(**more), step, 0) for step in (2_000, 12_000)]
    assert counts[1] - counts[0] == pytest.approx(10_000 * per_step, abs=1)


def test_with_many_envs_each_has_a_sequence_before_the_first_update(small):
    more = {"num_envs": 16, "replay.batch": 4, "replay.length": 64}
    assert [schedule(small(**more), step, 0) for step in (16 * 65 - 1, 16 * 65)] == [0, 1]


def test_random_play_comes_before_the_ratio_counts(small):
    """Else hundreds of updates would fall due at once when it ends."""
    more = {"train_ratio": 64.0, "replay.batch": 8, "replay.length": 16}
    assert [schedule(small(**more), step, 500) for step in (499, 500, 502, 504)] == [0, 1, 2, 3]
