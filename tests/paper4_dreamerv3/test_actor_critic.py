"""Policies, returns, their range, the whole actor-critic loss: by hand and brute force (11.4, 11.7, 11.8)."""

import math

import pytest
import torch
from torch.distributions import Normal as TorchNormal
from torch.distributions import OneHotCategorical

from common.spaces import Spaces
from paper4_dreamerv3.actor_critic import (
    Actor,
    Imagined,
    Normal,
    OneHots,
    ReturnRange,
    actor_loss,
    alive,
    critic_loss,
    imagine,
    lambda_return,
    replay_return,
)
from paper4_dreamerv3.rssm import State
from paper4_dreamerv3.symlog import TwoHot
from paper4_dreamerv3.world_model import WorldModel

GAMMA = 1 - 1 / 333


def column(*values: float) -> torch.Tensor:
    """A dream of one state.  [H, 1]"""
    return torch.tensor(values)[:, None]


def actor(cfg, spaces: Spaces, out: list[float]) -> Actor:
    """The same output in every state."""
    net = Actor(cfg, 3, spaces)
    for p in net.parameters():
        torch.nn.init.zeros_(p)
    with torch.no_grad():
        net.net.out.bias.copy_(torch.tensor(out))
    return net


# --- policies


@pytest.mark.parametrize("raw, std", [(0, 0.8927173), (-2, 0.55), (2, 0.9838124), (-100, 0.1), (100, 1.0)])
def test_std_of_continuous_actions(small, raw, std):
    dist = actor(small(), Spaces({"vector": (3,)}, 1, False), [0.5, raw])(torch.randn(4, 3))
    assert dist.std.flatten().tolist() == pytest.approx([std] * 4, abs=1e-6)
    assert dist.mean.flatten().tolist() == pytest.approx([math.tanh(0.5)] * 4, abs=1e-6)


def test_the_normal_is_plain():
    """Not squashed, no correction, and draws may lie beyond one."""
    dist = Normal(torch.tensor([[0.5]]).tanh(), torch.tensor([[0.5]]))
    assert dist.log_prob(torch.tensor([[1.2]])).item() == pytest.approx(-1.3147335, abs=1e-6)
    assert dist.entropy().item() == pytest.approx(0.7257913, abs=1e-6)
    mean, std, act = torch.randn(6, 3), torch.rand(6, 3) + 0.1, torch.randn(6, 3)
    ours, theirs = Normal(mean, std), TorchNormal(mean, std)
    torch.testing.assert_close(ours.log_prob(act), theirs.log_prob(act).sum(-1))
    torch.testing.assert_close(ours.entropy(), theirs.entropy().sum(-1))
    assert torch.equal(ours.mode(), mean)
    wide = Normal(torch.full((50_000, 1), 0.8, requires_grad=True), torch.full((50_000, 1), 0.5))
    draws = wide.sample(torch.Generator().manual_seed(0))
    assert draws.mean().item() == pytest.approx(0.8, abs=0.01) and draws.std().item() == pytest.approx(
        0.5, abs=0.01
    )
    assert draws.max() > 1.5 and not draws.requires_grad


@pytest.mark.parametrize("actions", [2, 18])
def test_no_discrete_action_is_rarer_than_its_uniform_share(small, actions):
    out = [1e3] + [0.0] * (actions - 1)
    net = actor(small(), Spaces({"vector": (3,)}, actions, True), out)
    assert net(torch.randn(4, 3)).probs[0].min().item() == pytest.approx(0.01 / actions, rel=1e-5)
    net = actor(small(**{"actor.unimix": 0.0}), Spaces({"vector": (3,)}, actions, True), out)
    assert net(torch.randn(4, 3)).probs[0].min() == 0


@pytest.mark.parametrize("unimix", [0.01, 0.0])
def test_one_hots_are_torchs(unimix):
    logit = torch.randn(6, 4)
    probs = logit.softmax(-1) * (1 - unimix) + unimix / 4
    ours, theirs = OneHots(logit, (4,), unimix), OneHotCategorical(probs=probs)
    act = theirs.sample()
    torch.testing.assert_close(ours.log_prob(act), theirs.log_prob(act))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    assert torch.equal(ours.mode(), torch.nn.functional.one_hot(logit.argmax(-1), 4).float())


