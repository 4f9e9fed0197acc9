"""One entrance to all suites: names, options, modes, specs, scores, vector envs, errors, the recipe."""

import dataclasses
import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from common import env_wrapper
from common.env_wrapper import (
    EnvSpec,
    check_name,
    frames_per_step,
    make_env,
    make_vector_env,
    resolve_name,
    scores,
    suite_of,
)
from common.envs import headless
from common.envs.option_values import check_values
from common.errors import UserError

ROOT = Path(__file__).parents[2]


# --- names ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, suite",
    [
        ("toy_dodge", "toy"),
        ("CartPole-v1", "gym"),
        ("my_module:Thing-v0", "gym"),
        ("CarRacing-v2", "box2d_car"),
        ("atari_ms_pacman", "atari"),
        ("ALE/MsPacman-v5", "atari"),
        ("dmc_ball_in_cup_catch", "dmc"),
        ("crafter_noreward", "crafter"),
        ("MiniGrid-Empty-5x5-v0", "minigrid"),
        ("minecraft_navigate", "minecraft"),
        ("voxel_navigate", "voxel"),
        ("doom_takecover", "doom"),
    ],
)
def test_suite_of(name, suite):
    assert suite_of(name) == suite


@pytest.mark.parametrize(
    "old, new",
    [
        ("CarRacing-v2", "CarRacing-v3"),
        ("BipedalWalker-v2", "BipedalWalker-v3"),
        ("LunarLander-v2", "LunarLander-v3"),
        ("PongNoFrameskip-v4", "atari_pong"),
        ("MsPacman-v0", "atari_ms_pacman"),
    ],
)
def test_retired_ids_map_to_their_successor(old, new):
    assert resolve_name(old) == (new, f"{old} is retired: using {new}")
    assert resolve_name(new) == (new, None)


def test_a_retired_id_is_announced_once(caplog):
    env_wrapper._announce.cache_clear()
    with caplog.at_level(logging.WARNING):
        make_env("Pendulum-v0").close()
        env = make_env("Pendulum-v0")
    assert [r.message for r in caplog.records] == ["Pendulum-v0 is retired: using Pendulum-v1"]
    assert env.unwrapped.spec.id == "Pendulum-v1"


@pytest.mark.parametrize(
    "name, hint",
    [
        ("toy_doge", "did you mean toy_dodge"),
        ("atari_pongg", "did you mean atari_pong"),
        ("ALE/Pongg-v5", "did you mean"),
        ("dmc_walker_wakl", "did you mean dmc_walker_walk"),
        ("doom_take_cover", "did you mean doom_takecover"),
        ("crafter_rewards", "did you mean crafter_reward"),
        ("minecraft_navigat", "did you mean minecraft_navigate"),
        ("MiniGrid-Empty-5x5-v7", "did you mean MiniGrid-Empty-"),
        ("CartPole-v9", "did you mean CartPole-v"),
        ("CarRacing-v99", "did you mean CarRacing-v3"),
        ("qqqq", "try toy_dodge"),
    ],
)
def test_an_unknown_env_is_one_line_with_a_hint(name, hint):
    with pytest.raises(UserError) as caught:
        check_name(name)
    text = str(caught.value)
    assert repr(name) in text and hint in text and "\n" not in text


