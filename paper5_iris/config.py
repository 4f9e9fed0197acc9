"""Every number of paper 5; presets.py has their sets by size and suite.

Sources: P = the paper (arXiv 2209.00588 v2), C = the authors' code, D = Delta-IRIS' code (2024), M = measured
here.  A step is a decision of the agent, an epoch `collect.steps` of them with the updates that follow.
"""

from dataclasses import dataclass, field
from typing import Literal

from common.config import RunConfig, check_ranges
from common.errors import UserError


@dataclass(frozen=True, kw_only=True)
class LearnConfig:
    """How one of the three networks is trained (P table 5, C)."""

    start: int = 0
    """Epochs that pass before its first update."""
    stop: int | None = None
    """Its last epoch with updates; None: it learns to the end (P)."""
    updates: int = 200
    """Gradient steps per epoch (P)."""
    batch: int = 64
    """Frames (tokenizer) or sequences of a forward pass."""
    accumulate: int = 1
    """Forward passes per gradient step: batch * accumulate is the paper's batch."""
    lr: float = 1e-4
    """Learning rate (P)."""
    lr_end: float | None = None
    """Learning rate of its last epoch, straight from `lr`; None: constant (P)."""
    decay: float = 0.0
    """Weight decay (AdamW), of the transformer's Linear weights only."""
    clip: float = 10.0
    """Largest norm of the gradient (P)."""


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """The discrete autoencoder (P tables 1 to 3, C)."""

    vocab: int = 512
    """Codewords, V."""
    code: int = 512
    """Size of a codeword."""
    latents: int = 512
    """Channels of the encoder's output and the decoder's input."""
    channels: int = 64
    """Channels per unit of `mults`."""
    mults: tuple[int, ...] = (1, 1, 1, 1, 1)
    """Channels of the levels; between two levels the picture is halved."""
    encoder_blocks: int = 2
    """Residual blocks per level of the encoder."""
    decoder_blocks: int = 3
    """Residual blocks per level of the decoder: one more (C)."""
    mid: bool = True
    """Two residual blocks with attention between them at the smallest map of either."""
    attention: tuple[int, ...] = (16, 8)
    """Maps of these sides have attention behind each residual block; () for none."""
    groups: int = 32
    """Groups of the GroupNorms."""
    pixel_loss: Literal["auto", "l1", "l2", "l1+l2"] = "auto"
    """l1: P; l1+l2: 0.1, 1 and 0.01 of the worst pixel (D); auto: l1 with the perceptual loss, else l1+l2."""
    beta: float = 1.0
    """Weight of the commitment loss (P; the VQ-VAE's was 0.25)."""
    codebook: Literal["gradient", "ema"] = "gradient"
    """gradient: codewords learn by a loss (P); ema: they are moving averages of what chose them."""
    ema_decay: float = 0.99
    """Of those averages (VQ-VAE)."""
    revive_every: int = 0
    """Updates after which a codeword that nobody chose is put where the error is; 0: never (P)."""
    revive_until: int | None = None
    """Last epoch in which that is done; None: always."""
    lpips_dropout: bool = False
    """Dropout of the perceptual heads while the tokenizer trains, as the authors' code has by accident."""
    learn: LearnConfig = LearnConfig(start=5, batch=256)


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """The transformer (P table 4, C)."""

    layers: int = 10
    """Blocks of attention and MLP."""
    heads: int = 4
    """Attention heads."""
    width: int = 256
    """Width of embeddings and layers, D."""
    steps: int = 20
    """Time steps that it sees at once, each the tokens of a frame and an action.

    A dream with more steps goes on from its newest frame alone when they are full; that is enough where a
    frame shows all there is to know.
    """
    embed_dropout: float = 0.1
    """Dropout behind the embeddings."""
    residual_dropout: float = 0.1
    """Dropout of what is added to the residual stream."""
    attention_dropout: float = 0.1
    """Dropout of attention weights."""
    reward_head: Literal["sign_ce", "mse"] = "sign_ce"
    """sign_ce: cross entropy over {-1, 0, 1} (C); mse: squared error of the number itself (P v1)."""
    learn: LearnConfig = LearnConfig(start=25, decay=0.01)


@dataclass(frozen=True, kw_only=True)
class ActorConfig:
    """Actor and critic, and their learning in imagination (P table 6, C)."""

    trunk: Literal["cnn", "transformer"] = "cnn"
    """cnn: sees decoded frames (P); transformer: reads tokens, nothing is decoded (not of the paper)."""
    channels: tuple[int, ...] = (32, 32, 64, 64)
    """Channels of the convolutions; each halves the picture."""
    layers: int = 2
    """Layers of the transformer trunk."""
    heads: int = 4
    """Its attention heads."""
    width: int = 128
    """Its width."""
    hidden: int = 512
    """Units of the LSTM."""
    horizon: int = 20
    """Imagined steps, H."""
    burn_in: int = 20
    """Real frames before the start that the LSTM has seen."""
    gamma: float = 0.995
    """Discount."""
    lam: float = 0.95
    """lambda of the returns."""
    entropy: float = 1e-3
    """Weight of the entropy bonus."""
    value_scale: float = 1.0
    """Weight of the critic's loss (C)."""
    mask_after_end: bool = False
    """Leave out what is imagined after an imagined end; the authors' code learns from it, too."""
    learn: LearnConfig = LearnConfig(start=50)


