"""Run the notebooks: every NAME.py (jupytext's percent format) becomes NAME.ipynb with its figures in it.

    python -m foundations.notebooks.build                      all of them, in full (minutes each)
    python -m foundations.notebooks.build 01-mdp --quick       with small budgets, only to see that it runs

The scripts are the truth; an .ipynb whose code differs from its script fails a test.
"""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from common.atomic import atomic_write
from common.cli import run_main
from common.errors import UserError
from common.flags import parse

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]


def names() -> list[str]:
    """01-mdp and its like, in their order."""
    return sorted(path.stem for path in FOLDER.glob("[0-9][0-9]-*.py"))


def execute(name: str, quick: bool):
    """The notebook, run in the repository's root.  RuntimeError, with the cell's words, where one fails."""
    import jupytext
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError
    from traitlets.config import Config

    notebook = jupytext.read(FOLDER / f"{name}.py")
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    transport = "ipc" if os.name == "posix" else "tcp"  # files rather than ports, where there are such
    config = Config(ConnectionFileMixin={"transport": transport})
    where = {"metadata": {"path": str(ROOT)}}
    client = NotebookClient(notebook, config=config, timeout=900, kernel_name="python3", resources=where)
    before = os.environ.get("QUICK")
    os.environ["QUICK"] = "1" if quick else ""
    try:
        client.execute()
    except CellExecutionError as error:
        raise RuntimeError(f"{name}: {error}") from None
    finally:
        os.environ.pop("QUICK") if before is None else os.environ.update(QUICK=before)
    for cell in notebook.cells:  # times of the run, which would change the file each time
        cell.metadata.pop("execution", None)
    return notebook


@dataclass(frozen=True, kw_only=True)
class BuildArgs:
    """What to run."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Notebooks; none: all."""
    quick: bool = False
    """With small budgets; nothing is written."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the notebooks and keep what they show."""
    args = parse(BuildArgs, list(sys.argv[1:] if argv is None else argv), main.__doc__)
    if unknown := [name for name in args.names if name not in names()]:
        raise UserError(f"no notebook {unknown[0]!r}: choose from {', '.join(names())}")
    try:
        import jupytext
        import nbclient  # noqa: F401
    except ImportError as error:
        raise UserError(f"{error.name} is missing: pip install -r requirements-dev.txt") from None
    for name in args.names or names():
        start = time.perf_counter()
        notebook = execute(name, args.quick)
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
        if not args.quick:
            with atomic_write(FOLDER / f"{name}.ipynb") as file:
                file.write(jupytext.writes(notebook, fmt="ipynb").encode())


if __name__ == "__main__":
    run_main(main)
