"""Minecraft through MineRL 0.4.4 (`minecraft_navigate` and its relatives), flattened for world models.

A dozen discrete actions as in DreamerV3's flat wrapper (danijar/dreamerv3 embodied/envs/minecraft_flat.py):
camera turns of 15 degrees, pitch kept within 60, attack and jump held for some ticks.  Observations: `image`
and one `vector` (sine and cosine of the compass angle, dirt / 64), as far as the task has them.
Navigate: reach a diamond block 64 m away, +100, and +1 per block nearer; 6,000 ticks.  The diamond task of
the DreamerV3 paper, `minecraft_diamond`, has its own file, minecraft_diamond.py, on the controls of this one.
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
DIAMOND = "minecraft_diamond"
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
BY_NAME = ("place", "equip", "craft", "nearbyCraft", "nearbySmelt")  # these keys take an item, or "none"
RANGES = {  # lowest and highest; 0 ticks: not held
    **dict.fromkeys(("sticky_attack", "sticky_jump"), (0, 10_000)),
    **{"pitch_limit": (0, 90), "break_speed": (0.01, 1e6)},
}


def names() -> list[str]:
    """The tasks that the adapter knows."""
    return [*TASKS, DIAMOND]


class Minecraft(gym.Env):
    """`game`: a MineRL env of the old gym API.  "image": uint8 [size, size, 3], "vector": float32 [1..3]."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}
    table = ACTIONS
    has_clock = True  # MineRL's task has a time limit as well, which it reports like any other end
    attack_first = False  # may no jump begin while an attack is held?

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
            key: np.zeros(2, np.float32) if key == "camera" else "none" if key in BY_NAME else 0
            for key in game.action_space.spaces
        }
        self._actions = [(name, keys) for name, keys in self.table if keys.keys() <= self._noop.keys()]
        self.action_space = spaces.Discrete(len(self._actions))
        layout = {"image": spaces.Box(0, 255, (size, size, 3), np.uint8)}
        if length := self._vector_size():
            layout["vector"] = spaces.Box(-np.inf, np.inf, (length,), np.float32)
        self.observation_space = spaces.Dict(layout)
        self.size, self.render_mode = size, "rgb_array"

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """A new world -> obs, info.  (Takes MineRL some ten seconds.)"""
        super().reset(seed=seed)
        if seed is not None:
            self._game.seed(seed)
        self._ticks, self._pitch, self._left = 0, 0.0, dict.fromkeys(self._hold, 0)
        self._last = self._obs(self._game.reset())
        return self._last, {}

    def step(self, action):
        """One tick -> obs, rew, terminated, truncated after `limit` ticks, info.

        Where MineRL has lost its game it sends a random observation: the episode is cut at the last true one.
        """
        raw, rew, done, info = self._game.step(self._translate(int(action)))
        self._ticks += 1
        if "error" in info:
            return self._last, 0.0, False, True, {"error": str(info["error"])}
        self._last, late = self._obs(raw), self._ticks >= self.limit
        terminated = bool(done) and not (late and self.has_clock)
        return self._last, float(rew), terminated, late and not terminated, {}

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
                elif self.attack_first:
                    keys["jump"] = 0
        pitch, yaw = keys["camera"]
        if abs(self._pitch + pitch) > self.pitch_limit:
            pitch = 0
        self._pitch += pitch
        keys["camera"] = np.array([pitch, yaw], np.float32)
        return keys

    def _has(self, part: str) -> bool:
        """Does the task show a compass, an inventory?  MineRL nests its spaces or writes `compass.angle`."""
        return any(key.split(".")[0] == part for key in self._game.observation_space.spaces)

    def _vector_size(self) -> int:
        return 2 * self._has("compass") + self._has("inventory")

    def _vector(self, raw: dict) -> np.ndarray | list[float]:
        """MineRL's observation -> [D]"""
        vector = []
        if self._has("compass"):
            angle = np.deg2rad(float(_get(raw, "compass", "angle")))
            vector += [np.sin(angle), np.cos(angle)]
        if self._has("inventory"):
            vector.append(float(_get(raw, "inventory", "dirt")) / 64)
        return vector

    def _obs(self, raw: dict) -> dict[str, np.ndarray]:
        self._frame = np.asarray(raw["pov"], np.uint8)
        obs = {"image": resize(self._frame, self.size)}
        if "vector" in self.observation_space.spaces:
            obs["vector"] = np.array(self._vector(raw), np.float32)
        return obs


def _get(raw: dict, part: str, key: str):
    return raw[part][key] if part in raw else raw[f"{part}.{key}"]


def options(name: str) -> dict[str, Any]:
    """Option -> default."""
    if name == DIAMOND:
        from common.envs.minecraft_diamond import MinecraftDiamond  # it stands on this file

        return option_defaults(MinecraftDiamond)
    return option_defaults(Minecraft)


def is_slow(**options) -> bool:
    """A tick draws a frame and comes through a socket: well over 1 ms."""
    return True


def make(name: str, mode: str = "train", obs: str = "auto", **options) -> gym.Env:
    """Start MineRL; where it is missing, one line says what it needs and what will come nearest."""
    if obs not in ("auto", "both"):
        raise UserError(f"{name} has an image and a vector: obs={obs!r} is not possible, leave it at auto")
    for option in options.keys() & RANGES.keys():
        low, high = RANGES[option]
        if not low <= options[option] <= high:
            raise UserError(f"{name}: option {option} {options[option]}: must be from {low} to {high:g}")
    for alias, kind in {"float": float, "int": int, "bool": bool}.items():
        if not hasattr(np, alias):  # NumPy dropped these names in 1.24, and MineRL's modules still use them
            setattr(np, alias, kind)
    try:
        old_gym = importlib.import_module("gym")
        importlib.import_module("minerl")  # registers the ids
    except ImportError as error:
        raise UserError(
            f"{name} needs MineRL ({error}), which plain pip cannot build: install Java 8 (openjdk-8-jdk), "
            "xvfb and the patched wheel v0.4.4-patched of danijar/minerl, best in a virtual environment of "
            "its own; --env voxel_navigate, our own stand-in, comes nearest without it"
        ) from error
    if name == DIAMOND:
        from common.envs import minecraft_diamond

        return minecraft_diamond.make(**options)
    return Minecraft(old_gym.make(TASKS[name]), **options)
