"""V, the vision model: a convolutional variational autoencoder (paper 1, section "VAE (V) Model"; appendix
A.1).

One frame becomes a small vector z.  Four strided convolutions down, four transposed ones up, no padding
anywhere, so the map sizes are 64 -> 31 -> 14 -> 6 -> 2 and 1 -> 5 -> 13 -> 30 -> 64.  At width 1 and 32
latents this is the published 4,348,547 parameters.

Shapes: N frames, H = W = 64 pixels, C = 3 colours, Z latents.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.metrics import active_units
from paper1_world_models.config import VAEConfig

# Frame size -> (channels of the encoder, kernels of the decoder).  64 is the paper's; 16 serves quick tests.
STACKS = {64: ((32, 64, 128, 256), (5, 5, 6, 6)), 16: ((32, 64), (6, 6))}
# exp(10) would already be a useless latent; the clamp keeps an early spike from becoming NaN.
LOGVAR_LIMIT = 10.0


class VAE(nn.Module):
    """Frames [N, H, W, C] <-> latents [N, Z]."""

    def __init__(self, cfg: VAEConfig):
        super().__init__()
        self.cfg = cfg
        channels, kernels = STACKS[cfg.size]
        channels = [max(1, int(c * cfg.width)) for c in channels]
        self.encoder = nn.Sequential()
        for c_in, c_out in zip([cfg.channels, *channels[:-1]], channels, strict=True):
            self.encoder += nn.Sequential(nn.Conv2d(c_in, c_out, 4, stride=2), nn.ReLU())
        self.flat = channels[-1] * 2 * 2  # the last map is 2 x 2: 1024 numbers at width 1
        self.mu = nn.Linear(self.flat, cfg.latents)
        self.logvar = nn.Linear(self.flat, cfg.latents)
        self.expand = nn.Linear(cfg.latents, self.flat)  # no activation behind it, as the authors have it
        widths = [self.flat, *channels[-2::-1], cfg.channels]
        self.decoder = nn.Sequential()
        for i, (c_in, c_out, k) in enumerate(zip(widths[:-1], widths[1:], kernels, strict=True)):
            last = i == len(kernels) - 1
            self.decoder += nn.Sequential(
                nn.ConvTranspose2d(c_in, c_out, k, stride=2), nn.Sigmoid() if last else nn.ReLU()
            )
        # NHWC frames arrive without a copy, and CPU kernels are faster.
        self.to(memory_format=torch.channels_last)

    @property
    def can_draw(self) -> bool:
        """Is the decoder here?  What is carried to another machine lacks it (carry.py)."""
        return hasattr(self, "decoder")

    def forget_decoder(self) -> None:
        """Keep what acting needs."""
        del self.expand, self.decoder

    def encode(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(z|x).  frames: uint8 or float in [0, 1], [N, H, W, C] -> two [N, Z]"""
        x = to_float(frames).permute(0, 3, 1, 2)  # [N, C, H, W]
        x = self.encoder(x).flatten(1)  # [N, 1024]
        return self.mu(x), self.logvar(x).clamp(-LOGVAR_LIMIT, LOGVAR_LIMIT)

    def decode(self, z: Tensor) -> Tensor:
        """The frame that z stands for.  [N, Z] -> float in [0, 1], [N, H, W, C]"""
        x = self.expand(z)[:, :, None, None]  # [N, 1024, 1, 1]
        return self.decoder(x).permute(0, 2, 3, 1)  # [N, H, W, C]

    def loss(self, frames: Tensor, eps: Tensor, weight: Tensor | None = None) -> dict[str, Tensor]:
        """The two terms of the loss, one number per frame, not yet reduced.

        frames: [N, H, W, C]; eps: standard normal [N, Z]; weight: [N, H, W] or None -> {"recon": [N], "kl":
        [N]}
        """
        mu, logvar = self.encode(frames)
        recon = self.decode(resample(mu, logvar, eps))
        error = (recon - to_float(frames)).square().sum(-1)  # [N, H, W]; summed over colours
        if weight is not None:
            # differs: the paper weighs all pixels alike and loses what is small (README).
            error = error * weight
        floor = self.cfg.kl_tolerance * self.cfg.latents
        # Summed over pixels, never averaged: averaging would let the KL win and V would forget the image.
        return {
            "recon": self.cfg.recon_scale * error.sum((1, 2)),
            "kl": kl_divergence(mu, logvar).clamp_min(floor),
        }


