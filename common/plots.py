"""Figures: learning curves with bands, error by horizon, reward and continue curves, trajectories.

Every function returns a matplotlib Figure of its own (Agg canvas; pyplot and its global state stay untouched)
that a notebook shows after `%matplotlib inline`, and writes a file where a path is given.
Letters: E points of a curve, T rows, D vector entries, H dreamed rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common.agent import Dream

COLORS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442"]  # Okabe and Ito 2008
GRAY = "#888888"


def new_figure(
    rows: int = 1, columns: int = 1, width: float = 6.4, height: float = 3.6
) -> tuple[Figure, np.ndarray]:
    """Figure and its axes [rows, columns], drawn off screen."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.ravel():
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25)
    return figure, axes


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write the figure (png or svg by its suffix), making the folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None} if path.suffix == ".svg" else None  # equal data, equal file
    figure.savefig(path, dpi=120, metadata=metadata)
    return path


def plot_comparison(
    curves: Mapping[str, Sequence],
    *,
    levels: Mapping[str, float] | None = None,
    x_label: str = "environment frames",
    y_label: str = "return",
    title: str = "",
    path: str | Path | None = None,
) -> Figure:
    """Learning curves by label; of several runs the mean, with a band from the lowest to the highest.

    curves: {label: (steps [E], returns [E])} or {label: [run, run, ...]} of such pairs.
    levels: horizontal lines by name, such as random, blind, optimum.
    """
    figure, axes = new_figure()
    ax = axes[0, 0]
    for i, (label, runs) in enumerate(curves.items()):
        pairs = [runs] if np.ndim(runs[0][0]) == 0 else list(runs)
        color = COLORS[i % len(COLORS)]
        grid = np.unique(np.concatenate([np.asarray(steps, np.float64) for steps, _ in pairs]))
        # A shorter run must not be held at its last value: outside its own steps it does not count.
        values = np.stack([np.interp(grid, steps, rets, left=np.nan, right=np.nan) for steps, rets in pairs])
        there = np.isfinite(values).any(0)
        grid, values = grid[there], values[:, there]
        ax.plot(grid, np.nanmean(values, 0), color=color, label=f"{label}{_runs(pairs)}")
        if len(pairs) > 1:
            ax.fill_between(grid, np.nanmin(values, 0), np.nanmax(values, 0), color=color, alpha=0.2, lw=0)
    _levels(ax, levels)
    ax.set(xlabel=x_label, ylabel=y_label, title=title)
    ax.legend(frameon=False, fontsize=8)
    return _finish(figure, path)


def plot_errors(
    errors: Mapping[str, np.ndarray], context: int, *, title: str = "", path: str | Path | None = None
) -> Figure:
    """Mean squared error by dreamed row: {label: [H]}; baselines (copy, mean, reconstruction) are dashed."""
    figure, axes = new_figure()
    ax = axes[0, 0]
    color = 0
    for label, error in errors.items():
        x = np.arange(1, len(error) + 1)
        if label in ("copy last frame", "mean", "reconstruction"):
            style = {"copy last frame": "--", "mean": ":", "reconstruction": "-."}[label]
            ax.plot(x, error, style, color=GRAY, label=label)
        else:
            ax.plot(x, error, color=COLORS[color % len(COLORS)], label=label, lw=2)
            color += 1
    ax.set(xlabel=f"rows after {context} rows of context", ylabel="mean squared error", title=title)
    ax.set_ylim(bottom=0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(frameon=False, fontsize=8)
    return _finish(figure, path)


def plot_heads(
    dream: Dream, rew=None, cont=None, mask=None, *, count: int = 3, path: str | Path | None = None
) -> Figure:
    """Reward, continue and value of a dream, one column per sequence, beside the real ones if given.

    rew, cont, mask: [B, C+H] real rows.  The context is shaded.
    """
    rows = {"reward": (dream.rew, rew), "P(continue)": (dream.cont, cont), "value": (dream.val, None)}
    rows = {name: pair for name, pair in rows.items() if pair[0] is not None} or {"reward": (None, rew)}
    count = min(count, len(dream.act))
    figure, axes = new_figure(len(rows), count, width=3.2 * count + 0.6, height=1.8 * len(rows) + 0.4)
    for i, (name, (pred, truth)) in enumerate(rows.items()):
        for b in range(count):
            ax = axes[i, b]
            ax.axvspan(0, dream.context - 1, color=GRAY, alpha=0.15, lw=0)
            if truth is not None:
                real = np.where(mask[b], truth[b], np.nan) if mask is not None else truth[b]
                ax.step(range(len(real)), real, where="mid", color=GRAY, label="real")
            if pred is not None:
                ax.plot(pred[b], color=COLORS[0], label="predicted")
            if name == "P(continue)":
                ax.set_ylim(-0.05, 1.05)
            ax.set(ylabel=name if b == 0 else "", xlabel="row" if i == len(rows) - 1 else "")
    axes[0, 0].legend(frameon=False, fontsize=8)
    return _finish(figure, path)


def plot_trajectory(
    truth: np.ndarray,
    predictions: Mapping[str, np.ndarray] | None = None,
    *,
    context: int = 0,
    names: Sequence[str] | None = None,
    path: str | Path | None = None,
) -> Figure:
    """Vectors over time, one axis per entry: truth [T, D] or [T], {label: [T, D]}; the context is shaded."""
    truth = np.asarray(truth, np.float64).reshape(len(truth), -1)
    size = truth.shape[1]
    figure, axes = new_figure(size, 1, height=1.1 * size + 1.2)
    for d, ax in enumerate(axes[:, 0]):
        ax.plot(truth[:, d], color=GRAY, lw=2.5, label="real")
        for i, (label, pred) in enumerate((predictions or {}).items()):
            ax.plot(np.reshape(pred, truth.shape)[:, d], color=COLORS[i % len(COLORS)], label=label)
        if context:
            ax.axvspan(0, context - 1, color=GRAY, alpha=0.15, lw=0)
        ax.set_ylabel(names[d] if names else f"[{d}]")
    axes[0, 0].legend(frameon=False, fontsize=8)
    axes[-1, 0].set_xlabel("row")
    return _finish(figure, path)


def _runs(pairs: Sequence) -> str:
    return f" ({len(pairs)} runs)" if len(pairs) > 1 else ""


def _levels(ax: Axes, levels: Mapping[str, float] | None) -> None:
    for style, (name, value) in zip(["--", ":", "-.", (0, (1, 4))] * 3, (levels or {}).items(), strict=False):
        ax.axhline(value, ls=style, color=GRAY, lw=1, label=f"{name} {value:.4g}")


def _finish(figure: Figure, path: str | Path | None) -> Figure:
    if path:
        save_figure(figure, path)
    return figure
