"""The dreamed vector env: Gymnasium's rules, autoreset, seeds, and rollouts as a replay stores them."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from torch import nn

from common.spaces import Spaces
from paper5_iris.imagination import Imagination
from paper5_iris.sample import DreamEnv, rollout
from paper5_iris.tokenizer import to_frames

NUMBERS = Spaces({"image": (8, 8, 3)}, 2, False)


@pytest.fixture
def make_env(networks):
    """make_env(num, end=0.5): large random weights; an end has this probability, whatever happens."""

    def make(num: int = 3, end: float | None = None, limit: int = 1_000, **more) -> DreamEnv:
        net = networks(**more)
        for part in (net.world, net.tokenizer.quantizer, net.tokenizer.pre):
            for p in part.parameters():
                nn.init.normal_(p, std=0.4)
        if end is not None:
            nn.init.zeros_(net.world.end_head[2].weight)
            net.world.end_head[2].bias.data = torch.tensor([1 - end, end]).clamp(min=1e-30).log()
        starts = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
        return DreamEnv(Imagination(net.tokenizer, net.world), starts, net.spaces, num, limit)

    return make


@pytest.mark.parametrize("spaces", [None, NUMBERS])
def test_observations_actions_and_types_are_as_declared(make_env, spaces):
    env = make_env(end=0.4, **({"spaces": spaces} if spaces else {}))
    assert env.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP and env.num_envs == 3
    single, batched = env.single_observation_space, env.observation_space
    assert single["image"].shape == (8, 8, 3) and batched["image"].shape == (3, 8, 8, 3)
    env.action_space.seed(0)
    obs, info = env.reset(seed=1)
    assert obs in batched and info["tokens"].shape == (3, 4)
    for _ in range(12):
        obs, rew, terminated, truncated, info = env.step(env.action_space.sample())
        assert obs in batched and info["tokens"].shape == (3, 4)
        assert rew.shape == terminated.shape == truncated.shape == (3,)
        assert rew.dtype == np.float64 and terminated.dtype == truncated.dtype == bool
        assert set(rew) <= {-1.0, 0.0, 1.0} and not (terminated & truncated).any()
        assert (env.render()[1] == obs["image"][1]).all()
    env.close()


def test_games_that_are_over_begin_anew_in_the_next_step(make_env):
    env = make_env(num=4, end=0.4)
    tokens = env.world.tokenizer.tokenize(to_frames(torch.from_numpy(env.starts))).tolist()
    env.reset(seed=0)
    over, seen = np.zeros(4, bool), 0
    for _ in range(25):
        _, rew, terminated, truncated, info = env.step(np.zeros(4, int))
        began = np.isnan(info["end_prob"])
        assert (began == over).all() and not truncated.any()
        assert not rew[began].any() and not terminated[began].any()
        assert all(info["tokens"][i].tolist() in tokens for i in np.flatnonzero(began))
        seen, over = seen + began.sum(), terminated
    assert 10 < seen < 60
    assert info["end_prob"][~began] == pytest.approx(0.4)


def test_the_others_go_on_from_their_newest_frame(make_env):
    env = make_env(num=2, end=0.0)
    env.reset(seed=0)
    env.step(np.zeros(2, int))
    env.is_over[0] = True
    *_, info = env.step(np.array([2, 1]))
    assert np.isnan(info["end_prob"][0]) and not np.isnan(info["end_prob"][1])
    assert (env.world.tokens.numpy() == info["tokens"]).all() and env.world.past.length == 4
    assert env.age.tolist() == [0, 2]


def test_a_limit_truncates(make_env):
    env = make_env(end=0.0, limit=3)
    env.reset(seed=0)
    cut = [env.step(np.zeros(3, int))[3].tolist() for _ in range(7)]
    no, yes = [False] * 3, [True] * 3
    assert cut == [no, no, yes, no, no, no, yes]
    env = make_env(end=1.0, limit=1)
    env.reset(seed=0)
    _, _, terminated, truncated, _ = env.step(np.zeros(3, int))
    assert terminated.all() and not truncated.any()  # an end at the limit is an end


def test_seeds(make_env):
    def play(env: DreamEnv, seed) -> np.ndarray:
        env.reset(seed=seed)
        return np.stack([env.step(np.zeros(3, int))[4]["tokens"] for _ in range(8)])

    env = make_env(end=0.3)
    first = play(env, 5)
    assert (play(env, 5) == first).all() and (play(make_env(end=0.3), 5) == first).all()
    assert (play(env, [5, 6, 7]) == first).all() and (play(env, 6) != first).any()
    assert (play(env, None) != play(env, None)).any()
    env.starts = env.starts[:1]  # not the beginnings alone differ
    assert (play(env, 5) != play(env, 6)).any() and (play(env, 5) == play(env, 5)).all()


def test_gymnasiums_wrappers_take_it(make_env):
    env = gym.wrappers.vector.RecordEpisodeStatistics(make_env(end=0.4))
    env.reset(seed=0)
    found = [env.step(np.zeros(3, int))[4] for _ in range(20)]
    assert any("episode" in info for info in found)


def test_rollouts_are_rows_of_a_replay(make_env):
    env = make_env(end=0.4, limit=2)
    rng = np.random.default_rng(0)
    rows = rollout(env, lambda obs: rng.integers(1, 3, 3), 15, seed=3)
    assert rows["image"].shape == (3, 16, 8, 8, 3) and rows["tokens"].shape == (3, 16, 4)
    first, last, terminal = rows["is_first"], rows["is_last"], rows["is_terminal"]
    assert first[:, 0].all() and last[:, -1].all() and (first[:, 1:] == last[:, :-1]).all()
    assert not rows["act"][last].any() and (rows["act"][~last] > 0).all()
    assert not rows["rew"][first].any() and rows["rew"][~first].any()
    assert (
        terminal[:, :-1].any() and (last[:, :-1] & ~terminal[:, :-1]).any() and not (terminal & ~last).any()
    )
    pictures = env.world.tokenizer.decode_tokens(torch.from_numpy(rows["tokens"]).flatten(0, 1))
    assert (np.abs(pictures.permute(0, 2, 3, 1).numpy() * 255 - rows["image"].reshape(-1, 8, 8, 3)) < 1).all()
