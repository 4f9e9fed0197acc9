"""Every number of paper 1 and the presets: `paper` is the authors', `tiny` learns in minutes on one CPU core.

`resolve(preset, env)` = PRESETS[preset] + SUITES[suite of env][preset]; flags on the command line win over
both. Sources: P = the article's text and appendix, H = the authors' released code and logs, M = measured
here.
"""

from dataclasses import dataclass, field
from typing import Literal

from common.config import RunConfig, fields_of
from common.errors import UserError


@dataclass(frozen=True, kw_only=True)
class CollectConfig:
    """Random data from the real environment, one memory-mapped row per frame."""

    episodes: int = 10_000
    """Random episodes of the first pass (P: 10,000)."""
    max_steps: int = 1000
    """Policy steps per episode."""
    ignore_end: bool = False
    """Go on after the environment says it is over, so that every episode is max_steps long (H: CarRacing)."""
    min_length: int = 0
    """Throw away episodes shorter than this many frames (H: TakeCover keeps those over 100)."""
    policy: Literal["cauchy", "held", "brownian"] = "held"
    """cauchy: V, M and C with random weights (H); held: an action held for a random time; brownian: a
    random walk."""
    holds: tuple[tuple[int, int], ...] = ((1, 10),)
    """Shortest and longest hold in steps; episode i takes entry i modulo the length (P: 1-10 tics in
    TakeCover)."""
    noop_prob: tuple[float, ...] = (0.0,)
    """Probability that a held action is the no-op; drawn per episode from these.  0 adds none."""
    extremes: bool = False
    """Box actions: only the two bounds and the middle, instead of uniform between the bounds."""
    env_options: dict[str, int | float | bool | str] = field(default_factory=dict)
    """Options of the environment while collecting at random, e.g. start random: CarRacing from any tile."""
    again_frames: int = 16_000
    """Frames that the evolved controller collects before each further iteration (section "Iterative
    Training")."""
    again_noise: tuple[float, ...] = (0.0, 0.05, 0.15)
    """Per episode of those: probability per step that a random hold of 1-6 steps starts."""


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """V (P: appendix A.1)."""

    size: Literal[64, 16] = 64
    """Frame edge in pixels; 16 is a two-layer stack for quick tests."""
    channels: int = 3
    """Colours of a frame."""
    width: float = 1.0
    """Multiplies the channels 32, 64, 128, 256."""
    latents: int = 32
    """N_z (P: 32 CarRacing, 64 TakeCover)."""
    kl_tolerance: float = 0.5
    """Floor of the KL per image, in nats per latent dimension (H)."""
    recon_scale: float = 1.0
    """Multiplies the summed squared error."""
    foreground: Literal["none", "moving", "fireball"] = "none"
    """Which pixels weigh more: see vae.pixel_weight."""
    foreground_weight: float = 1.0
    """How much more."""
    batch: int = 100
    """Frames per update (H)."""
    lr: float = 1e-4
    """Adam (H)."""
    lr_end: float = 1.0
    """Factor on lr at the end, reached linearly over the last quarter of the updates."""
    updates: int = 0
    """Gradient steps; 0: --epochs passes over the data."""
    gate: float = 0.35
    """V passes when its held-out error is below this share of the mean image's error."""


@dataclass(frozen=True, kw_only=True)
class RNNConfig:
    """M (P: appendix A.2)."""

    hidden: int = 256
    """LSTM units (P: 256 CarRacing, 512 TakeCover)."""
    mixtures: int = 5
    """Gaussians per latent dimension (P)."""
    shared_pi: bool = False
    """One set of mixture weights for all dimensions, as in a well-known port; the authors have one per
    dimension."""
    restart_input: bool = False
    """M reads a flag at first frames (H: TakeCover)."""
    done_head: bool = False
    """M predicts the end of the episode (P: TakeCover)."""
    done_weight: float = 1.0
    """Weight of ends in the cross entropy (H: 10; 1 is calibrated, M)."""
    done_bias: float = -3.0
    """Initial bias of the done logit: ends are rare."""
    reward_head: bool = False
    """M predicts the reward (P: section "Iterative Training"; needed to dream tasks that do not just count
    steps)."""
    score_end_frame: bool = True
    """False: the frame after the end is a copy, so its prediction is not scored (TakeCover)."""
    forget_bias: float = 1.0
    """Initial bias of the forget gate (H)."""
    carry: bool = False
    """True: rows stream shuffled episodes, the state carried from chunk to chunk (H: TakeCover).  False: each
    sequence starts with a zero state (H: CarRacing)."""
    batch: int = 100
    """Sequences per update (H)."""
    length: int = 999
    """Steps per sequence (H: 999 CarRacing, 500 TakeCover)."""
    updates: int = 4000
    """Gradient steps (H: 4,000 CarRacing, 24,400 TakeCover)."""
    again_updates: int = 1000
    """Gradient steps in further iterations, with fresh Adam."""
    lr: float = 1e-3
    """Adam (H)."""
    lr_min: float = 1e-5
    """The schedule's floor: lr_t = (lr - lr_min) decay^t + lr_min (H)."""
    lr_decay: float = 1.0
    """The schedule's decay (H: 1 CarRacing, 0.99999 TakeCover)."""
    lr_end: float = 1.0
    """Factor on lr at the end, reached linearly over the last 40 % of the updates (small presets)."""
    clip: float = 1.0
    """Every gradient element is clipped to +-clip (H: by value, not by norm)."""
    train: bool = True
    """False leaves M untrained: the ablation with a random LSTM."""


