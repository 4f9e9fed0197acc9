"""C, the controller: one linear map from what V sees and M remembers to an action (paper 1, section
"Controller (C)").

Evolution strategies treat C as a flat vector of at most a few thousand numbers, so nothing here has
gradients: `act_many` applies a different vector to every row of a batch, which lets a whole generation act
in lockstep.

Shapes: N rows (games in lockstep), P candidate vectors of n numbers, F features, O outputs, A numbers that
M reads.
"""

from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from paper1_world_models.config import ControllerConfig


@dataclass(frozen=True)
class ActionCodec:
    """How the controller's raw outputs become the action M reads and the action the environment takes.

    car     [N, 3] -> steer = tanh, gas = (tanh + 1) / 2, brake = max(0, tanh)  (appendix A.3);
            zero weights drive off
    tanh    [N, A] -> tanh, scaled to the environment's own bounds
    thirds  [N, 1] -> t = tanh; t < -1/3 is the first action, t > 1/3 the last, else the middle;
            M reads -1, 0 or 1
    argmax  [N, A] -> the largest; M reads it one-hot
    """

    kind: str
    size: int  # numbers that M reads
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    @property
    def outputs(self) -> int:
        """Raw numbers that the controller puts out."""
        return 1 if self.kind == "thirds" else self.size

    def squash(self, raw: Tensor) -> Tensor:
        """Raw outputs -> the action that M reads.  [N, O] -> [N, A]"""
        if self.kind == "argmax":
            return torch.nn.functional.one_hot(raw.argmax(-1), self.size).to(raw.dtype)
        t = raw.tanh()
        if self.kind == "car":
            return torch.stack([t[..., 0], (t[..., 1] + 1) / 2, t[..., 2].clamp_min(0)], -1)
        if self.kind == "thirds":
            return (t > 1 / 3).to(raw.dtype) - (t < -1 / 3).to(raw.dtype)
        low, high = raw.new_tensor(self.low), raw.new_tensor(self.high)
        return low + (t + 1) / 2 * (high - low)

    def to_env(self, act: np.ndarray) -> np.ndarray:
        """The action M reads -> the action the environment takes.  [N, A] -> [N, A] float32 or [N] int64"""
        if self.kind == "thirds":
            return act[..., 0].astype(np.int64) + 1
        if self.kind == "argmax":
            return act.argmax(-1)
        return act.astype(np.float32)

    def from_env(self, act: np.ndarray) -> np.ndarray:
        """The inverse of `to_env`, for actions that some other policy chose.  -> [N, A] float32"""
        if self.kind == "thirds":
            return (act[..., None] - 1).astype(np.float32)
        if self.kind == "argmax":
            return np.eye(self.size, dtype=np.float32)[act]
        return act.astype(np.float32)


def make_codec(space: gym.Space, kind: str = "auto") -> ActionCodec:
    """The codec for an action space.  UserError for a space that a linear controller cannot drive."""
    if isinstance(space, gym.spaces.Box) and len(space.shape) == 1:
        if not np.isfinite([space.low, space.high]).all():
            raise UserError(
                f"action bounds {space} are not finite; wrap the env in gymnasium's RescaleAction"
            )
        low, high = tuple(map(float, space.low)), tuple(map(float, space.high))
        kind = {"auto": "tanh"}.get(kind, kind)
        if kind == "tanh" or (kind == "car" and len(low) == 3):
            return ActionCodec(kind, len(low), low, high)
    if isinstance(space, gym.spaces.Discrete):
        kind = {"auto": "argmax"}.get(kind, kind)
        if kind == "thirds" and space.n == 3:
            return ActionCodec(kind, 1)
        if kind == "argmax":
            return ActionCodec(kind, int(space.n))
    raise UserError(
        f"paper 1 cannot drive action space {space} with --controller.actions {kind}: "
        "it takes a flat Box (tanh; car with 3 numbers) or Discrete (argmax; thirds with 3 actions)"
    )


class Controller:
    """The shape of C: which features it reads and how a flat vector is cut into weights.  Holds no weights
    itself."""

    def __init__(self, cfg: ControllerConfig, latents: int, hidden: int, codec: ActionCodec):
        self.cfg, self.codec = cfg, codec
        self.features = latents + hidden * (len(cfg.inputs) - 1)  # "z" | "zh" | "zch"
        sizes = [self.features, *([cfg.hidden] if cfg.hidden else []), codec.outputs]
        self.layers = list(zip(sizes[:-1], sizes[1:], strict=True))
        self.size = sum(i * o + (o if cfg.bias else 0) for i, o in self.layers)
        if self.size > 2500:
            raise UserError(
                f"the controller has {self.size:,} parameters and CMA-ES is hopeless above about 2,500: "
                "use fewer --vae.latents, --rnn.hidden or --controller.inputs z"
            )

    def feature(self, z: Tensor, h: Tensor, c: Tensor) -> Tensor:
        """What C reads.  [N, Z], [N, D], [N, D] -> [N, F]"""
        return torch.cat({"z": [z], "zh": [z, h], "zch": [z, c, h]}[self.cfg.inputs], -1)

    def act_many(self, params: Tensor, feature: Tensor) -> Tensor:
        """Row i acts with vector i.  [N, n], [N, F] -> squashed action [N, A]"""
        x, at = feature, 0
        for k, (n_in, n_out) in enumerate(self.layers):
            weight = params[:, at : at + n_in * n_out].unflatten(1, (n_out, n_in))  # [N, O, F]
            at += n_in * n_out
            x = torch.einsum("nof,nf->no", weight, x)
            if self.cfg.bias:
                x = x + params[:, at : at + n_out]
                at += n_out
            if k < len(self.layers) - 1:
                x = x.tanh()
        return self.codec.squash(x)
