"""Play episodes with a trained agent: `python eval.py --checkpoint model.pt --episodes 10 --render`.

The action is the mode; the latent is a draw, as the authors' code has it.
"""

if not __package__:  # run as a script: the repository root, not this folder, goes on the path
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

from common.cli import run_main
from common.scripts import eval_main

PAPER = "paper3_dreamerv2"


def report(agent, result, args) -> dict:
    """Parameter counts and the size of the weights, for eval.json."""
    from common.meters import model_size_mb, parameter_counts

    parts = agent.parts()
    return {
        "parameters": {name: parameter_counts(part)["total"] for name, part in parts.items()},
        "model_size_mb": sum(model_size_mb(part) for part in parts.values()),
    }


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    eval_main(argv, PAPER, report=report)


if __name__ == "__main__":
    run_main(main)
