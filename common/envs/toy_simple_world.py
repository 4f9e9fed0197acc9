"""`toy_simple_world`: a 4x4 board, actor (black), goal (green) and threat (red) on distinct random cells.

The world of `foundations/` (continuous moves, 25 steps, +1 for each step on the goal, -threat_penalty on
the threat) and, with `actions="discrete", terminal=True`, IRIS's GridGoal (either cell ends the game, 12
steps). A continuous action is rounded to a move of -1, 0 or 1 per axis, so diagonals exist there; the five
discrete moves have none. Shapes: k rows, G cells per side, H W picture.
"""

from functools import cached_property

import numpy as np
from gymnasium import spaces

from common.envs.toys import ToyCore, check_choice
from common.errors import UserError

MOVES = np.array([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]])  # (x to the right, y down): stay l r u d
DIAGONALS = np.array([[x, y] for y in (0, -1, 1) for x in (0, -1, 1)])
THREAT, GOAL, ACTOR, GROUND = (255, 0, 0), (0, 255, 0), (0, 0, 0), 255


class ToySimpleWorld(ToyCore):
    """Actions Box(2) in [-1, 1] = rounded move (x, y), or Discrete(5): stay, left, right, up, down."""

    def __init__(
        self,
        n: int,
        *,
        actions: str = "continuous",
        terminal: bool = False,
        threat_penalty: float = 1.0,
        grid: int = 4,
        size: int = 64,
        levels: int = 0,
    ):
        """`terminal`: goal and threat end the game; `grid` cells per side; `size`: a multiple of it.

        `levels`: games begin with one of so many boards, always the same ones; 0: any board.  In training
        only: evaluations begin with any board, so that they tell what was learned by heart.
        """
        check_choice("actions", actions, ("continuous", "discrete"))
        if grid < 2 or size % grid:
            raise UserError(
                f"size={size} is not possible: a multiple of grid={grid} (at least 2), such as {4 * grid}"
            )
        self.discrete, self.terminal = actions == "discrete", terminal
        space = spaces.Discrete(len(MOVES)) if self.discrete else spaces.Box(-1.0, 1.0, (2,), np.float32)
        super().__init__(n, size=size, channels=3, action_space=space, max_steps=12 if terminal else 25)
        self.grid, self.threat_penalty, self.levels = grid, float(threat_penalty), levels
        self.actor, self.goal, self.threat = np.zeros((3, n, 2), np.int64)  # cells (x, y)

    def _spawn(self, row: int, rng: np.random.Generator) -> None:
        if self.levels:
            rng = np.random.default_rng(rng.integers(self.levels))
        cells = rng.choice(self.grid**2, 3, replace=False)
        self.actor[row], self.goal[row], self.threat[row] = np.stack(
            [cells % self.grid, cells // self.grid], -1
        )

    def _advance(self, rows: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.discrete:
            move = MOVES[actions]
        else:  # to the nearest cell: truncation would make right and down hard to reach
            move = np.rint(np.clip(actions, -1, 1)).astype(np.int64)
        self.actor[rows] = np.clip(self.actor[rows] + move, 0, self.grid - 1)
        on_goal = (self.actor[rows] == self.goal[rows]).all(-1)
        on_threat = (self.actor[rows] == self.threat[rows]).all(-1)
        rew = on_goal - self.threat_penalty * on_threat
        return rew, (on_goal | on_threat) & self.terminal

    def render(self, rows: np.ndarray) -> np.ndarray:
        """Threat, goal, actor, each hiding what it stands on -> uint8 [k, H, W, 3]."""
        board = np.full((len(rows), self.grid, self.grid, 3), GROUND, np.uint8)
        game = np.arange(len(rows))
        for cell, color in ((self.threat, THREAT), (self.goal, GOAL), (self.actor, ACTOR)):
            board[game, cell[rows, 1], cell[rows, 0]] = color
        side = self.size // self.grid
        return board.repeat(side, axis=1).repeat(side, axis=2)

    def truth(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Cell numbers (y * grid + x) of actor, goal and threat; each [k]."""
        weight = np.array([1, self.grid])
        return {name: getattr(self, name)[rows] @ weight for name in ("actor", "goal", "threat")}

    def optimal_policy(self, rows: np.ndarray) -> np.ndarray:
        """A shortest way to the goal round the threat (optimal for penalties from 1 on), then stay."""
        cell = self.truth(rows)
        best = self._best_move[cell["goal"], cell["threat"], cell["actor"]]
        return best if self.discrete else DIAGONALS[best].astype(np.float32)

    @cached_property
    def _best_move(self) -> np.ndarray:
        """Index of the best move for every [goal, threat, actor] by breadth-first search: [G*G] * 3."""
        moves, cells = (MOVES if self.discrete else DIAGONALS), np.arange(self.grid**2)
        here = np.stack([cells % self.grid, cells // self.grid], -1)  # [G*G, 2]
        after = np.clip(here[:, None] + moves, 0, self.grid - 1) @ np.array([1, self.grid])  # [G*G, moves]
        distance = np.full((len(cells),) * 3, np.inf)
        distance[cells, :, cells] = 0
        for _ in cells:  # longest way is shorter than the number of cells
            distance = np.minimum(distance, 1 + distance[:, :, after].min(-1))
            distance[:, cells, cells] = np.inf  # never through the threat
        return distance[:, :, after].argmin(-1)
