"""One update of IRIS, taken apart by the clock.  For iris.py and iris_epoch.py.

The update's code is what training runs: the clocks are read where it asks for tokens or decoded frames of
stored rows ("encode"), where it says or hears something in a dream ("dream"), and where it decodes dreamed
frames ("decode").  What is left ("rest") is losses, policy and value, forward and backward, and the step.
"""

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.dreamer_subjects import Subject
from benchmarks.iris_plain import PlainImagination, PlainRows
from common.config import override, resolve
from common.env_wrapper import EnvSpec
from common.faults import NonFiniteGuard
from common.replay_buffer import ReplayBuffer
from common.spaces import Spaces
from paper5_iris.config import Config
from paper5_iris.encoded import EncodedRows
from paper5_iris.perceptual import Perceptual
from paper5_iris.presets import PRESETS, SUITES
from paper5_iris.train import Learner, make_agent

PARTS = ("encode", "dream", "decode", "rest")
VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)  # 0: halve the picture
HEADS = (64, 128, 256, 512, 512)  # features at LPIPS' five taps


@dataclass(frozen=True)
class Case:
    """A network's update as the authors' code was measured."""

    name: str  # of the network
    batch: int
    ways: tuple[str, ...]
    recorded: float | None  # CPU-seconds of the authors' code where sgemm does RECORDED_RATE
    vgg: bool = False  # the tokenizer's loss has its perceptual term


@dataclass(frozen=True)
class Piece:
    """A part of an update, per dreamed token or frame."""

    case: str
    part: str
    recorded: float  # CPU-seconds of the authors' code


CASES = {
    "tokenizer, batch 8": Case("tokenizer", 8, ("eager", "compiled"), 1.54),
    "tokenizer with VGG16, batch 8": Case("tokenizer", 8, ("eager",), 2.14, vgg=True),
    "world model, batch 8": Case("world", 8, ("eager", "compiled", "plain"), 8.29),
    "actor-critic, batch 8": Case("actor", 8, ("eager", "plain"), 29.7),
    "actor-critic, batch 1": Case("actor", 1, ("eager", "plain"), None),
}
PIECES = {
    "a token dreamed, batch 8": Piece("actor-critic, batch 8", "dream", 1 / 490),
    "a token dreamed, batch 1": Piece("actor-critic, batch 1", "dream", 1 / 110),
    "a frame encoded": Piece("world model, batch 8", "encode", 0.027),
    "a frame decoded": Piece("actor-critic, batch 8", "decode", 0.042),
}


def preset(env: str) -> Config:
    """The paper's settings."""
    return resolve(PRESETS, SUITES, "paper", env)[0]


