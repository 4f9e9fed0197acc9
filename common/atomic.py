"""Files that are either the old one or the new one, whatever happens in between: kill, power cut, full disk.

The new content goes to `<name>.tmp` in the same folder, is forced to the disk, and takes the name over in one
step (`os.replace`).  A full disk removes the temporary file, keeps the old file and ends in one clear line.
The temporary name is fixed, so that what a killed process left behind is overwritten by the next save.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from common.errors import UserError

DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # no space, over the quota, over the file-size limit


class HashingFile:
    """What `atomic_write` hands out: a write-only file that hashes what passes through.

    A failed write is remembered and raised at the end, not at once: torch's zip writer turns an exception
    inside `write` into a RuntimeError of its own, which no longer says that the disk is full.
    """

    def __init__(self, file: IO[bytes]):
        self._file, self._hash = file, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        """Take any bytes-like object; never raises OSError (see `error`)."""
        view = memoryview(data).cast("B") if len(data) else b""
        if self.error is None:
            try:
                self._file.write(view)
                self._hash.update(view)
            except OSError as error:
                self.error = error
        return len(view)

    def flush(self) -> None:
        """Nothing: `atomic_write` flushes and forces to the disk once, at the end."""

    @property
    def sha256(self) -> str:
        """Hex digest of all that was written."""
        return self._hash.hexdigest()


@contextmanager
def atomic_write(path: str | Path) -> Iterator[HashingFile]:
    """`with atomic_write(p) as file: file.write(...)` replaces p only when all of it is on the disk.

    Raises UserError where the disk is full or not writable; p is then what it was before.
    """
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as raw:
            file = HashingFile(raw)
            yield file
            if file.error is not None:
                raise file.error
            raw.flush()
            os.fsync(raw.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        with suppress(OSError):  # gone already after a success; what failed leaves nothing behind
            temporary.unlink()


def write_json(path: str | Path, tree: Any) -> None:
    """Replace a JSON file atomically."""
    with atomic_write(path) as file:
        file.write(json.dumps(tree, indent=1).encode())


def sync_folder(folder: Path) -> None:
    """Force a folder's entries to the disk: without it a power cut can undo the rename."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_error(path: Path, error: OSError) -> UserError:
    """The line that a user reads when `path` could not be written."""
    if error.errno in DISK_FULL:
        advice = "the last good version is kept; free some space, then start again with --resume"
        return UserError(f"disk full while writing {path} ({error.strerror}): {advice}")
    return UserError(f"cannot write {path} ({error.strerror}): choose another place")


def writable(folder: str | Path, flag: str) -> Path:
    """Make the folder and try it, before work whose results would be lost; UserError naming `flag`."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        line = f"{flag} {folder}: cannot be written ({error.strerror}): name another place"
        raise UserError(line) from error
