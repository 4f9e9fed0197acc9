"""Small parts that training loops share: `Every` says when something is due, `Curve` keeps scores and costs.

The loops themselves are the papers': each train.py reads like its algorithm box.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from common.atomic import atomic_write
from common.meters import cpu_seconds

COLUMNS = (
    *("frames", "policy_steps", "updates", "wall_s", "cpu_s"),
    *("ret_mean", "ret_low", "ret_high", "episodes"),
)


class Every:
    """How often something became due since the last call: `Every(1000)(frames)`.  period 0: never."""

    def __init__(self, period: int, start: int = 0):
        """start: the count at which a resumed run goes on; what was due until then was done."""
        self.period, self.done = period, start // period if period else 0

    def __call__(self, count: int) -> int:
        """Times that are due at this count (frames, updates ...)."""
        if not self.period:
            return 0
        due, self.done = count // self.period - self.done, count // self.period
        return due


class Curve:
    """The rows of curve.csv (DESIGN section 10) and the clocks of a run, which go on over resumes."""

    def __init__(self, folder: Path):
        self.path, self.rows = Path(folder) / "curve.csv", []
        self._start = time.time(), cpu_seconds()
        self._before = (0.0, 0.0)  # wall and CPU seconds of earlier processes of this run

    def totals(self) -> tuple[float, float]:
        """Wall and CPU seconds of the run so far, living workers counted in."""
        now = time.time(), cpu_seconds()
        return tuple(n - s + b for n, s, b in zip(now, self._start, self._before, strict=True))

    def add(self, frames: int, policy_steps: int, updates: int, returns: np.ndarray) -> dict[str, Any]:
        """A row: the returns [E] of an evaluation, their mean with its 95 % interval; returns the row."""
        from common.scores import summarise

        score = summarise(returns)
        low, high = score["ci95"] or (score["mean"], score["mean"])
        values = (frames, policy_steps, updates, *self.totals(), score["mean"], low, high, len(returns))
        self.rows.append(dict(zip(COLUMNS, map(float, values), strict=True)))
        self._write()
        return self.rows[-1]

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"rows": list(self.rows), "spent": list(self.totals())}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave; rows that were written after it are dropped."""
        self.rows, self._before = list(state["rows"]), tuple(state["spent"])
        self._start = time.time(), cpu_seconds()
        if self.rows or self.path.exists():
            self._write()

    def _write(self) -> None:
        lines = [",".join(f"{row[name]:.10g}" for name in COLUMNS) for row in self.rows]
        with atomic_write(self.path) as file:
            file.write("\n".join([",".join(COLUMNS), *lines, ""]).encode())