class Iris(Subject):
    """The networks and learners of a config, ready to be measured; `turn` says which of them learns."""

    def __init__(
        self,
        cfg: Config,
        spaces: Spaces,
        replay: ReplayBuffer,
        device: str = "cpu",
        *,
        vgg: bool = False,
        plain: bool = False,
    ):
        """plain: with nothing kept (iris_plain.py)."""
        self.device, self.precision = torch.device(device), cfg.precision
        self.cfg, self.guard = cfg, NonFiniteGuard()
        self.agent = make_agent(cfg, EnvSpec(cfg.env, cfg.env_options), spaces, self.device)
        self.learner = Learner(self.agent, self.guard, random_lpips(self.device) if vgg else None)
        if plain:
            self.learner.imagination = PlainImagination(self.agent.tokenizer, self.agent.world)
        self.rows = (PlainRows if plain else EncodedRows)(replay, self.agent.key, self.agent.tokenizer)
        self.counter: FlopCounterMode | None = None
        self.is_charging = False

    def turn(self, name: str) -> "Iris":
        """From now on the updates are those of tokenizer, world or actor."""
        self.name = name
        self.learner.turn(name, 1, 1)
        return self

    def update(self) -> None:
        """What training does."""
        self.learner.update(self.name, self.rows, 0)

    def units(self, part: str) -> int:
        """Tokens that an update dreams, frames that it decodes or encodes."""
        cfg, B = self.cfg, self.learner.learn[self.name].batch
        dreamed = B * (cfg.actor.horizon - 1) * self.agent.tokenizer.tokens
        return {"dream": dreamed, "decode": B * cfg.actor.horizon, "encode": B * cfg.world.steps}[part]

    def clocks(self) -> list[float]:
        """CPU-seconds, seconds, and FLOP where they are counted."""
        return [*super().clocks(), self.counter.get_total_flops() if self.counter else 0]

    def measure(self) -> np.ndarray:
        """An update on rows of which nothing is known: CPU-seconds, seconds, FLOP of its parts.  [4, 3]"""
        spent = np.zeros((len(PARTS), 3))
        world, tokenizer = self.learner.imagination, self.agent.tokenizer
        places = (
            *((0, self.rows, "tokens_of"), (0, self.rows, "frames_of")),
            *((1, world, "reset"), (1, world, "step")),
            (2, tokenizer, "decode_tokens"),
        )
        self.rows.forget()
        with ExitStack() as stack:
            for part, owner, name in places:
                charged = self.charged(getattr(owner, name), spent[part])
                stack.enter_context(patch.object(owner, name, charged))
            start = self.clocks()
            self.update()
            spent[-1] = np.subtract(self.clocks(), start) - spent[:-1].sum(0)
        self.guard.flush()
        return spent

    def charged(self, function: Callable, spent: np.ndarray) -> Callable:
        """The function with what it takes added to spent [3]; called by another such one, it is its part."""

        def run(*args: Any, **kwargs: Any) -> Any:
            if self.is_charging:
                return function(*args, **kwargs)
            self.is_charging, start = True, self.clocks()
            try:
                return function(*args, **kwargs)
            finally:
                spent[:] += np.subtract(self.clocks(), start)
                self.is_charging = False

        return run


def count(cfg: Config, spaces: Spaces, replay: ReplayBuffer, name: str, **kinds: bool) -> np.ndarray:
    """FLOP of an update's parts for each row of its batch: products and convolutions, both ways.  [4]

    kinds: vgg and plain.  By torch's counter at batch 1; all FLOP are linear in the batch.
    """
    one = {f"{name}.learn.batch": 1, f"{name}.learn.accumulate": 1, "precision": "fp32", "compile": False}
    iris = Iris(override(cfg, one), spaces, replay, **kinds).turn(name)
    # The fused kinds of attention are not counted on every device.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as iris.counter:
        return iris.measure()[:, 2]


def random_replay(rows: int, spaces: Spaces, seed: int = 0) -> ReplayBuffer:
    """One long episode of noise: hardly a window is padded, or has a row that another one has."""
    rng = np.random.default_rng(seed)
    replay = ReplayBuffer(rows, spaces.fields(), seed=seed)
    (key,) = spaces.images
    some = rng.integers(256, size=(64, *spaces.obs[key]), dtype=np.uint8)
    flags = {name: np.zeros(1, bool) for name in ("is_last", "is_terminal")}
    for i in range(rows):
        row = {"rew": rng.normal(size=1).astype(np.float32), "is_first": np.array([i == 0])}
        replay.add({**row, **flags, "act": spaces.random(rng, 1), key: some[[i % 64]]})
    return replay


def random_lpips(device: torch.device) -> Perceptual:
    """LPIPS of VGG16 with random weights, which cost what trained ones do."""
    layers: list[nn.Module] = []
    inputs = 3
    for width in VGG16:
        if width:
            layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU(inplace=True)]
            inputs = width
        else:
            layers.append(nn.MaxPool2d(2))
    trunk = nn.Sequential(*layers).to(device, memory_format=torch.channels_last)
    return Perceptual(trunk, [torch.rand(width, device=device) for width in HEADS])