def test_checking_names_is_quick_and_builds_nothing():
    names = [
        "atari_pong",
        "dmc_walker_walk",
        "doom_takecover",
        "minecraft_navigate",
        "voxel_navigate",
        "toy_dodge",
    ]
    code = f"""
import sys, time
start = time.process_time()
from common.env_wrapper import check_name
for name in {names}: check_name(name)
heavy = {{"torch", "dm_control", "mujoco", "vizdoom", "crafter", "minerl"}} & set(sys.modules)
assert not heavy, heavy
print(time.process_time() - start)
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) < 2.0


def test_missing_packages_are_named_with_their_install_command(monkeypatch):
    for name, module, pip in [
        ("doom_takecover", "vizdoom", "vizdoom"),
        ("atari_pong", "ale_py", "ale-py"),
        ("crafter_reward", "crafter", "crafter"),
        ("dmc_walker_walk", "dm_control", "dm-control"),
        ("MiniGrid-Empty-5x5-v0", "minigrid", "minigrid"),
    ]:
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)  # as if it were not installed
            patch.setattr(headless, "require_mujoco_drawing", lambda name: None)
            if module == "ale_py":
                from common.envs import atari

                atari._roms.cache_clear()
                patch.setitem(sys.modules, "ale_py.roms", None)
            with pytest.raises(UserError) as caught:
                make_env(name)
            assert str(caught.value) == f"{name} needs {pip}: pip install {pip}"


def test_minecraft_says_what_it_needs_and_what_comes_nearest():
    with pytest.raises(UserError) as caught:
        make_env("minecraft_navigate")
    for part in ("Java 8", "xvfb", "v0.4.4-patched", "voxel_navigate"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    check_name("voxel_navigate")


@pytest.mark.parametrize(
    "name, options, text",
    [
        ("doom_takecover", {"frameskip": 4}, "no option 'frameskip'; it takes frame_skip"),
        ("doom_takecover", {"crop": "top"}, "crop='top' is not possible: choose room or paper"),
        ("doom_takecover", {"obs": "vector"}, "only pixels"),
        ("toy_dodge", {"gapp": 3}, "no option 'gapp'; it takes size, gap"),
        ("CartPole-v1", {"mode": "test"}, "mode is train or eval"),
        ("CartPole-v1", {"obs": "image"}, "obs is one of auto, vector"),
        ("CartPole-v1", {"frame_skip": 4}, "CartPole-v1 does not take these options"),
        ("MiniGrid-Empty-5x5-v0", {"view": "top"}, "partial or full"),
        ("nosuch_module:Env-v0", {}, "module 'nosuch_module' cannot be imported"),
        ("toy_dodge", {"gap": "abc"}, "option gap is a number, not 'abc'"),
        ("toy_dodge", {"gap": 9999}, "option gap 9999: must be from 10 to 64"),
        ("toy_catch", {"grid": "abc"}, "option grid is a whole number, not 'abc'"),
        ("CartPole-v1", {"size": "abc"}, "option size is a whole number"),
        ("dmc_walker_walk", {"action_repeat": 0}, "option action_repeat 0: must be from 1"),
        ("doom_takecover", {"skill": 9}, "option skill 9: must be from 1 to 5"),
        ("atari_pong", {"sticky": 7}, "option sticky 7: must be from 0 to 1"),
        ("atari_pong", {"gray": 3}, "option gray is like False, not 3"),
        ("atari_pong", {"resize": "nearest"}, "choose one of area, bilinear"),
        ("dmc_walker_walk", {"camera": "top"}, "option camera is a whole number"),
        ("doom_takecover", {"frame_skip": 2.5}, "option frame_skip is a whole number"),
        ("MiniGrid-Empty-5x5-v0", {"actions": 0}, "option actions 0: must be from 1 to 7"),
    ],
)
def test_bad_options_are_one_line(name, options, text):
    with pytest.raises(UserError, match=re.escape(text)):
        make_env(name, options.pop("mode", "train"), **options)


def test_what_is_passed_on_is_the_envs_own_affair():
    """An env of one's own may have a `skill` in words; and None stands where None is the default."""
    check_values("my:Env-v0", {"skill": "hard", "size": None, "view": "top"}, {"size": None, "view": None})
    check_values("toy_point", {"actions": "discrete"}, {"actions": "continuous"})  # numbers elsewhere


# --- modes, specs, scores ------------------------------------------------------------------------------


def test_an_option_may_differ_between_the_modes():
    spec = EnvSpec("CartPole-v1", {"time_limit": {"train": 3, "eval": 5}})
    lengths = {}
    for mode in ("train", "eval"):
        env = spec.make(mode)
        env.reset(seed=0)
        steps = 1
        while not env.step(steps % 2)[3]:
            steps += 1
        lengths[mode] = steps
    assert lengths == {"train": 3, "eval": 5}


