"""Milliseconds per update of the three Dreamers, eager and compiled, against the machine's speed and a port.

    python -m benchmarks.dreamer_update [--peers PYTHON] [--quick]      about 10 minutes on two idle cores

Sizes: the tiny presets, and the papers' networks with V1 10 x 50 (6 continuous actions, 64 x 64 x 3), V2
4 x 50 (18 discrete actions, 64 x 64 gray) and V3 at 1M 16 x 64 (vectors of 24 and 6 continuous actions;
64 x 64 x 3 and 4 discrete ones), on random batches; replay, environments and logging are left out.
dreamer_subjects.py says how an update is split.  FLOP are those of products and convolutions, forward and
backward, counted by torch; over the rate of a product of matrices (sgemm) that is timed beside each
measurement they give the time below which nothing gets.  One thread; all subjects in turns, medians of the
rounds; compare CPU-seconds when other work runs.  Goes to benchmarks/speed/dreamer_update.json.
"""

import importlib.util
import json
import os
import platform
import re
import sys
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported

import numpy as np
import torch

from benchmarks.dreamer_subjects import CASES, CPU_WAYS, CUDA_WAYS, RECORDED_RATE, Port, Subject
from benchmarks.envs import processor
from common.cli import run_main
from common.errors import UserError
from common.flags import parse

FILE = Path(__file__).parent / "speed" / "dreamer_update.json"
PARTS = ("model_ms", "imagine_ms", "behave_ms")


@dataclass(frozen=True, kw_only=True)
class Args:
    """How long to measure, and beside whom."""

    rounds: int = 7
    """How often every subject is measured; the median counts."""
    peers: Path | None = None
    """A Python that has sheeprl; else this one if it has, else figures from another machine are scaled."""
    quick: bool = False
    """Some seconds in all, to see that it runs: small batches, nothing compiled, stored only with --out."""
    out: Path | None = None
    """Where the numbers go, if not to benchmarks/speed."""


def subjects(quick: bool) -> dict[str, Subject]:
    """Label -> ours, ready to be measured, in the order of the table."""
    torch.set_num_threads(1)
    # Several sizes in one process: each gets kernels of its own, as in a run of its own.
    torch._dynamo.config.automatic_dynamic_shapes = False
    found = {}
    for name, case in CASES.items():
        if quick:
            case = replace(case, updates=1, changes=case.changes | {"replay.batch": 1, "replay.length": 2})
            name = re.sub(r" \d+ x \d+", "", name) + " 1 x 2"
        for way, changes in CPU_WAYS.items():
            if not (quick and way == "compiled"):
                found[f"{name}, {way}"] = Subject(case, changes)
        if torch.cuda.is_available() and case.preset == "paper":
            for way, changes in CUDA_WAYS.items():
                found[f"{name}, {way}"] = Subject(case, changes, "cuda")
    return found


def ports(args: Args) -> dict[str, Port]:
    """Name of a case -> the port's update, where it is installed."""
    python = args.peers or (Path(sys.executable) if importlib.util.find_spec("sheeprl") else None)
    if args.quick or python is None:
        return {}
    if not python.exists():
        raise UserError(
            f"--peers {python}: no such file; it is the python of an environment that has sheeprl"
        )
    return {name: Port(python, case.port) for name, case in CASES.items() if case.port}


def measure(args: Args) -> dict[str, dict[str, float]]:
    """Label -> milliseconds, their parts, FLOP and how they compare."""
    ours, theirs = subjects(args.quick), ports(args)
    flop = {}
    for label, subject in ours.items():
        subject.update()  # compiles, allocates the optimisers' state
        if "eager" in label:
            flop[label.split(",")[0]] = subject.flop()
        subject.update()
    spans: dict[str, list] = {label: [] for label in [*ours, *theirs]}
    rates: dict[str, list] = {label: [] for label in ours}
    try:
        for _ in range(1 if args.quick else args.rounds):
            for label, subject in ours.items():
                rates[label].append(subject.rate())
                spans[label].append(subject.measure())
            for label, port in theirs.items():
                spans[label].append(port.measure())
    finally:
        for port in theirs.values():
            port.close()
    rows = {}
    for label, subject in ours.items():
        name = label.split(",")[0]
        rows[label] = row(np.array(spans[label]), np.array(rates[label]), flop[name], subject)
        if name in theirs:
            ratios = [a.sum(0)[0] / b.sum(0)[0] for a, b in zip(spans[label], spans[name], strict=True)]
            rows[label]["of_port"] = round(float(np.median(ratios)), 2)
    return rows | port_rows(rows, theirs, spans)


