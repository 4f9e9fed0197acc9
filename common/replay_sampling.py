"""Which rows a batch starts at: draws over streams and over episodes, as pure functions of their bounds.

A row's id is `count * N + env`, count being its place in the stream of its env (common/replay_buffer.py).
Letters: N envs, B sequences, T rows of a sequence, E episodes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

StartRule = Callable[[np.random.Generator, np.ndarray, int], np.ndarray]  # rng, rows [B], T -> offsets [B]
Streams = tuple[np.ndarray, np.ndarray]  # [N] lowest count that is stored, [N] count of the next row


@dataclass(frozen=True)
class Episodes:
    """What is stored of each episode, oldest first; one that is being overwritten lost its head."""

    start: np.ndarray  # [E] id of the first row; row k of the episode is start + k * N
    length: np.ndarray  # [E] rows
    is_open: np.ndarray  # [E] bool: its newest row is no last one


def uniform_window(rng: np.random.Generator, rows: np.ndarray, length: int) -> np.ndarray:
    """The start rule that draws every window inside an episode equally often: offsets 0..rows-length."""
    return rng.integers(0, np.maximum(rows - length, 0) + 1)


def uniform_starts(rng: np.random.Generator, streams: Streams, batch: int, length: int) -> np.ndarray:
    """Ids [B], each with the T-1 rows after it in its stream, all such rows equally likely."""
    lows, counts = streams
    starts = np.maximum(counts - lows - length + 1, 0)  # [N] how many each stream has
    ends = np.cumsum(starts)
    if ends[-1] == 0:
        raise ValueError(f"no stream holds {length} rows yet: ask can_sample first")
    draw = rng.integers(ends[-1], size=batch)
    env = np.searchsorted(ends, draw, side="right")
    count = lows[env] + draw - (ends - starts)[env]
    return count * len(counts) + env


def episode_starts(
    rng: np.random.Generator,
    episodes: Episodes,
    streams: Streams,
    batch: int,
    length: int,
    rule: StartRule,
    weights: np.ndarray | None,
    pad: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An episode by weight, an offset in it by rule -> ids [B] of the starts, and of the real rows' bounds.

    The real rows are low <= id < end.  Without padding that is the whole window, shifted into its stream.
    """
    lows, counts = streams
    n = len(counts)
    chance = np.ones(len(episodes.start)) if weights is None else np.asarray(weights, np.float64)
    if not pad:
        chance = np.where((counts - lows)[episodes.start % n] >= length, chance, 0.0)
    if not chance.any():
        raise ValueError(f"no stream holds {length} rows yet: ask can_sample first")
    which = rng.choice(len(chance), batch, p=chance / chance.sum())
    start, rows = episodes.start[which], episodes.length[which]
    count, env = start // n + rule(rng, rows, length), start % n
    if pad:
        return count * n + env, start, start + rows * n
    first = np.clip(count, lows[env], counts[env] - length) * n + env
    return first, first, first + length * n
