"""Minecraft through MineRL 0.4.4 (`minecraft_navigate` and its relatives), flattened for world models.

A dozen discrete actions as in DreamerV3's flat wrapper (danijar/dreamerv3 embodied/envs/minecraft_flat.py):
camera turns of 15 degrees, pitch kept within 60, attack and jump held for some ticks.  Observations: `image`
and one `vector` (sine and cosine of the compass angle, dirt / 64), as far as the task has them.
Navigate: reach a diamond block 64 m away, +100, and +1 per block nearer; 6,000 ticks.  It is not the diamond
task of the DreamerV3 paper.  MineRL is old (gym 0.19, NumPy < 1.24): it wants an environment of its own.
"""

import importlib
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from common.envs.wrappers import option_defaults, resize
from common.errors import UserError

TASKS = {
    "minecraft_navigate": "MineRLNavigateDense-v0",
    "minecraft_navigate_sparse": "MineRLNavigate-v0",
    "minecraft_navigate_extreme": "MineRLNavigateExtremeDense-v0",
    "minecraft_treechop": "MineRLTreechop-v0",
}
TURN = 15  # degrees per action
ACTIONS = [  # name, what differs from doing nothing; camera is (pitch, yaw)
    ("noop", {}),
    ("attack", {"attack": 1}),
    ("look_up", {"camera": (-TURN, 0)}),
    ("look_down", {"camera": (TURN, 0)}),
    ("turn_left", {"camera": (0, -TURN)}),
    ("turn_right", {"camera": (0, TURN)}),
    ("forward", {"forward": 1}),
    ("back", {"back": 1}),
    ("left", {"left": 1}),
    ("right", {"right": 1}),
    ("jump", {"jump": 1, "forward": 1}),
    ("place_dirt", {"place": "dirt"}),
]


def names() -> list[str]:
    """The tasks that the adapter knows."""
    return list(TASKS)


class Minecraft(gym.Env):
    """`game`: a MineRL env of the old gym API.  "image": uint8 [size, size, 3], "vector": float32 [1..3]."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(
        self,
        game,
        *,
        size: int = 64,
        limit: int = 6000,
        sticky_attack: int = 30,
        sticky_jump: int = 10,
        pitch_limit: int = 60,
    ):
        self._game, self.limit, self.pitch_limit = game, limit, pitch_limit
        self._hold = {"attack": sticky_attack, "jump": sticky_jump}
        self._noop = {  # the keys that this task has
            key: np.zeros(2, np.float32) if key == "camera" else "none" if key == "place" else 0
            for key in game.action_space.spaces
        }
        self._actions = [(name, keys) for name, keys in ACTIONS if keys.keys() <= self._noop.keys()]
        self.action_space = spaces.Discrete(len(self._actions))
        layout = {"image": spaces.Box(0, 255, (size, size, 3), np.uint8)}
        if length := 2 * self._has("compass") + self._has("inventory"):
            layout["vector"] = spaces.Box(-np.inf, np.inf, (length,), np.float32)
        self.observation_space = spaces.Dict(layout)
        self.size, self.render_mode = size, "rgb_array"

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """A new world -> obs, info.  (Takes MineRL some ten seconds.)"""
        super().reset(seed=seed)
        if seed is not None:
            self._game.seed(seed)
        self._ticks, self._pitch, self._left = 0, 0.0, dict.fromkeys(self._hold, 0)
        return self._obs(self._game.reset()), {}

    def step(self, action):
        """One tick -> obs, rew, terminated, truncated after `limit` ticks, info."""
        raw, rew, done, _ = self._game.step(self._translate(int(action)))
        self._ticks += 1
        truncated = self._ticks >= self.limit
        return self._obs(raw), float(rew), bool(done and not truncated), truncated, {}

    def render(self) -> np.ndarray:
        """The last frame as the game drew it: uint8 [64, 64, 3]."""
        return self._frame.copy()

    def close(self) -> None:
        """Shut the game down."""
        self._game.close()

    def _translate(self, action: int) -> dict:
        """Index -> MineRL's dict, with held keys and the pitch limit applied."""
        keys = {**self._noop, **self._actions[action][1]}
        for key, ticks in self._hold.items():  # a block needs many ticks of attack in a row
            self._left[key] = ticks if keys.get(key) else max(0, self._left[key] - 1)
            if self._left[key]:
                keys[key] = 1
                if key == "jump":
                    keys["forward"] = 1
        pitch, yaw = keys["camera"]
        if abs(self._pitch + pitch) > self.pitch_limit:
            pitch = 0
        self._pitch += pitch
        keys["camera"] = np.array([pitch, yaw], np.float32)
        return keys

    def _has(self, part: str) -> bool:
        """Does the task show a compass, an inventory?  MineRL nests its spaces or writes `compass.angle`."""
        return any(key.split(".")[0] == part for key in self._game.observation_space.spaces)

    def _obs(self, raw: dict) -> dict[str, np.ndarray]:
        self._frame = np.asarray(raw["pov"], np.uint8)
        obs, vector = {"image": resize(self._frame, self.size)}, []
        if self._has("compass"):
            angle = np.deg2rad(float(_get(raw, "compass", "angle")))
            vector += [np.sin(angle), np.cos(angle)]
        if self._has("inventory"):
            vector.append(float(_get(raw, "inventory", "dirt")) / 64)
        return obs | ({"vector": np.array(vector, np.float32)} if vector else {})


def _get(raw: dict, part: str, key: str):
    return raw[part][key] if part in raw else raw[f"{part}.{key}"]


def options(name: str) -> dict[str, Any]:
    """Option -> default."""
    return option_defaults(Minecraft)


def make(name: str, mode: str = "train", obs: str = "auto", **options) -> gym.Env:
    """Start MineRL; where it is missing, one line says what it needs and what will come nearest."""
    if obs not in ("auto", "both"):
        raise UserError(f"{name} has an image and a vector: obs={obs!r} is not possible, leave it at auto")
    try:
        old_gym = importlib.import_module("gym")
        importlib.import_module("minerl")  # registers the ids
    except ImportError as error:
        raise UserError(
            f"{name} needs MineRL ({error}), which plain pip cannot build: install Java 8 (openjdk-8-jdk), "
            "xvfb and the patched wheel v0.4.4-patched of danijar/minerl in an environment of its own "
            "(numpy<1.24); --env voxel_navigate, our own stand-in, comes nearest without it"
        ) from error
    return Minecraft(old_gym.make(TASKS[name]), **options)
