"""One update of DreamerV1, V2 or V3, taken apart by the clock; a port's beside it.  For dreamer_update.py.

The update's code is what training runs: the clocks are read when its world model's optimiser has stepped,
and before and after it calls `imagine`.  What is left is actor-critic: the heads on the dream, returns, both
steps, and where the actor learns through the dynamics the gradient through the dream.  V3 has one backward
pass and one step for everything: there the world model's part is its forward pass, and the rest has both.
"""

import json
import os
import subprocess
import time
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from unittest.mock import patch

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.results import ROOT
from common.config import override, resolve
from common.env_wrapper import EnvSpec
from common.errors import UserError
from common.faults import NonFiniteGuard
from common.spaces import Spaces
from paper4_dreamerv3.presets import SIZES


@dataclass(frozen=True)
class Case:
    """A paper at a size."""

    paper: str
    preset: str
    env: str  # for its suite's options, and for whether episodes end
    spaces: Spaces
    changes: dict = field(default_factory=dict)
    updates: int = 1  # of one measurement
    port: str = ""  # the same in sheeprl
    recorded: float = 0.0  # CPU-seconds of the best port on another machine
    recorded_of: str = "sheeprl"


V1, V2, V3 = "paper2_dreamerv1", "paper3_dreamerv2", "paper4_dreamerv3"
WALKER, PONG = Spaces({"image": (64, 64, 3)}, 6, False), Spaces({"image": (64, 64, 1)}, 18, True)
PROPRIO, FOUR = Spaces({"vector": (24,)}, 6, False), Spaces({"image": (64, 64, 3)}, 4, True)
TINY_V3 = {"behaviour.horizon": 8, "behaviour.imag_last": 0}  # as the ports were measured
RECORDED_RATE = 98.0  # GFLOP/s of a quiet core of the machine where `recorded` was measured
CASES = {
    "DreamerV1 tiny": Case(V1, "tiny", "toy_point", Spaces({"image": (32, 32, 3)}, 2, False), updates=10),
    "DreamerV2 tiny": Case(V2, "tiny", "toy_catch", Spaces({"image": (32, 32, 1)}, 3, True), updates=10),
    "DreamerV1 10 x 50": Case(
        V1, "paper", "dmc_walker_walk", WALKER, {"replay.batch": 10}, port="dreamer_v1", recorded=4.15
    ),
    "DreamerV2 4 x 50": Case(
        V2, "paper", "atari_pong", PONG, {"replay.batch": 4}, port="dreamer_v2", recorded=5.08
    ),
    "DreamerV3 tiny": Case(
        *(V3, "tiny", "toy_catch", Spaces({"image": (32, 32, 1)}, 4, True), TINY_V3),
        updates=10,
        recorded=0.262,
        recorded_of="r2dreamer",
    ),
    "DreamerV3 1M proprio": Case(
        *(V3, "paper", "dmc_walker_walk", PROPRIO, SIZES["1M"]), recorded=1.20, recorded_of="danijar JAX"
    ),
    "DreamerV3 1M pixels": Case(
        *(V3, "paper", "crafter_reward", FOUR, SIZES["1M"]), recorded=5.21, recorded_of="r2dreamer"
    ),
}
CPU_WAYS = {"eager": {"precision": "fp32"}, "compiled": {"precision": "fp32", "compile": True}}
CUDA_WAYS = {
    "CUDA fp32": {"precision": "fp32"},
    "CUDA bf16": {"precision": "bf16"},
    "CUDA bf16 compiled": {"precision": "bf16", "compile": True},
}


