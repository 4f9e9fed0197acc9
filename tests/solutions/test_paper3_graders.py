"""Further graders of paper 3's exercises: small cases worked out by hand, and classic mistakes."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats as scipy_stats
from torch import nn

from common.config import override
from common.spaces import Spaces
from paper3_dreamerv2.actor_critic import (
    OneHot,
    TruncatedNormal,
    actor_loss,
    imagine,
    lambda_target,
    weights,
)
from paper3_dreamerv2.config import RSSMConfig
from paper3_dreamerv2.presets import PRESETS
from paper3_dreamerv2.rssm import CategoricalLatent, State
from paper3_dreamerv2.utils import end_window
from paper3_dreamerv2.world_model import WorldModel

SMALL = {
    **{"conv.depth": 2, "conv.layers": 1, "conv.units": 8, "rssm.deter": 12, "rssm.hidden": 10},
    **{"rssm.stoch": 3, "rssm.classes": 4, "model.layers": 1, "model.units": 8, "model.free_nats": 0.0},
    **{"behaviour.discount": 0.999, "model.kl_scale": 1.0},
}
PICTURES, VECTORS = Spaces({"image": (32, 32, 1)}, 3, True), Spaces({"vector": (5,)}, 3, True)
INSIDE = 1 - 1e-6


# --- latents


def test_a_variables_gradient_is_its_own():
    latent = CategoricalLatent(RSSMConfig(stoch=2, classes=2))
    stats = torch.tensor([[0.0, math.log(3), 1.0, 1.0]], requires_grad=True)
    z = latent.sample(stats, torch.zeros(1, 2, 2))
    assert z[0, :2].tolist() == [0, 1]
    (grad,) = torch.autograd.grad(z[0, 0], stats)
    torch.testing.assert_close(grad, torch.tensor([[0.1875, -0.1875, 0.0, 0.0]]))


def test_far_off_logits_cost_finitely_much():
    latent = CategoricalLatent(RSSMConfig(stoch=1, classes=2))
    sure, unsure = torch.tensor([200.0, 0.0], requires_grad=True), torch.zeros(2)
    kl = latent.kl(sure, unsure)
    assert kl.item() == pytest.approx(math.log(2), abs=1e-5)
    (grad,) = torch.autograd.grad(kl, sure)
    assert grad.isfinite().all()
    assert latent.kl(torch.tensor([0.0, 200.0]), sure).item() == pytest.approx(200, abs=1e-3)


def test_the_kl_is_computed_in_float32():
    latent = CategoricalLatent(RSSMConfig(stoch=4, classes=8))
    post, prior = torch.randn(2, 6, 32).bfloat16()
    kl = latent.kl(post, prior)
    assert kl.dtype == torch.float32 and kl.shape == (6,)
    torch.testing.assert_close(kl, latent.kl(post.float(), prior.float()))


# --- the world model's loss


def small_model(spaces: Spaces = VECTORS, cont: bool = True, **more) -> WorldModel:
    torch.manual_seed(0)
    return WorldModel(override(PRESETS["tiny"], {**SMALL, **more}), spaces, cont)


def small_batch(spaces: Spaces = VECTORS, B: int = 3, T: int = 5) -> dict[str, torch.Tensor]:
    """Row 2 of the first sequence is terminal."""
    rng = torch.Generator().manual_seed(0)
    batch = {}
    for key, shape in spaces.obs.items():
        noise = torch.rand(B, T, *shape, generator=rng)
        batch[key] = (noise * 256).to(torch.uint8) if key == "image" else 2 * noise - 1
    act = torch.eye(spaces.act)[torch.randint(spaces.act, (B, T), generator=rng)]
    is_first, is_terminal = torch.zeros(2, B, T, dtype=torch.bool)
    is_first[:, 0] = is_terminal[0, 2] = True
    act[:, 0] = 0
    rew = 2 * torch.randn(B, T, generator=rng)
    return batch | {"prev_act": act, "rew": rew, "is_first": is_first, "is_terminal": is_terminal}


def test_the_discount_head_learns_gamma_times_not_terminal():
    """Soft labels: 0.007907 is the least that a label of 0.999 can cost, at the logit ln(0.999 / 0.001)."""
    model, batch = small_model(), small_batch()
    with torch.no_grad():
        model.cont.out.weight.zero_()
        model.cont.out.bias.fill_(math.log(0.999 / 0.001))
    cont = model.loss(batch)[0]["cont"]  # [B, T]
    assert cont.shape == (3, 5)
    assert cont[~batch["is_terminal"]].tolist() == pytest.approx([0.007907] * 14, abs=1e-5)
    assert cont[0, 2].item() == pytest.approx(6.907755, abs=1e-4)
    assert "cont" not in small_model(cont=False).loss(batch)[0]


def test_rewards_are_squashed_where_the_config_says_so():
    batch = small_batch()
    for transform, wanted in (("tanh", batch["rew"].tanh()), ("none", batch["rew"])):
        model = small_model(**{"model.reward_transform": transform})
        with torch.no_grad():
            model.rew.out.weight.zero_()  # the head says 0
        losses, _, _ = model.loss(batch)
        torch.testing.assert_close(losses["rew"], 0.5 * wanted**2)


def test_the_picture_costs_half_its_squared_error_summed_over_pixels():
    model, batch = small_model(PICTURES), small_batch(PICTURES)
    with torch.no_grad():
        model.decoder.convs[-1].weight.zero_()  # a gray picture
    losses, _, _ = model.loss(batch)
    wanted = 0.5 * (batch["image"].double() / 255 - 0.5).square().sum((2, 3, 4))
    torch.testing.assert_close(losses["image"], wanted.float())
    losses, _, _ = small_model().loss(small_batch())  # vectors are taken as they are
    assert losses["vector"].shape == (3, 5)


def reached(model: WorldModel, loss: torch.Tensor) -> set[str]:
    """The parts of the model that a loss trains."""
    model.zero_grad()
    loss.backward(retain_graph=True)
    trained = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    return {".".join(name.split(".")[: 2 if "rssm" in name else 1]) for name in trained}


def test_each_kl_trains_its_own_side():
    model = small_model()
    losses, post, metrics = model.loss(small_batch())
    prior, posterior = {"rssm.prior_hidden", "rssm.prior_stats"}, {"rssm.post_hidden", "rssm.post_stats"}
    to_prior, to_post = (reached(model, losses[name].sum()) for name in ("kl_prior", "kl_post"))
    assert prior <= to_prior and "rssm.post_stats" in to_prior  # z of the rows before is drawn from q
    assert posterior <= to_post and not prior & to_post
    torch.testing.assert_close(losses["kl_prior"], losses["kl_post"])  # one value
    first, _, _ = model.loss({name: row[:, :1] for name, row in small_batch().items()})  # no row before
    assert not reached(model, first["kl_prior"].sum()) & {*posterior, "encoder"}
    assert post.feat.shape == (3, 5, model.rssm.feature)
    for name, most in (("prior_entropy", 3 * math.log(4)), ("post_entropy", 3 * math.log(4))):
        assert 0 < metrics[name].item() <= most


@pytest.mark.parametrize("switch, head", [("grad_image", "vector"), ("grad_rew", "rew")])
def test_a_head_may_be_kept_from_shaping_the_features(switch, head):
    batch = small_batch()
    open_model, shut_model = small_model(), small_model(**{f"model.{switch}": False})
    assert "encoder" in reached(open_model, open_model.loss(batch)[0][head].sum())
    own = "decoder" if head == "vector" else head
    assert reached(shut_model, shut_model.loss(batch)[0][head].sum()) == {own}


# --- KL balancing


def balanced(free_nats: float = 0.0, **more) -> tuple[float, torch.Tensor, torch.Tensor]:
    """Value and gradients by posterior and prior logits: one binary variable, [0, ln 3] and [0, 0]."""
    model = small_model(**{"model.free_nats": free_nats, **more})
    latent = CategoricalLatent(RSSMConfig(stoch=1, classes=2))
    post = torch.tensor([[0.0, math.log(3)]], requires_grad=True)
    prior = torch.zeros(1, 2, requires_grad=True)
    terms = {"kl_prior": latent.kl(post.detach(), prior), "kl_post": latent.kl(post, prior.detach())}
    total = model.total(terms)
    total.backward()
    return total.item(), post.grad[0], prior.grad[0]


def test_the_prior_gets_alpha_of_the_gradient_and_the_value_stays():
    value, post, prior = balanced()
    assert value == pytest.approx(0.130812, abs=1e-6)
    assert post.tolist() == pytest.approx([-0.041198, 0.041198], abs=1e-6)  # 0.2 of 0.205990
    assert prior.tolist() == pytest.approx([0.2, -0.2], abs=1e-6)  # 0.8 of 0.25
    value, post, prior = balanced(**{"model.kl_balance": 0.5})
    assert value == pytest.approx(0.130812, abs=1e-6)
    assert (post[1].item(), prior[0].item()) == pytest.approx((0.102995, 0.125), abs=1e-6)
    value, post, prior = balanced(**{"model.kl_scale": 0.1})
    assert (value, prior[0].item()) == pytest.approx((0.0130812, 0.02), abs=1e-7)


def test_below_the_free_nats_nothing_is_pulled():
    value, post, prior = balanced(1.0)
    assert value == pytest.approx(1.0) and not post.any() and not prior.any()


def test_free_nats_are_of_the_mean_and_every_loss_has_its_weight():
    cfg = {"model.free_nats": 1.0, "model.kl_scale": 0.1}
    kl = torch.tensor([[0.0, 3.0]])
    assert small_model(**cfg).total({"kl_prior": kl, "kl_post": kl}).item() == pytest.approx(0.15)
    losses = {"image": torch.full((2, 3), 7.0), "rew": torch.full((2, 3), 0.5), "cont": torch.ones(2, 3)}
    total = small_model(**cfg).total(losses | {"kl_prior": kl, "kl_post": kl})
    assert total.shape == () and total.item() == pytest.approx(7 + 0.5 + 5 * 1 + 0.15)


# --- replay


def test_ends_are_drawn_as_often_as_the_sheet_says():
    rng, N = np.random.default_rng(0), 200_000
    starts = end_window(rng, np.full(N, 501), 50)
    assert starts.min() == 0 and starts.max() == 451
    assert (starts == 451).mean() == pytest.approx(51 / 502, abs=0.003)
    assert (starts < 100).mean() == pytest.approx(100 / 502, abs=0.005)  # all others alike
    starts = end_window(rng, np.full(N, 3), 2)
    assert [(starts == i).mean() for i in (0, 1)] == pytest.approx([1 / 4, 3 / 4], abs=0.005)


def test_every_episode_is_cut_by_its_own_length():
    rng = np.random.default_rng(0)
    rows = np.array([50, 51, 10, 501])
    starts = np.stack([end_window(rng, rows, 50) for _ in range(3000)])
    assert starts.shape == (3000, 4) and (starts >= 0).all()
    assert starts.max(0).tolist() == [0, 1, 0, 451]


# --- dreams


class FakeDynamics:
    """s' = s + a, with s in stoch; counts its calls."""

    def __init__(self):
        self.rssm = self

    def imagine(self, state: State, act: torch.Tensor) -> State:
        stoch = state.stoch + act
        return State(state.deter + 1, stoch, torch.zeros_like(stoch))


