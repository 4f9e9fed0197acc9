"""`toy_catch`: a ball falls one row per step; the paddle in the bottom row must be under it when it lands.

The task of papers 3, 4 and 5 in one file: `grid=5, drops=16, size=32, gray=True` is paper 3's (random -9.6,
perfect +16), `grid=8, drops=1` paper 4's, `grid=4, drops=1, size=16` IRIS's (one cell per token). Every
ball can be caught: it falls grid - 1 rows, and the paddle is at most grid - 1 columns away. Shapes: k rows,
H W C picture.
"""

import numpy as np
from gymnasium import spaces

from common.envs.toys import ToyCore
from common.errors import UserError

BALL_RGB, PADDLE_RGB = (250, 210, 60), (70, 170, 250)
BALL_GRAY, PADDLE_GRAY = (255,), (150,)
MIN_SPRITE = 0.1875  # of the side: 3.5 % of the frame; smaller sprites keep a VAE at the mean image for long


class ToyCatch(ToyCore):
    """Actions Discrete(3): left, stay, right.  Reward +1 for a catch, -1 for a miss, else 0."""

    def __init__(self, n: int, *, grid: int = 5, drops: int = 16, size: int = 64, gray: bool = False):
        """`grid` rows and columns, `drops` balls per game, `size` picture side, `gray`: one channel."""
        if grid < 2 or drops < 1 or size < 2 * grid:
            raise UserError(
                f"toy_catch(grid={grid}, drops={drops}, size={size}) is not possible: "
                "grid from 2, drops from 1, size from 2 * grid"
            )
        # Each ball takes grid - 1 steps, so this time limit is the last landing.
        super().__init__(
            n,
            size=size,
            channels=1 if gray else 3,
            action_space=spaces.Discrete(3),
            max_steps=drops * (grid - 1),
        )
        self.grid, self.drops = grid, drops
        self.row, self.col, self.paddle = np.zeros((3, n), np.int64)  # ball row and column, paddle column
        self._side = side = max(size // grid, int(np.ceil(MIN_SPRITE * size)))
        # First and last cell touch the border; cells overlap where the sprite is wider than its cell.
        self._pixel = np.round(np.arange(grid) * (size - side) / (grid - 1)).astype(np.int64)  # [grid]
        self._colors = (BALL_GRAY, PADDLE_GRAY) if gray else (BALL_RGB, PADDLE_RGB)

    def _spawn(self, row: int, rng: np.random.Generator) -> None:
        self.row[row], self.col[row] = 0, rng.integers(self.grid)
        self.paddle[row] = rng.integers(self.grid)

    def _advance(self, rows: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.paddle[rows] = np.clip(self.paddle[rows] + np.asarray(actions) - 1, 0, self.grid - 1)
        self.row[rows] += 1
        landed = self.row[rows] == self.grid - 1
        rew = np.where(landed, np.where(self.paddle[rows] == self.col[rows], 1.0, -1.0), 0.0)
        if self.drops == 1:
            return rew, landed  # the picture shows the landing; the game is over
        for row in rows[
            landed
        ]:  # the next ball is there at once; the end is a time limit, not a terminal state
            self.row[row], self.col[row] = 0, self.rngs[row].integers(self.grid)
        return rew, np.zeros(len(rows), bool)

    def render(self, rows: np.ndarray) -> np.ndarray:
        """Paddle, then ball on top (a caught ball hides the paddle) -> uint8 [k, H, W, C]."""
        frames = np.zeros((len(rows), *self.observation_space["image"].shape), np.uint8)
        game, offset = np.arange(len(rows))[:, None, None], np.arange(self._side)
        bottom = np.full(len(rows), self.grid - 1)
        ball, paddle = (self.row[rows], self.col[rows]), (bottom, self.paddle[rows])
        for (row, col), color in ((paddle, self._colors[1]), (ball, self._colors[0])):
            down = self._pixel[row][:, None, None] + offset[:, None]  # [k, side, 1]
            across = self._pixel[col][:, None, None] + offset  # [k, 1, side]
            frames[game, down, across] = color
        return frames

    def truth(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Cells of the ball and the paddle; each [k]."""
        return {"row": self.row[rows], "col": self.col[rows], "paddle": self.paddle[rows]}

    def optimal_policy(self, rows: np.ndarray) -> np.ndarray:
        """Go under the ball: catches all of them."""
        return 1 + np.sign(self.col[rows] - self.paddle[rows])
