"""One optimiser step with its clipping and its guard, the same in every paper that has more than one loss.

The three Dreamers clip the global norm and step Adam, for each network its own.  A step whose loss or
gradient is not finite is left out on the device (torch's fused Adam takes `found_inf`), without waiting for
it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from common.faults import NonFiniteGuard, finite_flags


class ClippedAdam:
    """Adam (AdamW with `decay`) over some parameters, gradients clipped to a global norm.

    Where a batch does not fit at once: `accumulate` for each part of it, then `apply`.
    """

    def __init__(
        self,
        name: str,
        parameters: Iterable[nn.Parameter],
        guard: NonFiniteGuard,
        *,
        lr: float,
        eps: float,
        clip: float,
        decay: float = 0.0,
        undecayed: Iterable[nn.Parameter] = (),
    ):
        """name: in the metrics.  decay: AdamW's; each step multiplies weights by 1 - lr * decay.

        undecayed: further parameters, which are trained but do not decay.
        """
        self.name, self.guard, self.clip = name, guard, clip
        groups = [{"params": list(parameters)}, {"params": list(undecayed), "weight_decay": 0.0}]
        groups = [group for group in groups if group["params"]]
        self.parameters = [p for group in groups for p in group["params"]]
        kind = torch.optim.AdamW if decay else torch.optim.Adam
        self.adam = kind(groups, lr=lr, eps=eps, weight_decay=decay, fused=True)

    def step(self, loss: Tensor, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Backward into these parameters only, clip, step.  losses: what to name where one is not finite."""
        self.clear()
        self.accumulate(loss)
        return self.apply(loss, losses)

    def accumulate(self, loss: Tensor) -> None:
        """Backward into these parameters only, onto the gradients that they have."""
        loss.backward(inputs=self.parameters)

    def apply(self, loss: Tensor, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Clip and step by the gradients that were accumulated; they stay until `clear` or the next step."""
        norm = nn.utils.clip_grad_norm_(self.parameters, self.clip, foreach=True)
        flags = finite_flags({**losses, f"{self.name} loss": loss}, norm)
        self.adam.found_inf = (~flags.all()).float()
        self.adam.step()
        self.guard.record({**losses, f"{self.name} loss": loss}, flags, self.name)
        return {f"grad_norm/{self.name}": norm.detach(), f"loss/{self.name}": loss.detach()}

    def clear(self) -> None:
        """No gradients."""
        self.adam.zero_grad(set_to_none=True)

    def set_lr(self, lr: float) -> None:
        """Learning rate from now on."""
        for group in self.adam.param_groups:
            group["lr"] = lr

    def state_dict(self) -> dict:
        """For a checkpoint."""
        return self.adam.state_dict()

    def load_state_dict(self, state: dict) -> None:
        """From a checkpoint."""
        self.adam.load_state_dict(state)