class FakeActor(nn.Module):
    """a = w s, exactly; the features are [s, count]."""

    def __init__(self, weight: float = 0.5):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))
        self.seen = []

    def forward(self, feat: torch.Tensor) -> SimpleNamespace:
        self.seen.append(feat)
        act = self.weight * feat[..., :1]
        return SimpleNamespace(rsample=lambda generator=None: act, mode=lambda: torch.full_like(act, 9.0))


def dreamed(horizon: int = 3, with_graph: bool = True):
    actor = FakeActor()
    start = State(torch.zeros(2, 1), torch.tensor([[1.0], [2.0]]), torch.zeros(2, 1))
    return actor, imagine(FakeDynamics(), actor, start, horizon, with_graph)


@pytest.mark.parametrize("with_graph", [True, False])
def test_a_dream_is_its_start_and_one_state_per_action(with_graph):
    _, dream = dreamed(3, with_graph)
    assert dream.feat.shape == (4, 2, 2) and dream.act.shape == (3, 2, 1)
    assert dream.feat[:, 0, 0].tolist() == [1, 1.5, 2.25, 3.375]  # s_0 .. s_3
    assert dream.feat[:, 1, 0].tolist() == [2, 3, 4.5, 6.75]
    assert dream.feat[:, 0, 1].tolist() == [0, 1, 2, 3]
    assert dream.act[:, 0, 0].tolist() == [0.5, 0.75, 1.125]  # act[t] is chosen at s_t


