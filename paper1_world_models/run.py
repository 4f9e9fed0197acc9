"""What the stages of a run share: its folder, its log, its environment and its off switch."""

import contextlib
import multiprocessing
import os
import resource
import time
from dataclasses import dataclass, field
from pathlib import Path

from common.atomic import atomic_write
from common.env_wrapper import EnvSpec
from common.faults import SignalGuard
from common.logger import Logger
from paper1_world_models.config import Config

CURVE = (
    "frames",
    "policy_steps",
    "updates",
    "wall_s",
    "cpu_s",
    "ret_mean",
    "ret_low",
    "ret_high",
    "episodes",
)


class Stopped(Exception):
    """SIGTERM or Ctrl-C came, the state is saved, the run ends."""


@dataclass
class Run:
    """One run of train.py."""

    cfg: Config
    spec: EnvSpec
    folder: Path
    log: Logger
    guard: SignalGuard
    curve: list[dict] = field(default_factory=list)  # the rows of curve.csv
    frames: int = 0  # frames taken from the real environment so far, all uses together
    started: float = field(default_factory=time.time)
    cpu_before: float = field(default_factory=lambda: cpu_seconds())  # another run in this process, imports
    spent: tuple[float, float] = (0.0, 0.0)  # wall and CPU seconds of earlier processes of this run

    def state(self, stage: str, iteration: int) -> Path:
        """Folder of a stage's resumable state."""
        return self.folder / "state" / f"{stage}-{iteration:02d}"

    def leave_if_asked(self) -> None:
        """Call where nothing would be lost: after a save, or in work that is done again."""
        if self.guard.stop_requested:
            raise Stopped

    def _clock(self) -> tuple[float, float]:
        return time.time() - self.started, cpu_seconds() - self.cpu_before

    def go_on_from(self, parts: dict) -> None:
        """Take frames, curve and clocks over from a saved state of the controller stage."""
        self.frames, self.curve = parts["frames"], parts["curve"]
        now, before = self._clock(), parts["spent"]
        self.spent = tuple(max(s, b - n) for s, b, n in zip(self.spent, before, now, strict=True))

    def totals(self) -> tuple[float, float]:
        """Wall and CPU seconds of the run so far, earlier processes counted in."""
        return tuple(n + s for n, s in zip(self._clock(), self.spent, strict=True))

    def add_to_curve(self, updates: int, mean: float, low: float, high: float, episodes: int) -> None:
        """A row of curve.csv: a score on held-out seeds and what it took (DESIGN section 10)."""
        steps = self.frames // self.spec.frames_per_step
        values = (self.frames, steps, updates, *self.totals(), mean, low, high, episodes)
        self.curve.append(dict(zip(CURVE, values, strict=True)))
        with atomic_write(self.folder / "curve.csv") as file:
            rows = [",".join(f"{row[c]:.10g}" for c in CURVE) for row in self.curve]
            file.write("\n".join([",".join(CURVE), *rows, ""]).encode())


def cpu_seconds() -> float:
    """CPU time of this process, of its ended children and, on Linux, of its living workers."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    total = own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
    for worker in multiprocessing.active_children():
        with contextlib.suppress(OSError):  # it has just ended, or this is no Linux
            ticks = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
            total += sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    return total