@dataclass(frozen=True, kw_only=True)
class CollectConfig:
    """Playing in the real environment (P table 5, C)."""

    steps: int = 200
    """Decisions per epoch."""
    epsilon: float = 0.01
    """Share of uniform random actions."""
    temperature: float = 1.0
    """Of the policy (P: 1; Freeway 0.01)."""
    timeout_is_end: bool = True
    """Store a time limit as an end, as the authors' code does; off: what is cut off is not over."""
    extra_epochs: int = 100
    """Epochs of updates alone after the last frame is collected (P: 600 epochs, 500 of them collect)."""


@dataclass(frozen=True, kw_only=True)
class ReplayConfig:
    """What is kept."""

    capacity: int | None = None
    """Rows at most; an episode of T steps has T + 1.  None: all of the run (C)."""
    mapped: bool = False
    """Keep the rows in mapped files in the run folder instead of RAM."""


@dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    """The whole of paper 5."""

    obs: Literal["auto", "pixels"] = "auto"
    """Pictures only; pixels: the render of an environment that has none."""
    env_options: dict[str, int | float | bool | str | dict] = field(default_factory=dict)
    """Options of the environment; {"train": a, "eval": b} where the protocol differs."""
    image_size: int = 64
    """Side of the pictures in pixels, where the environment lets us choose."""
    perceptual: Literal["auto", "on", "off"] = "auto"
    """The LPIPS term of the tokenizer's loss (P); auto: where its weights are on this machine."""
    perceptual_weights: str | None = None
    """State dict of VGG16 (torchvision's names); None: torch's cache of downloads."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    world: WorldConfig = WorldConfig()
    actor: ActorConfig = ActorConfig()
    collect: CollectConfig = CollectConfig()
    replay: ReplayConfig = ReplayConfig()
    eval_episodes: int = 16
    """Episodes of an evaluation while training (C)."""
    eval_temperature: float = 0.5
    """Of the policy in evaluations (C)."""
    checkpoint_every: int = 20_000
    """Frames between two checkpoints; open episodes end there."""
    log_every: int = 100
    """Updates between two rows of metrics.jsonl, which hold their mean."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16: autocast with losses in fp32; auto: bf16 on CUDA, else fp32."""
    compile: bool = False
    """torch.compile the losses of tokenizer and transformer; on CUDA a dreamed step is a CUDA graph."""

    def learners(self) -> dict[str, LearnConfig]:
        """The three networks in the order in which an epoch trains them."""
        return {name: getattr(self, name).learn for name in ("tokenizer", "world", "actor")}

    def epochs(self, frames: int, frames_per_step: int) -> tuple[int, int]:
        """Epochs that play so many frames, and all epochs: 500 and 600 of 400,000 frames of Atari (P)."""
        playing = max(1, round(frames / (frames_per_step * self.collect.steps)))
        return playing, playing + self.collect.extra_epochs

    def check(self) -> None:
        """UserError for impossible numbers."""
        super().check()
        each = {
            name: f"tokenizer.learn.{name} world.learn.{name} actor.learn.{name}"
            for name in LearnConfig.__dataclass_fields__
        }
        check_ranges(
            self,
            {
                0: (
                    f"{each['start']} {each['stop']} {each['updates']} {each['decay']} tokenizer.beta "
                    "tokenizer.revive_every tokenizer.revive_until actor.burn_in actor.entropy "
                    "actor.value_scale collect.extra_epochs"
                ),
                1: (
                    f"{each['batch']} {each['accumulate']} image_size tokenizer.code tokenizer.latents "
                    "tokenizer.channels tokenizer.mults tokenizer.encoder_blocks tokenizer.decoder_blocks "
                    "tokenizer.attention tokenizer.groups world.layers world.heads world.width "
                    "actor.channels actor.layers actor.heads actor.width actor.hidden collect.steps "
                    "replay.capacity eval_episodes checkpoint_every log_every"
                ),
                2: "tokenizer.vocab world.steps actor.horizon",
            },
            positive=f"{each['lr']} {each['lr_end']} {each['clip']} collect.temperature eval_temperature",
            shares=(
                "tokenizer.ema_decay world.embed_dropout world.residual_dropout world.attention_dropout "
                "actor.gamma actor.lam collect.epsilon"
            ),
        )
        t, w, a = self.tokenizer, self.world, self.actor
        for name, part in (("world", w), ("actor", a)):
            if part.width % part.heads:
                line = f"--{name}.width {part.width}: must be a multiple of --{name}.heads {part.heads}"
                raise UserError(line)
        if t.channels % t.groups:
            raise UserError(
                f"--tokenizer.channels {t.channels}: must be a multiple of --tokenizer.groups {t.groups}"
            )
        if self.perceptual == "off" and self.perceptual_weights:
            raise UserError("--perceptual-weights: goes with --perceptual on or auto, not off")
        if self.num_envs > self.collect.steps:
            raise UserError(f"--num-envs {self.num_envs}: must be at most --collect.steps")


def updates_in(learn: LearnConfig, epoch: int) -> int:
    """Gradient steps of a network in this epoch, counted from 1."""
    is_on = learn.start < epoch and (learn.stop is None or epoch <= learn.stop)
    return learn.updates if is_on else 0


def lr_in(learn: LearnConfig, epoch: int, epochs: int) -> float:
    """Its learning rate in this epoch of so many."""
    if learn.lr_end is None:
        return learn.lr
    first, last = learn.start + 1, min(learn.stop or epochs, epochs)
    share = min(max((epoch - first) / max(last - first, 1), 0.0), 1.0)
    return learn.lr + share * (learn.lr_end - learn.lr)
