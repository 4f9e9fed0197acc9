"""The one contract over all suites: names, options, spaces, goldens, vector envs, errors."""

import dataclasses
import hashlib
import json
import logging
import re
import subprocess
import sys
import warnings
from importlib.metadata import version
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
from common.envs import headless, wrappers
from common.errors import UserError

ROOT = Path(__file__).parents[2]


def need(name: str, options: dict) -> None:
    """Skip what only a machine that can draw MuJoCo can run."""
    if name.startswith("dmc_") and options.get("obs") != "vector" and (problem := headless.mujoco_problem()):
        pytest.skip(f"EGL is missing: {problem}")


# --- names ----------------------------------------------------------------------------------------------


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


def test_minecraft_and_voxel_say_what_comes_instead():
    with pytest.raises(UserError) as caught:
        make_env("minecraft_navigate")
    for part in ("Java 8", "xvfb", "v0.4.4-patched", "voxel_navigate"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="comes with paper 4"):
        make_env("voxel_navigate")


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
    ],
)
def test_bad_options_are_one_line(name, options, text):
    with pytest.raises(UserError, match=re.escape(text)):
        make_env(name, options.pop("mode", "train"), **options)


# --- every adapter --------------------------------------------------------------------------------------

ADAPTERS = [
    ("toy_dodge", {}),
    ("CartPole-v1", {}),
    ("CartPole-v1", {"obs": "pixels"}),
    ("Pendulum-v1", {"obs": "both", "action_repeat": 2}),
    ("BipedalWalker-v3", {}),
    ("FrozenLake-v1", {}),
    ("CarRacing-v3", {}),
    ("atari_pong", {}),
    ("ALE/Breakout-v5", {"gray": True, "sticky": 0.25, "life_loss": True}),
    ("dmc_walker_walk", {"obs": "vector"}),
    ("dmc_reacher_easy", {"render_quality": "fast", "obs": "both"}),
    ("crafter_reward", {}),
    ("MiniGrid-DoorKey-5x5-v0", {}),
    ("MiniGrid-Empty-5x5-v0", {"obs": "vector", "actions": 3}),
    ("doom_takecover", {"frame_skip": 4}),
    ("doom_takecover", {"continuous": True, "crop": "paper"}),
]
EXPECTED = (  # what the checker always says about wrapped envs, open vectors and envs that are not registered
    "is different from the unwrapped version",
    "space minimum value is -infinity",
    "space maximum value is infinity",
    "not having a spec",
    "We recommend using a symmetric and normalized",
)


@pytest.mark.parametrize("name, options", ADAPTERS, ids=lambda value: str(value))
def test_every_adapter_passes_gymnasiums_checker(name, options):
    need(name, options)
    env = make_env(name, **options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env)
    env.close()
    told = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
    assert not [text for text in told if not any(part in text for part in EXPECTED)]


@pytest.mark.parametrize("name, options", ADAPTERS, ids=lambda value: str(value))
def test_every_adapter_keeps_the_contract(name, options):
    need(name, options)
    env = make_env(name, **options)
    assert isinstance(env.observation_space, spaces.Dict) and len(env.observation_space) > 0
    for key, space in env.observation_space.items():
        if key.startswith("image"):
            assert space.dtype == np.uint8 and len(space.shape) == 3 and space.shape[-1] in (1, 3)
        else:
            assert key.startswith("vector") and space.dtype == np.float32 and len(space.shape) == 1
    action = env.action_space
    if isinstance(action, spaces.Box):
        assert np.all(action.low == -1) and np.all(action.high == 1) and action.dtype == np.float32
    else:
        assert isinstance(action, spaces.Discrete) and action.start == 0
    env.reset(seed=0)
    picture = env.render()
    assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[-1] == 3
    env.close()


