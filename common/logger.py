"""What a run tells the outside: metrics.jsonl, TensorBoard events, and the progress line.

Metrics may be tensors on any device: they are kept there, and all that waits is fetched in one transfer per
log interval, because reading a single number makes the CPU wait for the GPU.  metrics.jsonl holds one
object per line, `{"step": 1000, "time": 12.5, "loss/recon": 31.2}`; not-a-number is the string "nan", so
that the file stays JSON. A run that is resumed cuts the file back to the step of its checkpoint, and a torn
last line is dropped.
"""

import json
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from common.atomic import atomic_write, write_error
from common.errors import UserError
from common.event_file import EventFile
from common.progress import Progress


class Logger:
    """Scalars, pictures, videos and text of one run.  Use it in a `with`, or call close()."""

    def __init__(
        self,
        run_dir: str | Path,
        *,
        total: int | None = None,
        unit: str = "frames",
        tensorboard: bool = True,
        resume_step: int | Mapping[str, int] | None = None,
        flush_seconds: float = 10.0,
        line_seconds: float = 30.0,
        stream: TextIO | None = None,
    ):
        """total: for the ETA.  resume_step: drop the rows after it; {stage: step} where there are stages."""
        self.run_dir, self.path = Path(run_dir), Path(run_dir) / "metrics.jsonl"
        self.stage_name, self.flush_seconds = "", flush_seconds
        self._rows: list[tuple[dict[str, Any], dict[str, Any]]] = []  # where, what
        self._sums: dict[str, tuple[Any, int]] = {}
        self._options = {"every": line_seconds, "stream": stream}
        self.run_dir.mkdir(parents=True, exist_ok=True)
        last = cut_back(self.path, resume_step)
        start = resume_step if isinstance(resume_step, int) else 0
        self.progress = Progress(total, unit=unit, start=start, **self._options)
        self._clock = time.monotonic() - last  # a resumed run goes on counting where it stopped
        self._flushed = time.monotonic()
        self._file = self._open()
        self._events: EventFile | None = None
        if tensorboard:
            try:
                purge = start + 1 if isinstance(resume_step, int) else None
                self._events = EventFile(self.run_dir, purge_step=purge)
            except UserError as missing:  # metrics.jsonl has everything; a run of days must not end for this
                self.note(f"no TensorBoard events: {missing}")

    def __enter__(self) -> "Logger":
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def stage(self, name: str, *, total: int | None = None, unit: str = "updates", start: int = 0) -> None:
        """Begin a part of the run with its own step counter: rows say "stage", curves are named NAME/..."""
        self.flush()
        self.progress.close()
        self.stage_name = name
        self.progress = Progress(total, name=name, unit=unit, start=start, **self._options)

    def accumulate(self, metrics: Mapping[str, Any]) -> None:
        """Add one update's metrics to running means on their device; the next `scalars` reports them."""
        for name, value in metrics.items():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = (total + _detached(name, value, copy=count == 0), count + 1)

    def scalars(self, step: int, metrics: Mapping[str, Any] | None = None, *, means: bool = True) -> None:
        """One row: numbers, or tensors with one element, and with `means` those of what was accumulated."""
        row = {}
        if means:
            row = {name: total / count for name, (total, count) in self._sums.items()}
            self._sums = {}
        row.update({name: _detached(name, value) for name, value in (metrics or {}).items()})
        head = {"step": int(step), "time": round(time.monotonic() - self._clock, 3)}
        self._rows.append((head | ({"stage": self.stage_name} if self.stage_name else {}), row))
        if time.monotonic() - self._flushed >= self.flush_seconds:
            self.flush()

    def episode(self, step: int, ret: float, length: int, **more: float) -> None:
        """An episode that ended: a row, and the return for the progress line."""
        self.scalars(step, {"episode/return": ret, "episode/length": length, **more}, means=False)
        self.progress(step, ret=ret)

    def image(self, step: int, name: str, frame: np.ndarray) -> None:
        """A picture, uint8 [H, W, C], for TensorBoard."""
        self._tell("image", step, name, frame)

    def video(self, step: int, name: str, frames: np.ndarray, fps: int = 20) -> None:
        """A clip, uint8 [T, H, W, C], for TensorBoard.  Files in videos/ are common.video's."""
        self._tell("video", step, name, frames, fps)

    def text(self, step: int, name: str, text: str) -> None:
        """Markdown for TensorBoard."""
        self._tell("text", step, name, text)

    def note(self, line: str) -> None:
        """A line for the person who watches, above the progress bar."""
        self.progress.write(line)

    def flush(self) -> None:
        """Fetch what waits on devices in one transfer, and write it.  UserError on a full disk."""
        self._flushed = time.monotonic()
        rows, self._rows = self._rows, []
        if not rows:
            return
        values = iter(_fetch([value for _, row in rows for value in row.values()]))
        done = [(head, {name: next(values) for name in row}) for head, row in rows]
        try:
            self._file.writelines(json.dumps(head | _json_able(row)) + "\n" for head, row in done)
            self._file.flush()
        except OSError as error:
            raise write_error(self.path, error) from error
        for head, row in done:
            wall = time.time() - (time.monotonic() - self._clock) + head["time"]
            self._tell("scalars", head["step"], {self._tag(k, head): v for k, v in row.items()}, wall)
        self._tell("flush")

    def close(self) -> None:
        """Write everything and end the progress line."""
        if self._file.closed:
            return
        try:
            if self._sums:
                self.scalars(self.progress.step)
            self.flush()
        finally:
            self._file.close()
            self.progress.close()
            self._tell("close")

    def _open(self) -> TextIO:
        try:
            return open(self.path, "a", encoding="utf-8")
        except OSError as error:
            raise write_error(self.path, error) from error

    def _tag(self, name: str, head: Mapping[str, Any]) -> str:
        return f"{head['stage']}/{name}" if head.get("stage") else name

    def _tell(self, what: str, *args: Any) -> None:
        """Call the event file, if there is one; without room for it the run goes on with the jsonl."""
        if self._events is None:
            return
        if what in ("image", "video", "text"):
            args = (args[0], self._tag(args[1], {"stage": self.stage_name}), *args[2:])
        try:
            getattr(self._events, what)(*args)
        except OSError as error:
            self._events = None
            self.note(f"TensorBoard events end here: {error}")


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; a torn last line is left out, "nan" and "inf" are floats again."""
    return [{k: _number(v) if k != "stage" else v for k, v in row.items()} for row in _rows(Path(path))]


def cut_back(path: Path, upto: int | Mapping[str, int] | None = None) -> float:
    """Drop a torn last line and the rows after `upto`; returns the time of the last row that stays.

    upto: a step, or {stage: step} (-1: the whole stage; a stage that is not named stays whole).
    """
    if not path.exists():
        return 0.0
    kept = []
    for row in _rows(path):
        limit = upto.get(row.get("stage", "")) if isinstance(upto, Mapping) else upto
        if limit is None or row["step"] <= limit:
            kept.append(row)
    text = "".join(json.dumps(row) + "\n" for row in kept).encode()
    if text != path.read_bytes():
        with atomic_write(path) as file:
            file.write(text)
    return max((float(row.get("time", 0.0)) for row in kept), default=0.0)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """Raises UserError where a line other than the last is no JSON object: then the file is not ours."""
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict) or "step" not in row:
                raise ValueError("no step")
        except ValueError as error:
            if number == len(lines):  # what follows the last newline: nothing, or a write that was cut short
                return
            raise UserError(f"{path} line {number} is damaged ({error}); move the file away") from None
        yield row


def _detached(name: str, value: Any, copy: bool = True) -> Any:
    """A number, or a copy of a tensor without its graph: CUDA graphs reuse the memory of their outputs."""
    if hasattr(value, "detach"):
        if value.numel() != 1:
            raise ValueError(
                f"metric {name!r} has shape {tuple(value.shape)}; a scalar is wanted, e.g. its mean()"
            )
        value = value.detach().reshape(())
        return value.clone() if copy else value
    return float(value)


def _fetch(values: list[Any]) -> list[float]:
    """Numbers and 0-dim tensors -> floats, with one transfer per device."""
    out = [value if isinstance(value, float) else math.nan for value in values]
    devices: dict[Any, list[int]] = {}
    for index, value in enumerate(values):
        if not isinstance(value, float):
            devices.setdefault(value.device, []).append(index)
    for device, indices in devices.items():
        import torch  # only here: rows of plain numbers work without it

        wide = torch.float32 if device.type == "mps" else torch.float64
        stacked = torch.stack([values[index].to(wide) for index in indices]).cpu()
        for index, number in zip(indices, stacked.tolist(), strict=True):
            out[index] = number
    return out


def _json_able(row: Mapping[str, float]) -> dict[str, Any]:
    return {name: value if math.isfinite(value) else str(value) for name, value in row.items()}


def _number(value: Any) -> Any:
    return float(value) if value in ("nan", "inf", "-inf") else value
