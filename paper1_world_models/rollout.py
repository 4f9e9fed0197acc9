"""A whole generation at once: many games in lockstep, one forward pass of V, M and C for all of them.

The known ports give every rollout a process of its own with batch size 1.  Here the processes only step
environments; frames meet in shared memory, and the networks see one batch.  A finished game hands its slot
to the next episode of the queue.  An episode's course depends on its seed, its candidate and its noise
table alone, never on how many workers or slots there are (tests/paper1_world_models/test_rollout.py).

Shapes: S slots, k rows of a call, P candidates, R rollouts, T steps, Z latents, A numbers that M reads.
"""

import multiprocessing as mp
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Protocol

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from common.env_wrapper import EnvSpec, suite_of
from common.errors import UserError
from paper1_world_models.config import Config
from paper1_world_models.controller import Controller
from paper1_world_models.rnn import MDNRNN
from paper1_world_models.vae import VAE, resample

STEP_TIMEOUT = 120.0  # seconds before a silent worker counts as dead
MAX_RESTARTS = 3
Outcome = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # rew, terminated, truncated, lap: each [k]


class WorkerDied(Exception):
    """An environment process is gone (and was started anew); the running games must be played again."""


class Games(Protocol):
    """S independent games of one environment; only the rows of a call move."""

    slots: int

    def reset(self, rows: np.ndarray, seeds: list[int]) -> np.ndarray:
        """-> uint8 [k, H, W, C]"""

    def step(self, rows: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, Outcome]:
        """-> uint8 [k, H, W, C], outcome"""

    def close(self) -> None:
        """End the processes, if any."""


class ToyGames:
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


class LocalGames:
    """Gymnasium environments in this process, made when their slot is first used."""

    def __init__(self, spec: EnvSpec, slots: int, frames: np.ndarray | None = None):
        self.spec, self.slots, self.frames = spec, slots, frames
        self.envs: dict[int, object] = {}

    def reset(self, rows: np.ndarray, seeds: list[int]) -> np.ndarray:
        """Start games.  [k] -> uint8 [k, H, W, C]"""
        out = []
        for row, seed in zip(rows, seeds, strict=True):
            if row not in self.envs:
                self.envs[row] = make_pixels(self.spec)
            out.append(self._keep(row, self.envs[row].reset(seed=int(seed))[0]["image"]))
        return np.stack(out)

    def step(self, rows: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, Outcome]:
        """Move games.  [k], [k, ...] -> frames, outcome"""
        out, results = [], []
        for row, action in zip(rows, actions, strict=True):
            obs, rew, terminated, truncated, info = self.envs[row].step(action)
            out.append(self._keep(row, obs["image"]))
            results.append((rew, terminated, truncated, bool(info.get("lap_finished", False))))
        rew, terminated, truncated, lap = zip(*results, strict=True)
        return np.stack(out), (np.float32(rew), np.bool_(terminated), np.bool_(truncated), np.bool_(lap))

    def _keep(self, row: int, image: np.ndarray) -> np.ndarray:
        if self.frames is not None:
            self.frames[row] = image
        return image

    def close(self) -> None:
        """Close every environment."""
        for env in self.envs.values():
            env.close()


def _serve(pipe: Connection, spec: EnvSpec, slots: int, buffer, shape: tuple[int, ...]) -> None:
    """A worker: answer reset and step for its games until told to stop; errors travel back as text."""
    frames = np.frombuffer(buffer, np.uint8).reshape(shape)
    games = LocalGames(spec, slots, frames)
    try:
        while True:
            command, rows, data = pipe.recv()
            if command == "reset":
                games.reset(rows, data)
                pipe.send(None)
            elif command == "step":
                pipe.send(games.step(rows, data)[1])
            else:
                break
    except (EOFError, KeyboardInterrupt):
        pass
    except Exception as error:  # whatever it was, the trainer must learn of it instead of waiting for ever
        pipe.send(f"{type(error).__name__}: {error}")
    games.close()


