"""One optimiser for all networks: adaptive gradient clipping, then LaProp (paper, "Optimizer"; HEAD).

LaProp normalises the gradient first and takes the momentum of that; Adam does it the other way round.  An
update's size does not depend on the loss's scale, so loss scales act only where losses share weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from common.faults import finite_flags


class LaProp:
    """AGC per tensor, squared gradients, momentum, linear warm-up.  All in float32, without a host sync."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float,
        warmup: int = 0,
        agc: float = 0.3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-20,
    ):
        """agc: a tensor's gradient norm is at most this share of its own norm, which counts as >= 1e-3."""
        self.parameters = list(parameters)
        self.lr, self.warmup, self.agc, self.betas, self.eps = lr, warmup, agc, (beta1, beta2), eps
        self.mean = [torch.zeros_like(p) for p in self.parameters]
        self.square = [torch.zeros_like(p) for p in self.parameters]
        self.count = torch.zeros((), device=self.parameters[0].device)

    def step(self, loss: Tensor, losses: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Backward, clip, step -> the gradient's norm, finite_flags of losses and norm, for a NonFiniteGuard.

        Where one of them is not finite, nothing changes.
        """
        for parameter in self.parameters:
            parameter.grad = None
        loss.backward()
        for parameter in self.parameters:  # the ones that this loss does not reach
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        norm = torch.stack(torch._foreach_norm([p.grad for p in self.parameters])).norm()
        flags = finite_flags(losses, norm)
        self.apply(flags.all().float())
        return norm, flags

    @torch.no_grad()
    def apply(self, ok: Tensor | float = 1.0) -> None:
        """One step along the gradients that are there; ok = 0: none, and nothing is remembered."""
        (beta1, beta2), params = self.betas, self.parameters
        ok = torch.as_tensor(ok, device=self.count.device)
        grads = [torch.where(ok > 0, p.grad, 0.0) for p in params]
        norms = [torch.stack(torch._foreach_norm(tensors)) for tensors in (params, grads)]
        shrink = 1 / (norms[1] / (self.agc * norms[0].clamp(min=1e-3))).clamp(min=1)
        torch._foreach_mul_(grads, list(shrink.unbind()))
        rate = self.lr * (self.count / self.warmup).clamp(max=1) if self.warmup else self.lr
        self.count += ok
        k = self.count.clamp(min=1)
        keep1, keep2 = 1 - (1 - beta1) * ok, 1 - (1 - beta2) * ok
        torch._foreach_mul_(self.square, keep2)
        torch._foreach_add_(self.square, torch._foreach_mul(torch._foreach_mul(grads, grads), 1 - keep2))
        root = torch._foreach_sqrt(torch._foreach_div(self.square, 1 - beta2**k))
        torch._foreach_add_(root, self.eps)
        torch._foreach_div_(grads, root)
        torch._foreach_mul_(self.mean, keep1)
        torch._foreach_mul_(grads, 1 - keep1)
        torch._foreach_add_(self.mean, grads)
        step = torch._foreach_mul(self.mean, -rate * ok / (1 - beta1**k))
        torch._foreach_add_(params, step)

    def state_dict(self) -> dict:
        """For a checkpoint."""
        return {"mean": self.mean, "square": self.square, "count": self.count}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping) -> None:
        """From a checkpoint."""
        torch._foreach_copy_(self.mean, state["mean"])
        torch._foreach_copy_(self.square, state["square"])
        self.count.copy_(state["count"])
