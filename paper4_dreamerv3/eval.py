"""Play episodes with a trained agent: `python eval.py --checkpoint model.pt --episodes 10 --render`.

Actions and latents are draws, as in the papers; a run with `--actor.eval-action mode` plays the likeliest.
`python eval.py --report RUN [RUN ...]` plays nothing: it makes the papers' tables out of training's logs.
"""

if not __package__:  # run as a script: the repository root, not this folder, goes on the path
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

import sys
from pathlib import Path

from common.cli import run_main
from common.errors import UserError
from common.scripts import eval_main, sizes

PAPER = "paper4_dreamerv3"


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["--report"]:
        if len(words) < 2 or any(word.startswith("-") for word in words[1:]):
            raise UserError("--report takes run folders and nothing else: eval.py --report RUN [RUN ...]")
        from paper4_dreamerv3.report import report as table

        print("\n".join(table(Path(word) for word in words[1:])))
        return
    eval_main(argv, PAPER, report=sizes)


if __name__ == "__main__":
    run_main(main)