def test_a_spec_survives_json_and_makes_the_same_env():
    spec = EnvSpec("doom_takecover", {"frame_skip": 4, "continuous": True})
    again = EnvSpec(**json.loads(json.dumps(dataclasses.asdict(spec))))
    assert again == spec and again.frames_per_step == 4
    env = again.make("train", continuous=False)
    assert env.action_space == spaces.Discrete(3)
    env.close()


@pytest.mark.parametrize(
    "name, options, frames",
    [
        ("atari_pong", {}, 4),
        ("atari_pong", {"frame_skip": 2}, 2),
        ("dmc_walker_walk", {}, 2),
        ("doom_takecover", {}, 1),
        ("CarRacing-v2", {"action_repeat": 4}, 4),
        ("CartPole-v1", {}, 1),
        ("toy_dodge", {}, 1),
    ],
)
def test_frames_per_step(name, options, frames):
    assert frames_per_step(name, options) == frames


def test_scores_depend_on_the_options_that_matter():
    dodge = scores("toy_dodge", {"size": 32})
    assert [dodge[k]["value"] for k in ("random", "blind", "optimum")] == [27.365, 34.308, 200.0]
    assert scores("toy_dodge", {"gap": 24.0})["blind"]["value"] == 28.106
    assert scores("toy_dodge", {"gap": 20.0})["blind"] is None
    assert scores("doom_takecover")["random"]["value"] == 209
    assert scores("doom_takecover", {"frame_skip": 4})["random"]["value"] == 292
    assert scores("doom_takecover")["published"]["value"] == 1092
    assert scores("CarRacing-v2")["published"]["value"] == 906
    assert scores("dmc_cup_catch") == scores("dmc_ball_in_cup_catch")
    pong = scores("ALE/Pong-v5")
    assert pong["random"]["value"] == -20.7 and pong["human"]["value"] == 14.6 and pong["published_all"]
    assert all(entry[key] for entry in pong["published_all"] for key in ("protocol", "source"))
    assert scores("Acrobot-v1")["random"] is None


def test_every_stored_score_belongs_to_an_env_and_its_options():
    from common.envs.baselines import KINDS, _tables

    for table in _tables():
        assert table["kind"] in KINDS and table["protocol"] and table["source"]
        for name in table["values"]:
            check_name(name)
            if suite_of(name) != "gym":
                known = env_wrapper._with_defaults(name, None)
                assert table["options"].keys() <= known.keys(), (name, table["options"])


def test_baselines_of_any_env_can_be_measured(monkeypatch, capsys):
    from common.envs import baselines

    options = json.dumps({"time_limit": 40})
    monkeypatch.setattr(sys, "argv", ["baselines", "CartPole-v1", "--episodes", "5", "--options", options])
    baselines.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and lines[0].startswith("random") and "(5 episodes)" in lines[0]
    means = [float(line[40:].split()[0]) for line in lines]
    assert 8 <= means[0] <= 40 and max(means[1:]) > 20  # alternating lasts longer than a constant


