"""The world model's loss: terms against torch, KL balancing, soft labels, switches (sheet 3, 12.6, 12.14)."""

import math

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, Independent, Normal, kl_divergence

from common.spaces import Spaces
from paper3_dreamerv2.rssm import State
from paper3_dreamerv2.world_model import WorldModel

BOTH = Spaces({"image": (32, 32, 1), "vector": (4,)}, 3, True)
VECTOR = Spaces({"vector": (4,)}, 3, True)
LN3 = math.log(3)


def make_model(cfg, spaces=VECTOR, cont=True) -> WorldModel:
    torch.manual_seed(0)
    return WorldModel(cfg, spaces, cont)


def loss_of(model: WorldModel, batch: dict):
    """Always with the same noise."""
    torch.manual_seed(1)
    return model.loss(batch)


def grads(loss: torch.Tensor, module: torch.nn.Module) -> list[torch.Tensor]:
    """Gradients, zeros where there are none."""
    found = torch.autograd.grad(loss, list(module.parameters()), retain_graph=True, allow_unused=True)
    return [torch.zeros(1) if grad is None else grad for grad in found]


def test_every_term_is_what_torch_says(small, random_batch):
    model, batch = make_model(small(), BOTH), random_batch(BOTH)
    losses, post, metrics = loss_of(model, batch)
    assert losses.keys() == {"image", "vector", "rew", "cont", "kl_prior", "kl_post"}
    assert all(loss.shape == (3, 6) and loss.dtype == torch.float32 for loss in losses.values())
    torch.manual_seed(1)
    post2, prior = model.rssm.observe(model.encoder(batch), batch["prev_act"], batch["is_first"])
    assert torch.equal(post.feat, post2.feat)
    means, half_log = model.decoder(post.feat), 0.5 * math.log(2 * math.pi)
    image = batch["image"].float() / 255 - 0.5
    for key, target, size in (("image", image, 32 * 32), ("vector", batch["vector"], 4)):
        dist = Independent(Normal(means[key], 1.0), target.dim() - 2)
        torch.testing.assert_close(
            losses[key], -dist.log_prob(target) - size * half_log, atol=2e-3, rtol=1e-5
        )
    rew = Normal(model.rew(post.feat).squeeze(-1), 1.0)
    torch.testing.assert_close(losses["rew"], -rew.log_prob(batch["rew"]) - half_log)
    post_dist, prior_dist = (
        Independent(Categorical(logits=stats.unflatten(-1, (3, 4))), 1) for stats in (post.stats, prior.stats)
    )
    kl = kl_divergence(post_dist, prior_dist)
    torch.testing.assert_close(losses["kl_prior"], kl)
    torch.testing.assert_close(losses["kl_post"], kl)
    torch.testing.assert_close(metrics["post_entropy"], post_dist.entropy().mean())
    torch.testing.assert_close(metrics["prior_entropy"], prior_dist.entropy().mean())
    head = Bernoulli(logits=model.cont(post.feat).squeeze(-1))
    label = torch.full((3, 6), 0.95)
    label[0, 5] = 0  # the only terminal row
    yes, no = torch.ones(3, 6), torch.zeros(3, 6)
    torch.testing.assert_close(losses["cont"], -label * head.log_prob(yes) - (1 - label) * head.log_prob(no))


# --- KL balancing (algorithm 2)


def balanced(cfg) -> tuple[float, torch.Tensor, torch.Tensor]:
    """One binary variable, posterior logits [0, ln 3], prior [0, 0]: the KL part and both gradients."""
    model = make_model(cfg)
    post, prior = (torch.tensor([[[0.0, x]]], requires_grad=True) for x in (LN3, 0.0))
    deter, stoch = torch.zeros(1, 1, model.rssm.deter), torch.zeros(1, 1, 2)
    model.rssm.observe = lambda *args: (State(deter, stoch, post), State(deter, stoch, prior))
    flags = {name: torch.zeros(1, 1, dtype=torch.bool) for name in ("is_first", "is_terminal")}
    rows = {"vector": torch.zeros(1, 1, 4), "prev_act": torch.zeros(1, 1, 3), "rew": torch.zeros(1, 1)}
    losses, _, _ = model.loss(rows | flags)
    total = model.total({name: losses[name] for name in ("kl_prior", "kl_post")})
    to_post, to_prior = torch.autograd.grad(total, (post, prior))
    return total.item(), to_post.flatten(), to_prior.flatten()


ONE_BINARY = {"rssm.stoch": 1, "rssm.classes": 2, "model.kl_scale": 1.0}


@pytest.mark.parametrize(
    "share, to_post, to_prior",
    [(0.8, -0.041198, 0.2), (0.5, -0.102995, 0.125), (0.0, -0.205990, 0.0), (1.0, 0.0, 0.25)],
)
def test_balancing_splits_the_gradient_and_keeps_the_value(small, share, to_post, to_prior):
    value, post, prior = balanced(small(**ONE_BINARY, **{"model.kl_balance": share}))
    assert value == pytest.approx(0.130812, abs=1e-6)
    assert post.tolist() == pytest.approx([to_post, -to_post], abs=1e-6)
    assert prior.tolist() == pytest.approx([to_prior, -to_prior], abs=1e-6)


