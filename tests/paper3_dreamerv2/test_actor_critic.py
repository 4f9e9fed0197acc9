"""Targets, weights, both advantages, both policies: closed forms and brute force (12.2-12.4, 12.9, 12.10)."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from paper3_dreamerv2.actor_critic import (
    Actor,
    OneHot,
    TruncatedNormal,
    actor_loss,
    critic_loss,
    lambda_target,
    weights,
)
from paper3_dreamerv2.config import ActorConfig

REW = torch.tensor([5.0, 1, 2, 3, 4])[:, None]
VAL = torch.tensor([7.0, 10, 20, 30, 40])[:, None]
DISC = torch.full((5, 1), 0.9)
HALF = torch.tensor([20.692625, 24.8725, 33.05, 39.0])[:, None]  # lam = 0.5


# --- targets and weights


@pytest.mark.parametrize(
    "lam, expected",
    [
        (0.5, [20.692625, 24.8725, 33.05, 39.0]),
        (0.95, [33.899462, 33.274225, 36.695, 39.0]),
        (0.0, [14.0, 19.0, 29.0, 39.0]),
        (1.0, [35.951, 34.39, 37.1, 39.0]),
    ],
)
def test_lambda_targets(lam, expected):
    target = lambda_target(REW, VAL, DISC, lam)
    assert target.flatten().tolist() == pytest.approx(expected, abs=2e-5)
    other = REW.clone()
    other[-1] += 100  # r_H has no say: v'(s_H) contains it
    assert torch.equal(lambda_target(other, VAL, DISC, lam), target)


def test_lambda_targets_by_brute_force():
    """The mean of n-step returns, weighed (1 - lam) lam^(n-1), with discounts that vary."""
    H, lam = 6, 0.7
    rew, val, disc = torch.randn(H + 1, 3), torch.randn(H + 1, 3), torch.rand(H + 1, 3)

    def n_step(t: int, n: int) -> torch.Tensor:
        ret, factor = torch.zeros(3), torch.ones(3)
        for i in range(t, t + n):
            ret, factor = ret + factor * rew[i], factor * disc[i]
        return ret + factor * val[t + n]

    expected = []
    for t in range(H):
        share = [(1 - lam) * lam ** (n - 1) for n in range(1, H - t)] + [lam ** (H - t - 1)]
        expected.append(sum(s * n_step(t, n + 1) for n, s in enumerate(share)))
    torch.testing.assert_close(lambda_target(rew, val, disc, lam), torch.stack(expected))


def test_weights_are_the_products_of_the_discounts_before():
    assert weights(DISC).flatten().tolist() == pytest.approx([1, 0.9, 0.81, 0.729])
    disc = torch.rand(7, 4, requires_grad=True)
    got = weights(disc)
    assert got.shape == (6, 4) and not got.requires_grad
    for t in range(6):
        torch.testing.assert_close(got[t], disc[:t].prod(0).detach())


def test_a_terminal_start_counts_its_own_value_only():
    disc = DISC.clone()
    disc[0] = 0
    target, weight = lambda_target(REW, VAL, disc, 0.5), weights(disc)
    assert target[0].item() == 5 and weight.flatten().tolist() == [1, 0, 0, 0]
    val = torch.randn(4, 1, requires_grad=True)
    loss = critic_loss(val, target, weight)
    assert loss.item() == pytest.approx(0.5 * (val[0].item() - 5) ** 2 / 4)
    (grad,) = torch.autograd.grad(loss, val)
    assert grad[0].item() == pytest.approx((val[0].item() - 5) / 4) and not grad[1:].any()


def test_the_critics_loss_has_all_targets_and_detaches_them():
    val, target = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    weight = torch.rand(4, 3)
    loss = critic_loss(val, target, weight)
    by_hand = (
        sum(weight[t, n] * 0.5 * (val[t, n] - target[t, n]) ** 2 for t in range(4) for n in range(3)) / 12
    )
    torch.testing.assert_close(loss, by_hand)
    assert torch.autograd.grad(loss, target, allow_unused=True, retain_graph=True) == (None,)
    (grad,) = torch.autograd.grad(loss, val)
    torch.testing.assert_close(grad, weight * (val - target).detach() / 12)


# --- the actor's loss


def policy_and_actions(K: int = 3, N: int = 1, A: int = 4) -> tuple[OneHot, torch.Tensor, torch.Tensor]:
    logit = torch.randn(K, N, A, requires_grad=True)
    act = torch.nn.functional.one_hot(torch.randint(A, (K + 1, N)), A).float()
    return OneHot(logit), logit, act


@pytest.mark.parametrize(
    "advantage, gains", [("eq6", [13.692625, 14.8725, 13.05]), ("head", [17.8725, 23.05, 19.0])]
)
def test_both_advantages(advantage, gains):
    """REINFORCE alone: loss and gradient are those of -mean w_t log pi(a_t) A_t over K = H - 1 terms."""
    policy, logit, act = policy_and_actions()
    args = {"rho": 1.0, "entropy": 0.0, "advantage": advantage}
    loss = actor_loss(policy, act, HALF, VAL, weights(DISC), **args)
    log_prob = (logit.log_softmax(-1) * act[:3]).sum(-1)
    by_hand = -(torch.tensor([[1.0], [0.9], [0.81]]) * log_prob * torch.tensor(gains)[:, None]).mean()
    torch.testing.assert_close(loss, by_hand)
    torch.testing.assert_close(*(torch.autograd.grad(x, logit)[0] for x in (loss, by_hand)))


@pytest.mark.parametrize("advantage, goal", [("eq6", HALF[:3]), ("head", HALF[1:])])
@pytest.mark.parametrize("rho", [0.0, 0.5, 1.0])
def test_the_mix_of_gradients(advantage, goal, rho):
    """Only the dynamics' share sees the target's own gradient, and only REINFORCE the log-probability."""
    policy, logit, act = policy_and_actions()
    target = HALF.clone().requires_grad_()
    act = act.requires_grad_()
    args = {"rho": rho, "entropy": 0.0, "advantage": advantage}
    loss = actor_loss(policy, act, target, VAL, weights(DISC), **args)
    weight = torch.tensor([[1.0], [0.9], [0.81]])
    log_prob = (logit.log_softmax(-1) * act.detach()[:3]).sum(-1)
    by_hand = -(weight * (rho * log_prob * (goal - VAL[:3]) + (1 - rho) * goal)).mean()
    torch.testing.assert_close(loss, by_hand)
    to_target, to_act, to_logit = torch.autograd.grad(
        loss, (target, act, logit), allow_unused=True, materialize_grads=True
    )
    placed = torch.zeros(4, 1)
    placed[:3] = -(1 - rho) * weight / 3
    torch.testing.assert_close(to_target, placed if advantage == "eq6" else placed.roll(1, 0))
    assert not to_act.any()  # a continuous action must not be pulled by its own log-probability
    assert to_logit.any() == (rho > 0)


def test_terms_are_one_fewer_than_targets():
    """H = 15: 16 states, 15 targets, 14 terms."""
    policy, _, act = policy_and_actions(14, 2)
    rew, val, disc = torch.randn(3, 16, 2)
    target, weight = lambda_target(rew, val, disc, 0.95), weights(disc)
    assert target.shape == weight.shape == (15, 2)
    loss = actor_loss(policy, act, target, val, weight, rho=1.0, entropy=0.0, advantage="eq6")
    by_hand = -(weight[:14] * policy.log_prob(act[:14]) * (target[:14] - val[:14])).sum() / 28
    torch.testing.assert_close(loss, by_hand)


def test_the_baseline_does_not_change_the_expected_gradient():
    """Exactly, over all actions: sum over a of pi(a) grad log pi(a) (R(a) - b) is the same for every b."""
    logit = torch.randn(1, 1, 4, requires_grad=True)
    ret = torch.tensor([3.0, -1.0, 0.5, 2.0])

    def expected(base: float) -> torch.Tensor:
        total = torch.zeros(4)
        for a in range(4):
            act = torch.eye(4)[a].expand(2, 1, 4)
            target = torch.full((2, 1), ret[a].item())
            args = {"rho": 1.0, "entropy": 0.0, "advantage": "eq6"}
            loss = actor_loss(OneHot(logit), act, target, torch.full((1, 1), base), torch.ones(1, 1), **args)
            total += logit.softmax(-1)[0, 0, a].detach() * torch.autograd.grad(loss, logit)[0].flatten()
        return total

    torch.testing.assert_close(expected(0.0), expected(7.0))
    (true,) = torch.autograd.grad(-(logit.softmax(-1).flatten() @ ret), logit)
    torch.testing.assert_close(expected(0.0), true.flatten())


def test_a_step_with_the_entropy_bonus_makes_the_policy_more_random():
    """Logits [2, 0, 0], loss -0.1 H, step 1: 0.665573 -> 0.682462 nats."""
    logit = torch.tensor([[[2.0, 0, 0]]], requires_grad=True)
    zero = torch.zeros(2, 1)
    args = {"rho": 1.0, "entropy": 0.1, "advantage": "eq6"}
    loss = actor_loss(OneHot(logit), torch.zeros(2, 1, 3), zero, zero, torch.ones(2, 1), **args)
    before = OneHot(logit).entropy().item()
    after = OneHot(logit - torch.autograd.grad(loss, logit)[0]).entropy().item()
    assert (before, after) == pytest.approx((0.665573, 0.682462), abs=1e-6)


# --- discrete actions


def test_one_hot_against_torch():
    logit = torch.randn(6, 5, 4)
    ours, theirs = OneHot(logit), torch.distributions.OneHotCategorical(logits=logit)
    act = theirs.sample()
    torch.testing.assert_close(ours.log_prob(act), theirs.log_prob(act))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    assert torch.equal(ours.mode(), torch.nn.functional.one_hot(logit.argmax(-1), 4).float())


@pytest.mark.parametrize("actions, nats", [(18, 2.890372), (6, 1.791759)])
def test_uniform_policies_have_the_largest_entropy(actions, nats):
    assert OneHot(torch.zeros(actions)).entropy().item() == pytest.approx(nats, abs=1e-6)


def test_draws_are_as_frequent_as_softmax_says_and_straight_through():
    logit = torch.tensor([0.0, math.log(3), -1.0], requires_grad=True)
    draws = OneHot(logit.expand(50_000, 3)).rsample(torch.Generator().manual_seed(0))
    probs = logit.softmax(-1)
    chi2 = (50_000 * (draws.mean(0) - probs) ** 2 / probs).sum().item()
    assert chi2 < 13.8 and set(draws.unique().tolist()) == {0.0, 1.0}  # one in a thousand, 2 degrees
    mix = torch.randn(3)
    (grad,) = torch.autograd.grad((draws @ mix).mean(), logit)
    torch.testing.assert_close(grad, torch.autograd.grad(probs @ mix, logit)[0], atol=1e-5, rtol=1e-4)


# --- continuous actions


def normal(mean: float, std: float) -> tuple[TruncatedNormal, stats.rv_continuous]:
    ours = TruncatedNormal(torch.tensor([[mean]]), torch.tensor([[std]]))
    return ours, stats.truncnorm((-1 - mean) / std, (1 - mean) / std, loc=mean, scale=std)


@pytest.mark.parametrize("mean", [0.0, 0.5, -0.99, 0.999])
@pytest.mark.parametrize("std", [1.1, 0.1134, 0.5, 2.0866])
def test_the_truncated_normal_is_scipys(mean, std):
    ours, theirs = normal(mean, std)
    at = torch.linspace(-0.999, 0.999, 41)[:, None]
    np.testing.assert_allclose(ours.log_prob(at), theirs.logpdf(at[:, 0]), atol=2e-5, rtol=1e-4)
    assert ours.entropy().item() == pytest.approx(theirs.entropy(), abs=1e-4)
    assert ours.mode().item() == pytest.approx(mean, abs=1e-6)
    grid = np.linspace(-1, 1, 20_001)
    density = np.exp(ours.log_prob(torch.tensor(grid[:, None], dtype=torch.float32)).numpy().astype(float))
    assert np.trapezoid(density, grid) == pytest.approx(1, abs=1e-3)
    assert -np.trapezoid(density * np.log(density + 1e-30), grid) == pytest.approx(theirs.entropy(), abs=2e-3)
    wide = TruncatedNormal(torch.full((20_000, 1), mean), torch.full((20_000, 1), std))
    draws = wide.rsample(torch.Generator().manual_seed(0))[:, 0].numpy()
    assert abs(draws).max() <= 1 - 1e-6
    assert stats.kstest(draws, theirs.cdf).pvalue > 1e-3


def test_at_first_the_policy_is_nearly_uniform():
    """Zero output: std 1.1, of the draws 0.5460, mass inside 0.6367, entropy 0.685978 (uniform 0.693147)."""
    actor = Actor(ActorConfig(layers=1, units=4), 3, 2, False)
    for p in actor.parameters():
        torch.nn.init.zeros_(p)
    dist = actor(torch.randn(50_000, 3))
    assert dist.std.unique().item() == pytest.approx(1.1) and not dist.mean.any()
    assert dist.mass[0].tolist() == pytest.approx([0.6367] * 2, abs=1e-4)
    assert dist.entropy()[0].item() == pytest.approx(2 * 0.685978, abs=2e-6)
    assert stats.truncnorm(-1 / 1.1, 1 / 1.1, scale=1.1).std() == pytest.approx(0.5460015, abs=1e-6)
    draws = dist.rsample(torch.Generator().manual_seed(0))
    assert draws.std(0).tolist() == pytest.approx([0.5460] * 2, abs=0.005)
    assert abs(draws).max() <= 1 - 1e-6
    assert not torch.equal(draws[:, 0], draws[:, 1])


@pytest.mark.parametrize("raw, std", [(-10.0, 0.113386), (0.0, 1.1), (10.0, 2.086614)])
def test_the_spread_stays_between_a_tenth_and_two(raw, std):
    actor = Actor(ActorConfig(layers=1, units=4), 3, 1, False)
    for p in actor.parameters():
        torch.nn.init.zeros_(p)
    with torch.no_grad():
        actor.net.out.bias.copy_(torch.tensor([5.0, raw]))
    dist = actor(torch.zeros(1, 3))
    assert dist.std.item() == pytest.approx(std, abs=1e-6)
    assert dist.mean.item() == pytest.approx(math.tanh(5.0))


def test_draws_carry_finite_gradients_also_where_they_are_clipped():
    for mean, std in ((0.0, 1.1), (0.9999, 0.1134), (-0.9999, 2.08), (0.3, 0.1)):
        at = torch.tensor([mean, std], requires_grad=True)
        dist = TruncatedNormal(at[0].expand(10_000, 1), at[1].expand(10_000, 1))
        draws = dist.rsample(torch.Generator().manual_seed(0))
        (grad,) = torch.autograd.grad(draws.mean(), at, retain_graph=True)
        assert grad.isfinite().all() and grad[0] > 0
        by_steps = []
        for i in range(2):
            moved = [at.detach().double().clone() for _ in range(2)]
            moved[0][i] -= 1e-4
            moved[1][i] += 1e-4
            means = [stats.truncnorm((-1 - m) / s, (1 - m) / s, loc=m, scale=s).mean() for m, s in moved]
            by_steps.append((means[1] - means[0]) / 2e-4)
        assert grad.tolist() == pytest.approx(by_steps, abs=0.02)
        (grad,) = torch.autograd.grad((dist.entropy() + dist.log_prob(draws.detach())).mean(), at)
        assert grad.isfinite().all()


def test_a_clipped_draw_keeps_its_gradient(monkeypatch):
    """The largest draws lie beyond the clip; clamping alone would cut their gradient."""
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.full(shape, 1 - 2**-20))
    at = torch.tensor([1.0, 0.1], requires_grad=True)
    draw = TruncatedNormal(at[:1, None], at[1:, None]).rsample()
    assert draw.item() == pytest.approx(1 - 1e-6, abs=6e-8)
    (grad,) = torch.autograd.grad(draw.sum(), at)
    assert grad.abs().min() > 0  # small, for the wall is near, but not cut
