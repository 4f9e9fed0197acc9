"""The world model's loss: every term by hand, soft labels, and who learns from which term (2, 2.3, 11.8)."""

import math

import pytest
import torch
import torch.nn.functional as F

from common.device import autocast
from common.spaces import Spaces
from paper4_dreamerv3.symlog import TwoHot, symexp_bins, symlog
from paper4_dreamerv3.world_model import WorldModel

MIXED = Spaces(
    {"image": (32, 32, 1), "image_wrist": (32, 32, 3), "vector": (4,), "vector_goal": (2,)}, 3, True
)
VECTOR = Spaces({"vector": (5,)}, 3, True)
GAMMA = 1 - 1 / 333


def make_model(cfg, spaces: Spaces = VECTOR) -> WorldModel:
    """All weights random: heads that begin at zero pass no gradient on."""
    torch.manual_seed(0)
    model = WorldModel(cfg, spaces)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model


def loss_of(model: WorldModel, batch: dict):
    """Always with the same noise."""
    torch.manual_seed(1)
    return model.loss(batch)


def test_every_term_by_hand(small, random_batch):
    model, batch = make_model(small(), MIXED), random_batch(MIXED)
    losses, post, metrics = loss_of(model, batch)
    assert losses.keys() == {*MIXED.obs, "rew", "cont", "dyn", "rep"}
    assert all(loss.shape == (3, 6) and loss.dtype == torch.float32 for loss in losses.values())
    torch.manual_seed(1)
    again = model.rssm.observe(
        model.encoder(batch), *(batch[name] for name in ("prev_act", "is_first", "deter", "stoch"))
    )
    assert torch.equal(post.feat, again.feat)
    means = model.decoder(post.deter, post.stoch)
    for key in MIXED.images:  # no half, no mean over pixels
        expected = (means[key] - batch[key].float() / 255).square().sum((-3, -2, -1))
        torch.testing.assert_close(losses[key], expected)
    for key in MIXED.vectors:
        torch.testing.assert_close(losses[key], (means[key] - symlog(batch[key])).square().sum(-1))
    rew = TwoHot(model.rew.net(post.feat), symexp_bins(255))
    torch.testing.assert_close(losses["rew"], rew.loss(batch["rew"]))
    torch.testing.assert_close(model.reward(post.feat), rew.mean())
    prior = model.rssm.prior(post.deter)
    kl = model.rssm.latent.kl(post.logit, prior)
    assert (kl > 0).all()  # no free nats here
    for name in ("dyn", "rep"):
        torch.testing.assert_close(losses[name], kl)
    torch.testing.assert_close(metrics["kl"], kl.mean())
    torch.testing.assert_close(metrics["prior_entropy"], model.rssm.latent.entropy(prior).mean())
    torch.testing.assert_close(metrics["post_entropy"], model.rssm.latent.entropy(post.logit).mean())


def test_without_symlog_numbers_are_plain(small, random_batch):
    model, batch = make_model(small(**{"model.symlog": False})), random_batch()
    losses, post, _ = loss_of(model, batch)
    mean = model.decoder(post.deter, post.stoch)["vector"]
    torch.testing.assert_close(losses["vector"], (mean - batch["vector"]).square().sum(-1))
    torch.testing.assert_close(losses["rew"], (model.reward(post.feat) - batch["rew"]) ** 2)


# --- going on


def set_cont(model: WorldModel, logit: float) -> None:
    """The same answer everywhere."""
    for p in model.cont.parameters():
        torch.nn.init.zeros_(p)
    torch.nn.init.constant_(model.cont.out.bias, logit)


@pytest.mark.parametrize("contdisc, label", [(True, GAMMA), (False, 1.0)])
def test_only_a_true_end_is_an_end(small, random_batch, contdisc, label):
    """Row 2 of the first sequence is terminal, row 3 of the second a time limit."""
    model, batch = make_model(small(**{"model.contdisc": contdisc})), random_batch()
    assert batch["is_last"].sum() == 2 and batch["is_terminal"].sum() == 1
    set_cont(model, 2.0)
    loss = loss_of(model, batch)[0]["cont"]
    target = torch.full((3, 6), label)
    target[0, 2] = 0
    p = torch.tensor(2.0).sigmoid()
    torch.testing.assert_close(loss, -target * p.log() - (1 - target) * (1 - p).log())
    if contdisc:
        assert loss[1, 3].item() == pytest.approx(0.132934, abs=1e-6)


