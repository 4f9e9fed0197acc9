"""What every notebook needs: small budgets under QUICK=1, a folder for its files, pictures and tables."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from foundations.commands import run_command

QUICK = bool(os.environ.get("QUICK"))  # set by the tests: the same cells, with less of everything
OUT = Path(tempfile.mkdtemp(prefix="foundations-"))  # pictures go on living in the notebook itself
torch.set_num_threads(1)


def budget(full: int, quick: int) -> int:
    """How much of something: the first, or the second under QUICK=1."""
    return quick if QUICK else full


def minigrid(command: str, *flags: object, out: Path = OUT) -> None:
    """`python -m foundations.minigrid COMMAND --flags`"""
    from foundations.minigrid.__main__ import COMMANDS

    run_command("foundations.minigrid", COMMANDS, [command, *map(str, flags), "--out", str(out)])


def tssm(command: str, *flags: object, out: Path = OUT) -> None:
    """`python -m foundations.tssm COMMAND --flags`"""
    from foundations.tssm.commands import COMMANDS

    run_command("foundations.tssm", COMMANDS, [command, *map(str, flags), "--out", str(out)])


def show(path: str | Path):
    """A picture or a gif that some function has written."""
    from IPython.display import Image

    path = Path(path)
    return Image(data=path.read_bytes(), format=path.suffix[1:])


def table(head: Sequence[str], rows: Sequence[Sequence[object]]):
    """A Markdown table."""
    from IPython.display import Markdown

    lines = [head, ["---"] * len(head), *rows]
    return Markdown("\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines))
