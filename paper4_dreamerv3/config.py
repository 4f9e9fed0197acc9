"""Every number of paper 4; presets.py has their sets by size, profile and suite.

Three versions of text and code carry the name.  Sources: P1 (arXiv 2301.04104 v1), P2 (v2), N (Nature 640),
HEAD = the authors' last code, which we follow where they disagree, M = measured here.
"""

from dataclasses import dataclass, field
from typing import Literal

from common.config import RunConfig, check_ranges
from common.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ConvConfig:
    """Encoder and decoder (N: methods; HEAD)."""

    depth: int = 16
    """Channels per unit of `mults`."""
    mults: tuple[int, ...] = (2, 3, 4, 4)
    """Channels of the stages; each halves the picture (HEAD)."""
    cnn: Literal["pool", "strided"] = "pool"
    """pool: stride 1 and 2 x 2 maxima, HEAD; strided: stride 2, P2 and N, half the work."""
    layers: int = 3
    """Hidden layers of the MLPs for vectors."""


@dataclass(frozen=True, kw_only=True)
class RSSMConfig:
    """The latent dynamics (N: methods; HEAD)."""

    deter: int = 2048
    """Size of h."""
    hidden: int = 256
    """Width of the layers around the GRU."""
    stoch: int = 32
    """Categorical variables of z."""
    classes: int = 16
    """Classes of each."""
    blocks: int = 8
    """Blocks of the GRU's matrices."""
    unimix: float = 0.01
    """Share of the uniform distribution in every categorical (P2, N)."""
    free_nats: float = 1.0
    """KL of a row that costs nothing, in nats (P1, P2, N)."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Heads and weights of the losses (N: methods)."""

    bins: int = 255
    """Bins of reward and critic."""
    symlog: bool = True
    """Vectors through symlog, rewards and returns in symexp bins; off, for the ablation: plain numbers."""
    reward_scale: float = 1.0
    """Rewards are learned times this, as if the task paid in another coin; scores and dreams tell its own."""
    rew_layers: int = 1
    """Hidden layers of the reward head."""
    cont_layers: int = 1
    """Hidden layers of the continue head."""
    rec_scale: float = 1.0
    """Weight of the observations' reconstruction; more where what matters is small in its own units."""
    dyn_scale: float = 1.0
    """Weight of KL(sg q || p) (P1: 0.5)."""
    rep_scale: float = 0.1
    """Weight of KL(q || sg p)."""
    contdisc: bool = True
    """The continue head predicts continue * gamma (HEAD; the papers keep gamma apart)."""


@dataclass(frozen=True, kw_only=True)
class ActorConfig:
    """The policy (N: methods)."""

    layers: int = 3
    """Hidden layers."""
    unimix: float = 0.01
    """Share of the uniform distribution in discrete policies (papers: 0.01; HEAD ignores it)."""
    entropy: float = 3e-4
    """Weight of the entropy bonus."""
    min_std: float = 0.1
    """Smallest standard deviation of continuous actions."""
    max_std: float = 1.0
    """Largest one."""
    eval_action: Literal["sample", "mode"] = "sample"
    """Evaluation action: a draw (the papers), or the likeliest one."""


@dataclass(frozen=True, kw_only=True)
class BehaviourConfig:
    """Learning in imagination (N: methods)."""

    horizon: int = 15
    """Imagined steps, H."""
    imag_last: int = 0
    """Only the last rows of a sequence start dreams; 0: all (HEAD; tiny presets: 8, M)."""
    discount_horizon: int = 333
    """gamma = 1 - 1 / this."""
    lam: float = 0.95
    """lambda of the returns."""
    critic_layers: int = 3
    """Hidden layers of the critic."""
    slow_rate: float = 0.02
    """Share of the critic that flows into its slow copy after every update."""
    slow_scale: float = 1.0
    """Weight of the pull towards the slow critic's mean."""
    replay_scale: float = 0.3
    """Weight of the critic's loss on replayed rows (P2, N; P1: none)."""
    root_cont: Literal["pred", "true"] = "pred"
    """Weight of a dream's start: the predicted continue (HEAD), or the replay's (P1, A24)."""
    norm: bool = True
    """Divide advantages by the returns' range (off: for the ablation)."""
    norm_rate: float = 0.01
    """How fast the percentiles follow."""