class Subject:
    """One case in one way, ready to be measured."""

    def __init__(self, case: Case, way: dict, device: str = "cpu"):
        train = import_module(f"{case.paper}.train")
        cfg, _ = resolve(train.PRESETS, train.SUITES, case.preset, case.env)
        at_once = {} if case.paper == V3 else {"behaviour.warmup": 0}
        cfg = override(cfg, {**at_once, **case.changes, **way})
        self.device, self.updates, self.precision = torch.device(device), case.updates, cfg.precision
        agent = train.make_agent(cfg, EnvSpec(case.env, cfg.env_options), case.spaces, self.device)
        self.agent, self.guard = agent, NonFiniteGuard()
        self.learner = train.Learner(agent, self.guard)
        self.behaviour = import_module(f"{case.paper}.actor_critic")
        self.args = (random_batch(cfg.replay.batch, cfg.replay.length, case.spaces, self.device),)
        if case.paper == V2:
            self.args += (0,)  # policy steps so far, for its schedules
        if case.paper == V3:  # the latents before the first row
            start = agent.model.rssm.initial(cfg.replay.batch)
            self.args[0].update(deter=start.deter, stoch=start.stoch)
            self.first = agent.model, "loss"
        else:
            self.first = self.learner.optimizers["model"], "step"
        self.parameters = sum(p.numel() for net in agent.parts().values() for p in net.parameters())

    def update(self) -> None:
        """What training does."""
        self.learner.update(*self.args)
        self.agent.updates += 1

    def clocks(self) -> list[float]:
        """CPU-seconds of this process and seconds, when the device has nothing left to do."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return [time.process_time(), time.perf_counter()]

    def measure(self) -> np.ndarray:
        """CPU-seconds and seconds of world model, imagination, actor-critic in one update.  [3, 2]

        [1, 2] where the update is a CUDA graph, which has no parts.
        """
        marks: list[list[float]] = []
        first, imagine = getattr(*self.first), self.behaviour.imagine

        def marked_first(*args):
            result = first(*args)
            marks.append(self.clocks())
            return result

        def marked_imagine(*args, **kwargs):
            marks.append(self.clocks())
            result = imagine(*args, **kwargs)
            marks.append(self.clocks())
            return result

        with (
            patch.object(*self.first, marked_first),
            patch.object(self.behaviour, "imagine", marked_imagine),
        ):
            for _ in range(self.updates):
                marks.append(self.clocks())
                self.update()
                marks.append(self.clocks())
        self.guard.flush()
        spans = np.diff(np.reshape(marks, (self.updates, -1, 2)), axis=1).mean(0)
        if len(spans) == 1:
            return spans
        model, between, dream, rest = spans
        return np.stack([model, dream, between + rest])

    def flop(self) -> float:
        """Of one update."""
        with FlopCounterMode(display=False) as counter:
            self.update()
        return counter.get_total_flops()

    def rate(self) -> float:
        """FLOP per second (on a CPU: CPU-second) of a product of matrices, in this subject's precision."""
        on_cuda = self.device.type == "cuda"
        size, times = (8192, 20) if on_cuda else (1024, 6)
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        a, b = (torch.randn(size, size, device=self.device, dtype=dtype) for _ in range(2))
        torch.mm(a, b)
        start = self.clocks()
        for _ in range(times):
            torch.mm(a, b)
        return 2 * size**3 * times / (self.clocks()[on_cuda] - start[on_cuda])


def random_batch(B: int, T: int, spaces: Spaces, device: torch.device) -> dict[str, torch.Tensor]:
    """What the samplers of the papers return.  [B, T, ...]"""
    act = torch.randint(spaces.act, (B, T)) if spaces.discrete else torch.rand(B, T, spaces.act) * 2 - 1
    batch = {
        key: torch.randint(256, (B, T, *shape), dtype=torch.uint8)
        if key in spaces.images
        else torch.randn(B, T, *shape)
        for key, shape in spaces.obs.items()
    }
    batch["is_first"] = (torch.arange(T) == 0).expand(B, T)
    batch["prev_act"] = spaces.encode(act) * (~batch["is_first"])[..., None]
    batch |= {name: torch.zeros(B, T, dtype=torch.bool) for name in ("is_last", "is_terminal")}
    batch["rew"] = torch.randn(B, T)
    return {key: value.to(device) for key, value in batch.items()}


class Port:
    """sheeprl's update in a process of its own (sheeprl_update.py)."""

    def __init__(self, python: Path, name: str):
        command = [str(python), "-m", "benchmarks.sheeprl_update", name]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, cwd=ROOT, **pipes)
        self.version, self.parameters = self.answer()

    def answer(self) -> list:
        """The next line of numbers or names in JSON; others (what its packages print) are skipped."""
        for line in self.process.stdout:
            if line.startswith("["):
                return json.loads(line)
        raise UserError("sheeprl's update failed: its own words are above; leave --peers out to do without")

    def measure(self) -> np.ndarray:
        """CPU-seconds and seconds of one update, undivided.  [1, 2]"""
        print(file=self.process.stdin, flush=True)
        return np.array([self.answer()])

    def close(self) -> None:
        """It ends when nothing more can come."""
        self.process.stdin.close()
        self.process.wait()