def kl_divergence(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, exp(logvar)) || N(0, 1)) in nats, summed over latents.  two [N, Z] -> [N]"""
    return -0.5 * (1 + logvar - mu.square() - logvar.exp()).sum(-1)


def resample(mu: Tensor, logvar: Tensor, eps: Tensor) -> Tensor:
    """The reparameterised draw z = mu + sigma * eps.  three [..., Z] -> [..., Z]"""
    return mu + (0.5 * logvar).exp() * eps


def to_float(frames: Tensor) -> Tensor:
    """uint8 frames become float in [0, 1]; float frames pass."""
    return frames.float() / 255 if frames.dtype == torch.uint8 else frames


def pixel_weight(frames: Tensor, mean_image: Tensor, cfg: VAEConfig) -> Tensor | None:
    """Where the reconstruction must not be sloppy.  uint8 [N, H, W, C] and float [H, W, C] -> [N, H, W] or
    None

    "moving": a colour differs from the mean image by more than 0.15; "fireball": bright red without blue
    (TakeCover).
    """
    if cfg.foreground == "none":
        return None
    return 1.0 + (cfg.foreground_weight - 1.0) * foreground(frames, mean_image, cfg.foreground).float()


def foreground(frames: Tensor, mean_image: Tensor, kind: str) -> Tensor:
    """Boolean mask of the pixels that matter.  [N, H, W, C], [H, W, C] -> [N, H, W]"""
    x = to_float(frames)
    if kind == "fireball":
        return (x[..., 0] > 0.8) & (x[..., 2] < 0.75)
    return ((x - mean_image).abs() > 0.15).any(-1)


@torch.inference_mode()
def encode_all(vae: VAE, frames: np.ndarray, batch: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Encode many frames once.  uint8 [N, H, W, C] -> mu, logvar: float16 [N, Z] (section 2.4 of the
    sheet's source)"""
    device = next(vae.parameters()).device
    mu = np.empty((len(frames), vae.cfg.latents), np.float16)
    logvar = np.empty_like(mu)
    for i in range(0, len(frames), batch):
        m, v = vae.encode(torch.from_numpy(np.ascontiguousarray(frames[i : i + batch])).to(device))
        mu[i : i + batch], logvar[i : i + batch] = m.cpu().numpy(), v.cpu().numpy()
    return mu, logvar


def reconstruction_error(vae: VAE, frames: Tensor, mean_image: Tensor) -> dict[str, float]:
    """Held-out error beside that of the mean image, both summed over pixels and averaged over frames (the
    gate of V).

    uint8 [N, H, W, C], float [H, W, C] -> recon, mean_image, mse (per value), kl, active_units (latents in
    use) and, where a foreground is weighted, the mean squared error per foreground value of both.
    """
    with torch.inference_mode():
        mu, logvar = vae.encode(frames)
        x, recon = to_float(frames), vae.decode(mu)
        out = {
            "recon": (recon - x).square().sum((1, 2, 3)).mean().item(),
            "mean_image": (mean_image - x).square().sum((1, 2, 3)).mean().item(),
            "mse": F.mse_loss(recon, x).item(),
            "kl": kl_divergence(mu, logvar).mean().item(),
            "active_units": active_units(mu),
        }
        if vae.cfg.foreground != "none":
            mask = foreground(frames, mean_image, vae.cfg.foreground)
            if mask.any():
                out["foreground"] = F.mse_loss(recon[mask], x[mask]).item()
                out["foreground_mean_image"] = F.mse_loss(mean_image.expand_as(x)[mask], x[mask]).item()
    return out
