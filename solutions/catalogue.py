"""solutions/exercises.toml read into Exercise objects, with the text of their reference and template."""

import difflib
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from common.errors import UserError
from solutions.splice import Function, blank_body, body_lines, find, parse, replace_bodies, source_of

ROOT = Path(__file__).resolve().parents[1]
FILE = Path(__file__).with_name("exercises.toml")


@dataclass(frozen=True)
class Mistake:
    """A classic way to get it wrong: `old` in the reference becomes `new`; some grading test must fail."""

    what: str
    old: str
    new: str


@dataclass(frozen=True)
class Exercise:
    """One function of a paper, to be written anew."""

    id: str
    title: str
    paper: str  # folder
    file: str  # inside it
    function: str  # `f` or `Class.f`
    hours: float
    todo: str  # the guidelines that stand in the template
    hints: tuple[str, ...]  # each gives away more
    tests: tuple[str, ...]  # ids of the tests that grade it
    mistakes: tuple[Mistake, ...]

    @property
    def module(self) -> str:
        """The reference's import name."""
        return f"{self.paper}.{self.file.removesuffix('.py').replace('/', '.')}"

    @property
    def path(self) -> Path:
        """The reference's file."""
        return ROOT / self.paper / self.file

    @cached_property
    def text(self) -> str:
        """The reference's file as it is."""
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def node(self) -> Function:
        """The reference function."""
        found = find(parse(self.text, self.path), self.function)
        if found is None:
            raise UserError(f"{FILE.name}: {self.id} names {self.function}, which is not in {self.path}")
        return found

    @property
    def source(self) -> str:
        """The reference function's text."""
        return source_of(self.text, self.node)

    @property
    def blank(self) -> str:
        """The body that the template has instead."""
        return blank_body(self.id, self.todo, self.node)

    def with_mistake(self, mistake: Mistake) -> str:
        """The reference's file with one mistake in this function."""
        first, last = body_lines(self.node)
        body = "\n".join(self.text.splitlines()[first - 1 : last])
        if body.count(mistake.old) != 1:
            raise UserError(f"{FILE.name}: {self.id}: {mistake.old!r} must stand once in {self.function}")
        return replace_bodies(self.text, self.path, {self.function: body.replace(mistake.old, mistake.new)})


def template(text: str, path: Path, exercises: Sequence[Exercise]) -> str:
    """A paper's file with the bodies of these exercises blanked."""
    return replace_bodies(text, path, {e.function: e.blank for e in exercises})


def load(file: Path = FILE) -> tuple[Exercise, ...]:
    """All exercises, in the order in which they are meant to be done."""
    with open(file, "rb") as stream:
        rows = tomllib.load(stream)["exercise"]
    return tuple(
        Exercise(
            **{key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
            | {"mistakes": tuple(Mistake(**m) for m in row["mistakes"])}
        )
        for row in rows
    )


def choose(exercises: Sequence[Exercise], names: Sequence[str]) -> list[Exercise]:
    """The exercises with these ids; a paper's folder stands for all of its exercises.  No name: all."""
    papers = list(dict.fromkeys(e.paper for e in exercises))
    known = [e.id for e in exercises]
    for name in names:
        if name not in known and name not in papers:
            near = difflib.get_close_matches(name, known + papers, n=1)
            guess = f" (did you mean {near[0]}?)" if near else ""
            raise UserError(f"no exercise {name!r}{guess}; see python solutions/exercises.py list")
    return [e for e in exercises if not names or e.id in names or e.paper in names]