def test_a_dream_with_a_graph_reaches_the_actor_through_its_actions_alone():
    """s_2 = s_0 + w s_0 + w s_1, s_1 as the actor sees it: d s_2 / dw = s_0 + s_1, not + w s_0."""
    actor, dream = dreamed(2)
    (grad,) = torch.autograd.grad(dream.feat[-1, 0, 0], actor.weight)
    assert grad.item() == 1 + 1.5
    assert not any(feat.requires_grad for feat in actor.seen)


def test_a_dream_for_reinforce_keeps_no_graph():
    _, dream = dreamed(3, with_graph=False)
    assert not dream.feat.requires_grad and not dream.act.requires_grad
    assert torch.is_grad_enabled()


REW, VAL, DISC = (torch.tensor(x)[:, None] for x in ([5.0, 1, 2, 3, 4], [7.0, 10, 20, 30, 40], [0.9] * 5))


@pytest.mark.parametrize(
    "lam, wanted",
    [(0.5, [20.692625, 24.8725, 33.05, 39]), (0.95, [33.899462, 33.274225, 36.695, 39])],
)
def test_lambda_targets_of_the_sheet(lam, wanted):
    target = lambda_target(REW, VAL, DISC, lam)
    assert target.shape == (4, 1)
    assert target[:, 0].tolist() == pytest.approx(wanted, abs=1e-4)


