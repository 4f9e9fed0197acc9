"""Every number of paper 3; presets.py has their sets.

Sources: P = the paper (arXiv 2010.02193 v3, table D.1), HEAD = the last commit of the authors' code, INIT and
MAY its earlier states, M = measured here.
"""

from dataclasses import dataclass, field
from typing import Literal

from common.config import RunConfig, check_ranges
from common.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ConvConfig:
    """Encoder and decoder (P: appendix D)."""

    depth: int = 48
    """Channels of the first convolution; they double from layer to layer."""
    layers: int = 4
    """Hidden layers of the MLPs for vector observations (HEAD)."""
    units: int = 400
    """Their width (HEAD)."""


@dataclass(frozen=True, kw_only=True)
class RSSMConfig:
    """The latent dynamics (P: section 2.1, appendix D)."""

    deter: int = 600
    """Size of h, the GRU's state."""
    hidden: int = 600
    """Width of the layers around the GRU."""
    latent: Literal["categorical", "gaussian"] = "categorical"
    """gaussian: the ablation of table 2; then z has `stoch` dimensions."""
    stoch: int = 32
    """Categorical variables of z."""
    classes: int = 32
    """Classes of each."""
    min_std: float = 0.1
    """Added to every standard deviation (gaussian only)."""
    layer_norm: bool = True
    """Layer norm inside the GRU (HEAD; P's appendix C found no benefit)."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """World-model heads and loss (P: equation 2, algorithm 2)."""

    layers: int = 4
    """Hidden layers of the reward and discount heads."""
    units: int = 400
    """Their width."""
    cont: Literal["auto", "on", "off"] = "auto"
    """Predict the discount: auto where the environment can terminate, which DeepMind Control cannot."""
    cont_scale: float = 5.0
    """Weight of its loss (HEAD, INIT; equation 2 has none)."""
    grad_rew: bool = True
    """Let the reward loss shape the features (P: table 2 finds that it does not matter)."""
    grad_image: bool = True
    """Let the picture loss shape them (P: without it nothing works)."""
    lr: float = 2e-4
    """Adam's learning rate (P)."""
    kl_scale: float = 0.1
    """beta (P: 0.1 on Atari, 1.0 in continuous control)."""
    kl_balance: float = 0.8
    """alpha: share of the KL gradient that trains the prior (P: algorithm 2)."""
    free_nats: float = 0.0
    """KL that costs nothing (P: none on Atari; HEAD: 1.0 in control)."""
    reward_transform: Literal["none", "tanh"] = "none"
    """What the learner makes of rewards (P: tanh on Atari); scores are always raw."""


@dataclass(frozen=True, kw_only=True)
class ActorConfig:
    """The policy (P: section 2.2)."""

    layers: int = 4
    """Hidden layers."""
    units: int = 400
    """Their width."""
    lr: float = 4e-5
    """Adam's learning rate (P)."""
    rho: float | None = None
    """Share of the REINFORCE gradient, 1 - rho that of the dynamics; None: 1 for discrete actions, 0 for
    continuous ones (P: equation 6)."""
    rho_start: float | None = None
    """Its first value, where it is scheduled (INIT: 0.9)."""
    entropy: float = 1e-3
    """eta (P: 1e-3 on Atari, 1e-4 in control)."""
    entropy_start: float | None = None
    """Its first value, where it is scheduled (INIT: 3e-3)."""
    schedule_steps: int = 2_500_000
    """Policy steps over which both schedules run, linearly (INIT)."""
    advantage: Literal["eq6", "head"] = "eq6"
    """eq6: V_t - v(s_t), online critic (P, INIT, MAY); head: V_{t+1} - v'(s_t), slow critic (HEAD)."""
    mask_terminal_start: bool = True
    """Leave starts that are terminal out of the actor's loss (HEAD keeps their first action)."""


