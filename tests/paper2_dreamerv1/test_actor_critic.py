"""Actions, imagination, returns and losses against numbers worked out by hand (sheet 12.2 to 12.4, 12.7)."""

import math

import pytest
import torch
from torch.distributions import Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from common.spaces import Spaces
from paper2_dreamerv1.actor_critic import (
    Actor,
    OneHot,
    TanhNormal,
    actor_loss,
    imagine,
    lambda_return,
    value_loss,
    weights,
)
from paper2_dreamerv1.config import ActorConfig
from paper2_dreamerv1.rssm import State
from paper2_dreamerv1.world_model import WorldModel

REW, VAL = torch.tensor([1.0, 2, 3, 4]), torch.tensor([10.0, 20, 30, 40])
CONST = torch.full((4,), 0.9)


@pytest.mark.parametrize(
    "lam, expected",
    [
        (0.5, [24.8725, 33.05, 39]),
        (0.0, [19.0, 29, 39]),
        (1.0, [34.39, 37.1, 39]),
        (0.95, [33.274225, 36.695, 39]),
    ],
)
def test_lambda_returns(lam, expected):
    torch.testing.assert_close(lambda_return(REW, VAL, CONST, lam), torch.tensor(expected))


def test_lambda_returns_and_weights_with_a_varying_discount():
    disc = torch.tensor([0.9, 0.5, 0.8, 0.7])
    ret = lambda_return(REW, VAL, disc, 0.5)
    torch.testing.assert_close(ret, torch.tensor([18.2125, 18.25, 35.0]))
    torch.testing.assert_close(weights(disc), torch.tensor([1, 0.9, 0.45]))


def test_lambda_returns_are_the_sum_over_n_step_returns():
    """Equation 6 as the paper writes it: (1 - lam) sum lam^(n-1) V_n + lam^(H-1) V_H, brute force."""
    rng = torch.Generator().manual_seed(0)
    rew, val, disc = torch.rand(3, 8, 5, generator=rng, dtype=torch.float64)
    H, lam = 8, 0.7

    def n_step(i, n):  # discounted rewards i .. i+n-1, then the value of i+n
        scale, total = torch.ones(5, dtype=torch.float64), 0
        for k in range(i, i + n):
            total, scale = total + scale * rew[k], scale * disc[k]
        return total + scale * val[i + n]

    for i in range(H - 1):
        last = H - 1 - i
        parts = [(1 - lam) * lam ** (n - 1) * n_step(i, n) for n in range(1, last)]
        expected = sum(parts) + lam ** (last - 1) * n_step(i, last)
        torch.testing.assert_close(lambda_return(rew, val, disc, lam)[i], expected)


def test_the_last_reward_and_discount_are_not_used():
    rew, disc, val = (x.clone().requires_grad_() for x in (REW, CONST, VAL))
    grads = torch.autograd.grad(lambda_return(rew, val, disc, 0.5).sum(), (rew, disc, val))
    assert grads[0].tolist()[-1] == grads[1].tolist()[-1] == 0
    assert (grads[0][:-1] > 0).all() and (
        grads[1][:-1] != 0
    ).all()  # the gradient passes through the discount
    assert grads[2][0] == 0 and (grads[2][1:] > 0).all()


def test_weights_have_no_gradient_and_decay():
    disc = torch.full((15, 2), 0.99, requires_grad=True)
    weight = weights(disc)
    assert weight.shape == (14, 2) and not weight.requires_grad
    assert weight[0, 0] == 1 and weight[-1, 0].item() == pytest.approx(0.99**13) == pytest.approx(
        0.8775, abs=1e-4
    )


def test_losses():
    weight, ret = weights(CONST), lambda_return(REW, VAL, CONST, 0.5)
    torch.testing.assert_close(weight, torch.tensor([1, 0.9, 0.81]))
    assert actor_loss(ret, weight).item() == pytest.approx(-28.735833, abs=1e-5)
    loss = value_loss(VAL[:-1], ret, weight).item()
    assert loss == pytest.approx(73.345584, abs=1e-4)
    nll = -Normal(VAL[:-1], 1.0).log_prob(ret)
    assert (weight * nll).mean().item() == pytest.approx(74.175692, abs=1e-4)
    constant = 0.5 * math.log(2 * math.pi)
    assert (weight * nll).mean().item() == pytest.approx(loss + constant * weight.mean().item(), abs=1e-4)


def test_the_value_loss_does_not_train_its_target():
    ret, val = torch.ones(3, 2, requires_grad=True), torch.zeros(3, 2, requires_grad=True)
    value_loss(val, ret, torch.ones(3, 2)).backward()
    assert ret.grad is None
    torch.testing.assert_close(val.grad, torch.full((3, 2), -1 / 6))


def zero_actor() -> Actor:
    """The paper's, but of few units, whose network says zero."""
    actor = Actor(ActorConfig(layers=1, units=2), 7, 3, False)
    for p in actor.parameters():
        torch.nn.init.zeros_(p)
    return actor


def test_the_first_policy_is_nearly_bang_bang():
    torch.manual_seed(0)
    actor = zero_actor()
    assert actor.raw_init == pytest.approx(4.993239, abs=1e-6) == pytest.approx(math.log(math.exp(5) - 1))
    dist = actor(torch.randn(200_000, 7))
    assert not dist.mean.any() and dist.std[0, 0].item() == pytest.approx(5.0001, abs=1e-5)
    act = dist.rsample()
    assert (act.abs() < 1).all()  # also where tanh says 1 in float32
    assert (act.abs() > 0.99).float().mean().item() == pytest.approx(0.597, abs=0.003)
    assert act.abs().mean().item() == pytest.approx(0.891, abs=0.003)
    assert dist.entropy().mean().item() / 3 == pytest.approx(-3.6941, abs=0.01)


