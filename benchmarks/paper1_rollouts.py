"""CarRacing steps per second, V, M and C included: our lockstep against one process per rollout with batch 1.

    python -m benchmarks.paper1_rollouts [--width 0.25] [--quick]      about 3 minutes on two idle cores

The known ports give each rollout a process with its own env, V, M and C.  one_by_one.py does the same, with
the networks and frames of ours and without V's decoder; the best known port decodes every frame and throws
the picture away, hence a row for that.  All schemes run in turns, the median of the rounds counts.
CPU-seconds are those of all processes and threads: compare them when other work runs on the machine.
A rate holds for an episode of 1,000 steps: one reset and 1,000 steps after the first second, in which the
camera comes down and drawing costs more.  Goes to benchmarks/speed/paper1_rollouts.json.
"""

import importlib.util
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read when numpy is imported; a second thread would spin
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np

from benchmarks.envs import processor
from benchmarks.one_by_one import EPISODE, Ports, Size, Timing, candidates, models, spec
from common.cli import run_main
from common.errors import UserError
from common.flags import parse
from common.meters import cpu_seconds

FILE = Path(__file__).parent / "speed" / "paper1_rollouts.json"
PORTS = "one process per rollout, batch 1"
DECODES = f"{PORTS}, V decodes too"
LOCKSTEP = "lockstep"


@dataclass(frozen=True, kw_only=True)
class Args:
    """How long to measure, and of what size."""

    width: float = 1.0
    """Channels of V as a multiple of the paper's (preset cpu: 0.25)."""
    rounds: int = 2
    """How often all schemes are measured; the median counts."""
    quick: bool = False
    """A few seconds in all, to see that it runs: the numbers are rough, and only --out stores them."""
    out: Path | None = None
    """Where the numbers go, if not to benchmarks/speed."""


FULL = {
    "stock": Size(16, 50, 100),
    "exact": Size(16, 50, 150),
    "fast": Size(64, 50, 250),
    "envpool": Size(64, 50, 250),
}
QUICK = {
    "stock": Size(16, 3, 8),
    "exact": Size(16, 3, 13),
    "fast": Size(16, 3, 23),
    "envpool": Size(16, 3, 23),
}


def lockstep(backend: str, workers: int, width: float, size: Size) -> Timing:
    """Our engine: all games at once.  workers 0: the games live in this process."""
    from paper1_world_models.rollout import Episode, Noise, Player, play
    from paper1_world_models.rollout_games import LocalGames, make_games
    from paper1_world_models.rollout_workers import ProcessGames

    if backend == "envpool":
        games = make_games(spec(backend), size.slots, workers, (64, 64, 3))
    elif workers:
        games = ProcessGames(spec(backend), size.slots, workers, (64, 64, 3))
    else:
        games = LocalGames(spec(backend), size.slots)
    vae, rnn, controller = models(width)
    player, params = Player(vae, rnn, controller, size.slots), candidates(size.slots, controller.size)
    noise = Noise.draw(0, 1, EPISODE, 32, "sample")
    marks: list[tuple[float, float]] = []

    def run(steps: int) -> list[Episode]:
        episodes = [Episode(i, 0, 100 + i % 8) for i in range(size.slots)]
        mark = lambda: marks.append((cpu_seconds(), time.perf_counter()))  # noqa: E731
        marks.clear()
        play(games, player, params, episodes, noise, steps, each_step=mark)
        mark()
        return episodes

    try:
        run(2)  # builds the envs
        episodes = run(size.steps)
    finally:
        games.close()
    assert all(e.length == size.steps for e in episodes), "a car left the field: choose other seeds"
    steps = size.slots * (size.steps - size.warm)
    cpu, wall = (marks[-1][i] - marks[size.warm][i] for i in range(2))
    first = marks[1][0] - marks[0][0]  # resets and one step
    return Timing(steps, cpu, wall, max(0.0, first - cpu / (size.steps - size.warm)) / size.slots)


