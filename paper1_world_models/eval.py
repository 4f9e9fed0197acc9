"""Play episodes with a trained agent: `python eval.py --checkpoint model.pt --episodes 10 --render`.

The paper's score is the mean over 100 episodes on tracks that evolution never saw: `--held-out` (seeds
0..99; training draws its seeds from 10,000 up).
"""

if not __package__:  # run as a script: the repository root, not this folder, goes on the path
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

import sys
from dataclasses import dataclass

import numpy as np

from common.cli import EvalArgs, run_main
from common.scripts import eval_main

PAPER = "paper1_world_models"


@dataclass(frozen=True, kw_only=True)
class Args(EvalArgs):
    """The flags of every eval.py, and one more."""

    held_out: bool = False
    """Short for --episodes 100 --seed 0, as the paper reports."""


def report(agent, result, args) -> dict:
    """What is peculiar to paper 1: the share of finished laps, where the environment tells."""
    laps = result.infos.get("lap_finished")
    return {} if laps is None else {"lap_finished": float(np.nanmean(laps))}


def main(argv: list[str] | None = None) -> None:
    """Parse, play, print, write eval.json."""
    argv = sys.argv[1:] if argv is None else argv
    if "--held-out" in argv:
        argv = [*argv, "--episodes", "100", "--seed", "0"]
    eval_main(argv, PAPER, args=Args, description=__doc__.split("\n")[0], report=report)


if __name__ == "__main__":
    run_main(main)
