"""V: published sizes, the KL and its floor, reductions (sheet section 10)."""

import math

import pytest
import torch
from torch.distributions import Normal
from torch.distributions import kl_divergence as torch_kl

from paper1_world_models.config import VAEConfig
from paper1_world_models.vae import VAE, foreground, kl_divergence, pixel_weight, resample


@pytest.mark.parametrize("latents, count", [(32, 4_348_547), (64, 4_446_915)])
def test_published_parameter_counts(latents, count):
    assert sum(p.numel() for p in VAE(VAEConfig(latents=latents)).parameters()) == count


def test_map_sizes_are_the_papers():
    vae, x = VAE(VAEConfig(width=0.25)), torch.zeros(2, 3, 64, 64)
    sizes = []
    for layer in vae.encoder:
        x = layer(x)
        sizes.append(x.shape[-1])
    assert sizes[::2] == [31, 14, 6, 2]
    x, sizes = vae.expand(torch.zeros(2, 32))[:, :, None, None], []
    for layer in vae.decoder:
        x = layer(x)
        sizes.append(x.shape[-1])
    assert sizes[::2] == [5, 13, 30, 64]
    assert not any(isinstance(m, torch.nn.ReLU) for m in [vae.expand])


@pytest.mark.parametrize("size", [64, 16])
def test_shapes_and_uint8_equals_float(size):
    vae = VAE(VAEConfig(size=size, width=0.25, latents=4))
    frames = torch.randint(0, 256, (3, size, size, 3), dtype=torch.uint8)
    mu, logvar = vae.encode(frames)
    assert mu.shape == logvar.shape == (3, 4)
    assert torch.equal(mu, vae.encode(frames.float() / 255)[0])
    recon = vae.decode(mu)
    assert recon.shape == (3, size, size, 3) and recon.min() >= 0 and recon.max() <= 1


@pytest.mark.parametrize(
    "mu, logvar, kl",
    [(0, 0, 0), (1, 0, 0.5), (0, math.log(4), 0.8068528), (0.5, -1, 0.3089397), (2, -2, 2.5676676)],
)
def test_kl_per_dimension(mu, logvar, kl):
    got = kl_divergence(torch.tensor([[float(mu)]]), torch.tensor([[float(logvar)]]))
    assert got.item() == pytest.approx(kl, abs=1e-6)


def test_kl_equals_torch_distributions():
    mu, logvar = torch.randn(2, 7, 5)
    expected = torch_kl(Normal(mu, (0.5 * logvar).exp()), Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(kl_divergence(mu, logvar), expected)


class Fixed(VAE):
    """A VAE whose encoder and decoder say what the test wants."""

    def fix(self, mu, logvar, recon):
        self.encode = lambda frames: (mu, logvar)
        self.decode = lambda z: recon
        return self


def total_kl(nats: float, latents: int = 32) -> torch.Tensor:
    """A mean vector whose KL to N(0, 1) is `nats` (unit variance)."""
    return torch.full((latents,), math.sqrt(2 * nats / latents))


def test_the_floor_acts_per_image_and_stops_the_gradient():
    mu = torch.stack([total_kl(3), total_kl(40)]).requires_grad_()
    logvar = torch.zeros(2, 32, requires_grad=True)
    frames = torch.zeros(2, 64, 64, 3)
    losses = Fixed(VAEConfig(width=0.25)).fix(mu, logvar, frames).loss(frames, torch.zeros(2, 32))
    torch.testing.assert_close(losses["kl"], torch.tensor([16.0, 40.0]))
    assert losses["kl"].mean().item() == pytest.approx(28)
    losses["kl"].mean().backward()
    assert mu.grad[0].abs().max() == 0 and mu.grad[1].abs().min() > 0
    assert logvar.grad[0].abs().max() == 0


@pytest.mark.parametrize("batch", [1, 7])
def test_the_reconstruction_is_summed_over_pixels_whatever_the_batch(batch):
    frames, recon = torch.zeros(batch, 64, 64, 3), torch.full((batch, 64, 64, 3), 0.5)
    zero = torch.zeros(batch, 32)
    losses = Fixed(VAEConfig(width=0.25)).fix(zero, zero, recon).loss(frames, zero)
    assert losses["recon"].mean().item() == pytest.approx(12_288 * 0.25)
    weighted = (
        Fixed(VAEConfig(width=0.25))
        .fix(zero, zero, recon)
        .loss(frames, zero, torch.full((batch, 64, 64), 5.0))
    )
    assert weighted["recon"].mean().item() == pytest.approx(5 * 3_072)


def test_resampling_has_the_right_moments():
    mu, logvar = torch.tensor([0.7, -2.0]), torch.tensor([0.3, -20.0])
    draws = resample(mu, logvar, torch.randn(20_000, 2, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(draws[:, 0].mean(), mu[0], atol=0.03, rtol=0)
    torch.testing.assert_close(draws[:, 0].var(), logvar[0].exp(), atol=0.05, rtol=0)
    assert not torch.equal(draws[0], draws[1])
    torch.testing.assert_close(draws[:, 1], mu[1].expand(20_000), atol=1e-3, rtol=0)


def test_foreground_masks():
    mean = torch.full((2, 2, 3), 0.5)
    frame = mean.clone()[None]
    frame[0, 0, 0] = torch.tensor([0.9, 0.5, 0.5])  # moves, and burns
    frame[0, 0, 1] = torch.tensor([0.6, 0.5, 0.5])  # too little
    assert foreground(frame, mean, "moving")[0].tolist() == [[True, False], [False, False]]
    assert foreground(frame, mean, "fireball")[0].tolist() == [[True, False], [False, False]]
    cfg = VAEConfig(foreground="moving", foreground_weight=5.0)
    assert pixel_weight(frame, mean, cfg)[0].tolist() == [[5.0, 1.0], [1.0, 1.0]]
    assert pixel_weight(frame, mean, VAEConfig()) is None


def test_one_batch_can_be_overfitted():
    torch.manual_seed(0)
    vae = VAE(VAEConfig(size=16, width=0.25, latents=8))
    frames = torch.randint(0, 256, (8, 16, 16, 3), dtype=torch.uint8)
    optim = torch.optim.Adam(vae.parameters(), lr=3e-3)
    first = None
    for _ in range(150):
        losses = vae.loss(frames, torch.zeros(8, 8))
        first = first or losses["recon"].mean().item()
        optim.zero_grad()
        sum(loss.mean() for loss in losses.values()).backward()
        optim.step()
    assert losses["recon"].mean().item() < 0.6 * first
