"""Where replay rows lie: one preallocated array per field, in RAM or in a mapped file, and its checkpoints.

A checkpoint writes only what changed.  Every field is cut into chunks of about 4 MB; a chunk that was touched
since the last checkpoint goes to a new file whose name carries the version, an untouched one keeps its file.
So files never change, versions share most of them, and a kill in the middle leaves the previous version
readable, whatever was overwritten in memory.  Fields are apart because latents are rewritten all over the
buffer (DreamerV3) while the images beside them, 12 times as large, stay as they are.

    <run>/state/replay/image-000003-v000012.bin    chunk 3 of field "image", as it was in version 12
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.atomic import atomic_write, write_error
from common.errors import UserError
from common.resources import forecast_disk, forecast_ram

CHUNK_BYTES = 4_000_000  # small against a checkpoint, large against the cost of a file
Fields = Mapping[str, tuple[Sequence[int], Any]]  # name -> (shape of one row, dtype)


class RowStorage:
    """`capacity` rows of named fields that are read and written by slot number (0..capacity-1).

    directory: map the arrays from files there instead of RAM.  They are scratch: a resume rebuilds them.
    """

    def __init__(self, capacity: int, fields: Fields, directory: str | Path | None = None):
        self.capacity = capacity
        self.fields = {name: (tuple(shape), np.dtype(dtype)) for name, (shape, dtype) in fields.items()}
        self.arrays: dict[str, np.ndarray] = {}  # [capacity, ...]
        self._chunk_rows: dict[str, int] = {}
        self._is_dirty: dict[
            str, np.ndarray
        ] = {}  # [chunks] bool: touched since it was last written to a file
        self._chunks: dict[str, dict[int, tuple[str, str]]] = {}  # chunk -> (file name, sha256)
        for name, (shape, dtype) in self.fields.items():
            size = (capacity, *shape)
            self.arrays[name] = (
                np.zeros(size, dtype) if directory is None else _mapped(directory, name, size, dtype)
            )
            self._chunk_rows[name] = rows = max(1, CHUNK_BYTES // (math.prod(shape) * dtype.itemsize))
            self._is_dirty[name] = np.zeros(-(-capacity // rows), bool)
            self._chunks[name] = {}

    def read(self, slots: np.ndarray, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
        """slots [...] -> copies {name: [..., *row]}, of all fields or the named ones."""
        return {name: self.arrays[name][slots] for name in (self.fields if names is None else names)}

    def write(self, slots: np.ndarray, values: Mapping[str, Any]) -> None:
        """slots [K], values {name: [K, *row]}, some or all fields; ValueError, TypeError on bad ones."""
        arrays = {}
        for name, value in values.items():
            shape, dtype = self.fields[name]
            array = np.asarray(value)
            if array.shape != (len(slots), *shape):
                raise ValueError(f"{name} has shape {array.shape}, stored are {(len(slots), *shape)}")
            arrays[name] = array.astype(dtype, casting="same_kind", copy=False)
        for name, array in arrays.items():  # only now: all fields of a row or none
            self.arrays[name][slots] = array
            self._is_dirty[name][slots // self._chunk_rows[name]] = True

    def save(self, folder: Path, version: int) -> tuple[dict[str, Any], dict[Path, str]]:
        """Write the touched chunks -> (tree for `restore`, {every file of this version: sha256}).

        Both go to `RunState.save`, which also removes the files that no kept version needs.  UserError on a
        full disk; what was not written stays marked as touched, so that saving again is always safe.
        """
        for name, array in self.arrays.items():
            rows = self._chunk_rows[name]
            for chunk in np.flatnonzero(self._is_dirty[name]).tolist():
                path = folder / f"{name}-{chunk:06d}-v{version:06d}.bin"
                with atomic_write(path) as file:
                    file.write(array[chunk * rows : (chunk + 1) * rows])
                self._chunks[name][chunk] = (path.name, file.sha256)
                self._is_dirty[name][chunk] = False
        tree = {"capacity": self.capacity, "fields": self._signature(), "chunks": self._chunks}
        return tree, {
            folder / file: digest for chunks in self._chunks.values() for file, digest in chunks.values()
        }

    def restore(self, folder: Path, tree: Mapping[str, Any]) -> None:
        """Fill a fresh storage from a version; UserError where it has other fields or another capacity."""
        for key, mine in (("capacity", self.capacity), ("fields", self._signature())):
            if tree[key] != mine:
                raise UserError(
                    f"the replay in {folder} has {key} {tree[key]}, this run {mine}: use the same config"
                )
        for name, chunks in tree["chunks"].items():
            (shape, dtype), rows = self.fields[name], self._chunk_rows[name]
            for chunk, (file, _) in chunks.items():
                part = self.arrays[name][chunk * rows : (chunk + 1) * rows]
                part[:] = np.fromfile(folder / file, dtype).reshape(-1, *shape)
            self._chunks[name] = {chunk: tuple(entry) for chunk, entry in chunks.items()}

    def _signature(self) -> dict[str, list[Any]]:
        return {name: [list(shape), dtype.str] for name, (shape, dtype) in self.fields.items()}


def storage_bytes(capacity: int, fields: Fields) -> int:
    """What that many rows take."""
    return capacity * sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in fields.values())


def forecast(
    capacity: int,
    fields: Fields,
    flag: str,
    run_dir: str | Path,
    mapped: bool = False,
    rewritten: Fields | None = None,
) -> list[str]:
    """The lines on memory and disk at the start of a run; UserError naming `flag` where it does not fit.

    rewritten: fields that change all over the buffer, so that versions do not share them: while a checkpoint
    is written there are three of these.
    """
    size, rows = storage_bytes(capacity, fields), f"replay of {capacity:,} rows"
    saved = size + 2 * storage_bytes(capacity, rewritten or {})
    if mapped:  # the mapped arrays, and the checkpoints beside them
        return [forecast_disk(size + saved, f"{rows} and its checkpoints", flag, run_dir)]
    return [forecast_ram(size, rows, flag), forecast_disk(saved, "replay checkpoints", flag, run_dir)]


def _mapped(directory: str | Path, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """A zeroed array in a mapped file whose blocks are reserved at once: a full disk is an error here and not
    a SIGBUS in the middle of a run."""
    path = Path(directory) / f"{name}.live"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            if hasattr(os, "posix_fallocate"):  # not on macOS
                os.posix_fallocate(file.fileno(), 0, math.prod(shape) * dtype.itemsize)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise write_error(path, error) from error
    return np.asarray(np.memmap(path, dtype, "r+", shape=shape))
