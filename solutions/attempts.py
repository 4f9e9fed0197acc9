"""The student's side: templates written to attempts/PAPER, attempts read back, and what has passed so far."""

import ast
import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from common.errors import UserError
from solutions.catalogue import ROOT, Exercise, template
from solutions.splice import find, has_docstring, parse, signature_of, source_of

ME = "python solutions/exercises.py"
GUARD = "sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])"
SKIPPED = {"runs", "data", "__pycache__"}
PROGRESS = "progress.json"


def write_templates(attempts: Path, paper: str, exercises: Sequence[Exercise]) -> Path:
    """Copy the paper's code, with the bodies of these exercises blanked.  -> the new folder"""
    target = attempts / paper
    for source in sorted((ROOT / paper).rglob("*.py")):
        name = source.relative_to(ROOT / paper)
        if SKIPPED & set(name.parts):
            continue
        text = source.read_text(encoding="utf-8")
        if here := [e for e in exercises if e.file == name.as_posix()]:
            text = template(text, source, here)
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text(text.replace(GUARD, attempt_guard(attempts)), encoding="utf-8")
    return target


def attempt_guard(attempts: Path) -> str:
    """What the guard of the scripts becomes: the attempts first on the path, the repository behind them."""
    inside = attempts.resolve() == ROOT / "attempts"
    root = "str(pathlib.Path(__file__).resolve().parents[2])" if inside else repr(str(ROOT))
    return f"sys.path[:1] = [str(pathlib.Path(__file__).resolve().parents[1]), {root}]"


def set_aside(folder: Path) -> Path:
    """Rename an attempt to the first free name NAME.old-1, NAME.old-2 ...  -> its new place"""
    number = 1
    while (new := folder.with_name(f"{folder.name}.old-{number}")).exists():
        number += 1
    return Path(shutil.move(folder, new))


def read_attempt(attempts: Path, exercise: Exercise) -> tuple[str, Path]:
    """The attempt's file: text and path.  UserError unless the function is there with its old signature."""
    path = attempts / exercise.paper / exercise.file
    if not path.is_file():
        raise UserError(f"no attempt {path}: write the templates with {ME} start {exercise.paper}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no UTF-8 text ({error}); save it as UTF-8") from None
    node = find(parse(text, path), exercise.function)
    if node is None:
        raise UserError(f"{path} has no function {exercise.function} any more; see {ME} show {exercise.id}")
    if signature_of(node) != (wanted := signature_of(exercise.node)):
        raise UserError(f"{path} line {node.lineno}: the signature must stay {wanted}, since others call it")
    return text, path


def function_in(text: str, exercise: Exercise) -> str:
    """The exercise's function in some version of its file."""
    return source_of(text, find(parse(text, exercise.path), exercise.function))


def is_blank(text: str, exercise: Exercise) -> bool:
    """Whether the body is still the template's: nothing but the raise."""
    node = find(parse(text, exercise.path), exercise.function)
    return all(isinstance(line, ast.Raise) for line in node.body[has_docstring(node) :])


def state_of(attempts: Path, exercise: Exercise, passed: dict[str, str]) -> str:
    """passed, changed (since it passed), begun, blank, broken (unreadable); - where there is no attempt."""
    try:
        text, _ = read_attempt(attempts, exercise)
    except UserError:
        return "broken" if (attempts / exercise.paper / exercise.file).is_file() else "-"
    if is_blank(text, exercise):
        return "blank"
    if exercise.id not in passed:
        return "begun"
    return "passed" if passed[exercise.id] == digest(function_in(text, exercise)) else "changed"


def digest(source: str) -> str:
    """A short hash of a function's text."""
    return hashlib.sha256(source.encode()).hexdigest()[:16]


def read_progress(attempts: Path) -> dict[str, str]:
    """Exercise id -> digest of the function that passed."""
    try:
        return dict(json.loads((attempts / PROGRESS).read_text(encoding="utf-8")))
    except (OSError, ValueError):  # a convenience: without it `list` says less, and that is all
        return {}


def write_progress(attempts: Path, passed: dict[str, str]) -> None:
    """Keep it for `list`."""
    (attempts / PROGRESS).write_text(json.dumps(passed, indent=1) + "\n", encoding="utf-8")
