"""Random games and the windows that training draws from them.

One row per step: obs[t], rew[t] received on arriving there (0 at the first), act[t] chosen there (zeros in
the last), done[t].  The model maps row t, all of it, to obs, rew and done of row t + 1: beside the frame it
is told the reward, which says what the actor hides when it stands on something.
Shapes: N games, T + 1 rows, B windows of W rows, A actions, H W pixels, K latents.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.atomic import atomic_write
from common.errors import UserError
from common.seeding import derive
from foundations.tssm.config import Config
from foundations.tssm.games import make_games


class Replay(NamedTuple):
    """Whole games of equal length."""

    obs: np.ndarray  # uint8 [N, T + 1, H, W, 3]
    act: np.ndarray  # float32 [N, T + 1, A]
    rew: np.ndarray  # float32 [N, T + 1]
    done: np.ndarray  # bool [N, T + 1]

    def split(self) -> tuple["Replay", "Replay"]:
        """(to train on, held out): the last eleventh of the games, one at least, is held out."""
        count = len(self.rew) - max(1, len(self.rew) // 11)
        return Replay(*(x[:count] for x in self)), Replay(*(x[count:] for x in self))


def symlog(x):
    """sign(x) ln(1 + |x|), of an array."""
    return np.sign(x) * np.log1p(np.abs(x))


def collect(config: Config, seed: int) -> Replay:
    """Play data.episodes games, and a tenth as many to hold out, by random actions; symlog if configured."""
    count = config.data.episodes + max(1, config.data.episodes // 10)
    side_by_side = count if config.env.name == "simple_world" else 1  # a drawn environment has a window each
    games = make_games(config.env, side_by_side)
    rng = np.random.default_rng(derive(seed, "actions"))
    length = min(config.data.length, games.max_steps)
    rounds = [
        _play(games, length, config.data.hold, rng, derive(seed, "game", i)) for i in range(count // games.n)
    ]
    replay = Replay(*(np.concatenate(column) for column in zip(*rounds, strict=True)))
    return replay._replace(rew=symlog(replay.rew)) if config.symlog else replay


def _play(games, length: int, hold: int, rng: np.random.Generator, seed: int) -> Replay:
    """One round of random games, actions uniform in [-1, 1] and kept for `hold` steps."""
    obs = np.zeros((games.n, length + 1, *games.obs_shape), np.uint8)
    act = np.zeros((games.n, length + 1, games.act_size), np.float32)
    rew = np.zeros((games.n, length + 1), np.float32)
    done = np.zeros((games.n, length + 1), bool)
    obs[:, 0] = games.reset(seed)
    for t in range(length):
        fresh = t % hold == 0
        act[:, t] = rng.uniform(-1, 1, act[:, t].shape) if fresh else act[:, t - 1]
        obs[:, t + 1], rew[:, t + 1], done[:, t + 1] = games.step(act[:, t])
    return Replay(obs, act, rew, done)


def save_replay(path: Path, replay: Replay) -> None:
    """Write the games as compressed npz."""
    with atomic_write(path) as file:
        np.savez_compressed(_Stream(file), **replay._asdict())


class _Stream:
    """What np.savez needs of a file beyond `write`: nothing, but it looks for `read`."""

    def __init__(self, file):
        self.write, self.flush = file.write, file.flush

    def read(self):
        raise OSError("write only")


def load_replay(path: Path) -> Replay:
    """Read it again.  UserError where there is none."""
    if not path.is_file():
        raise UserError(f"no {path}: first python -m foundations.tssm train-obs --out {path.parent.parent}")
    with np.load(path, allow_pickle=False) as arrays:
        return Replay(**{name: arrays[name] for name in Replay._fields})
