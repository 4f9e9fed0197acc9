"""Env processes: the same course as in one process; a killed, raising or hanging worker costs one episode."""

import logging
import os
import signal
import sys
import time
from functools import partial

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from common.env_wrapper import make_env, make_vector_env
from common.envs.workers import WorkerVectorEnv
from common.errors import UserError

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a worker cannot import a test file


class Fragile(gym.Env):
    """Counts its steps; fails in the way that `fail` names at step `at`, but only in the first process."""

    observation_space = gym.spaces.Dict({"vector": gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)})
    action_space = gym.spaces.Discrete(2)
    render_mode = "rgb_array"

    def __init__(self, fail="", at=3, mark=""):
        self.fail, self.at, self.mark, self.steps = fail, at, mark, 0
        if fail == "start":
            raise UserError("this env needs a licence: type one in")

    def _obs(self):
        return {"vector": np.float32([self.steps, self.start])}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.start = 0, int(self.np_random.integers(1000))
        if self.fail == "reset" and not os.path.exists(self.mark):
            open(self.mark, "w").close()
            raise ValueError("no world today")
        return self._obs(), {}

    def step(self, action):
        self.steps += 1
        if self.fail in ("raise", "hang") and self.steps == self.at and not os.path.exists(self.mark):
            open(self.mark, "w").close()
            if self.fail == "raise":
                raise ValueError("the engine lost its mind")
            time.sleep(60)
        if self.fail == "always":
            raise ValueError("never works")
        return self._obs(), 1.0, False, self.steps == 10, {"step": self.steps}

    def render(self):
        return np.zeros((4, 4, 3), np.uint8)


def workers(*options, **kwargs) -> WorkerVectorEnv:
    return WorkerVectorEnv([partial(Fragile, **o) for o in options], **kwargs)


def test_processes_take_the_same_course_as_one_process():
    one, many = (make_vector_env("CartPole-v1", 2, backend=b, time_limit=12) for b in ("sync", "async"))
    assert isinstance(many, WorkerVectorEnv) and many.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    assert many.observation_space == one.observation_space and many.action_space == one.action_space
    a, b = one.reset(seed=3)[0], many.reset(seed=3)[0]
    rng, ends = np.random.default_rng(0), 0
    for _ in range(40):
        assert np.array_equal(a["vector"], b["vector"])
        actions = rng.integers(2, size=2)
        a, *ours, _ = one.step(actions)
        b, *theirs, _ = many.step(actions)
        assert all(np.array_equal(x, y) for x, y in zip(ours, theirs, strict=True))
        ends += int((ours[1] | ours[2]).sum())
    assert ends >= 4
    assert [frame.shape for frame in many.render()] == [(400, 600, 3)] * 2
    one.close(), many.close()


def test_a_killed_worker_costs_one_episode(caplog):
    env = workers({}, {})
    env.reset(seed=0)
    before = env.step([0, 0])[0]["vector"]
    old = env.pids
    os.kill(old[1], signal.SIGKILL)  # our own child
    with caplog.at_level(logging.WARNING):
        obs, rew, terminated, truncated, infos = env.step([0, 0])
    assert "env worker 1 restarted (1 of 10)" in caplog.text
    assert env.pids[0] == old[0] and env.pids[1] != old[1]
    assert list(truncated) == [False, True] and not terminated.any() and list(rew) == [1, 0]
    assert np.array_equal(obs["vector"][1], before[1]) and obs["vector"][0, 0] == 2  # the other went on
    assert list(infos["worker_restarted"]) == [False, True]
    obs, rew, _, truncated, _ = env.step([0, 0])  # NEXT_STEP: the new env's first observation
    assert obs["vector"][1, 0] == 0 and rew[1] == 0 and not truncated.any()
    assert env.step([0, 0])[0]["vector"][1, 0] == 1
    first = obs["vector"][1, 1]
    env.close()
    again = workers({}, {})  # a run that is seeded alike and loses the same worker goes on alike
    again.reset(seed=0), again.step([0, 0])
    os.kill(again.pids[1], signal.SIGKILL)
    again.step([0, 0])
    assert again.step([0, 0])[0]["vector"][1, 1] == first
    again.close()


@pytest.mark.parametrize("fail, timeout", [("raise", 60.0), ("hang", 2.0)])
def test_a_raising_or_hanging_worker_costs_one_episode(tmp_path, caplog, fail, timeout):
    env = workers({}, {"fail": fail, "mark": str(tmp_path / "failed")}, timeout=timeout)
    env.reset(seed=0)
    ends = [env.step([0, 0])[3].tolist() for _ in range(3)]
    assert ends == [[False, False], [False, False], [False, True]] and env.restarts == 1
    assert ("the engine lost its mind" if fail == "raise" else "no answer within 2 s") in caplog.text
    for _ in range(6):
        _, _, _, truncated, _ = env.step([0, 0])
        assert not truncated.any()
    env.close()


def test_a_crash_in_reset_is_tried_again(tmp_path):
    env = workers({"fail": "reset", "mark": str(tmp_path / "failed")})
    obs, _ = env.reset(seed=0)
    assert obs["vector"][0, 0] == 0 and env.restarts == 1
    env.close()


def test_restarts_are_bounded_and_end_with_the_workers_words():
    env = workers({"fail": "always"}, max_restarts=2)
    env.reset(seed=0)
    with pytest.raises(UserError, match="crashed 3 times") as caught:
        for _ in range(10):
            env.step([0])
    assert "never works" in str(caught.value) and "\n" not in str(caught.value)
    assert env.restarts == 3 and env.closed


def test_an_env_that_cannot_start_says_why_at_once():
    with pytest.raises(UserError, match="^this env needs a licence: type one in$"):
        workers({"fail": "start"})


def test_workers_end_with_close():
    env = workers({}, {})
    pids, start = env.pids, time.monotonic()
    env.close()
    assert time.monotonic() - start < 4  # they went when asked; nobody had to be killed
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_dmc_pixels_run_in_processes():
    from common.envs import headless

    if problem := headless.mujoco_problem():
        pytest.skip(f"EGL is missing: {problem}")
    env = make_vector_env("dmc_cartpole_balance", 2)  # auto: full-quality pixels are slow
    assert isinstance(env, WorkerVectorEnv)
    obs, _ = env.reset(seed=4)  # this process has drawn before, in other tests: spawn, so nothing hangs
    alone = make_env("dmc_cartpole_balance").reset(seed=5)[0]
    assert np.array_equal(obs["image"][1], alone["image"])
    env.close()
