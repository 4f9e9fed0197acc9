"""The dynamics: the layer-norm GRU, what may look at what, resets, the action's index (12.8, issue 4)."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from paper3_dreamerv2.config import RSSMConfig
from paper3_dreamerv2.networks import init_keras_
from paper3_dreamerv2.rssm import RSSM, CategoricalLatent, GaussianLatent, LayerNormGRU, State

B, T, E, A, D, G, C = 3, 6, 7, 2, 8, 4, 5
Z = G * C


def make_rssm(seed: int = 0, **more) -> RSSM:
    torch.manual_seed(seed)
    rssm = RSSM(RSSMConfig(**{"deter": D, "stoch": G, "classes": C, "hidden": 9, **more}), E, A)
    init_keras_(rssm)
    return rssm


def make_rows(seed: int = 1) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    rows = {"embed": torch.randn(B, T, E, generator=rng), "prev_act": torch.randn(B, T, A, generator=rng)}
    return rows | {"is_first": torch.zeros(B, T, dtype=torch.bool)}


def observe(rssm: RSSM, rows: dict, state: State | None = None) -> tuple[State, State]:
    """Always with the same noise."""
    return rssm.observe(**rows, state=state, generator=torch.Generator().manual_seed(2))


# --- the GRU


def zeroed(cell: LayerNormGRU) -> LayerNormGRU:
    nn.init.zeros_(cell.dense.weight)
    nn.init.zeros_(cell.dense.bias)
    return cell


@pytest.mark.parametrize("norm", [True, False])
def test_a_gru_that_says_zero_keeps_73_percent(norm):
    cell, h = zeroed(LayerNormGRU(3, D, norm)), torch.randn(B, D)
    torch.testing.assert_close(cell(torch.randn(B, 3), h), 0.731059 * h)


def test_the_gates_are_reset_candidate_update():
    """Biases of one-hot thirds, no norm: each gate by the closed form that only its place explains."""
    h, x = torch.randn(B, D), torch.zeros(B, 3)

    def out(reset: float = 0.0, cand: float = 0.0, update: float = 0.0) -> torch.Tensor:
        cell = zeroed(LayerNormGRU(3, D, False))
        with torch.no_grad():
            cell.dense.bias.copy_(torch.tensor([reset, cand, update]).repeat_interleave(D))
        return cell(x, h)

    torch.testing.assert_close(out(update=100.0), torch.zeros(B, D))  # all new: tanh(sigmoid(0) * 0)
    torch.testing.assert_close(out(update=-100.0), h)
    torch.testing.assert_close(out(update=100.0, cand=2.0), torch.full((B, D), 1.0).tanh())  # tanh(0.5 * 2)
    # The reset gate multiplies the projected candidate, bias and all.
    torch.testing.assert_close(out(update=100.0, cand=2.0, reset=100.0), torch.full((B, D), 2.0).tanh())
    torch.testing.assert_close(out(update=100.0, cand=2.0, reset=-100.0), torch.zeros(B, D))
    torch.testing.assert_close(out(reset=100.0), 0.731059 * h)
    torch.testing.assert_close(out(update=1.0, cand=2.0), 0.5 * torch.tensor(1.0).tanh() + 0.5 * h)


def test_the_layer_norm_is_over_all_three_gates_with_keras_epsilon():
    torch.manual_seed(0)
    cell, h, x = LayerNormGRU(3, D, True), torch.randn(B, D), torch.randn(B, 3)
    with torch.no_grad():
        cell.dense.weight.mul_(0.1)  # a small variance, so that epsilon counts
        cell.norm.weight.uniform_(0.5, 1.5)
        cell.norm.bias.uniform_(-0.5, 0.5)
    raw = torch.cat([x, h], -1) @ cell.dense.weight.T + cell.dense.bias
    scaled = (raw - raw.mean(-1, True)) / (raw.var(-1, correction=0, keepdim=True) + 1e-3).sqrt()
    reset, cand, update = (scaled * cell.norm.weight + cell.norm.bias).split(D, -1)
    update = (update - 1).sigmoid()
    expected = update * (reset.sigmoid() * cand).tanh() + (1 - update) * h
    torch.testing.assert_close(cell(x, h), expected)
    assert isinstance(make_rssm(layer_norm=False).cell.norm, nn.Identity)


# --- one row


@pytest.mark.parametrize("latent, kind", [("categorical", CategoricalLatent), ("gaussian", GaussianLatent)])
def test_the_switch_of_latents(latent, kind):
    rssm, rows = make_rssm(latent=latent), make_rows()
    assert isinstance(rssm.latent, kind)
    post, prior = observe(rssm, rows)
    size, stats = (Z, Z) if latent == "categorical" else (G, 2 * G)
    assert post.stoch.shape == (B, T, size) and post.stats.shape == prior.stats.shape == (B, T, stats)
    assert rssm.feature == size + D
    if latent == "categorical":
        assert torch.equal(post.stoch.unflatten(-1, (G, C)).sum(-1), torch.ones(B, T, G))
    else:
        assert (post.stats[..., G:] > 0.1).all() and (post.stats[..., G:] < 2.1).all()


def test_features_are_z_then_h_and_the_first_state_is_zero():
    rssm = make_rssm()
    state = State(torch.ones(B, D), torch.zeros(B, Z), torch.zeros(B, Z))
    assert state.feat.shape == (B, rssm.feature) == (B, Z + D)
    assert state.feat[0].tolist() == [0.0] * Z + [1.0] * D
    assert all(not part.any() and len(part) == B for part in rssm.initial(B))


def test_the_layers_are_the_sheets():
    """One row by hand: h = GRU(elu(W [z; a]), h'), posterior from [h; e], prior from h."""
    rssm, rows = make_rssm(), make_rows()
    for p in rssm.parameters():
        nn.init.normal_(p, std=0.3)
    state = State(torch.randn(B, D), torch.randn(B, Z), torch.zeros(B, Z))
    one = {name: row[:, :1] for name, row in rows.items()}
    post, prior = observe(rssm, one, state)
    h = rssm.cell(F.elu(rssm.inputs(torch.cat([state.stoch, rows["prev_act"][:, 0]], -1))), state.deter)
    torch.testing.assert_close(post.deter[:, 0], h)
    logits = rssm.post_stats(F.elu(rssm.post_hidden(torch.cat([h, rows["embed"][:, 0]], -1))))
    torch.testing.assert_close(post.stats[:, 0], logits)
    torch.testing.assert_close(prior.stats[:, 0], rssm.prior_stats(F.elu(rssm.prior_hidden(h))))


def test_both_kinds_of_draw_carry_the_gradient():
    rssm, rows = make_rssm(), make_rows()
    rows["embed"].requires_grad_()
    post, _ = observe(rssm, rows)
    (grad,) = torch.autograd.grad((post.stoch * torch.randn(B, T, Z)).sum(), rows["embed"])
    assert grad.abs().amin(-1).min() > 0
    start = State(torch.randn(B, D), torch.zeros(B, Z), torch.zeros(B, Z))
    act = torch.zeros(B, A, requires_grad=True)
    (grad,) = torch.autograd.grad((rssm.imagine(start, act).stoch * torch.randn(B, Z)).sum(), act)
    assert grad.abs().min() > 0


# --- rows after rows


def test_observing_and_imagining_share_the_prior():
    rssm, rows = make_rssm(), make_rows()
    post, prior = observe(rssm, rows)
    for t in range(T - 1):
        before = State(*(part[:, t] for part in post))
        after = rssm.imagine(before, rows["prev_act"][:, t + 1])
        torch.testing.assert_close(after.deter, post.deter[:, t + 1])
        torch.testing.assert_close(after.stats, prior.stats[:, t + 1])


def test_going_on_from_a_state_is_the_same_as_one_scan():
    rssm, rows = make_rssm(), make_rows()
    rssm.latent.noise = lambda *lead, like, generator=None: torch.zeros(*lead, G, C)
    whole, _ = observe(rssm, rows)
    head, _ = observe(rssm, {name: row[:, :4] for name, row in rows.items()})
    carry = State(*(part[:, -1] for part in head))
    tail, _ = observe(rssm, {name: row[:, 4:] for name, row in rows.items()}, carry)
    for part, ours in zip(whole, tail, strict=True):
        torch.testing.assert_close(part[:, 4:], ours)


@pytest.mark.parametrize("t", range(T))
def test_the_prior_does_not_see_its_own_row(t):
    """Changing o_t changes the posterior from t on, the prior only after t."""
    rssm, rows = make_rssm(), make_rows()
    rssm.latent.sample = lambda stats, noise: stats  # a class may stay the same by chance
    changed = {**rows, "embed": rows["embed"].clone()}
    changed["embed"][:, t] += 1
    (post, prior), (post2, prior2) = observe(rssm, rows), observe(rssm, changed)
    same = [torch.equal(prior.stats[:, i], prior2.stats[:, i]) for i in range(T)]
    assert same == [i <= t for i in range(T)]
    assert [torch.equal(post.deter[:, i], post2.deter[:, i]) for i in range(T)] == same
    assert [torch.equal(post.stats[:, i], post2.stats[:, i]) for i in range(T)] == [i < t for i in range(T)]


def test_an_action_moves_the_row_that_it_led_to():
    """dh_t / da_t != 0 and dh_t / da_{t+1} = 0."""
    rssm, rows = make_rssm(), make_rows()
    act = rows["prev_act"].requires_grad_()
    post, prior = observe(rssm, rows)
    for t in range(T):
        for h in (post.deter[:, t], prior.stats[:, t]):
            (grad,) = torch.autograd.grad((h * torch.randn(h.shape)).sum(), act, retain_graph=True)
            assert [bool(g.any()) for g in grad.unbind(1)] == [i <= t for i in range(T)]


@pytest.mark.parametrize("t", range(1, T))
def test_is_first_cuts_the_past_and_its_gradient(t):
    rssm, rows = make_rssm(), make_rows()
    rows["is_first"][0, t] = True  # of the first sequence only
    embed, act = rows["embed"].requires_grad_(), rows["prev_act"].requires_grad_()
    post, prior = observe(rssm, rows)
    mix = torch.randn(B, T - t, Z + D)
    later = (post.feat[:, t:] * mix).sum() + (prior.stats[:, t:] * mix[..., :Z]).sum()
    for grad in torch.autograd.grad(later, (embed, act)):
        assert not grad[0, :t].any() and grad[0, t:].any()
        assert grad[1:, t - 1].any()  # the others do remember
    fresh, _ = observe(rssm, {**rows, "embed": embed.detach() + (torch.arange(T) < t)[:, None]})
    for part, ours in zip(post, fresh, strict=True):
        assert torch.equal(part[0, t:], ours[0, t:])
    assert not torch.equal(post.deter[1, t:], fresh.deter[1, t:])


def test_is_first_forgets_the_state_that_is_given():
    rssm, rows = make_rssm(), make_rows()
    state = State(torch.randn(B, D), torch.randn(B, Z), torch.randn(B, Z))
    rows["is_first"][:, 0] = True
    for ours, fresh in zip(observe(rssm, rows, state)[0], observe(rssm, rows)[0], strict=True):
        assert torch.equal(ours, fresh)


def test_dreams_start_detached_from_every_row():
    post, _ = observe(make_rssm(), make_rows())
    flat = post.flat()
    assert flat.feat.shape == (B * T, Z + D) and not flat.feat.requires_grad
    assert torch.equal(flat.deter[T], post.deter[1, 0])
