"""A whole generation at once: many games in lockstep, one forward pass of V, M and C for all of them.

The known ports give every rollout a process of its own with batch size 1.  Here the processes only step
environments (rollout_games.py), and the networks see one batch.  A finished game hands its slot to the next
episode of the queue.  Where processes step the games there are two turns: while one half moves, V, M and C
decide for the other, so that all cores stay busy.  An episode's course depends on its seed, its candidate and
its noise table alone, never on workers or slots (tests/paper1_world_models/test_rollout.py).

Shapes: S slots, k rows of a call, P candidates, R rollouts, T steps, Z latents, A numbers that M reads.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from paper1_world_models.controller import Controller
from paper1_world_models.rnn import MDNRNN
from paper1_world_models.rollout_games import Answer, Games, WorkerDied
from paper1_world_models.vae import VAE, resample

NOISE_STEPS = 1024  # draws of z per episode; longer episodes see them again
PART = 32  # frames that V encodes at once on a CPU: what a layer hands to the next one stays in the cache


class Player:
    """V, M and C for S games: the state of each slot, and one batched decision for any subset of them."""

    def __init__(self, vae: VAE, rnn: MDNRNN, controller: Controller, slots: int):
        self.vae, self.rnn, self.controller = vae, rnn, controller
        self.h, self.c = rnn.initial(slots)  # [S, D] each
        self.device = self.h.device

    def reset(self, rows: np.ndarray) -> None:
        """New episodes begin with a zero state, so the first action sees z_0 alone."""
        self.h[rows], self.c[rows] = 0.0, 0.0

    @torch.inference_mode()
    def act(
        self, rows: np.ndarray, frames: np.ndarray, params: Tensor, eps: Tensor | None, first: np.ndarray
    ):
        """a_t from z_t and the state of steps < t; then M is stepped with (z_t, a_t as executed).

        [k], uint8 [k, H, W, C], [k, n], [k, Z] or None (use the mean), bool [k] -> env actions, squashed
        [k, A], z [k, Z]
        """
        k, pad = len(rows), -len(rows) % 8
        # Kernels give a row the same bits in every batch of a multiple of 8, so the score of a candidate does
        # not depend on its neighbours: the batch is filled up with its first row.
        where = np.concatenate([np.arange(k), np.zeros(pad, np.int64)])
        at = torch.from_numpy(np.asarray(rows)[where]).to(self.device)
        mu, logvar = self.encode(torch.from_numpy(frames[where] if pad else frames).to(self.device))
        z = mu if eps is None else resample(mu, logvar, eps[where].to(self.device))
        h, c = self.h[at], self.c[at]
        act = self.controller.act_many(
            params[where].to(self.device), self.controller.feature(z, h, c)
        )  # [k, A]
        h, c = self.rnn.step(z, act, torch.from_numpy(first[where]).to(self.device), (h, c))
        self.h[at[:k]], self.c[at[:k]] = h[:k], c[:k]
        act = act[:k].cpu().numpy()
        return self.controller.codec.to_env(act), act, z[:k]

    def encode(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """V's mean and log variance, in parts where a cache profits.  uint8 [k, H, W, C] -> two [k, Z]"""
        parts = frames.split(PART if self.device.type == "cpu" else len(frames))
        mu, logvar = zip(*[self.vae.encode(part) for part in parts], strict=True)
        return torch.cat(mu), torch.cat(logvar)


@dataclass
class Episode:
    """One job and what came of it."""

    candidate: int  # row of the parameter vectors
    rollout: int  # row of the noise table
    seed: int
    ret: float = 0.0
    length: int = 0
    lap: bool = False
    waited: int = 0  # steps since the last positive reward
    lost: float = 0.0  # reward of those steps

    def give_up(self, rew: float, patience: int, max_steps: int) -> bool:
        """Is this episode going nowhere?  Then its return is extrapolated to `max_steps`, at the rate of the
        last `patience` steps, none of which brought anything: a car on the grass need not be watched for
        long."""
        self.waited, self.lost = (0, 0.0) if rew > 0 else (self.waited + 1, self.lost + rew)
        if self.waited < patience:
            return False
        self.ret += self.lost / self.waited * (max_steps - self.length)
        return True


