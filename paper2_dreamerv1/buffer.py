"""DreamerV1's sampler over the common replay: first an episode, all equally often, then where in it to start.

`faithful` is TF2's: starts 0 .. N - L - 1 of an episode of N rows, so its last row is never trained on, and
episodes with fewer than L + 1 rows are skipped.  `balanced` is TF2's dataset_balance: a start anywhere, cut
back to the last window, which is drawn L times as often.  `uniform`, our default, gives every window the same
chance, the last included (else the discount head never sees an end), and short episodes run on into their
neighbours, where is_first cuts the memory.  Letters: B sequences, L rows of one, N rows of an episode.
"""

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from common.replay_buffer import ReplayBuffer
from common.replay_sampling import Episodes, uniform_window
from common.spaces import Spaces


def faithful_window(rng: np.random.Generator, rows: np.ndarray, length: int) -> np.ndarray:
    """Offsets 0 .. N - L - 1, equally likely (TF2: randint(0, total - length), its end excluded)."""
    return rng.integers(0, np.maximum(rows - length, 1))


def balanced_window(rng: np.random.Generator, rows: np.ndarray, length: int) -> np.ndarray:
    """min(U{0 .. N - 1}, N - L): the last window gets what would stick out."""
    return np.maximum(np.minimum(rng.integers(0, rows), rows - length), 0)


RULES = {"uniform": uniform_window, "faithful": faithful_window, "balanced": balanced_window}


def sample(
    replay: ReplayBuffer, batch: int, length: int, sampling: str, spaces: Spaces, device: torch.device
) -> dict[str, Tensor]:
    """A batch for `WorldModel.loss`: obs, prev_act [B, L, A], rew, is_first, is_terminal on the device.

    prev_act[t] led to row t: the stored act of the row before, also where a window starts inside an episode;
    zeros where an episode begins.  Discrete ones are one-hot first and masked then: index 0 is an action.
    """

    def chance(episodes: Episodes) -> np.ndarray:
        usable = ~episodes.is_open  # TF2 stores an episode when it has ended
        if not usable.any():
            usable = np.ones_like(usable)
        if sampling == "faithful":
            usable = usable & (episodes.length > length)
            if not usable.any():
                raise UserError(
                    f"--replay.sampling faithful: no episode has more than {length} rows yet; "
                    "use --replay.sampling uniform, or a smaller --replay.length"
                )
        return usable.astype(np.float64)

    rows = replay.sample_sequences(batch, length, "episode", start_rule=RULES[sampling], weights=chance)
    act = torch.from_numpy(replay.previous("act", rows["id"]))
    known = torch.from_numpy(
        replay.has_previous(rows["id"])
    )  # also at the start of a window, but not of an episode
    out = {name: torch.from_numpy(rows[name]) for name in (*spaces.obs, "rew", "is_first", "is_terminal")}
    out["prev_act"] = spaces.encode(act) * known[..., None]
    return {name: value.to(device, non_blocking=True) for name, value in out.items()}
