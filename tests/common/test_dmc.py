"""DeepMind Control: names, one kept renderer that draws what dm_control draws, repeats, seeds, no EGL."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common.env_wrapper import check_name, make_env
from common.envs import dmc, headless
from common.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def egl():
    """Only where MuJoCo can draw."""
    if problem := headless.mujoco_problem():
        pytest.skip(f"EGL is missing: {problem}")


def test_the_table_of_tasks_is_dm_controls():
    from dm_control import suite

    assert {(d, t) for d, tasks in dmc.TASKS.items() for t in tasks.split()} == set(suite.ALL_TASKS)
    for name in dmc.names():
        check_name(name)


@pytest.mark.parametrize("name", ["dmc_walker_walk", "dmc_quadruped_walk", "dmc_reacher_easy"])
def test_full_quality_is_exactly_dm_controls_picture(egl, name):
    env = make_env(name, size=64)
    core = env.unwrapped
    for seed in range(2):
        obs, _ = env.reset(seed=seed)
        for _ in range(3):
            theirs = core._env.physics.render(64, 64, camera_id=2 if "quadruped" in name else 0)
            assert np.array_equal(obs["image"], theirs)
            obs = env.step(env.action_space.sample())[0]
    env.close()


def test_fast_quality_is_close_and_the_renderer_is_kept(egl):
    full, fast = make_env("dmc_walker_walk"), make_env("dmc_walker_walk", render_quality="fast")
    a, b = full.reset(seed=0)[0]["image"], fast.reset(seed=0)[0]["image"]
    difference = np.abs(a.astype(int) - b).mean()
    assert 2.5 < difference < 12  # 3.7 measured: no shadow, but the same scene
    renderers = dict(fast.unwrapped._renderers)
    for _ in range(3):
        fast.step(fast.action_space.sample())
    fast.reset()
    assert fast.unwrapped._renderers == renderers and len(renderers) == 1
    assert fast.render().shape == (240, 240, 3)  # a second, larger one for videos
    assert np.array_equal(fast.reset(seed=0)[0]["image"], b)  # which leaves the observation alone
    full.close(), fast.close()


def test_camera_and_size_are_options(egl):
    images = [make_env("dmc_walker_walk", camera=c, size=32).reset(seed=0)[0]["image"] for c in (0, 1)]
    assert images[0].shape == (32, 32, 3) and not np.array_equal(*images)


def test_rewards_are_summed_over_the_repeat():
    once, four = (make_env("dmc_cheetah_run", obs="vector", action_repeat=n) for n in (1, 4))
    a, b = once.reset(seed=3)[0], four.reset(seed=3)[0]
    assert all(np.array_equal(a[key], b[key]) for key in a)
    for _ in range(5):
        action = np.full(6, 0.7, np.float32)
        total = sum(once.step(action)[1] for _ in range(3))
        a, rew, *_ = once.step(action)
        b, summed, *_ = four.step(action)
        assert summed == pytest.approx(total + rew) and summed > 0
        assert all(np.allclose(a[key], b[key]) for key in a)


def test_an_episode_is_1000_frames_and_ends_by_truncation():
    env = make_env("dmc_pendulum_swingup", obs="vector", action_repeat=8)
    env.reset(seed=0)
    ends = [env.step(np.zeros(1, np.float32))[2:4] for _ in range(125)]
    assert ends == [(False, False)] * 124 + [(False, True)]


def test_seeds_repeat_and_differ():
    env, other = (
        make_env("dmc_cartpole_swingup", obs="vector"),
        make_env("dmc_cartpole_swingup", obs="vector"),
    )

    def first(env, seed=None):
        return env.reset(seed=seed)[0]["vector_position"].tolist()

    episodes = [first(env, 5), first(env), first(env)]
    assert [first(other, 5), first(other), first(other)] == episodes
    assert len({tuple(e) for e in episodes}) == 3 and first(env, 6) != episodes[0]
    unseeded = [make_env("dmc_cartpole_swingup", obs="vector") for _ in range(2)]
    assert first(unseeded[0]) != first(unseeded[1])


def test_bounds_that_are_not_symmetric_are_scaled():
    env = make_env("dmc_quadruped_walk", obs="vector")  # native range -1 .. 1.1
    assert np.all(env.action_space.high == 1) and env.unwrapped.action_space.high.max() > 1.05
    assert env.action(np.ones(12, np.float32)).max() == pytest.approx(env.unwrapped.action_space.high.max())


@pytest.mark.parametrize("chosen", [{}, {"MUJOCO_GL": "egl"}])
def test_a_machine_without_egl_can_still_step_vectors(chosen):
    code = """
from common.envs import headless
headless._loads = lambda library: False  # as if neither libEGL nor libGL were installed
import os
from common.env_wrapper import make_env
from common.errors import UserError
assert os.environ["MUJOCO_GL"] == "disable"
env = make_env("dmc_cartpole_balance", obs="vector")
env.reset(seed=0)
env.step(env.action_space.sample())
for asked in (lambda: make_env("dmc_cartpole_balance"), env.render):
    try:
        asked()
    except UserError as error:
        print(error)
"""
    environ = {
        k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY")
    } | chosen
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert "EGL needs libEGL.so.1" in line and headless.APT in line and "vector" in line


def test_the_probe_is_made_once(monkeypatch):
    headless.mujoco_problem.cache_clear()
    calls = []
    monkeypatch.setattr(headless, "missing_library", lambda: calls.append(1) or "libEGL.so.1")
    monkeypatch.setenv("MUJOCO_GL", "egl")
    for _ in range(3):
        with pytest.raises(UserError, match="apt-get install .* libegl1 libgl1"):
            headless.require_mujoco_drawing("dmc_walker_walk")
    assert len(calls) == 2  # asked for the condition and for the text, in the first call alone
    headless.mujoco_problem.cache_clear()


def test_what_the_user_has_set_is_left_alone(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    monkeypatch.setenv("SDL_VIDEODRIVER", "x11")
    headless.set_defaults()
    assert (os.environ["MUJOCO_GL"], os.environ["SDL_VIDEODRIVER"]) == ("osmesa", "x11")
    monkeypatch.delenv("SDL_VIDEODRIVER")
    monkeypatch.setenv("DISPLAY", ":0")
    headless.set_defaults()
    assert "SDL_VIDEODRIVER" not in os.environ
