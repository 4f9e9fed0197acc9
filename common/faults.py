"""What a training loop does when something goes wrong: signals, and losses that are no longer numbers.

`SignalGuard` turns SIGTERM and the first Ctrl-C into a flag, so that the loop saves once more and leaves.
`NonFiniteGuard` skips updates whose loss or gradient is not finite, and gives up after too many in a row.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

from common.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)


class SignalGuard:
    """`with SignalGuard() as guard: while not guard.stop_requested: ...`; then save once more.

    A Ctrl-C after the first signal does what it did before the guard: it raises KeyboardInterrupt.  Outside
    the main thread, where Python takes no handlers, the guard only holds the flag.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.stop_requested = False
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> SignalGuard:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._on_signal) for number in self.SIGNALS}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.stop_requested = True
        # Whoever presses Ctrl-C twice does not want to wait; a second SIGTERM (a scheduler) changes nothing.
        signal.signal(signal.SIGINT, self._previous[signal.SIGINT])
        log.warning("%s: saving once more, then leaving (Ctrl-C: leave at once)", signal.Signals(number).name)


@contextmanager
def children_ignore_interrupts() -> Iterator[None]:
    """Start worker processes inside: Ctrl-C goes to the whole group, and only the parent may answer to it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited by fork and by spawn
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


class NonFiniteGuard:
    """Skips an update whose losses or gradient norm are not finite; UserError after `limit` in a row.

    On the CPU, once per update (all values are looked at in one transfer; on a GPU that is one sync):
        if guard.skip(losses, grad_norm): optim.zero_grad(); continue
    On a GPU without a sync: mask the update with `finite_flags(...).all()` on the device, `guard.record(...)`
    the same flags, and call `guard.flush()` at each log interval; the limit is then noticed that much later.
    """

    def __init__(self, limit: int = 20, checkpoint: str | Path | None = None):
        self.limit, self.checkpoint = limit, checkpoint  # the last good one, kept current by the loop
        self.skipped = 0  # optimiser steps left out, in all; a metric
        self._streaks: dict[str, tuple[int, str]] = {}  # whose steps -> how many in a row, what went first
        self._pending: list[tuple[str, list[str], Tensor]] = []

    def skip(self, losses: Mapping[str, Tensor], grad_norm: Tensor | float | None = None) -> bool:
        """Must this update be left out?  losses: any shapes; UserError naming the first at the limit."""
        return self._count("", _names(losses), finite_flags(losses, grad_norm).tolist())

    def record(self, losses: Mapping[str, Tensor], flags: Tensor, who: str = "") -> None:
        """Remember the `finite_flags` of a step without reading them from the device.

        who: the optimiser, where an update has several: a good step of one does not excuse another.
        """
        self._pending.append((who, _names(losses), flags))

    def flush(self) -> None:
        """Count what was recorded, in one transfer; UserError where `limit` updates in a row were bad."""
        import torch

        pending, self._pending = self._pending, []
        if pending:
            values = torch.cat([flags for _, _, flags in pending]).tolist()
            for who, names, flags in pending:
                self._count(who, names, [values.pop(0) for _ in range(len(flags))])

    def _count(self, who: str, names: list[str], flags: list[bool]) -> bool:
        if all(flags):
            self._streaks.pop(who, None)
            return False
        self.skipped += 1
        in_a_row, first = self._streaks.get(who, (0, ""))
        if not in_a_row:  # later ones are often only infected by the first
            first = names[flags.index(False)]
            log.warning("%s is not finite: update skipped (%d so far)", first, self.skipped)
        in_a_row += 1
        self._streaks[who] = in_a_row, first
        if in_a_row >= self.limit:
            kept = f"last good checkpoint: {self.checkpoint}" if self.checkpoint else "nothing was saved yet"
            advice = "resume with a lower learning rate"
            raise UserError(f"{in_a_row} updates in a row were not finite, first {first}; {kept}: {advice}")
        return True


def finite_flags(losses: Mapping[str, Tensor], grad_norm: Tensor | float | None = None) -> Tensor:
    """bool [K + 1]: is each of the K losses finite everywhere, and the gradient norm?  No device sync."""
    import torch

    values = [torch.as_tensor(value).detach() for value in losses.values()]
    device = values[0].device if values else "cpu"
    norm = torch.as_tensor(0.0 if grad_norm is None else grad_norm, device=device).detach()
    return torch.stack([torch.isfinite(value).all() for value in [*values, norm]])


def _names(losses: Mapping[str, Tensor]) -> list[str]:
    return [*losses, "the gradient norm"]
