"""The table of models and data: error of one step in and out of distribution, and by horizon.

`python -m foundations.dyna.train_model --compare`.  Each seed has its own 400 random episodes (or, as
`mix`, 200 random and 20 of the controller), its own networks, and its own test: 200 random episodes and 30
of the controller, which the first kind of data has never shown.  The seeds of a variant train side by side.
"""

import time
from typing import Any

import numpy as np
import torch

from common.errors import UserError
from foundations.commands import report
from foundations.dyna import data_collection as data
from foundations.dyna import plots
from foundations.dyna.plan_with_model import evaluate_model_accuracy
from foundations.dyna.train_model import TrainArgs, evaluate_one_step, fit_named
from foundations.dyna.world_model import Ensemble

HORIZONS = (5, 10, 20, 50)
TEST_SEED = 50_000  # episodes of the tests: no training seed reaches them
RANDOM_TEST, CONTROLLER_TEST = 200, 30  # episodes
ROWS = (  # variant, data
    *(("copy", ""), ("least-squares", "random"), ("least-squares", "mix")),
    *(("plain", "random"), ("plain-dropout", "random"), ("plain-ensemble", "random")),
    *(("simple", "random"), ("dropout", "random"), ("ensemble", "random")),
    *(("simple", "mix"), ("dropout", "mix"), ("ensemble", "mix")),
)


def compare_models(args: TrainArgs) -> list[dict[str, Any]]:
    """Train every row of the table, print it, write compare.json and plots/variants_mse.png."""
    if args.hidden or args.batch != 64:
        raise UserError("--compare: the table has its own sizes; leave --hidden and --batch away")
    torch.set_num_threads(max(1, args.threads))
    with report(args, "compare") as result:
        sets = {
            name: [_collect(name, args.episodes, s) for s in range(args.seeds)] for name in ("random", "mix")
        }
        tests = {
            "random": [_collect("random", RANDOM_TEST, TEST_SEED + s, rows=True) for s in range(args.seeds)],
            "controller": [
                _collect("controller", CONTROLLER_TEST, TEST_SEED + s, rows=True) for s in range(args.seeds)
            ],
        }
        rows = []
        print(
            f"{'model':<16}{'data':<8}{'random test':>22}{'controller test':>24}"
            + "".join(f"{f'h {h}':>9}" for h in HORIZONS)
            + "   CPU-s"
        )
        for name, kind in ROWS:
            rows.append(_row(name, kind, sets[kind or "random"], tests, args))
            print(_line(rows[-1]), flush=True)
        result["seeds"], result["rows"] = args.seeds, rows
        result["transitions"] = {kind: [len(part.rew) for part in parts] for kind, parts in sets.items()}
    print(f"wrote {plots.variants(rows, args.out / 'plots' / 'variants_mse.png')}")
    return rows


def _collect(name: str, episodes: int, seed: int, rows: bool = False) -> Any:
    found = data.collect_named("CartPole-v1", name, episodes, seed)
    return found if rows else data.as_transitions(found, 2)


def _row(name: str, kind: str, sets: list, tests: dict[str, list], args: TrainArgs) -> dict[str, Any]:
    """Errors of a variant: {model, data, random [S], controller [S], h5 [S], ..., cpu_s (a seed)}"""
    start = time.process_time()
    model, _ = fit_named(name, sets, epochs=args.epochs, seed=args.seed)
    cpu = (time.process_time() - start) / len(sets)
    row: dict[str, Any] = {"model": name, "data": kind, "cpu_s": round(cpu, 2)}
    for test, parts in tests.items():
        transitions = [data.as_transitions(part, 2) for part in parts]
        row[test] = evaluate_one_step(model, transitions).mean(-1).tolist()
        if isinstance(model, Ensemble):  # what its members reach on the average
            owner = [part for part in transitions for _ in range(model.members)]
            alone = evaluate_one_step(model.model, owner).mean(-1).reshape(len(parts), -1)
            row[f"members_{test}"] = alone.mean(-1).tolist()
    for s, part in enumerate(tests["controller"]):
        found = evaluate_model_accuracy(model, part, 2, max(HORIZONS), seed=s)
        for h in HORIZONS:
            row.setdefault(f"h{h}", []).append(float(found["mse"][s if len(found["mse"]) > 1 else 0, h - 1]))
    return row


def _line(row: dict[str, Any]) -> str:
    """Median and, for one step, the lowest and highest seed."""
    cells = [
        f"{np.median(row[t]):.1e} [{min(row[t]):.0e} {max(row[t]):.0e}]" for t in ("random", "controller")
    ]
    far = "".join(f"{np.median(row[f'h{h}']):>9.1e}" for h in HORIZONS)
    return f"{row['model']:<16}{row['data']:<8}{cells[0]:>22}{cells[1]:>24}{far}{row['cpu_s']:>8.1f}"
