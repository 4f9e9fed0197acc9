"""One batch of random CartPole can be learned by heart, at the speed that was measured (11.11)."""

import functools

import gymnasium as gym
import numpy as np
import pytest
import torch

from common.collector import Collector
from common.config import override
from common.env_wrapper import EnvSpec
from common.replay_buffer import ReplayBuffer
from common.seeding import seed_everything
from common.spaces import Spaces
from paper4_dreamerv3.agent import DreamerV3Agent
from paper4_dreamerv3.presets import PRESETS
from paper4_dreamerv3.sampler import sample
from paper4_dreamerv3.train import Learner

MORE = {"env": "CartPole-v1", "replay.batch": 4, "replay.length": 16, "actor.entropy": 3e-4}


@functools.cache
def learn(updates: int) -> list[dict[str, float]]:
    """All metrics of every update on one batch of random play."""
    seed_everything(0)
    cfg, spec = override(PRESETS["tiny"], MORE), EnvSpec("CartPole-v1", {})
    envs = spec.make_vector(1, "train")
    spaces, rng = Spaces.of(envs), np.random.default_rng(0)
    agent = DreamerV3Agent(cfg, spec, spaces)
    replay = ReplayBuffer(1_000, spaces.fields() | agent.replay_fields(), 1, seed=0)
    collector = Collector(envs, replay, 1, seed=0)
    collector.begin(0)
    for _ in range(300):
        collector.step(lambda obs: (spaces.random(rng, 1), agent.unknown(1)))
    envs.close()
    assert isinstance(envs.single_action_space, gym.spaces.Discrete)
    batch, _ = sample(replay, agent)
    assert batch["is_terminal"].any() and not batch["is_first"].all()
    learner, curve = Learner(agent), []
    for _ in range(updates + 1):
        metrics, _ = learner.update(batch)
        curve.append({name: torch.as_tensor(value).item() for name, value in metrics.items()})
    return curve


def test_a_fresh_agent_expects_nothing():
    first = learn(200)[0]
    assert first["loss/rew"] == pytest.approx(5.5412635, abs=1e-5)  # ln 255
    assert first["imag/return"] == first["imag/value"] == first["imag/reward"] == 0
    assert first["policy_entropy"] == pytest.approx(0.6931, abs=1e-4)  # ln 2
    # Twice ln 255, but for rows that end an episode; in dreams times products of continues near a half.
    assert 9 < first["loss/replay_value"] < 11.083 and 0.3 < first["loss/value"] < 2
    assert 0.5 < first["loss/cont"] < 1.2 and 1 < first["loss/vector"] < 5 and first["return_range"] == 1


def test_one_batch_is_learned_by_heart():
    curve = learn(200)
    last = {name: np.mean([row[name] for row in curve[196:]]) for name in curve[0]}
    assert last["loss/vector"] < 0.1
    assert 0.6 < last["loss/rew"] < 0.9  # its floor is the entropy of the two-hot code of 1, 0.665
    assert 0.02 < last["loss/cont"] < 0.2  # and this one's that of the soft label, 0.0204
    assert last["loss/dyn"] < 1.2 and last["loss/rep"] == last["loss/dyn"]  # the free nat
    assert min(row["loss/dyn"] for row in curve) >= 1
