"""`toy_dodge`: walls with one gap come down on a player who slides on ice (the tiny task of paper 1).

A wall changes 7 % of the pixels, so a VAE leaves the mean image early; momentum is invisible in one frame,
so memory matters; each gap is new, so nothing works blindly: constant actions live exactly 19 steps, the PD
rule on the true state all 200. Lengths are in 1/64 of the frame. Shapes: k rows, H W picture, R wall rows.
"""

import numpy as np
from gymnasium import spaces

from common.envs.toys import ToyCore, blend_square, check_choice, coverage

PLAYER, PLAYER_TOP, X_MAX = 12, 48, 52  # side, upper row, largest left edge
WALL, SPEED = 8, 2.5  # height, fall per step: 29 steps per wall, contact on its steps 20-27
FRICTION, THRUST = 0.90, 0.45
MAX_STEPS = 200

SKY = 255 * np.array([[0.05, 0.07, 0.16], [0.10, 0.16, 0.34]], np.float32)  # top, bottom
WALL_COLOR = 255 * np.array([0.95, 0.45, 0.15], np.float32)
PLAYER_COLOR = 255 * np.array([0.35, 0.95, 0.75], np.float32)


class ToyDodge(ToyCore):
    """Actions Discrete(3): push left, nothing, push right.  Reward 1 for each step survived, at most 200."""

    def __init__(self, n: int, *, size: int = 64, gap: float = 28.0):
        """`size`: picture side, 64, 32 or 16; `gap`: width of the hole in the wall (24 is a harder game)."""
        check_choice("size", size, (64, 32, 16))
        super().__init__(n, size=size, channels=3, action_space=spaces.Discrete(3), max_steps=MAX_STEPS)
        self.gap = float(gap)
        self.x, self.v, self.y, self.g = np.zeros((4, n))  # player left, speed; wall top; gap left
        self._scale = size / 64
        # Rows of padding above and below let a wall that is half outside be drawn without cutting it.
        self._pad = int(WALL * self._scale) + 1
        ramp = np.linspace(0, 1, size, dtype=np.float32)[:, None]
        sky = np.pad(SKY[0] + ramp * (SKY[1] - SKY[0]), ((self._pad, self._pad), (0, 0)), mode="edge")
        self._sky = sky  # [H + 2 pad, 3]
        self._background = np.repeat(sky[:, None], size, axis=1).round().astype(np.uint8)  # [.., W, 3]

    def _spawn(self, row: int, rng: np.random.Generator) -> None:
        self.x[row], self.v[row], self.y[row] = rng.uniform(0, X_MAX), 0.0, -WALL
        self.g[row] = rng.uniform(0, 64 - self.gap)

    def _advance(self, rows: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        v = FRICTION * self.v[rows] + THRUST * (np.asarray(actions) - 1)
        free = self.x[rows] + v
        x = np.clip(free, 0, X_MAX)
        self.v[rows], self.x[rows] = np.where(x == free, v, 0.0), x
        self.y[rows] += SPEED
        for row in rows[self.y[rows] >= 64]:  # a few rows at most: each has its own generator
            self.y[row], self.g[row] = -WALL, self.rngs[row].uniform(0, 64 - self.gap)
        y, g = self.y[rows], self.g[rows]
        level = (y + WALL > PLAYER_TOP) & (y < PLAYER_TOP + PLAYER)
        crash = level & ((x < g) | (x + PLAYER > g + self.gap))
        return 1.0 - crash, crash

    def render(self, rows: np.ndarray) -> np.ndarray:
        """Blend only the wall's rows and the player into a copy of the background -> uint8 [k, H, W, 3]."""
        s, k = self._scale, len(rows)
        frames = np.repeat(self._background[None], k, axis=0)  # [k, H + 2 pad, W, 3]
        game = np.arange(k)[:, None]

        y = self.y[rows] * s
        top = np.floor(y).astype(np.int64)
        wall_rows = (top + self._pad)[:, None] + np.arange(int(WALL * s) + 1)  # [k, R]
        down = coverage(y - top, WALL * s, wall_rows.shape[1])  # [k, R]
        across = 1 - coverage(self.g[rows] * s, self.gap * s, self.size)  # [k, W]
        sky = self._sky[wall_rows]  # [k, R, 3]
        tint = (down[..., None] * (WALL_COLOR - sky))[:, :, None] * across[:, None, :, None]  # [k, R, W, 3]
        tint += sky[:, :, None] + 0.5  # + 0.5: the cast below rounds down
        frames[game, wall_rows] = tint.astype(np.uint8)

        player_top = np.full(k, PLAYER_TOP * s + self._pad)
        blend_square(frames, player_top, self.x[rows] * s, int(PLAYER * s), PLAYER_COLOR)
        return np.ascontiguousarray(frames[:, self._pad : self._pad + self.size])

    def truth(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """x, v of the player, y of the wall, g of its gap; each [k]."""
        return {"x": self.x[rows], "v": self.v[rows], "y": self.y[rows], "g": self.g[rows]}

    def optimal_policy(self, rows: np.ndarray) -> np.ndarray:
        """PD rule on the true state: towards the middle of the gap, braking by speed.  Always survives."""
        error = (self.g[rows] + self.gap / 2) - (self.x[rows] + PLAYER / 2) - 4.0 * self.v[rows]
        return 1 + np.sign(error).astype(np.int64) * (np.abs(error) > 1)
