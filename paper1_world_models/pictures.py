"""What TensorBoard gets to see at the end of a stage: reconstructions, an open-loop dream, the agent at play.

Nothing here draws from the generators of the training: with pictures or without, a run has the same bits.
"""

import numpy as np
import torch

from common.dreams import Episode, make_window, open_loop, open_loop_clip
from common.evaluate import evaluate
from common.frames import upscale
from common.shards import Shards
from common.video import episodes_clip
from paper1_world_models.agent import WorldModelsAgent
from paper1_world_models.evolve import held_out_seeds
from paper1_world_models.run import Run
from paper1_world_models.vae import VAE

CONTEXT, HORIZON, COUNT = 5, 45, 3  # rows watched, rows dreamed, dreams side by side
TEMPERATURE = 0.3  # of these dreams: near the likeliest course, as in visualize.py
PLAYED = 100  # steps of the agent's clip at most
ERRORS_AT = (1, 5, 15, 45)


@torch.inference_mode()
def draw_reconstruction(run: Run, step: int, vae: VAE, frames: torch.Tensor) -> None:
    """Held-out frames above what V makes of them.  uint8 [N, H, W, C]"""
    recon = vae.decode(vae.encode(frames)[0]).mul(255).byte()
    picture = np.concatenate([np.hstack(part.cpu().numpy()) for part in (frames, recon)])
    run.log.image(step, "reconstruction", picture)


def draw_open_loop(run: Run, agent: WorldModelsAgent, shards: Shards) -> None:
    """Held-out episodes, M's dream of them with the real actions, the difference; the error by horizon."""
    episodes = [stored_episode(shards, agent, i) for i in held_out(shards, CONTEXT + 1)]
    if not episodes:
        return
    loop = open_loop(agent, make_window(episodes, COUNT, CONTEXT, HORIZON), temperature=TEMPERATURE)
    error, step = loop.errors["model"], run.log.progress.step
    known = {f"open_loop/mse_{h}": error[h - 1] for h in ERRORS_AT if h <= len(error)}
    run.log.scalars(step, known)
    run.log.video(step, "open_loop", open_loop_clip(loop), fps=10)


def held_out(shards: Shards, least: int) -> list[int]:
    """The longest of the held-out episodes (every 20th), if they have `least` rows or more."""
    lengths = shards.episodes[::20, 2]
    longest = np.argsort(-lengths, kind="stable")[:COUNT]
    return [20 * int(i) for i in longest if lengths[i] >= least]


def stored_episode(shards: Shards, agent: WorldModelsAgent, number: int) -> Episode:
    """An episode off the disk, its actions as the environment takes them."""
    rows = shards.episode(number)
    flags = {name: rows[name] for name in ("is_first", "is_last", "is_terminal")}
    return Episode({"image": rows["image"]}, agent.codec.to_env(rows["act"]), rows["rew"], **flags)


def draw_agent(run: Run, step: int, agent: WorldModelsAgent) -> None:
    """The beginning of a held-out episode as the mean vector plays it."""
    seed = held_out_seeds(1)[0]
    episodes = evaluate(agent, run.spec, 1, seed, record=1, max_steps=PLAYED).episodes
    clip = episodes_clip(agent, episodes) if agent.vae.can_draw else upscale(episodes[0].obs["image"])
    run.log.video(step, "agent", clip)
