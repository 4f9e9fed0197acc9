"""Every suite's env: Gymnasium's checker, the repository's contract, golden roll-outs."""

import hashlib
import warnings
from importlib.metadata import version

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from common.env_wrapper import make_env
from common.envs import headless


def need(name: str, options: dict) -> None:
    """Skip what only a machine that can draw MuJoCo can run."""
    if name.startswith("dmc_") and options.get("obs") != "vector" and (problem := headless.mujoco_problem()):
        pytest.skip(f"EGL is missing: {problem}")


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
        "a8b5392645ec5a96",
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