@dataclass(frozen=True)
class Noise:
    """Standard normal draws for z, by (rollout, step): shared by all candidates, so luck is not mistaken
    for skill."""

    table: Tensor | None  # [R, T, Z]; None: z is the mean

    @classmethod
    def draw(cls, seed: int, rollouts: int, steps: int, latents: int, mode: str) -> "Noise":
        """A fresh table; `mode` "mean" has none."""
        generator = torch.Generator().manual_seed(seed)
        return cls(None if mode == "mean" else torch.randn(rollouts, steps, latents, generator=generator))

    def at(self, rollouts: list[int], steps: list[int]) -> Tensor | None:
        """[k], [k] -> [k, Z] or None"""
        return None if self.table is None else self.table[rollouts, [t % self.table.shape[1] for t in steps]]


def grid(candidates: int, seeds: list[int]) -> list[Episode]:
    """Every candidate plays every seed, candidate by candidate."""
    return [Episode(p, r, seed) for p in range(candidates) for r, seed in enumerate(seeds)]


class Turn:
    """Slots whose games move together, and the episodes that sit in them."""

    def __init__(self, slots: np.ndarray):
        self.free: list[int] = slots.tolist()
        self.rows = np.empty(0, np.int64)  # [k] slots that are taken
        self.playing: list[Episode] = []  # k of them
        self.frames: np.ndarray | None = None  # uint8 [k, H, W, C]
        self.answer: Answer | None = None  # what the games will say of the step that was started

    def seat(self, queue: deque[Episode], games: Games, player: Player) -> None:
        """The free slots go to the next episodes."""
        new = [queue.popleft() for _ in range(min(len(self.free), len(queue)))]
        if not new:
            return
        rows, self.free = np.array(self.free[: len(new)]), self.free[len(new) :]
        self.rows, self.playing = np.concatenate([self.rows, rows]), self.playing + new
        for e in new:
            e.ret, e.length, e.lap, e.waited, e.lost = 0.0, 0, False, 0, 0.0
        player.reset(rows)
        first = games.reset(rows, [e.seed for e in new])
        self.frames = first if self.frames is None else np.concatenate([self.frames, first])

    def finish(self, max_steps: int, patience: int) -> None:
        """Take the answer, if one is due; what is over leaves its slot."""
        if self.answer is None:
            return
        self.frames, (rew, terminated, truncated, lap) = self.answer()
        self.answer = None
        over = terminated | truncated
        for i, e in enumerate(self.playing):
            e.ret += float(rew[i])
            e.length += 1
            e.lap |= bool(lap[i])
            done = over[i] or e.length == max_steps
            over[i] = done or (patience > 0 and e.give_up(float(rew[i]), patience, max_steps))
        if over.any():
            self.free += self.rows[over].tolist()
            self.rows, self.frames = self.rows[~over], self.frames[~over]
            self.playing = [e for i, e in enumerate(self.playing) if not over[i]]

    def abandon(self) -> list[Episode]:
        """All slots are free again -> the episodes that sat in them."""
        self.free, episodes = self.free + self.rows.tolist(), self.playing
        self.rows, self.playing, self.frames, self.answer = self.rows[:0], [], None, None
        return episodes


def play(
    games: Games,
    player: Player,
    params: np.ndarray,
    episodes: list[Episode],
    noise: Noise,
    max_steps: int = 0,
    patience: int = 0,
    each_step: Callable[[], None] | None = None,
) -> np.ndarray:
    """Play all episodes with the vectors params [P, n] and fill in what came of them.  -> returns, one per
    episode

    A dead worker's episodes are played again.  `patience`: see Episode.give_up.  `each_step` may raise, to
    leave.
    """
    vectors = torch.as_tensor(params, dtype=torch.float32)
    queue = deque(episodes)
    turns = [Turn(slots) for slots in games.turns(min(games.slots, len(episodes)))]
    while queue or any(turn.playing for turn in turns):
        if each_step:
            each_step()
        for turn in turns:
            try:
                turn.finish(max_steps, patience)
                turn.seat(queue, games, player)
                if not turn.playing:
                    continue
                steps = [e.length for e in turn.playing]
                actions, _, _ = player.act(
                    turn.rows,
                    turn.frames,
                    vectors[[e.candidate for e in turn.playing]],
                    noise.at([e.rollout for e in turn.playing], steps),
                    np.array(steps) == 0,
                )
                turn.answer = games.start(turn.rows, actions)
            except WorkerDied:  # seeds and noise are fixed, so the same episodes come out the second time
                for each in turns:
                    queue.extendleft(each.abandon())
    return np.array([e.ret for e in episodes])
