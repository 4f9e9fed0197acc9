"""Many games at once, one array row each: CartPole in NumPy, any other vector environment game by game.

    games = make_games("CartPole-v1", n=200, seed=0)
    obs, rew, terminated, truncated = games.step(act); games.reset(terminated | truncated)

`CartPoleGames` gives the very numbers of Gymnasium's CartPole-v1 (Barto, Sutton and Anderson 1983; a test
compares them bit for bit).  Letters: n games, D entries of an observation, A of an action.
"""

from collections.abc import Sequence

import gymnasium
import numpy as np
from gymnasium import spaces

from common.errors import UserError

GRAVITY, CART, POLE, HALF_LENGTH, FORCE, TAU = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02  # m/s^2 kg kg m N s
MAX_X, MAX_ANGLE = 2.4, 12 * 2 * np.pi / 360  # m, rad: beyond either the game is lost


def cartpole_step(state: np.ndarray, act: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float64 [..., 4] (x, its speed, angle, its speed), act [...] (0 left, 1 right) -> next, is it lost."""
    x, x_dot, angle, angle_dot = np.moveaxis(state, -1, 0)
    sin, cos, total = np.sin(angle), np.cos(angle), CART + POLE
    push = (np.where(act == 1, FORCE, -FORCE) + POLE * HALF_LENGTH * np.square(angle_dot) * sin) / total
    angle_acc = (GRAVITY * sin - cos * push) / (HALF_LENGTH * (4 / 3 - POLE * np.square(cos) / total))
    x_acc = push - POLE * HALF_LENGTH * angle_acc * cos / total
    after = (x + TAU * x_dot, x_dot + TAU * x_acc, angle + TAU * angle_dot, angle_dot + TAU * angle_acc)
    after = np.stack(after, -1)  # [..., 4]
    return after, (np.abs(after[..., 0]) > MAX_X) | (np.abs(after[..., 2]) > MAX_ANGLE)


class CartPoleGames:
    """`n` games of CartPole-v1: reward 1 a step, lost beyond 2.4 m or 12 degrees, cut at 500 steps."""

    max_steps = 500

    def __init__(self, n: int, seed: int):
        self.n, self.num_actions, self.action_space = n, 2, spaces.Discrete(2)
        self._rng = np.random.default_rng(seed)
        self.state, self.steps = np.zeros((n, 4)), np.zeros(n, np.int64)
        self.reset(np.ones(n, bool))

    @property
    def obs(self) -> np.ndarray:
        """What is seen now.  float32 [n, 4]"""
        return self.state.astype(np.float32)

    def reset(self, rows: np.ndarray) -> None:
        """Begin the games of a mask [n] anew."""
        self.state[rows] = self._rng.uniform(-0.05, 0.05, (int(rows.sum()), 4))
        self.steps[rows] = 0

    def step(self, act: np.ndarray) -> tuple[np.ndarray, ...]:
        """act [n] -> obs [n, 4], rew, terminated, truncated [n]; games that ended wait for `reset`."""
        self.state, terminated = cartpole_step(self.state, act)
        self.steps += 1
        return self.obs, np.ones(self.n, np.float32), terminated, self.steps >= self.max_steps


class GymGames:
    """`n` environments of Gymnasium, stepped one after the other; the same methods."""

    def __init__(self, name: str, n: int, seed: int):
        self.envs = [make_env(name) for _ in range(n)]
        self.n, self.action_space = n, self.envs[0].action_space
        self.num_actions = getattr(self.action_space, "n", None)
        self._seeds: Sequence[int | None] = [seed * 1_000_003 + i for i in range(n)]  # the first resets only
        self.obs = np.zeros((n, *self.envs[0].observation_space.shape), np.float32)
        self.max_steps = self.envs[0].spec.max_episode_steps or 0
        self.reset(np.ones(n, bool))

    def reset(self, rows: np.ndarray) -> None:
        """Begin the games of a mask [n] anew."""
        for i in np.flatnonzero(rows):
            self.obs[i] = self.envs[i].reset(seed=self._seeds[i])[0]
            self._seeds[i] = None

    def step(self, act: np.ndarray) -> tuple[np.ndarray, ...]:
        """act [n, ...] -> obs [n, D], rew, terminated, truncated [n]; games that ended wait for `reset`."""
        steps = [env.step(a) for env, a in zip(self.envs, act, strict=True)]
        obs, rew, terminated, truncated = (np.array(column) for column in list(zip(*steps, strict=True))[:4])
        self.obs = obs.astype(np.float32)
        return self.obs.copy(), rew.astype(np.float32), terminated, truncated


def make_games(name: str, n: int, seed: int) -> CartPoleGames | GymGames:
    """The fast kind where there is one."""
    return CartPoleGames(n, seed) if name == "CartPole-v1" else GymGames(name, n, seed)


def make_env(name: str) -> gymnasium.Env:
    """A Gymnasium environment with a flat vector to see; UserError for any other."""
    try:
        env = gymnasium.make(name)
    except gymnasium.error.Error as error:
        known = "CartPole-v1, MountainCar-v0, Acrobot-v1, Pendulum-v1"
        reason = str(error).split("\n")[0].rstrip(".")
        raise UserError(f"--env {name}: {reason}; any Gymnasium id with vectors, such as {known}") from None
    seen, act = env.observation_space, env.action_space
    if not isinstance(seen, spaces.Box) or len(seen.shape) != 1:
        raise UserError(f"--env {name}: shows {seen}, and this chapter takes flat vectors: try CartPole-v1")
    if (
        not isinstance(act, spaces.Discrete | spaces.Box)
        or isinstance(act, spaces.Box)
        and len(act.shape) != 1
    ):
        raise UserError(f"--env {name}: takes {act}, and this chapter takes Discrete or flat Box actions")
    return env
