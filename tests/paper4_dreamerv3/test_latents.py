"""Categorical latents: the uniform share, KL, free nats with their gradients, straight-through (11.3)."""

import pytest
import torch
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import kl_divergence

from common.config import override
from common.spaces import Spaces
from paper4_dreamerv3.presets import PRESETS
from paper4_dreamerv3.rssm import Categorical, State
from paper4_dreamerv3.world_model import WorldModel

POST = torch.tensor([[2.0, 1, 0, -1], [0, 0, 0, 0]])
PRIOR = torch.tensor([[0.0, 0, 0, 0], [1, -1, 0.5, 0]])


@pytest.mark.parametrize(
    "logit, probs",
    [
        ([2.0, 1, 0, -1], [0.6399751, 0.23701401, 0.08877287, 0.03423801]),
        ([10.0, 0, 0, 0], [0.99236506, 0.00254494, 0.00254494, 0.00254494]),
        ([1e4, 0, 0, 0], [0.9925, 0.0025, 0.0025, 0.0025]),
    ],
)
def test_one_percent_is_uniform(logit, probs):
    got = Categorical(1, 4, 0.01).probs(torch.tensor(logit))
    assert got.flatten().tolist() == pytest.approx(probs, abs=1e-6)


def test_entropy_is_that_of_the_mixed_distribution():
    entropy = Categorical(1, 4, 0.01).entropy(POST[0]).item()
    assert entropy == pytest.approx(0.9573638, abs=1e-6)
    assert Categorical(32, 16, 0.01).entropy(torch.zeros(512)).item() == pytest.approx(
        32 * 2.7725887, rel=1e-6
    )


@pytest.mark.parametrize("classes, bound", [(4, 5.924097), (32, 7.980559)])
def test_no_kl_is_larger_than_that_of_opposite_certainties(classes, bound):
    sure = torch.zeros(2, classes)
    sure[0, 0] = sure[1, 1] = 1e4
    assert Categorical(1, classes, 0.01).kl(*sure).item() == pytest.approx(bound, rel=1e-5)
    post, prior = torch.randn(2, 1000, classes) * 20
    assert Categorical(1, classes, 0.01).kl(post, prior).max() <= bound


def test_the_kl_of_32_opposite_certainties():
    sure = torch.zeros(2, 32, 32)
    sure[0, :, 0] = sure[1, :, 1] = 1e4
    assert Categorical(32, 32, 0.01).kl(*sure.flatten(1)).item() == pytest.approx(255.378, abs=1e-3)


@pytest.mark.parametrize("unimix, kls", [(0.01, [0.42893052, 0.22856125]), (0.0, [0.43875736, 0.2352729])])
def test_kl(unimix, kls):
    one, two = Categorical(1, 4, unimix), Categorical(2, 4, unimix)
    assert one.kl(POST, PRIOR).tolist() == pytest.approx(kls, abs=1e-6)
    assert two.kl(POST.flatten(), PRIOR.flatten()).item() == pytest.approx(sum(kls), abs=1e-6)
    dists = [TorchCategorical(two.probs(x.flatten())) for x in (POST, PRIOR)]
    torch.testing.assert_close(two.kl(POST.flatten(), PRIOR.flatten()), kl_divergence(*dists).sum())


def test_without_a_uniform_share_certainties_are_still_numbers():
    sure = torch.tensor([[300.0, 0, 0, 0], [0, 300, 0, 0]], requires_grad=True)
    latent = Categorical(1, 4, 0.0)
    kl = latent.kl(*sure)
    assert kl.item() == pytest.approx(300) and not latent.entropy(sure).any()
    assert torch.autograd.grad(kl, sure)[0].isfinite().all()


# --- the loss of the world model


def kl_losses(post: torch.Tensor, prior: torch.Tensor) -> dict[str, torch.Tensor]:
    """dyn and rep [1, T] of logits [T, 2, 4] that come from nowhere."""
    cfg = override(PRESETS["tiny"], {"rssm.stoch": 2, "rssm.classes": 4, "rssm.deter": 16})
    model, T = WorldModel(cfg, Spaces({"vector": (4,)}, 3, True)), len(post)
    state = State(torch.zeros(1, T, 16), torch.zeros(1, T, 8), post.flatten(1)[None])
    model.rssm.observe = lambda *args: state
    model.rssm.prior = lambda deter: prior.flatten(1)[None]
    rows = {"vector": torch.zeros(1, T, 4), "prev_act": torch.zeros(1, T, 3), "rew": torch.zeros(1, T)}
    flags = {name: torch.zeros(1, T, dtype=torch.bool) for name in ("is_first", "is_terminal")}
    losses, _, _ = model.loss({**rows, **flags, "deter": torch.zeros(1, 16), "stoch": torch.zeros(1, 8)})
    return {name: losses[name] for name in ("dyn", "rep")}


