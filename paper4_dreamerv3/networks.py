"""The layers of DreamerV3, its encoder and its decoder (paper, "Networks"; HEAD: the authors' last code).

Every hidden layer is Linear or Conv with bias, RMSNorm, SiLU.  Pictures are uint8 [H, W, C] as they lie in
the replay.  Letters: ... any leading dims, H W C picture, E tokens, D deter, Z flat stoch, U units, d depth,
G blocks.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError
from common.spaces import Spaces
from paper4_dreamerv3.config import Config, ConvConfig
from paper4_dreamerv3.symlog import symlog

GREAT = 1.1368  # a normal cut at 2 sigma has the std 1 / 1.1368 of the whole one


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + 1e-4), times a learned scale, in float32; no offset.  Over the last axis."""

    def __init__(self, size: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.scale.shape, self.scale, 1e-4).to(x.dtype)


def init_(weight: Tensor, fan_in: int, scale: float = 1.0) -> None:
    """Truncated normal of std scale * sqrt(1 / fan_in), cut at twice that of the uncut one (HEAD)."""
    if scale == 0:
        nn.init.zeros_(weight)
        return
    nn.init.trunc_normal_(weight, 0.0, 1.0, -2.0, 2.0)
    with torch.no_grad():
        weight.mul_(GREAT * scale / math.sqrt(fan_in))


def linear(inputs: int, outputs: int, scale: float = 1.0, fan_in: int = 0) -> nn.Linear:
    """A dense layer with our initialisation.  fan_in: where the layer is a part of a wider one."""
    layer = nn.Linear(inputs, outputs)
    init_(layer.weight, fan_in or inputs, scale)
    nn.init.zeros_(layer.bias)
    return layer


class BlockLinear(nn.Module):
    """A dense layer with a block-diagonal matrix.  [..., in] -> [..., G, out / G]

    fan_in of the initialisation is the full width, not the block's (HEAD).
    """

    def __init__(self, inputs: int, outputs: int, blocks: int, fan_in: int = 0, bias: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(blocks, inputs // blocks, outputs // blocks))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        init_(self.weight, fan_in or inputs)

    def forward(self, x: Tensor) -> Tensor:
        G, block_in, block_out = self.weight.shape
        lead = x.shape[:-1]
        x = x.reshape(-1, G, block_in).transpose(0, 1)  # [G, N, in / G]
        if self.bias is None:
            out = torch.bmm(x, self.weight)
        else:
            out = torch.baddbmm(self.bias.view(G, 1, block_out), x, self.weight)
        return out.transpose(0, 1).reshape(*lead, G, block_out)


class Dense(nn.Module):
    """Linear, RMSNorm, SiLU.  [..., in] -> [..., out]"""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.linear, self.norm = linear(inputs, outputs), RMSNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.norm(self.linear(x)))


class MLP(nn.Module):
    """Dense layers, then a bare linear layer whose initial weights are scaled.  [..., in] -> [..., out]"""

    def __init__(self, inputs: int, layers: int, units: int, outputs: int, out_scale: float = 1.0):
        super().__init__()
        sizes = [inputs] + [units] * layers
        self.hidden = nn.Sequential(*(Dense(a, b) for a, b in zip(sizes[:-1], sizes[1:], strict=True)))
        self.out = linear(sizes[-1], outputs, out_scale)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.hidden(x))


class Conv(nn.Module):
    """5 x 5 convolution, same size; with `norm` RMSNorm over channels and SiLU.  Channels last throughout.

    stride 2 halves the picture; pool takes maxima of 2 x 2 in its place (twice the work, HEAD's default).
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, pool: bool = False, norm: bool = True):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 5, stride, 2)
        init_(self.conv.weight, 25 * inputs)
        nn.init.zeros_(self.conv.bias)
        self.conv.to(memory_format=torch.channels_last)
        self.norm, self.pool = RMSNorm(outputs) if norm else None, pool

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] channels last in memory -> the same"""
        x = self.conv(x)
        if self.pool:
            x = F.max_pool2d(x, 2)
        return x if self.norm is None else norm_silu(self.norm, x)


