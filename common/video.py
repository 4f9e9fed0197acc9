"""Videos: mp4 and gif writers, and the pictures that the learning material draws of any agent's model.

`write_video` needs the ffmpeg binary that comes inside imageio-ffmpeg, and falls back to a gif without it.
`visualize_vae`, `visualize_imagination` and `compare_predictions` use nothing but the Agent protocol; they
return frames or a figure, for a notebook, and write a file where a path is given.  Plots: common/plots.py.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from common.agent import Agent
from common.dreams import Episode, Window, free_dream, image_key, make_window, open_loop, reconstruct
from common.frames import (
    annotate,
    curve_panel,
    difference,
    grid,
    side_by_side,
    to_rgb,
    upscale,
)
from common.plots import plot_comparison, plot_errors, plot_trajectory, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "annotate", "compare_predictions", "curve_panel", "difference", "episodes_clip", "grid",
    "plot_comparison", "plot_errors", "plot_trajectory", "save_figure", "side_by_side", "to_rgb", "upscale",
    "visualize_imagination", "visualize_vae", "write_gif", "write_video",
]  # fmt: skip


def write_video(
    path: str | Path, frames, fps: int = 20, *, notify: Callable[[str], None] = warnings.warn
) -> Path:
    """Frames [T, h, w(, c)] -> an mp4 (h264, padded to even sides), or a gif where there is no encoder.

    Returns the path that was written.  `notify` gets one line if it became a gif.  The file appears whole.
    """
    path, frames = Path(path), to_rgb(frames)
    if path.suffix == ".gif":
        return write_gif(path, frames, fps)
    try:
        import imageio.v2 as imageio
        import imageio_ffmpeg

        imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError):  # the wheel has no binary for every platform
        path = path.with_suffix(".gif")
        notify(f"no mp4 encoder here, so {path.name} it is: pip install imageio-ffmpeg")
        return write_gif(path, frames, fps)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Players want even sides; imageio's default would resize to multiples of 16.
    frames = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)))
    partial = path.with_name(f".partial-{path.name}")
    with imageio.get_writer(partial, fps=fps, macro_block_size=2, quality=8) as writer:
        for frame in frames:
            writer.append_data(frame)
    os.replace(partial, path)
    return path


def write_gif(path: str | Path, frames, fps: int = 20) -> Path:
    """Frames [T, h, w(, c)] -> a looping gif; FASTOCTREE is 3x faster and smaller than Pillow's default."""
    path = Path(path).with_suffix(".gif")
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [
        Image.fromarray(frame).quantize(method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        for frame in to_rgb(frames)
    ]
    partial = path.with_name(f".partial-{path.name}")
    images[0].save(partial, save_all=True, append_images=images[1:], duration=round(1000 / fps), loop=0)
    os.replace(partial, path)
    return path


def visualize_vae(agent: Agent, window: Window, count: int = 8, path: str | Path | None = None) -> np.ndarray:
    """Real frames, what the model decodes of them, and the difference, below each other -> picture [H, W, 3].

    `count` frames are taken evenly out of the window's first sequence; the model sees all of them.
    """
    truth, recon = window.obs[image_key(window.obs)][0], reconstruct(agent, window)
    picks = np.unique(np.linspace(0, int(window.mask[0].sum()) - 1, count).round().astype(int))
    pred = recon.obs[image_key(window.obs)][0]
    rows = {"real": truth, "reconstruction": pred, "difference": difference(truth, pred)}
    strips = [
        annotate(grid(upscale(to_rgb(clip[picks]), 96), columns=len(picks)), label)
        for label, clip in rows.items()
    ]
    picture = np.concatenate(strips)
    if path:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    return picture


def visualize_imagination(
    agent: Agent,
    window: Window,
    horizon: int = 45,
    *,
    actions: np.ndarray | None = None,
    temperature: float = 1.0,
    generator=None,
    path: str | Path | None = None,
    fps: int = 10,
) -> np.ndarray:
    """Dreams that go on from the window's context, under the policy or under `actions` -> clip [T, H, W, 3].

    Above each: its row, the predicted reward, the probability of going on and the value.
    """
    dream = free_dream(agent, window, horizon, actions=actions, temperature=temperature, generator=generator)
    clips = []
    for b, clip in enumerate(dream_clips(dream.obs)):
        lines = []
        for t in range(len(clip)):
            line = f"seen {t + 1}" if t < dream.context else f"dream +{t + 1 - dream.context}"
            for name, value in (("rew", dream.rew), ("cont", dream.cont), ("val", dream.val)):
                line += "" if value is None or np.isnan(value[b, t]) else f"  {name} {value[b, t]:.2f}"
            lines.append(line)
        clips.append(annotate(clip, lines))
    frames = grid(clips, columns=min(len(clips), 5))
    if path:
        write_video(path, frames, fps)
    return frames


def dream_clips(obs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Decoded observations [B, T, ...] -> clips [B, T, H, W, 3]: the image, or traces where there is none."""
    key = image_key(obs, required=False)
    if key:
        return upscale(to_rgb(obs[key]))
    vectors = np.concatenate([value for value in obs.values()], axis=-1)  # [B, T, D]
    return np.stack([curve_panel(vector) for vector in vectors])


def compare_predictions(
    agents: Mapping[str, Agent],
    window: Window,
    *,
    temperature: float = 1.0,
    path: str | Path | None = None,
    fps: int = 10,
) -> tuple[np.ndarray, Figure]:
    """Several models dream the same window with its real actions: clip beside the truth, error by horizon.

    {label: agent} -> (frames [T, H, W, 3], figure); `path` (mp4) takes the clip, a .png beside it the figure.
    """
    loops = {label: open_loop(agent, window, temperature=temperature) for label, agent in agents.items()}
    panels = {"real": dream_clips(window.obs)[0]}
    errors = {}
    for label, loop in loops.items():
        panels[label] = dream_clips(loop.dream.obs)[0]
        errors[label] = loop.errors["model"]
    errors["copy last frame"] = loop.errors["copy last frame"]
    frames = side_by_side(panels)
    figure = plot_errors(errors, window.context)
    if path:
        written = write_video(path, frames, fps)
        save_figure(figure, written.with_suffix(".png"))
    return frames, figure


def episodes_clip(agent: Agent, episodes: Sequence[Episode]) -> np.ndarray:
    """Observation | reconstruction | running return, one episode after the other -> clip [T, H, W, 3]."""
    clips = []
    for number, episode in enumerate(episodes, 1):
        window = make_window([episode], 1, context=1, horizon=len(episode))
        recon = reconstruct(agent, window)
        real = np.stack(episode.frames) if episode.frames else dream_clips(window.obs)[0]
        panels = {
            "observation": real,
            "reconstruction": dream_clips(recon.obs)[0],
            "running return": curve_panel(np.cumsum(episode.rew), height=upscale(to_rgb(real)).shape[1]),
        }
        title = f"episode {number}, seed {episode.seed}: return {episode.rew.sum():.1f}"
        clips.append(annotate(side_by_side(panels), title, size=14))
    tallest, widest = (max(clip.shape[axis] for clip in clips) for axis in (1, 2))
    return np.concatenate(
        [np.pad(c, ((0, 0), (0, tallest - c.shape[1]), (0, widest - c.shape[2]), (0, 0))) for c in clips]
    )
