"""The discrete autoencoder (paper, section 2.1 and appendix A): a picture becomes K tokens out of V.

Frames are floats in [0, 1]; inside, encoder and decoder live in [-1, 1].  What anyone but the losses sees of
a decoded frame is clamped to [0, 1].  Tokens of a frame are read row by row.  Nothing here is recurrent.
Letters: N frames, C H W picture (channels last in memory), D code, h w map of codes, K = h w tokens, V vocab.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError
from paper5_iris.config import TokenizerConfig
from paper5_iris.layers import Down, Up, level, middle, norm

Loss = Callable[[Tensor, Tensor], Tensor]  # two pictures in [-1, 1] -> [N]


class Codes(NamedTuple):
    """What the encoder makes of frames."""

    z: Tensor  # [N, D, h, w] before quantisation
    quantized: Tensor  # [N, D, h, w] codewords
    tokens: Tensor  # [N, K] int64


class Encoder(nn.Sequential):
    """Pictures in [-1, 1] to latents.  [N, C, H, W] -> [N, latents, h, w]"""

    def __init__(self, cfg: TokenizerConfig, channels: int, side: int):
        widths = [cfg.channels * mult for mult in cfg.mults]
        layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 3, padding=1)]
        for i, (inputs, outputs) in enumerate(zip([widths[0], *widths], widths, strict=False)):
            if i:
                layers.append(Down(inputs))
            attend = side >> i in cfg.attention
            layers += level(inputs, outputs, cfg.encoder_blocks, cfg.groups, attend)
        layers += middle(widths[-1], cfg.groups) if cfg.mid else []
        layers += [norm(widths[-1], cfg.groups), nn.SiLU(), nn.Conv2d(widths[-1], cfg.latents, 3, padding=1)]
        super().__init__(*layers)


class Decoder(nn.Sequential):
    """Latents to pictures, about [-1, 1].  [N, latents, h, w] -> [N, C, H, W]"""

    def __init__(self, cfg: TokenizerConfig, channels: int, side: int):
        widths = [cfg.channels * mult for mult in reversed(cfg.mults)]
        layers: list[nn.Module] = [nn.Conv2d(cfg.latents, widths[0], 3, padding=1)]
        layers += middle(widths[0], cfg.groups) if cfg.mid else []
        small = side >> (len(widths) - 1)
        for i, (inputs, outputs) in enumerate(zip([widths[0], *widths], widths, strict=False)):
            if i:
                layers.append(Up(inputs))
            attend = small << i in cfg.attention
            layers += level(inputs, outputs, cfg.decoder_blocks, cfg.groups, attend)
        layers += [norm(widths[-1], cfg.groups), nn.SiLU(), nn.Conv2d(widths[-1], channels, 3, padding=1)]
        super().__init__(*layers)


class Quantizer(nn.Module):
    """The codebook: every latent vector is replaced by the nearest of V codewords."""

    def __init__(self, cfg: TokenizerConfig):
        super().__init__()
        self.cfg = cfg
        self.codebook = nn.Parameter(torch.empty(cfg.vocab, cfg.code).uniform_(-1 / cfg.vocab, 1 / cfg.vocab))
        self.register_buffer("used", torch.zeros(cfg.vocab))  # how often since the last revival
        if cfg.codebook == "ema":
            self.register_buffer("count", torch.ones(cfg.vocab))
            self.register_buffer("sum", self.codebook.detach().clone())

    def forward(self, z: Tensor) -> Codes:
        """[N, D, h, w] -> codes; the codewords carry the gradient of the codebook alone."""
        rows = z.detach().permute(0, 2, 3, 1).flatten(0, 2).float()  # [N K, D] no copy: channels last
        tokens = self.distances(rows).argmin(-1).view(len(z), -1)
        return Codes(z, self.lookup(tokens, z.shape[-1]), tokens)

    def distances(self, rows: Tensor) -> Tensor:
        """|z|^2 + |e|^2 - 2 z e of all pairs, in float32.  [R, D] -> [R, V]"""
        book = self.codebook.detach()
        with torch.autocast(rows.device.type, enabled=False):
            return rows.square().sum(-1, keepdim=True) + book.square().sum(-1) - 2 * rows @ book.T

    def lookup(self, tokens: Tensor, width: int) -> Tensor:
        """Codewords as a map.  [N, K] -> [N, D, h, w]"""
        return F.embedding(tokens.long(), self.codebook).unflatten(1, (-1, width)).permute(0, 3, 1, 2)

    @torch.no_grad()
    def follow(self, codes: Codes, revive: bool = False) -> None:
        """After an update: moving averages (ema), and with `revive` new places for codewords nobody chose.

        Such a word goes to a latent of this batch, drawn by its squared distance to its own word: where the
        codebook fits worst (the seeding of k-means++).
        """
        rows = codes.z.permute(0, 2, 3, 1).flatten(0, 2).float()  # [N K, D]
        classes = torch.arange(self.cfg.vocab, device=rows.device)
        hits = (codes.tokens.flatten()[:, None] == classes).to(rows.dtype)  # [N K, V] one-hot
        self.used += hits.sum(0)
        if self.cfg.codebook == "ema":
            self.count.lerp_(hits.sum(0), 1 - self.cfg.ema_decay)
            self.sum.lerp_(hits.T @ rows, 1 - self.cfg.ema_decay)
            self.codebook.copy_(self.sum / self.count.clamp(min=1e-5)[:, None])
        if revive:
            error = self.distances(rows).amin(-1).clamp(min=1e-12)  # [N K]
            order = (error / torch.empty_like(error).exponential_()).argsort(descending=True)
            is_dead = (self.used == 0)[:, None]  # [V, 1]
            rank = (is_dead[:, 0].cumsum(0) - 1).clamp(min=0)  # the first dead one takes the first place
            places = rows[order[rank % len(rows)]]  # [V, D]
            self.codebook.copy_(torch.where(is_dead, places, self.codebook))
            if self.cfg.codebook == "ema":
                self.sum.copy_(torch.where(is_dead, places, self.sum))
                self.count.copy_(torch.where(is_dead[:, 0], 1.0, self.count))
            self.used.zero_()


class Tokenizer(nn.Module):
    """Encoder, codebook, decoder."""

    def __init__(self, cfg: TokenizerConfig, image: tuple[int, int, int]):
        """image: (H, W, C) of the environment; UserError where the levels do not divide its side."""
        super().__init__()
        self.cfg, (side, width, channels) = cfg, image
        self.side = side >> (len(cfg.mults) - 1)  # of the map of codes: h = w
        if side != width or self.side < 1 or self.side << (len(cfg.mults) - 1) != side:
            step = 2 ** (len(cfg.mults) - 1)
            raise UserError(
                f"pictures of {side} x {width} pixels: must be square, the side a multiple of {step}"
            )
        sides = [side >> i for i in range(len(cfg.mults))]
        if missing := set(cfg.attention) - set(sides):
            line = f"--tokenizer.attention {min(missing)}: the maps have sides {', '.join(map(str, sides))}"
            raise UserError(f"{line}; give some of these, or --tokenizer.attention without a number for none")
        self.image, self.tokens = image, self.side**2  # K
        self.encoder, self.decoder = Encoder(cfg, channels, side), Decoder(cfg, channels, side)
        self.pre, self.post = nn.Conv2d(cfg.latents, cfg.code, 1), nn.Conv2d(cfg.code, cfg.latents, 1)
        self.quantizer = Quantizer(cfg)
        self.to(memory_format=torch.channels_last)

    def encode(self, frame: Tensor) -> Codes:
        """Frames in [0, 1] [N, C, H, W] -> codes."""
        return self.quantizer(self.pre(self.encoder(2 * frame - 1)))

    def decode(self, quantized: Tensor) -> Tensor:
        """Codewords [N, D, h, w] -> pictures about [-1, 1], as the losses want them [N, C, H, W]."""
        return self.decoder(self.post(quantized))

    @torch.no_grad()
    def encode_decode(self, frame: Tensor) -> Tensor:
        """What the agent sees of a frame.  [N, C, H, W] in [0, 1] -> the same"""
        return self.picture(self.decode(self.encode(frame).quantized))

    @torch.no_grad()
    def tokenize(self, frame: Tensor) -> Tensor:
        """[N, C, H, W] in [0, 1] -> [N, K] int64"""
        return self.encode(frame).tokens

    @torch.no_grad()
    def decode_tokens(self, tokens: Tensor) -> Tensor:
        """[N, K] -> frames in [0, 1] [N, C, H, W], in float32"""
        return self.picture(self.decode(self.quantizer.lookup(tokens, self.side)))

    @staticmethod
    def picture(decoded: Tensor) -> Tensor:
        """From the decoder's scale to [0, 1]."""
        return ((decoded.float() + 1) / 2).clamp(0, 1)

    def loss(self, frame: Tensor, perceptual: Loss | None = None) -> tuple[dict, Codes, dict]:
        """Of frames in [0, 1] [N, C, H, W]: named losses [N], codes for `Quantizer.follow`, metrics []."""
        codes = self.encode(frame)
        z, quantized = codes.z.float(), codes.quantized.float()
        # Straight through: the decoder sees codewords, and its gradient goes to z as if they were z.  Nothing
        # of it reaches the codebook, which learns from its own term.
        passed = z + (quantized - z).detach()
        target, decoded = 2 * frame - 1, self.decode(passed).float()
        error = (target - decoded).flatten(1)  # [N, C H W]
        losses = {"commit": (z - quantized.detach()).square().flatten(1).mean(1)}  # eq. of appendix A.1
        if self.cfg.codebook == "gradient":
            losses["codebook"] = (z.detach() - quantized).square().flatten(1).mean(1)
        pixel = self.pixel_loss(perceptual is not None)
        if "l1" in pixel:
            losses["l1"] = error.abs().mean(1)
        if "l2" in pixel:
            losses["l2"] = error.square().mean(1)
        if pixel == "l1+l2":
            losses["worst"] = error.square().amax(1)
        if perceptual is not None:
            losses["perceptual"] = perceptual(target, decoded)
        with torch.no_grad():
            mse = error.square().mean() / 4  # of frames in [0, 1]
            share = F.one_hot(codes.tokens, self.cfg.vocab).float().mean((0, 1))  # [V]
            metrics = {
                "tokenizer/psnr": -10 * mse.clamp(min=1e-10).log10(),  # dB
                "tokenizer/perplexity": torch.special.entr(share).sum().exp(),
            }
        return losses, codes, metrics

    def pixel_loss(self, perceptual: bool) -> str:
        """l1, l2 or l1+l2.  Alone, l1 is content with the ground where a scene is sparse."""
        auto = "l1" if perceptual else "l1+l2"
        return auto if self.cfg.pixel_loss == "auto" else self.cfg.pixel_loss

    def scales(self, perceptual: bool) -> dict[str, float]:
        """Weights of the losses (paper: all 1)."""
        scales = {"commit": self.cfg.beta}
        if self.cfg.codebook == "gradient":
            scales["codebook"] = 1.0
        pixel = {"l1": {"l1": 1.0}, "l2": {"l2": 1.0}, "l1+l2": {"l1": 0.1, "l2": 1.0, "worst": 0.01}}
        return scales | pixel[self.pixel_loss(perceptual)] | ({"perceptual": 1.0} if perceptual else {})


def to_frames(image: Tensor) -> Tensor:
    """Stored pictures as frames: uint8 [..., H, W, C] -> [N, C, H, W] in [0, 1], channels last in memory"""
    return (image.flatten(0, -4).float() / 255).permute(0, 3, 1, 2)


def to_images(frame: Tensor) -> Tensor:
    """The inverse, rounded: [N, C, H, W] -> uint8 [N, H, W, C]"""
    return (frame.permute(0, 2, 3, 1) * 255).round().clamp(0, 255).to(torch.uint8)
