"""What simple_world is worth to policies that need no learning, exactly, over every start state.

`stay`, the straight line that ignores the threat, random actions (their whole distribution is propagated) and
the optimum (value iteration).  One threat that stands still.
Shapes: S start states, C cells of the board, M moves.
"""

from functools import cache
from typing import NamedTuple

import numpy as np

from common.envs.toy_simple_world import DIAGONALS
from foundations.tssm.env import STEPS, moved, start_states


class Score(NamedTuple):
    """Means over all start states: return, steps on the target, steps on the threat."""

    ret: float
    goal_steps: float
    threat_steps: float


def references(threat_penalty: float = 1.0, legacy: bool = False, grid: int = 4) -> dict[str, Score]:
    """The four policies by name."""
    starts = start_states(grid, legacy=legacy)
    random = random_moves(grid, legacy)
    return {
        "random": _score(starts, lambda goal, threat: random, threat_penalty),
        "stay": _score(starts, lambda goal, threat: np.eye(grid**2), threat_penalty),
        "straight line": _score(starts, lambda goal, threat: _straight(goal, grid, legacy), threat_penalty),
        "optimal": _optimal(starts, threat_penalty, grid, legacy),
    }


@cache
def destinations(grid: int, legacy: bool) -> np.ndarray:
    """The cell behind each of the 9 moves: [C, M]"""
    cells = np.arange(grid**2)
    here = np.stack([cells % grid, cells // grid], -1)  # [C, 2]
    return moved(here[:, None], DIAGONALS[None], grid, legacy) @ np.array([1, grid])


@cache
def random_moves(grid: int, legacy: bool) -> np.ndarray:
    """P(cell' | cell) under random actions: [C, C]

    Uniform in [-1, 1]^2: an axis moves down, stays, moves up with 1/4, 1/2, 1/4.  legacy: as the starting
    project samples, half the time none, else one of 4 unit moves.
    """
    if legacy:
        weight = np.where((DIAGONALS == 0).all(-1), 0.5, np.where(np.abs(DIAGONALS).sum(-1) == 1, 0.125, 0.0))
    else:
        weight = np.where(DIAGONALS == 0, 0.5, 0.25).prod(-1)  # [M]
    matrix = np.zeros((grid**2, grid**2))
    for move, share in enumerate(weight):
        np.add.at(matrix, (np.arange(grid**2), destinations(grid, legacy)[:, move]), share)
    return matrix


def _straight(goal: int, grid: int, legacy: bool) -> np.ndarray:
    """The move whose direction is the sign of the way to the target, threat or not: [C, C]"""
    cells = np.arange(grid**2)
    here = np.stack([cells % grid, cells // grid], -1)  # [C, 2]
    after = moved(here, np.sign(here[goal] - here), grid, legacy) @ np.array([1, grid])
    return np.eye(grid**2)[after]


def _score(starts: np.ndarray, policy, threat_penalty: float) -> Score:
    """Expected steps on target and threat: the distribution of the actor's cell, step by step."""
    on_goal = on_threat = 0.0
    for goal, threat in np.unique(starts[:, 1:], axis=0):
        matrix = policy(goal, threat)  # [C, C]
        actors = starts[(starts[:, 1:] == (goal, threat)).all(-1), 0]
        where = np.bincount(actors, minlength=len(matrix)).astype(np.float64)  # [C] start states per cell
        for _ in range(STEPS):
            where = where @ matrix
            on_goal += where[goal]
            on_threat += where[threat]
    on_goal, on_threat = on_goal / len(starts), on_threat / len(starts)
    return Score(float(on_goal - threat_penalty * on_threat), float(on_goal), float(on_threat))


def _optimal(starts: np.ndarray, threat_penalty: float, grid: int, legacy: bool) -> Score:
    """Value iteration over the steps that are left, carrying the steps on target and threat along."""
    after, cells = destinations(grid, legacy), np.arange(grid**2)
    totals = np.zeros(3)
    for goal, threat in np.unique(starts[:, 1:], axis=0):
        hit = np.stack([cells == goal, cells == threat], -1).astype(np.float64)  # [C, 2]
        value = np.zeros((grid**2, 3))  # return, target steps, threat steps from here on  [C, 3]
        reward = np.column_stack([hit[:, 0] - threat_penalty * hit[:, 1], hit])  # on arriving in a cell
        for _ in range(STEPS):
            best = (reward + value)[after][:, :, 0].argmax(-1)  # [C]
            value = (reward + value)[after[cells, best]]
        actors = starts[(starts[:, 1:] == (goal, threat)).all(-1), 0]
        totals += value[actors].sum(0)
    return Score(*(totals / len(starts)).tolist())
