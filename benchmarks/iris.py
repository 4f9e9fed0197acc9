"""CPU-seconds per update of IRIS and per dreamed token, beside a plain loop and the authors' code; GPU hours.

    python -m benchmarks.iris [--device cpu|cuda] [--quick]     20 to 40 minutes, by the core

CPU: the paper's networks, 4 actions, float32, one thread, in the batches with which the authors' code was
measured on another machine; its figures are scaled by the rate of sgemm.  Replay and environment hardly
count.  Updates are measured on rows of which nothing is known.  But training keeps tokens and decoded frames
for as long as the tokenizer rests: `CPU ms` is the mean of a run, where only a share of the rows is new.
The plain loop keeps nothing (iris_plain.py); all take turns, medians of the rounds.  FLOP over the rate of a
product of matrices that is timed beside each measurement give the time below which nothing gets.
CUDA: an epoch of the paper preset, in two ways, and what 600 of them take (iris_epoch.py); about 15 minutes.
Goes to benchmarks/speed/iris.json; what the file has of the other device stays.
"""

import json
import os
import platform
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported

import numpy as np
import torch

from benchmarks import iris_epoch
from benchmarks.dreamer_subjects import CPU_WAYS, CUDA_WAYS, RECORDED_RATE
from benchmarks.envs import processor
from benchmarks.iris_subjects import CASES, PARTS, PIECES, Iris, count, preset, random_replay
from benchmarks.results import read_json
from common.cli import run_main
from common.config import override
from common.errors import UserError
from common.flags import parse
from common.replay_buffer import ReplayBuffer
from common.spaces import Spaces

