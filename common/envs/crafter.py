"""Crafter: `crafter_reward` and `crafter_noreward` (its package still speaks the old four-tuple API).

Every info carries `achievements`: how often each of the 22 was unlocked in this episode.
Source: Hafner 2021, "Benchmarking the Spectrum of Agent Capabilities"; `crafter_score` is its section 4.
"""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from common.envs.wrappers import option_defaults, pixels_only


def names() -> list[str]:
    """Both names."""
    return ["crafter_reward", "crafter_noreward"]


class Crafter(gym.Env):
    """{"image": uint8 [size, size, 3]}, Discrete(17); terminated by death, truncated after `limit` steps."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}

    def __init__(self, reward: bool, *, size: int = 64, limit: int = 10_000):
        self._build = lambda seed: _deterministic(size=(size, size), reward=reward, length=limit, seed=seed)
        self._env = self._build(0)
        self.observation_space = spaces.Dict({"image": spaces.Box(0, 255, (size, size, 3), np.uint8)})
        self.action_space = spaces.Discrete(len(self._env.action_names))
        self.render_mode = "rgb_array"

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """A new world -> obs, info."""
        fresh = seed is not None or self._np_random is None
        super().reset(seed=seed)
        if fresh:  # its own later resets follow from this seed
            self._env = self._build(int(self.np_random.integers(2**31 - 1)))
        return {"image": self._env.reset()}, {}

    def step(self, action):
        """One step -> obs, rew, terminated, truncated, info."""
        image, rew, done, info = self._env.step(int(action))
        terminated = bool(done and info["discount"] == 0)
        kept = {"achievements": dict(info["achievements"])}
        return {"image": image}, float(rew), terminated, bool(done and not terminated), kept

    def render(self) -> np.ndarray:
        """A larger picture, for videos: uint8 [252, 252, 3]."""
        return self._env.render((252, 252))


def _deterministic(**options):
    """A crafter.Env whose course follows from its seed: the package picks creatures out of unordered sets."""
    import crafter

    class OrderedWorld(crafter.engine.World):
        @property
        def chunks(self):
            """Objects of each chunk in the order of their creation."""
            return {k: sorted(v, key=lambda o: self._obj_map[tuple(o.pos)]) for k, v in self._chunks.items()}

    env = crafter.Env(**options)
    env._world.__class__ = OrderedWorld  # its views hold this very object, so it cannot be replaced
    return env


def crafter_score(success_rates: np.ndarray) -> float:
    """exp(mean ln(1 + s)) - 1 over the success rates s of the achievements, in percent.  [22] -> scalar"""
    return float(np.expm1(np.log1p(np.asarray(success_rates, np.float64)).mean()))


def options(name: str) -> dict[str, Any]:
    """Option -> default."""
    return option_defaults(Crafter)


def make(name: str, mode: str = "train", obs: str = "auto", **options) -> gym.Env:
    """Build one world; there are only pixels."""
    pixels_only(name, obs)
    return Crafter(name == "crafter_reward", **options)
