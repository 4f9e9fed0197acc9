"""Policies that never look at the picture, and the lockstep roll-out that scores them.

A task that a blind policy solves proves nothing about a world model, so every toy's scores name the best of
them: doing nothing, each constant action, random actions held for a while, sweeps between the ends of an
axis. A policy is built by `policy(n, rng)` for n games that start together and then asked for the actions
of step t.
"""

from collections.abc import Callable

import numpy as np
from gymnasium import spaces

from common.envs.toys import ToyCore

Actor = Callable[[int], np.ndarray]  # step t -> actions [n, ...]
Policy = Callable[[int, np.random.Generator], Actor]

HOLDS = ((1, 1), (1, 3), (1, 6), (1, 12), (5, 30))  # shortest and longest time that a random action is held
HALF_PERIODS = (1, 2, 3, 4, 6, 8, 10, 14, 20)


def constant(action: np.ndarray | int) -> Policy:
    """The same action always."""
    return lambda n, rng: lambda t: np.repeat(np.asarray(action)[None], n, axis=0)


def sweep(first: np.ndarray | int, second: np.ndarray | int, half_period: int) -> Policy:
    """`first` for `half_period` steps, then `second`, and so on."""
    ends = np.stack([first, second])
    return lambda n, rng: lambda t: np.repeat(ends[t // half_period % 2][None], n, axis=0)


def held_random(space: spaces.Space, low: int, high: int) -> Policy:
    """Uniform actions, each held for a uniform number of low..high steps; (1, 1) is the random policy."""

    def policy(n: int, rng: np.random.Generator) -> Actor:
        left = np.zeros(n, np.int64)
        action = np.zeros((n, *space.shape), space.dtype)

        def act(t: int) -> np.ndarray:
            new = np.flatnonzero(left == 0)
            if isinstance(space, spaces.Discrete):
                action[new] = rng.integers(space.n, size=len(new))
            else:
                action[new] = rng.uniform(space.low, space.high, (len(new), *space.shape))
            left[new] = rng.integers(low, high + 1, len(new))
            left[:] -= 1
            return action.copy()

        return act

    return policy


def blind_policies(space: spaces.Space) -> dict[str, Policy]:
    """Every blind policy for a Discrete or a bounded Box space, by name; plain random is not among them."""
    found: dict[str, Policy] = {}
    if isinstance(space, spaces.Discrete):
        corners = {str(a): a for a in range(space.n)}
    else:
        middle = (space.low + space.high) / 2
        corners = {"zero": middle}
        for axis in range(len(middle)):
            for sign, bound in (("-", space.low), ("+", space.high)):
                corners[f"{sign}{'xyzw'[axis]}"] = np.where(np.arange(len(middle)) == axis, bound, middle)
        corners |= {"low": space.low, "high": space.high}
    for name, action in corners.items():
        found[f"constant {name}"] = constant(action)
    names = list(corners)
    for i, one in enumerate(names):
        for two in names[i + 1 :]:
            for half in HALF_PERIODS:
                found[f"sweep {one}/{two} half-period {half}"] = sweep(corners[one], corners[two], half)
    for low, high in HOLDS[1:]:
        found[f"random held {low}-{high}"] = held_random(space, low, high)
    return found


def rollout(
    core: ToyCore, actor: Actor | None = None, *, seed: int = 0, rows: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Play every game of `core` once, seeds seed, seed + 1, ...; without an actor the optimal policy plays.

    Returns the undiscounted returns and the lengths, each [n]; games that end leave the batch.
    """
    rows = np.arange(core.n) if rows is None else rows
    core.reset(rows, [seed + int(row) for row in rows])
    ret, length = np.zeros(core.n), np.zeros(core.n, np.int64)
    t = 0
    while len(rows):
        actions = core.optimal_policy(rows) if actor is None else actor(t)[rows]
        rew, terminated, truncated = core.step(rows, actions)
        ret[rows] += rew
        length[rows] += 1
        rows, t = rows[~(terminated | truncated)], t + 1
    return ret, length
