"""Pictures made of cells: beliefs, reconstructions, imagined rooms, dreams, values that spread in a dream.

Clips are uint8 frames [T, h, w, 3], pictures [h, w, 3]; every function returns them and writes its file.

Shapes: S states, T steps, H, W cells of a grid, N = H * W + 1 entries of an observation.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from minigrid.minigrid_env import MiniGridEnv
from PIL import Image

from common.frames import annotate, grid, side_by_side, upscale
from common.video import write_gif
from foundations.minigrid.envs import AGENT, EMPTY, draw, load_state
from foundations.minigrid.mdp import TabularMDP

TILE = 32


def cells_of(obs: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Observations as grids, what is carried in the corner, where only wall is.  [..., N] -> [..., H, W]"""
    cells = obs[..., :-1].reshape(*obs.shape[:-1], *shape).copy()
    cells[..., 0, 0] = np.where(obs[..., -1] == EMPTY, cells[..., 0, 0], obs[..., -1])
    return cells


def with_agent(view: np.ndarray) -> np.ndarray:
    """The agent's view with itself in it, bottom centre, looking up.  [V, V] -> [V, V]"""
    view = view.copy()
    view[-1, len(view) // 2] = AGENT + 3
    return view


def door_color(env: MiniGridEnv) -> str:
    """That of the env's door, where it has one."""
    return next((thing.color for thing in env.grid.grid if thing and thing.type == "door"), "yellow")


def heat(
    shape: tuple[int, int], xy: np.ndarray, weights: np.ndarray, scale: float, tile: int = TILE
) -> np.ndarray:
    """Cells [n, 2] and weights [n] -> picture uint8 [H * tile, W * tile, 3], black to yellow at `scale`."""
    field = np.full(shape, np.nan)
    for (x, y), weight in zip(xy, weights, strict=True):
        field[y, x] = np.nanmax([field[y, x], weight])
    colors = colormaps["inferno"](np.clip(np.nan_to_num(field) / max(scale, 1e-9), 0, 1))[..., :3]
    colors[np.isnan(field)] = 0.4  # walls
    return upscale((255 * colors).astype(np.uint8), tile * shape[0])


def belief_clip(
    env: MiniGridEnv, mdp: TabularMDP, trace: Sequence[tuple[int, np.ndarray, np.ndarray]], path: Path
) -> np.ndarray:
    """World, view, and where the agent thinks it is.  trace: (state, view [V, V], belief [S]) of each step"""
    shape = (env.height, env.width)
    xy = np.array([state[:2] for state in mdp.states])
    worlds, views, beliefs, lines = [], [], [], []
    for step, (state, view, belief) in enumerate(trace):
        load_state(env, mdp.states[state])
        worlds.append(env.get_frame(highlight=True, tile_size=TILE))
        views.append(draw(with_agent(view), TILE * 2 if len(view) < 4 else TILE + 16, door_color(env)))
        places, cell = np.unique(xy, axis=0, return_inverse=True)
        mass = np.bincount(cell.reshape(-1), belief)  # summed over headings
        beliefs.append(heat(shape, places, np.sqrt(mass), 1.0))  # the root lets one in ten still be seen
        right = mdp.states[int(belief.argmax())] == mdp.states[state]
        possible, verdict = int((belief > 1e-6).sum()), "right" if right else "wrong"
        lines.append(
            f"step {step}: {possible} possible state{'s' * (possible > 1)}, most likely one {verdict}"
        )
    load_state(env, mdp.states[0])
    clip = side_by_side(
        {"world": np.stack(worlds), "view": np.stack(views), "belief (by cell)": np.stack(beliefs)}
    )
    clip = annotate(clip, lines, size=14)
    write_gif(path, clip, fps=2)
    return clip


def reconstruction(shape: tuple[int, int], truth: np.ndarray, rebuilt: np.ndarray, path: Path) -> np.ndarray:
    """Observations above what the code gives back, wrong cells framed.  two int [n, N] -> picture"""
    rows = [cells_of(truth, shape), cells_of(rebuilt, shape)]
    top, bottom = draw(rows[0]), mark(draw(rows[1]), rows[0] != rows[1])
    return _strips({"real": top, "decoded from its code": bottom}, path)


def mark(pictures: np.ndarray, wrong: np.ndarray, color: tuple[int, int, int] = (255, 0, 255)) -> np.ndarray:
    """Frame the wrong cells.  uint8 [..., H * t, W * t, 3], bool [..., H, W] -> pictures"""
    tile = pictures.shape[-2] // wrong.shape[-1]
    big = np.repeat(np.repeat(wrong, tile, -1), tile, -2)
    at = np.arange(tile)
    edge = (at < 2) | (at >= tile - 2)
    rim = np.tile(edge[:, None] | edge, wrong.shape[-2:])
    return np.where((big & rim)[..., None], np.array(color, np.uint8), pictures)


def imagined(shape: tuple[int, int], rows: Mapping[str, np.ndarray], path: Path) -> np.ndarray:
    """Strips of frames that a prior or a prediction gave.  {label: int [n, N]} -> picture"""
    return _strips({label: draw(cells_of(obs, shape)) for label, obs in rows.items()}, path)


def _strips(rows: Mapping[str, np.ndarray], path: Path) -> np.ndarray:
    strips = [
        annotate(grid(list(pictures), columns=len(pictures), gap=6), label)
        for label, pictures in rows.items()
    ]
    picture = np.concatenate(strips)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
    return picture


def dream_clip(
    shape: tuple[int, int], truth: np.ndarray, dream: np.ndarray, lines: Sequence[str], path: Path
) -> np.ndarray:
    """The world and the model's dream under the same actions, wrong cells framed.  two int [T, N] -> clip"""
    real, dreamt = cells_of(truth, shape), cells_of(dream, shape)
    clip = side_by_side({"world": draw(real), "dream": mark(draw(dreamt), real != dreamt)}, height=240)
    clip = annotate(clip, list(lines), size=14)
    write_gif(path, clip, fps=3)
    return clip


def plan_clip(
    shape: tuple[int, int],
    obs: np.ndarray,
    snapshots: Sequence[tuple[int, np.ndarray]],
    walk: np.ndarray,
    lines: Sequence[str],
    path: Path,
) -> np.ndarray:
    """Values spreading from the goal while the agent dreams, then the walk they lead to.

    obs: int [S, N], what the codes stand for; snapshots: (imagined steps, values [S]); walk: int [T, N].
    """
    agent = obs[:, :-1] >= AGENT  # [S, H * W]
    known = agent.any(1)
    place = agent.argmax(1)[known]
    xy = np.stack([place % shape[1], place // shape[1]], 1)
    tops = max(float(values.max()) for _, values in snapshots)
    tile = max(8, 320 // max(shape))
    maps = [heat(shape, xy, values[known], tops, tile) for _, values in snapshots]
    texts = [f"{count:,} imagined steps" for count, _ in snapshots] + [f"awake: {line}" for line in lines]
    real = draw(cells_of(walk, shape), tile)
    worlds = np.concatenate([np.repeat(real[:1], len(maps), 0), real])
    values = np.stack(maps + [maps[-1]] * len(real))
    clip = annotate(side_by_side({"world": worlds, "best value of each cell": values}), texts, size=14)
    write_gif(path, clip, fps=3)
    return clip
