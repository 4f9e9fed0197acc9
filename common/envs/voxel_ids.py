"""`voxel_navigate`: the name is taken; the world itself comes with paper 4."""

from typing import Any

import gymnasium as gym

from common.errors import UserError


def names() -> list[str]:
    """The one name."""
    return ["voxel_navigate"]


def make(name: str, mode: str = "train", obs: str = "auto", **options) -> gym.Env:
    """Not yet: say so."""
    raise UserError(f"{name} comes with paper 4 (DreamerV3) and is not here yet: try --env crafter_reward")


def options(name: str) -> dict[str, Any]:
    """None yet."""
    return {}
