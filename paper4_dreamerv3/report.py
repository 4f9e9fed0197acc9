"""Scores of finished runs by the rules of the published tables: `python eval.py --report RUN [RUN ...]`.

The papers report *training* episodes: of every run the mean return of those that ended in the last bin, a
fortieth of the budget, then the mean over seeds.  From the scores so published follow their aggregates of
Atari 100k, 124.7 and 49.4 % (a test says so); the last tenth in its place changes single games by a third.
Runs that differ in more than seed and machine are told apart.  Atari is normalised by human scores, Crafter
by the geometric mean of its success rates; intervals are bootstrapped over the seeds of each task.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.config import fields_of
from common.env_wrapper import scores, suite_of
from common.envs.crafter import crafter_score
from common.errors import UserError
from common.logger import read_metrics
from common.scores import aggregate_ci, aggregates, balanced, bootstrap_ci, human_normalised
from paper4_dreamerv3.presets import PRESETS

BINS = 40
SAME = set(  # what may differ between the seeds of one experiment
    "env seed device logdir threads eval_every eval_episodes checkpoint_every log_every compile precision "
    "replay.mapped actor.eval_action".split()
)
Setting = tuple[tuple[str, str], ...]  # (field, its value as JSON), the preset's name among them


class Run(NamedTuple):
    """What a run folder says."""

    env: str
    options: dict[str, Any]
    setting: Setting
    budget: int  # frames
    episodes: list[dict]  # rows of metrics.jsonl


def read_run(folder: Path) -> Run:
    """UserError where there is no run, or no episode in it."""
    try:
        stored = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config = stored["config"]
        env, budget = config["env"], int(config["steps"] or PRESETS["paper"].steps)
        found = dict(fields_of(PRESETS["paper"])) | leaves(config) | {"steps": budget}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"--report {folder}: no run folder (config.json is missing or damaged)") from None
    path = folder / "metrics.jsonl"
    rows = [row for row in read_metrics(path) if "episode/return" in row] if path.exists() else []
    if not rows:
        raise UserError(f"--report {folder}: no episode has ended there yet")
    found = {name: value for name, value in found.items() if name not in SAME}
    found["preset"] = stored.get("preset", "unknown")
    setting = tuple((name, json.dumps(value, sort_keys=True)) for name, value in sorted(found.items()))
    return Run(env, found["env_options"], setting, budget, rows)


def leaves(tree: Mapping, prefix: str = "") -> dict[str, Any]:
    """config.json's nested fields by their dotted names, as common.config.fields_of has them."""
    found = {}
    for name, value in tree.items():
        nested = isinstance(value, Mapping) and name != "env_options"
        found |= leaves(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return found


def label(setting: Setting, others: Iterable[Setting]) -> str:
    """Frames and preset, and what else sets it apart from others with the same two."""
    ours = dict(setting)
    told = f"{int(ours['steps']):,} frames, preset {json.loads(ours['preset'])}"
    rivals = [other for other in map(dict, others) if all(other[k] == ours[k] for k in ("steps", "preset"))]
    apart = [name for name in ours if any(other.get(name) != ours[name] for other in rivals)]
    return ", ".join([told, *(f"{name}={ours[name]}" for name in apart)])


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
    groups: dict[tuple[str, Setting], list[Run]] = defaultdict(list)
    for folder in folders:
        run = read_run(Path(folder))
        groups[run.env, run.setting].append(run)
    lines = [
        f"mean return of training episodes in the last 1/{BINS} of the frames; seeds without any left out"
    ]
    known = {}
    for key in sorted(groups, key=lambda key: key[0]):
        (env, setting), runs = key, groups[key]
        values = [last_bin(run.episodes, run.budget) for run in runs]
        known[key] = [value for value in values if value is not None]
        seeds = f"({len(known[key])} of {len(runs)} seeds)"
        name = label(setting, [other for rival, other in groups if rival == env])
        lines.append(f"{env:32} {told(known[key])}  {seeds}  {name}")
        ours = scores(env, runs[0].options)["published_all"]
        ours = [row for row in ours if row["protocol"].startswith("DreamerV3")]
        lines += [f"  published {row['value']:g} ({row['protocol']})" for row in ours]
        if suite_of(env) == "crafter":
            rates = [success_rates(run.episodes) for run in runs]
            lines += crafter_lines(env, [run for run in rates if run])
    return lines + suite_lines(known, "atari", atari_line) + suite_lines(known, "dmc", control_line)


def suite_lines(
    known: Mapping[tuple[str, Setting], list[float]],
    suite: str,
    line: Callable[[dict[str, list[float]]], str],
) -> list[str]:
    """A line over all tasks of a suite for each setting.  known: scores of the seeds; line(env -> them)."""
    tasks: dict[Setting, dict[str, list[float]]] = defaultdict(dict)
    for (env, setting), values in known.items():
        if suite_of(env) == suite and values:
            tasks[setting][env] = values
    lines = [(line(runs), label(setting, tasks)) for setting, runs in tasks.items()]
    return [text + f"  {name}" * (len(tasks) > 1) for text, name in lines if text]


def told(values: list[float]) -> str:
    """Mean, spread and interval of a score over seeds."""
    if not values:
        return f"{'-':>10}"
    if len(values) == 1:
        return f"{values[0]:10.1f}"
    low, high = bootstrap_ci(values)
    return f"{np.mean(values):10.1f} ± {np.std(values, ddof=1):.1f}, 95 % {low:.1f} to {high:.1f}"


def summary(games: list[np.ndarray], names: Iterable[str], unit: str = "") -> str:
    """Aggregates over tasks, from all seeds of each; with intervals where no task has a single seed."""
    values = aggregates(balanced(games))
    intervals = aggregate_ci(games) if min(map(len, games)) > 1 else {}
    parts = []
    for name in names:
        edges = " (95 % {:.1f} to {:.1f})".format(*intervals[name]) if intervals else ""
        parts.append(f"{name} {values[name]:.1f}{unit}{edges}")
    return ", ".join(parts)


def atari_line(runs: dict[str, list[float]]) -> str:
    """Mean, median and interquartile mean in percent of the human score, of the games that have one."""
    games = []
    for env, values in runs.items():
        with suppress(UserError):  # Defender and Surround
            games.append(100 * human_normalised(env, values))
    if not games:
        return ""
    few, many = (edge(map(len, games)) for edge in (min, max))
    seeds = f"{few} seeds" if few == many else f"{few} to {many} seeds"
    told = summary(games, ("mean", "median", "iqm"), " %")
    return f"Atari, {len(games)} games of {seeds}, of the human score: {told}"


def control_line(runs: dict[str, list[float]]) -> str:
    """Mean and median over tasks."""
    games = [np.array(values) for values in runs.values()]
    return f"DMC, {len(games)} tasks: {summary(games, ('mean', 'median'))}" if len(games) > 1 else ""


def crafter_lines(env: str, runs: list[dict[str, float]]) -> list[str]:
    """The score, then how often each of the achievements was unlocked."""
    if not runs:
        return [f"{env}: no achievements are logged in these runs"]
    values = [crafter_score(list(run.values())) for run in runs]
    lines = [f"{env}, score: {told(values).strip()} %"]
    return lines + [f"  {name:24} {np.mean([run[name] for run in runs]):6.1f} %" for name in sorted(runs[0])]