FILE = Path(__file__).parent / "speed" / "iris.json"
SPACES = Spaces({"image": (64, 64, 3)}, 4, True)
SHORT = {"world.layers": 2, "world.steps": 3, "actor.horizon": 3, "actor.burn_in": 1}
SHORT |= {"tokenizer.channels": 32}
AIMS = {  # of the authors' CPU-seconds
    "world model, batch 8": 0.45,
    "actor-critic, batch 8": 0.45,
    "a token dreamed, batch 8": 1 / 3,
    "a token dreamed, batch 1": 1 / 3,
}
MOST_HOURS, AIM_HOURS = 21.0, 8.0  # of a game on one GPU
Rows = dict[str, dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class Args:
    """Where and how long to measure."""

    device: Literal["all", "cpu", "cuda"] = "all"
    """all: updates on the CPU, and an epoch on CUDA where there is a device."""
    rounds: int = 3
    """How often every update is measured on the CPU; the median counts."""
    quick: bool = False
    """To see that it runs: small networks, short dreams, nothing compiled, stored only with --out."""
    out: Path | None = None
    """Where the numbers go, if not to benchmarks/speed."""


def subjects(quick: bool, replay: ReplayBuffer) -> dict[str, Iris]:
    """Label -> an update, ready to be measured, in the order of the table."""
    found = {}
    for label, case in CASES.items():
        for way in [way for way in case.ways if not (quick and way == "compiled")]:
            changes = {f"{case.name}.learn.batch": 1 if quick else case.batch, **(SHORT if quick else {})}
            cfg = override(preset("atari_breakout"), changes | CPU_WAYS.get(way, CPU_WAYS["eager"]))
            subject = Iris(cfg, SPACES, replay, vgg=case.vgg, plain=way == "plain")
            found[f"{label}, {way}"] = subject.turn(case.name)
    return found


def measure(args: Args) -> Rows:
    """Label -> CPU-milliseconds, their parts, FLOP and how they compare."""
    replay = random_replay(100 if args.quick else 20_000, SPACES)
    ours, counted, flop = subjects(args.quick, replay), {}, {}
    for label, subject in ours.items():
        name, way = label.rsplit(", ", 1)
        for _ in range(0 if args.quick or way == "plain" else 2):
            subject.update()  # compiles, allocates the optimiser's state
        key = subject.name, CASES[name].vgg, way == "plain"
        if key not in counted:
            counted[key] = count(subject.cfg, SPACES, replay, key[0], vgg=key[1], plain=key[2])
        flop[label] = counted[key] * subject.cfg.learners()[subject.name].batch
    spans: dict[str, list] = {label: [] for label in ours}
    rates: dict[str, list] = {label: [] for label in ours}
    for _ in range(1 if args.quick else args.rounds):
        for label, subject in ours.items():
            rates[label].append(subject.rate())
            spans[label].append(subject.measure())
    found = {label: (np.array(spans[label]), np.array(rates[label])) for label in ours}
    return table(ours, flop, found, is_short=args.quick)


def table(ours: dict[str, Iris], flop: dict, found: dict, is_short: bool) -> Rows:
    """Rows of updates, then of pieces.  flop: [4] by label; found: spans [R, 4, 3] and rates [R] by label."""
    rows, costs = {}, {}  # costs: CPU-seconds and seconds [R, 2]
    recorded = {name: case.recorded for name, case in CASES.items()}
    recorded |= {name: piece.recorded for name, piece in PIECES.items()}
    for label, subject in ours.items():
        spans, rates = found[label]
        is_kept = subject.name != "tokenizer" and not label.endswith("plain")
        share = iris_epoch.run_share(preset("atari_breakout"), subject.name) if is_kept else 1.0
        weights = np.array([share, 1, 1, 1])
        costs[label] = np.einsum("rpc,p->rc", spans[..., :2], weights)
        rows[label] = row(costs[label], rates, flop[label] @ weights)
        parts = np.median(spans[..., 0], 0) * 1000
        rows[label] |= {f"{part}_ms": round(float(ms), 1) for part, ms in zip(PARTS, parts, strict=True)}
        rows[label] |= {"new_share": round(share, 3), "all_new_ms": round(float(parts.sum()), 1)}
    for name, piece in PIECES.items():
        for way in ("eager", "plain"):
            source, label = f"{piece.case}, {way}", f"{name}, {way}"
            (spans, rates), place = found[source], PARTS.index(piece.part)
            number = ours[source].units(piece.part)
            costs[label] = spans[:, place, :2] / number
            rows[label] = row(costs[label], rates, flop[source][place] / number)
            rows[label]["per_cpu_s"] = round(1 / float(np.median(costs[label][:, 0])), 1)
    for label, cost in costs.items():
        name, way = label.rsplit(", ", 1)
        if way != "plain" and f"{name}, plain" in costs:
            ratio = np.median(cost[:, 0] / costs[f"{name}, plain"][:, 0])
            rows[label]["of_plain"] = round(float(ratio), 3)
        if not is_short and recorded[name]:
            cpu = 1000 * recorded[name] * RECORDED_RATE / rows[label]["gemm_gflops"]
            rows[label]["of_authors"] = round(rows[label]["cpu_ms"] / cpu, 3)
            source = f"{recorded[name]:.3g} CPU-s where sgemm does {RECORDED_RATE:.0f} GFLOP/s, scaled"
            rows.setdefault(f"{name}, authors' code (recorded: {source})", {"cpu_ms": round(cpu, 3)})
    return rows


def row(cost: np.ndarray, rates: np.ndarray, flop: float) -> dict[str, float]:
    """CPU-seconds and seconds [R, 2] of something, GEMM rates beside them [R], its FLOP."""
    cpu, wall = np.median(cost, 0) * 1000
    return {
        "cpu_ms": round(float(cpu), 3),
        "wall_ms": round(float(wall), 3),
        "gflop": round(float(flop) / 1e9, 4),
        "gemm_gflops": round(float(np.median(rates)) / 1e9, 1),
        "times_flop": round(float(np.median(cost[:, 0] * rates) / flop), 2),
    }


def verdicts(rows: Rows) -> list[str]:
    """What was measured beside the aims."""
    lines = []
    for name, aim in AIMS.items():
        values = rows[f"{name}, eager"]
        if "of_authors" in values:
            ratio, all_new = values["of_authors"], values.get("all_new_ms")
            line = f"{name}: {ratio:.2f} of the authors' CPU-seconds, aim {aim:.2f}"
            if all_new:
                line += f"; {ratio * all_new / values['cpu_ms']:.2f} if all rows were new"
            else:
                line += f": {1 / ratio:.1f} times the tokens per CPU-second, aim {1 / aim:.0f}"
            lines.append(line)
    return lines


def epochs(quick: bool) -> Rows:
    """Hours of a game of Boxing on CUDA, by the way of computing."""
    rows, flop = {}, {}
    for way in ("CUDA bf16", "CUDA bf16 compiled"):
        cfg = override(preset("atari_boxing"), CUDA_WAYS[way])
        if quick:
            cfg = override(cfg, {f"{name}.learn.updates": 2 for name in cfg.learners()})
        spaces, stored = iris_epoch.spaces_of(cfg), 1_000 if quick else iris_epoch.times(cfg)["play"]
        for name, learn in {} if flop else cfg.learners().items():
            one = count(cfg, spaces, random_replay(2_000, spaces), name, vgg=name == "tokenizer")
            flop[name] = one * learn.batch * learn.accumulate
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        seconds, rate = iris_epoch.epoch(cfg, "cuda", stored)
        rows[way] = iris_epoch.row(cfg, seconds, flop, rate, stored)
    return rows


def main(argv: list[str] | None = None) -> None:
    args = parse(Args, sys.argv[1:] if argv is None else argv, __doc__)
    if args.rounds < 1:
        raise UserError(f"--rounds {args.rounds}: must be at least 1")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device cuda: torch {torch.__version__} sees no CUDA device here; --device cpu")
    torch.set_num_threads(1)
    # Several sizes in one process: each gets kernels of its own, as in a run of its own.
    torch._dynamo.config.automatic_dynamic_shapes = False
    load, found = os.getloadavg()[0], {}  # before we make load ourselves
    if args.device != "cuda":
        found["cpu"] = measure(args)
        show(found["cpu"])
    if args.device != "cpu" and torch.cuda.is_available():
        found["cuda"] = epochs(args.quick)
        show_hours(found["cuda"])
    elif args.device == "all":
        print("no CUDA device: the hours of a game are left out")
    out = args.out or (None if args.quick else FILE)
    if out is not None:
        store(found, load, out)


def show(rows: Rows) -> None:
    """The table of the CPU, and how far the aims are."""
    titles = ("CPU ms", *PARTS, "GFLOP", "x FLOP t.", "of plain", "of auth.")
    keys = ("cpu_ms", *(f"{part}_ms" for part in PARTS), "gflop", "times_flop", "of_plain", "of_authors")
    print(f"{'':40}{''.join(f'{title:>10}' for title in titles)}")
    for label, values in rows.items():
        cells = (f"{values[key]:10,.2f}" if key in values else f"{'':10}" for key in keys)
        print(f"{label:40}{''.join(cells)}")
    for line in verdicts(rows):
        print(line)


def show_hours(rows: Rows) -> None:
    """What a game takes on the GPU."""
    for way, values in rows.items():
        print(f"{way}: {values['hours']:.1f} hours per game, at most {MOST_HOURS:.0f}, aim {AIM_HOURS:.0f}")
        print(
            "  " + ", ".join(f"{key[:-2]} {value:.2f}" for key, value in values.items() if key[-2:] == "_h")
        )


def store(found: dict[str, Rows], load: float, out: Path) -> None:
    """Write the numbers, with the machine and how busy it was; a device not measured now keeps its own."""
    machine = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "load_before": round(load, 2),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "packages": {name: version(name) for name in ("numpy", "torch")},
    }
    about = (
        "cpu: CPU milliseconds of an update, mean of a run (its parts: all rows new), of a token or a frame; "
        "cuda: hours of a game; times_flop: over the time of its FLOP at a GEMM's rate; by benchmarks/iris.py"
    )
    known = read_json(out) if out.exists() else {}
    parts = {device: {"machine": machine, "rows": rows} for device, rows in found.items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({**known, "about": about, **parts}, indent=1) + "\n")


if __name__ == "__main__":
    run_main(main)
