"""A counting env and an agent without any network: for tests of what is written over the protocols.

Here and not in tests/, because other packages install a `tests` of their own (opensimplex, with crafter).
"""

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from common.agent import Dream
from common.env_wrapper import EnvSpec


def length_of(seed: int) -> int:
    """Steps of the episode with this seed: 3..12."""
    return 3 + int(np.random.default_rng(seed).integers(10))


class CountingEnv(gym.Env):
    """The picture holds (t, last action, seed); a step gives t; even seeds terminate, odd ones truncate."""

    observation_space = spaces.Dict({"image": spaces.Box(0, 255, (20, 20, 3), np.uint8)})
    action_space = spaces.Discrete(5)

    def _obs(self, action: int) -> dict:
        image = np.zeros((20, 20, 3), np.uint8)
        image[...] = (self.t, action, self.seed_now % 256)
        return {"image": image}

    def reset(self, *, seed=None, options=None):
        self.seed_now = 999 if seed is None else seed  # 999: a game that nobody asked for
        self.t, self.end = 0, length_of(self.seed_now)
        return self._obs(0), {}

    def step(self, action):
        self.t += 1
        over = self.t == self.end
        even = self.seed_now % 2 == 0
        return self._obs(int(action)), float(self.t), over and even, over and not even, {"lap": self.t * 2}


class VectorCountingEnv(gym.Env):
    """The same with a vector observation and its own picture, three entries that fade."""

    observation_space = spaces.Dict({"vector": spaces.Box(-1, 1, (3,), np.float32)})
    action_space = spaces.Box(-1, 1, (2,), np.float32)
    render_mode, metadata = "rgb_array", {"render_modes": ["rgb_array"]}

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return {"vector": np.ones(3, np.float32)}, {}

    def step(self, action):
        self.t += 1
        vector = np.array([1, 0.5, 0.2], np.float32) * 0.9**self.t
        return {"vector": vector}, 1.0, self.t == 20, False, {}

    def render(self):
        return np.full((40, 60, 3), 10 * self.t, np.uint8)


def counting_envs(num: int, cls=CountingEnv) -> SyncVectorEnv:
    """num counting envs, reset one by one."""
    return SyncVectorEnv([cls] * num, autoreset_mode=AutoresetMode.NEXT_STEP)


class FakeAgent:
    """Counts its own steps since is_first as its state; dreams that the last frame grows darker."""

    paper = "paper1_world_models"

    def __init__(self, name: str = "toy_dodge", options: dict | None = None):
        self.env = EnvSpec(name, options or {})
        self.seen: list[dict] = []

    @classmethod
    def load(cls, path, device="cpu"):
        return cls()

    def initial(self, batch):
        return np.full(batch, 100)  # nonsense that only is_first clears

    def act(self, obs, state, *, explore):
        state = np.where(obs["is_first"], 0, state + 1)
        self.seen.append({"obs": obs, "state": state})
        if "vector" in obs:
            return np.zeros((len(state), 2), np.float32), state
        return state % 3, state

    def dream(self, context, horizon, *, actions=None, temperature=1.0, generator=None):
        batch, rows = context["act"].shape[:2]
        obs = {}
        for key in [key for key in context if key.startswith(("image", "vector"))]:
            last = context[key][:, -1:].astype(np.float32)
            fade = 0.97 ** np.arange(1, horizon + 1).reshape(1, -1, *[1] * (last.ndim - 2))
            obs[key] = np.concatenate([context[key], last * fade], axis=1).astype(context[key].dtype)
        if actions is None:
            actions = np.zeros((batch, horizon, *context["act"].shape[2:]), context["act"].dtype)
        act = np.concatenate([context["act"], actions], axis=1)
        rew = np.ones((batch, rows + horizon), np.float32)
        rew[:, 0] = np.nan
        return Dream(obs, act, rows, rew=rew, cont=np.full_like(rew, 0.98), val=None)
