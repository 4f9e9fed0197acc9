"""Frames on disk: every collecting worker appends episodes to its own shard, all read them memory-mapped.

    <root>/<shard>/meta.json        {"format", "fields": {name: [shape, dtype]}}
    <root>/<shard>/<field>.bin      the rows of one field, one after the other, without any header
    <root>/<shard>/episodes.jsonl   one line for each finished episode: {"start", "length", "info"}

Rows follow common/replay_buffer.py.  An episode exists once its line is there, and the line is written after
its rows: a killed worker loses its open episode, nothing else.  Appending, rather than writing into a mapped
file, makes a full disk an error instead of a SIGBUS.  Runs in worker processes: nothing here imports torch.
Letters: R rows in all shards, E episodes, T rows of one episode.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.atomic import atomic_write, write_error, write_json
from common.errors import UserError

FORMAT = 1
SYNC_SECONDS = 2.0  # a power cut (not a kill) may cost what was written since the last sync
Fields = Mapping[str, tuple[Sequence[int], Any]]  # name -> (shape of one row, dtype), as a caller writes it
Row = tuple[tuple[int, ...], np.dtype]  # the same, as kept here

log = logging.getLogger(__name__)


class ShardWriter:
    """Appends the episodes of one worker; an existing shard is continued after its last finished episode.

    Either `add` rows and `finish`, or `add_episode` in one go (for several open games in lockstep).  `room`
    says how many rows of `capacity` are left; nothing is cut.  UserError: other fields, a second writer.
    """

    def __init__(self, folder: str | Path, fields: Fields, capacity: int | None = None):
        self.folder, self.fields, self.capacity = Path(folder), _normal(fields), capacity
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.folder / "lock", "w")  # the kernel lets go of it when the process dies
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise UserError(
                f"another process is collecting into {self.folder}: wait for it or end it"
            ) from error
        if not (self.folder / "meta.json").exists():
            shapes = {name: [list(shape), dtype.str] for name, (shape, dtype) in self.fields.items()}
            write_json(self.folder / "meta.json", {"format": FORMAT, "fields": shapes})
        if (found := _read_fields(self.folder)) != self.fields:
            self._lock.close()
            raise UserError(f"{self.folder} holds rows of {found}, not {self.fields}: give another --logdir")
        self.episodes = _read_episodes(self.folder, self.fields)  # the finished ones
        self.rows = sum(episode["length"] for episode in self.episodes)
        self._open: dict[str, list[np.ndarray]] = {name: [] for name in self.fields}
        with atomic_write(
            self.folder / "episodes.jsonl"
        ) as file:  # without the torn last line, if there is one
            file.write(b"".join(map(_line, self.episodes)))
        names = {**{name: f"{name}.bin" for name in self.fields}, None: "episodes.jsonl"}
        self._files = {key: open(self.folder / name, "ab", buffering=0) for key, name in names.items()}
        self._rewind()
        self._synced = time.monotonic()

    @property
    def room(self) -> float:
        """Rows left of `capacity`, those of the open episode taken off; infinite without a capacity."""
        held = self.rows + len(next(iter(self._open.values())))
        return float("inf") if self.capacity is None else self.capacity - held

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row to the open episode (in memory until `finish`)."""
        assert row.keys() == self.fields.keys(), (sorted(row), sorted(self.fields))
        for name, (shape, dtype) in self.fields.items():
            self._open[name].append(_checked(name, row[name], shape, dtype).copy())

    def finish(self, **info: Any) -> None:
        """Write the open episode.  info: numbers and strings to keep with it (seed, return, ...)."""
        rows, self._open = self._open, {name: [] for name in self.fields}
        self.add_episode({name: np.stack(values) for name, values in rows.items()}, **info)

    def add_episode(self, rows: Mapping[str, np.ndarray], **info: Any) -> None:
        """Append a finished episode, values [T, ...]; UserError on a full disk, all earlier ones are kept."""
        assert rows.keys() == self.fields.keys(), (sorted(rows), sorted(self.fields))
        length = len(next(iter(rows.values())))
        assert length > 0, "an episode without rows"
        info = {key: value.item() if isinstance(value, np.generic) else value for key, value in info.items()}
        episode = {"start": self.rows, "length": length, "info": info}
        try:
            for name, (shape, dtype) in self.fields.items():
                _write_all(self._files[name], _checked(name, rows[name], (length, *shape), dtype))
            if time.monotonic() - self._synced > SYNC_SECONDS:
                self.sync()
            _write_all(self._files[None], _line(episode))
        except OSError as error:
            self._rewind()
            raise write_error(self.folder, error) from error
        self.episodes.append(episode)
        self.rows += length

    def sync(self) -> None:
        """Force everything to the disk, against power cuts; `add_episode` and `close` call it."""
        for file in self._files.values():
            os.fsync(file.fileno())
        self._synced = time.monotonic()

    def close(self) -> None:
        """Sync and let another process write; an open episode is dropped."""
        if not self._lock.closed:
            self.sync()
            for file in (*self._files.values(), self._lock):
                file.close()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _rewind(self) -> None:
        """Cut the files back to the finished episodes: what a kill or a full disk left behind them goes."""
        for name, (shape, dtype) in self.fields.items():
            self._files[name].truncate(self.rows * _row_bytes(shape, dtype))
        self._files[None].truncate(sum(len(_line(episode)) for episode in self.episodes))


