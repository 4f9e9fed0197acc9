"""One start, dreamed on under every action held constant: does the model know what actions do?"""

from pathlib import Path

import numpy as np

from common.agent import Agent
from common.dreams import Window, free_dream
from common.frames import annotate, grid, upscale
from common.spaces import Spaces
from common.video import dream_clips, write_video


def action_sweep(agent: Agent, window: Window, folder: Path, steps: int = 15) -> Path:
    """A cell of the clip for each action; returns the file."""
    import torch

    cells = []
    for name, act in action_plans(agent.spaces).items():
        held = np.broadcast_to(act, (len(window.act), steps, *np.shape(act)))
        generator = torch.Generator(agent.device).manual_seed(0)
        dream = free_dream(agent, window, steps, actions=held, generator=generator)
        cells.append(annotate(upscale(dream_clips(dream.obs)[0]), name))
    clip = grid(cells, columns=min(len(cells), 6), gap=4)
    return write_video(folder / "action_sweep.mp4", clip, fps=10, notify=print)


def action_plans(spaces: Spaces) -> dict[str, np.ndarray]:
    """Name -> an action: each of a Discrete (18 at most), of several choices, or both ends of a number."""
    if spaces.multi:
        plans = {}
        for i, count in enumerate(spaces.multi):
            for choice in range(min(count, 6)):
                plans[f"a[{i}] = {choice}"] = np.eye(len(spaces.multi), dtype=np.int64)[i] * choice
        return plans
    if spaces.discrete:
        return {f"action {i}": np.int64(i) for i in range(min(spaces.act, 18))}
    plans = {"none": np.zeros(spaces.act, np.float32)}
    for i in range(min(spaces.act, 6)):
        for value in (-1.0, 1.0):
            plans[f"a[{i}] = {value:+.0f}"] = np.float32(value) * np.eye(spaces.act, dtype=np.float32)[i]
    return plans
