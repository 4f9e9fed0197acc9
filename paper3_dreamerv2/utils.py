"""What DreamerV2's loop needs and no other paper has: its sampler, schedules, the slow critic's copy.

Letters: B sequences, L rows of one, N rows of an episode.
"""

import numpy as np
import torch
from torch import Tensor, nn

from common.replay_buffer import ReplayBuffer
from common.replay_sampling import Episodes, uniform_window
from common.spaces import Spaces


def end_window(rng: np.random.Generator, rows: np.ndarray, length: int) -> np.ndarray:
    """min(U{0 .. N}, N - L): starts that would stick out become the last window, P = (L + 1) / (N + 1)."""
    return np.maximum(np.minimum(rng.integers(0, rows + 1), rows - length), 0)


def sample(
    replay: ReplayBuffer, batch: int, length: int, ends: bool, spaces: Spaces, device: torch.device
) -> dict[str, Tensor]:
    """A batch for `WorldModel.loss`: obs, prev_act [B, L, A], rew, is_first, is_terminal on the device.

    Episodes are drawn uniformly, whatever their length; a short one runs on into its neighbours, where
    is_first cuts the memory.  Every window starts with is_first and knows no action before it; discrete
    actions are one-hot first and masked then: index 0 is an action.
    """

    def chance(episodes: Episodes) -> np.ndarray:
        closed = ~episodes.is_open  # the authors store an episode when it has ended
        return (closed if closed.any() else np.ones_like(closed)).astype(np.float64)

    rule = end_window if ends else uniform_window
    rows = replay.sample_sequences(batch, length, "episode", start_rule=rule, weights=chance)
    act = torch.from_numpy(replay.previous("act", rows["id"]))
    out = {name: torch.from_numpy(rows[name]) for name in (*spaces.obs, "rew", "is_first", "is_terminal")}
    out["prev_act"] = spaces.encode(act) * (~out["is_first"])[..., None]
    return {name: value.to(device, non_blocking=True) for name, value in out.items()}


def linear(first: float | None, last: float, steps: int, now: int) -> float:
    """From `first` to `last` over `steps`, then `last`; no schedule where first is None."""
    if first is None:
        return last
    return first + min(1.0, now / max(steps, 1)) * (last - first)


def copy_into(slow: nn.Module, fast: nn.Module) -> None:
    """Make the slow critic equal to the critic."""
    with torch.no_grad():
        torch._foreach_copy_(list(slow.parameters()), list(fast.parameters()))


def decoupled(decay: float, lr: float) -> float:
    """AdamW's weight_decay for which every update multiplies weights by 1 - decay, whatever the rate.

    At rate 0 a network is frozen: it does not decay either.
    """
    return decay / lr if lr else 0.0
