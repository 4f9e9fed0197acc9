"""Encoder, decoder and the dense heads of DreamerV1 (paper, appendix A), with Keras' initialisers.

Pictures are uint8 [H, W, C] as they lie in the replay; the encoder brings them to [-0.5, 0.5] on the device.
No frame stack, no augmentation, no normalisation layer: V1 has none.
Letters: ... any leading dims, H W C picture, D vector size, E embedding, F feature, d depth.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError
from common.spaces import Spaces
from paper2_dreamerv1.config import ConvConfig

KERNELS = {64: (5, 5, 6, 6), 32: (5, 6, 6)}  # of the decoder, VALID, stride 2; the encoder has 4s, as many


def preprocess(image: Tensor) -> Tensor:
    """uint8 [..., H, W, C] -> float [..., H, W, C] in [-0.5, 0.5]"""
    return image.float() / 255 - 0.5


def to_pixels(image: Tensor) -> Tensor:
    """The inverse: float [..., H, W, C] -> uint8"""
    return ((image.float() + 0.5) * 255).round().clamp(0, 255).to(torch.uint8)


class MLP(nn.Module):
    """Dense layers of `units` with ELU, then one linear layer.  [..., in] -> [..., out]"""

    def __init__(self, inputs: int, layers: int, units: int, outputs: int):
        super().__init__()
        sizes = [inputs] + [units] * layers
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes[:-1], sizes[1:], strict=True))
        self.out = nn.Linear(sizes[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.hidden:
            x = F.elu(layer(x), inplace=True)
        return self.out(x)


class Encoder(nn.Module):
    """All observations of a row -> one embedding: convolutions for pictures, an MLP for vectors."""

    def __init__(self, cfg: ConvConfig, spaces: Spaces):
        super().__init__()
        self.images, self.vectors, self.size = spaces.images, spaces.vectors, 0
        if self.images:
            edge, channels = image_shape(spaces)
            stages = len(KERNELS[edge])
            widths = [channels] + [cfg.depth * 2**i for i in range(stages)]
            self.convs = nn.ModuleList(
                nn.Conv2d(a, b, 4, 2) for a, b in zip(widths[:-1], widths[1:], strict=True)
            )
            # As pictures lie in the replay: 1.4 times faster (M).
            self.convs.to(memory_format=torch.channels_last)
            self.size += 4 * widths[-1]  # 2 x 2 positions are left
        if self.vectors:
            inputs = sum(spaces.obs[key][0] for key in self.vectors)
            self.mlp = MLP(inputs, cfg.layers, cfg.units, cfg.units)
            self.size += cfg.units

    def forward(self, obs: dict[str, Tensor]) -> Tensor:
        """{key: [..., H, W, C] uint8 or [..., D]} -> [..., E]"""
        parts = []
        if self.images:
            image = torch.cat([obs[key] for key in self.images], -1)  # [..., H, W, C]
            lead = image.shape[:-3]
            x = preprocess(image.flatten(0, -4)).permute(0, 3, 1, 2)  # [N, C, H, W], channels last in memory
            for conv in self.convs:
                x = F.relu(conv(x), inplace=True)
            parts.append(x.flatten(1).unflatten(0, lead))  # [..., 4 * 8d]
        if self.vectors:
            vector = torch.cat([obs[key] for key in self.vectors], -1)  # [..., D]
            parts.append(F.elu(self.mlp(vector)))
        return torch.cat(parts, -1)


class Decoder(nn.Module):
    """Features -> the mean of a unit-variance Gaussian for every observation."""

    def __init__(self, cfg: ConvConfig, feature: int, spaces: Spaces):
        super().__init__()
        self.shapes = dict(spaces.obs)
        self.images, self.vectors = spaces.images, spaces.vectors
        if self.images:
            edge, channels = image_shape(spaces)
            kernels = KERNELS[edge]
            start = 4 * cfg.depth * 2 ** (len(kernels) - 1)
            self.dense = nn.Linear(feature, start)  # no activation
            widths = [start] + [cfg.depth * 2**i for i in reversed(range(len(kernels) - 1))] + [channels]
            self.convs = nn.ModuleList(
                nn.ConvTranspose2d(a, b, k, 2)
                for a, b, k in zip(widths[:-1], widths[1:], kernels, strict=True)
            )
            self.convs.to(memory_format=torch.channels_last)
        if self.vectors:
            outputs = sum(self.shapes[key][0] for key in self.vectors)
            self.mlp = MLP(feature, cfg.layers, cfg.units, outputs)

    def forward(self, feat: Tensor) -> dict[str, Tensor]:
        """[..., F] -> {key: [..., H, W, C] in [-0.5, 0.5] or [..., D]}"""
        means = {}
        if self.images:
            x = self.dense(feat.flatten(0, -2))  # [N, 4 * 8d]
            # From a single position a transposed convolution is a product of matrices: 8 times faster (M).
            first = self.convs[0]
            x = (x @ first.weight.flatten(1)).unflatten(1, first.weight.shape[1:])  # [N, 4d, 5, 5]
            x = F.relu(x + first.bias[:, None, None]).contiguous(memory_format=torch.channels_last)
            for conv in self.convs[1:-1]:
                x = F.relu(conv(x), inplace=True)
            image = self.convs[-1](x).permute(0, 2, 3, 1).unflatten(0, feat.shape[:-1])  # [..., H, W, C]
            sizes = [self.shapes[key][-1] for key in self.images]
            means |= dict(zip(self.images, image.split(sizes, -1), strict=True))
        if self.vectors:
            sizes = [self.shapes[key][0] for key in self.vectors]
            means |= dict(zip(self.vectors, self.mlp(feat).split(sizes, -1), strict=True))
        return means


def image_shape(spaces: Spaces) -> tuple[int, int]:
    """Edge and channels of all pictures stacked; UserError for an edge that the convolutions do not fit."""
    shapes = [spaces.obs[key] for key in spaces.images]
    edge = shapes[0][0]
    if any(shape[:2] != (edge, edge) for shape in shapes) or edge not in KERNELS:
        raise UserError(f"pictures {shapes}: they must be square, of one size, and 64 or 32 pixels wide")
    return edge, sum(shape[2] for shape in shapes)


def init_keras_(module: nn.Module) -> None:
    """Keras' defaults: Glorot-uniform kernels, orthogonal recurrent kernels, zero biases.

    PyTorch's own (Kaiming-uniform with a = sqrt(5), random biases) are not equivalent.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.GRUCell):  # both kernels are initialised over all three gates together
            nn.init.xavier_uniform_(part.weight_ih)
            nn.init.orthogonal_(part.weight_hh)
            nn.init.zeros_(part.bias_ih)
            nn.init.zeros_(part.bias_hh)


def gaussian_nll(mean: Tensor, target: Tensor, dims: int) -> Tensor:
    """-log N(target; mean, 1) without its constant, summed over the last `dims` dims.  [B, T, ...] -> [B, T]

    The constant is 0.9189 for each number (11,291.92 for a 64 x 64 x 3 picture); leaving it out changes no
    gradient.
    """
    error = F.mse_loss(mean.float(), target.float(), reduction="none")
    return 0.5 * error.flatten(-dims).sum(-1) if dims else 0.5 * error
