"""Play episodes with a trained agent: `python eval.py --checkpoint model.pt --episodes 10 --render`.

Actions are draws at temperature 0.5, as in the paper.  With --render eval.json also says how good tokens and
world model are, on further episodes.
"""

if not __package__:  # run as a script: the repository root, not this folder, goes on the path
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.cli import EvalArgs, run_main
from common.config import override
from common.errors import UserError
from common.scripts import eval_main, sizes

if TYPE_CHECKING:
    from paper5_iris.agent import IrisAgent

PAPER = "paper5_iris"
EPISODES, MAX_STEPS = 16, 500  # of which the model's quality is measured


@dataclass(frozen=True, kw_only=True)
class Args(EvalArgs):
    """eval.py's flags."""

    temperature: float | None = None
    """Of the policy, above 0; None: as the run was told (--eval-temperature, the paper's 0.5)."""


def prepare(agent: "IrisAgent", args: Args) -> None:
    """The temperature that is asked for in place of the run's own."""
    if args.temperature is not None:
        if not args.temperature > 0:
            raise UserError(f"--temperature {args.temperature:g}: must be above 0")
        agent.cfg = override(agent.cfg, {"eval_temperature": args.temperature})


def entries(agent: "IrisAgent", result, args: Args) -> dict:
    """What eval.json says besides the score."""
    found = {"temperature": agent.cfg.eval_temperature, **sizes(agent, result, args)}
    if args.render:
        from common.evaluate import play
        from paper5_iris.quality import ahead, quality

        # Games as in training: there a lost life ends one.
        envs = agent.env.make_vector(4, "train", backend="auto")
        seed, record = args.seed + args.episodes, {"record": EPISODES, "max_steps": MAX_STEPS}
        episodes = play(agent, envs, EPISODES, seed, **record).episodes
        envs.close()
        found |= quality(agent, episodes) | {"ahead": ahead(agent, episodes)}
    return found


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    eval_main(argv, PAPER, args=Args, report=entries, prepare=prepare)


if __name__ == "__main__":
    run_main(main)
