"""LPIPS, the perceptual term of the tokenizer's loss (paper, appendix A.1; Zhang et al. 2018, version 0.1).

VGG16 is torchvision's, the weights of its layers' heads are those of the `lpips` package, and neither is
imported before it is asked for.  VGG16's weights are a download of 528 MB: `--perceptual on` fetches them,
`auto` uses them only where they are.  `Perceptual` is no nn.Module on purpose: a network that holds it
neither trains nor saves it, nor puts it in train mode.  Letters: N frames, C H W picture, F features.
"""

import importlib.util
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError
from paper5_iris.config import Config

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of pictures in [-1, 1] (LPIPS)
TAPS = (3, 8, 15, 22, 29)  # relu1_2, 2_2, 3_3, 4_3, 5_3 of VGG16's features
EPS = 1e-10  # beside the norm of features (LPIPS)


class Perceptual:
    """Weighted distance of the features of two pictures."""

    def __init__(
        self, trunk: nn.Sequential, heads: Sequence[Tensor], taps: Sequence[int] = TAPS, dropout: bool = False
    ):
        """trunk: its layers up to the last tap; heads: a weight >= 0 per feature of each tap [F].

        dropout: half of the differences is left out, at random, as in the authors' code while it trains.
        """
        self.trunk = trunk.eval().requires_grad_(False)
        self.heads = [head.detach().clone() for head in heads]
        self.taps, self.dropout = tuple(taps), dropout
        device = self.heads[0].device
        self.shift, self.scale = (torch.tensor(x, device=device).view(1, 3, 1, 1) for x in (SHIFT, SCALE))

    def features(self, picture: Tensor) -> list[Tensor]:
        """Of unit length over the channels.  [N, 3, H, W] in [-1, 1] -> [N, F, h, w] at each tap"""
        x, found = (picture - self.shift) / self.scale, []
        for i, layer in enumerate(self.trunk):
            x = layer(x)
            if i in self.taps:
                # Where all features are 0 the root has no gradient; the ReLU before it passes none on anyway.
                found.append(x / (x.float().square().sum(1, keepdim=True).sqrt() + EPS))
        return found

    def __call__(self, target: Tensor, decoded: Tensor) -> Tensor:
        """LPIPS of pictures in [-1, 1] [N, C, H, W], one channel or three -> [N]"""
        target, decoded = (x.expand(-1, 3, -1, -1) for x in (target, decoded))
        with torch.no_grad():  # of the picture itself nobody needs a gradient
            wanted = self.features(target)
        total = 0.0
        for head, a, b in zip(self.heads, wanted, self.features(decoded), strict=True):
            error = (a - b).float().square()  # [N, F, h, w]
            error = F.dropout(error, 0.5, self.dropout)
            total = total + torch.einsum("nfhw,f->nhw", error, head).mean((1, 2))
        return total


def load_perceptual(cfg: Config, channels: int, device: Any) -> tuple[Perceptual | None, str]:
    """What the settings ask for, or None, and one line that says which and why.

    UserError where `on` or a file was asked for and something is missing.
    """
    kind = f"pixel loss {cfg.tokenizer.pixel_loss}"
    if cfg.tokenizer.pixel_loss == "auto":
        kind = "pixel loss l1+l2"
    if cfg.perceptual == "off":
        return None, f"perceptual loss: off; {kind}"
    is_wanted = cfg.perceptual == "on" or cfg.perceptual_weights is not None
    try:
        if channels not in (1, 3):
            raise UserError(f"pictures with {channels} channels: the perceptual loss takes 1 or 3")
        heads = load_heads()
        trunk = load_trunk(cfg.perceptual_weights, download=cfg.perceptual == "on")
    except UserError as error:
        if is_wanted:
            raise UserError(f"{error}; or --perceptual off") from error
        return None, f"perceptual loss: off, for {error}; {kind}"
    trunk = trunk.to(device, memory_format=torch.channels_last)
    loss = Perceptual(trunk, [head.to(device) for head in heads], dropout=cfg.tokenizer.lpips_dropout)
    kind = "l1" if cfg.tokenizer.pixel_loss == "auto" else cfg.tokenizer.pixel_loss
    return loss, f"perceptual loss: LPIPS with VGG16; pixel loss {kind}"


def load_heads() -> list[Tensor]:
    """The five heads out of the files of the `lpips` package, which is not imported.  -> [F] each"""
    spec = importlib.util.find_spec("lpips")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("the perceptual loss needs lpips: pip install lpips")
    file = Path(spec.submodule_search_locations[0]) / "weights" / "v0.1" / "vgg.pth"
    data = read(file, "pip install lpips==0.1.4")
    try:
        return [data[f"lin{i}.model.1.weight"].flatten().float() for i in range(len(TAPS))]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} does not hold the heads of VGG16: pip install lpips==0.1.4") from error


def load_trunk(weights: str | None, download: bool = False) -> nn.Sequential:
    """VGG16's layers up to the last tap, from a file, torch's cache, or a download."""
    try:
        from torchvision import models
    except (
        ImportError,
        RuntimeError,
        OSError,
    ) as error:  # a CPU torch beside a CUDA torchvision cannot load it
        why = " ".join(str(error).split())
        raise UserError(
            f"the perceptual loss needs torchvision, which cannot be imported ({why}): "
            f"install the torchvision of torch {torch.__version__}"
        ) from error
    url = models.VGG16_Weights.IMAGENET1K_V1.url
    file = Path(weights or Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1])
    if weights is None and not file.exists():
        if not download:
            raise UserError(f"VGG16's weights are not in {file.parent}: --perceptual on downloads 528 MB")
        try:
            torch.hub.load_state_dict_from_url(url, weights_only=True)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"{url} could not be fetched ({' '.join(str(error).split())}): "
                "fetch it elsewhere and give --perceptual-weights FILE"
            ) from error
    data = read(file, "--perceptual-weights FILE: a state dict of torchvision's vgg16")
    trunk = models.vgg16(weights=None).features[: TAPS[-1] + 1]
    if not isinstance(data, dict):
        data = {}
    # Of the whole network, or of the features alone.
    own = {name.removeprefix("features."): value for name, value in data.items() if "classifier" not in name}
    wanted = trunk.state_dict()
    if missing := [name for name in wanted if getattr(own.get(name), "shape", None) != wanted[name].shape]:
        raise UserError(
            f"{file} is no state dict of VGG16 (features.{missing[0]} is missing or of another shape): "
            "give --perceptual-weights FILE"
        )
    trunk.load_state_dict({name: own[name] for name in wanted})
    return trunk


def read(file: Path, remedy: str) -> Any:
    """A file of tensors, by torch's safe loader.  UserError for one that is missing, torn or hostile."""
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError, KeyError) as error:
        why = "is missing" if not file.exists() else "cannot be read as tensors"
        raise UserError(f"{file} {why}: {remedy}") from error
