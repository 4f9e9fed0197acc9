"""How far a run is: a tqdm bar on a terminal, a plain line now and then elsewhere (log files, CI)."""

import sys
import time
from collections import deque
from collections.abc import Callable
from typing import TextIO

WINDOW_SECONDS = 60.0  # rates are over the last minute: a run that slows down must show it


class Progress:
    """Shows step/total, frames/s, updates/s, last returns and ETA."""

    def __init__(
        self,
        total: int | None,
        *,
        name: str = "",
        unit: str = "frames",
        start: int = 0,
        every: float = 30.0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """start: the step that a resumed run begins at.  every: seconds between plain lines."""
        self.total, self.name, self.unit, self.every, self.clock = total, name, unit, every, clock
        self.stream = sys.stderr if stream is None else stream
        self.returns: deque[float] = deque(maxlen=10)
        self.marks = deque([(clock(), start, 0)])  # (seconds, step, updates)
        self.step, self.updates, self.shown = start, 0, clock()
        self.resumed, self.bar = start > 0, None
        if self.stream.isatty():
            from tqdm import tqdm

            self.bar = tqdm(
                total=total,
                initial=start,
                desc=name or None,
                unit=f" {unit}",
                unit_scale=True,
                file=self.stream,
            )

    def __call__(self, step: int, *, updates: int | None = None, ret: float | None = None) -> None:
        """Note the step reached, gradient steps done so far, and the return of an episode that ended."""
        now = self.clock()
        self.step = step
        self.updates = self.updates if updates is None else updates
        if ret is not None:
            self.returns.append(ret)
        if self.resumed and updates:  # those of the run's first part were not done just now
            self.marks[0] = (*self.marks[0][:2], updates)
            self.resumed = False
        if now - self.marks[-1][0] >= 1:
            self.marks.append((now, step, self.updates))
            while len(self.marks) > 2 and now - self.marks[1][0] >= WINDOW_SECONDS:
                self.marks.popleft()
        if self.bar is not None:
            self.bar.set_postfix_str(", ".join(self._words(short=True)), refresh=False)
            self.bar.update(step - self.bar.n)
        elif now - self.shown >= self.every:
            self.write(self.line())
            self.shown = now

    def rates(self) -> tuple[float, float]:
        """(steps per second, updates per second) over the last minute."""
        seconds, step, updates = self.marks[0]
        spent = max(self.clock() - seconds, 1e-9)
        return (self.step - step) / spent, (self.updates - updates) / spent

    def line(self) -> str:
        """The plain line: `frames 12,000/100,000 (12 %), 850 frames/s, ...`."""
        head = f"{self.name}: " if self.name else ""
        done = f"{self.unit} {self.step:,}"
        if self.total:
            done += f"/{self.total:,} ({100 * self.step / self.total:.0f} %)"
        return head + ", ".join([done, *self._words(short=False)])

    def _words(self, short: bool) -> list[str]:
        speed, updates_speed = self.rates()
        words = [] if short else [f"{speed:,.4g} {self.unit}/s"]  # tqdm shows the speed and the ETA itself
        if updates_speed and self.unit != "updates":  # else the speed says it
            words.append(f"{updates_speed:,.3g} updates/s")
        if self.returns:
            mean = sum(self.returns) / len(self.returns)
            words.append(f"return {mean:.4g} (last {len(self.returns)})")
        if self.total and speed > 0 and not short:
            words.append(f"ETA {_span((self.total - self.step) / speed)}")
        return words

    def write(self, line: str) -> None:
        """A line above the bar, or just a line."""
        if self.bar is not None:
            self.bar.write(line, file=self.stream)
        else:
            self.stream.write(line + "\n")
            self.stream.flush()

    def close(self) -> None:
        """End the bar, or write the last line."""
        if self.bar is not None:
            self.bar.close()
        elif self.step != self.marks[0][1] or len(self.marks) > 1:
            self.write(self.line())


def _span(seconds: float) -> str:
    minutes, seconds = divmod(round(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"
