"""Figures: the world, values with arrows, learning curves and the limits.  Frames and clips: clips.py.

Every function returns its Figure, for a notebook, and writes its file.

Shapes: S states, H, W cells of a grid.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from minigrid.minigrid_env import MiniGridEnv

from common.plots import COLORS, GRAY, new_figure, save_figure
from foundations.minigrid.clips import TILE, cells_of, door_color, with_agent
from foundations.minigrid.envs import AGENT, EMPTY, State, agent_view, draw, full_view, load_state
from foundations.minigrid.mdp import TabularMDP

# Corners of the quarter of a cell that belongs to each heading: right, down, left, up (y grows downwards).
QUARTERS = np.array(
    [
        [(0.5, -0.5), (0.5, 0.5)],
        [(0.5, 0.5), (-0.5, 0.5)],
        [(-0.5, 0.5), (-0.5, -0.5)],
        [(-0.5, -0.5), (0.5, -0.5)],
    ]
)
TOWARDS = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])


def show_env(env: MiniGridEnv, size: int, path: Path) -> Figure:
    """The world from above, with the part that the agent sees lit, and what it sees."""
    figure, axes = new_figure(1, 2, width=7.2, height=4.2)
    env.highlight = True
    whole = env.get_frame(highlight=True, tile_size=TILE)
    for ax, picture, title in (
        (axes[0, 0], whole, "the world (lit: what the agent sees)"),
        (
            axes[0, 1],
            draw(with_agent(agent_view(env, size)), TILE, door_color(env)),
            f"its own view, {size} x {size}",
        ),
    ):
        ax.imshow(picture)
        ax.set_title(title, fontsize=10)
        ax.axis("off")
    save_figure(figure, path)
    return figure


def plot_values(mdp: TabularMDP, values: np.ndarray, env: MiniGridEnv, path: Path, title: str = "") -> Figure:
    """Values of all poses, one panel for each arrangement of things (key taken, door open), largest first.

    Each cell is cut into four quarters, one per heading; its arrow is the heading that is worth most.
    """
    phases: dict[Any, list[int]] = {}
    for i, state in enumerate(mdp.states):
        phases.setdefault(phase_of(env, state), []).append(i)
    shown = sorted(phases.items(), key=lambda item: -len(item[1]))[:3]
    figure, axes = new_figure(1, len(shown), width=1 + 4.2 * len(shown), height=4.6)
    colors = None
    for ax, (phase, rows) in zip(axes[0], shown, strict=True):
        load_state(env, mdp.states[rows[0]])
        background = cells_of(full_view(env), (env.height, env.width))
        background[background >= AGENT] = EMPTY
        ax.imshow(draw(background, TILE), extent=(-0.5, env.width - 0.5, env.height - 0.5, -0.5))
        poses = [mdp.states[row][:3] for row in rows]
        colors = quarters(ax, np.array(poses), values[rows], float(values.min()), float(values.max()))
        ax.set_title(phase, fontsize=10)
    load_state(env, mdp.states[0])
    figure.colorbar(colors, ax=axes[0].tolist(), label="value", shrink=0.8)
    figure.suptitle(title, fontsize=11)
    save_figure(figure, path)
    return figure


def phase_of(env: MiniGridEnv, state: State) -> str:
    """How things lie, in words; the door of TwoRooms follows the agent and is none of them."""
    words = {5: "key", 6: "ball", 7: "box"}
    parts = [f"{words[state.carrying[0]]} carried"] if state.carrying else []
    for cell, (kind, _, status) in state.objects:
        if kind in words:
            parts.append(f"{words[kind]} at ({cell % env.width}, {cell // env.width})")
        elif kind == 4 and not hasattr(env, "door_pos"):
            parts.append(("door open", "door closed", "door locked")[status])
    return ", ".join(parts)


def quarters(ax: Axes, poses: np.ndarray, values: np.ndarray, low: float, high: float) -> PolyCollection:
    """Draw poses int [S, 3] (x, y, heading) as coloured quarters, and the best heading of each cell."""
    centre = poses[:, None, :2].astype(float)  # [S, 1, 2]
    corners = np.concatenate([centre, centre + QUARTERS[poses[:, 2]]], 1)  # [S, 3, 2]
    patch = PolyCollection(corners, array=values, cmap="viridis", edgecolors="black", linewidths=0.3)
    patch.set_clim(low, high)
    ax.add_collection(patch)
    best: dict[tuple[int, int], int] = {}
    for i in np.argsort(values):
        best[tuple(poses[i, :2])] = i
    xy, way = poses[list(best.values()), :2], TOWARDS[poses[list(best.values()), 2]]
    look = {"color": "white", "edgecolor": "black", "linewidth": 0.6, "width": 0.012}
    ax.quiver(*xy.T, way[:, 0], -way[:, 1], pivot="mid", scale=2.2, scale_units="x", **look)
    ax.grid(False)
    ax.set_xticks(range(int(poses[:, 0].max()) + 2))
    ax.set_yticks(range(int(poses[:, 1].max()) + 2))
    return patch


def plot_learning(steps: Mapping[str, np.ndarray], best: float, path: Path, window: int = 50) -> Figure:
    """Success and length of episodes while learning, running means.  steps: {label: [episodes], 0: none}"""
    figure, axes = new_figure(1, 2, width=8.4)
    for i, (label, lengths) in enumerate(steps.items()):
        kernel = np.ones(window)
        count = np.convolve(np.ones(len(lengths)), kernel)[: len(lengths)]
        won = np.convolve(lengths > 0, kernel)[: len(lengths)]
        total = np.convolve(lengths, kernel)[: len(lengths)]
        axes[0, 0].plot(won / count, color=COLORS[i], label=label)
        axes[0, 1].plot(np.where(won > 0, total / np.maximum(won, 1), np.nan), color=COLORS[i], label=label)
    axes[0, 0].axhline(1.0, ls="--", color=GRAY, lw=1)
    axes[0, 0].set(xlabel="episode", ylabel=f"success, last {window} episodes", ylim=(0, 1.05))
    axes[0, 1].axhline(best, ls="--", color=GRAY, lw=1, label=f"value iteration {best:.1f}")
    axes[0, 1].set(xlabel="episode", ylabel="steps of the successful ones")
    axes[0, 1].set(xlim=axes[0, 0].get_xlim())
    axes[0, 1].set_ylim(bottom=0)
    axes[0, 1].legend(frameon=False, fontsize=8)
    save_figure(figure, path)
    return figure


def plot_limits(rows: Sequence[Mapping[str, Any]], path: Path) -> Figure:
    """States, memory and seconds against the side of the grid, on logarithmic axes."""
    figure, axes = new_figure(1, 3, width=11, height=3.8)
    panels: list[tuple[str, Callable[[Mapping[str, Any]], float | None]]] = [
        ("states", lambda row: row["states"]),
        ("bytes of a dense table", lambda row: row["dense_bytes"]),
        ("CPU seconds of value iteration", lambda row: max(row["solve_s"], 1e-4)),
    ]
    worlds = list(dict.fromkeys(row["world"] for row in rows))
    for ax, (label, value) in zip(axes[0], panels, strict=True):
        for color, world in zip(COLORS, worlds, strict=False):
            mine = [row for row in rows if row["world"] == world]
            sizes = [row["n"] for row in mine]
            ax.plot(sizes, [value(row) for row in mine], "o-", color=color, label=world)
            dense = [(row["n"], row["dense_s"]) for row in mine if "dense_s" in row]
            if label.startswith("CPU") and dense:
                ax.plot(*zip(*dense, strict=True), "o:", color=color, alpha=0.6, label=f"{world}, dense")
        ax.set(xscale="log", yscale="log", xlabel="side of the grid n", ylabel=label)
        ticks = sorted({row["n"] for row in rows})
        ax.set_xticks(ticks, [str(n) for n in ticks])
        ax.minorticks_off()
    axes[0, 1].axhline(16e9, ls="--", color=GRAY, lw=1)
    axes[0, 1].text(axes[0, 1].get_xlim()[0] * 1.05, 2.2e10, "16 GB", color=GRAY, fontsize=8)
    axes[0, 0].legend(frameon=False, fontsize=8)
    axes[0, 2].legend(frameon=False, fontsize=7)
    save_figure(figure, path)
    return figure
