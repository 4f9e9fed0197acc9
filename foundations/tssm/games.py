"""Worlds as this module plays them: n games side by side that all begin and end together.

`reset(seed) -> obs`, `step(act) -> obs, rew, done`: obs uint8 [n, H, W, 3], act [n, A] in [-1, 1], rew and
done [n].  `GridGames` is simple_world; `PixelGames` draws any Gymnasium environment with one box of actions,
64x64, the newest three frames in gray as the three channels: one frame does not show a speed.
"""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from common.errors import UserError
from foundations.tssm.config import EnvConfig
from foundations.tssm.env import STEPS, SimpleWorld

FRAMES = 3  # of PixelGames, oldest first
SIDE = 64
CROPS = {"Pendulum-v1": (122, 378)}  # rows and columns that show something, of the 500 that are drawn


class GridGames:
    """simple_world."""

    act_size = 2
    max_steps = STEPS

    def __init__(self, cfg: EnvConfig, n: int):
        self.core = SimpleWorld(
            n,
            num_threats=cfg.num_threats,
            moving_threats=cfg.moving_threats,
            threat_penalty=cfg.threat_penalty,
            legacy=cfg.legacy,
        )
        self.n, self.rows = n, np.arange(n)
        self.obs_shape = (self.core.grid, self.core.grid, 3)

    def reset(self, seed: int) -> np.ndarray:
        """New boards."""
        seeds = np.random.SeedSequence(seed).generate_state(self.n)
        self.core.reset(self.rows, seeds.tolist())
        return self.core.render(self.rows)

    def step(self, act: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Move every actor."""
        rew, done, _ = self.core.step(self.rows, act)
        return self.core.render(self.rows), rew, done


class PixelGames:
    """Drawn Gymnasium environments; a game that is over stands still with reward 0."""

    def __init__(self, cfg: EnvConfig, n: int):
        from common.envs import headless

        headless.set_defaults()
        self.name, self.n = cfg.name, n
        self.envs = [_make(cfg.name) for _ in range(n)]
        self.act_size = self.envs[0].action_space.shape[0]
        self.max_steps = self.envs[0].spec.max_episode_steps or 1000
        self.obs_shape = (SIDE, SIDE, FRAMES)
        self.obs = np.zeros((n, *self.obs_shape), np.uint8)
        self.done = np.zeros(n, bool)

    def reset(self, seed: int) -> np.ndarray:
        """New games: the first frame three times."""
        for env, game_seed in zip(
            self.envs, np.random.SeedSequence(seed).generate_state(self.n), strict=True
        ):
            env.reset(seed=int(game_seed))
        self.obs[:] = np.stack([self._draw(env) for env in self.envs])[..., None]
        self.done[:] = False
        return self.obs.copy()

    def step(self, act: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One step of every game that goes on; actions are stretched to the environment's bounds."""
        rew = np.zeros(self.n, np.float32)
        for i in np.flatnonzero(~self.done):
            box = self.envs[i].action_space
            scaled = box.low + (np.clip(act[i], -1, 1) + 1) / 2 * (box.high - box.low)  # [A]
            _, rew[i], self.done[i], _, _ = self.envs[i].step(scaled.astype(box.dtype))
            self.obs[i] = np.concatenate([self.obs[i, :, :, 1:], self._draw(self.envs[i])[:, :, None]], -1)
        return self.obs.copy(), rew, self.done.copy()

    def _draw(self, env: gym.Env) -> np.ndarray:
        """The picture in gray: uint8 [H, W]"""
        from PIL import Image

        picture = env.render()
        low, high = CROPS.get(self.name, (0, None))
        image = Image.fromarray(picture[low:high, low:high]).convert("L")
        return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX))


def make_games(cfg: EnvConfig, n: int) -> GridGames | PixelGames:
    """n games of cfg.name.  UserError for a world that cannot be learned here."""
    return GridGames(cfg, n) if cfg.name == "simple_world" else PixelGames(cfg, n)


def _make(name: str) -> Any:
    """A Gymnasium environment that draws; UserError for any other."""
    try:
        env = gym.make(name, render_mode="rgb_array")
    except gym.error.Error as error:
        reason = str(error).split("\n")[0].rstrip(".")
        raise UserError(f"--env {name}: {reason}; choose simple_world or Pendulum-v1") from None
    box = env.action_space
    if not isinstance(box, spaces.Box) or len(box.shape) != 1 or not np.isfinite(box.low + box.high).all():
        raise UserError(f"--env {name}: takes {box}, and this module one box of actions: try Pendulum-v1")
    return env