@dataclass(frozen=True, kw_only=True)
class ControllerConfig:
    """C (P: appendix A.3)."""

    inputs: Literal["z", "zh", "zch"] = "zh"
    """What C reads (P: z and h in CarRacing; z, c and h in TakeCover)."""
    hidden: int = 0
    """Width of a tanh layer between; 0: linear (P: 40 in the V-only ablation)."""
    bias: bool = True
    """H: CarRacing yes, TakeCover no."""
    actions: Literal["auto", "car", "tanh", "thirds", "argmax"] = "auto"
    """How outputs become actions: see controller.ActionCodec."""
    z: Literal["sample", "mean"] = "sample"
    """What C and M are fed: a draw from q(z|x) (H) or its mean."""


@dataclass(frozen=True, kw_only=True)
class EvolveConfig:
    """CMA-ES (P: appendix A.4)."""

    population: int = 64
    """Candidates per generation (P)."""
    rollouts: int = 16
    """Episodes per candidate, their mean is the fitness (P).  All candidates of a generation play the same
    seeds."""
    sigma: float = 0.1
    """Initial step size (H)."""
    basis: Literal["plain", "pca"] = "plain"
    """pca: search in the whitened first 32 principal components of C's input on the random data (M)."""
    max_steps: int = 0
    """Steps after which a training episode is cut; 0: the environment's own limit."""
    patience: int = 0
    """Cut a training episode after this many steps without positive reward and extrapolate its return to
    max_steps (rollout.Episode.give_up); 0: never (P).  Scores never use it."""
    eval_episodes: int = 16
    """Episodes of a score of the mean vector (H: 1,024), on seeds that evolution never plays."""
    slots: int = 64
    """Games in lockstep: one forward pass of V, M and C serves all of them."""


@dataclass(frozen=True, kw_only=True)
class DreamConfig:
    """The environment that M makes (P: section "VizDoom Experiment")."""

    temperature: float = 1.15
    """tau (P: 1.15 was best in reality)."""
    done: Literal["bernoulli", "cutoff"] = "cutoff"
    """An end is drawn with M's probability, or declared above one half (H).  A cut-off is easier to cheat
    (M)."""
    max_steps: int = 2100
    """Cap of a dream (P: 2,100 tics)."""
    starts: int = 1000
    """Stored first frames that dreams begin with (H)."""
    reward: Literal["survival", "head"] = "survival"
    """A constant per step survived (H: TakeCover), or M's reward head."""
    step_reward: float = 1.0
    """That constant: frames per step, so that dream and reality count alike."""


@dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    """A whole run: collect, V, M, C."""

    def check(self) -> None:
        """Refuse impossible values with a UserError."""
        super().check()
        values = dict(fields_of(self))
        for name, least in MINIMA.items():
            if values[name] < least:
                flag = name.replace("_", "-")
                raise UserError(f"--{flag} {values[name]}: must be at least {least:g}")
        for name, low, high in (
            ("vae.width", 0, 1),
            ("dream.temperature", 0, 100),
            ("vae.lr", 0, 1),
            ("rnn.lr", 0, 1),
        ):
            if not low < values[name] <= high:
                raise UserError(f"--{name} {values[name]}: must be above {low} and at most {high}")
        if not self.collect.holds or any(not 1 <= low <= high for low, high in self.collect.holds):
            raise UserError(f"--collect.holds {self.collect.holds}: pairs of shortest and longest, 1 or more")
        if self.train_in == "dream" and self.dream.reward == "survival" and not self.rnn.done_head:
            raise UserError(
                "a dream needs an end (--rnn.done-head) or a reward (--rnn.reward-head --dream.reward head)"
            )
        if self.evolve.patience and not self.evolve.max_steps:
            raise UserError("--evolve.patience needs --evolve.max-steps, to which returns are extrapolated")

    env: str = "toy_dodge"
    """Environment id (README: your own env)."""
    num_envs: int = 1
    """Processes that step environments, while collecting and while evolving; 1: in the trainer."""
    eval_every: int = 25
    """Generations between scores of the mean vector on held-out seeds (H); 0: only at the end."""
    epochs: int = 0
    """Passes of V over the data; 0: vae.updates gradient steps (P: 1; H: 10)."""
    generations: int = 1800
    """Generations of CMA-ES (H)."""
    iterations: int = 1
    """Collect-train-evolve passes (P: section "Iterative Training Procedure"; 1 sufficed for both tasks)."""
    first_generations: int = 0
    """Generations of the first pass where more passes follow; 0: the same."""
    train_in: Literal["real", "dream"] = "real"
    """Where the controller is evolved."""
    gates: Literal["stop", "warn"] = "stop"
    """What happens when a stage is worse than its simple baselines."""
    checkpoint_every: int = 200
    """Gradient steps between checkpoints of V and M; the controller saves every generation."""
    env_options: dict[str, int | float | bool | str] = field(default_factory=dict)
    """Options of the environment: --env-options.frame-skip 4 where the preset sets it, else --env-options KEY
    VALUE."""
    collect: CollectConfig = CollectConfig()
    vae: VAEConfig = VAEConfig()
    rnn: RNNConfig = RNNConfig()
    controller: ControllerConfig = ControllerConfig()
    evolve: EvolveConfig = EvolveConfig()
    dream: DreamConfig = DreamConfig()


STAGES = ("collect", "vae", "rnn", "controller")
MINIMA = {  # what no setting may fall below
    "epochs": 0,
    "generations": 1,
    "first_generations": 0,
    "iterations": 1,
    "checkpoint_every": 1,
    "collect.episodes": 2,  # one to learn from, one held out
    "collect.max_steps": 2,
    "collect.min_length": 0,
    "collect.again_frames": 1,
    "vae.latents": 1,
    "vae.batch": 1,
    "vae.updates": 0,
    "rnn.hidden": 1,
    "rnn.mixtures": 1,
    "rnn.batch": 1,
    "rnn.length": 1,
    "rnn.updates": 0,
    "rnn.again_updates": 0,
    "controller.hidden": 0,
    "evolve.population": 4,
    "evolve.rollouts": 1,
    "evolve.max_steps": 0,
    "evolve.patience": 0,
    "evolve.eval_episodes": 1,
    "evolve.slots": 1,
    "dream.max_steps": 1,
    "dream.starts": 1,
}

_SMALL_RNN = RNNConfig(batch=32, length=64, updates=1200, lr_end=0.05, hidden=256)

PRESETS: dict[str, Config] = {
    "paper": Config(
        epochs=1,
        num_envs=64,
        collect=CollectConfig(policy="cauchy"),
        evolve=EvolveConfig(eval_episodes=1024),
    ),
    "gpu": Config(
        epochs=3,
        generations=200,
        num_envs=16,
        collect=CollectConfig(episodes=2000),
        vae=VAEConfig(lr=3e-4),
        rnn=RNNConfig(length=256),
        evolve=EvolveConfig(slots=1024),
    ),
    "cpu": Config(
        num_envs=2,
        threads=1,
        eval_every=10,
        generations=100,
        collect=CollectConfig(episodes=100, max_steps=300),
        vae=VAEConfig(width=0.25, batch=64, lr=1e-3, lr_end=0.05, updates=3000),
        rnn=_SMALL_RNN,
        evolve=EvolveConfig(population=32, rollouts=4),
        dream=DreamConfig(temperature=1.0, done="bernoulli"),
    ),
    "tiny": Config(
        threads=1,
        eval_every=5,
        generations=10,
        collect=CollectConfig(episodes=30, max_steps=200),
        vae=VAEConfig(width=0.25, batch=64, lr=1e-3, lr_end=0.05, updates=600),
        rnn=RNNConfig(hidden=128, batch=32, length=32, updates=400, lr_end=0.05),
        evolve=EvolveConfig(population=8, rollouts=2, max_steps=300, eval_episodes=8),
        dream=DreamConfig(temperature=1.0, done="bernoulli"),
    ),
}
PRESETS["tiny-dream"] = PRESETS["tiny"]

