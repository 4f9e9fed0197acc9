"""Playing the training environments: every row goes into the replay, every ended episode into the log.

The stored row is drawn in common/replay_buffer.py.  Vector envs reset in the step after an episode's end
(Gymnasium's NEXT_STEP), so each step adds exactly one row per env, last rows included.
Letter: N envs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from common.evaluate import numbers
from common.seeding import derive

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

    from common.replay_buffer import ReplayBuffer

Rows = dict[str, np.ndarray]
# obs [N, ...] with is_first [N] -> act [N, ...], and what else is to be stored with these rows (latents)
Policy = Callable[[Rows], tuple[np.ndarray, Rows]]


class Collector:
    """Steps N envs with a policy.  `begin` first, `end_episodes` before a checkpoint, then `begin` again."""

    def __init__(
        self,
        envs: VectorEnv,
        replay: ReplayBuffer,
        frames_per_step: int,
        seed: int,
        on_episode: Callable[[float, int, dict[str, float]], None] = lambda ret, length, told: None,
        timeout_is_end: bool = False,
    ):
        """timeout_is_end: store a time limit as if the game had been over.

        on_episode(return, length in policy steps, numbers in its last info): when one ended by itself.
        """
        self.envs, self.replay, self.frames_per_step, self.seed = envs, replay, frames_per_step, seed
        self.on_episode, self.timeout_is_end = on_episode, timeout_is_end
        self.policy_steps = 0
        self.num = envs.num_envs

    @property
    def frames(self) -> int:
        """Environment frames so far, action repeats included."""
        return self.policy_steps * self.frames_per_step

    def begin(self, number: int) -> None:
        """Reset every env, with seeds that follow from (seed, env, number): a resumed run does the same."""
        seeds = [derive(self.seed, "episode", number, i) for i in range(self.num)]
        self.obs, _ = self.envs.reset(seed=seeds)
        self.rew = np.zeros(self.num, np.float32)
        self.is_first, (self.is_last, self.is_terminal) = (
            np.ones(self.num, bool),
            np.zeros((2, self.num), bool),
        )
        self.returns, self.lengths = np.zeros(self.num), np.zeros(self.num, np.int64)

    def step(self, policy: Policy) -> None:
        """One action in every env; those whose episode has ended are reset instead."""
        act, more = policy({**self.obs, "is_first": self.is_first.copy()})
        act = np.asarray(act)
        self._store(act, np.arange(self.num), more)
        over = self.is_last
        obs, rew, terminated, truncated, info = self.envs.step(act)
        self.obs = obs
        self.rew = np.where(over, 0, rew).astype(np.float32)
        self.is_first = over
        self.is_terminal = (terminated | (truncated & self.timeout_is_end)) & ~over
        self.is_last = (terminated | truncated) & ~over
        self.policy_steps += int((~over).sum())
        self.returns, self.lengths = self.returns + rew * ~over, self.lengths + ~over
        for i in np.flatnonzero(self.is_last):
            self.on_episode(float(self.returns[i]), int(self.lengths[i]), dict(numbers(info, i)))
            self.returns[i], self.lengths[i] = 0.0, 0

    def end_episodes(self) -> None:
        """Store the rows that are waiting as last ones: an open episode ends here, but not terminally."""
        waiting = np.flatnonzero(~self.is_first)  # an episode of one row teaches nothing
        if len(waiting):
            self.is_last = np.ones(self.num, bool)
            fields = self.replay.storage.fields
            known = {"act", "rew", "is_first", "is_last", "is_terminal", *self.obs}
            more = {
                name: np.zeros((self.num, *fields[name][0]), fields[name][1])
                for name in fields.keys() - known
            }
            act = np.zeros((self.num, *fields["act"][0]))
            self._store(act.astype(fields["act"][1]), waiting, more)  # nothing starts from an episode's end

    def _store(self, act: np.ndarray, envs: np.ndarray, more: Rows) -> None:
        rows = {**more, "act": act, "rew": self.rew, "is_first": self.is_first}
        rows |= {"is_last": self.is_last, "is_terminal": self.is_terminal, **self.obs}
        self.replay.add({name: value[envs] for name, value in rows.items()}, envs)