class Shards:
    """All rows below a root, read as if each field were one array, though they lie in many files.

    A row's global number counts through the shards in the order of their names.
    """

    def __init__(self, folders: Sequence[Path]):
        self.folders, self.fields = list(folders), _read_fields(folders[0])
        self.arrays: dict[str, list[np.ndarray]] = {name: [] for name in self.fields}  # per shard [rows, ...]
        self.info: list[dict[str, Any]] = []  # E of them: what the writer kept with each episode
        table, counts = [], []
        for number, folder in enumerate(self.folders):
            if _read_fields(folder) != self.fields:
                raise UserError(f"{folder} and {self.folders[0]} hold other fields: remove one of them")
            episodes = _read_episodes(folder, self.fields)
            table += [(number, episode["start"], episode["length"]) for episode in episodes]
            self.info += [episode["info"] for episode in episodes]
            counts.append(sum(episode["length"] for episode in episodes))
            for name, (shape, dtype) in self.fields.items():
                file, size = folder / f"{name}.bin", (counts[-1], *shape)  # an empty file cannot be mapped
                array = np.memmap(file, dtype, "r", shape=size) if counts[-1] else np.empty(size, dtype)
                self.arrays[name].append(array)
        self.episodes = np.array(table, np.int64).reshape(-1, 3)  # [E, 3]: shard, start in the shard, length
        self.offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)  # first global row per shard
        self.total = int(self.offsets[-1])  # R
        self.first = self.offsets[self.episodes[:, 0]] + self.episodes[:, 1]  # [E] first global row

    def rows(self, indices: np.ndarray, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
        """Gather global rows: indices [...] -> {name: [..., *row]}; IndexError outside 0..R-1."""
        indices = np.asarray(indices)
        flat = indices.reshape(-1)
        if flat.size and (flat.min() < 0 or flat.max() >= self.total):
            raise IndexError(f"rows {flat.min()}..{flat.max()} of {self.total}")
        shard = np.searchsorted(self.offsets, flat, side="right") - 1
        parts = [(number, np.flatnonzero(shard == number)) for number in np.unique(shard)]
        out = {}
        for name in self.fields if names is None else names:
            shape, dtype = self.fields[name]
            out[name] = np.empty((flat.size, *shape), dtype)
            for number, where in parts:
                out[name][where] = self.arrays[name][number][flat[where] - self.offsets[number]]
            out[name] = out[name].reshape(*indices.shape, *shape)
        return out

    def episode(self, number: int) -> dict[str, np.ndarray]:
        """The rows of one finished episode, as views on the files: {name: [T, ...]}."""
        shard, start, length = self.episodes[number]
        return {name: arrays[shard][start : start + length] for name, arrays in self.arrays.items()}


def open_shards(root: str | Path) -> Shards:
    """Map every shard below `root` (its subfolders with a meta.json); UserError where there is none."""
    folders = sorted(path.parent for path in Path(root).glob("*/meta.json"))
    if not folders:
        raise UserError(f"no collected frames in {root}: collect some first (train.py without --stage does)")
    return Shards(folders)


def _normal(fields: Fields) -> dict[str, Row]:
    return {name: (tuple(shape), np.dtype(dtype)) for name, (shape, dtype) in fields.items()}


def _row_bytes(shape: Sequence[int], dtype: np.dtype) -> int:
    return math.prod(shape) * dtype.itemsize


def _line(episode: dict[str, Any]) -> bytes:
    return json.dumps(episode).encode() + b"\n"


def _checked(name: str, value: Any, shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """The value as an array of that shape and dtype; ValueError or TypeError where it is another kind."""
    array = np.asarray(value)
    if array.shape != tuple(shape):
        raise ValueError(f"{name} has shape {array.shape}, stored are {tuple(shape)}")
    return array.astype(dtype, casting="same_kind", copy=False)


def _write_all(file: Any, data: np.ndarray | bytes) -> None:
    data = memoryview(data if isinstance(data, bytes) else data.tobytes())
    while len(data):  # a nearly full disk takes a part, and only the next call says why
        data = data[file.write(data) :]


def _read_fields(folder: Path) -> dict[str, Row]:
    try:
        meta = json.loads((folder / "meta.json").read_text())
        fields = _normal({name: tuple(spec) for name, spec in meta["fields"].items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder}/meta.json is damaged: remove {folder} and collect again") from error
    if meta["format"] > FORMAT:
        raise UserError(f"{folder} was written by newer code: update this one with git pull")
    return fields


def _read_episodes(folder: Path, fields: Mapping[str, Row]) -> list[dict[str, Any]]:
    """Finished episodes whose rows are there: a torn last line, or rows lost in a power cut, end the list."""
    index, files = folder / "episodes.jsonl", {name: folder / f"{name}.bin" for name in fields}
    if not all(file.exists() for file in (index, *files.values())):
        return []  # a fresh shard
    stored = min(file.stat().st_size // _row_bytes(*fields[name]) for name, file in files.items())
    episodes: list[dict[str, Any]] = []
    rows = 0
    for line in index.read_bytes().splitlines():
        try:
            episode = json.loads(line)
            whole = episode["start"] == rows
            rows += episode["length"]
        except (ValueError, KeyError, TypeError):
            whole = False
        if not whole or rows > stored:
            log.warning("%s: episodes from number %d on are torn and left out", index, len(episodes))
            break
        episodes.append(episode)
    return episodes
