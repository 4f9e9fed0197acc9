"""Every setting of paper 1 and its meaning; defaults are the authors' for CarRacing, the rest in presets.py.

Sources: P = the article's text and appendix, H = the authors' released code and logs, M = measured here.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

from common.config import RunConfig, check_ranges, fields_of
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
    """cauchy: V, M, C with random weights (H); held: an action held for a random time; brownian: a walk."""
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
    """Frames that the evolved controller collects before each further iteration (P: "Iterative Training")."""
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
    half_gate: float = 0.0
    """The same after half of the updates; 0: nobody looks."""


@dataclass(frozen=True, kw_only=True)
class RNNConfig:
    """M (P: appendix A.2)."""

    hidden: int = 256
    """LSTM units (P: 256 CarRacing, 512 TakeCover)."""
    mixtures: int = 5
    """Gaussians per latent dimension (P)."""
    shared_pi: bool = False
    """One set of mixture weights for all dimensions (a known port); the authors have one per dimension."""
    restart_input: bool = False
    """M reads a flag at first frames (H: TakeCover)."""
    done_head: bool = False
    """M predicts the end of the episode (P: TakeCover)."""
    done_weight: float = 1.0
    """Weight of ends in the cross entropy (H: 10; 1 is calibrated, M)."""
    done_bias: float = -3.0
    """Initial bias of the done logit: ends are rare."""
    reward_head: bool = False
    """M predicts the reward (P: section "Iterative Training"); for dreams that do not just count steps."""
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
    """An end is drawn with M's probability, or declared above one half (H; easier to cheat, M)."""
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
        check_ranges(self, MINIMA, POSITIVE, SHARES)
        if not self.vae.updates and not self.epochs:
            raise UserError("--vae.updates 0: V would not be trained; give updates, or --epochs")
        for name in ("collect.noop_prob", "collect.again_noise"):
            if not values[name]:
                raise UserError(f"--{name.replace('_', '-')}: needs at least one value")
        if self.evolve.basis == "pca" and (self.controller.hidden or not self.controller.bias):
            raise UserError(
                "--evolve.basis pca is made for one linear layer with a bias (--controller.hidden 0 "
                "--controller.bias): take --evolve.basis plain"
            )
        for name, high in {"vae.width": 1, "dream.temperature": 100, "vae.lr": 1, "rnn.lr": 1}.items():
            if not 0 < values[name] <= high:
                raise UserError(f"--{name} {values[name]}: must be above 0 and at most {high}")
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
    """Its options, such as --env-options.frame-skip 4."""
    collect: CollectConfig = CollectConfig()
    vae: VAEConfig = VAEConfig()
    rnn: RNNConfig = RNNConfig()
    controller: ControllerConfig = ControllerConfig()
    evolve: EvolveConfig = EvolveConfig()
    dream: DreamConfig = DreamConfig()


STAGES = ("collect", "vae", "rnn", "controller")
# What no setting may fall below; a number that is not finite is refused there too.
MINIMA = {
    0: "epochs first_generations vae.updates rnn.updates rnn.again_updates collect.min_length "
    "controller.hidden evolve.max_steps evolve.patience vae.kl_tolerance vae.foreground_weight vae.lr_end "
    "vae.gate vae.half_gate rnn.done_weight rnn.lr_min rnn.lr_decay rnn.lr_end",
    1: "generations iterations checkpoint_every collect.again_frames vae.latents vae.batch vae.channels "
    "rnn.hidden rnn.mixtures rnn.batch rnn.length evolve.rollouts evolve.eval_episodes evolve.slots "
    "dream.max_steps dream.starts",
    2: "collect.episodes collect.max_steps",  # one episode to learn from, one held out
    4: "evolve.population",
    -math.inf: "rnn.done_bias rnn.forget_bias dream.step_reward",
}
POSITIVE = "rnn.clip evolve.sigma vae.recon_scale"  # a clip of 0 would leave no gradient
SHARES = "collect.noop_prob collect.again_noise"