@pytest.mark.parametrize(
    "line, words",
    [
        ("NoSuch-v1", "unknown environment 'NoSuch-v1'"),
        ("toy_dodge --episodes 0", "--episodes 0: must be at least 2"),
        ("toy_dodge --options 3", "--options 3: must be JSON"),
    ],
)
def test_what_cannot_be_measured_is_one_line(line, words):
    command = [sys.executable, "-m", "common.envs.baselines", *line.split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith(f"error: {words}"), done.stderr
    assert done.stderr.count("\n") == 1


# --- vector envs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, options", [("CartPole-v1", {"time_limit": 4}), ("atari_pong", {"limit": 60})])
def test_next_step_autoreset(name, options):
    env = make_vector_env(name, 2, **options)
    assert env.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    obs, _ = env.reset(seed=0)
    first = {key: value.copy() for key, value in obs.items()}
    ended = np.zeros(2, bool)
    for _ in range(40):
        obs, rew, terminated, truncated, _ = env.step(np.zeros(2, np.int64))
        assert obs in env.observation_space
        # the step after an end starts anew: no reward, no end, whatever the action
        assert not (rew[ended].any() or terminated[ended].any() or truncated[ended].any())
        ended = terminated | truncated
        if ended.any():
            break
    assert ended.any() and set(obs) == set(first)
    env.close()


def test_toys_get_their_native_batch_and_seeds_follow_gymnasium():
    env = make_vector_env("toy_dodge", 3)
    assert type(env).__name__ == "ToyVectorEnv"
    images = env.reset(seed=5)[0]["image"]
    singles = [make_env("toy_dodge").reset(seed=5 + i)[0]["image"] for i in range(3)]
    sync = make_vector_env("toy_dodge", 3, backend="sync")
    assert isinstance(sync, SyncVectorEnv)
    assert np.array_equal(sync.reset(seed=5)[0]["image"], np.stack(singles))
    assert images.shape == (3, 64, 64, 3)


def test_auto_uses_processes_only_where_a_step_is_slow(monkeypatch):
    made = []
    monkeypatch.setattr("common.envs.workers.WorkerVectorEnv", lambda makers: made.append(len(makers)))
    make_vector_env("CarRacing-v3", 2, render="stock")
    make_vector_env("dmc_walker_walk", 2)
    make_vector_env("BipedalWalker-v3", 2, obs="pixels")
    assert made == [2, 2, 2]
    for name, options in [
        ("CarRacing-v3", {"render": "fast"}),
        ("dmc_walker_walk", {"obs": "vector"}),
        ("CartPole-v1", {}),
    ]:
        assert isinstance(make_vector_env(name, 2, **options), SyncVectorEnv)
    assert isinstance(make_vector_env("BipedalWalker-v3", 1, obs="pixels"), SyncVectorEnv)


def test_a_bad_backend_is_one_line():
    with pytest.raises(UserError, match="auto, sync or async"):
        make_vector_env("CartPole-v1", 2, backend="fork")


def test_envpool_takes_plain_actions():
    pytest.importorskip("envpool", reason="EnvPool is optional")
    plain = make_vector_env("CarRacing-v3", 2, render="envpool", size=64, crop=True)
    native = make_vector_env("CarRacing-v3", 2, render="envpool", size=64, crop=True, native_actions=True)
    assert np.all(plain.single_action_space.low == -1) and np.all(
        native.single_action_space.low == [-1, 0, 0]
    )
    plain.reset(seed=1), native.reset(seed=1)
    for _ in range(60):
        a = plain.step(np.float32([[0.1, 0, -1]] * 2))
        b = native.step(np.float32([[0.1, 0.5, 0]] * 2))
    assert np.array_equal(a[0]["image"], b[0]["image"]) and np.allclose(a[1], b[1])
    plain.close(), native.close()
    with pytest.raises(UserError, match="EnvPool cannot do start='random'"):
        make_vector_env("CarRacing-v3", 2, render="envpool", start="random")


# --- the recipe ----------------------------------------------------------------------------------------


def test_the_recipe_for_your_own_env_runs(tmp_path, monkeypatch):
    text = (ROOT / "common/envs/YOUR_OWN_ENV.md").read_text()
    code = re.search(r"```python\n(.*?)```", text, re.S)[1]
    assert len([line for line in code.splitlines() if line.strip()]) <= 22
    (tmp_path / "my_envs.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    name = re.search(r"--env (\S+)", text)[1]
    check_name(name)
    env = make_env(name)
    assert env.observation_space["image"].shape == (64, 64, 3)
    check_env(gym.make(name, disable_env_checker=True).unwrapped)
    env.reset(seed=0)
    rews = [env.step(1)[1] for _ in range(7)]
    assert sum(rews) >= 1
    with pytest.raises(UserError, match="unknown environment 'my_envs:Korridor-v0'"):
        check_name("my_envs:Korridor-v0")
