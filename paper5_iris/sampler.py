"""From the replay's rows to IRIS' transitions (quality.py does the same with whole episodes).

The authors store for step t the frame, the action chosen there, and the reward and end that it led to; the
frame after an end is never stored.  Our replay has reward and end in the row that they led to, and a last row
without an action.  So step t is row t with reward and is_terminal of row t + 1; T + 1 rows make T steps.
Every draw is an episode, all equally likely however short, then a place in it (C).
Letters: B sequences, T steps, H W C picture.
"""

import numpy as np

from common.replay_buffer import ReplayBuffer
from common.replay_sampling import Episodes

Rows = dict[str, np.ndarray]


def start_uniform(rng: np.random.Generator, rows: np.ndarray, length: int) -> np.ndarray:
    """Any step may be the first of a sequence; what is missing at the end is padding."""
    return rng.integers(0, rows - 1)


def end_uniform(rng: np.random.Generator, rows: np.ndarray, length: int) -> np.ndarray:
    """Any step may be the last of a sequence; what is missing before it is padding."""
    return rng.integers(0, rows - 1) - (length - 1)


def with_steps(episodes: Episodes) -> np.ndarray:
    """Weights [E]: 1 for an episode that has a step, its reward and end known."""
    return (episodes.length > 1).astype(np.float64)


def frames(replay: ReplayBuffer, batch: int, key: str) -> tuple[np.ndarray, np.ndarray]:
    """For the tokenizer: single frames uint8 [B, H, W, C] and their ids [B]."""
    rows = draw(replay, batch, 1, start_uniform, (key,))
    return rows[key][:, 0], rows["id"][:, 0]


def segments(replay: ReplayBuffer, batch: int, steps: int, key: str) -> Rows:
    """For the world model: {key: [B, T, H, W, C], act, rew, end, mask, id: [B, T, ...]}, right padding.

    key "": no pictures, for whoever has their tokens by id.
    """
    names = ("act", "rew", "is_terminal", *([key] if key else []))
    rows = draw(replay, batch, steps + 1, start_uniform, names)  # one more: what the last action led to
    out = {name: rows[name][:, :-1] for name in ("act", "id", *([key] if key else []))}
    out |= {"rew": rows["rew"][:, 1:], "end": rows["is_terminal"][:, 1:], "mask": rows["mask"][:, 1:]}
    assert (out["end"].sum(1) <= 1).all(), "an episode ends twice"
    for name in out.keys() - {"id", "mask"}:  # a last row is real, but no step
        out[name][~out["mask"]] = 0
    return out


def starts(replay: ReplayBuffer, batch: int, burn_in: int, key: str) -> Rows:
    """For the policy: {key: [B, burn_in + 1, H, W, C], mask, id: [B, burn_in + 1]}, padding on the left.

    key "": no pictures.  The last frame is where a dream begins; the LSTM sees those before it.
    """
    names = (key,) if key else ("is_first",)
    rows = draw(replay, batch, burn_in + 1, end_uniform, names)
    return {name: rows[name] for name in ("mask", "id", *([key] if key else []))}


def draw(replay: ReplayBuffer, batch: int, length: int, rule, names) -> Rows:
    """Windows of rows by episode and place."""
    args = {"start_rule": rule, "weights": with_steps, "pad": True, "names": names}
    return replay.sample_sequences(batch, length, "episode", **args)
