"""Checkpoints: `model.pt`, the file that eval and visualize need, and `RunState`, all that a resume needs.

Only tensors, numbers, strings, lists, tuples and dicts are written, and `weights_only=True` reads them, so no
file can run code.  Every file is replaced atomically; a torn, foreign or newer one gets one clear line.

    <run>/model.pt             {"format", "paper", "config", "env", "weights", "extra"}
    <run>/state/manifest.json  the last two versions: step, and the content hash of every file; replaced last
    <run>/state/v000012/       model.pt optim.pt rng.pt ...: the parts of version 12
    <run>/state/replay/        files of an external writer (common/replay_storage.py), shared between versions
"""

from __future__ import annotations

import hashlib
import json
import logging
import pickle
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from common.atomic import atomic_write, sync_folder, write_json
from common.errors import UserError

FORMAT = 1  # raised whenever an older reader could misunderstand a newer file
KEEP = 2  # versions of the state that stay on the disk
PARSER_ERRORS = (RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError, zlib.error)

log = logging.getLogger(__name__)


def save_file(path: str | Path, tree: Mapping[str, Any]) -> str:
    """Write a dict atomically, with its "format", and return its sha256; UserError where the disk is full.

    Arrays become tensors, which is what `load_file` gives back; other objects raise TypeError.
    """
    import torch

    with atomic_write(path) as file:
        torch.save({"format": FORMAT, **_plain(tree, "tree")}, file)
    return file.sha256


def load_file(path: str | Path, *, paper: str | None = None) -> dict[str, Any]:
    """Read what `save_file` wrote, on the CPU.  Torn, foreign, newer or another paper's: UserError."""
    import torch

    path = Path(path)
    if not path.is_file():
        raise UserError(f"no checkpoint file at {path}: give a model.pt or a run folder that holds one")
    foreign = UserError(f"{path} is not a checkpoint of this repository: give the model.pt of a run")
    torn = UserError(f"{path} is torn or damaged: use another copy, or train again with --resume RUN_DIR")
    try:
        with zipfile.ZipFile(path) as archive:  # torch itself does not compare the checksums
            if archive.testzip() is not None:
                raise torn
        tree = torch.load(path, map_location="cpu", weights_only=True)
    except (
        zipfile.BadZipFile
    ) as error:  # a cut file has lost the directory at its end, but not its first bytes
        with open(path, "rb") as file:
            raise (torn if file.read(2) in (b"PK", b"") else foreign) from error
    except pickle.UnpicklingError as error:
        what = "holds objects that could run code when loaded, so it is refused"
        raise UserError(f"{path} {what}: only take checkpoints that this repository wrote") from error
    except PARSER_ERRORS as error:  # a zip, but not one of torch's
        raise foreign from error
    except OSError as error:
        raise UserError(
            f"cannot read {path} ({error.strerror}): check the path and its permissions"
        ) from error

    if not isinstance(tree, dict) or not isinstance(tree.get("format"), int):
        raise foreign
    if tree["format"] > FORMAT:
        newer = f"{path} has format {tree['format']}, this code reads up to {FORMAT}"
        raise UserError(f"{newer}: update it with git pull")
    if paper is not None and tree.get("paper") != paper:
        raise UserError(
            f"{path} was written by {tree.get('paper')!r}, not {paper!r}: use that paper's scripts"
        )
    return tree


