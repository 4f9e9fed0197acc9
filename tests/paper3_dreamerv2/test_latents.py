"""The two kinds of z: KL and entropy against torch, exact draws, straight-through gradients (12.5, 12.7)."""

import math

import pytest
import torch
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from paper3_dreamerv2.config import RSSMConfig
from paper3_dreamerv2.rssm import CategoricalLatent, GaussianLatent

LN3 = math.log(3)


def categorical(groups: int, classes: int) -> CategoricalLatent:
    return CategoricalLatent(RSSMConfig(stoch=groups, classes=classes))


def as_torch(logits: torch.Tensor) -> Independent:
    """[..., G, C] -> one distribution over all G variables."""
    return Independent(Categorical(logits=logits), 1)


# --- categorical


@pytest.mark.parametrize(
    "post, prior, nats",
    [([0.5, 0.5], [0.9, 0.1], 0.510826), ([0.9, 0.1], [0.5, 0.5], 0.368064), ([0.2, 0.8], [0.2, 0.8], 0)],
)
@pytest.mark.parametrize("copies", [1, 32])
def test_kl_values_are_summed_over_the_variables(post, prior, nats, copies):
    latent = categorical(copies, 2)
    stats = [torch.tensor(probs).log().repeat(copies) for probs in (post, prior)]
    assert latent.kl(*stats).item() == pytest.approx(copies * nats, abs=1e-6 * copies)


def test_kl_and_entropy_equal_torchs():
    latent, logits = categorical(5, 7), 3 * torch.randn(2, 3, 4, 35)
    post, prior = (as_torch(part.unflatten(-1, (5, 7))) for part in logits)
    torch.testing.assert_close(latent.kl(*logits), kl_divergence(post, prior))
    torch.testing.assert_close(latent.entropy(logits[0]), post.entropy())


def test_the_entropy_of_32_uniform_variables():
    stats = torch.zeros(2, 1024)
    assert categorical(32, 32).entropy(stats).tolist() == pytest.approx([110.9035] * 2, abs=1e-4)


def test_statistics_are_the_layers_output_no_uniform_share_is_mixed_in():
    latent, raw = categorical(2, 3), 50 * torch.randn(4, 6)
    assert torch.equal(latent.stats(raw), raw)
    sure = latent.logits(torch.tensor([100.0, 0, 0, 0, 0, 0]))[0].softmax(-1)
    assert sure[1:].max() < 1e-40  # V3 would leave 0.33 % to each


def test_draws_are_one_hot_and_as_frequent_as_softmax_says():
    """The largest of logits + Gumbel noise is an exact draw: chi-square against the probabilities."""
    latent, N = categorical(3, 5), 40_000
    stats = 1.5 * torch.randn(15, generator=torch.Generator().manual_seed(0))
    noise = latent.noise(N, like=stats, generator=torch.Generator().manual_seed(1))
    assert noise.shape == (N, 3, 5)
    draws = latent.sample(stats.expand(N, 15), noise).unflatten(-1, (3, 5))
    assert torch.equal(draws.sum(-1), torch.ones(N, 3)) and set(draws.unique().tolist()) == {0, 1}
    probs = stats.unflatten(-1, (3, 5)).softmax(-1)
    chi2 = (N * (draws.mean(0) - probs) ** 2 / probs).sum(-1)  # 4 degrees of freedom each
    assert chi2.max() < 18.5  # one in a thousand
    joint = torch.einsum("na,nb->ab", draws[:, 0], draws[:, 1]) / N  # the variables are independent
    assert (joint - probs[0, :, None] * probs[1]).abs().max() < 0.01


def test_noise_of_many_rows_is_drawn_as_that_of_one():
    latent, like = categorical(2, 3), torch.zeros(1)
    first, second = (
        latent.noise(4, 5, like=like, generator=torch.Generator().manual_seed(s)) for s in (0, 1)
    )
    again = latent.noise(4, 5, like=like, generator=torch.Generator().manual_seed(0))
    assert torch.equal(first, again) and not torch.equal(first, second)
    assert not torch.equal(first[0], first[1]) and first.isfinite().all()


@pytest.mark.parametrize("drawn", [0, 1])
def test_straight_through_whatever_was_drawn(drawn):
    """Logits [0, ln 3], weights [1, 0]: forward one-hot to the bit, gradient of p_0 = 1/4 backward."""
    latent = categorical(1, 2)
    stats = torch.tensor([[0.0, LN3]], requires_grad=True)
    noise = torch.tensor([[[0.0, 50.0], [50.0, 0.0]][1 - drawn]])[:, None]
    z = latent.sample(stats, noise)
    assert z.tolist() == [[1.0 - drawn, float(drawn)]]
    assert z.sum().item() == 1
    (grad,) = torch.autograd.grad((z * torch.tensor([1.0, 0.0])).sum(), stats)
    torch.testing.assert_close(grad, torch.tensor([[0.1875, -0.1875]]))


def test_draws_are_exactly_one_hot_also_where_p_is_not_a_round_number():
    latent = categorical(32, 32)
    stats = torch.randn(50, 1024)
    z = latent.sample(stats, latent.noise(50, like=stats))
    assert set(z.unique().tolist()) == {0.0, 1.0}
    assert z.dtype == stats.dtype
    half = latent.sample(stats.bfloat16(), latent.noise(50, like=stats))
    assert half.dtype == torch.bfloat16 and set(half.unique().tolist()) == {0.0, 1.0}


def test_cold_draws_are_the_likeliest_class():
    latent, stats = categorical(4, 6), torch.randn(200, 24)
    noise = latent.noise(200, like=stats, generator=torch.Generator().manual_seed(0))
    likeliest = latent.logits(stats).argmax(-1)
    cold = latent.sample(stats, noise, temperature=1e-6).unflatten(-1, (4, 6)).argmax(-1)
    assert torch.equal(cold, likeliest)
    hot = latent.sample(stats, noise, temperature=1e6).unflatten(-1, (4, 6)).argmax(-1)
    assert (hot == likeliest).float().mean().item() == pytest.approx(1 / 6, abs=0.05)


# --- the ablation


def test_the_switch_takes_gaussians():
    latent = GaussianLatent(RSSMConfig(latent="gaussian", stoch=4))
    assert (latent.size, latent.inputs) == (4, 8)
    zero = latent.stats(torch.zeros(8))
    torch.testing.assert_close(zero, torch.tensor([0.0] * 4 + [1.1] * 4))  # 2 sigmoid(0) + 0.1
    ends = [latent.stats(torch.full((8,), raw))[4:].unique().item() for raw in (-100.0, 100.0)]
    assert ends == pytest.approx([0.1, 2.1])


def test_gaussian_kl_entropy_and_draws():
    latent = GaussianLatent(RSSMConfig(latent="gaussian", stoch=4))
    post, prior = (latent.stats(2 * torch.randn(3, 5, 8)) for _ in range(2))
    dists = [Independent(Normal(*stats.chunk(2, -1)), 1) for stats in (post, prior)]
    torch.testing.assert_close(latent.kl(post, prior), kl_divergence(*dists))
    torch.testing.assert_close(latent.entropy(post), dists[0].entropy())
    at, noise = post.clone().requires_grad_(), torch.randn(3, 5, 4)
    (grad,) = torch.autograd.grad(latent.sample(at, noise).sum(), at)
    torch.testing.assert_close(grad, torch.cat([torch.ones(3, 5, 4), noise], -1))
    assert torch.equal(latent.sample(post, noise, temperature=0.0), post[..., :4])
