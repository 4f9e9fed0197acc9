"""A grid world as a table: every state that can be reached, what each action does there, and chance on top.

`extract_mdp` writes the table by playing: it puts the real environment into a state, tries every action and
looks where it ends up.  No rule of the game is written down a second time (symbolic.py does that, for speed,
and a test holds the two against each other).

Shapes: S states, A actions that an agent may choose, B outcomes that may happen (here the same actions).
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from minigrid.minigrid_env import MiniGridEnv

from common.errors import UserError
from foundations.minigrid.envs import State, load_state, save_state


@dataclass(frozen=True)
class TabularMDP:
    """Outcome b in state s leads to next_state[s, b], pays rew[s, b], and ends the episode if terminal[s, b].

    An ended episode has no state: next_state is then s itself, and whoever reads it must look at `terminal`.
    State 0 is where the layout starts.
    """

    next_state: np.ndarray
    """int [S, B]"""
    rew: np.ndarray
    """float [S, B]"""
    terminal: np.ndarray
    """bool [S, B]"""
    states: Sequence[Any]
    """What the rows stand for."""
    chance: np.ndarray | None = None
    """float [A, B]: probability of outcome b when a was chosen; None: what is chosen happens."""

    def __post_init__(self):
        if self.chance is None:
            object.__setattr__(self, "chance", np.eye(self.next_state.shape[1]))
        assert self.next_state.shape == self.rew.shape == self.terminal.shape, self.next_state.shape
        assert np.allclose(self.chance.sum(1), 1) and self.chance.shape[1] == self.next_state.shape[1]

    @property
    def num_states(self) -> int:
        """S"""
        return len(self.next_state)

    @property
    def num_actions(self) -> int:
        """A"""
        return len(self.chance)

    @cached_property
    def index(self) -> dict[Any, int]:
        """State -> row."""
        return {state: i for i, state in enumerate(self.states)}

    def transition(self) -> np.ndarray:
        """P(s' and the episode goes on | s, a), dense: only for small tables.  -> [A, S, S]"""
        by_outcome = np.zeros((self.next_state.shape[1], self.num_states, self.num_states))  # [B, S, S]
        for b in range(len(by_outcome)):
            by_outcome[b, np.arange(self.num_states), self.next_state[:, b]] = ~self.terminal[:, b]
        return np.einsum("ab,bst->ast", self.chance, by_outcome)

    def step(self, state: int, action: int, rng: np.random.Generator) -> tuple[int, float, bool]:
        """One step of experience, drawn from the table.  -> next state, reward, is it over?"""
        outcome = action
        if self.chance[action, action] < 1:
            outcome = int(rng.choice(self.chance.shape[1], p=self.chance[action]))
        return (
            int(self.next_state[state, outcome]),
            float(self.rew[state, outcome]),
            bool(self.terminal[state, outcome]),
        )


def extract_mdp(env: MiniGridEnv, actions: Sequence[int], max_states: int = 100_000) -> TabularMDP:
    """Breadth-first from the env's present state, by playing every action in every state that turns up.

    The library pays 1 - .9 * step / max_steps at the goal.  That depends on the clock, which is no part of
    the state, so the table pays 1.  UserError for a world whose steps are random, and for too many states.
    """
    start = save_state(env)
    states, index, waiting = [start], {start: 0}, deque([start])
    rows: list[list[tuple[int, float, bool]]] = []
    dice = env.np_random.bit_generator.state
    while waiting:
        state, row = waiting.popleft(), []
        for action in actions:
            load_state(env, state)
            _, rew, terminated, _, _ = env.step(action)
            after = save_state(env)
            if terminated:  # there is nothing to do at the goal: it is no state
                row.append((index[state], float(rew > 0), True))
                continue
            if after not in index:
                index[after] = len(states)
                states.append(after)
                waiting.append(after)
            row.append((index[after], 0.0, False))
        rows.append(row)
        if len(states) > max_states:
            raise UserError(f"more than {max_states:,} states: too many for a table; choose a smaller world")
    load_state(env, start)
    if env.np_random.bit_generator.state != dice:
        raise UserError(
            f"{type(env).__name__} draws random numbers in its steps: choose a world that does not"
        )
    table = np.array(rows)  # [S, B, 3]
    return TabularMDP(table[..., 0].astype(np.int64), table[..., 1], table[..., 2].astype(bool), states)


def with_slip(mdp: TabularMDP, slip: float) -> TabularMDP:
    """The same world where each of the other actions may happen instead, each with probability `slip`."""
    n = mdp.num_actions
    chance = np.full((n, n), float(slip))
    np.fill_diagonal(chance, 1 - slip * (n - 1))
    return replace(mdp, chance=chance)


def pose(state: State) -> tuple[int, int, int]:
    """(x, y, heading) of a state."""
    return state.x, state.y, state.heading