def grads(loss: torch.Tensor, post: torch.Tensor, prior: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss.sum(), (post, prior), retain_graph=True, materialize_grads=True))


def test_below_one_nat_both_losses_are_one_and_train_nothing():
    post, prior = (x[None].clone().requires_grad_() for x in (POST, PRIOR))
    for loss in kl_losses(post, prior).values():
        assert loss.tolist() == [[1.0]]
        assert not any(grad.any() for grad in grads(loss, post, prior))


def test_above_each_side_trains_its_own_distribution():
    post, prior = (x[None].clone().requires_grad_() for x in (3 * POST, PRIOR))
    losses = kl_losses(post, prior)
    assert losses["dyn"].item() == losses["rep"].item() == pytest.approx(1.3699385, abs=1e-6)
    to_post, to_prior = grads(losses["dyn"], post, prior)
    expected = [
        [-0.6862844, 0.19865783, 0.24271652, 0.24491008],
        [0.21747622, -0.17744447, 0.03491192, -0.07494368],
    ]
    assert not to_post.any()
    torch.testing.assert_close(to_prior[0], torch.tensor(expected), atol=1e-6, rtol=1e-5)
    to_post, to_prior = grads(losses["rep"], post, prior)
    expected = [
        [0.14365114, -0.13104331, -0.01194204, -0.00066579],
        [-0.213729, 0.27302986, -0.09082839, 0.0315275],
    ]
    assert not to_prior.any()
    torch.testing.assert_close(to_post[0], torch.tensor(expected), atol=1e-6, rtol=1e-5)


def test_each_row_has_a_nat_of_its_own():
    """Not the mean of rows, and not each variable: 0.657 is free, 1.370 is not."""
    losses = kl_losses(torch.stack([POST, 3 * POST]), torch.stack([PRIOR, PRIOR]))
    assert losses["dyn"][0].tolist() == pytest.approx([1.0, 1.3699385], abs=1e-6)
    assert losses["rep"][0].tolist() == pytest.approx([1.0, 1.3699385], abs=1e-6)


# --- draws


def test_straight_through():
    """Sampled index 1, loss z . [1, 2, 3, 4]: the value of the draw, the gradient of the probabilities."""
    latent, logit = Categorical(1, 4, 0.01), POST[0].clone().requires_grad_()
    noise = torch.ones(1, 4)
    noise[0, 1] = 1e-9  # the smallest noise wins
    z = latent.sample(logit, noise)
    assert z.tolist() == [0, 1, 0, 0]
    loss = (z * torch.tensor([1.0, 2, 3, 4])).sum()
    assert loss.item() == 2
    (grad,) = torch.autograd.grad(loss, logit)
    assert grad.tolist() == pytest.approx([-0.32342124, 0.11553396, 0.12877545, 0.07911183], abs=1e-6)


def test_draws_are_exactly_one_hot_and_as_frequent_as_the_mixed_probabilities():
    latent, logit = Categorical(2, 4, 0.1), torch.stack([3 * POST[0], PRIOR[1]]).flatten().requires_grad_()
    noise = latent.noise(40_000, device=torch.device("cpu"), generator=torch.Generator().manual_seed(0))
    draws = latent.sample(logit.expand(40_000, 8), noise).detach().unflatten(-1, (2, 4))
    assert set(draws.unique().tolist()) == {0.0, 1.0} and (draws.sum(-1) == 1).all()
    probs = latent.probs(logit).detach()
    chi2 = (40_000 * (draws.mean(0) - probs) ** 2 / probs).sum(-1)
    assert chi2.max() < 16.3  # one in a thousand, 3 degrees
    pairs = (draws[:, 0, :, None] * draws[:, 1, None, :]).mean(0)  # the two are independent
    torch.testing.assert_close(pairs, probs[0, :, None] * probs[1], atol=0.01, rtol=0)


def test_cold_draws_are_the_likeliest_class():
    latent, logit = Categorical(1, 4, 0.01), torch.randn(500, 4)
    noise = latent.noise(500, device=torch.device("cpu"))
    cold = latent.sample(logit, noise, temperature=1e-6)
    assert torch.equal(cold.argmax(-1), logit.argmax(-1))