_CAR = {
    "controller.actions": "car",
    "env_options": {"render": "fast", "size": 64, "crop": True},
    "vae.latents": 32,
    "collect.ignore_end": True,
}
_DOOM = {
    "train_in": "dream",
    "rnn.done_head": True,
    "rnn.carry": True,
    "rnn.score_end_frame": False,
    "controller.inputs": "zch",
}
_DOOM_TINY = _DOOM | {  # recipe B of the measured sheet
    "env_options": {"frame_skip": 4},
    "generations": 60,
    "collect.episodes": 800,
    "collect.max_steps": 525,
    "collect.holds": ((1, 2), (1, 2), (1, 2), (5, 49)),
    "collect.noop_prob": (1 / 3,),
    "vae.updates": 2000,
    "vae.recon_scale": 20.0,
    "vae.foreground": "fireball",
    "vae.foreground_weight": 8.0,
    "vae.latents": 32,
    "vae.gate": 0.75,
    "rnn.hidden": 256,
    "rnn.length": 32,
    "rnn.updates": 2000,
    "rnn.done_bias": -4.0,
    "controller.actions": "thirds",
    "evolve.population": 32,
    "evolve.rollouts": 16,
    "evolve.max_steps": 0,
    "eval_every": 20,
    "evolve.eval_episodes": 10,
    "evolve.slots": 8,
    "dream.max_steps": 522,
    "dream.step_reward": 4.0,
}
_GYM = {  # a user's own environment, or BipedalWalker-v3 from its rendered picture
    "rnn.done_head": True,
}
_TOY_TINY = {
    "generations": 100,
    "collect.episodes": 1100,
    "collect.holds": ((1, 1), (1, 3), (1, 6), (1, 12)),
    "collect.noop_prob": (0.34, 0.7),
    "vae.latents": 12,
    "vae.updates": 800,
    "vae.foreground": "moving",
    "vae.foreground_weight": 5.0,
    "vae.gate": 0.2,
    "rnn.done_head": True,
    "rnn.carry": True,
    "rnn.updates": 1200,
    "evolve.population": 32,
    "evolve.rollouts": 8,
    "evolve.sigma": 0.5,
    "evolve.max_steps": 0,
    "eval_every": 10,
    "evolve.eval_episodes": 32,
    "evolve.slots": 256,
    "dream.max_steps": 200,
}

_IN_DREAMS = {  # collect, train M, evolve in the dream; three times over
    "train_in": "dream",
    "iterations": 3,
    "first_generations": 40,
    "generations": 60,
    "evolve.basis": "pca",
    "evolve.rollouts": 16,
}

_DREAMT_REWARD = {
    "train_in": "dream",
    "rnn.reward_head": True,
    "dream.reward": "head",
    "dream.max_steps": 200,
}

# Suite of the environment, or its id -> preset -> dotted field -> value.
SUITES: dict[str, dict[str, dict]] = {
    "toy": {
        "paper": _TOY_TINY | {"vae.foreground_weight": 1.0, "vae.foreground": "none"},
        "gpu": _TOY_TINY,
        "cpu": _TOY_TINY | {"generations": 200},
        "tiny": _TOY_TINY,
        "tiny-dream": _TOY_TINY | _IN_DREAMS,
    },
    "crafter": {
        preset: {"controller.inputs": "z"} for preset in PRESETS
    },  # 17 actions: [z, h] is too much for C
    **{toy: {"tiny-dream": _DREAMT_REWARD} for toy in ("toy_catch", "toy_point", "toy_simple_world")},
    "toy_dodge": {preset: {"controller.actions": "thirds"} for preset in PRESETS},
    "doom": {
        "paper": _DOOM
        | {
            "env_options": {"continuous": True, "crop": "paper"},
            "collect.policy": "held",
            "collect.max_steps": 2100,
            "collect.min_length": 100,
            "vae.latents": 64,
            "rnn.hidden": 512,
            "rnn.length": 500,
            "rnn.updates": 24_400,
            "rnn.lr_decay": 0.99999,
            "rnn.done_weight": 10.0,
            "rnn.done_bias": 0.0,
            "rnn.restart_input": True,
            "controller.bias": False,
            "controller.actions": "tanh",
        },
        "gpu": _DOOM_TINY | {"vae.updates": 8000, "rnn.updates": 6000},
        "cpu": _DOOM_TINY | {"collect.episodes": 2000, "vae.updates": 4000, "rnn.updates": 3000},
        "tiny": _DOOM_TINY,
        "tiny-dream": _DOOM_TINY,
    },
    "gym": {"paper": _GYM, "gpu": _GYM, "cpu": _GYM, "tiny": _GYM, "tiny-dream": _GYM | _DREAMT_REWARD},
    "box2d_car": {
        "paper": _CAR | {"env_options": {"render": "stock", "size": 64, "crop": True}},
        "gpu": _CAR | {"collect.env_options": {"start": "random"}},
        "cpu": _CAR
        | {"collect.env_options": {"start": "random"}, "evolve.max_steps": 1000, "evolve.patience": 100},
        "tiny": _CAR | {"collect.env_options": {"start": "random"}},
        "tiny-dream": _CAR | {"collect.env_options": {"start": "random"}} | _DREAMT_REWARD,
    },
}
