"""`simple_world`: actor (black), target (green) and threats (red) on a 4x4 board, moved by a 2-vector.

The rules of mauicv/world-model-rl on the core of `common/envs/toy_simple_world.py`.  An action (x, y) in
[-1, 1] is rounded to a move of -1, 0 or 1 per axis, so there are diagonals.  Each of the 25 steps gives +1 on
the target and -threat_penalty for every threat on the actor's cell; nothing ends the game.

`legacy=True` has the starting project's defects.  int(cell + a) cuts toward zero: from cell 2 a = -0.1 goes
left, as -1 does, and a = 0.99 stays, so that right and down take an action of exactly 1.  And randint's bound
is exclusive: games begin in the 3x3 corner, on cells that may coincide.
Shapes: n games, k rows of a call, G cells per side, K threats, S start states, H W picture.
"""

from itertools import permutations
from typing import Any

import numpy as np

from common.envs.toy_simple_world import ACTOR, GOAL, GROUND, THREAT, ToySimpleWorld
from common.envs.toys import ToyEnv, ToyVectorEnv
from common.errors import UserError

NEIGHBOURS = np.array([[-1, 0], [1, 0], [0, -1], [0, 1]])
STEPS = 25  # of a game


class SimpleWorld(ToySimpleWorld):
    """n boards at once; `threats` [n, K, 2] instead of one threat, everything else as in its parent."""

    def __init__(
        self,
        n: int,
        *,
        grid: int = 4,
        num_threats: int = 1,
        moving_threats: bool = False,
        threat_penalty: float = 1.0,
        legacy: bool = False,
        cell_pixels: int = 1,
    ):
        """`grid` cells per side, each drawn as `cell_pixels` squared."""
        if not 1 <= num_threats <= grid**2 - 2:
            raise UserError(f"num_threats={num_threats}: must be 1 to {grid**2 - 2} on a {grid}x{grid} board")
        super().__init__(n, threat_penalty=threat_penalty, grid=grid, size=grid * cell_pixels)
        self.moving_threats, self.legacy = moving_threats, legacy
        self.threats = np.zeros((n, num_threats, 2), np.int64)
        self.threat = self.threats[:, 0]  # a view: the parent's `truth` and `optimal_policy` read it

    def place(self, cells: np.ndarray) -> None:
        """Put every game at its first step, on the cells [n, 2 + K] of actor, target and threats."""
        where = np.stack([cells % self.grid, cells // self.grid], -1)  # [n, 2 + K, 2]
        self.actor[:], self.goal[:], self.threats[:] = where[:, 0], where[:, 1], where[:, 2:]
        self.t[:] = 0
        if self.moving_threats:
            self.rngs = [np.random.default_rng(row) for row in range(self.n)]

    def _spawn(self, row: int, rng: np.random.Generator) -> None:
        count = 2 + self.threats.shape[1]
        if self.legacy:
            cells = rng.integers(0, self.grid - 1, (count, 2))
        else:
            flat = rng.choice(self.grid**2, count, replace=False)
            cells = np.stack([flat % self.grid, flat // self.grid], -1)
        self.actor[row], self.goal[row], self.threats[row] = cells[0], cells[1], cells[2:]

    def _advance(self, rows: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.actor[rows] = moved(self.actor[rows], actions, self.grid, self.legacy)
        if self.moving_threats:
            self._move_threats(rows)
        on_goal, hits = self.contacts(rows)
        return on_goal - self.threat_penalty * hits, np.zeros(len(rows), bool)

    def _move_threats(self, rows: np.ndarray) -> None:
        for row in rows:  # each game draws from its own generator
            step = NEIGHBOURS[self.rngs[row].integers(4, size=self.threats.shape[1])]  # [K, 2]
            self.threats[row] = np.clip(self.threats[row] + step, 0, self.grid - 1)

    def contacts(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Is the actor on the target [k] bool, on how many threats [k] int."""
        on_goal = (self.actor[rows] == self.goal[rows]).all(-1)
        return on_goal, (self.actor[rows, None] == self.threats[rows]).all(-1).sum(-1)

    def render(self, rows: np.ndarray) -> np.ndarray:
        """Threats, target, actor: each hides what it stands on.  uint8 [k, H, W, 3]"""
        board = np.full((len(rows), self.grid, self.grid, 3), GROUND, np.uint8)
        game = np.arange(len(rows))
        layers = [(self.threats[:, i], THREAT) for i in range(self.threats.shape[1])]
        for cell, color in (*layers, (self.goal, GOAL), (self.actor, ACTOR)):
            board[game, cell[rows, 1], cell[rows, 0]] = color
        side = self.size // self.grid
        return board.repeat(side, axis=1).repeat(side, axis=2)


def moved(cell: np.ndarray, act: np.ndarray, grid: int, legacy: bool = False) -> np.ndarray:
    """Where an action leads, cells and actions [..., 2] -> cells [..., 2]."""
    act = np.clip(act, -1.0, 1.0)
    after = np.trunc(cell + act) if legacy else cell + np.rint(act)
    return np.clip(after.astype(np.int64), 0, grid - 1)


def make_env(**options: Any) -> ToyEnv:
    """One board as a Gymnasium environment: options of `SimpleWorld`."""
    return ToyEnv(SimpleWorld, **options)


def make_vector_env(num_envs: int, **options: Any) -> ToyVectorEnv:
    """Boards in lockstep as a Gymnasium vector environment."""
    return ToyVectorEnv(SimpleWorld, num_envs, **options)


def start_states(grid: int = 4, num_threats: int = 1, legacy: bool = False) -> np.ndarray:
    """Every equally likely start, as cell numbers y * grid + x of actor, target, threats: [S, 2 + K].

    3,360 = 16 * 15 * 14 for one threat; legacy: 9 ** 3 = 729.
    """
    count = 2 + num_threats
    if legacy:
        corner = [y * grid + x for y in range(grid - 1) for x in range(grid - 1)]
        return np.stack(np.meshgrid(*[corner] * count, indexing="ij"), -1).reshape(-1, count)
    return np.array(list(permutations(range(grid**2), count)))