@dataclass(frozen=True, kw_only=True)
class ReplayConfig:
    """What is kept and how sequences are drawn (N: table; HEAD)."""

    capacity: int = 5_000_000
    """Rows at most."""
    batch: int = 16
    """Sequences of a batch, B."""
    length: int = 64
    """Rows of a sequence that are trained on, T; one more, the context, gives the latent to start from."""
    online: bool = True
    """Every fresh window is trained on once, before uniform draws."""
    mapped: bool = False
    """Keep the rows in mapped files in the run folder instead of RAM."""


@dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    """The whole of paper 4."""

    obs: Literal["auto", "vector", "pixels", "both"] = "auto"
    """What the agent sees: auto all there is (of DeepMind Control: pixels)."""
    env_options: dict[str, int | float | bool | str] = field(default_factory=dict)
    """Options of the environment."""
    image_size: int = 64
    """Side of the pictures in pixels, where the environment lets us choose."""
    units: int = 256
    """Width of all dense layers outside the RSSM."""
    conv: ConvConfig = ConvConfig()
    rssm: RSSMConfig = RSSMConfig()
    model: ModelConfig = ModelConfig()
    actor: ActorConfig = ActorConfig()
    behaviour: BehaviourConfig = BehaviourConfig()
    replay: ReplayConfig = ReplayConfig()
    lr: float = 4e-5
    """Learning rate of the one optimiser, for all networks."""
    lr_warmup: int = 1_000
    """Updates over which it rises from 0."""
    agc: float = 0.3
    """Gradients of a tensor are clipped to this share of its norm."""
    beta1: float = 0.9
    """Momentum."""
    beta2: float = 0.999
    """Decay of squared gradients (HEAD; P2's and N's tables: 0.99)."""
    opt_eps: float = 1e-20
    """LaProp's epsilon."""
    train_ratio: float = 512.0
    """Rows that are trained on per policy step (action repeats not counted)."""
    prefill: int = 0
    """Environment frames of uniform random actions at first (the papers: none)."""
    eval_episodes: int = 4
    """Episodes of an evaluation while training."""
    checkpoint_every: int = 50_000
    """Frames between two checkpoints; open episodes end there, so many environments want it large."""
    log_every: int = 100
    """Updates between two rows of metrics.jsonl, which hold their mean."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16: autocast with losses in fp32; auto: bf16 on CUDA, else fp32."""
    compile: bool = False
    """CUDA: the whole update as one CUDA graph; CPU: torch.compile the steps of scan and dream."""

    @property
    def gamma(self) -> float:
        """Discount, 0.997 by default."""
        return 1 - 1 / self.behaviour.discount_horizon

    def check(self) -> None:
        """UserError for impossible numbers."""
        super().check()
        check_ranges(
            self,
            {
                0: (
                    "model.rew_layers model.cont_layers actor.layers behaviour.critic_layers rssm.free_nats "
                    "model.rec_scale model.dyn_scale model.rep_scale actor.entropy behaviour.imag_last "
                    "behaviour.slow_scale behaviour.replay_scale lr lr_warmup prefill"
                ),
                1: (
                    "image_size units conv.depth conv.mults conv.layers rssm.deter rssm.hidden rssm.stoch "
                    "rssm.classes rssm.blocks replay.batch replay.capacity eval_episodes checkpoint_every "
                    "log_every"
                ),
                2: "behaviour.horizon behaviour.discount_horizon replay.length",
                3: "model.bins",
            },
            positive="model.reward_scale train_ratio agc opt_eps actor.min_std actor.max_std",
            shares=(
                "rssm.unimix actor.unimix behaviour.lam behaviour.slow_rate behaviour.norm_rate beta1 beta2"
            ),
        )
        if self.rssm.classes > 255:
            raise UserError(f"--rssm.classes {self.rssm.classes}: must be at most 255, a byte in the replay")
        if self.behaviour.imag_last == 1:
            raise UserError("--behaviour.imag-last 1: must be 0 (all rows) or at least 2")
        if self.actor.min_std > self.actor.max_std:
            raise UserError(f"--actor.min-std {self.actor.min_std}: must be at most --actor.max-std")
        for name, value in (("beta1", self.beta1), ("beta2", self.beta2)):
            if value == 1:
                raise UserError(f"--{name} {value}: must be below 1")
        widest = self.conv.depth * self.conv.mults[-1]
        for name, number in (("rssm.deter", self.rssm.deter), ("conv.depth * conv.mults[-1]", widest)):
            if number % self.rssm.blocks:
                raise UserError(f"--{name} {number}: must be a multiple of --rssm.blocks {self.rssm.blocks}")
