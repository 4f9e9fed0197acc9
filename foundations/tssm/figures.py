"""Figures of a run: losses, scores beside what needs no learning, predicted rewards, a dream.

Shapes: R rows, K latents, C classes.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from common.errors import UserError
from common.plots import COLORS, GRAY, new_figure, plot_comparison, save_figure
from foundations.tssm.dynamics import Dynamics
from foundations.tssm.stages import checkpoint, coded, held_out_game, load_dynamics, load_observation
from foundations.tssm.train import Windows
from foundations.tssm.visualize import dream_panels, strip, write_picture


def plot(args: Any, device: torch.device) -> None:
    """Whatever the run has: losses.png, scores-by-*.png, rewards.png, dream.png."""
    results = {path.stem: json.loads(path.read_text()) for path in sorted(args.out.glob("train*.json"))}
    if not results:
        raise UserError(
            f"no train*.json in {args.out}: first python -m foundations.tssm train --out {args.out}"
        )
    written = [_plot_losses(results, args.out), *_plot_scores(results, args.out)]
    if checkpoint(args.out, "dynamics").is_file():
        (_, code), (stored, model) = load_observation(args.out, device), load_dynamics(args.out, device)
        panels = dream_panels(
            code, model, held_out_game(args.out, args.seed), stored.config.agent.context, 11
        )
        picture = np.concatenate([strip(label, clip) for label, clip in panels.items()])
        written.append(write_picture(args.out / "plots" / "dream.png", picture))
        written.append(_plot_rewards(model, coded(args.out, code)[1], args.out))
    print("written: " + ", ".join(str(path) for path in written))


def _plot_rewards(model: Dynamics, windows: Windows, out: Path) -> Path:
    """Predicted against true rewards one step ahead, held-out rows: is a rare one as large as it should be?

    Few distinct rewards: the mean prediction and its deviation for each; else a dot per row.
    """
    true, pred = predicted_rewards(model, windows)
    values = np.unique(true)
    figure, axes = new_figure(width=4.6, height=4.0)
    ax = axes[0, 0]
    ax.plot(*[[true.min(), true.max()]] * 2, color=GRAY, lw=1, label="as it is")
    if len(values) <= 8:
        means = [pred[true == value].mean() for value in values]
        spread = [pred[true == value].std() for value in values]
        ax.errorbar(values, means, spread, fmt="o", color=COLORS[0], capsize=4, label="predicted")
        for value, mean in zip(values, means, strict=True):
            ax.annotate(
                f"{value:.2f}: {mean:.2f}", (value, mean), xytext=(8, -12), textcoords="offset points"
            )
        ax.margins(x=0.25)
    else:
        ax.plot(true, pred, ".", ms=2, color=COLORS[0], label="predicted")
    ax.set(xlabel="reward that came", ylabel="reward predicted one step before", title="held-out rows")
    ax.legend(frameon=False, fontsize=8)
    return save_figure(figure, out / "plots" / "rewards.png")


@torch.no_grad()
def predicted_rewards(model: Dynamics, windows: Windows) -> tuple[np.ndarray, np.ndarray]:
    """(true, predicted) rewards of all rows but the first of each game, from the row before.  [R] twice"""
    pred = []
    for codes, act, rew, _ in zip(*(column.split(64) for column in windows), strict=True):
        stoch = F.one_hot(codes[:, :-1].flatten(0, 1), model.classes).float()[:, None]  # [R, 1, K, C]
        pred.append(model(stoch, act[:, :-1].flatten(0, 1)[:, None], rew[:, :-1].reshape(-1, 1)).rew[:, 0])
    return windows.rew[:, 1:].flatten().cpu().numpy(), torch.cat(pred).cpu().numpy()


def _plot_losses(results: dict[str, dict], out: Path) -> Path:
    """One panel per stage; of the agents the actor's gradient norm, which shows how the signal arrives."""
    parts = {"autoencoder": [], "dynamics": [], "actor": []}
    for name, result in results.items():
        parts["autoencoder"] += [(name, result.get("observation", result if name == "train-obs" else None))]
        parts["dynamics"] += [(name, result.get("dynamics", result if name == "train-wm" else None))]
        is_agent = name.startswith("train-agent")
        parts["actor"] += [(_objective(name, result), result.get("agent", result if is_agent else None))]
    shown = {
        "autoencoder": ("image",),
        "dynamics": ("stoch", "rew", "done"),
        "actor": ("grad_norm",),
    }
    figure, axes = new_figure(1, 3, width=11.0, height=3.2)
    for ax, (title, runs) in zip(axes[0], parts.items(), strict=True):
        color = 0
        for name, result in runs:
            for key in (key for key in shown[title] if result and key in result["curve"][0]):
                points = [(row["step"], row[key]) for row in result["curve"]]
                label = name if title == "actor" else key
                ax.plot(*zip(*points, strict=True), color=COLORS[color % len(COLORS)], label=label)
                color += 1
        ax.set(title=title, xlabel="step", yscale="log")
        if color:
            ax.legend(frameon=False, fontsize=8)
    axes[0, 0].set_ylabel("loss")
    axes[0, 2].set_ylabel("gradient norm before clipping")
    return save_figure(figure, out / "plots" / "losses.png")


def _plot_scores(results: dict[str, dict], out: Path) -> list[Path]:
    """Return against updates and against CPU seconds of training, with what needs no learning as levels."""
    agents = {_objective(name, r): r for name, r in results.items() if "score" in r}
    title = "mean action in the real world"
    if not agents:
        return []
    levels = {name: row["return"] for name, row in next(iter(agents.values()))["baselines"].items()}
    levels = {name: value for name, value in levels.items() if value > -100}  # else it would press all flat
    written = []
    for x, label in (("update", "updates"), ("train_cpu_s", "CPU seconds of agent training")):
        curves = {}
        for name, result in agents.items():
            rows = result.get("agent", result)["evaluations"]
            curves[name] = ([row[x] for row in rows], [row["return"] for row in rows])
        path = out / "plots" / f"scores-by-{'updates' if x == 'update' else 'cpu'}.png"
        plot_comparison(curves, levels=levels, x_label=label, y_label="return", title=title, path=path)
        written.append(path)
    return written


def _objective(name: str, result: dict) -> str:
    return result["args"].get("objective", name)