def test_lambda_targets_against_the_sum_of_all_n_step_returns():
    """(1 - lam) sum lam^(n-1) G_n, the last one with what is left of the weight; every number its own."""
    rng = torch.Generator().manual_seed(0)
    rew, val = torch.randn(2, 6, 3, generator=rng)
    disc, lam = torch.rand(6, 3, generator=rng), 0.7
    target, H = lambda_target(rew, val, disc, lam), 5
    assert target.shape == (5, 3)
    for t in range(H):
        wanted, alive, paid = torch.zeros(3), torch.ones(3), torch.zeros(3)
        for n in range(1, H - t + 1):
            paid = paid + alive * rew[t + n - 1]
            alive = alive * disc[t + n - 1]
            share = lam ** (n - 1) * (1 if t + n == H else 1 - lam)
            wanted = wanted + share * (paid + alive * val[t + n])
        torch.testing.assert_close(target[t], wanted)


def test_the_value_of_a_terminal_state_is_its_reward():
    disc = DISC.clone()
    disc[0] = 0
    assert lambda_target(REW, VAL, disc, 0.95)[0].item() == 5
    assert weights(disc)[:, 0].tolist() == [1, 0, 0, 0]


def test_the_targets_gradient_reaches_rewards_discounts_and_values():
    inputs = [x.clone().requires_grad_() for x in (REW, VAL, DISC)]
    rew, val, disc = torch.autograd.grad(lambda_target(*inputs, 0.5)[0].sum(), inputs)
    assert rew[:, 0].tolist() == pytest.approx([1, 0.45, 0.2025, 0.091125, 0], abs=1e-6)
    assert val[0] == 0 and (val[1:] > 0).all()
    assert (disc[:4] > 0).all() and disc[4] == 0


