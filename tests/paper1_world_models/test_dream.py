"""The dream: ends, temperature, the lockstep core and the VectorEnv, the agent's own dreams."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from common.errors import UserError
from paper1_world_models.config import ControllerConfig, DreamConfig, RNNConfig
from paper1_world_models.controller import ActionCodec, Controller
from paper1_world_models.dream import DreamEnv, Dreams, Starts, dream_returns, evolved_policy
from paper1_world_models.rnn import MDNRNN

CODEC = ActionCodec("thirds", 1)


def rnn_with(done_logit: float | None, reward: bool = False) -> MDNRNN:
    torch.manual_seed(0)
    rnn = MDNRNN(RNNConfig(hidden=8, done_head=done_logit is not None, reward_head=reward), 4, 1)
    if done_logit is not None:
        with torch.no_grad():
            rnn.head.weight[-1], rnn.head.bias[-1] = 0.0, done_logit
    return rnn


def dreams(rnn, seed=0, **cfg) -> Dreams:
    starts = Starts(torch.arange(12.0).reshape(3, 4), torch.full((3, 4), -30.0))
    cfg = DreamConfig(**{"max_steps": 50, "temperature": 1.0, **cfg})
    return Dreams(rnn, starts, cfg, torch.Generator().manual_seed(seed))


def still(rows, world, t):
    return torch.zeros(len(rows), 1)


def test_dreams_begin_with_stored_first_frames():
    world = dreams(rnn_with(None))
    world.reset(torch.tensor([2, 0]))
    torch.testing.assert_close(world.z, torch.tensor([[8.0, 9, 10, 11], [0, 1, 2, 3]]), atol=1e-4, rtol=0)
    assert world.h.abs().max() == 0 and world.first.all()


@pytest.mark.parametrize("logit, length", [(0.0, 50), (0.1, 1), (-0.1, 50)])
def test_the_cutoff_ends_above_one_half_only(logit, length):
    world = dreams(rnn_with(logit), done="cutoff")
    assert dream_returns(world, still, torch.zeros(5, dtype=torch.long)).tolist() == [length] * 5


def test_drawn_ends_have_the_models_probability():
    p = 0.2
    world = dreams(rnn_with(float(np.log(p / (1 - p)))), done="bernoulli", max_steps=500)
    lengths = dream_returns(world, still, torch.zeros(4000, dtype=torch.long))
    assert lengths.mean() == pytest.approx(1 / p, abs=3 * np.sqrt((1 - p) / p**2 / 4000))


def test_rewards_count_frames_or_come_from_the_head():
    world = dreams(rnn_with(None), step_reward=4.0, max_steps=7)
    assert dream_returns(world, still, torch.zeros(2, dtype=torch.long)).tolist() == [28.0, 28.0]
    rnn = rnn_with(None, reward=True)
    with torch.no_grad():
        rnn.head.weight[-1], rnn.head.bias[-1] = 0.0, 0.5
    world = dreams(rnn, reward="head", max_steps=7)
    assert dream_returns(world, still, torch.zeros(2, dtype=torch.long)).tolist() == [3.5, 3.5]
    with pytest.raises(UserError, match="reward-head"):
        dreams(rnn_with(None), reward="head")


def test_temperature_zero_is_deterministic_and_hot_dreams_spread():
    def last_z(tau):
        world = dreams(rnn_with(None), temperature=tau, max_steps=5)
        dream_returns(world, still, torch.zeros(64, dtype=torch.long))
        return world.z

    assert last_z(1e-9).std(0).max() < 1e-3
    assert last_z(2.0).std(0).min() > last_z(0.3).std(0).max()


def test_candidates_differ_only_by_their_vectors():
    rnn, controller = rnn_with(-2.0), Controller(ControllerConfig(), 4, 8, CODEC)
    params = torch.randn(2, controller.size, generator=torch.Generator().manual_seed(3)) * 3
    seen = []

    class Spy:
        def act_many(self, p, feature):
            seen.append((p, controller.act_many(p, feature)))
            return seen[-1][1]

        feature = staticmethod(controller.feature)

    candidate = torch.tensor([0, 0, 1, 1])
    dream_returns(dreams(rnn), evolved_policy(Spy(), params, candidate), torch.tensor([0, 1, 0, 1]))
    assert torch.equal(seen[0][0], params[candidate])


def test_the_vector_env_keeps_gymnasiums_rules():
    controller = Controller(ControllerConfig(), 4, 8, CODEC)
    starts = Starts(torch.randn(3, 4), torch.zeros(3, 4))
    env = DreamEnv(
        6, rnn_with(-1.0), controller, starts, DreamConfig(max_steps=9, done="bernoulli"), spaces.Discrete(3)
    )
    obs, _ = env.reset(seed=1)
    assert obs.shape == (6, 12) and env.observation_space.contains(obs)
    again, _ = env.reset(seed=1)
    np.testing.assert_array_equal(obs, again)
    lengths, age, was_done = [], np.zeros(6, int), np.zeros(6, bool)
    env.action_space.seed(0)
    for _ in range(60):
        obs, rew, terminated, truncated, _ = env.step(env.action_space.sample())
        assert (rew[was_done] == 0).all() and (
            rew[~was_done] == 1
        ).all()  # NEXT_STEP: an ended dream restarts
        assert not (terminated & truncated).any()
        assert (obs[was_done][:, 4:] == 0).all()  # with a zero state
        age = np.where(was_done, 0, age + 1)
        was_done = terminated | truncated
        lengths += age[was_done].tolist()
        assert (age[truncated] == 9).all()
    assert lengths and max(lengths) <= 9
