"""Measured runs as data: benchmarks/learning/<paper>/<env>-<preset>[-name]-s<seed>/ read into records.

A folder holds config.json (config, git commit, versions, machine), curve.csv (columns CURVE) and eval.json:
{"score": {"mean", "sd", "ci95", "episodes", ...}, "random", "blind", "optimum", "published", "command",
"seed", "cpu_s", "wall_s", "frames", "label", "group", and whatever else the run measured, by any name}.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from common.scores import way_to_optimum

ROOT = Path(__file__).resolve().parents[1]
LEARNING = ROOT / "benchmarks" / "learning"
CURVE = (
    *("frames", "policy_steps", "updates", "wall_s", "cpu_s"),
    *("ret_mean", "ret_low", "ret_high", "episodes"),
)
SEED = re.compile(r"(--seed |runs/\S*?-s)\d+")  # what the commands of one recipe differ in


@dataclass(frozen=True)
class Record:
    """One measured run."""

    folder: Path
    eval: dict[str, Any]
    config: dict[str, Any]

    def rows(self, path: str) -> list[dict[str, Any]]:
        """A list of dicts under that name; {name: value} counts as rows of "name" and "value"."""
        found = self.get(path) or []
        if isinstance(found, dict):
            return [
                {"name": name, **value} if isinstance(value, dict) else {"name": name, "value": value}
                for name, value in found.items()
            ]
        return found

    def get(self, path: str | Callable[[Record], Any]) -> Any:
        """A value by its dotted name, out of eval.json, else out of config.json; None where there is none.

        Or what a function makes of the record.

        Made up here: paper, env, way (share of the way from the better blind score to the optimum), and
        recipe (train_command with S for the seed).
        """
        if callable(path):
            return path(self)
        if path == "way":
            return way_to_optimum(
                self.get("score.mean"), *(self.baseline(name) for name in ("random", "blind", "optimum"))
            )
        if path == "recipe":
            return SEED.sub(r"\1S", self.eval["train_command"]) if "train_command" in self.eval else None
        if path == "paper":
            return self.folder.parent.name
        if path == "env":
            env = self.eval.get("env")
            return (env.get("name") if isinstance(env, dict) else env) or _dig(self.config, "config.env")
        for tree in (self.eval, self.config):
            if (value := _dig(tree, path)) is not None:
                return value
        return None

    def baseline(self, name: str) -> float | None:
        """random, blind, optimum, published, blind.others.no-op: a number, or {"value", "protocol", ...}."""
        value = _dig(self.eval, name)
        return value.get("value") if isinstance(value, dict) else value

    def curve(self) -> dict[str, np.ndarray]:
        """curve.csv: column -> [E]."""
        return read_curve(self.folder / "curve.csv")


def _dig(tree: Any, path: str) -> Any:
    for key in path.split("."):
        if not isinstance(tree, dict) or key not in tree:
            return None
        tree = tree[key]
    return tree


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; UserError where the file is missing or something else."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no {path.name} in {path.parent}") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is no JSON ({error}): record the run again") from error
    if not isinstance(tree, dict):
        raise UserError(f"{path} holds no JSON object: record the run again")
    return tree


def read_curve(path: Path) -> dict[str, np.ndarray]:
    """curve.csv -> {column: [E]}; UserError where columns are missing."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    missing = [name for name in CURVE if not rows or name not in rows[0]]
    if missing:
        raise UserError(f"{path} lacks the columns {', '.join(missing)}: it needs {', '.join(CURVE)}")
    return {name: np.array([float(row[name] or "nan") for row in rows]) for name in CURVE}


def load_records(folder: Path = LEARNING) -> list[Record]:
    """All recorded runs, sorted by folder."""
    return [
        Record(path.parent, read_json(path), read_json(path.parent / "config.json"))
        for path in sorted(folder.glob("*/*/eval.json"))
    ]


def group_by(records: Sequence[Record], names: Sequence[str | Callable]) -> dict[tuple, list[Record]]:
    """Records that agree in all of `names` (dotted paths), in the order of their first appearance."""
    groups: dict[tuple, list[Record]] = {}
    for record in records:
        groups.setdefault(tuple(record.get(name) for name in names), []).append(record)
    return groups