class UpConv(nn.Module):
    """Twice the size: nearest neighbour, then a convolution; or one transposed convolution with stride 2."""

    def __init__(self, inputs: int, outputs: int, strided: bool, norm: bool = True):
        super().__init__()
        if strided:
            self.conv = nn.ConvTranspose2d(inputs, outputs, 5, 2, 2, 1)
        else:
            self.conv = nn.Conv2d(inputs, outputs, 5, 1, 2)
        init_(self.conv.weight, 25 * inputs)
        nn.init.zeros_(self.conv.bias)
        self.conv.to(memory_format=torch.channels_last)
        self.norm, self.strided = RMSNorm(outputs) if norm else None, strided

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] channels last in memory -> [N, C', 2 H, 2 W]"""
        x = self.conv(x if self.strided else F.interpolate(x, scale_factor=2.0))
        return x if self.norm is None else norm_silu(self.norm, x)


def norm_silu(norm: RMSNorm, x: Tensor) -> Tensor:
    """RMSNorm over the channels of [N, C, H, W], then SiLU."""
    return F.silu(norm(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


class Encoder(nn.Module):
    """All observations of a row -> tokens: convolutions for pictures, an MLP on symlog for vectors."""

    def __init__(self, cfg: Config, spaces: Spaces):
        super().__init__()
        self.images, self.vectors, self.size = spaces.images, spaces.vectors, 0
        self.squash = symlog if cfg.model.symlog else nn.Identity()
        if self.vectors:
            inputs = sum(spaces.obs[key][0] for key in self.vectors)
            sizes = [inputs] + [cfg.units] * cfg.conv.layers
            self.mlp = nn.Sequential(*(Dense(a, b) for a, b in zip(sizes[:-1], sizes[1:], strict=True)))
            self.size += cfg.units
        if self.images:
            edge, channels = image_shape(cfg.conv, spaces)
            widths = [channels] + [cfg.conv.depth * mult for mult in cfg.conv.mults]
            strided = cfg.conv.cnn == "strided"
            self.convs = nn.Sequential(
                *(
                    Conv(a, b, stride=2 if strided else 1, pool=not strided)
                    for a, b in zip(widths[:-1], widths[1:], strict=True)
                )
            )
            self.size += edge**2 * widths[-1]

    def forward(self, obs: dict[str, Tensor]) -> Tensor:
        """{key: [..., H, W, C] uint8 or [..., D]} -> [..., E]"""
        parts = []
        if self.vectors:
            parts.append(self.mlp(self.squash(torch.cat([obs[key].float() for key in self.vectors], -1))))
        if self.images:
            image = torch.cat([obs[key] for key in self.images], -1)  # [..., H, W, C]
            x = (image.flatten(0, -4).float() / 255 - 0.5).permute(0, 3, 1, 2)
            parts.append(self.convs(x).flatten(1).unflatten(0, image.shape[:-3]))
        return torch.cat(parts, -1)


class Decoder(nn.Module):
    """Latents -> every observation: pictures in [0, 1], vectors in symlog space."""

    def __init__(self, cfg: Config, spaces: Spaces):
        super().__init__()
        deter, stoch, blocks = cfg.rssm.deter, cfg.rssm.stoch * cfg.rssm.classes, cfg.rssm.blocks
        self.shapes = dict(spaces.obs)
        self.images, self.vectors = spaces.images, spaces.vectors
        if self.vectors:
            outputs = sum(self.shapes[key][0] for key in self.vectors)
            self.mlp = MLP(stoch + deter, cfg.conv.layers, cfg.units, outputs)
        if self.images:
            self.edge, channels = image_shape(cfg.conv, spaces)
            widths = [cfg.conv.depth * mult for mult in reversed(cfg.conv.mults)] + [channels]
            size = self.edge**2 * widths[0]
            # What lies in h comes through blocks, each with channels of its own; what lies in z from a layer.
            self.from_deter = BlockLinear(deter, size, blocks)
            self.from_stoch = nn.Sequential(Dense(stoch, 2 * cfg.units), linear(2 * cfg.units, size))
            self.norm = RMSNorm(widths[0])
            pairs = list(zip(widths[:-1], widths[1:], strict=True))
            strided = cfg.conv.cnn == "strided"
            self.convs = nn.Sequential(*(UpConv(a, b, strided) for a, b in pairs[:-1]))
            self.last = UpConv(*pairs[-1], strided, norm=False)

    def forward(self, deter: Tensor, stoch: Tensor) -> dict[str, Tensor]:
        """[..., D], [..., Z] -> {key: [..., H, W, C] in [0, 1] or [..., D] in symlog space}"""
        means = {}
        if self.vectors:
            sizes = [self.shapes[key][0] for key in self.vectors]
            out = self.mlp(torch.cat([stoch, deter], -1))
            means |= dict(zip(self.vectors, out.split(sizes, -1), strict=True))
        if self.images:
            lead, m = deter.shape[:-1], self.edge
            blocks = self.from_deter(deter).flatten(0, -3)  # [N, G, m m c]
            x = blocks.unflatten(-1, (m, m, -1)).permute(0, 2, 3, 1, 4).flatten(-2)  # [N, m, m, G c]
            x = x + self.from_stoch(stoch).view(x.shape)
            x = F.silu(self.norm(x)).permute(0, 3, 1, 2)
            image = self.last(self.convs(x)).float().sigmoid().permute(0, 2, 3, 1).unflatten(0, lead)
            sizes = [self.shapes[key][-1] for key in self.images]
            means |= dict(zip(self.images, image.split(sizes, -1), strict=True))
        return means


def image_shape(cfg: ConvConfig, spaces: Spaces) -> tuple[int, int]:
    """Edge of the smallest map and channels of all pictures stacked; UserError where they do not fit."""
    shapes = [spaces.obs[key] for key in spaces.images]
    side, stages = shapes[0][0], len(cfg.mults)
    edge = side // 2**stages
    square = all(shape[:2] == (side, side) for shape in shapes)
    if not square or side % 2**stages or not 3 <= edge <= 16:
        raise UserError(
            f"pictures {shapes}: they must be square, of one size, and {3 * 2**stages} to {16 * 2**stages} "
            f"pixels wide in steps of {2**stages}"
        )
    return edge, sum(shape[2] for shape in shapes)
