"""Observation and action spaces as data: what networks are built from and what a checkpoint stores.

`Spaces.of(env)` reads a (vector) env of common/env_wrapper.py; `to_tree` and `from_tree` carry it through
model.pt, so that an agent is rebuilt without its environment.  Nothing here imports torch before it is used.
Letters: N envs or rows, A numbers that describe an action, H W C picture, D vector size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from common.errors import UserError

if TYPE_CHECKING:
    import torch

FLAGS = {"is_first": bool, "is_last": bool, "is_terminal": bool}


@dataclass(frozen=True)
class Spaces:
    """The observations by key, and the action: a flat Box in [-1, 1], Discrete, or several choices."""

    obs: dict[str, tuple[int, ...]]  # image*: (H, W, C), vector*: (D,)
    act: int  # A: numbers of a Box, choices of a Discrete
    discrete: bool
    multi: tuple[int, ...] = ()  # of a MultiDiscrete, how many choices each; their sum is A

    @classmethod
    def of(cls, env: Any, name: str = "this env", multi: bool = False) -> Spaces:
        """Of an env or vector env; UserError for an action space that the paper does not take.

        multi: a flat MultiDiscrete goes as well as Box and Discrete.
        """
        obs = getattr(env, "single_observation_space", env.observation_space)
        act = getattr(env, "single_action_space", env.action_space)
        shapes = {key: tuple(space.shape) for key, space in obs.spaces.items()}
        if isinstance(act, gym.spaces.Discrete):
            return cls(shapes, int(act.n), True)
        if isinstance(act, gym.spaces.Box):
            return cls(shapes, int(np.prod(act.shape)), False)
        flat = isinstance(act, gym.spaces.MultiDiscrete) and act.nvec.ndim == 1
        if multi and flat:
            nvec = tuple(int(n) for n in act.nvec)
            return cls(shapes, sum(nvec), True, nvec)
        kinds = (
            "Box, Discrete or flat MultiDiscrete ones"
            if multi
            else "Box or Discrete ones (paper 4 takes more)"
        )
        told = " ".join(str(act).split())  # of an array numpy writes several lines
        raise UserError(f"{name} has actions {told}: this paper takes {kinds}")

    @property
    def choices(self) -> tuple[int, ...]:
        """How many there are to choose from, for each choice; empty where actions are continuous."""
        return self.multi or ((self.act,) if self.discrete else ())

    @property
    def images(self) -> list[str]:
        """Keys of the pictures."""
        return [key for key in self.obs if key.startswith("image")]

    @property
    def vectors(self) -> list[str]:
        """Keys of the vectors."""
        return [key for key in self.obs if not key.startswith("image")]

    def fields(self) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Replay fields of a stored row (common/replay_buffer.py)."""
        obs = {
            key: (shape, np.uint8 if key in self.images else np.float32) for key, shape in self.obs.items()
        }
        act = {"act": ((self.act,), np.float32)}
        if self.discrete:
            act = {"act": ((len(self.multi),) if self.multi else (), np.int64)}
        return obs | act | {"rew": ((), np.float32)} | {name: ((), kind) for name, kind in FLAGS.items()}

    def encode(self, act: torch.Tensor) -> torch.Tensor:
        """Stored actions for networks.  int [...] or [..., K] -> one-hot [..., A]; float [..., A] stays."""
        import torch

        if not self.discrete:
            return act.float()
        parts = act.long().unbind(-1) if self.multi else (act.long(),)
        pairs = zip(parts, self.choices, strict=True)
        return torch.cat([torch.nn.functional.one_hot(part, count) for part, count in pairs], -1).float()

    def decode(self, act: torch.Tensor) -> np.ndarray:
        """The inverse: [..., A] -> int64 [...] or [..., K], or float32 [..., A] clipped to [-1, 1]."""
        if self.multi:
            parts = [part.argmax(-1).cpu().numpy() for part in act.split(self.multi, -1)]
            return np.stack(parts, -1)
        if self.discrete:
            return act.argmax(-1).cpu().numpy()
        return act.clamp(-1, 1).float().cpu().numpy()

    def random(self, rng: np.random.Generator, num: int) -> np.ndarray:
        """Uniform actions for N envs."""
        if self.multi:
            return rng.integers(self.multi, size=(num, len(self.multi)))
        if self.discrete:
            return rng.integers(self.act, size=num)
        return rng.uniform(-1, 1, (num, self.act)).astype(np.float32)

    def check_same(self, other: Spaces, mine: str, theirs: str) -> None:
        """UserError where an agent of env `mine` cannot play env `theirs`."""
        if self != other:
            raise UserError(
                f"the agent of {mine} sees {self}, {theirs} gives {other}: choose another --env, or train"
            )

    def __str__(self) -> str:
        obs = ", ".join(f"{key} {'x'.join(map(str, shape))}" for key, shape in self.obs.items())
        act = "+".join(map(str, self.choices)) if self.discrete else self.act
        return f"{obs} with {act} {'choices' if self.discrete else 'action numbers'}"

    def to_tree(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        tree = {"obs": {k: list(v) for k, v in self.obs.items()}, "act": self.act, "discrete": self.discrete}
        return tree | {"multi": list(self.multi)}

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> Spaces:
        """The inverse."""
        obs = {key: tuple(shape) for key, shape in tree["obs"].items()}
        return cls(obs, tree["act"], tree["discrete"], tuple(tree.get("multi", ())))  # papers 2, 3: none
