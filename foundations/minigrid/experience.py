"""What a random agent saw, in the repository's stored rows, and the one place that shifts them.

Row t holds obs[t], rew[t] received on arriving there, is_first / is_last / is_terminal[t], and act[t] chosen
there (0 in the last row of an episode).

Shapes: T rows, M transitions, N entries of an observation (envs.py).
"""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.atomic import atomic_write
from common.errors import UserError
from foundations.minigrid.envs import State, World, save_state


class Rows(NamedTuple):
    """Episodes one after another."""

    obs: np.ndarray  # uint8 [T, N]
    act: np.ndarray  # int64 [T]
    rew: np.ndarray  # float32 [T]
    is_first: np.ndarray  # bool [T]
    is_last: np.ndarray  # bool [T]
    is_terminal: np.ndarray  # bool [T]

    @property
    def steps(self) -> int:
        """Actions taken."""
        return int((~self.is_last).sum())

    @property
    def goals(self) -> int:
        """Episodes that ended with a reward."""
        return int((self.is_terminal & (self.rew > 0)).sum())


class Transitions(NamedTuple):
    """One row for each action that was taken."""

    obs: np.ndarray  # uint8 [M, N]
    act: np.ndarray  # int64 [M]
    rew: np.ndarray  # float32 [M], 1 at the goal
    next_obs: np.ndarray  # uint8 [M, N]
    terminal: np.ndarray  # bool [M]


def collect(world: World, steps: int, seed: int) -> Rows:
    """Play at random, `steps` actions long; the last episode is cut off where they end."""
    rng = np.random.default_rng(seed)
    obs, _ = world.reset(seed=seed)
    rows: list[tuple] = [(obs, 0, 0.0, True, False, False)]
    for step in range(1, steps + 1):
        action = int(rng.integers(world.action_space.n))
        rows[-1] = (rows[-1][0], action, *rows[-1][2:])
        obs, rew, terminated, truncated, _ = world.step(action)
        over = terminated or truncated
        rows.append((obs, 0, rew, False, over or step == steps, terminated))
        if over and step < steps:
            rows.append((world.reset()[0], 0, 0.0, True, False, False))
    columns = zip(*rows, strict=True)
    return Rows(
        *(np.array(c, d) for c, d in zip(columns, (np.uint8, np.int64, "f4", *[bool] * 3), strict=True))
    )


def as_transitions(rows: Rows) -> Transitions:
    """Stored rows -> (obs, act, reward, next obs, terminal): reward and end belong to the row arrived in.

    The reward of the library shrinks with the clock, which the agent does not see; here the goal pays 1.
    """
    taken = ~rows.is_last[:-1]
    rew = (rows.rew[1:] > 0).astype(np.float32)
    return Transitions(
        rows.obs[:-1][taken],
        rows.act[:-1][taken],
        rew[taken],
        rows.obs[1:][taken],
        rows.is_terminal[1:][taken],
    )


def save_rows(path: Path, rows: Rows, env: str, seed: int) -> None:
    """Write an npz file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **rows._asdict(), env=env, seed=seed, policy="random")
    with atomic_write(path) as file:
        file.write(buffer.getvalue())


def load_rows(path: Path) -> tuple[Rows, str]:
    """What `save_rows` wrote -> rows, the world's name.  UserError where the file is missing or another."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return Rows(*(file[name] for name in Rows._fields)), str(file["env"])
    except FileNotFoundError:
        raise UserError(
            f"no experience at {path}: python -m foundations.minigrid collect writes it"
        ) from None
    except (OSError, ValueError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} is not what collect writes ({type(error).__name__}): collect again"
        ) from None


class Score(NamedTuple):
    """How an agent did in the real world."""

    success: float  # share of episodes that reached the goal
    steps: float  # mean length of those
    ratio: float  # mean of steps / shortest possible over those; nan where there is none


def evaluate_agent(
    world: World,
    act: Callable[[np.ndarray], int],
    distance: dict[State, float],
    *,
    episodes: int = 100,
    seed: int = 1_000_000,
) -> Score:
    """Play the real world.  act: obs [N] -> action; distance: steps to the goal from each state."""
    lengths, ratios = [], []
    obs, _ = world.reset(seed=seed)
    for _ in range(episodes):
        shortest, steps, over = distance[save_state(world.grid)], 0, False
        while not over:
            obs, rew, terminated, truncated, _ = world.step(act(obs))
            steps, over = steps + 1, terminated or truncated
        if terminated and rew > 0:
            lengths.append(steps)
            ratios.append(steps / shortest)
        obs, _ = world.reset()
    if not lengths:
        return Score(0.0, float("nan"), float("nan"))
    return Score(len(lengths) / episodes, float(np.mean(lengths)), float(np.mean(ratios)))
