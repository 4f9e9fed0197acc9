"""Layers of the autoencoder: residual blocks, attention over a map, and the two ways to change its size.

The convolutional stack of VQGAN in the sizes of the paper's tables 1 and 2.  All maps lie channels last in
memory, as pictures do in the replay, so attention over places needs no copy.
Letters: N frames, C channels, H W sides of a map.
"""

import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-6  # of the GroupNorms (C)


def norm(channels: int, groups: int) -> nn.GroupNorm:
    """GroupNorm with scale and offset."""
    return nn.GroupNorm(groups, channels, EPS)


class ResBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))).  [N, C, H, W] -> [N, C', H, W]"""

    def __init__(self, inputs: int, outputs: int, groups: int):
        super().__init__()
        self.norm1, self.conv1 = norm(inputs, groups), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2, self.conv2 = norm(outputs, groups), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return self.skip(x) + h


class Attention(nn.Module):
    """x + what every place reads of all places, one head.  [N, C, H, W] -> the same

    Queries, keys and values come from one 1 x 1 convolution: the parameters of three, in one pass.
    """

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.norm = norm(channels, groups)
        self.qkv, self.out = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        N, C, H, W = x.shape
        qkv = self.qkv(self.norm(x)).permute(0, 2, 3, 1).reshape(N, 1, H * W, 3 * C)
        h = F.scaled_dot_product_attention(*qkv.split(C, -1))  # [N, 1, H W, C], scale 1 / sqrt(C)
        return x + self.out(h.reshape(N, H, W, C).permute(0, 3, 1, 2))


class Down(nn.Module):
    """Half the side: pad right and bottom by one, then stride 2.  [N, C, H, W] -> [N, C, H / 2, W / 2]"""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Up(nn.Module):
    """Twice the side: nearest neighbour, then a convolution.  [N, C, H, W] -> [N, C, 2 H, 2 W]"""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0))


def level(inputs: int, outputs: int, blocks: int, groups: int, attend: bool) -> list[nn.Module]:
    """Residual blocks at one size of the map, each with attention behind it or not."""
    layers: list[nn.Module] = []
    for i in range(blocks):
        layers.append(ResBlock(inputs if i == 0 else outputs, outputs, groups))
        if attend:
            layers.append(Attention(outputs, groups))
    return layers


def middle(channels: int, groups: int) -> list[nn.Module]:
    """What lies between encoder and codes, and between codes and decoder."""
    block = ResBlock(channels, channels, groups), Attention(channels, groups)
    return [*block, ResBlock(channels, channels, groups)]
