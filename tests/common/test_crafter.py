"""Crafter: a course that follows from the seed, achievements, death against the time limit, the score."""

import numpy as np
import pytest

from common.env_wrapper import make_env
from common.envs.crafter import crafter_score


@pytest.fixture(scope="module")
def env():
    env = make_env("crafter_reward", limit=30)
    yield env
    env.close()


def test_creatures_are_picked_in_the_order_of_their_creation(env):
    env.reset(seed=3)
    world = env.unwrapped._env._world
    for chunk in world.chunks.values():  # the package's own are sets: their order hangs on memory addresses
        ages = [world._obj_map[tuple(creature.pos)] for creature in chunk]
        assert ages == sorted(ages)
    assert sum(map(len, world.chunks.values())) == len(world.objects) > 5


def test_the_time_limit_truncates_and_achievements_are_counted(env):
    env.reset(seed=3)
    total = 0.0
    for step in range(1, 31):
        _, rew, terminated, truncated, info = env.step(5 if step % 2 else 1)  # 5: do
        total += rew
        assert (terminated, truncated) == (False, step == 30)
    assert len(info["achievements"]) == 22
    unlocked = sum(count > 0 for count in info["achievements"].values())
    assert unlocked <= total + 1.0  # one per achievement, and health in tenths
    silent = make_env("crafter_noreward", limit=30)
    silent.reset(seed=3)
    assert all(silent.step(5 if step % 2 else 1)[1] == 0 for step in range(1, 31))


def test_death_terminates(env):
    env.reset(seed=4)
    env.unwrapped._env._player.health = 0
    assert env.step(0)[2:4] == (True, False)


def test_the_score_is_a_geometric_mean():
    assert crafter_score(np.zeros(22)) == 0
    assert crafter_score(np.full(22, 100.0)) == pytest.approx(100)
    assert crafter_score([0.0, 99.0]) == pytest.approx(9.0)  # sqrt(1 * 100) - 1