def test_density_of_actions():
    dist = TanhNormal(torch.zeros(1), torch.full((1,), 5.0001))
    for act, expected in ((0.0, -2.528396), (0.5, -2.246749)):
        got = dist.log_prob_of(torch.atanh(torch.tensor([act]))).item()
        assert got == pytest.approx(expected, abs=1e-5), act
    mean, std, raw = torch.randn(4, 3), torch.rand(4, 3) + 0.1, torch.randn(4, 3)
    library = TransformedDistribution(Normal(mean, std), TanhTransform(cache_size=1))
    torch.testing.assert_close(
        TanhNormal(mean, std).log_prob_of(raw), library.log_prob(raw.tanh()).sum(-1), atol=1e-4, rtol=1e-4
    )
    far = TanhNormal(torch.zeros(1), torch.ones(1)).log_prob_of(torch.tensor([[30.0], [-30.0]]))
    assert far.isfinite().all() and far[0] == far[1]


def test_the_mean_is_bounded_softly():
    actor = zero_actor()
    with torch.no_grad():
        actor.net.out.bias.copy_(torch.tensor([1.0, 100.0, -100.0, 0, 0, 0]))
    mean = actor(torch.zeros(1, 7)).mean[0]
    torch.testing.assert_close(mean, torch.tensor([5 * math.tanh(0.2), 5.0, -5.0]))


def test_draws_carry_the_gradient_to_mean_and_deviation():
    dist = TanhNormal(torch.zeros(5, 2, requires_grad=True), torch.ones(5, 2, requires_grad=True))
    assert all(grad.all() for grad in torch.autograd.grad(dist.rsample().sum(), (dist.mean, dist.std)))
    logit = torch.randn(50, 4, requires_grad=True)
    draw = OneHot(logit).rsample()
    hard = draw.detach().round()
    torch.testing.assert_close(draw.detach(), hard)
    assert (hard.sum(-1) == 1).all() and len(hard.argmax(-1).unique()) == 4
    weight = torch.randn(50, 4)
    (grad,) = torch.autograd.grad((draw * weight).sum(), logit)
    (soft,) = torch.autograd.grad((logit.softmax(-1) * weight).sum(), logit)
    torch.testing.assert_close(grad, soft)  # straight through: the gradient of the probabilities


def test_discrete_draws_follow_their_probabilities():
    torch.manual_seed(0)
    logit = torch.tensor([0.0, 1.0, -1.0])
    dist = OneHot(logit.expand(40_000, 3))
    torch.testing.assert_close(dist.rsample().mean(0), logit.softmax(-1), atol=0.01, rtol=0)
    torch.testing.assert_close(dist.entropy()[0], torch.distributions.Categorical(logits=logit).entropy())
    assert dist.mode()[0].tolist() == [0, 1, 0]


def test_the_evaluation_action_is_the_likeliest_draw_of_each_row():
    """TF2 takes the best draw of row 0 for all rows."""
    rng = torch.Generator().manual_seed(0)
    mean, std = torch.randn(6, 2, generator=rng), torch.rand(6, 2, generator=rng) + 0.2
    dist = TanhNormal(mean, std)
    got = dist.mode(generator=torch.Generator().manual_seed(3))
    raw = mean + std * torch.randn(100, 6, 2, generator=torch.Generator().manual_seed(3))
    best = torch.stack([raw[dist.log_prob_of(raw)[:, n].argmax(), n] for n in range(6)]).tanh()
    torch.testing.assert_close(got, best)
    wrong = raw[dist.log_prob_of(raw)[:, 0].argmax()].tanh()
    assert not torch.allclose(got[1:], wrong[1:])
    assert torch.equal(dist.mode(0), mean.tanh())


@pytest.mark.parametrize("discrete", [False, True])
def test_imagination_leaves_out_its_start_and_detaches_what_the_actor_sees(discrete, small, monkeypatch):
    cfg, spaces = small(), Spaces({"vector": (3,)}, 2, discrete)
    model = WorldModel(cfg, spaces, False)
    actor = Actor(cfg.actor, model.rssm.feature, 2, discrete)
    start = model.rssm.initial(5)
    seen, states = [], []
    forward, step = actor.forward, model.rssm.imagine
    monkeypatch.setattr(actor, "forward", lambda feat: seen.append(feat) or forward(feat))
    monkeypatch.setattr(
        model.rssm, "imagine", lambda state, act: states.append(step(state, act)) or states[-1]
    )
    feats = imagine(model, actor, start, 4)
    assert feats.shape == (4, 5, model.rssm.feature) and len(seen) == len(states) == 4
    assert torch.equal(seen[0], start.feat)
    for i in range(4):
        assert torch.equal(feats[i], states[i].feat) and not seen[i].requires_grad
        assert i == 0 or torch.equal(seen[i], states[i - 1].feat)
    # The gradient of each feature reaches all actions before it, through the dynamics.
    grads = torch.autograd.grad(feats[-1].sum(), [state.deter for state in states[:-1]], retain_graph=True)
    assert all(grad.any() for grad in grads)
    first = State(*(part.clone().requires_grad_() for part in start))
    (grad,) = torch.autograd.grad(imagine(model, actor, first, 2)[0].sum(), first.stoch)
    assert grad.any()  # of a start that is not detached: `flat` is what detaches it
