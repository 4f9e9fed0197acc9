"""The observation model: a frame becomes K categorical latents of C classes, and back.

The starting project calls it a VAE; there is no prior and no KL term, so it is a categorical autoencoder.
`cells`: kernel 1 on both sides, a class for each cell of the board, so that what one cell shows cannot leak
into another's code and the dynamics stay local.  `board`: one code for the whole 4x4 frame (8 x 8), as in the
starting project.  `deep`: a CNN of four levels for 64x64 frames.
Shapes: B frames, [B, 3, H, W] in 0..1, K latents, C classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundations.tssm.config import CodeConfig


def straight_through(hard: Tensor, probs: Tensor) -> Tensor:
    """Exactly `hard` forward, the gradient of `probs` backward.  [..., C] twice -> [..., C]"""
    return hard + (probs - probs.detach())


def sample_one_hot(probs: Tensor) -> Tensor:
    """A draw of each categorical.  [..., C] -> one-hot [..., C]"""
    index = torch.multinomial(probs.detach().flatten(0, -2), 1).reshape(probs.shape[:-1])
    return F.one_hot(index, probs.shape[-1]).to(probs.dtype)


class Autoencoder(nn.Module):
    """Encoder, categorical code, decoder."""

    def __init__(self, cfg: CodeConfig):
        super().__init__()
        self.cfg = cfg
        self.encoder, self.decoder = {"cells": _cells, "board": _board, "deep": _deep}[cfg.kind](cfg)

    def logits(self, obs: Tensor) -> Tensor:
        """Frames -> logits of the code.  [B, 3, H, W] -> [B, K, C]"""
        out = self.encoder(obs - 0.5)
        if self.cfg.kind == "cells":
            out = out.flatten(2).transpose(1, 2)  # [B, C, 4, 4] -> [B, K, C]
        return out.reshape(len(obs), self.cfg.latents, self.cfg.classes)

    def probs(self, obs: Tensor) -> Tensor:
        """The distribution that is drawn from, a little uniform.  [B, 3, H, W] -> [B, K, C]"""
        share = self.cfg.unimix
        return (1 - share) * self.logits(obs).softmax(-1) + share / self.cfg.classes

    def encode(self, obs: Tensor) -> Tensor:
        """The likeliest classes.  [B, 3, H, W] -> int64 [B, K]"""
        return self.logits(obs).argmax(-1)

    def one_hot(self, codes: Tensor) -> Tensor:
        """Classes -> what dynamics, actor and decoder read.  [..., K] -> float [..., K, C]"""
        return F.one_hot(codes, self.cfg.classes).float()

    def decode(self, stoch: Tensor) -> Tensor:
        """Code -> logits of the pixels.  [B, K, C] -> [B, 3, H, W]"""
        if self.cfg.kind == "cells":
            side = round(self.cfg.latents**0.5)
            return self.decoder(stoch.transpose(1, 2).unflatten(2, (side, side)))
        return self.decoder(stoch.flatten(1))

    def reconstruct(self, obs: Tensor) -> Tensor:
        """Through the likeliest code and back.  [B, 3, H, W] -> [B, 3, H, W] in 0..1"""
        return self.decode(self.one_hot(self.encode(obs))).sigmoid()

    def loss(self, obs: Tensor, mean_frame: Tensor, hard_share: float) -> dict[str, Tensor]:
        """Weighted cross-entropy of the pixels.  [B, 3, H, W], [3, H, W] -> {"image": [B]}

        A frame passes its draw with probability `hard_share`, else its probabilities.  Rising from 0 to 1 it
        lets the classes part before they must be used one at a time: without it one of five attempts works.
        """
        probs = self.probs(obs)
        hard = straight_through(sample_one_hot(probs), probs)  # [B, K, C]
        is_hard = torch.rand(len(obs), 1, 1, device=obs.device) < hard_share
        logits = self.decode(torch.where(is_hard, hard, probs))
        rarity = (obs - mean_frame).abs().mean(1, keepdim=True)  # [B, 1, H, W]
        error = F.binary_cross_entropy_with_logits(logits, obs, reduction="none")  # [B, 3, H, W]
        return {"image": ((1 + self.cfg.rare_weight * rarity) * error).sum((1, 2, 3))}


def is_exact(pred: Tensor, obs: Tensor) -> Tensor:
    """Is every pixel within half the range, on a board its very colour?  [B, 3, H, W] twice -> bool [B]"""
    return ((pred - obs).abs() < 0.5).flatten(1).all(1)


def _cells(cfg: CodeConfig) -> tuple[nn.Module, nn.Module]:
    """Kernel 1: [B, 3, 4, 4] -> [B, C, 4, 4] and back."""
    return _pointwise(3, cfg.width, cfg.classes), _pointwise(cfg.classes, cfg.width, 3)


def _pointwise(inputs: int, width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, width, 1),
        nn.ELU(),
        nn.Conv2d(width, width, 1),
        nn.ELU(),
        nn.Conv2d(width, outputs, 1),
    )


def _board(cfg: CodeConfig) -> tuple[nn.Module, nn.Module]:
    """One code for a 4x4 frame: [B, 3, 4, 4] -> [B, K * C] and back."""
    size, code = cfg.width * 16, cfg.latents * cfg.classes
    encoder = nn.Sequential(
        *(
            nn.Conv2d(3, cfg.width, 3, padding=1),
            nn.ELU(),
            nn.Conv2d(cfg.width, cfg.width, 3, padding=1),
            nn.ELU(),
        ),
        *(nn.Flatten(), nn.Linear(size, 128), nn.ELU(), nn.Linear(128, code)),
    )
    decoder = nn.Sequential(
        *(nn.Linear(code, 128), nn.ELU(), nn.Linear(128, size), nn.ELU(), nn.Unflatten(1, (cfg.width, 4, 4))),
        *(nn.Conv2d(cfg.width, cfg.width, 3, padding=1), nn.ELU(), nn.Conv2d(cfg.width, 3, 1)),
    )
    return encoder, decoder


def _deep(cfg: CodeConfig) -> tuple[nn.Module, nn.Module]:
    """Four levels of stride 2: [B, 3, 64, 64] -> [B, K * C] and back."""
    widths, code = [cfg.width * 2**i for i in range(4)], cfg.latents * cfg.classes  # 32, 64, 128, 256
    down = [
        layer
        for a, b in zip([3, *widths], widths, strict=False)
        for layer in (nn.Conv2d(a, b, 4, 2, 1), nn.GroupNorm(1, b), nn.ELU())
    ]
    up = [
        layer
        for a, b in zip(widths[:0:-1], widths[-2::-1], strict=True)
        for layer in (nn.ConvTranspose2d(a, b, 4, 2, 1), nn.GroupNorm(1, b), nn.ELU())
    ]
    size = widths[-1] * 16  # 4x4 cells are left
    encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(size, code))
    decoder = nn.Sequential(
        *(nn.Linear(code, size), nn.ELU(), nn.Unflatten(1, (widths[-1], 4, 4)), *up),
        nn.ConvTranspose2d(widths[0], 3, 4, 2, 1),
    )
    return encoder, decoder