PACKAGES = {
    "atari": ("ale-py", "0.12.1"),
    "crafter": ("crafter", "1.8.3"),
    "MiniGrid": ("minigrid", "3.2.0"),
    "doom": ("vizdoom", "1.3.2"),
    "dmc": ("dm-control", "1.0.50"),
    "CartPole": ("gymnasium", "1.4.0"),
    "Bipedal": ("gymnasium", "1.4.0"),
    "Pendulum": ("gymnasium", "1.4.0"),
}
GOLDEN = [  # name, options, steps, digest of the frames (None: floats or a GPU drew them), mean, return
    ("atari_pong", {}, 60, "30a7aa81251720c9", 98.099, 0.0),
    (
        "atari_breakout",
        {"gray": True, "sticky": 0.25, "full_actions": True},
        60,
        "d6ae31ef1ffd3c03",
        41.7987,
        0.0,
    ),
    (
        "atari_breakout",
        {"resize": "bilinear", "resize_first": True, "life_loss": True},
        60,
        "f9693642a40a9aa9",
        40.7179,
        0.0,
    ),
    ("crafter_reward", {}, 300, "36b7b550e3a441d5", 49.7063, 1.4),
    ("MiniGrid-DoorKey-5x5-v0", {}, 60, "cb8a39f78bd0050a", 31.7642, 0),
    ("MiniGrid-Empty-5x5-v0", {"obs": "vector", "actions": 3}, 60, "7bbc78ce8e763937", 0.1504, 0.478),
    ("MiniGrid-FourRooms-v0", {"view": "full", "size": 64}, 60, "e66ce9fe32f02abc", 41.3481, 0),
    ("doom_takecover", {}, 60, "e7fc183d825bf731", 76.24, 60.0),
    (
        "doom_takecover",
        {"frame_skip": 4, "continuous": True, "crop": "paper"},
        60,
        "2f252f237a190333",
        83.0826,
        240.0,
    ),
    ("dmc_walker_walk", {"obs": "vector"}, 60, None, 0.0061, 6.71937),
    ("dmc_walker_walk", {}, 60, None, 72.8758, 6.71937),
    ("dmc_reacher_easy", {"render_quality": "fast"}, 60, None, 55.2606, 9.0),
    ("CartPole-v1", {}, 60, None, -0.0894, 60.0),
    ("CartPole-v1", {"obs": "pixels"}, 60, None, 252.2928, 60.0),
    ("BipedalWalker-v3", {}, 60, None, 0.3159, -108.66624),
    ("Pendulum-v1", {"action_repeat": 4}, 60, None, -0.1378, -1635.50667),
]


@pytest.mark.parametrize("name, options, steps, digest, mean, ret", GOLDEN, ids=lambda value: str(value))
def test_golden_rollout(name, options, steps, digest, mean, ret):
    package, measured = next(value for key, value in PACKAGES.items() if name.startswith(key))
    if version(package) != measured:
        pytest.skip(f"the golden frames are those of {package} {measured}, here is {version(package)}")
    need(name, options)
    env, rng = make_env(name, **options), np.random.default_rng(0)
    sha, means, total = hashlib.sha256(), [], 0.0
    obs, _ = env.reset(seed=7)
    for _ in range(steps):
        for key in sorted(obs):
            sha.update(obs[key].tobytes())
            means.append(obs[key].astype(float).mean())
        if isinstance(env.action_space, spaces.Discrete):
            action = int(rng.integers(env.action_space.n))
        else:
            action = rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        obs, rew, terminated, truncated, _ = env.step(action)
        total += rew
        if terminated or truncated:
            obs, _ = env.reset()
    env.close()
    pictures = isinstance(env.observation_space.get("image"), spaces.Box)
    assert np.mean(means) == pytest.approx(mean, rel=1e-3, abs=0.5 if pictures else 1e-3)
    assert total == pytest.approx(ret, rel=1e-3, abs=1e-4)
    if digest:
        assert sha.hexdigest().startswith(digest)


# --- observations and actions ---------------------------------------------------------------------------


class Odd(gym.Env):
    """A bit of everything that a user's env may have."""

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, action_space, render_mode=None):
        self.render_mode, self.action_space, self.seen = render_mode, action_space, None
        self.observation_space = spaces.Dict(
            {
                "camera": spaces.Box(0, 255, (8, 6), np.uint8),
                "image": spaces.Box(0, 255, (4, 4, 3), np.uint8),
                "speed": spaces.Box(-5, 5, (), np.float64),
                "gear": spaces.Discrete(3, start=1),
                "vector_raw": spaces.Box(-1, 1, (2, 2)),
                "mission": spaces.Text(10),
            }
        )

    def _obs(self):
        return {
            "camera": np.full((8, 6), 7, np.uint8),
            "image": np.full((4, 4, 3), 9, np.uint8),
            "speed": np.float64(2.5),
            "gear": np.int64(2),
            "vector_raw": np.float32([[0, 1], [-1, 0.5]]),
            "mission": "go",
        }

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._obs(), {}

    def step(self, action):
        self.seen = action
        return self._obs(), 1.0, False, False, {}


def odd(action_space=None, **options) -> gym.Env:
    """Odd through make_env."""
    gym.registry.pop("Odd-v0", None)
    gym.register("Odd-v0", entry_point=Odd, kwargs={"action_space": action_space or spaces.Discrete(2)})
    return make_env("Odd-v0", **options)


