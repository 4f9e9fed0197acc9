"""The world model's loss: terms against torch, free nats, balancing, soft labels (sheet sections 3, 12.6)."""

import math

import pytest
import torch
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence

from common.spaces import Spaces
from paper2_dreamerv1.rssm import State
from paper2_dreamerv1.world_model import WorldModel

BOTH = Spaces({"image": (32, 32, 3), "vector": (4,)}, 2, False)
VECTOR = Spaces({"vector": (4,)}, 2, False)


def make_model(cfg, spaces=VECTOR, cont=True) -> WorldModel:
    torch.manual_seed(0)
    return WorldModel(cfg, spaces, cont)


def loss_of(model: WorldModel, batch: dict):
    """Always with the same noise."""
    torch.manual_seed(1)
    return model.loss(batch)


def gaussian(stats: torch.Tensor) -> Independent:
    return Independent(Normal(*stats.chunk(2, -1)), 1)


def grads(loss: torch.Tensor, module: torch.nn.Module) -> list[torch.Tensor]:
    """Gradients, zeros where there are none."""
    found = torch.autograd.grad(loss, list(module.parameters()), retain_graph=True, allow_unused=True)
    return [torch.zeros(1) if grad is None else grad for grad in found]


def test_every_term_is_what_torch_says(small, random_batch):
    model, batch = make_model(small(), BOTH), random_batch(BOTH)
    batch["is_terminal"][1, 3] = True
    losses, post, _ = loss_of(model, batch)
    assert losses.keys() == {"image", "vector", "rew", "cont", "kl"}
    assert all(loss.shape == (3, 6) for loss in losses.values())
    torch.manual_seed(1)
    post2, prior = model.rssm.observe(model.encoder(batch), batch["prev_act"], batch["is_first"])
    assert torch.equal(post.feat, post2.feat)
    means, half_log = model.decoder(post.feat), 0.5 * math.log(2 * math.pi)
    image = batch["image"].float() / 255 - 0.5
    for key, target, size in (("image", image, 32 * 32 * 3), ("vector", batch["vector"], 4)):
        dist = Independent(Normal(means[key], 1.0), target.dim() - 2)
        torch.testing.assert_close(
            losses[key], -dist.log_prob(target) - size * half_log, atol=2e-3, rtol=1e-5
        )
    rew = Normal(model.rew(post.feat).squeeze(-1), 1.0)
    torch.testing.assert_close(losses["rew"], -rew.log_prob(batch["rew"]) - half_log)
    torch.testing.assert_close(losses["kl"], kl_divergence(gaussian(post.stats), gaussian(prior.stats)))
    head = Bernoulli(logits=model.cont(post.feat).squeeze(-1))
    label = torch.full((3, 6), 0.95)
    label[1, 3] = 0
    yes, no = torch.ones(3, 6), torch.zeros(3, 6)
    torch.testing.assert_close(losses["cont"], -label * head.log_prob(yes) - (1 - label) * head.log_prob(no))


def test_the_discount_head_learns_gamma_and_zero_at_an_end(small, random_batch):
    model, batch = make_model(small()), random_batch(VECTOR)
    batch["is_terminal"][0, 2] = True
    for p in model.cont.parameters():
        torch.nn.init.zeros_(p)
    bias = model.cont.out.bias
    with torch.no_grad():
        bias.fill_(math.log(0.95 / 0.05))  # the head says gamma everywhere
    cont = loss_of(model, batch)[0]["cont"]
    for row, is_end in ((cont[0, 1], False), (cont[0, 2], True)):
        (grad,) = torch.autograd.grad(row, bias, retain_graph=True)
        assert grad.item() == pytest.approx(0.95 * is_end, abs=1e-6)  # sigmoid(logit) - label
    torch.testing.assert_close(model.discount(torch.randn(2, 7, 17)), torch.full((2, 7), 0.95))
    constant = make_model(small(), cont=False)
    assert "cont" not in loss_of(constant, batch)[0]
    assert torch.equal(constant.discount(torch.randn(2, 7, 17)), torch.full((2, 7), 0.95))


def test_the_terms_are_weighed(small):
    model = make_model(small(**{"model.kl_scale": 0.5, "model.cont_scale": 10.0}))
    rows = {"image": 100.0, "rew": 2.0, "cont": 0.1, "kl": 4.0}
    total = model.total({name: torch.full((3, 6), value) for name, value in rows.items()})
    assert total.item() == pytest.approx(100 + 2 + 10 * 0.1 + 0.5 * 4)


