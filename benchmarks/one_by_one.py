"""The rollouts of the known ports, for benchmarks/paper1_rollouts.py: one process each, batch size 1.

Written as fairly as we can: every process holds an environment and V, M and C of its own, runs one thread
without gradients, and does nothing but the five lines of the article's `rollout`.  What both sides of the
comparison share (networks, pictures, how a time is taken) is here too.
"""

import multiprocessing as mp
import time
from dataclasses import dataclass, replace

import numpy as np

from common.env_wrapper import EnvSpec
from paper1_world_models.config import ControllerConfig, RNNConfig, VAEConfig

EPISODE, PROCESSES = 1_000, 2
SEEDS = (100, 101)  # one game after the other


@dataclass(frozen=True)
class Size:
    """How much of a backend is played."""

    slots: int  # games in lockstep: population x rollouts of the paper is more, the batch of V is the same
    warm: int  # steps that are not timed
    steps: int  # steps in all


@dataclass
class Timing:
    """Seconds of one measurement; `reset` is CPU time per game."""

    steps: int
    cpu: float
    wall: float
    reset: float

    @classmethod
    def sum(cls, parts: list["Timing"]) -> "Timing":
        """Played one after the other."""
        steps, cpu, wall = (sum(getattr(p, name) for p in parts) for name in ("steps", "cpu", "wall"))
        return cls(steps, cpu, wall, min(p.reset for p in parts))

    def rates(self) -> tuple[float, float]:
        """Steps per CPU-second and per second of an episode.  Resets go to all processes as steps do."""
        cpu, wall = self.cpu / self.steps, self.wall / self.steps
        with_reset = 1 + self.reset / (EPISODE * cpu)
        return 1 / (cpu * with_reset), 1 / (wall * with_reset)


def spec(backend: str) -> EnvSpec:
    """Paper 1's picture of the road."""
    return EnvSpec("CarRacing-v3", {"native_actions": True, "render": backend, "size": 64, "crop": True})


def models(width: float) -> tuple:
    """V, M and C of the paper (V times `width`), with random weights: they do not matter for the time."""
    import torch

    from paper1_world_models.controller import ActionCodec, Controller
    from paper1_world_models.rnn import MDNRNN
    from paper1_world_models.vae import VAE

    torch.set_num_threads(1)
    torch.manual_seed(0)
    codec = ActionCodec("car", 3)
    return (
        VAE(VAEConfig(width=width)),
        MDNRNN(RNNConfig(), 32, 3),
        Controller(ControllerConfig(), 32, 256, codec),
    )


def candidates(number: int, size: int) -> np.ndarray:
    """Controllers as evolution starts with."""
    return np.random.default_rng(1).normal(0, 0.1, (number, size)).astype(np.float32)


def _serve(pipe, number: int, width: float) -> None:
    """A process: plays (backend, decodes, size) as it is told, until it is told None."""
    from paper1_world_models.rollout_games import make_pixels

    nets, envs = models(width), {}
    vector = candidates(PROCESSES, nets[-1].size)[number]
    while (job := pipe.recv()) is not None:
        backend, decodes, size = job
        if backend not in envs:
            envs[backend] = make_pixels(spec(backend))
        pipe.send(Timing.sum([rollout(envs[backend], seed, nets, vector, decodes, size) for seed in SEEDS]))


def rollout(env, seed: int, nets: tuple, vector: np.ndarray, decodes: bool, size: Size) -> Timing:
    """One game, as the article's `rollout(controller)` has it."""
    import torch
    import torch.nn.functional as F

    from paper1_world_models.vae import resample

    vae, rnn, controller = nets
    params = torch.from_numpy(vector)
    weight, bias = params[:-3].view(3, -1), params[-3:]
    with torch.inference_mode():
        begin = time.process_time()
        obs, _ = env.reset(seed=seed)
        reset = time.process_time() - begin
        state, first = rnn.initial(1), torch.ones(1, dtype=torch.bool)
        for t in range(size.steps):
            if t == size.warm:
                cpu, wall = time.process_time(), time.perf_counter()
            mu, logvar = vae.encode(torch.from_numpy(obs["image"])[None])
            z = resample(mu, logvar, torch.randn_like(mu))
            if decodes:
                vae.decode(z)
            act = controller.codec.squash(F.linear(torch.cat([z, state[0]], -1), weight, bias))
            state = rnn.step(z, act, first, state)
            first = torch.zeros(1, dtype=torch.bool)
            obs, _, terminated, truncated, _ = env.step(controller.codec.to_env(act.numpy()[0]))
            if terminated or truncated:
                raise RuntimeError(f"the car left the field after {t} steps: choose another seed")
    return Timing(size.steps - size.warm, time.process_time() - cpu, time.perf_counter() - wall, reset)


class Ports:
    """The processes of that scheme."""

    def __init__(self, width: float):
        context = mp.get_context("spawn")
        pairs = [context.Pipe() for _ in range(PROCESSES)]
        self.pipes = [ours for ours, _ in pairs]
        self.processes = [
            context.Process(target=_serve, args=(theirs, i, width), daemon=True)
            for i, (_, theirs) in enumerate(pairs)
        ]
        for process in self.processes:
            process.start()

    def play(self, backend: str, decodes: bool, size: Size) -> Timing:
        """All processes at once; wall time as if both played all steps side by side."""
        for pipe in self.pipes:
            pipe.send((backend, decodes, size))
        parts = [pipe.recv() for pipe in self.pipes]
        both = Timing.sum(parts)
        return replace(both, wall=both.steps / sum(part.steps / part.wall for part in parts))

    def close(self) -> None:
        """Ask them to stop."""
        for pipe, process in zip(self.pipes, self.processes, strict=True):
            pipe.send(None)
            process.join()