def test_a_certain_policy_without_a_uniform_share_is_still_a_number():
    """`--profile head` has none: actions of probability 0 must not make the loss a NaN."""
    logit = torch.tensor([[200.0, 0.0]], requires_grad=True)
    dist = OneHots(logit, (2,), 0.0)
    act = torch.tensor([[1.0, 0.0]])
    assert dist.log_prob(act).item() == 0 and dist.entropy().item() == 0
    (grad,) = torch.autograd.grad((dist.log_prob(act) + dist.entropy()).sum(), logit)
    assert grad.isfinite().all()


def test_several_choices_side_by_side():
    logit, choices = torch.randn(6, 9), (2, 3, 4)
    whole = OneHots(logit, choices, 0.01)
    act = whole.sample(torch.Generator().manual_seed(0))
    parts = [OneHots(part, (n,), 0.01) for part, n in zip(logit.split(choices, -1), choices, strict=True)]
    pieces = act.split(choices, -1)
    assert act.shape == (6, 9) and all((piece.sum(-1) == 1).all() for piece in pieces)
    log_probs = sum(part.log_prob(piece) for part, piece in zip(parts, pieces, strict=True))
    torch.testing.assert_close(whole.log_prob(act), log_probs)
    torch.testing.assert_close(whole.entropy(), sum(part.entropy() for part in parts))
    assert torch.equal(whole.mode(), torch.cat([part.mode() for part in parts], -1))


def test_draws_are_as_frequent_as_the_mixed_probabilities():
    dist = OneHots(torch.tensor([4.0, 0, -1, 0, 0]).expand(50_000, 5), (3, 2), 0.2)
    draws = dist.sample(torch.Generator().manual_seed(0))
    for probs, drawn in zip(dist.probs, draws.split((3, 2), -1), strict=True):
        chi2 = (50_000 * (drawn.mean(0) - probs[0]) ** 2 / probs[0]).sum().item()
        assert chi2 < 13.8 and set(drawn.unique().tolist()) == {0.0, 1.0}  # one in a thousand


@pytest.mark.parametrize(
    "spaces, shape",
    [
        (Spaces({"vector": (3,)}, 5, True), (2, 5)),
        (Spaces({"vector": (3,)}, 5, False), (2, 5)),
        (Spaces({"vector": (3,)}, 5, True, (2, 3)), (2, 5)),
    ],
)
def test_every_kind_of_action(small, spaces, shape):
    dist = Actor(small(), 3, spaces)(torch.randn(2, 3))
    act = dist.sample()
    assert act.shape == dist.mode().shape == shape
    assert dist.log_prob(act).shape == dist.entropy().shape == (2,)
    assert not act.requires_grad and dist.log_prob(act).requires_grad


# --- dreams


def test_a_dream_begins_at_its_start_and_follows_prior_and_policy(small):
    spaces = Spaces({"vector": (3,)}, 2, False)
    model = WorldModel(small(), spaces)
    net = Actor(small(), model.rssm.feature, spaces)
    start = State(torch.randn(7, 16).tanh(), torch.zeros(7, 12), torch.zeros(7, 12))
    dream = imagine(model, net, start, 4)
    assert isinstance(dream, Imagined) and dream.feat.shape == (5, 7, 28) and dream.act.shape == (4, 7, 2)
    assert torch.equal(dream.feat[0], start.feat)
    assert not dream.feat.requires_grad and not dream.act.requires_grad
    for i in range(4):  # act[i] leads from s_i to s_{i + 1}
        here = State(dream.feat[i, :, :16], dream.feat[i, :, 16:], torch.zeros(7, 12))
        torch.testing.assert_close(dream.feat[i + 1, :, :16], model.rssm.imagine(here, dream.act[i]).deter)


# --- returns


