"""Play episodes with a trained agent: `python eval.py --checkpoint model.pt --episodes 10 --render`.

Actions and latents are draws, as in the papers; with `--eval-mode mode` actions are the likeliest ones.
`python eval.py --report RUN [RUN ...]` plays nothing: it makes the papers' tables out of training's logs.
"""

if not __package__:  # run as a script: the repository root, not this folder, goes on the path
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from common.cli import EvalArgs, run_main
from common.config import override
from common.errors import UserError
from common.flags import parse
from common.scripts import eval_main, sizes

if TYPE_CHECKING:
    from paper4_dreamerv3.agent import DreamerV3Agent

PAPER = "paper4_dreamerv3"


@dataclass(frozen=True, kw_only=True)
class Args(EvalArgs):
    """eval.py's flags."""

    eval_mode: Literal["sample", "mode"] | None = None
    """Actions: draws, or the likeliest ones; None: as the run was told (--actor.eval-action, else draws)."""
    report: tuple[Path, ...] = ()
    """Run folders: print the papers' tables of their training episodes and play nothing; no other flags."""


def prepare(agent: "DreamerV3Agent", args: Args) -> None:
    """The action that --eval-mode asks for in place of the run's own."""
    if args.eval_mode:
        agent.cfg = override(agent.cfg, {"actor.eval_action": args.eval_mode})


def entries(agent: "DreamerV3Agent", result, args: Args) -> dict:
    """What eval.json says besides the score."""
    return {"eval_mode": agent.cfg.actor.eval_action, **sizes(agent, result, args)}


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    words = sys.argv[1:] if argv is None else argv
    flags = [word.partition("=")[0] for word in words if word.startswith("-")]
    if "--report" in flags and not {"--help", "-h"} & {*flags}:
        folders = parse(Args, words, "").report if flags == ["--report"] else ()
        if not folders:
            raise UserError("--report takes run folders and nothing else: eval.py --report RUN [RUN ...]")
        from paper4_dreamerv3.report import report as table

        print("\n".join(table(folders)))
        return
    eval_main(argv, PAPER, args=Args, report=entries, prepare=prepare)


if __name__ == "__main__":
    run_main(main)
