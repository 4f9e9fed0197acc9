"""Play episodes with a trained agent: `python eval.py --checkpoint model.pt --episodes 10 --render`.

Actions and latents are draws, as the papers have it; `--actor.eval_action mode` is a matter of training's
config.  What published tables are made of is training episodes, see `python -m common.scores --help`.
"""

if not __package__:  # run as a script: the repository root, not this folder, goes on the path
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

from common.cli import run_main
from common.scripts import eval_main

PAPER = "paper4_dreamerv3"


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
