"""Scores: returns with bootstrap intervals, area under a learning curve, human-normalised aggregates.

The aggregates over several games follow Agarwal et al. 2021, "Deep RL at the Edge of the Statistical
Precipice" (rliable): a matrix [R, G] of R runs x G games, mean and median over the games' run means, IQM and
optimality gap over all R x G entries; `balanced` makes one where games have different numbers of runs.
Random, human and published Atari scores are data: atari_scores.json.
DreamerV2's four aggregates over 55 games count against human records too: atari_records.json.  Of runs:
    python -m common.scores RUN_DIR RUN_DIR ...
Letters: E episodes or evaluations, R runs, G games.  NumPy only.
"""

from __future__ import annotations

import csv
import json
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from common.errors import UserError

ATARI_FILE = Path(__file__).with_name("atari_scores.json")
RECORDS_FILE = Path(__file__).with_name("atari_records.json")
TIE = 1e-9  # IRIS' Pong mean equals the human score: the paper counts it as superhuman


def iqm(values, axis=None) -> np.ndarray | float:
    """Interquartile mean: a quarter of the entries (rounded down) is cut off at either end.  [E] -> scalar"""
    values = np.asarray(values, np.float64)
    if axis is None:
        values, axis = values.ravel(), 0
    values = np.sort(values, axis=axis)
    cut = values.shape[axis] // 4
    kept = np.take(values, np.arange(cut, values.shape[axis] - cut), axis=axis)
    return kept.mean(axis=axis)


