"""The flags of every command, and the config that they make.  Nothing here imports torch."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.config import Device
from common.errors import UserError
from foundations.commands import Args
from foundations.tssm.config import PRESETS, Config, for_penalty


@dataclass(frozen=True, kw_only=True)
class RunArgs(Args):
    """Flags of every command here."""

    out: Path = Path("runs/tssm")
    """Folder of the run: data/, checkpoints/, plots/, NAME.json."""
    device: Device = "auto"
    """Where the networks run; auto: cuda, else mps, else cpu."""
    preset: Literal["tiny", "pendulum"] | None = None
    """Sizes; unset: those of the run in --out, or what --env needs, or tiny."""
    env: str | None = None
    """simple_world, or a drawn Gymnasium environment such as Pendulum-v1; unset: the preset's."""
    threat_penalty: float | None = None
    """simple_world: reward lost per step on a threat (100 in mauicv/world-model-rl); unset: 1."""

    def check(self) -> None:
        """UserError for a number that cannot be meant: of what this command has of these flags."""
        least = {"steps": 1 if isinstance(self, PlayRealArgs | PlayArgs) else 0, "threat_penalty": 0}
        least |= dict.fromkeys(("episodes", "eval_every", "obs_steps", "wm_steps", "gate"), 0)
        for name, low in least.items():
            value = getattr(self, name, None)
            if value is not None and not value >= low:
                raise UserError(f"--{name.replace('_', '-')} {value}: must be at least {low}")


@dataclass(frozen=True, kw_only=True)
class WorldArgs(RunArgs):
    """Flags of the commands that begin a run."""

    num_threats: int = 1
    """simple_world: red cells."""
    moving_threats: bool = False
    """simple_world: threats walk at random."""
    legacy: bool = False
    """simple_world: cut moves and crowded starts, as the starting project has them."""


@dataclass(frozen=True, kw_only=True)
class ObsArgs(WorldArgs):
    """Flags of train-obs."""

    latent: Literal["preset", "cells", "board"] = "preset"
    """simple_world: a class per cell, or the starting project's 8 x 8 code for the whole board."""
    episodes: int = 0
    """Random games to train on; 0: the preset's."""
    gate: float | None = None
    """Share of exact held-out frames that an attempt must reach; 0: keep the first; unset: the preset's."""
    steps: int = 0
    """Optimiser steps; 0: the preset's."""


@dataclass(frozen=True, kw_only=True)
class StepArgs(RunArgs):
    """Flags of train-wm."""

    steps: int = 0
    """Optimiser steps; 0: the preset's."""


@dataclass(frozen=True, kw_only=True)
class AgentArgs(StepArgs):
    """Flags of train-agent."""

    objective: Literal["value", "reward", "reinforce"] = "value"
    """Gradient of lambda-returns or of the sum of rewards through the model, or REINFORCE in it."""
    eval_every: int = 0
    """Updates between evaluations; 0: the preset's."""


@dataclass(frozen=True, kw_only=True)
class TrainArgs(ObsArgs):
    """Flags of train; --steps are the updates of the agent."""

    objective: Literal["value", "reward", "reinforce"] = "value"
    """As in train-agent."""
    eval_every: int = 0
    """As in train-agent."""
    obs_steps: int = 0
    """Optimiser steps of the autoencoder; 0: the preset's."""
    wm_steps: int = 0
    """Optimiser steps of the dynamics; 0: the preset's."""


@dataclass(frozen=True, kw_only=True)
class PlayRealArgs(WorldArgs):
    """Flags of play-real."""

    policy: Literal["random", "script"] = "random"
    """Without a display: random actions, or straight to the target (simple_world)."""
    steps: int = 25
    """Steps to play at most."""


@dataclass(frozen=True, kw_only=True)
class PlayArgs(RunArgs):
    """Flags of play-model and play-agent."""

    objective: Literal["value", "reward", "reinforce"] = "value"
    """play-agent: which agent."""
    steps: int = 25
    """Steps to play at most."""


@dataclass(frozen=True, kw_only=True)
class DroppedArgs(RunArgs):
    """train-td3 takes what it took, to be told."""

    load: bool = False
    """Taken and ignored."""
    steps: int = 0
    """Taken and ignored."""


def new_config(args: WorldArgs) -> tuple[Config, str]:
    """Config and preset of a run that begins."""
    preset = args.preset or ("tiny" if args.env in (None, "simple_world") else "pendulum")
    config = PRESETS[preset]
    name = args.env or config.env.name
    if (name == "simple_world") != (config.env.name == "simple_world"):
        raise UserError(
            f"--env {name} --preset {preset}: do not fit; leave --preset out, it follows from --env"
        )
    if name != "simple_world":
        given = {"threat_penalty": args.threat_penalty, "num_threats": args.num_threats != 1}
        given |= {"moving_threats": args.moving_threats, "legacy": args.legacy}
        for flag in (flag for flag, value in given.items() if value):
            raise UserError(f"--{flag.replace('_', '-')}: only --env simple_world has threats, not {name}")
    env = dataclasses.replace(
        config.env,
        name=name,
        num_threats=args.num_threats,
        moving_threats=args.moving_threats,
        legacy=args.legacy,
    )
    config = dataclasses.replace(config, env=env)
    if args.threat_penalty is not None:
        config = for_penalty(config, args.threat_penalty)
    config.check()
    return config, preset


def with_observation(config: Config, args: ObsArgs, steps: int) -> Config:
    """The config with the flags of the first stage laid over it."""
    code, data = config.code, config.data
    if args.latent == "board":
        if code.kind == "deep":
            raise UserError("--latent board: only for simple_world; leave it out")
        # One code for all cells is harder to find: more and smaller steps.
        code = dataclasses.replace(code, kind="board", latents=8, steps=5000, lr=2e-3)
    elif args.latent == "cells" and code.kind == "deep":
        raise UserError("--latent cells: only for simple_world; leave it out")
    code = dataclasses.replace(code, steps=steps or code.steps)
    if args.gate is not None:
        code = dataclasses.replace(code, gate=args.gate)
    data = dataclasses.replace(data, episodes=args.episodes or data.episodes)
    return checked(dataclasses.replace(config, code=code, data=data))


def with_dynamics(config: Config, steps: int) -> Config:
    """The config with so many steps of the second stage."""
    dynamics = dataclasses.replace(config.dynamics, steps=steps or config.dynamics.steps)
    return checked(dataclasses.replace(config, dynamics=dynamics))


def with_agent(config: Config, updates: int, eval_every: int) -> Config:
    """The config with so many updates of the agent."""
    agent = config.agent
    agent = dataclasses.replace(
        agent, updates=updates or agent.updates, eval_every=eval_every or agent.eval_every
    )
    return checked(dataclasses.replace(config, agent=agent))


def checked(config: Config) -> Config:
    """The config, once its values are possible."""
    config.check()
    return config


def check_run(args: RunArgs, config: Config, preset: str) -> None:
    """UserError where a flag contradicts the run in --out, whose settings hold."""
    stored = {"preset": preset, "env": config.env.name, "threat_penalty": config.env.threat_penalty}
    for name, value in stored.items():
        given = getattr(args, name)
        if given is not None and given != value:
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} {given}: the run in {args.out} has {value}; name another --out")
