"""Every number of paper 2; presets.py has their sets.

Sources: P = the paper (arXiv 1912.01603 v3), TF2 = the first author's TensorFlow 2 code, which we follow
where they disagree, TF1 = the code that made the paper's runs, M = measured here.
"""

from dataclasses import dataclass, field
from typing import Literal

from common.config import RunConfig, check_ranges
from common.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ConvConfig:
    """Encoder and decoder (P: appendix A)."""

    depth: int = 32
    """Channels of the first convolution; they double from layer to layer."""
    layers: int = 2
    """Hidden layers of the MLPs for vector observations (ours: the paper has pictures only)."""
    units: int = 400
    """Their width."""


@dataclass(frozen=True, kw_only=True)
class RSSMConfig:
    """The latent dynamics (P: appendix A; TF2)."""

    deter: int = 200
    """Size of h, the GRU's state."""
    stoch: int = 30
    """Size of z."""
    hidden: int = 200
    """Width of the layers around the GRU."""
    min_std: float = 0.1
    """Added to every standard deviation."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """World-model heads and loss (P: equation 10; TF2)."""

    rew_layers: int = 2
    """Hidden layers of the reward head (TF2; P's appendix says 3 of 300 for all heads)."""
    cont: Literal["auto", "on", "off"] = "auto"
    """Predict the discount: auto where the environment can terminate, which DeepMind Control cannot."""
    cont_layers: int = 3
    """Hidden layers of the discount head."""
    cont_scale: float = 10.0
    """Weight of its loss (TF2)."""
    units: int = 400
    """Width of both heads (TF2)."""
    lr: float = 6e-4
    """Adam's learning rate (P)."""
    kl_scale: float = 1.0
    """Weight of the KL, beta (P: 1; 0.1 for discrete actions)."""
    free_nats: float = 3.0
    """KL that costs nothing, in nats (P)."""
    free_nats_mode: Literal["mean", "per_step"] = "mean"
    """mean: the average over the batch is clipped (TF2); per_step: every row's excess counts (TF1)."""
    kl_balance: float | None = None
    """Share of the KL gradient that trains the prior: paper 3's idea, for the ablation only; None: off."""
    reward_transform: Literal["none", "tanh"] = "none"
    """What the learner makes of rewards (P: tanh for Atari); scores are always raw."""


@dataclass(frozen=True, kw_only=True)
class ActorConfig:
    """The policy and how it explores (P: section 3, appendix A; TF2)."""

    layers: int = 4
    """Hidden layers."""
    units: int = 400
    """Their width."""
    lr: float = 8e-5
    """Adam's learning rate (P)."""
    init_std: float = 5.0
    """Standard deviation before the tanh when the network says zero (TF2)."""
    min_std: float = 1e-4
    """Added to it."""
    mean_scale: float = 5.0
    """The mean is mean_scale * tanh(raw / mean_scale)."""
    eval_action: Literal["best_of_100", "tanh_mean"] = "best_of_100"
    """Evaluation action, continuous: the likeliest of 100 draws (TF2), or the tanh of the mean."""
    explore_from: Literal["sample", "mode"] = "sample"
    """What the noise is added to while collecting: a draw (TF2, TF1), or the mode (P's text)."""
    noise: float = 0.3
    """Standard deviation of the Gaussian noise on continuous actions (P)."""
    epsilon: tuple[float, float] = (0.4, 0.1)
    """Random share of discrete actions, first and last (P)."""
    epsilon_updates: int = 200_000
    """Gradient steps over which epsilon falls linearly (P)."""


@dataclass(frozen=True, kw_only=True)
class BehaviourConfig:
    """Learning in imagination (P: algorithm 1, equations 6 to 8)."""

    horizon: int = 15
    """Imagined steps, H (P: 15; 10 for discrete actions)."""
    discount: float = 0.99
    """gamma (P)."""
    lam: float = 0.95
    """lambda of the returns (P)."""
    value_layers: int = 3
    """Hidden layers of the value head."""
    value_units: int = 400
    """Their width."""
    value_lr: float = 8e-5
    """Adam's learning rate of the value head (P)."""
    warmup: int = 0
    """First updates that train the world model only (tiny presets: M)."""


@dataclass(frozen=True, kw_only=True)
class ReplayConfig:
    """What is kept and how sequences are drawn (P: algorithm 1; TF2)."""

    capacity: int = 2_600_000
    """Rows at most; the paper keeps everything, 2.5e6 steps (30.7 GB of pictures)."""
    batch: int = 50
    """Sequences of a batch, B (P)."""
    length: int = 50
    """Rows of a sequence, L (P)."""
    sampling: Literal["uniform", "faithful", "balanced"] = "uniform"
    """Where in an episode a sequence starts: see buffer.py."""
    mapped: bool = False
    """Keep the rows in mapped files in the run folder instead of RAM."""


@dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    """The whole of paper 2."""

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
    adam_eps: float = 1e-7
    """Adam's epsilon (Keras' default)."""
    clip: float = 100.0
    """Global gradient norm at which each of the three gradients is clipped (P)."""
    prefill: int = 5_000
    """Environment frames of uniform random actions before training (P: 5 episodes)."""
    train_every: int = 1_000
    """Environment frames between two bursts of updates (TF2)."""
    train_updates: int = 100
    """Updates of a burst (P: 100)."""
    pretrain: int = 100
    """Updates right after the prefill (TF2)."""
    eval_episodes: int = 1
    """Episodes of an evaluation while training (TF2: one, every 1e4 frames)."""
    checkpoint_every: int = 50_000
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
                    "conv.layers actor.layers model.rew_layers model.cont_layers behaviour.value_layers "
                    "model.lr actor.lr behaviour.value_lr model.kl_scale model.cont_scale model.free_nats "
                    "behaviour.warmup pretrain actor.noise actor.epsilon_updates"
                ),
                1: (
                    "conv.depth conv.units rssm.deter rssm.hidden rssm.stoch model.units actor.units "
                    "replay.batch replay.capacity behaviour.value_units prefill train_every train_updates "
                    "eval_episodes checkpoint_every log_every"
                ),
                2: "behaviour.horizon replay.length",
            },
            positive=(
                "clip adam_eps behaviour.discount rssm.min_std actor.init_std actor.min_std actor.mean_scale"
            ),
            shares="behaviour.lam behaviour.discount model.kl_balance actor.epsilon",
        )
        if self.steps is not None and self.steps <= self.prefill:
            raise UserError(f"--steps {self.steps}: must be above --prefill {self.prefill}")