@dataclass(frozen=True, kw_only=True)
class BehaviourConfig:
    """Learning in imagination (P: section 2.2)."""

    horizon: int = 15
    """Imagined steps, H."""
    discount: float = 0.999
    """gamma (P: section 2.1 and the code; table D.1 says 0.995)."""
    lam: float = 0.95
    """lambda of the targets."""
    critic_layers: int = 4
    """Hidden layers of the critic."""
    critic_units: int = 400
    """Their width."""
    critic_lr: float = 1e-4
    """Adam's learning rate (P)."""
    slow_every: int = 100
    """Updates between two copies of the critic into the slow one (P)."""
    warmup: int = 0
    """First updates that train the world model only (tiny presets: M)."""


@dataclass(frozen=True, kw_only=True)
class ReplayConfig:
    """What is kept and how sequences are drawn (P: table D.1, HEAD)."""

    capacity: int = 2_000_000
    """Rows at most (gray pictures: 8.2 GB)."""
    batch: int = 50
    """Sequences of a batch, B."""
    length: int = 50
    """Rows of a sequence, L."""
    prioritize_ends: bool = True
    """Start anywhere in an episode and cut back to its last window (P), so that ends are seen."""
    mapped: bool = False
    """Keep the rows in mapped files in the run folder instead of RAM."""


@dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    """The whole of paper 3."""

    obs: Literal["auto", "vector", "pixels", "both"] = "auto"
    """What the agent sees: auto all there is (of DeepMind Control: pixels)."""
    env_options: dict[str, int | float | bool | str] = field(default_factory=dict)
    """Options of the environment, such as actions discrete."""
    image_size: int = 64
    """Side of the pictures in pixels, 64 or 32, where the environment lets us choose."""
    conv: ConvConfig = ConvConfig()
    rssm: RSSMConfig = RSSMConfig()
    model: ModelConfig = ModelConfig()
    actor: ActorConfig = ActorConfig()
    behaviour: BehaviourConfig = BehaviourConfig()
    replay: ReplayConfig = ReplayConfig()
    adam_eps: float = 1e-5
    """Adam's epsilon (P)."""
    clip: float = 100.0
    """Global gradient norm at which each of the three gradients is clipped (P)."""
    weight_decay: float = 1e-6
    """Every update multiplies every weight by 1 - this, whatever the learning rate (HEAD)."""
    prefill: int = 200_000
    """Environment frames of uniform random actions before training (P: 50,000 policy steps)."""
    train_every: int = 16
    """Environment frames between two updates (P: 4 policy steps; the code: 16 policy steps)."""
    train_updates: int = 1
    """Updates each time."""
    pretrain: int = 1
    """Updates right after the prefill (HEAD)."""
    eval_episodes: int = 1
    """Episodes of an evaluation while training (HEAD: one)."""
    checkpoint_every: int = 200_000
    """Environment frames between two checkpoints; open episodes end there."""
    log_every: int = 100
    """Updates between two rows of metrics.jsonl, which hold their mean."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16: autocast with losses in fp32; auto: bf16 on CUDA, else fp32."""
    compile: bool = False
    """torch.compile the steps of the scan and of the imagination."""

    def check(self) -> None:
        """UserError for impossible numbers."""
        super().check()
        check_ranges(
            self,
            {
                0: (
                    "conv.layers actor.layers model.layers behaviour.critic_layers model.lr actor.lr "
                    "behaviour.critic_lr model.kl_scale model.cont_scale model.free_nats behaviour.warmup "
                    "pretrain weight_decay actor.entropy actor.entropy_start actor.schedule_steps"
                ),
                1: (
                    "conv.depth conv.units rssm.deter rssm.hidden rssm.stoch model.units actor.units "
                    "replay.batch replay.capacity rssm.classes behaviour.critic_units "
                    "behaviour.slow_every prefill train_every train_updates eval_episodes "
                    "checkpoint_every log_every"
                ),
                2: "behaviour.horizon replay.length",
            },
            positive="clip adam_eps behaviour.discount rssm.min_std",
            shares="behaviour.lam behaviour.discount model.kl_balance actor.rho actor.rho_start",
        )
        if self.steps is not None and self.steps <= self.prefill:
            raise UserError(f"--steps {self.steps}: must be above --prefill {self.prefill}")
