"""Every number of this module, and its two presets: `tiny` (a 4x4 board) and `pendulum` (64x64 pixels).

The sizes of `tiny` were found by measurement; where a setting decides about success its docstring says what
happened without it (return of 24.09 after 600 updates, seed 2, unless noted).
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from common.config import check_ranges, from_json, to_json

__all__ = ["PRESETS", "AgentConfig", "CodeConfig", "Config", "DataConfig", "DynamicsConfig", "EnvConfig"]
__all__ += ["for_penalty", "from_json", "to_json"]


@dataclass(frozen=True, kw_only=True)
class EnvConfig:
    """The world that is learned."""

    name: str = "simple_world"
    """simple_world, or a Gymnasium id with one box of actions that can be drawn, such as Pendulum-v1."""
    num_threats: int = 1
    """Red cells (simple_world)."""
    moving_threats: bool = False
    """Each threat steps to one of its 4 neighbours per move (simple_world)."""
    threat_penalty: float = 1.0
    """Reward lost per step on a threat; mauicv/world-model-rl has 100 (simple_world)."""
    legacy: bool = False
    """The starting project's defects: moves cut toward zero, games that begin in a corner, cells shared."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is collected, once, by random actions."""

    episodes: int = 5000
    """Games to train on; a tenth as many more are held out."""
    length: int = 25
    """Steps of a game."""
    hold: int = 1
    """Steps for which a random action is kept: 1 moves on a board; a pendulum averages white noise away."""


@dataclass(frozen=True, kw_only=True)
class CodeConfig:
    """The categorical autoencoder: a frame as `latents` classes out of `classes`."""

    kind: Literal["cells", "board", "deep"] = "cells"
    """cells: a class per cell, kernel 1; board: one code for the whole 4x4 frame; deep: CNN of 4 levels."""
    latents: int = 16
    """Categoricals of a frame (cells: one for each cell)."""
    classes: int = 8
    """Classes of each."""
    width: int = 32
    """Channels of the (first) hidden layer."""
    steps: int = 750
    """Optimiser steps of an attempt."""
    batch: int = 128
    """Frames of a step."""
    lr: float = 3e-3
    """Adam's step size at the start; it falls in a line ..."""
    lr_end: float = 1e-5
    """... to this one."""
    clip: float = 10.0
    """Largest gradient norm."""
    unimix: float = 0.01
    """Share of the uniform distribution in the one that is drawn from."""
    soft_share: float = 0.5
    """Share of the steps in which some frames still pass their probabilities instead of a draw."""
    rare_weight: float = 10.0
    """Weight of a pixel: 1 + this * its distance from the mean frame, as most of every frame is ground."""
    gate: float = 0.99
    """Exact held-out frames below which an attempt is thrown away: colours that share a class stay so."""
    attempts: int = 12
    """Attempts until the gate is passed; about every second one passes."""


@dataclass(frozen=True, kw_only=True)
class DynamicsConfig:
    """The transformer, one token per step."""

    width: int = 128
    """Features of a token."""
    layers: int = 2
    """Blocks."""
    heads: int = 4
    """Heads of the attention."""
    context: int = 2
    """Steps that training sees at once."""
    token_units: int = 256
    """Hidden layer of the token MLP and of the head of the latents."""
    act_units: int = 64
    """Both layers of the action MLP."""
    predict_done: bool = False
    """A head for the end of the game; simple_world has none."""
    rew_weight: float = 10.0
    """Weight of the reward error beside the cross-entropy, which is summed over latents."""
    done_weight: float = 1.0
    """Weight of the cross-entropy of the end."""
    steps: int = 3000
    """Optimiser steps."""
    batch: int = 256
    """Windows of a step."""
    lr: float = 1e-3
    """AdamW's step size after the warm-up; it falls in a line to 0."""
    warmup: int = 100
    """Steps of the warm-up."""
    beta2: float = 0.99
    """AdamW's second decay."""
    decay: float = 1e-4
    """Weight decay."""
    clip: float = 10.0
    """Largest gradient norm."""


@dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """Actor and critic, which learn from dreams."""

    horizon: int = 5
    """Steps of a dream (8: 19.7)."""
    context: int = 1
    """Steps of the dream that the dynamics look back on."""
    batch: int = 256
    """Dreams of an update."""
    temperature: float = 12.0
    """The backward pass sees softmax(logits / this), (1: 9.3), (expected latents forward, too: 1.5)."""
    disc: float = 0.9
    """Discount."""
    lam: float = 0.95
    """Lambda of the return."""
    entropy: float = 0.1
    """Weight of the policy's entropy (.001: 3.7) ..."""
    entropy_end: float = 0.1
    """... and where it ends, in a line ..."""
    entropy_share: float = 0.7
    """... after this share of the updates."""
    reinforce_entropy: float = 0.01
    """The same for REINFORCE, whose advantages are normalised (best of .001, .01, .1)."""
    units: int = 128
    """Width of the two hidden layers of actor and critic."""
    mean_bound: float = 2.0
    """The mean before the tanh stays within +- this (1: 4.5 after 1,200)."""
    min_std: float = 0.3
    """Bounds of the deviation before the tanh."""
    max_std: float = 1.0
    """The upper one."""
    actor_lr: float = 5e-4
    """Adam's step size."""
    critic_lr: float = 1e-3
    """The critic's."""
    clip: float = 1.0
    """Largest gradient norm of each; the actor's is mostly 3 to 17."""
    target_rate: float = 0.02
    """Step of the slow critic towards the critic, per update."""
    updates: int = 800
    """Updates of actor and critic."""
    eval_every: int = 200
    """Updates between evaluations in the real world."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """All of it."""

    env: EnvConfig = EnvConfig()
    """The world."""
    data: DataConfig = DataConfig()
    """The random games."""
    code: CodeConfig = CodeConfig()
    """The autoencoder."""
    dynamics: DynamicsConfig = DynamicsConfig()
    """The transformer."""
    agent: AgentConfig = AgentConfig()
    """Actor and critic."""
    symlog: bool = False
    """Rewards are compressed by sign(r) ln(1 + |r|) in data, head and return: for penalties far above 1."""

    def check(self) -> None:
        """UserError for a value that cannot be."""
        ones = "data.episodes data.length data.hold code.steps code.attempts dynamics.steps dynamics.context"
        ones += " agent.horizon agent.context agent.updates agent.eval_every"
        check_ranges(self, {1: ones, 0: "env.threat_penalty env.num_threats"}, shares="code.gate")


def for_penalty(config: Config, penalty: float) -> Config:
    """The config for another threat penalty; from 2 on with symlog rewards and a schedule for the entropy.

    With the reward error at weight 10 the frames suffer (.88 exact), and a constant entropy of .1 keeps the
    policy too wide to pass beside the threat.
    """
    config = dataclasses.replace(config, env=dataclasses.replace(config.env, threat_penalty=penalty))
    if penalty < 2:
        return config
    agent = dataclasses.replace(config.agent, entropy_end=0.003, min_std=0.2, updates=3500, eval_every=500)
    dynamics = dataclasses.replace(config.dynamics, rew_weight=1.0)
    return dataclasses.replace(config, symlog=True, dynamics=dynamics, agent=agent)


PENDULUM = Config(
    env=EnvConfig(name="Pendulum-v1"),
    data=DataConfig(episodes=100, length=200, hold=8),
    code=CodeConfig(
        kind="deep", latents=32, classes=32, steps=4000, batch=64, lr=3e-4, lr_end=1e-5, gate=0.0, attempts=1
    ),
    dynamics=DynamicsConfig(
        width=256,
        layers=4,
        context=16,
        token_units=512,
        predict_done=True,
        rew_weight=1.0,
        steps=6000,
        batch=64,
    ),
    agent=AgentConfig(
        horizon=15, context=15, units=256, disc=0.97, entropy=0.01, entropy_end=0.003, updates=2000
    ),
)
PRESETS = {"tiny": Config(), "pendulum": PENDULUM}
