"""Games for a lockstep rollout: many episodes of one environment, stepped in arrays.

`start` hands out the actions and may return before the games have moved: while other processes step some
slots, the networks decide for the others (rollout_workers.py, rollout_pool.py; rollout.py plays).  Nothing
here needs torch, so that a worker process starts quickly and stays small.

Shapes: S slots, k rows of a call.
"""

from collections.abc import Callable
from typing import Protocol

import gymnasium as gym
import numpy as np

from common.env_wrapper import EnvSpec, suite_of
from common.errors import UserError
from paper1_world_models.config import Config

Outcome = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # rew, terminated, truncated, lap: each [k]
Answer = Callable[[], tuple[np.ndarray, Outcome]]  # waits -> uint8 [k, H, W, C], outcome


class WorkerDied(Exception):
    """An environment process is gone (and was started anew); the running games must be played again."""


class Games(Protocol):
    """S independent games of one environment; only the rows of a call move."""

    slots: int

    def turns(self, slots: int) -> list[np.ndarray]:
        """The first `slots` slots in groups: while one group moves, the networks decide for the next."""

    def reset(self, rows: np.ndarray, seeds: list[int]) -> np.ndarray:
        """-> uint8 [k, H, W, C]"""

    def start(self, rows: np.ndarray, actions: np.ndarray) -> Answer:
        """Begin a step; no row may be started again before its answer was taken."""

    def close(self) -> None:
        """End the processes, if any."""


class InProcess:
    """What games without workers share: they step when the answer is asked for, all in one turn."""

    def turns(self, slots: int) -> list[np.ndarray]:
        """One group: the larger the batch, the cheaper."""
        return [np.arange(slots)]

    def start(self, rows: np.ndarray, actions: np.ndarray) -> Answer:
        """[k], [k, ...] -> a function that makes the step"""
        return lambda: self.step(rows, actions)


class ToyGames(InProcess):
    """The toys are arrays already."""

    def __init__(self, spec: EnvSpec, slots: int):
        from common.envs.toys import make_core, toy_core

        options = {key: value for key, value in spec.options.items() if key != "native_actions"}
        self.slots, self.core = slots, make_core(toy_core(spec.name), slots, **options)

    def reset(self, rows: np.ndarray, seeds: list[int]) -> np.ndarray:
        """Start games.  [k] -> uint8 [k, H, W, C]"""
        self.core.reset(rows, seeds)
        return self.core.render(rows)

    def step(self, rows: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, Outcome]:
        """Move games.  [k], [k, ...] -> frames, outcome"""
        rew, terminated, truncated = self.core.step(rows, actions)
        return self.core.render(rows), (rew, terminated, truncated, np.zeros(len(rows), bool))

    def close(self) -> None:
        """Nothing to end."""


class LocalGames(InProcess):
    """Gymnasium environments in this process, made when their slot is first used."""

    def __init__(self, spec: EnvSpec, slots: int, frames: np.ndarray | None = None):
        """`frames` [S, H, W, C]: where the pictures go; None: an array of our own."""
        self.spec, self.slots, self.frames = spec, slots, frames
        self.envs: dict[int, gym.Env] = {}

    def reset(self, rows: np.ndarray, seeds: list[int]) -> np.ndarray:
        """Start games.  [k] -> uint8 [k, H, W, C]"""
        self.begin(rows, seeds)
        return self.frames[rows]

    def step(self, rows: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, Outcome]:
        """Move games.  [k], [k, ...] -> frames, outcome"""
        outcome = self.move(rows, actions)
        return self.frames[rows], outcome

    def begin(self, rows: np.ndarray, seeds: list[int]) -> None:
        """`reset` that leaves the pictures in `self.frames`."""
        for row, seed in zip(rows.tolist(), seeds, strict=True):
            if row not in self.envs:
                self.envs[row] = make_pixels(self.spec)
            image = self.envs[row].reset(seed=int(seed))[0]["image"]
            if self.frames is None:
                self.frames = np.empty((self.slots, *image.shape), np.uint8)
            self.frames[row] = image

    def move(self, rows: np.ndarray, actions: np.ndarray) -> Outcome:
        """`step` that leaves the pictures in `self.frames`."""
        rew, flags = np.zeros(len(rows), np.float32), np.zeros((3, len(rows)), bool)
        for i, (row, action) in enumerate(zip(rows.tolist(), actions, strict=True)):
            obs, rew[i], terminated, truncated, info = self.envs[row].step(action)
            self.frames[row] = obs["image"]
            flags[:, i] = terminated, truncated, info.get("lap_finished", False)
        return rew, *flags

    def close(self) -> None:
        """Close every environment."""
        for env in self.envs.values():
            env.close()


def env_spec(cfg: Config) -> EnvSpec:
    """The environment as paper 1 wants it: pictures, and actions within the environment's own bounds."""
    pixels = {"obs": "pixels", "size": cfg.vae.size} if suite_of(cfg.env) == "gym" else {}
    return EnvSpec(cfg.env, {"native_actions": True, **pixels, **cfg.env_options})


def make_pixels(spec: EnvSpec) -> gym.Env:
    """One environment; UserError where its observations are not square RGB pictures."""
    env = spec.make("eval")
    image = env.observation_space.spaces.get("image")
    if image is None or image.shape[0] != image.shape[1] or image.shape[-1] != 3:
        found = {key: space.shape for key, space in env.observation_space.items()}
        raise UserError(
            f"paper 1 needs square RGB pictures and {spec.name} gives {found}: see its --env-options"
        )
    return env


def make_games(spec: EnvSpec, slots: int, workers: int, frame_shape: tuple[int, ...]) -> Games:
    """The cheapest way to step `slots` games of this environment."""
    suite = suite_of(spec.name)
    if suite == "toy":
        return ToyGames(spec, slots)
    if suite == "box2d_car" and spec.options.get("render") == "envpool":
        from paper1_world_models.rollout_pool import EnvPoolGames

        return EnvPoolGames(spec, slots, workers)
    if workers > 1:
        from paper1_world_models.rollout_workers import ProcessGames

        return ProcessGames(spec, slots, workers, frame_shape)
    return LocalGames(spec, slots)