@pytest.mark.parametrize("mode, expected", [("per_step", 1.0), ("mean", 3.0)])
def test_free_nats_of_a_row_or_of_the_mean(small, mode, expected):
    model = make_model(small(**{"model.free_nats_mode": mode}))
    assert model.total({"kl": torch.tensor([[1.0, 5.0]])}).item() == pytest.approx(expected)


def test_the_two_modes_differ_by_a_constant_where_every_row_is_above(small):
    kl = torch.rand(3, 6) + 3.5
    totals = [
        make_model(small(**{"model.free_nats_mode": mode})).total({"kl": kl}) for mode in ("mean", "per_step")
    ]
    torch.testing.assert_close(totals[0] - totals[1], torch.tensor(3.0))


@pytest.mark.parametrize("mode, floor", [("mean", 3.0), ("per_step", 0.0)])
def test_below_the_free_nats_the_kl_trains_nothing(small, random_batch, mode, floor):
    model = make_model(small(**{"model.free_nats_mode": mode}))
    kl = loss_of(model, random_batch(VECTOR))[0]["kl"]
    assert 0 < kl.mean() and kl.max() < 3
    total = model.total({"kl": kl})
    assert total.item() == floor
    for part in (model.rssm, model.encoder):
        assert not any(grad.any() for grad in grads(total, part))
    free = make_model(small(**{"model.free_nats_mode": mode, "model.free_nats": 0.0}))
    total = free.total({"kl": loss_of(free, random_batch(VECTOR))[0]["kl"]})
    assert total.item() == pytest.approx(kl.mean().item())
    for layer in (free.rssm.prior_stats, free.rssm.post_stats, free.rssm.cell, free.encoder):
        assert all(grad.any() for grad in grads(total, layer))


@pytest.mark.parametrize("share", [None, 0.8, 0.5, 0.0])
def test_balancing_splits_the_gradient_and_keeps_the_value(small, share):
    model = make_model(small(**{"model.kl_balance": share}))
    rng = torch.Generator().manual_seed(0)
    raw = torch.randn(2, 3, 6, 10, generator=rng, requires_grad=True)
    post, prior = (State(None, None, model.rssm.latent.stats(part)) for part in raw)
    kl = model.kl(post, prior)
    plain = kl_divergence(gaussian(post.stats), gaussian(prior.stats))
    torch.testing.assert_close(kl, plain)
    (got,), (full,) = (torch.autograd.grad(x.sum(), raw, retain_graph=True) for x in (kl, plain))
    to_post, to_prior = (1, 1) if share is None else (1 - share, share)
    torch.testing.assert_close(got[0], to_post * full[0])
    torch.testing.assert_close(got[1], to_prior * full[1])


def test_rewards_are_squashed_for_the_learner_only_if_asked(small, random_batch):
    batch = random_batch(VECTOR)
    batch["rew"] = torch.full((3, 6), 10.0)
    for transform, target in (("none", 10.0), ("tanh", math.tanh(10.0))):
        model = make_model(small(**{"model.reward_transform": transform}))
        for p in model.rew.parameters():
            torch.nn.init.zeros_(p)
        loss = loss_of(model, batch)[0]["rew"]
        torch.testing.assert_close(loss, torch.full((3, 6), 0.5 * target**2))


def test_the_reward_is_that_of_entering_a_row(small, random_batch):
    """rew[t] is explained by row t's features: what came after has no say."""
    model, batch = make_model(small()), random_batch(VECTOR)
    before = loss_of(model, batch)[0]["rew"]
    batch["vector"][:, 4] += 1
    after = loss_of(model, batch)[0]["rew"]
    assert [torch.equal(before[:, t], after[:, t]) for t in range(6)] == [t < 4 for t in range(6)]


def test_bf16_keeps_the_losses_in_fp32(small, random_batch):
    model, batch = make_model(small(), BOTH), random_batch(BOTH)
    full = loss_of(model, batch)[0]
    with torch.autocast("cpu", torch.bfloat16):
        half = loss_of(model, batch)[0]
    assert all(loss.dtype == torch.float32 for loss in half.values())
    for name in ("image", "rew"):
        torch.testing.assert_close(half[name], full[name], rtol=0.05, atol=0.05)
