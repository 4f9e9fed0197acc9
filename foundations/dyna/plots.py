"""The figures of this chapter.  Each function writes one file and returns its path."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import NullFormatter

from common.plots import COLORS, GRAY, new_figure, plot_trajectory, save_figure

STATES = {
    "CartPole-v1": ["x (m)", "speed (m/s)", "angle (rad)", "angular speed (rad/s)"],
    "MountainCar-v0": ["x", "speed"],
    "Pendulum-v1": ["cos", "sin", "angular speed"],
}


def training_curve(curve: Sequence[Mapping[str, float]], path: Path) -> Path:
    """Loss of the state, and its held-out twin, by epoch."""
    figure, axes = new_figure()
    ax = axes[0, 0]
    epochs = np.arange(1, len(curve) + 1)
    for color, (name, label) in zip(
        COLORS, {"obs": "training", "held_out": "held out"}.items(), strict=False
    ):
        if name in curve[0]:
            ax.plot(epochs, [row[name] for row in curve], color=color, label=label)
    ax.set(yscale="log", xlabel="epoch", ylabel="squared error of the target")
    ax.legend(frameon=False)
    return save_figure(figure, path)


def trajectory(truth: np.ndarray, dream: np.ndarray, env: str, path: Path) -> Path:
    """A real piece and the model's, from one start with the same actions.  [H + 1, D] each"""
    plot_trajectory(truth, {"model, open loop": dream}, names=STATES.get(env), path=path)
    return path


def open_loop(
    model: Any, rows: Mapping[str, np.ndarray], piece: np.ndarray, actions: int | None
) -> np.ndarray:
    """States of a model from the first of these rows on, with the rows' own actions.  -> [H + 1, D]"""
    import torch

    from foundations.dyna.data_collection import as_features
    from foundations.dyna.plan_with_model import without_end

    at = next((x.device for x in model.buffers()), "cpu")
    act = torch.from_numpy(as_features(rows["act"][piece[:-1]], actions))[None, None].to(at)
    start = torch.from_numpy(rows["obs"][piece[0]])[None, None].to(at)
    return without_end(model, start, act)[0][0, 0].cpu().numpy()


def demo(
    curves: Mapping[str, Sequence[Mapping[str, float]]],
    truth: np.ndarray,
    dream: np.ndarray,
    env: str,
    path: Path,
) -> Path:
    """The picture of world_models_demo.py: held-out losses, and every entry of one episode."""
    size = truth.shape[1]
    figure, axes = new_figure(1, 1 + size, width=3.2 * (1 + size), height=3.0)
    for color, (label, curve) in zip(COLORS, curves.items(), strict=False):
        axes[0, 0].plot([row["held_out"] for row in curve], color=color, label=label)
    axes[0, 0].set(yscale="log", xlabel="epoch", title="held-out squared error")
    axes[0, 0].legend(frameon=False, fontsize=8)
    names = STATES.get(env) or [f"entry {d}" for d in range(size)]
    for d, ax in enumerate(axes[0, 1:]):
        ax.plot(truth[:, d], color=GRAY, lw=2.5, label="real")
        ax.plot(dream[:, d], color=COLORS[0], label="ensemble, open loop")
        ax.set(xlabel="step", title=names[d])
    axes[0, 1].legend(frameon=False, fontsize=8)
    return save_figure(figure, path)


def compounding_error(curves: Mapping[str, Mapping[str, Any]], policy: str, path: Path) -> Path:
    """Error by horizon with the middle 80 % of the starts, beside copying; a panel for each policy."""
    figure, axes = new_figure(1, len(curves), width=4.6 * len(curves))
    for ax, (name, curve) in zip(axes[0], curves.items(), strict=True):
        h = np.arange(1, curve["mse"].shape[1] + 1)
        ax.plot(h, curve["mse"][0], color=COLORS[0], label="model, mean")
        ax.fill_between(
            h, curve["low"][0], curve["high"][0], color=COLORS[0], alpha=0.2, lw=0, label="middle 80 %"
        )
        ax.plot(h, curve["copy"], color=GRAY, ls="--", label="copy the first state")
        seen = (
            "as trained on"
            if name == policy
            else "part of the training"
            if policy == "mix"
            else "another policy"
        )
        ax.set(
            yscale="log", xlabel="steps ahead", title=f"{name} episodes ({seen}), {curve['starts']} starts"
        )
        ax.title.set_fontsize(9)
    axes[0, 0].set_ylabel("squared error of the state")
    axes[0, 0].legend(frameon=False, fontsize=8)
    return save_figure(figure, path)


