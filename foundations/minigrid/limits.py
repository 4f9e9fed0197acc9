"""Where tables end, measured: the same two tasks on grids of growing size.

Empty has S = 4 ((n - 2)^2 - 1) states.  A key and a door multiply that by about 3; a key that can be dropped
anywhere gives every state a copy for each cell the key may lie in, and S grows with n^4.  A dense table of
S * A * S numbers ends long before the states themselves do.

Shapes: S states, A actions.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from minigrid.envs import DoorKeyEnv, EmptyEnv
from minigrid.minigrid_env import MiniGridEnv

from foundations.minigrid.envs import useful_actions
from foundations.minigrid.mdp import TabularMDP, extract_mdp
from foundations.minigrid.solvers import value_iteration
from foundations.minigrid.symbolic import symbolic_mdp

# name -> (environment by size, may the key be dropped?)
WORLDS: dict[str, tuple[Callable[[int], MiniGridEnv], bool]] = {
    "Empty": (lambda n: EmptyEnv(size=n, agent_view_size=3), False),
    "DoorKey": (lambda n: DoorKeyEnv(size=n, agent_view_size=3), False),
    "DoorKey with drop": (lambda n: DoorKeyEnv(size=n, agent_view_size=3), True),
}


def dense_bytes(mdp: TabularMDP) -> int:
    """Memory of the table P(s' | s, a) in float64."""
    return 8 * mdp.num_states**2 * mdp.num_actions


def dense_sweeps(mdp: TabularMDP, gamma: float, sweeps: int) -> np.ndarray:
    """Value iteration with a dense table, for its cost.  -> [S]"""
    transition = mdp.transition()  # [A, S, S]
    rew = mdp.rew.T  # [A, S]
    values = np.zeros(mdp.num_states)
    for _ in range(sweeps):
        values = (rew + gamma * transition @ values).max(0)
    return values


def measure(
    world: str, size: int, *, gamma: float = 0.99, real_states: int = 500, dense_states: int = 1_000
) -> dict[str, Any]:
    """One grid: states, bytes, seconds.  The real environment and the dense table only up to a size."""
    make, drop = WORLDS[world]
    env = make(size)
    env.reset(seed=0)
    actions = useful_actions(env, drop)
    mdp, build = timed(lambda: symbolic_mdp(env, actions))
    solution, solve = timed(lambda: value_iteration(mdp, gamma))
    row: dict[str, Any] = {
        "world": world,
        "n": size,
        "states": mdp.num_states,
        "dense_bytes": dense_bytes(mdp),
        "sweeps": solution.rounds,
        "build_s": build,
        "solve_s": solve,
    }
    if mdp.num_states <= real_states:
        _, row["play_s"] = timed(lambda: extract_mdp(env, actions))
    if mdp.num_states <= dense_states:
        values, row["dense_s"] = timed(lambda: dense_sweeps(mdp, gamma, solution.rounds))
        assert np.allclose(values, solution.values)
    return row


def sweep(sizes: Sequence[int], drop_up_to: int = 16, **options: Any) -> Iterator[dict[str, Any]]:
    """Every world at every size; with dropping only up to `drop_up_to`, for it grows the fastest."""
    for world, (_, drop) in WORLDS.items():
        for size in sizes:
            if not drop or size <= drop_up_to:
                yield measure(world, size, **options)


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """What it returns, and the CPU seconds it took."""
    start = time.process_time()
    result = run()
    return result, round(time.process_time() - start, 4)
