"""The toys under their names: `toy_dodge` and its like, alone or as their native batch."""

from typing import Any

import gymnasium as gym
from gymnasium.vector import VectorEnv

from common.envs.toys import TOYS, ToyEnv, ToyVectorEnv, toy_core
from common.envs.wrappers import option_defaults, pixels_only


def names() -> list[str]:
    """All toys."""
    return list(TOYS)


def make(name: str, mode: str = "train", obs: str = "auto", **options) -> gym.Env:
    """One game."""
    pixels_only(name, obs)
    return ToyEnv(toy_core(name), **_of_mode(mode, options))


def make_vector(name: str, num: int, mode: str = "train", obs: str = "auto", **options) -> VectorEnv:
    """num games in lockstep, without a process or a loop per game."""
    pixels_only(name, obs)
    return ToyVectorEnv(toy_core(name), num, **_of_mode(mode, options))


def _of_mode(mode: str, options: dict[str, Any]) -> dict[str, Any]:
    """Evaluations do not know `levels`: they begin anywhere."""
    return options if mode == "train" else {key: value for key, value in options.items() if key != "levels"}


def options(name: str) -> dict[str, Any]:
    """Option -> default."""
    return option_defaults(toy_core(name))


def can_terminate(name: str, **options) -> bool:
    """Of some toys the time limit is the only end."""
    ends = {"toy_point": False, "toy_catch": options.get("drops") == 1}
    return ends.get(name, options.get("terminal", True))
