"""MiniGrid ids: the agent's view drawn as a picture, or as one-hot symbols for vector papers.

auto and pixels: `view="partial"` is the 7x7 cells before the agent, 8 pixels each, `"full"` the whole grid.
vector: each cell one-hot by object, colour and state, and the direction.  The mission text is dropped.
"""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from common.envs import gym_ids
from common.envs.wrappers import DictObservation, option_defaults
from common.errors import UserError


def names() -> list[str]:
    """All ids that the package registers."""
    import minigrid  # noqa: F401  (says what is missing, if it is)

    return [name for name in gym_ids.names() if name.startswith("MiniGrid-")]


class Drawn(gym.ObservationWrapper, RecordConstructorArgs):
    """The agent's view (`full`: the whole grid), 8 pixels per cell -> {"image": uint8 [H, W, 3]}."""

    def __init__(self, env: gym.Env, full: bool):
        RecordConstructorArgs.__init__(self, full=full)
        gym.ObservationWrapper.__init__(self, env)
        grid = env.unwrapped
        w, h = (grid.width, grid.height) if full else env.observation_space["image"].shape[:2]
        self.full = full
        self.observation_space = spaces.Dict({"image": spaces.Box(0, 255, (8 * h, 8 * w, 3), np.uint8)})

    def observation(self, observation):
        """Draw."""
        return {"image": self.unwrapped.get_frame(self.full, tile_size=8, agent_pov=not self.full)}


class OneHotView(gym.ObservationWrapper, RecordConstructorArgs):
    """The symbolic 7x7x3 view -> {"vector": float32 [7 * 7 * (11 + 6 + 3) + 4]}."""

    def __init__(self, env: gym.Env):
        from minigrid.core import constants

        RecordConstructorArgs.__init__(self)
        gym.ObservationWrapper.__init__(self, env)
        tables = constants.OBJECT_TO_IDX, constants.COLOR_TO_IDX, constants.STATE_TO_IDX
        self._sizes = [len(table) for table in tables]
        cells = int(np.prod(env.observation_space["image"].shape[:2]))
        length = cells * sum(self._sizes) + 4
        self.observation_space = spaces.Dict({"vector": spaces.Box(-np.inf, np.inf, (length,), np.float32)})
        self.metadata = {**env.metadata, "render_modes": ["rgb_array"]}

    def observation(self, observation):
        """Symbols and direction, each one-hot."""
        cells = observation["image"].reshape(-1, 3)  # [cells, 3]
        parts = [np.eye(n, dtype=np.float32)[cells[:, i]].ravel() for i, n in enumerate(self._sizes)]
        return {"vector": np.concatenate([*parts, np.eye(4, dtype=np.float32)[observation["direction"]]])}


def make(
    name: str,
    mode: str = "train",
    obs: str = "auto",
    *,
    view: str = "partial",
    size: int | None = None,
    actions: int = 7,
    time_limit: int | None = None,
) -> gym.Env:
    """Build one grid.  actions: only the first n of the 7 (3 = turn left, turn right, forward)."""
    import minigrid  # noqa: F401

    if obs == "both" or view not in ("partial", "full"):
        raise UserError(f"{name}: obs={obs}, view={view} is not possible: pixels or vector; partial or full")
    env = gym.make(name, render_mode="rgb_array", max_episode_steps=time_limit, disable_env_checker=True)
    if actions < 7:
        env = gym.wrappers.TransformAction(env, int, spaces.Discrete(actions))
    if obs == "vector":
        return OneHotView(env)
    return DictObservation(Drawn(env, view == "full"), "pixels", size)


def options(name: str) -> dict[str, Any]:
    """Option -> default."""
    return option_defaults(make)
