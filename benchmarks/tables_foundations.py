"""The tables of foundations/, declared as in tables.py; their files lie in benchmarks/foundations/."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.results import Record
from benchmarks.tables import Column, Table

AHEAD = (5, 10, 20, 50)  # steps
KINDS = ("full state", "QMDP", "most likely state", "one view only", "random")
EARLY = (250, 500, 1_000, 2_000)  # real steps


def model(record: Record) -> str:
    """simple, random data"""
    name, data = record.get("model"), record.get("data")
    return f"{name}, {data} data" if data else str(name)


def area(record: Record) -> str:
    """Mean and its 95 % interval."""
    return "{:.0f} ({:.0f} to {:.0f})".format(*(record.get(name) for name in ("area", "low", "high")))


def stable(record: Record) -> str:
    """Seeds that became stable, and when the median seed did."""
    steps = record.get("stable")
    solved = sorted(step for step in steps if step is not None)
    when = f", at {solved[len(steps) // 2]:,}" if len(solved) > len(steps) // 2 else ""
    return f"{len(solved)} of {len(steps)}{when}"


def early(step: int) -> Callable[[Record], list[float] | None]:
    """Greedy returns of all seeds after so many real steps."""

    def returns(record: Record) -> list[float] | None:
        steps = record.get("steps") or []
        return [row[steps.index(step)] for row in record.get("returns")] if step in steps else None

    return returns


def interval(name: str) -> Callable[[Record], str]:
    """Difference and its interval: +12 (-3 to +30)"""
    return lambda record: "{:+.0f} ({:+.0f} to {:+.0f})".format(*record.get(name))


def score_of(name: str) -> Callable[[Record], Any]:
    """success (mean steps) of a kind of agent"""

    def text(record: Record) -> str:
        found = record.get(name)
        steps = f" ({found['steps']:.1f})" if found["steps"] is not None else ""
        return f"{found['success']:.2f}{steps}"

    return text


def tssm(record: Record) -> str:
    """What was trained, at which penalty."""
    penalty = record.get("args.threat_penalty") or 1
    return f"{record.get('args.objective')}, penalty {penalty:g}"


def evaluated(name: str) -> Callable[[Record], Any]:
    """CPU seconds of the actor, or its updates."""

    def value(record: Record) -> float | None:
        last: Sequence[dict] = record.get("evaluations") or record.get("agent.evaluations") or []
        return last[-1].get(name) if last else None

    return value


def each(path: str) -> Callable[[Record], list[float]]:
    """A value of every seed of one file: states, dyna_q.success"""
    return lambda record: [Record(record.folder, row, {}).get(path) for row in record.rows("rows")]


def world(record: Record) -> str:
    """Empty-6x6, codes of 2x4"""
    code = record.get("args.latent")
    name = record.get("args.env") + (f", codes of {code}" if code else "")
    return name if record.get("args.normalise") else f"{name}, not normalised"


def grid(record: Record) -> str:
    """DoorKey, key may be dropped, 8 x 8"""
    return f"{record.get('world')}, {record.get('n')} x {record.get('n')}"


def sensor(record: Record) -> str:
    """3 x 3, error 0.1, slip 0"""
    return "{0} x {0}, error {1:g}, slip {2:g}".format(*map(record.get, ("view", "error", "slip")))


FOUNDATIONS: dict[str, Table] = {
    "minigrid-dyna-q": Table(
        where={},
        file="foundations/minigrid-dyna-q-*.json",
        by=(world,),
        columns=(
            *(Column("world", world), Column("seeds", "summary.seeds")),
            Column("goals in the data", each("goals"), "{:.0f}", seeds=True),
            Column("observations", each("observations"), "{:,.0f}", seeds=True),
            Column("codes", each("codes"), "{:,.0f}", seeds=True),
            Column("next frame exact", each("exact_next_frame"), "{:.3f}", seeds=True),
            Column("success", each("dyna_q.success"), "{:.2f}", seeds=True),
            Column("path / optimum", each("dyna_q.ratio"), "{:.3f}", seeds=True),
            Column("value iteration in the model", each("vi_in_model.success"), "{:.2f}", seeds=True),
            Column("random", each("random.success"), "{:.2f}", seeds=True),
            Column("CPU-s in all", "cpu_s"),
        ),
    ),
    "minigrid-fails": Table(
        where={},
        file="foundations/minigrid-fails-*.json",
        by=(world,),
        columns=(
            *(Column("world", world), Column("seeds", "summary.seeds")),
            Column("observations", each("observations"), "{:,.0f}", seeds=True),
            Column("codes", each("codes"), "{:,.0f}", seeds=True),
            Column("next code right", each("next_code"), "{:.3f}", seeds=True),
            Column("next frame exact", each("exact_next_frame"), "{:.3f}", seeds=True),
            Column("success", each("dyna_q.success"), "{:.2f}", seeds=True),
            Column("random", each("random.success"), "{:.2f}", seeds=True),
        ),
    ),
    "minigrid-pomdp": Table(
        where={},
        file="foundations/minigrid-pomdp-*.json",
        rows="rows",
        columns=(
            *(Column("view, sensor, world", sensor), Column("distinct views", "views")),
            *(Column(kind, score_of(kind)) for kind in KINDS),
        ),
    ),
    "minigrid-limits": Table(
        where={},
        file="foundations/minigrid-limits.json",
        rows="rows",
        columns=(
            *(Column("world", grid), Column("states", "states", "{:,.0f}")),
            Column("dense table", "dense_bytes", "{:,.1f} MB", 1e-6),
            *(Column("sweeps", "sweeps"), Column("value iteration, CPU-s", "solve_s", "{:.3f}")),
            Column("the same, dense", "dense_s", "{:.3f}"),
            Column("table from the rules, CPU-s", "build_s", "{:.2f}"),
            Column("by playing", "play_s", "{:.2f}"),
        ),
    ),
    "dyna-models": Table(
        where={},
        file="foundations/dyna-compare.json",
        rows="rows",
        columns=(
            Column("model, training data", model),
            Column("random test", "random", "{:.1e}", seeds=True),
            Column("controller test", "controller", "{:.1e}", seeds=True),
            *(Column(f"{h} ahead", f"h{h}", "{:.1e}", seeds=False) for h in AHEAD),
            Column("members alone, random test", "members_random", "{:.1e}", seeds=True),
            Column("CPU-s a seed", "cpu_s", "{:.1f}"),
        ),
    ),
    "dyna-gate": Table(
        where={},
        file="foundations/dyna-gate.json",
        rows="rows",
        columns=(Column("learner", "label"), Column("area", area), Column("CPU-s", "cpu_s")),
    ),
    "dyna-agents": Table(
        where={},
        file="foundations/dyna-agents.json",
        rows="rows",
        columns=(
            *(Column("learner", "label"), Column("area", area), Column("stable seeds", stable)),
            *(Column(f"at {step:,}", early(step), "{:.0f}", seeds=True) for step in EARLY),
            Column("imagination kept", "kept", "{:.0f} %", 100),
            Column("CPU-s", "cpu_s", "{:,.0f}"),
        ),
    ),
    "dyna-verdicts": Table(
        where={},
        file="foundations/dyna-agents.json",
        rows="paired",
        columns=(
            *(Column("learner", "label"), Column("against DQN", interval("dqn"))),
            *(Column("against as many updates", interval("equal")), Column("verdict", "verdict")),
        ),
    ),
    "dyna-planning": Table(
        where={},
        file="foundations/dyna-planning-*.json",
        columns=(
            Column("planner", "label"),
            *(Column(f"at {step:,} steps", early(step), "{:.0f}", seeds=True) for step in EARLY),
            Column("CPU minutes", "cpu_s", "{:.1f}", scale=1 / 60),
        ),
    ),
    "tssm": Table(
        where={},
        file="foundations/tssm-penalty*.json",
        by=(tssm,),
        columns=(
            Column("actor", tssm),
            Column("return", "score.return", "{:.2f}", spread=True),
            *(Column(f"steps on the {name}", f"score.{name}_steps", "{:.3f}") for name in ("goal", "threat")),
            Column("seeds", "n"),
            Column("actor's CPU-s", evaluated("train_cpu_s"), "{:.0f}"),
            Column("CPU-s in all", "stage_cpu_s.total", "{:.0f}"),
        ),
    ),
}
