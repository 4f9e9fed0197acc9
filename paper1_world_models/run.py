"""What the stages of a run share: its folder, its log, its curve, its environment and its off switch."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from common.env_wrapper import EnvSpec
from common.faults import SignalGuard
from common.logger import Logger
from common.loop import Curve
from common.meters import Meter, peak_memory_mb
from paper1_world_models.config import Config


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
    frames: int = 0  # frames taken from the real environment so far, all uses together
    meter: Meter = field(default_factory=Meter)  # of the present stage
    is_busy: bool = False  # was anything left to do when the present stage began?
    curve: Curve = field(init=False)

    def __post_init__(self) -> None:
        self.curve = Curve(self.folder)

    def stage(self, name: str, total: int, start: int, unit: str = "updates") -> None:
        """Begin a stage in the log, at the step that its saved state is at."""
        self.log.stage(name, total=total, unit=unit, start=start)
        self.meter, self.is_busy = Meter(), start < total

    def state(self, stage: str, iteration: int) -> Path:
        """Folder of a stage's resumable state."""
        return self.folder / "state" / f"{stage}-{iteration:02d}"

    def leave_if_asked(self) -> None:
        """Call where nothing would be lost: after a save, or in work that is done again."""
        if self.guard.stop_requested:
            raise Stopped

    def costs(self) -> dict[str, float]:
        """Rates and milliseconds since the last call, and the peak of memory."""
        return {**self.meter.rates(), **peak_memory_mb()}

    def scored(self, updates: int, returns: np.ndarray) -> None:
        """A row of curve.csv: a score on held-out seeds and what it took (DESIGN section 10)."""
        self.curve.add(self.frames, self.frames // self.spec.frames_per_step, updates, returns)

    def totals(self) -> dict:
        """What a saved state of the controller stage keeps of the run."""
        return {"frames": self.frames, "curve": self.curve.rows, "spent": list(self.curve.totals())}

    def go_on_from(self, parts: dict) -> None:
        """Take frames, curve and clocks over from such a state."""
        self.frames = parts["frames"]
        self.curve.restore({"rows": parts["curve"], "spent": parts["spent"]})
