"""`voxel_navigate` under its own name: it is never taken silently in place of Minecraft."""

from typing import Any

import gymnasium as gym

from common.envs.voxel_navigate import VoxelNavigate
from common.envs.wrappers import DictObservation, option_defaults


def names() -> list[str]:
    """The one name."""
    return ["voxel_navigate"]


def make(name: str, mode: str = "train", obs: str = "auto", **options) -> gym.Env:
    """One world; obs: both the picture and the vector (auto), or one of them."""
    env = VoxelNavigate(**options)
    return env if obs in ("auto", "both") else DictObservation(env, obs)


def options(name: str) -> dict[str, Any]:
    """Option -> default."""
    return option_defaults(VoxelNavigate)


def is_slow(**options) -> bool:
    """Every step draws a picture ray by ray: some 3 ms."""
    return True