class ProcessGames:
    """W processes step the games; row r lives in worker r % W; frames come back through shared memory."""

    def __init__(self, spec: EnvSpec, slots: int, workers: int, frame_shape: tuple[int, ...]):
        self.spec, self.slots, self.workers = spec, slots, workers
        self.context = mp.get_context("spawn")  # fork is unsafe once torch or a GL context has threads
        self.shape = (slots, *frame_shape)
        self.buffer = self.context.RawArray("B", int(np.prod(self.shape)))
        self.frames = np.frombuffer(self.buffer, np.uint8).reshape(self.shape)
        self.restarts = 0
        self.pipes: list[Connection] = [None] * workers
        self.processes: list[mp.Process] = [None] * workers
        for w in range(workers):
            self._start(w)

    def _start(self, w: int) -> None:
        self.pipes[w], other = self.context.Pipe()
        self.processes[w] = self.context.Process(
            target=_serve, args=(other, self.spec, self.slots, self.buffer, self.shape), daemon=True
        )
        self.processes[w].start()
        other.close()

    def _call(self, command: str, rows: np.ndarray, data) -> list[tuple[np.ndarray, Outcome | None]]:
        parts = [(w, np.flatnonzero(rows % self.workers == w)) for w in range(self.workers)]
        parts = [(w, at) for w, at in parts if len(at)]
        dead = []
        for w, at in parts:  # all work at once ...
            try:
                self.pipes[w].send((command, rows[at], [data[i] for i in at]))
            except (BrokenPipeError, OSError):
                dead.append(w)
        results = []
        for w, at in parts:  # ... then collect
            try:
                if w in dead or not self.pipes[w].poll(STEP_TIMEOUT):
                    raise EOFError
                reply = self.pipes[w].recv()
            except (EOFError, OSError):
                dead.append(w)
                continue
            if isinstance(reply, str):
                raise UserError(f"environment {self.spec.name} failed in a worker: {reply}")
            results.append((at, reply))
        if dead:
            self._revive(set(dead))
        return results

    def _revive(self, dead: set[int]) -> None:
        self.restarts += len(dead)
        if self.restarts > MAX_RESTARTS:
            raise UserError(
                f"environment processes of {self.spec.name} died {self.restarts} times; the last checkpoint "
                "is good: find the cause (memory?), then go on with --resume"
            )
        for w in dead:
            self.processes[w].kill()
            self.processes[w].join()
            self._start(w)
        raise WorkerDied

    def reset(self, rows: np.ndarray, seeds: list[int]) -> np.ndarray:
        """Start games.  [k] -> uint8 [k, H, W, C]"""
        self._call("reset", rows, seeds)
        return self.frames[rows]

    def step(self, rows: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, Outcome]:
        """Move games.  [k], [k, ...] -> frames, outcome"""
        rew, flags = np.zeros(len(rows), np.float32), np.zeros((3, len(rows)), bool)
        for at, (r, *f) in self._call("step", rows, actions):
            rew[at], flags[:, at] = r, f
        return self.frames[rows], (rew, *flags)

    def close(self) -> None:
        """Ask the workers to stop, then see that they did."""
        for pipe, process in zip(self.pipes, self.processes, strict=True):
            try:
                pipe.send(("stop", None, None))
            except (BrokenPipeError, OSError):
                pass
            process.join(5)
            if process.is_alive():
                process.kill()


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
    if suite_of(spec.name) == "toy":
        return ToyGames(spec, slots)
    return ProcessGames(spec, slots, workers, frame_shape) if workers > 1 else LocalGames(spec, slots)


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
        k = len(rows)
        pad = (
            -k % 8
        )  # kernels give a row the same bits in every batch of at least 8, so the score of a candidate
        where = np.concatenate([np.arange(k), np.zeros(pad, np.int64)])  # does not depend on its neighbours
        at = torch.from_numpy(np.asarray(rows)[where]).to(self.device)
        mu, logvar = self.vae.encode(torch.from_numpy(frames[where]).to(self.device))
        z = mu if eps is None else resample(mu, logvar, eps[where].to(self.device))
        h, c = self.h[at], self.c[at]
        act = self.controller.act_many(
            params[where].to(self.device), self.controller.feature(z, h, c)
        )  # [k, A]
        h, c = self.rnn.step(z, act, torch.from_numpy(first[where]).to(self.device), (h, c))
        self.h[at[:k]], self.c[at[:k]] = h[:k], c[:k]
        act = act[:k].cpu().numpy()
        return self.controller.codec.to_env(act), act, z[:k]


@dataclass
class Episode:
    """One job and what came of it."""

    candidate: int  # row of the parameter vectors
    rollout: int  # row of the noise table
    seed: int
    ret: float = 0.0
    length: int = 0
    lap: bool = False
    frames: list[np.ndarray] = field(default_factory=list)
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


def play(
    games: Games,
    player: Player,
    params: np.ndarray,
    episodes: list[Episode],
    noise: Noise,
    max_steps: int = 0,
    watch: Callable[[Episode, np.ndarray], None] | None = None,
    patience: int = 0,
    each_step: Callable[[], None] | None = None,
) -> np.ndarray:
    """Play all episodes with the vectors params [P, n] and fill in what came of them.  -> returns, one per
    episode

    `watch` is called with each episode and frame, for videos.  A dead worker's episodes are played again.
    `patience`: see Episode.give_up.  `each_step` may raise, to leave.
    """
    vectors = torch.as_tensor(params, dtype=torch.float32)
    queue, slots = deque(episodes), min(games.slots, len(episodes))
    running: dict[int, Episode] = {}
    frames = None
    while queue or running:
        if each_step:
            each_step()
        try:
            free = [s for s in range(slots) if s not in running][: len(queue)]
            if free:
                for s in free:
                    e = running[s] = queue.popleft()
                    e.ret, e.length, e.lap, e.frames, e.waited, e.lost = 0.0, 0, False, [], 0, 0.0
                rows = np.array(free)
                player.reset(rows)
                first = games.reset(rows, [running[s].seed for s in free])
                frames = np.empty((slots, *first.shape[1:]), np.uint8) if frames is None else frames
                frames[rows] = first
            rows = np.array(sorted(running))
            playing = [running[s] for s in rows]
            if watch:
                for episode, frame in zip(playing, frames[rows], strict=True):
                    watch(episode, frame)
            steps = [e.length for e in playing]
            actions, _, _ = player.act(
                rows,
                frames[rows],
                vectors[[e.candidate for e in playing]],
                noise.at([e.rollout for e in playing], steps),
                np.array(steps) == 0,
            )
            frames[rows], (rew, terminated, truncated, lap) = games.step(rows, actions)
        except WorkerDied:  # seeds and noise are fixed, so the same episodes come out the second time
            queue.extendleft(running.values())
            running.clear()
            continue
        for i, s in enumerate(rows):
            episode = running[s]
            episode.ret += float(rew[i])
            episode.length += 1
            episode.lap |= bool(lap[i])
            over = terminated[i] or truncated[i] or episode.length == max_steps
            if over or (patience and episode.give_up(float(rew[i]), patience, max_steps)):
                del running[s]
    return np.array([e.ret for e in episodes])
