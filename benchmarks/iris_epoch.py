"""An epoch of IRIS by the clock, and what the epochs of a run come to in hours.  For iris.py.

A run costs how often it does a thing times what that takes: a step of play, a step of an evaluation's games
(all side by side), a gradient step of each network.  A row is encoded when an epoch first asks for it, as
the tokenizer has changed since the last one.  The epoch that is measured has a full replay, where most rows
asked for are new, so the hours are an upper bound.  Checkpoints, logging and clips are left out.
"""

import os
import time

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported

import numpy as np
import torch

from benchmarks.iris_subjects import Iris, random_replay
from common import evaluate
from common.collector import Collector
from common.env_wrapper import EnvSpec, suite_of, takes
from common.replay_buffer import ReplayBuffer
from common.spaces import Spaces
from paper5_iris.config import Config, updates_in

GAME = 1_785  # decisions of a game of Boxing, which always lasts two minutes
PUBLISHED_HOURS = 84.0  # of a game on an A100 (paper, appendix G)


def env_of(cfg: Config) -> EnvSpec:
    """The environment as training makes it."""
    size = {"size": cfg.image_size} if takes(cfg.env, "size") else {}
    return EnvSpec(cfg.env, size | dict(cfg.env_options))


def spaces_of(cfg: Config) -> Spaces:
    """Its observations and actions."""
    envs = env_of(cfg).make_vector(1, "train")
    envs.close()
    return Spaces.of(envs, cfg.env)


def epochs_of(cfg: Config) -> tuple[int, int]:
    """Epochs that play, and all."""
    return cfg.epochs(cfg.steps, env_of(cfg).frames_per_step)


def times(cfg: Config) -> dict[str, int]:
    """How often a run does each thing that costs something."""
    playing, epochs = epochs_of(cfg)
    clock = epochs * cfg.collect.steps * env_of(cfg).frames_per_step  # epochs without play count as well
    learners = cfg.learners().items()
    return {
        "play": playing * cfg.collect.steps // cfg.num_envs,
        "evaluate": clock // cfg.eval_every * GAME,
        **{name: sum(updates_in(learn, i + 1) for i in range(epochs)) for name, learn in learners},
    }


def project(cfg: Config, seconds: dict[str, float]) -> dict[str, float]:
    """Hours of a run by what takes them, from the seconds that each thing takes once."""
    return {name: often * seconds.get(name, 0.0) / 3600 for name, often in times(cfg).items()}


def asked(cfg: Config, name: str) -> int:
    """Rows that a network's batches ask for in an epoch, the same ones again included."""
    learn = cfg.learners()[name]
    length = {"tokenizer": 1, "world": cfg.world.steps, "actor": cfg.actor.burn_in + 1}[name]
    return learn.updates * learn.batch * learn.accumulate * length


def new_share(stored: int, asked: int) -> float:
    """Share of rows among those asked for that an epoch sees first, where all are drawn equally often.

    At most: short episodes are drawn as often as long ones, so some rows are asked for more often.
    """
    return stored / asked * -float(np.expm1(-asked / stored))


def run_share(cfg: Config, name: str) -> float:
    """Its mean over the epochs in which the network learns, while the replay grows."""
    playing, epochs = epochs_of(cfg)
    learns = [i for i in range(1, epochs + 1) if updates_in(cfg.learners()[name], i)]
    rows = [min(i, playing) * cfg.collect.steps for i in learns]
    return float(np.mean([new_share(stored, asked(cfg, name)) for stored in rows]))


def play_seconds(iris: Iris, spaces: Spaces) -> dict[str, float]:
    """Seconds of a step of play, and of a step of an evaluation."""
    cfg, spec, agent = iris.cfg, env_of(iris.cfg), iris.agent
    iris.learner.rest()
    envs, memory = spec.make_vector(cfg.num_envs, "train"), agent.initial(cfg.num_envs)
    replay = ReplayBuffer(4 * cfg.collect.steps, spaces.fields(), cfg.num_envs)
    collector = Collector(envs, replay, spec.frames_per_step, cfg.seed)

    def policy(obs):
        nonlocal memory
        act, memory = agent.act(obs, memory, explore=True)
        return act, {}

    collector.begin(0)
    collector.step(policy)
    steps, start = cfg.collect.steps // cfg.num_envs, time.perf_counter()
    for _ in range(steps):
        collector.step(policy)
    seconds = {"play": (time.perf_counter() - start) / steps}
    envs.close()
    backend = "auto" if suite_of(cfg.env) == "toy" else "sync"  # as OnlineRun.evaluate
    envs = spec.make_vector(cfg.eval_episodes, "eval", backend=backend)
    start = time.perf_counter()
    result = evaluate.play(agent, envs, cfg.eval_episodes, max_steps=cfg.collect.steps)
    seconds["evaluate"] = (time.perf_counter() - start) / int(result.lengths.max())
    envs.close()
    return seconds


def epoch(cfg: Config, device: str, stored: int) -> tuple[dict[str, float], float]:
    """Seconds of everything once in an epoch with so many stored rows, and FLOP per second of a GEMM."""
    spaces = spaces_of(cfg)
    iris = Iris(cfg, spaces, random_replay(stored, spaces), device, vgg=True)
    for name in cfg.learners():  # compiles, captures, allocates
        iris.turn(name)
        iris.update()
        iris.update()
    seconds = play_seconds(iris, spaces)
    iris.rows.forget()  # once: the policy finds what the transformer has asked for
    for name, learn in cfg.learners().items():
        iris.turn(name)
        start = iris.clocks()[1]
        for _ in range(learn.updates):
            iris.update()
        seconds[name] = (iris.clocks()[1] - start) / learn.updates
        iris.guard.flush()
    return seconds, iris.rate()


def row(cfg: Config, seconds: dict, flop: dict, rate: float, stored: int) -> dict[str, float]:
    """Hours of a run, and what they were if the FLOP of its updates ran at the GEMM's rate.

    flop: of the parts of each network's update [4].
    """
    hours = project(cfg, seconds)
    shares = {name: new_share(stored, asked(cfg, name)) for name in flop}
    least = project(cfg, {name: parts @ [shares[name], 1, 1, 1] / rate for name, parts in flop.items()})
    total, floor = sum(hours.values()), sum(least.values())
    return {
        "hours": round(total, 2),
        **{f"{name}_h": round(value, 2) for name, value in hours.items()},
        **{f"{name}_ms": round(1000 * value, 2) for name, value in seconds.items()},
        "flop_h": round(floor, 2),
        "gemm_tflops": round(rate / 1e12, 2),
        "times_flop": round(total / floor, 2),
        "of_published": round(total / PUBLISHED_HOURS, 3),
        "gpu_gb": round(torch.cuda.max_memory_allocated() / 2**30, 2) if torch.cuda.is_available() else 0.0,
    }