def test_weights_are_the_discounts_before_and_carry_no_gradient():
    disc = torch.tensor([[0.9, 0.5], [0.8, 1.0], [0.7, 1.0], [0.6, 1.0]], requires_grad=True)
    found = weights(disc)
    torch.testing.assert_close(found, torch.tensor([[1, 1], [0.9, 0.5], [0.72, 0.5]]))
    assert not found.requires_grad
    assert weights(DISC)[:, 0].tolist() == pytest.approx([1, 0.9, 0.81, 0.729])


# --- the actor


class Counted:
    """A policy whose numbers are given: log pi = [K, N] and H = [K, N], both leaves."""

    def __init__(self, K: int, N: int):
        self.logp, self.bonus = (torch.full((K, N), x, requires_grad=True) for x in (-1.5, 0.5))
        self.asked = None

    def log_prob(self, act: torch.Tensor) -> torch.Tensor:
        self.asked = act
        return self.logp

    def entropy(self) -> torch.Tensor:
        return self.bonus


def actor_gradients(advantage: str, rho: float, entropy: float = 0.25) -> dict[str, torch.Tensor]:
    """Of the loss in the sheet's case (lambda 0.5, v' as the baseline) by log pi, entropy and target."""
    target = lambda_target(REW, VAL, DISC, 0.5).requires_grad_()
    policy, act = Counted(3, 1), torch.randn(4, 1, 2, requires_grad=True)
    loss = actor_loss(policy, act, target, VAL, weights(DISC), rho=rho, entropy=entropy, advantage=advantage)
    assert loss.shape == ()
    leaves = {"logp": policy.logp, "entropy": policy.bonus, "target": target, "act": act}
    grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    if policy.asked is not None:
        assert policy.asked.shape == (3, 1, 2) and not policy.asked.requires_grad
    zeros = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    return {name: zeros[name] if g is None else g for name, g in zip(leaves, grads, strict=True)}


WEIGHT = torch.tensor([1, 0.9, 0.81]) / 3  # the loss is a mean over K = 3 steps


@pytest.mark.parametrize(
    "advantage, wanted", [("eq6", [13.692625, 14.8725, 13.05]), ("head", [17.8725, 23.05, 19])]
)
def test_the_advantages_of_both_conventions(advantage, wanted):
    grads = actor_gradients(advantage, rho=1.0)
    torch.testing.assert_close(grads["logp"][:, 0], -WEIGHT * torch.tensor(wanted))
    torch.testing.assert_close(grads["entropy"][:, 0], -0.25 * WEIGHT)
    assert not grads["target"].any() and not grads["act"].any()  # REINFORCE asks for no gradient of V


@pytest.mark.parametrize("advantage, at", [("eq6", slice(0, 3)), ("head", slice(1, 4))])
def test_the_dynamics_part_passes_through_the_target(advantage, at):
    grads = actor_gradients(advantage, rho=0.0)
    wanted = torch.zeros(4)
    wanted[at] = -WEIGHT
    torch.testing.assert_close(grads["target"][:, 0], wanted)
    assert not grads["logp"].any()
    grads = actor_gradients("eq6", rho=0.25)  # both, by their shares
    torch.testing.assert_close(grads["target"][:3, 0], -0.75 * WEIGHT)
    torch.testing.assert_close(
        grads["logp"][:, 0], -0.25 * WEIGHT * torch.tensor([13.692625, 14.8725, 13.05])
    )


