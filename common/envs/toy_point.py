"""`toy_point`: push a square to the goal in the middle (the continuous tiny task of papers 2 and 3).

Position in [-1, 1]^2, 0.15 per step and axis, reward max(0, 1 - distance to the centre) for the new
position, 64 steps, no end of its own. `actions="discrete"` has five moves: stay, left, right, up, down. The
squares are a quarter of the side, 6 % of the frame, and move by sub-pixels. Shapes: k rows, H W picture.
"""

import numpy as np
from gymnasium import spaces

from common.envs.toys import ToyCore, blend_square, check_choice

SPEED, MAX_STEPS = 0.15, 64
MOVES = np.array([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]], np.float64)  # (x to the right, y down)
GROUND, GOAL, AGENT = (np.array(c, np.float32) for c in ((25, 25, 40), (60, 180, 75), (245, 130, 50)))


class ToyPoint(ToyCore):
    """Actions Box(2) in [-1, 1] = velocity (x, y), or Discrete(5)."""

    def __init__(self, n: int, *, actions: str = "continuous", size: int = 64):
        """`actions`: continuous or discrete; `size`: picture side, 64, 32 or 16."""
        check_choice("actions", actions, ("continuous", "discrete"))
        check_choice("size", size, (64, 32, 16))
        self.discrete = actions == "discrete"
        space = spaces.Discrete(len(MOVES)) if self.discrete else spaces.Box(-1.0, 1.0, (2,), np.float32)
        super().__init__(n, size=size, channels=3, action_space=space, max_steps=MAX_STEPS)
        self.pos = np.zeros((n, 2))
        self._side = size // 4
        self._background = np.full((1, size, size, 3), GROUND, np.uint8)
        middle = np.array([(size - self._side) / 2])
        blend_square(self._background, middle, middle, self._side, GOAL)

    def _spawn(self, row: int, rng: np.random.Generator) -> None:
        self.pos[row] = rng.uniform(-1, 1, 2)

    def _advance(self, rows: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        velocity = MOVES[actions] if self.discrete else np.clip(actions, -1.0, 1.0)
        self.pos[rows] = np.clip(self.pos[rows] + SPEED * velocity, -1, 1)
        x, y = self.pos[rows].T
        return np.maximum(0.0, 1 - np.sqrt(x * x + y * y)), np.zeros(len(rows), bool)

    def render(self, rows: np.ndarray) -> np.ndarray:
        """The goal, and the player's square on top -> uint8 [k, H, W, 3]."""
        frames = np.repeat(self._background, len(rows), axis=0)
        corner = (self.pos[rows] + 1) / 2 * (self.size - self._side)  # [k, 2]
        blend_square(frames, corner[:, 1], corner[:, 0], self._side, AGENT)
        return frames

    def truth(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Position, right and down, in [-1, 1]; each [k]."""
        return {"x": self.pos[rows, 0], "y": self.pos[rows, 1]}

    def optimal_policy(self, rows: np.ndarray) -> np.ndarray:
        """Straight to the centre; of the five moves the one that ends nearest to it (greedy)."""
        if not self.discrete:
            return np.clip(-self.pos[rows] / SPEED, -1, 1).astype(np.float32)
        after = self.pos[rows][:, None] + SPEED * MOVES  # [k, 5, 2]
        return (after**2).sum(-1).argmin(-1)