def schemes(ports: Ports, width: float, sizes: dict[str, Size]) -> dict[str, Callable[[], Timing]]:
    """Label -> a measurement, in the order of the table.  The others are compared with the first."""
    found = {
        f"stock, {PORTS}": lambda: ports.play("stock", False, sizes["stock"]),
        f"stock, {DECODES}": lambda: ports.play("stock", True, sizes["stock"]),
        f"fast, {PORTS}": lambda: ports.play("fast", False, sizes["fast"]),
    }
    names = {0: "games in the trainer", 1: "1 worker", 2: "2 workers"}
    for backend in sizes:
        for workers in (1, 2) if backend == "envpool" else (0, 1, 2):
            name = f"{workers} thread{'s' * (workers > 1)}" if backend == "envpool" else names[workers]
            found[f"{backend}, {LOCKSTEP}, {name}"] = lambda b=backend, w=workers: lockstep(
                b, w, width, sizes[b]
            )
    return found


def measure(args: Args) -> dict[str, dict[str, float]]:
    """Label -> rates and how many times they are those of the ports' scheme with the stock renderer."""
    sizes = dict(QUICK if args.quick else FULL)
    if importlib.util.find_spec("envpool") is None:
        sizes.pop("envpool", None)
        print("envpool is not installed: its rows are left out (pip install envpool)")
    ports, found = Ports(args.width), {}
    try:
        for _ in range(1 if args.quick else args.rounds):
            for label, take in schemes(ports, args.width, sizes).items():
                found.setdefault(label, []).append(take().rates())
    finally:
        ports.close()
    medians = {label: np.median(rates, axis=0) for label, rates in found.items()}
    base = medians[f"stock, {PORTS}"]
    return {
        label: {
            "steps_per_cpu_s": round(float(cpu), 1),
            "times_cpu": round(float(cpu / base[0]), 2),
            "steps_per_s": round(float(wall), 1),
            "times_wall": round(float(wall / base[1]), 2),
        }
        for label, (cpu, wall) in medians.items()
    }


def main(argv: list[str] | None = None) -> None:
    args = parse(Args, sys.argv[1:] if argv is None else argv, __doc__)
    if args.rounds < 1 or not 0 < args.width <= 1:
        raise UserError(f"--rounds {args.rounds} --width {args.width}: rounds from 1, width in (0, 1]")
    load = os.getloadavg()[0]  # before we make load ourselves
    rows = measure(args)
    show(rows, args.width)
    out = args.out or (None if args.quick else FILE)
    if out is not None:
        store(rows, args.width, load, out)


def show(rows: dict[str, dict[str, float]], width: float) -> None:
    """The table, and the best of each backend."""
    print(f"{f'V at width {width}':58} steps/CPU-s   times   steps/s   times")
    for label, row in rows.items():
        cpu, wall = f"{row['steps_per_cpu_s']:11,.0f} {row['times_cpu']:7.2f}", f"{row['steps_per_s']:9,.0f}"
        print(f"{label:58} {cpu} {wall} {row['times_wall']:7.2f}")
    for backend in ("stock", "exact", "fast", "envpool"):
        ours = [row for label, row in rows.items() if label.startswith(f"{backend}, {LOCKSTEP}")]
        if ours:
            best = [max(row[key] for row in ours) for key in ("times_cpu", "times_wall")]
            print(f"{backend}: at best {best[0]:.1f} times per CPU-second, {best[1]:.1f} times per second")


def store(rows: dict[str, dict[str, float]], width: float, load: float, out: Path) -> None:
    """Write the numbers, with the machine and how busy it was."""
    machine = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "load_before": round(load, 2),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in ("numpy", "torch", "gymnasium", "pygame-ce")},
    }
    about = (
        "env steps per second with V, M and C; times: against the first row; by benchmarks/paper1_rollouts.py"
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    result = {"about": about, "machine": machine, "width": width, "rows": rows}
    out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    run_main(main)
