"""Keep a result of foundations/: python -m benchmarks.foundations RUN/dqn_vs_dyna.json --name dyna-agents.

Goes to benchmarks/foundations/NAME.json as it is, but for this machine's folder; the tables of the READMEs
(benchmarks/tables.py) are drawn from there.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from benchmarks.record import compact
from benchmarks.results import ROOT, read_json
from common.atomic import atomic_write
from common.cli import run_main
from common.errors import UserError
from common.flags import parse

FOLDER = ROOT / "benchmarks" / "foundations"


@dataclass(frozen=True, kw_only=True)
class KeepArgs:
    """What to keep."""

    result: Annotated[Path, tyro.conf.Positional]
    """The JSON file that a command of foundations/ wrote."""
    name: str
    """Its name here, such as dyna-agents."""
    out: Path = FOLDER
    """Folder of all kept results."""


def keep(args: KeepArgs) -> Path:
    """Copy; UserError for a file that no such command wrote."""
    tree = read_json(args.result)
    if not {"command", "args", "git", "cpu_s"} <= tree.keys():
        raise UserError(f"{args.result}: no result of a command of foundations/; give its NAME.json")
    tree["args"] = {key: value for key, value in tree["args"].items() if not str(value).startswith("/")}
    path = args.out / f"{args.name}.json"
    with atomic_write(path) as file:
        file.write(compact(tree).encode())
    return path


def main(argv: Sequence[str] | None = None) -> None:
    """Keep one result."""
    args = parse(KeepArgs, list(sys.argv[1:] if argv is None else argv), main.__doc__)
    print(f"kept {keep(args)}; next: make figures")


if __name__ == "__main__":
    run_main(main)
