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
from pathlib import Path

import numpy as np

from common.cli import EvalArgs, run_main
from common.errors import UserError
from common.flags import peek
from common.logger import read_metrics
from common.meters import model_size_mb, parameter_counts
from common.scripts import eval_main, read_eval

PAPER = "paper1_world_models"
HELD_OUT = {"episodes": "100", "seed": "0"}


@dataclass(frozen=True, kw_only=True)
class Args(EvalArgs):
    """The flags of every eval.py, and one more."""

    held_out: bool = False
    """Short for --episodes 100 --seed 0, as the paper reports."""


def report(agent, result, args) -> dict:
    """What is peculiar to paper 1, for eval.json: finished laps; the score inside the dream that the
    controller learned in; the gate's table, the sweeps and the eyes-closed test, where there are any."""
    from paper1_world_models.dream import dream_score

    parts = {"V": agent.vae, "M": agent.rnn}
    entries: dict = {
        "parameters": {name: parameter_counts(part)["total"] for name, part in parts.items()}
        | {"C": agent.controller.size},
        "model_size_mb": sum(model_size_mb(part) for part in parts.values()) + agent.params.nbytes / 1e6,
    }
    laps = result.infos.get("lap_finished")
    if laps is not None:
        entries["lap_finished"] = float(np.nanmean(laps))
    if agent.cfg.train_in == "dream":
        dreamt = dream_score(agent, agent.cfg.dream.temperature, 200, args.seed)
        entries["temperature"] = agent.cfg.dream.temperature
        entries["dream"] = {"mean": float(dreamt.mean()), "sd": float(dreamt.std())}
    folder = Path(args.checkpoint).resolve().parent
    if (folder / "metrics.jsonl").exists() and (gate := gate_table(folder / "metrics.jsonl")):
        entries["gate"] = gate
    if (folder / "experiment-sweep.json").exists():
        rows = read_eval(folder / "experiment-sweep.json")["rows"]
        entries["sweep"] = [
            {"half_period": r["half_period"], "real": r["real"]["mean"], "dream": r["dream"]["mean"]}
            for r in rows
        ]
    if (folder / "experiment-eyes-closed.json").exists():
        rows = read_eval(folder / "experiment-eyes-closed.json")["rows"]
        entries["eyes"] = [
            {"eyes": r["label"], "real": r["real"]["mean"], "sd": r["real"]["sd"]} for r in rows
        ]
    return entries


def gate_table(metrics: Path) -> list[dict]:
    """The last comparison of dream and reality that the run logged."""
    last: dict[str, dict] = {}
    for row in read_metrics(metrics):
        found = {name: value for name, value in row.items() if name.startswith("gate/")}
        if found:
            last = {}
            for name, value in found.items():
                _, check, world = name.split("/")
                last.setdefault(check, {})[world] = value
    return [
        {
            "check": check,
            "real": v["real"],
            "dream": v["dream"],
            "ratio": v["dream"] / v["real"] if v["real"] else None,
        }
        for check, v in last.items()
    ]


def main(argv: list[str] | None = None) -> None:
    """Parse, play, print, write eval.json."""
    argv = sys.argv[1:] if argv is None else argv
    if "--held-out" in argv or "--held_out" in argv:
        for flag, value in HELD_OUT.items():
            if (given := peek(argv, flag)) not in (None, value):
                raise UserError(f"--{flag} {given}: --held-out is --{flag} {value}; leave one out")
            argv = [*argv, f"--{flag}", value]
    eval_main(argv, PAPER, args=Args, description=__doc__.split("\n")[0], report=report)


if __name__ == "__main__":
    run_main(main)
