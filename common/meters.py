"""What a run costs: time per step and rates, peak memory, parameter counts and megabytes, gradient norms.

torch is imported inside the two functions that meet tensors, so that a script can check its arguments first.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.resources import peak_ram

if TYPE_CHECKING:
    import torch
    from torch import nn


class Meter:
    """Counts events and seconds, and gives rates since the last look.

    meter = Meter(); meter.add(frames=4, updates=1); with meter.timed("env"): ...; meter.rates() ->
    {"frames_per_s", "updates_per_s", "env_ms" (per use), "env_share" (of the wall time)}
    """

    def __init__(self) -> None:
        self.totals: dict[str, float] = defaultdict(float)  # since the start of the run
        self._reset()

    def _reset(self) -> None:
        self._since = time.perf_counter()
        self._counts: dict[str, float] = defaultdict(float)
        self._seconds: dict[str, float] = defaultdict(float)
        self._uses: dict[str, int] = defaultdict(int)

    def add(self, **events: float) -> None:
        """Count events, e.g. frames=4, updates=1."""
        for name, amount in events.items():
            self._counts[name] += amount
            self.totals[name] += amount

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Wall time of a block.  On a GPU: until its work is queued, unless the block synchronises."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] += time.perf_counter() - start
            self._uses[name] += 1

    def rates(self) -> dict[str, float]:
        """Events per second and milliseconds per use since the last call, which also starts anew."""
        wall = max(time.perf_counter() - self._since, 1e-9)
        result = {f"{name}_per_s": amount / wall for name, amount in self._counts.items()}
        for name, seconds in self._seconds.items():
            result[f"{name}_ms"] = 1000 * seconds / self._uses[name]
            result[f"{name}_share"] = seconds / wall
        self._reset()
        return result


def cpu_seconds() -> float:
    """CPU time of this process, of its ended children and, on Linux, of its living workers."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    total = own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
    for worker in multiprocessing.active_children():
        with contextlib.suppress(OSError):  # it has just ended, or this is no Linux
            ticks = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
            total += sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    return total


def peak_memory_mb() -> dict[str, float]:
    """Peak resident memory of this process, and of its CUDA tensors where torch uses a GPU; in MiB."""
    result = {"ram_peak_mb": peak_ram() / 2**20}
    torch = sys.modules.get("torch")  # not imported for this: without torch there is no CUDA memory either
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        result["cuda_peak_mb"] = torch.cuda.max_memory_allocated() / 2**20
    return result


def parameter_counts(module: nn.Module) -> dict[str, int]:
    """Parameters per direct child (or own parameter) and `total`; a shared tensor counts once."""
    counts: dict[str, int] = defaultdict(int)
    for name, parameter in module.named_parameters():  # names a shared tensor once
        counts[name.split(".")[0]] += parameter.numel()
    counts["total"] = sum(counts.values())
    return dict(counts)


def model_size_mb(module: nn.Module) -> float:
    """Bytes of parameters and buffers, in MB (10^6 bytes): what the weights take in a checkpoint."""
    tensors = {id(tensor): tensor for tensor in [*module.parameters(), *module.buffers()]}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) / 1e6


def grad_norms(modules: nn.Module | Mapping[str, nn.Module]) -> dict[str, torch.Tensor]:
    """2-norm of all gradients (`grad_norm`) and per module (`grad_norm/NAME`: dict entry or child).

    Scalars stay on the device; call it after backward and before the optimiser (and before clipping).
    """
    import torch

    named: dict[str, Any] = dict(modules) if isinstance(modules, Mapping) else dict(modules.named_children())
    result = {f"grad_norm/{name}": _norm(list(module.parameters())) for name, module in named.items()}
    every = [modules] if not isinstance(modules, Mapping) else list(named.values())
    unique = {id(parameter): parameter for module in every for parameter in module.parameters()}
    result["grad_norm"] = _norm(list(unique.values()))
    return {name: torch.as_tensor(norm) for name, norm in result.items()}


def _norm(parameters: list[torch.Tensor]) -> torch.Tensor:
    import torch

    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not grads:
        return torch.zeros(())
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