def test_the_bonus_makes_the_policy_less_sure():
    """Logits [2, 0, 0], no advantage, one step of size 1 on -0.1 H: entropy 0.665573 -> 0.682462."""
    logit = torch.tensor([[[2.0, 0.0, 0.0]]], requires_grad=True)
    act, zero, one = torch.tensor([[[1.0, 0, 0]]]), torch.zeros(2, 1), torch.ones(2, 1)
    loss = actor_loss(OneHot(logit), act, zero, zero, one, rho=1.0, entropy=0.1, advantage="eq6")
    (grad,) = torch.autograd.grad(loss, logit)
    before, after = OneHot(logit).entropy().item(), OneHot(logit - grad).entropy().item()
    assert (before, after) == pytest.approx((0.665573, 0.682462), abs=1e-5)


# --- continuous actions

CASES = [(0.0, 1.1), (0.9, 0.3), (-0.99, 2.0), (0.3, 0.12)]


def truncated(mean: float, std: float) -> scipy_stats.rv_continuous:
    return scipy_stats.truncnorm((-1 - mean) / std, (1 - mean) / std, mean, std)


@pytest.mark.parametrize("mean, std", CASES)
def test_draws_have_the_distribution_that_scipy_has(mean, std):
    N = 20_000
    dist = TruncatedNormal(torch.full((N, 1), mean), torch.full((N, 1), std))
    act = dist.rsample(torch.Generator().manual_seed(0))
    assert act.shape == (N, 1) and act.abs().max() <= INSIDE
    assert scipy_stats.kstest(act[:, 0].numpy(), truncated(mean, std).cdf).pvalue > 1e-3
    torch.testing.assert_close(act, dist.rsample(torch.Generator().manual_seed(0)), rtol=0, atol=0)


def test_the_draw_moves_with_mean_and_std_as_finite_differences_say():
    N, mean, std, step = 2_000, 0.4, 0.7, 1e-3

    def draw(mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
        return TruncatedNormal(mean, std).rsample(torch.Generator().manual_seed(1)).squeeze(-1)

    m, s = torch.full((N, 1), mean, requires_grad=True), torch.full((N, 1), std, requires_grad=True)
    to_mean, to_std = torch.autograd.grad(draw(m, s).sum(), [m, s])
    with torch.no_grad():
        slope_mean = (draw(m + step, s) - draw(m - step, s)) / (2 * step)
        slope_std = (draw(m, s + step) - draw(m, s - step)) / (2 * step)
    torch.testing.assert_close(to_mean[:, 0], slope_mean, rtol=0.02, atol=0.02)
    torch.testing.assert_close(to_std[:, 0], slope_std, rtol=0.02, atol=0.02)


def test_a_clipped_draw_still_has_a_gradient():
    mean = torch.tensor([[1.6]], requires_grad=True)  # all but nothing of it lies inside
    act = TruncatedNormal(mean, torch.tensor([[0.1]])).rsample(torch.Generator().manual_seed(0))
    assert act.item() == pytest.approx(INSIDE, abs=1e-7)
    (grad,) = torch.autograd.grad(act.sum(), mean)
    assert grad.isfinite().all() and grad.abs().item() > 0.1


@pytest.mark.parametrize("mean, std", CASES)
def test_the_entropy_is_scipys(mean, std):
    dist = TruncatedNormal(torch.tensor([[mean]]), torch.tensor([[std]]))
    assert dist.entropy().shape == (1,)
    assert dist.entropy().item() == pytest.approx(truncated(mean, std).entropy(), abs=2e-4)


def test_at_first_the_entropy_is_nearly_that_of_a_uniform_action():
    dist = TruncatedNormal(torch.zeros(3, 2), torch.full((3, 2), 1.1))
    assert dist.entropy().tolist() == pytest.approx([2 * 0.685978] * 3, abs=1e-5)  # uniform: 2 * 0.693147