def disagreement(found: Mapping[str, Mapping[str, Any]], policy: str, path: Path) -> Path:
    """Does the ensemble know where it is wrong?  Its spread against its error, one step and ten ahead."""
    figure, axes = new_figure(1, len(found), width=4.6 * len(found))
    for ax, (name, curve) in zip(axes[0], found.items(), strict=True):
        for color, h in zip(COLORS, (1, 10), strict=False):
            if h <= curve["error"].shape[2]:
                x, y = (curve[key][0, :500, h - 1] for key in ("disagreement", "error"))
                rank = np.corrcoef(np.argsort(np.argsort(x)), np.argsort(np.argsort(y)))[0, 1]
                ax.plot(
                    x, y, ".", ms=3, color=color, alpha=0.5, label=f"{h} ahead, rank correlation {rank:.2f}"
                )
        ax.set(xscale="log", yscale="log", xlabel="disagreement", title=f"{name} episodes")
        ax.xaxis.set_minor_formatter(NullFormatter())  # less than a decade: every tick would have its number
        ax.legend(frameon=False, fontsize=8)
    axes[0, 0].set_ylabel("squared error of the state")
    return save_figure(figure, path)


def variants(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Held-out error of one step by model, from the lowest to the highest seed; a panel for each test."""
    figure, axes = new_figure(1, 2, width=10.0, height=4.2)
    for ax, test in zip(axes[0], ("random", "controller"), strict=True):
        names = [f"{row['model']}, {row['data']}" if row["data"] else row["model"] for row in rows]
        y = np.arange(len(rows))[::-1]
        values = [np.asarray(row[test]) for row in rows]
        middle = np.array([np.median(v) for v in values])
        edges = [middle - [v.min() for v in values], [v.max() for v in values] - middle]
        colors = [
            GRAY if row["model"] in ("copy", "least-squares") else COLORS[row["data"] == "mix"]
            for row in rows
        ]
        ax.barh(y, middle, xerr=edges, color=colors, ecolor="black", height=0.7, capsize=2)
        ax.set_yticks(y, names if ax is axes[0, 0] else [], fontsize=8)
        ax.set(xscale="log", xlabel="squared error of one step", title=f"{test} test episodes")
    return save_figure(figure, path)


def learning(curves: Mapping[str, tuple[np.ndarray, np.ndarray]], path: Path, title: str = "") -> Path:
    """Greedy return by real steps: mean of the seeds, and their middle half.  {label: ([E], [S, E])}"""
    figure, axes = new_figure(width=7.2, height=4.2)
    ax = axes[0, 0]
    for i, (label, (steps, returns)) in enumerate(curves.items()):
        color, style = COLORS[i % len(COLORS)], ["-", "--", ":"][i // len(COLORS) % 3]
        ax.plot(steps, returns.mean(0), color=color, ls=style, label=label)
        low, high = np.quantile(returns, [0.25, 0.75], axis=0)
        ax.fill_between(steps, low, high, color=color, alpha=0.12, lw=0)
    ax.set(xlabel="real steps", ylabel="greedy return", title=title)
    ax.legend(frameon=False, fontsize=8)
    return save_figure(figure, path)


def k_horizon_table(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Area under the curve by imagined updates K and rollout length h, each with its 95 % interval."""
    ks, hs = (sorted({row[name] for row in rows}) for name in ("k", "horizon"))
    figure, axes = new_figure(width=1.6 * len(hs) + 1.6, height=0.8 * len(ks) + 1.2)
    ax, table = axes[0, 0], np.full((len(ks), len(hs)), np.nan)
    for row in rows:
        at = ks.index(row["k"]), hs.index(row["horizon"])
        table[at] = row["area"]
        ax.text(
            at[1],
            at[0],
            f"{row['area']:.0f}\n{row['low']:.0f} .. {row['high']:.0f}",
            ha="center",
            va="center",
        )
    ax.imshow(table, cmap="Blues", vmin=0, vmax=500, aspect="auto")
    ax.set_xticks(range(len(hs)), [f"h {h}" for h in hs])
    ax.set_yticks(range(len(ks)), [f"K {k}" for k in ks])
    ax.grid(False)
    ax.set_title("area under the learning curve", fontsize=10)
    return save_figure(figure, path)
