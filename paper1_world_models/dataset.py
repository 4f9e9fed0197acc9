"""What M is trained on: every frame's posterior, encoded once, and sequences of row numbers (appendix A.2).

Means and log variances are kept, not samples: each batch draws z = mu + sigma eps afresh, so M cannot learn
the noise by heart.  Row t pairs (z_t, a_t) with z_{t+1}; `valid` marks the steps whose next row is of the
same episode.

Shapes: R rows in all, E episodes, B sequences, T steps, Z latents, A numbers of an action.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.atomic import atomic_write
from common.errors import UserError
from common.seeding import derive
from common.shards import Shards
from paper1_world_models.vae import VAE, encode_all, resample


@dataclass
class Latents:
    """All rows, without pictures."""

    mu: np.ndarray  # float16 [R, Z]
    logvar: np.ndarray  # float16 [R, Z]
    act: np.ndarray  # float32 [R, A]
    rew: np.ndarray  # float32 [R]
    is_first: np.ndarray  # bool [R]
    is_last: np.ndarray
    is_terminal: np.ndarray
    episodes: np.ndarray  # int [E, 2]: first row, length

    def split(self, share: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
        """Episode numbers for training and testing: every 1/share-th episode is held out, at least one."""
        held_out = np.arange(len(self.episodes)) % round(1 / share) == 0
        return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def encode_shards(vae: VAE, shards: Shards, folder: Path, iteration: int) -> Latents:
    """Encode the rows that no earlier iteration has encoded, and put all together.  V is frozen by now."""
    done = []
    for i in range(iteration + 1):
        path = folder / f"{i:02d}.npy"
        if (found := read_latents(path)) is None:
            # Rows of one iteration lie together: shards are sorted by iteration, then worker.
            start = sum(d.shape[1] for d in done)
            lengths = zip(shards.folders, shards.arrays["image"], strict=True)
            stop = sum(len(images) for shard, images in lengths if int(shard.name[:2]) <= i)
            new = np.empty((2, stop - start, vae.cfg.latents), np.float16)
            for at in range(start, stop, 4096):
                rows = np.arange(at, min(at + 4096, stop))
                new[:, rows - start] = encode_all(vae, shards.rows(rows, ["image"])["image"])
            with atomic_write(path) as file:
                np.save(file, new)
            found = new
        done.append(found)
    mu, logvar = np.concatenate(done, 1)
    if len(mu) != shards.total:
        raise UserError(
            f"{folder} holds {len(mu)} encoded frames and {shards.folders[0].parent} {shards.total}: "
            f"remove {folder} and go on with --resume"
        )
    rows = shards.rows(np.arange(shards.total), ["act", "rew", "is_first", "is_last", "is_terminal"])
    return Latents(mu, logvar, **rows, episodes=np.stack([shards.first, shards.episodes[:, 2]], 1))


def read_latents(path: Path) -> np.ndarray | None:
    """Means and log variances [2, R, Z]; None where the file is missing or torn."""
    try:
        return np.load(path)
    except (OSError, ValueError, EOFError):
        return None


@dataclass
class Sequences:
    """A batch of row numbers: `rows` [B, T + 1], of which the first T are inputs and the last T targets."""

    rows: np.ndarray
    restart: np.ndarray  # bool [B, T]: the state is zeroed before this step
    valid: np.ndarray  # bool [B, T]: the next row is this episode's
    new_stream: bool  # the carried state belongs to other rows and is zeroed


class Streams:
    """The endless shuffled stream: episodes are shuffled each pass, joined into one long row, and that is
    cut into B rows, read chunk by chunk with the state carried (H: TakeCover)."""

    def __init__(self, data: Latents, episodes: np.ndarray, batch: int, length: int, seed: int):
        self.data, self.episodes, self.batch, self.seed = data, episodes, batch, seed
        steps = int(data.episodes[episodes, 1].sum()) - 1
        if steps < batch:
            raise UserError(
                f"the data to learn from has {max(0, steps)} steps, and {batch} rows of a batch need one for "
                f"each: raise --collect.episodes, or lower --rnn.batch {batch}"
            )
        self.length = max(1, min(length, steps // batch))
        self.per_pass = max(1, steps // (batch * self.length))
        self.epoch, self.rows = -1, np.empty(0)

    def __call__(self, step: int) -> Sequences:
        """Chunk `step`; any step can be asked for, so a resumed run needs no sampler state."""
        epoch, chunk = divmod(step, self.per_pass)
        if epoch != self.epoch:
            order = np.random.default_rng(derive(self.seed, "stream", epoch)).permutation(self.episodes)
            ranges = [np.arange(start, start + n) for start, n in self.data.episodes[order]]
            self.epoch, self.rows = epoch, np.concatenate(ranges)
        starts = np.arange(self.batch) * self.per_pass * self.length + chunk * self.length
        at = self.rows[starts[:, None] + np.arange(self.length + 1)]  # [B, T + 1]
        restart = self.data.is_first[at[:, :-1]].copy()
        restart[:, 0] |= chunk == 0  # a pass cuts episodes in two where its rows begin
        return Sequences(at, restart, ~self.data.is_last[at[:, :-1]], chunk == 0)


class Windows:
    """Independent sequences that begin with a zero state (H: CarRacing), anywhere in an episode that is
    longer.

    Episodes are drawn by their number of steps; one shorter than T is filled up with its last row, unscored.
    """

    def __init__(self, data: Latents, episodes: np.ndarray, batch: int, length: int, seed: int):
        self.data, self.batch, self.seed = data, batch, seed
        self.start, self.n = data.episodes[episodes].T
        self.length = int(min(length, self.n.max() - 1))

    def __call__(self, step: int) -> Sequences:
        """Batch `step`; any step can be asked for."""
        rng = np.random.default_rng(derive(self.seed, "window", step))
        pick = rng.choice(len(self.n), self.batch, p=(self.n - 1) / (self.n - 1).sum())
        spare = np.maximum(self.n[pick] - self.length, 1)
        begin = (rng.random(self.batch) * spare).astype(np.int64)
        offset = np.minimum(begin[:, None] + np.arange(self.length + 1), self.n[pick, None] - 1)
        at = self.start[pick, None] + offset  # [B, T + 1]
        restart = np.zeros((self.batch, self.length), bool)
        restart[:, 0] = True
        return Sequences(at, restart, ~self.data.is_last[at[:, :-1]], True)


@dataclass
class Batch:
    """Tensors of a batch of sequences."""

    z: Tensor  # [B, T + 1, Z], one draw per frame for both of its roles
    act: Tensor  # [B, T, A]
    rew: Tensor  # [B, T] received on arriving at the next row
    done: Tensor  # [B, T] the next row is terminal
    restart: Tensor  # [B, T]
    valid: Tensor  # [B, T]
    score: Tensor  # [B, T] the prediction of z_{t+1} counts


def make_batch(
    data: Latents, seq: Sequences, generator: torch.Generator, score_end_frame: bool, device
) -> Batch:
    """Gather rows and draw z."""
    rows, following = seq.rows, seq.rows[:, 1:]
    mu, logvar = (torch.from_numpy(np.float32(a[rows])) for a in (data.mu, data.logvar))
    z = resample(mu, logvar, torch.randn(mu.shape, generator=generator))
    terminal = data.is_terminal[following]
    score = seq.valid if score_end_frame else seq.valid & ~terminal
    arrays = (data.act[rows[:, :-1]], data.rew[following], terminal, seq.restart, seq.valid, score)
    return Batch(z.to(device), *(torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in arrays))