def test_imagined_returns_and_weights():
    """The reward of the start and its continue have no say in the returns, the last value ends them."""
    rew, val, cont = column(9, 1, 0, 2), column(5, 4, 3, 2), column(0.9, 0.997, 0.5, 0.997)
    disc, weight = alive(cont, GAMMA, True)
    ret = lambda_return(rew, val, disc, 0.95)
    assert ret.flatten().tolist() == pytest.approx([3.0673218, 1.97215, 3.994], abs=1e-6)
    assert weight.flatten().tolist() == pytest.approx([0.9, 0.8973, 0.44865, 0.447304], abs=1e-6)
    rew[0], val[0], disc = 77, 77, torch.cat([column(0.1), disc[1:]])
    assert torch.equal(lambda_return(rew, val, disc, 0.95), ret)


def test_without_contdisc_gamma_comes_from_outside():
    """The same discounts, and a weight of one at the start."""
    cont = column(1.0, 0.9, 0.8)
    disc, weight = alive(cont, GAMMA, False)
    torch.testing.assert_close(disc, cont * GAMMA)
    torch.testing.assert_close(weight, column(1.0, 0.9 * GAMMA, 0.72 * GAMMA**2))


def test_lambda_returns_by_brute_force():
    """The mean of n-step returns, weighed (1 - lam) lam^(n-1), with discounts that vary."""
    H, lam = 6, 0.7
    rew, val, disc = torch.randn(H + 1, 3), torch.randn(H + 1, 3), torch.rand(H + 1, 3)

    def n_step(t: int, n: int) -> torch.Tensor:
        ret, factor = torch.zeros(3), torch.ones(3)
        for i in range(t + 1, t + n + 1):
            ret, factor = ret + factor * rew[i], factor * disc[i]
        return ret + factor * val[t + n]

    expected = []
    for t in range(H):
        share = [(1 - lam) * lam ** (n - 1) for n in range(1, H - t)] + [lam ** (H - t - 1)]
        expected.append(sum(s * n_step(t, n + 1) for n, s in enumerate(share)))
    torch.testing.assert_close(lambda_return(rew, val, disc, lam), torch.stack(expected))


REW = torch.tensor([[0.0, 1, 2, 0, 1]])
BOOT = torch.tensor([[10.0, 11, 12, 13, 14]])
LAST = torch.tensor([[False, False, True, False, False]])


@pytest.mark.parametrize(
    "terminal, expected",
    [
        (LAST, [3.4426427, 2.0, 14.815434, 14.957957]),
        (torch.zeros_like(LAST), [14.774278, 13.963964, 14.815434, 14.957957]),  # a time limit
    ],
)
def test_replayed_returns(terminal, expected):
    target = replay_return(REW, BOOT, LAST, terminal, GAMMA, 0.95)
    assert target.flatten().tolist() == pytest.approx(expected, abs=5e-6)


def test_replayed_returns_without_ends_are_lambda_returns():
    rew, boot = torch.randn(4, 7), torch.randn(4, 7)
    none = torch.zeros(4, 7, dtype=torch.bool)
    ours = replay_return(rew, boot, none, none, 0.9, 0.8)
    torch.testing.assert_close(ours, lambda_return(rew.T, boot.T, torch.full((7, 4), 0.9), 0.8).T)


def test_what_comes_after_an_end_has_no_say_before_it():
    other = REW.clone(), BOOT.clone()
    other[0][:, 3:], other[1][:, 3:] = 50, 50
    for terminal in (LAST, torch.zeros_like(LAST)):
        one, two = (replay_return(r, b, LAST, terminal, GAMMA, 0.95) for r, b in ((REW, BOOT), other))
        assert torch.equal(one[:, :2], two[:, :2]) and (one[:, 2:] != two[:, 2:]).all()


# --- the range of returns


def test_the_range_begins_at_zero_and_follows():
    span, ret = ReturnRange(0.01), torch.arange(101.0).view(1, 101)
    assert span.update(ret).item() == 1
    assert (span.low.item(), span.high.item()) == pytest.approx((0.05, 0.95), abs=1e-6)
    for _ in range(99):
        scale = span.update(ret)
    assert span.low.item() == pytest.approx(3.16984, abs=2e-4)
    assert scale.item() == pytest.approx(57.05715, abs=2e-3)


def test_percentiles_are_interpolated():
    span = ReturnRange(1.0)
    assert span.update(torch.arange(10.0)).item() == pytest.approx(8.1)
    assert (span.low.item(), span.high.item()) == pytest.approx((0.45, 8.55))