def bootstrap_ci(
    values, stat: Callable = np.mean, level: float = 0.95, samples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of `stat` over independent values.  [E] -> (low, high); nan for one"""
    values = np.asarray(values, np.float64).ravel()
    if len(values) < 2:  # one episode says nothing about the spread
        return float("nan"), float("nan")
    rows = np.random.default_rng(seed).integers(len(values), size=(samples, len(values)))
    draws = stat(values[rows], axis=1)  # [samples]
    tail = 50 * (1 - level)
    low, high = np.percentile(draws, [tail, 100 - tail])
    return float(low), float(high)


def summarise(returns, lengths=None) -> dict:
    """Episode returns [E] (and lengths [E]) -> the `score` block of eval.json, plain numbers only."""
    returns = np.asarray(returns, np.float64)
    if not len(returns):
        raise UserError("no finished episode to summarise: give --episodes 1 or more")
    result = {
        "mean": float(returns.mean()),
        "sd": float(returns.std(ddof=1)) if len(returns) > 1 else 0.0,
        "ci95": list(bootstrap_ci(returns)) if len(returns) > 1 else None,
        "iqm": float(iqm(returns)),
        "median": float(np.median(returns)),
        "min": float(returns.min()),
        "max": float(returns.max()),
        "episodes": len(returns),
    }
    if lengths is not None:
        result["length"] = float(np.mean(lengths))
    return result


def area_under_curve(steps, returns, start: float = 0.0, end: float | None = None) -> float:
    """Mean return over the steps start..end: trapezoids, first and last value held.  [E], [E] -> scalar"""
    steps, returns = np.asarray(steps, np.float64), np.asarray(returns, np.float64)
    end = float(steps[-1]) if end is None and len(steps) else (end or start)
    if len(steps) == 0 or np.any(np.diff(steps) < 0) or end <= start:
        raise UserError(f"a learning curve needs rising steps and start {start} < end {end}")
    inside = (steps > start) & (steps < end)
    grid = np.concatenate([[start], steps[inside], [end]])
    values = np.interp(grid, steps, returns)
    area = np.sum((values[1:] + values[:-1]) / 2 * np.diff(grid))
    return float(area / (end - start))


def way_to_optimum(
    value: float, random: float | None, blind: float | None, optimum: float | None
) -> float | None:
    """Share of the way from the better of random and blind to the optimum; None where one is unknown."""
    floors = [score for score in (random, blind) if score is not None]
    if optimum is None or not floors or optimum == max(floors):
        return None
    return (value - max(floors)) / (optimum - max(floors))


@cache
def atari_scores() -> dict:
    """The table of random, human and published Atari 100k scores (26 games), with its sources."""
    return json.loads(ATARI_FILE.read_text(encoding="utf-8"))


@cache
def atari_records() -> dict:
    """The table of random, human and record scores, and of four agents at 200M frames (55 games)."""
    return json.loads(RECORDS_FILE.read_text(encoding="utf-8"))


def atari_game(name: str, games: Iterable[str] | None = None) -> str:
    """`atari_bank_heist`, `ALE/BankHeist-v5`, `bankheist` -> `BankHeist`; UserError if no score is known.

    games: of which table; None: the 26 of Atari 100k.
    """
    plain = name.removeprefix("ALE/").removeprefix("atari_").split("-")[0].replace("_", "").lower()
    games = list(atari_scores()["games"] if games is None else games)
    for game in games:
        if game.lower() == plain:
            return game
    raise UserError(f"no human score for {name!r}; known games: {', '.join(games)}")


@cache
def human_scores() -> dict[str, dict[str, float]]:
    """random and human of the 55 games whose human score is known."""
    others = {game: {**row, "human": row["gamer"]} for game, row in atari_records()["games"].items()}
    return others | atari_scores()["games"]


def human_normalised(game: str, score):
    """(score - random) / (human - random): 0 is a random policy, 1 the human tester.  Any shape."""
    row = human_scores()[atari_game(game, human_scores())]
    return (np.asarray(score, np.float64) - row["random"]) / (row["human"] - row["random"])


def normalised_matrix(scores: Mapping[str, list[float]]) -> np.ndarray:
    """{game: raw scores, one per run} -> human-normalised [R, G]; all games need equally many runs."""
    runs = {len(np.atleast_1d(values)) for values in scores.values()}
    if len(runs) != 1:
        raise UserError(f"games have {sorted(runs)} runs: the aggregates need equally many for each game")
    return np.stack(
        [np.atleast_1d(human_normalised(game, values)) for game, values in scores.items()], axis=1
    )


def balanced(games: Sequence) -> np.ndarray:
    """The runs of each game, [R_g] of every g, -> [R, G]: runs are repeated until all games have as many.

    So every game weighs the same in all aggregates, and every run of a game.
    """
    most = math.lcm(*map(len, games))
    return np.stack([np.repeat(np.asarray(runs, np.float64), most // len(runs)) for runs in games], axis=1)


def aggregates(matrix) -> dict[str, float | int]:
    """[R, G] normalised scores -> mean, median, iqm, optimality_gap, superhuman (games at 1 or above)."""
    matrix = np.asarray(matrix, np.float64)
    assert matrix.ndim == 2, matrix.shape
    games = matrix.mean(axis=0)  # [G]
    return {
        "mean": float(games.mean()),
        "median": float(np.median(games)),
        "iqm": float(iqm(matrix)),
        "optimality_gap": float(1 - np.minimum(matrix, 1).mean()),
        "superhuman": int((games >= 1 - TIE).sum()),
    }


def aggregate_ci(
    games, level: float = 0.95, samples: int = 2000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Stratified bootstrap: every game redraws its own runs.  [R, G] or [R_g] of each -> {name: (low, high)}

    A game of a single run does not vary, which makes the interval too narrow.
    """
    games = list(games.T) if isinstance(games, np.ndarray) else [np.asarray(runs) for runs in games]
    rng = np.random.default_rng(seed)
    draws = [
        aggregates(balanced([runs[rng.integers(len(runs), size=len(runs))] for runs in games]))
        for _ in range(samples)
    ]
    tail = 50 * (1 - level)
    return {
        key: tuple(float(edge) for edge in np.percentile([draw[key] for draw in draws], [tail, 100 - tail]))
        for key in draws[0]
    }


# --- DreamerV2's four aggregates ------------------------------------------------------------------


def final_score(steps, returns, window: float) -> float:
    """The score of one run: the mean of its evaluations in the last `window` steps.  [E], [E] -> scalar"""
    steps, returns = np.asarray(steps, np.float64), np.asarray(returns, np.float64)
    if not len(steps):
        raise UserError("a run without an evaluation has no score: train it for longer")
    return float(returns[steps > steps.max() - window].mean())


def record_aggregates(
    scores: Mapping[str, Iterable[float]], baselines: Mapping[str, Mapping[str, float]] | None = None
) -> dict[str, float | int]:
    """{game: final raw scores, one per seed} -> gamer median and mean, record mean and clipped record mean.

    Normalised between random and the human gamer, or random and the human world record (DreamerV2, table 1).
    Every seed is normalised and clipped on its own before seeds are averaged, then games (table K.1).
    The clip is from above: a game below random still counts against the agent.  baselines: other table rows.
    """
    rows = atari_records()["games"] | dict(baselines or {})
    gamer, record, clipped = [], [], []  # one number per game
    for name, values in scores.items():
        row, seeds = rows[atari_game(name, rows)], np.array(list(values), np.float64)
        gains = seeds - row["random"]  # [R]
        gamer.append((gains / (row["gamer"] - row["random"])).mean())
        relative = gains / (row["record"] - row["random"])
        record.append(relative.mean())
        clipped.append(np.minimum(relative, 1).mean())
    return {
        "gamer_median": float(np.median(gamer)),
        "gamer_mean": float(np.mean(gamer)),
        "record_mean": float(np.mean(record)),
        "clipped_record_mean": float(np.mean(clipped)),
        "games": len(gamer),
    }


def scores_of_runs(folders: Iterable[str | Path], window: float = 2e6) -> dict[str, list[float]]:
    """Run folders (config.json, curve.csv) -> {game: final scores, one per run}, for `record_aggregates`."""
    found = defaultdict(list)
    for folder in map(Path, folders):
        try:
            env = json.loads((folder / "config.json").read_text(encoding="utf-8"))["config"]["env"]
            with open(folder / "curve.csv", newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{folder} is no run folder with a curve ({error})") from error
        steps, returns = ([float(row[name]) for row in rows] for name in ("frames", "ret_mean"))
        found[atari_game(env, atari_records()["games"])].append(final_score(steps, returns, window))
    return dict(found)


def main() -> None:
    """Print the aggregates of the run folders that are given."""
    scores = scores_of_runs(sys.argv[1:])
    if not scores:
        raise UserError("give the run folders whose scores are to be aggregated")
    for game, values in scores.items():
        print(f"{game:20s} {np.mean(values):12,.1f}  ({len(values)} runs)")
    for name, value in record_aggregates(scores).items():
        print(f"{name:20s} {value:12.4g}")


if __name__ == "__main__":
    from common.cli import run_main

    run_main(main)
