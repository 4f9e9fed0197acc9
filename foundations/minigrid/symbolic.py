"""The rules of simple grid worlds written down a second time, for tables too large to extract by playing.

`symbolic_mdp` steps whole generations of states at once with array arithmetic, some hundred times faster than
the environment.  It knows walls, a goal, lava, and at most one key with one locked door (Empty, FourRooms,
LavaGap, DoorKey, TwoRooms).  tests/foundations/minigrid/test_mdp.py compares it with `extract_mdp`.

Shapes: S states, B actions; a state is five numbers (x, y, heading, key, door).
key: -1 there is none, -2 carried, else the cell y * W + x that it lies in.  door: minigrid's state (0 open, 1
closed, 2 locked), or -1 where there is none or it opens by itself.
"""

from collections.abc import Sequence

import numpy as np
from minigrid.core.constants import OBJECT_TO_IDX
from minigrid.minigrid_env import MiniGridEnv

from common.errors import UserError
from foundations.minigrid.envs import State, TwoRooms, save_state
from foundations.minigrid.mdp import TabularMDP

NONE, CARRIED = -1, -2
OPEN, CLOSED, LOCKED = 0, 1, 2
STEPS = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])  # right, down, left, up in (x, y)


class SymbolicGrid:
    """The part of a layout that never changes, and the rules."""

    def __init__(self, env: MiniGridEnv):
        kinds = np.array([thing.type if thing else "empty" for thing in env.grid.grid])
        if unknown := sorted(set(kinds) - {"empty", "wall", "goal", "lava", "key", "door"}):
            raise UserError(f"the symbolic rules do not know {', '.join(unknown)}: use extract_mdp")
        if (kinds == "key").sum() > 1 or (kinds == "door").sum() > 1:
            raise UserError("the symbolic rules know one key and one door: use extract_mdp")
        self.width = env.width
        self.wall, self.goal, self.lava = kinds == "wall", kinds == "goal", kinds == "lava"
        self.auto = isinstance(env, TwoRooms)  # a door that is always passable is no more than floor
        doors = np.flatnonzero(kinds == "door")
        self.door = int(doors[0]) if len(doors) and not self.auto else NONE
        self.start = self.numbers(save_state(env))

    def numbers(self, state: State) -> tuple[int, int, int, int, int]:
        """A `State` as five numbers."""
        key, door = CARRIED if state.carrying else NONE, NONE
        for cell, (kind, _, status) in state.objects:
            key = cell if kind == OBJECT_TO_IDX["key"] else key
            door = status if cell == self.door else door
        return state.x, state.y, state.heading, key, door

    def step(self, states: np.ndarray, action: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One of minigrid's actions in many states.  int [S, 5] -> next [S, 5], rew [S], terminal [S]"""
        after = states.copy()
        x, y, heading, key, door = after.T  # views: what is written here is written to `after`
        front_xy = states[:, :2] + STEPS[heading]  # [S, 2]
        front = front_xy[:, 1] * self.width + front_xy[:, 0]  # [S]
        never = np.zeros(len(states), bool)
        if action in (0, 1):
            heading[:] = (heading + (1 if action else -1)) % 4
            return after, never.astype(float), never
        key_there, door_there = key == front, front == self.door
        if action == 2:
            free = ~self.wall[front] & ~key_there & ~(door_there & (door != OPEN))
            x[:], y[:] = np.where(free[:, None], front_xy, states[:, :2]).T
            return after, self.goal[front].astype(float), self.goal[front] | self.lava[front]
        if action == 3:
            key[key_there] = CARRIED
        elif action == 4:
            bare = ~(self.wall | self.goal | self.lava)[front] & ~door_there
            drops = bare & (key == CARRIED)
            key[drops] = front[drops]
        elif action == 5:
            turns = door_there & ((door != LOCKED) | (key == CARRIED))
            door[turns] = np.where(door[turns] == OPEN, CLOSED, OPEN)
        return after, never.astype(float), never


def symbolic_mdp(env: MiniGridEnv, actions: Sequence[int], max_states: int = 1_000_000) -> TabularMDP:
    """The table of a layout, a generation of new states at a time.  `states`: int array [S, 5]

    UserError for a world with other objects, and for too many states.
    """
    rules = SymbolicGrid(env)
    cells = env.width * env.height
    waiting = np.array([rules.start])  # [n, 5]
    known, rank = _codes(waiting, rules.width, cells), np.zeros(1, np.int64)  # sorted codes, their rows
    states, generations = [waiting], []
    while len(waiting):
        results = [rules.step(waiting, action) for action in actions]
        codes = np.stack([_codes(after, rules.width, cells) for after, _, _ in results], 1)  # [n, B]
        over = np.stack([terminal for _, _, terminal in results], 1)
        generations.append((codes, np.stack([rew for _, rew, _ in results], 1), over))
        fresh, first = np.unique(codes[~over], return_index=True)
        is_new = ~np.isin(fresh, known, assume_unique=True)
        afters = np.stack([after for after, _, _ in results], 1)[~over]  # [m, 5]
        waiting, fresh = afters[first[is_new]], fresh[is_new]
        rank = np.concatenate([rank, len(rank) + np.arange(len(fresh))])
        known = np.concatenate([known, fresh])
        order = np.argsort(known, kind="stable")
        known, rank = known[order], rank[order]
        states.append(waiting)
        if len(rank) > max_states:
            raise UserError(f"more than {max_states:,} states: choose a smaller grid")
    codes, rew, over = (np.concatenate(parts) for parts in zip(*generations, strict=True))
    at = np.searchsorted(known, np.where(over, known[0], codes))
    next_state = np.where(over, np.arange(len(codes))[:, None], rank[at])
    return TabularMDP(next_state, rew, over, np.concatenate(states))


def _codes(states: np.ndarray, width: int, cells: int) -> np.ndarray:
    """Five numbers as one.  [n, 5] -> int64 [n]"""
    x, y, heading, key, door = states.T.astype(np.int64)
    return (((y * width + x) * 4 + heading) * (cells + 2) + key + 2) * 4 + door + 1