def test_below_the_free_nats_the_kl_trains_nothing(small):
    value, post, prior = balanced(small(**ONE_BINARY, **{"model.free_nats": 1.0}))
    assert value == 1.0 and not post.any() and not prior.any()


def test_free_nats_are_those_of_the_mean(small):
    model = make_model(small(**{"model.free_nats": 2.0, "model.kl_scale": 1.0}))
    kl = torch.tensor([[0.5, 5.0]])  # the mean is above, so the small one counts too
    assert model.total({"kl_prior": kl, "kl_post": kl}).item() == pytest.approx(2.75)


def test_the_terms_are_weighed(small):
    model = make_model(small(**{"model.kl_scale": 0.1, "model.cont_scale": 5.0}))
    rows = {"image": 100.0, "rew": 2.0, "cont": 0.1, "kl_prior": 4.0, "kl_post": 4.0}
    total = model.total({name: torch.full((3, 6), value) for name, value in rows.items()})
    assert total.item() == pytest.approx(100 + 2 + 5 * 0.1 + 0.1 * 4)


# --- the discount head


@pytest.mark.parametrize("disc, floor", [(0.999, 0.007907), (0.995, 0.031479), (0.99, 0.056002)])
def test_the_discount_head_at_its_optimum(small, random_batch, disc, floor):
    """At logit ln(g / (1 - g)) the loss is the entropy of the soft label, and its gradient zero."""
    model, batch = make_model(small(**{"behaviour.discount": disc})), random_batch(VECTOR)
    for p in model.cont.parameters():
        torch.nn.init.zeros_(p)
    logit = math.log(disc / (1 - disc))
    assert disc != 0.999 or logit == pytest.approx(6.906755, abs=1e-6)
    bias = model.cont.out.bias
    torch.nn.init.constant_(bias, logit)
    loss = loss_of(model, batch)[0]["cont"]
    assert loss[1].tolist() == pytest.approx([floor] * 6, abs=2e-6)
    for row, gradient in (
        (loss[1, 2], 0.0),
        (loss[0, 5], disc),
    ):  # sigmoid(logit) - label; the last row is terminal
        (grad,) = torch.autograd.grad(row, bias, retain_graph=True)
        assert grad.item() == pytest.approx(gradient, abs=1e-6)
    torch.testing.assert_close(model.discount(torch.randn(2, 7, 24)), torch.full((2, 7), disc))


def test_without_the_head_the_discount_is_gamma(small, random_batch):
    model = make_model(small(), cont=False)
    assert "cont" not in loss_of(model, random_batch(VECTOR))[0]
    assert torch.equal(model.discount(torch.randn(2, 7, 24)), torch.full((2, 7), 0.95))


# --- rewards, and which losses shape the features


def test_rewards_are_squashed_for_the_learner_only_if_asked(small, random_batch):
    batch = random_batch(VECTOR)
    batch["rew"] = torch.full((3, 6), 10.0)
    for transform, target in (("none", 10.0), ("tanh", math.tanh(10.0))):
        model = make_model(small(**{"model.reward_transform": transform}))
        for p in model.rew.parameters():
            torch.nn.init.zeros_(p)
        loss = loss_of(model, batch)[0]["rew"]
        torch.testing.assert_close(loss, torch.full((3, 6), 0.5 * target**2))


@pytest.mark.parametrize(
    "name, switch, head",
    [("image", "grad_image", "decoder"), ("rew", "grad_rew", "rew"), ("cont", None, "cont")],
)
def test_heads_shape_the_features_unless_switched_off(small, random_batch, name, switch, head):
    for on in (True, False) if switch else (True,):
        model = make_model(small(**({f"model.{switch}": on} if switch else {})), BOTH)
        loss = loss_of(model, random_batch(BOTH))[0][name].sum()
        for part in (model.encoder, model.rssm.post_stats, model.rssm.cell):
            assert any(grad.any() for grad in grads(loss, part)) == on
        assert any(grad.any() for grad in grads(loss, getattr(model, head)))


def test_each_side_of_the_kl_trains_its_own_distribution(small, random_batch):
    """In one row; over several the prior's share reaches earlier posteriors through z and h."""
    model = make_model(small())
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)  # with biases, so that the first h is not zero
    losses = loss_of(model, random_batch(VECTOR, 3, 1))[0]
    to_prior, to_post = losses["kl_prior"].sum(), losses["kl_post"].sum()
    assert all(grad.any() for grad in grads(to_prior, model.rssm.prior_stats))
    assert not any(grad.any() for grad in grads(to_prior, model.rssm.post_stats))
    assert not any(grad.any() for grad in grads(to_prior, model.encoder))
    assert all(grad.any() for grad in grads(to_post, model.rssm.post_stats))
    assert not any(grad.any() for grad in grads(to_post, model.rssm.prior_stats))
    assert any(grad.any() for grad in grads(to_post, model.encoder))


def test_the_reward_is_that_of_entering_a_row(small, random_batch):
    """rew[t] is explained by row t's features: what came after has no say."""
    model, batch = make_model(small(**{"rssm.latent": "gaussian"})), random_batch(VECTOR)
    before = loss_of(model, batch)[0]["rew"]
    batch["vector"][:, 4] += 1
    after = loss_of(model, batch)[0]["rew"]
    assert [torch.equal(before[:, t], after[:, t]) for t in range(6)] == [t < 4 for t in range(6)]
