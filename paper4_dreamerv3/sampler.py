"""From the replay to a batch: a context row that gives the latents to start from, then T rows to train on.

Letters: B sequences, T rows, A action, D deter, Z flat stoch.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from common.replay_buffer import ReplayBuffer

if TYPE_CHECKING:
    from paper4_dreamerv3.agent import DreamerV3Agent


def sample(replay: ReplayBuffer, agent: "DreamerV3Agent") -> tuple[dict[str, Tensor], np.ndarray]:
    """Rows for `WorldModel.loss` on the device, and their ids [B, T], under which latents are written back.

    A sequence begins anywhere, also in the middle of an episode, and runs across episode ends.  Its first row
    is not trained on: it gives h, z and the action before the next one.
    """
    cfg, spaces = agent.cfg, agent.spaces
    names = (*spaces.obs, "rew", "is_first", "is_last", "is_terminal")
    rows = replay.sample_sequences(cfg.replay.batch, cfg.replay.length + 1, names=("act", *names))
    batch = {name: torch.from_numpy(rows[name][:, 1:]).to(agent.device, non_blocking=True) for name in names}
    batch["rew"] = batch["rew"] * cfg.model.reward_scale
    # What led to rows 1 .. T.  Where an episode begins nothing did: `observe` cuts it, together with h and z.
    batch["prev_act"] = spaces.encode(torch.from_numpy(rows["act"][:, :-1]).to(agent.device))
    latents = replay.gather(rows["id"][:, 0], ("deter", "stoch"))
    batch["deter"], batch["stoch"] = agent.unpack(**latents)
    return batch, rows["id"][:, 1:]