def test_the_lowest_possible_loss_of_going_on_is_not_zero(small, random_batch):
    """With a soft label: at logit ln(gamma / (1 - gamma)) it is its entropy, and the gradient zero."""
    model, batch = make_model(small()), random_batch()
    set_cont(model, math.log(GAMMA / (1 - GAMMA)))
    loss = loss_of(model, batch)[0]["cont"]
    assert loss[1].tolist() == pytest.approx([0.0204404] * 6, abs=2e-6)
    bias = model.cont.out.bias
    assert torch.autograd.grad(loss[1].sum(), bias, retain_graph=True)[0].item() == pytest.approx(0, abs=1e-6)
    assert torch.autograd.grad(loss[0, 2], bias)[0].item() == pytest.approx(GAMMA, abs=1e-6)
    going_on = model.going_on(torch.randn(2, 7, model.rssm.feature))
    torch.testing.assert_close(going_on, torch.full((2, 7), GAMMA))


# --- who learns from what


def modules(model: WorldModel) -> dict[str, list[torch.Tensor]]:
    rssm, own = model.rssm, {}
    own["encoder"] = [*model.encoder.parameters()]
    parts = rssm.in_deter, rssm.in_stoch, rssm.in_act, rssm.hidden_deter, rssm.hidden_in, rssm.hidden_norm
    own["core"] = [p for part in (*parts, rssm.gates) for p in part.parameters()]
    parts = rssm.post_linear, rssm.post_norm, rssm.post_logit
    own["post"] = [p for part in parts for p in part.parameters()]
    own["prior"] = [*rssm.prior_hidden.parameters(), *rssm.prior_logit.parameters()]
    own |= {name: [*getattr(model, name).parameters()] for name in ("decoder", "rew", "cont")}
    assert sum(len(own[name]) for name in ("core", "post", "prior")) == len([*rssm.parameters()])
    return own


def learners(model: WorldModel, loss: torch.Tensor) -> set[str]:
    """Modules whose every tensor gets a finite gradient that is not zero; no module gets one in part."""
    found = set()
    for name, tensors in modules(model).items():
        grads = torch.autograd.grad(loss, tensors, retain_graph=True, allow_unused=True)
        live = [grad is not None and bool(grad.any()) for grad in grads]
        assert all(grad.isfinite().all() for grad in grads if grad is not None)
        assert all(live) or not any(live), (name, live)
        found |= {name} if live[0] else set()
    return found


LEARN = {"encoder", "core", "post"}


@pytest.mark.parametrize(
    "name, expected",
    [
        ("image", LEARN | {"decoder"}),
        ("rew", LEARN | {"rew"}),
        ("cont", LEARN | {"cont"}),
        ("dyn", {"core", "prior"}),
        ("rep", LEARN),
    ],
)
def test_which_loss_trains_what_in_one_row(small, random_batch, name, expected):
    """Over several rows dyn reaches the posteriors before it as well, through z and h."""
    model = make_model(small(**{"conv.depth": 4}), spaces := Spaces({"image": (32, 32, 1)}, 3, True))
    losses, _, _ = loss_of(model, random_batch(spaces, T=1))
    assert learners(model, losses[name].sum()) == expected
    if name == "dyn":
        losses, _, _ = loss_of(model, random_batch(spaces))
        assert learners(model, losses[name].sum()) == LEARN | {"prior"}


def test_the_reward_is_that_of_entering_a_row(small, random_batch):
    """rew[t] is explained by row t's features: what came after has no say."""
    model, batch = make_model(small()), random_batch()
    model.rssm.latent.sample = lambda logit, noise: model.rssm.latent.probs(logit).flatten(-2)
    batch["is_first"][:] = False
    before = loss_of(model, batch)[0]["rew"]
    batch["vector"][:, 4] += 1
    after = loss_of(model, batch)[0]["rew"]
    assert [torch.equal(before[:, t], after[:, t]) for t in range(6)] == [t < 4 for t in range(6)]
    batch["rew"][:, 4] += 1
    again = loss_of(model, batch)[0]["rew"]
    assert [torch.equal(again[:, t], after[:, t]) for t in range(6)] == [t != 4 for t in range(6)]


def test_losses_are_float32_under_autocast(small, random_batch):
    model, batch = make_model(small(), MIXED), random_batch(MIXED)
    exact = loss_of(model, batch)[0]
    with autocast(torch.device("cpu"), "bf16")():
        losses, post, _ = loss_of(model, batch)
    for name, loss in losses.items():
        assert loss.dtype == torch.float32 and loss.isfinite().all(), name
        torch.testing.assert_close(loss[:, 0].mean(), exact[name][:, 0].mean(), rtol=0.15, atol=0.1)
    assert F.softmax(post.logit, -1).isfinite().all()