@contextmanager
def fitting(path: str | Path, paper: str) -> Iterator[None]:
    """Around what makes an agent of a file's tree: UserError, in one line, where the two do not match."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        why = " ".join(str(error).split())[:200]  # torch lists every tensor, a line each
        raise UserError(f"{path} does not fit this version of {paper} ({why}): train again") from error


def find_checkpoint(path: str | Path) -> Path:
    """A checkpoint file, or a run folder with a model.pt in it -> the file; UserError where there is none."""
    path = Path(path).expanduser()
    file = path / "model.pt" if path.is_dir() else path
    if file.is_file():
        return file
    if path.is_dir():
        raise UserError(
            f"no model.pt in {path}: give a run folder that has one, or train first with train.py"
        )
    raise UserError(f"no checkpoint at {path}: give a model.pt or a run folder, or train first with train.py")


def _plain(tree: Any, where: str) -> Any:
    """The same tree, arrays as tensors, numpy numbers as Python's; TypeError on what cannot be read back."""
    import torch

    if isinstance(tree, np.generic):
        return tree.item()
    if tree is None or isinstance(tree, (bool, int, float, str, bytes)):
        return tree
    if isinstance(tree, np.ndarray):
        return torch.from_numpy(np.array(tree, order="C"))
    if isinstance(tree, torch.Tensor):
        tensor = tree.detach().cpu()
        # A slice would drag the whole storage behind it into the file.
        is_slice = tensor.untyped_storage().nbytes() > tensor.numel() * tensor.element_size()
        return tensor.clone() if is_slice else tensor
    if isinstance(tree, Mapping):
        return {key: _plain(value, f"{where}[{key!r}]") for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        items = [_plain(value, f"{where}[{i}]") for i, value in enumerate(tree)]
        return items if isinstance(tree, list) else tuple(items)
    raise TypeError(
        f"{where} is a {type(tree).__name__}: checkpoints hold tensors, numbers, strings, lists, dicts"
    )


class RunState:
    """Named parts of a training state, versioned, of which one manifest names those that belong together.

        state = RunState(run_dir / "state")  # or run_dir / "state" / "vae", one for each stage
        if (found := state.load()) is not None: step, parts = found
        state.save(step, {"model": model.state_dict(), "optim": ..., "rng": ..., "counters": ...})

    A kill at any moment leaves the previous version whole: new files never take the name of old ones, and
    the manifest is replaced last.  What no manifest names is removed after the next save.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._manifest = self.folder / "manifest.json"
        self._versions: list[dict[str, Any]] = self._read_manifest()  # oldest first
        self._newest: int = max((v["version"] for v in self._versions), default=0)

    @property
    def next_version(self) -> int:
        """The number of the version that `save` writes next: external writers put it into new file names."""
        return self._newest + 1

    def save(self, step: int, parts: Mapping[str, Any], *, files: Mapping[Path, str] | None = None) -> None:
        """Write a version.  UserError on a full disk; the previous version then stays the newest.

        `files`: every external file that this version needs -> its sha256; below `folder`, already on the
        disk, and never changed again.  A part is any tree that `save_file` takes.
        """
        version, name = self.next_version, f"v{self.next_version:06d}"
        hashes = {path.relative_to(self.folder).as_posix(): digest for path, digest in (files or {}).items()}
        shutil.rmtree(self.folder / name, ignore_errors=True)  # left by a save that did not finish
        try:
            for part, tree in parts.items():
                hashes[f"{name}/{part}.pt"] = save_file(self.folder / name / f"{part}.pt", {"tree": tree})
            sync_folder(self.folder)
            entry = {"version": version, "step": int(step), "parts": list(parts), "files": hashes}
            keep = [*self._versions, entry][-KEEP:]
            write_json(self._manifest, {"format": FORMAT, "versions": keep})
        except BaseException:
            shutil.rmtree(self.folder / name, ignore_errors=True)  # half a version only fills the disk
            raise
        known = {file for v in [*self._versions, entry] for file in v["files"]}
        self._versions, self._newest = keep, version
        self._remove_unnamed(known)

    def load(self) -> tuple[int, dict[str, Any]] | None:
        """(step, parts) of the newest whole version; None before any save; UserError if all are torn."""
        if not self._versions:
            return None
        while self._versions:
            entry = self._versions[-1]
            damaged = next((f for f, digest in entry["files"].items() if not self._is_whole(f, digest)), None)
            if damaged is None:
                tree = {p: self.folder / f"v{entry['version']:06d}" / f"{p}.pt" for p in entry["parts"]}
                return entry["step"], {part: load_file(path)["tree"] for part, path in tree.items()}
            log.warning("%s is damaged: falling back from step %d", self.folder / damaged, entry["step"])
            self._versions.pop()  # so that the next save keeps the good version beside its own
        raise UserError(f"every saved state in {self.folder} is damaged: remove it to start this run anew")

    def _read_manifest(self) -> list[dict[str, Any]]:
        """The versions in the manifest, oldest first; empty before the first save."""
        if not self._manifest.is_file():
            return []
        try:
            manifest = json.loads(self._manifest.read_text())
            newer = manifest["format"] > FORMAT
            versions = manifest["versions"]
        except (ValueError, KeyError, TypeError) as error:
            line = f"{self._manifest} is damaged: remove {self.folder} to start this run anew"
            raise UserError(line) from error
        if newer:
            raise UserError(f"{self._manifest} was written by newer code: update this one with git pull")
        return versions

    def _is_whole(self, name: str, digest: str) -> bool:
        """Does the file exist with the content that the manifest names?"""
        try:
            with open(self.folder / name, "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == digest
        except OSError:
            return False

    def _remove_unnamed(self, known: set[str]) -> None:
        """Delete what no kept version names: old version folders, and old files beside external ones."""
        named = {self.folder / file for version in self._versions for file in version["files"]}
        folders = {path.parent for path in named}
        for folder in self.folder.glob("v[0-9]*"):
            if folder not in folders:
                shutil.rmtree(folder, ignore_errors=True)
        for folder in {(self.folder / file).parent for file in known} - {self.folder}:
            for path in folder.iterdir() if folder.is_dir() else ():
                if path.is_file() and path not in named:
                    path.unlink(missing_ok=True)
