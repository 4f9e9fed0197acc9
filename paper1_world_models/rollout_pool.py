"""CarRacing games in EnvPool's threads (C++), for `--env-options.render envpool`.

EnvPool takes a seed only when a pool is built.  So every `reset` builds one pool for its rows, which costs
2 ms a game, next to nothing for an episode of 1,000 steps; the pool goes when the last of its rows has been
seated elsewhere.  An episode depends on its seed alone, but EnvPool's tracks are not Gymnasium's: compare
scores only within one backend.

Shapes: S slots, k rows of a call.
"""

from typing import Any

import numpy as np

from common.env_wrapper import EnvSpec
from common.envs.car_racing import (
    MAX_STEPS,
    OFF_TRACK_REWARD,
    STATE,
    CarRacingEnv,
    check_options,
    load_envpool,
    shrink,
)
from common.envs.wrappers import option_defaults
from common.errors import UserError
from paper1_world_models.rollout_games import Answer, Outcome

HALF = 8  # slots of a turn at least
OPTIONS = {"native_actions": True, "render": "envpool", "size": STATE, "crop": False, "max_steps": MAX_STEPS}


class EnvPoolGames:
    """S cars; a finished one does not move until it is reset, so EnvPool's autoreset never sets in."""

    def __init__(self, spec: EnvSpec, slots: int, threads: int):
        """UserError for an option of the environment that EnvPool does not have, or where it is missing."""
        options = OPTIONS | spec.options
        for option in options.keys() - OPTIONS:
            if options[option] != option_defaults(CarRacingEnv)[option]:
                told = f"EnvPool cannot do {option}={options[option]!r}"
                raise UserError(f"{told}: leave it out, or use --env-options.render fast")
        check_options("fast", options["size"], "line", 1)
        self.make = load_envpool().make_gymnasium
        self.slots, self.threads = slots, threads
        self.size, self.crop, self.max_steps = options["size"], options["crop"], options["max_steps"]
        self.pool: list[Any] = [None] * slots  # the pool that a row lives in ...
        self.index = np.zeros(slots, np.int32)  # ... and its number there

    def turns(self, slots: int) -> list[np.ndarray]:
        """Two halves, where they are large enough: the threads step one while the networks see the other."""
        rows = np.arange(slots)
        return [rows[::2], rows[1::2]] if slots >= 2 * HALF else [rows]

    def reset(self, rows: np.ndarray, seeds: list[int]) -> np.ndarray:
        """Start games on the tracks that EnvPool makes of the seeds.  [k] -> uint8 [k, H, W, C]"""
        pool = self.make(
            "CarRacing-v3",
            num_envs=len(rows),
            env_seed=[int(seed) % 2**31 for seed in seeds],
            num_threads=min(self.threads, len(rows)),
            max_episode_steps=self.max_steps,
        )
        for i, row in enumerate(rows.tolist()):
            old, self.pool[row], self.index[row] = self.pool[row], pool, i
            if old is not None and all(old is not other for other in self.pool):
                old.close()
        images, info = pool.reset()
        return self._shrink(images[np.argsort(info["env_id"])])

    def start(self, rows: np.ndarray, actions: np.ndarray) -> Answer:
        """Begin a step.  [k], [k, 3] -> a function that waits for frames, outcome"""
        pools = {id(pool): pool for pool in (self.pool[row] for row in rows)}
        where = np.array([id(self.pool[row]) for row in rows])
        parts = [(pool, np.flatnonzero(where == key)) for key, pool in pools.items()]
        for pool, at in parts:
            pool.send(np.ascontiguousarray(actions[at], np.float32), self.index[rows[at]])

        def answer() -> tuple[np.ndarray, Outcome]:
            frames = np.empty((len(rows), self.size, self.size, 3), np.uint8)
            rew, flags = np.zeros(len(rows), np.float32), np.zeros((3, len(rows)), bool)
            for pool, at in parts:
                images, r, terminated, truncated, info = pool.recv()
                # the games of one pool may come back in any order: sort both sides by their number there
                back, here = np.argsort(info["env_id"]), at[np.argsort(self.index[rows[at]])]
                frames[here], rew[here] = self._shrink(images[back]), r[back]
                lap = terminated & (r > OFF_TRACK_REWARD / 2)
                flags[:, here] = np.stack([terminated, truncated & ~terminated, lap])[:, back]
            return frames, (rew, *flags)

        return answer

    def close(self) -> None:
        """End the threads."""
        for pool in {id(pool): pool for pool in self.pool if pool is not None}.values():
            pool.close()
        self.pool = [None] * self.slots

    def _shrink(self, images: np.ndarray) -> np.ndarray:
        """uint8 [k, 96, 96, 3] -> [k, size, size, 3]"""
        return np.stack([shrink(image, self.size, self.crop) for image in images])
