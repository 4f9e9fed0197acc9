"""Scores of finished runs by the rules of the published tables: `python eval.py --report RUN [RUN ...]`.

The papers report *training* episodes: of every run the mean return of those that ended in the last bin, a
fortieth of the budget, then the mean over seeds.  That rule reproduces their aggregates exactly; the last
tenth in its place changes single games by a third.  Atari is normalised by human scores, Crafter by the
geometric mean of its success rates; intervals are bootstrapped over seeds.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from common.env_wrapper import scores, suite_of
from common.envs.crafter import crafter_score
from common.errors import UserError
from common.logger import read_metrics
from common.scores import aggregate_ci, aggregates, bootstrap_ci, normalised_matrix

BINS = 40


def episodes_of(folder: Path) -> tuple[str, int, list[dict]]:
    """Environment, budget in frames, and the rows of all training episodes of a run."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))["config"]
        env, budget = config["env"], config["steps"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"--report {folder}: no run folder (config.json is missing or damaged)") from None
    path = folder / "metrics.jsonl"
    rows = [row for row in read_metrics(path) if "episode/return" in row] if path.exists() else []
    if not rows:
        raise UserError(f"--report {folder}: no episode has ended there yet")
    return env, int(budget or rows[-1]["step"]), rows


def last_bin(rows: Iterable[Mapping], budget: int) -> float | None:
    """Mean return of the episodes in the last fortieth of the budget; None where none ended there."""
    low = budget * (1 - 1 / BINS)
    inside = [row["episode/return"] for row in rows if low < row["step"] <= budget]
    return float(np.mean(inside)) if inside else None


def success_rates(rows: Iterable[Mapping]) -> dict[str, float]:
    """Share of all training episodes, in percent, in which each achievement was unlocked."""
    rows, prefix = list(rows), "episode/achievements/"
    names = sorted({name for row in rows for name in row if name.startswith(prefix)})
    shares = {name: 100 * np.mean([row.get(name, 0) > 0 for row in rows]) for name in names}
    return {name.removeprefix(prefix): float(share) for name, share in shares.items()}


def report(folders: Iterable[Path]) -> list[str]:
    """The lines to print."""
    found, rates = defaultdict(list), defaultdict(list)
    for folder in map(Path, folders):
        env, budget, rows = episodes_of(folder)
        found[env].append(last_bin(rows, budget))
        if suite_of(env) == "crafter":
            rates[env].append(success_rates(rows))
    lines = [
        f"mean return of training episodes in the last 1/{BINS} of the frames; seeds without any left out"
    ]
    known = {env: [value for value in values if value is not None] for env, values in found.items()}
    for env, values in sorted(known.items()):
        lines.append(f"{env:32} {told(values)}  ({len(values)} of {len(found[env])} seeds)")
        ours = [row for row in scores(env)["published_all"] if row["protocol"].startswith("DreamerV3")]
        lines += [f"  published {row['value']:g} ({row['protocol']})" for row in ours]
    lines += atari_lines({env: v for env, v in known.items() if suite_of(env) == "atari" and v})
    control = [np.mean(v) for env, v in known.items() if suite_of(env) == "dmc" and v]
    if len(control) > 1:
        lines.append(
            f"DMC, {len(control)} tasks: mean {np.mean(control):.1f}, median {np.median(control):.1f}"
        )
    for env, runs in rates.items():
        lines += crafter_lines(env, [run for run in runs if run])
    return lines


def told(values: list[float]) -> str:
    """Mean, spread and interval of a score over seeds."""
    if not values:
        return f"{'-':>10}"
    if len(values) == 1:
        return f"{values[0]:10.1f}"
    low, high = bootstrap_ci(values)
    return f"{np.mean(values):10.1f} ± {np.std(values, ddof=1):.1f}, 95 % {low:.1f} to {high:.1f}"


def atari_lines(runs: dict[str, list[float]]) -> list[str]:
    """Human-normalised mean, median and interquartile mean, with intervals where seeds are equally many."""
    if not runs:
        return []
    fewest = min(map(len, runs.values()))
    matrix = normalised_matrix({env: values[:fewest] for env, values in runs.items()})  # [R, G]
    intervals = aggregate_ci(matrix) if fewest > 1 else {}
    parts = []
    for name in ("mean", "median", "iqm"):
        edges = f" ({100 * intervals[name][0]:.0f} to {100 * intervals[name][1]:.0f})" if intervals else ""
        parts.append(f"{name} {100 * aggregates(matrix)[name]:.1f} %{edges}")
    return [f"Atari, {matrix.shape[1]} games of {fewest} seeds, of the human score: {', '.join(parts)}"]


def crafter_lines(env: str, runs: list[dict[str, float]]) -> list[str]:
    """The score, then how often each of the achievements was unlocked."""
    if not runs:
        return [f"{env}: no achievements are logged in these runs"]
    values = [crafter_score(list(run.values())) for run in runs]
    lines = [f"{env}, score: {told(values).strip()} %"]
    return lines + [f"  {name:24} {np.mean([run[name] for run in runs]):6.1f} %" for name in sorted(runs[0])]