def test_small_returns_are_never_scaled_up_and_the_range_is_saved():
    span = ReturnRange(1.0)
    assert span.update(torch.arange(10.0) / 100).item() == 1
    again = ReturnRange(1.0)
    again.load_state_dict(span.state_dict())
    assert torch.equal(again.high, span.high) and span.high > 0


def test_a_range_takes_all_returns_of_a_large_batch():
    """torch.quantile has a limit of 16 million; the largest batch of the paper has 15,360."""
    assert ReturnRange(1.0).update(torch.rand(15, 1024) * 100).item() == pytest.approx(90, abs=1)


# --- losses


def test_the_whole_loss_by_the_official_numbers():
    bins = torch.tensor([-2.0, -1, 0, 1, 2])
    critic = TwoHot(torch.linspace(-1, 1, 20).view(4, 1, 5), bins)
    slow = TwoHot(torch.arange(20.0).cos().view(4, 1, 5), bins).mean()
    policy = OneHots(torch.tensor([[0.0, 1], [1, 0], [0.5, 0.5]])[:, None], (2,), 0.0)
    act = torch.nn.functional.one_hot(torch.tensor([[1], [0], [1]]), 2).float()
    rew, cont = column(0, 1, 0, -1), column(1, 0.9, 0.9, 0.9)
    val = critic.mean()
    assert val.flatten().tolist() == pytest.approx([0.2095221] * 4, abs=1e-6)
    assert slow.flatten().tolist() == pytest.approx([-0.9590884, -0.4909098, 0.3929375, 0.9610673], abs=1e-6)
    disc, weight = alive(cont, GAMMA, True)
    ret = lambda_return(rew, val, disc, 0.95)
    assert ret.flatten().tolist() == pytest.approx([0.4243143, -0.6843442, -0.8114301], abs=1e-6)
    advantage = (ret - val[:-1]) / ReturnRange(0.01).update(ret)
    loss = actor_loss(policy, act, advantage, weight[:-1], 3e-4)
    assert loss.flatten().tolist() == pytest.approx([0.0671115, -0.2521698, -0.5733812], abs=1e-6)
    assert loss.mean().item() == pytest.approx(-0.2528132, abs=1e-6)
    loss = critic_loss(critic[:-1], ret, slow[:-1], weight[:-1], 1.0)
    assert loss.flatten().tolist() == pytest.approx([3.2972755, 3.028225, 2.6608784], abs=2e-6)
    assert loss.mean().item() == pytest.approx(2.9954596, abs=2e-6)


def test_the_actor_learns_by_reinforce_and_an_entropy_bonus():
    """Gradient of -w (A log pi + eta H), the advantage without a gradient of its own."""
    logit = torch.randn(4, 3, 5, requires_grad=True)
    act = torch.nn.functional.one_hot(torch.randint(5, (4, 3)), 5).float()
    advantage, weight = torch.randn(4, 3, requires_grad=True), torch.rand(4, 3)
    loss = actor_loss(OneHots(logit, (5,), 0.0), act, advantage, weight, 0.1)
    log_prob = logit.log_softmax(-1)
    by_hand = (log_prob * act).sum(-1) * advantage.detach() - 0.1 * (log_prob.exp() * log_prob).sum(-1)
    torch.testing.assert_close(loss, -weight * by_hand)
    (grad,) = torch.autograd.grad(loss.sum(), logit, retain_graph=True)
    torch.testing.assert_close(grad, torch.autograd.grad((-weight * by_hand).sum(), logit)[0])
    assert torch.autograd.grad(loss.sum(), advantage, allow_unused=True) == (None,)


def test_the_critic_is_pulled_to_returns_and_to_the_slow_critic():
    logit = torch.randn(4, 3, 255, requires_grad=True)
    ret, slow, weight = torch.randn(4, 3) * 9, torch.randn(4, 3), torch.rand(4, 3)
    for scale in (1.0, 0.0):
        loss = critic_loss(TwoHot(logit), ret, slow, weight, scale)
        dist = TwoHot(logit)
        torch.testing.assert_close(loss, weight * (dist.loss(ret) + scale * dist.loss(slow)))