def test_a_dict_observation_is_split_into_images_and_vectors():
    obs, _ = odd().reset()
    assert {key: value.shape for key, value in obs.items()} == {
        "vector_speed": (1,),
        "vector_gear": (3,),
        "vector_raw": (4,),
        "image_camera": (8, 6, 1),
        "image": (4, 4, 3),
    }
    assert obs["vector_speed"] == [2.5] and list(obs["vector_gear"]) == [0, 1, 0]
    assert list(obs["vector_raw"]) == [0, 1, -1, 0.5]
    assert np.all(obs["image_camera"] == 7) and obs["image_camera"].dtype == np.uint8
    assert set(odd(obs="vector").reset()[0]) == {"vector_speed", "vector_gear", "vector_raw"}
    pixels, _ = odd(obs="pixels", size=16).reset()
    assert {key: value.shape for key, value in pixels.items()} == {
        "image_camera": (16, 16, 1),
        "image": (16, 16, 3),
    }


@pytest.mark.parametrize(
    "space, plain, ours, theirs",
    [
        (spaces.Box(np.float32([0, -4]), np.float32([1, 2])), spaces.Box(-1, 1, (2,)), [0, 3], [0.5, 2]),
        (spaces.Box(-2, 2, (2, 1)), spaces.Box(-1, 1, (2,)), [0.5, -1], [[1], [-2]]),
        (spaces.Discrete(3, start=-1), spaces.Discrete(3), 0, -1),
        (spaces.MultiBinary(3), spaces.MultiDiscrete([2, 2, 2]), [1, 0, 1], [1, 0, 1]),
        (spaces.MultiDiscrete([3, 2]), spaces.MultiDiscrete([3, 2]), [2, 1], [2, 1]),
    ],
)
def test_actions_become_plain(space, plain, ours, theirs):
    env = odd(space)
    assert env.action_space == plain
    env.reset()
    env.step(np.asarray(ours))
    assert np.array_equal(env.unwrapped.seen, theirs) and env.unwrapped.seen in space


def test_native_actions_keep_the_bounds():
    env = odd(spaces.Box(np.float32([0, -4]), np.float32([1, 2])), native_actions=True)
    assert np.array_equal(env.action_space.low, [0, -4]) and np.array_equal(env.action_space.high, [1, 2])
    env.reset()
    env.step(np.float32([0.25, -3]))
    assert np.array_equal(env.unwrapped.seen, np.float32([0.25, -3]))


@pytest.mark.parametrize("space", [spaces.Box(-np.inf, np.inf, (2,)), spaces.Tuple([spaces.Discrete(2)])])
def test_actions_that_no_paper_can_take_are_refused(space):
    with pytest.raises(UserError, match="bounds|allowed are Box"):
        odd(space)


def test_action_repeat_sums_rewards_and_stops_at_the_end():
    once, thrice = make_env("Pendulum-v1"), make_env("Pendulum-v1", action_repeat=3, time_limit=4)
    once.reset(seed=3), thrice.reset(seed=3)
    rewards = [once.step(np.float32([0.4]))[1] for _ in range(4)]
    _, first, _, truncated, _ = thrice.step(np.float32([0.4]))
    assert first == pytest.approx(sum(rewards[:3])) and not truncated
    _, second, _, truncated, _ = thrice.step(np.float32([0.4]))
    assert second == pytest.approx(rewards[3]) and truncated  # the limit counts the env's own steps


def test_pixels_of_a_vector_env_are_its_rendered_frame():
    env = make_env("CartPole-v1", obs="pixels", size=32)
    obs, _ = env.reset(seed=0)
    assert list(obs) == ["image"] and obs["image"].shape == (32, 32, 3)
    assert np.array_equal(obs["image"], wrappers.resize(env.render(), 32))


def test_area_resize_is_the_exact_mean():
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    fine = image.repeat(6, 0).repeat(4, 1).astype(float)  # 30 x 28 cells: both sizes divide them
    exact = fine.reshape(6, 5, 4, 7, 3).mean((1, 3))  # -> 6 x 4
    assert np.abs(wrappers.resize(image, (6, 4)) - exact).max() <= 0.5 + 1e-4
    assert np.array_equal(wrappers.resize(image, (5, 7)), image)


# --- modes, specs, scores -------------------------------------------------------------------------------


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
    assert [dodge[k]["value"] for k in ("random", "blind", "optimum")] == [25.5, 33.9, 200.0]
    assert scores("toy_dodge", {"gap": 24.0})["blind"]["value"] == 28.87
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


# --- vector envs ----------------------------------------------------------------------------------------


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


# --- the recipe -----------------------------------------------------------------------------------------


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
