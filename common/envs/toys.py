"""Small pixel games in pure NumPy: what the demo, the tests and the tiny presets train on.

A `ToyCore` plays n games at once; each game has its own random generator, and only the rows named in a call
move, so finished games can leave a lockstep batch and a row's course never depends on its neighbours.
`ToyEnv` (one game) and `ToyVectorEnv` (n games, Gymnasium's NEXT_STEP autoreset) are thin shells around it.
Shapes: k rows of a call, n games, H W C picture.
"""

import importlib
import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from common.errors import UserError

TOYS: dict[str, str] = {  # name -> module:class, imported only when asked for
    "toy_catch": "common.envs.toy_catch:ToyCatch",
    "toy_dodge": "common.envs.toy_dodge:ToyDodge",
    "toy_point": "common.envs.toy_point:ToyPoint",
    "toy_simple_world": "common.envs.toy_simple_world:ToySimpleWorld",
}
SCORES_FILE = Path(__file__).with_name("toy_scores.json")  # written by benchmarks/toy_baselines.py


class ToyCore(ABC):
    """State and rules of n equal games as arrays; a game writes `_spawn`, `_advance`, `render`, `truth`."""

    def __init__(self, n: int, *, size: int, channels: int, action_space: spaces.Space, max_steps: int):
        self.n, self.size, self.max_steps = n, size, max_steps
        image = spaces.Box(0, 255, (size, size, channels), np.uint8)
        self.observation_space = spaces.Dict({"image": image})  # of a single game
        self.action_space = action_space  # of a single game
        self.rngs: list[np.random.Generator | None] = [None] * n
        self.t = np.zeros(n, np.int64)  # steps since the reset  [n]

    def reset(self, rows: Sequence[int], seeds: Sequence[int | None] | None = None) -> None:
        """Start new games in `rows`; without a seed the row's generator goes on (fresh entropy at first)."""
        for row, seed in zip(rows, [None] * len(rows) if seeds is None else seeds, strict=True):
            if seed is not None or self.rngs[row] is None:
                self.rngs[row] = np.random.default_rng(seed)
            self.t[row] = 0
            self._spawn(row, self.rngs[row])

    def step(self, rows: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Move only `rows` [k] by `actions` [k, ...] -> rew float32, terminated, truncated bool, each [k]."""
        self.t[rows] += 1
        rew, terminated = self._advance(rows, actions)
        truncated = (self.t[rows] >= self.max_steps) & ~terminated
        return rew.astype(np.float32), terminated, truncated

    @abstractmethod
    def _spawn(self, row: int, rng: np.random.Generator) -> None:
        """Write the first state of one game; every draw comes from `rng`."""

    @abstractmethod
    def _advance(self, rows: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One step of the rules -> rew, terminated, each [k]."""

    @abstractmethod
    def render(self, rows: np.ndarray) -> np.ndarray:
        """Draw `rows` -> uint8 [k, H, W, C], a fresh array."""

    @abstractmethod
    def truth(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The true state behind the picture, for probes: name -> [k]."""

    def optimal_policy(self, rows: np.ndarray) -> np.ndarray:
        """The best actions [k, ...] given the true state; NotImplementedError where none is known."""
        raise NotImplementedError(f"no optimal policy is written for {type(self).__name__}")

    def blind_policies(self) -> dict[str, Any]:
        """Policies that never look: constants, held random actions, sweeps (common/envs/toy_policies.py)."""
        from common.envs.toy_policies import blind_policies

        return blind_policies(self.action_space)


def coverage(left: np.ndarray, width: float, pixels: int) -> np.ndarray:
    """Share of each pixel that [left, left + width] covers, sub-pixel exact: [k] -> [k, pixels] float32."""
    edge = np.arange(pixels, dtype=np.float32)
    left = np.asarray(left, np.float32)[:, None]
    return np.clip(np.minimum(left + width, edge + 1) - np.maximum(left, edge), 0, 1)  # [k, pixels]


def blend_square(frames: np.ndarray, top: np.ndarray, left: np.ndarray, side: int, color: np.ndarray) -> None:
    """Blend a square at the sub-pixel corner `top`, `left` [k] into frames uint8 [k, H, W, 3], in place."""
    patch, alpha = [], []
    for corner, pixels in ((top, frames.shape[1]), (left, frames.shape[2])):
        first = np.minimum(np.floor(corner).astype(np.int64), pixels - side - 1)
        patch.append(first[:, None] + np.arange(side + 1))  # [k, side + 1]
        alpha.append(coverage(corner - first, side, side + 1))
    where = (np.arange(len(frames))[:, None, None], patch[0][:, :, None], patch[1][:, None, :])
    under = frames[where]  # [k, side + 1, side + 1, 3]
    share = (alpha[0][:, :, None] * alpha[1][:, None, :])[..., None]
    frames[where] = (under + share * (color - under) + 0.5).astype(np.uint8)  # + 0.5: the cast rounds down


def toy_core(name: str) -> type[ToyCore]:
    """The class of a toy by its name."""
    if name not in TOYS:
        raise UserError(f"unknown toy {name!r}: choose one of {', '.join(TOYS)}")
    module, cls = TOYS[name].split(":")
    return getattr(importlib.import_module(module), cls)


def make_core(core_cls: type[ToyCore], n: int, **options: Any) -> ToyCore:
    """Build a core; an option it does not have is a UserError that lists the ones it has."""
    allowed = list(inspect.signature(core_cls).parameters)[1:]  # without n
    for option in options:
        if option not in allowed:
            raise UserError(f"{core_cls.__name__} has no option {option!r}: it takes {', '.join(allowed)}")
    return core_cls(n, **options)


def toy_scores(name: str, options: dict[str, Any] | None = None) -> dict[str, dict | None]:
    """random, blind, optimum, published of a toy under `options`: {value, protocol, source} or None each."""
    defaults = {key: p.default for key, p in inspect.signature(toy_core(name)).parameters.items()}
    full = defaults | (options or {})
    for entry in _score_table().get(name, []):
        if all(full[key] == value for key, value in entry["options"].items()):
            return {key: entry[key] for key in ("random", "blind", "optimum", "published")}
    return dict.fromkeys(("random", "blind", "optimum", "published"))


@cache
def _score_table() -> dict[str, list[dict]]:
    return json.loads(SCORES_FILE.read_text(encoding="utf-8"))["toys"]


def check_choice(option: str, value: Any, allowed: Sequence[Any]) -> None:
    """Raise a UserError unless `value` is one of `allowed`."""
    if value not in allowed:
        raise UserError(f"{option}={value!r} is not possible: choose one of {', '.join(map(str, allowed))}")


class ToyEnv(gym.Env):
    """One game as a gymnasium.Env with observations {"image": uint8 [H, W, C]}."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}

    def __init__(self, core_cls: type[ToyCore], render_mode: str | None = "rgb_array", **options: Any):
        self.core = make_core(core_cls, 1, **options)
        self.observation_space, self.action_space = self.core.observation_space, self.core.action_space
        self.render_mode = render_mode
        self._row = np.zeros(1, np.int64)

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Start a game -> obs, info."""
        super().reset(seed=seed)
        self.core.rngs[0] = self.np_random  # Gymnasium's own generator, so that its seeding checks hold
        self.core.reset([0])
        return self._obs(), {}

    def step(self, action: Any):
        """Play one step -> obs, rew, terminated, truncated, info."""
        if self.core.rngs[0] is None:
            raise gym.error.ResetNeeded("call reset() before step()")
        rew, terminated, truncated = self.core.step(self._row, np.asarray(action)[None])
        return self._obs(), float(rew[0]), bool(terminated[0]), bool(truncated[0]), {}

    def render(self) -> np.ndarray:
        """The picture as RGB: uint8 [H, W, 3]."""
        image = self.core.render(self._row)[0]
        return image if image.shape[-1] == 3 else np.repeat(image, 3, axis=-1)

    def _obs(self) -> dict[str, np.ndarray]:
        return {"image": self.core.render(self._row)[0]}


class ToyVectorEnv(VectorEnv):
    """n games in lockstep.  NEXT_STEP: the step after a game's end resets it (action ignored, reward 0)."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15, "autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(self, core_cls: type[ToyCore], num_envs: int, **options: Any):
        self.num_envs = num_envs
        self.core = make_core(core_cls, num_envs, **options)
        self.single_observation_space, self.single_action_space = (
            self.core.observation_space,
            self.core.action_space,
        )
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.render_mode = "rgb_array"
        self._all = np.arange(num_envs)
        self._done = np.zeros(num_envs, bool)

    def reset(self, *, seed: int | Sequence[int | None] | None = None, options: dict | None = None):
        """Start all games; an int seed gives game i the seed `seed + i`, as Gymnasium's vector envs do."""
        seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int | np.integer) else seed
        self.core.reset(self._all, seeds)
        self._done[:] = False
        return {"image": self.core.render(self._all)}, {}

    def step(self, actions: np.ndarray):
        """Play one step -> obs, rew [n] float32, terminated [n], truncated [n], infos."""
        rew = np.zeros(self.num_envs, np.float32)
        terminated, truncated = np.zeros((2, self.num_envs), bool)
        over, running = np.flatnonzero(self._done), np.flatnonzero(~self._done)
        self.core.reset(over)
        if len(running):
            moved = self.core.step(running, np.asarray(actions)[running])
            rew[running], terminated[running], truncated[running] = moved
        self._done = terminated | truncated
        return {"image": self.core.render(self._all)}, rew, terminated, truncated, {}

    def render(self) -> tuple[np.ndarray, ...]:
        """One RGB picture per game."""
        frames = self.core.render(self._all)
        return tuple(frames if frames.shape[-1] == 3 else np.repeat(frames, 3, axis=-1))