def row(spans: np.ndarray, rates: np.ndarray, flop: float, subject: Subject) -> dict[str, float]:
    """One of ours: spans [rounds, 3 parts or 1, CPU-seconds and seconds], rates [rounds]."""
    clock = int(subject.device.type == "cuda")  # where the device works, the host's CPU time says nothing
    parts = np.median(spans[..., clock], 0) * 1000  # [3] or, of a CUDA graph, [1]
    names = PARTS if len(parts) > 1 else ()
    total, wall = np.median(spans.sum(1), 0) * 1000
    times = np.median(spans.sum(1)[:, clock] * rates / flop)
    return {
        **({} if clock else {"cpu_ms": round(float(total), 1)}),
        "wall_ms": round(float(wall), 1),
        **{name: round(float(part), 1) for name, part in zip(names, parts, strict=False)},
        "gflop": round(flop / 1e9, 2),
        "gemm_gflops": round(float(np.median(rates)) / 1e9, 1),
        "times_flop": round(float(times), 2),
        "parameters": subject.parameters,
    }


def port_rows(ours: dict[str, dict], theirs: dict[str, Port], spans: dict) -> dict[str, dict[str, float]]:
    """sheeprl measured beside ours; where it is not installed, as recorded elsewhere, scaled by sgemm."""
    rows = {}
    for name, case in CASES.items():
        eager = ours.get(f"{name}, eager")
        if name in theirs:
            port = theirs[name]
            cpu, wall = np.median(np.array(spans[name]).sum(1), 0) * 1000
            rows[f"{name}, sheeprl {port.version}"] = {
                "cpu_ms": round(float(cpu), 1),
                "wall_ms": round(float(wall), 1),
                "parameters": port.parameters,
            }
        elif case.recorded and eager:
            cpu = 1000 * case.recorded * RECORDED_RATE / eager["gemm_gflops"]
            source = f"recorded: {case.recorded} CPU-s where sgemm does {RECORDED_RATE:.0f} GFLOP/s, scaled"
            rows[f"{name}, {case.recorded_of} ({source})"] = {"cpu_ms": round(cpu, 1)}
            eager["of_port"] = round(eager["cpu_ms"] / cpu, 2)
    return rows


def main(argv: list[str] | None = None) -> None:
    args = parse(Args, sys.argv[1:] if argv is None else argv, __doc__)
    if args.rounds < 1:
        raise UserError(f"--rounds {args.rounds}: must be at least 1")
    load = os.getloadavg()[0]  # before we make load ourselves
    rows = measure(args)
    show(rows)
    out = args.out or (None if args.quick else FILE)
    if out is not None:
        store(rows, load, out)


def show(rows: dict[str, dict[str, float]]) -> None:
    """The table."""
    titles = ("CPU ms", "model", "imagine", "actor-c.", "ms", "GFLOP", "x FLOP t.", "of port")
    keys = ("cpu_ms", *PARTS, "wall_ms", "gflop", "times_flop", "of_port")
    print(f"{'':28}{''.join(f'{title:>10}' for title in titles)}")
    for label, values in rows.items():
        cells = (f"{values[key]:10,.2f}" if key in values else f"{'':10}" for key in keys)
        print(f"{label:28}{''.join(cells)}")


def store(rows: dict[str, dict[str, float]], load: float, out: Path) -> None:
    """Write the numbers, with the machine and how busy it was."""
    machine = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "load_before": round(load, 2),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "packages": {name: version(name) for name in ("numpy", "torch")},
    }
    about = (
        "one update; its parts are CPU milliseconds (CUDA: milliseconds); times_flop: over the time of its "
        "FLOP at a GEMM's rate; of_port: CPU time over sheeprl's; by benchmarks/dreamer_update.py"
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"about": about, "machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    run_main(main)
