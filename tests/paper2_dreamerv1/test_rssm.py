"""The dynamics: KL and entropy against torch, who sees what, resets, an action's index (sheet 12.5, 12.8)."""

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Independent, Normal, kl_divergence

from paper2_dreamerv1.config import RSSMConfig
from paper2_dreamerv1.networks import init_keras_
from paper2_dreamerv1.rssm import RSSM, GaussianLatent, State

B, T, E, A, D, Z = 3, 6, 7, 2, 8, 4


def make_rssm(seed: int = 0, dtype=torch.float32) -> RSSM:
    torch.manual_seed(seed)
    rssm = RSSM(RSSMConfig(deter=D, stoch=Z, hidden=9), E, A)
    init_keras_(rssm)
    return rssm.to(dtype)


def make_rows(seed: int = 1, dtype=torch.float32) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    rows = {"embed": torch.randn(B, T, E, generator=rng), "prev_act": torch.randn(B, T, A, generator=rng)}
    is_first = torch.zeros(B, T, dtype=torch.bool)
    return {name: row.to(dtype) for name, row in rows.items()} | {"is_first": is_first}


def observe(rssm: RSSM, rows: dict, state: State | None = None) -> tuple[State, State]:
    """Always with the same noise."""
    return rssm.observe(**rows, state=state, generator=torch.Generator().manual_seed(2))


def stats(mean: float, std: float, dims: int = 30) -> torch.Tensor:
    return torch.cat([torch.full((dims,), mean), torch.full((dims,), std)])


def as_torch(stats: torch.Tensor) -> Independent:
    return Independent(Normal(*stats.chunk(2, -1)), 1)


@pytest.mark.parametrize(
    "post, prior, nats",
    [((1, 1), (0, 1), 0.5), ((0, 0.5), (0, 1), 0.318147), ((1, 0.5), (0, 2), 1.042544), ((3, 2), (3, 2), 0)],
)
def test_kl_per_dimension(post, prior, nats):
    latent = GaussianLatent(RSSMConfig())
    got = latent.kl(stats(*post), stats(*prior)).item()  # summed over 30
    assert got == pytest.approx(30 * nats, abs=2e-5)


def test_kl_and_entropy_equal_torchs():
    latent, raw = GaussianLatent(RSSMConfig(stoch=Z)), torch.randn(2, B, T, 2 * Z) * 2
    post, prior = latent.stats(raw[0]), latent.stats(raw[1])
    torch.testing.assert_close(latent.kl(post, prior), kl_divergence(as_torch(post), as_torch(prior)))
    torch.testing.assert_close(latent.entropy(post), as_torch(post).entropy())


def test_a_layer_that_says_zero_means_the_papers_standard_deviation():
    latent = GaussianLatent(RSSMConfig())
    zero = latent.stats(torch.zeros(60))
    torch.testing.assert_close(zero, stats(0, 0.793147))
    assert latent.entropy(zero).item() == pytest.approx(35.6158, abs=1e-3)
    assert latent.stats(torch.full((60,), -100.0))[30:].min() == pytest.approx(0.1)


def test_a_draw_is_reparameterised():
    latent = GaussianLatent(RSSMConfig(stoch=Z))
    at = torch.cat([torch.randn(B, Z), torch.rand(B, Z) + 0.1], -1).requires_grad_()
    noise = torch.randn(B, Z)
    (grad,) = torch.autograd.grad(latent.sample(at, noise).sum(), at)
    torch.testing.assert_close(grad, torch.cat([torch.ones(B, Z), noise], -1))
    assert torch.equal(latent.sample(at, noise, temperature=0.0), at[:, :Z])


def test_a_gru_without_weights_halves_its_state():
    rssm = make_rssm()
    for p in rssm.cell.parameters():
        torch.nn.init.zeros_(p)
    h = torch.randn(B, D)
    torch.testing.assert_close(rssm.cell(torch.randn(B, 9), h), 0.5 * h)
    state = State(h, torch.randn(B, Z), torch.zeros(B, 2 * Z))
    torch.testing.assert_close(rssm.imagine(state, torch.randn(B, A)).deter, 0.5 * h)


def test_features_are_z_then_h_and_the_first_state_is_zero():
    rssm = make_rssm()
    state = State(torch.ones(B, D), torch.zeros(B, Z), torch.zeros(B, 2 * Z))
    assert state.feat.shape == (B, rssm.feature) == (B, Z + D)
    assert state.feat[0].tolist() == [0.0] * Z + [1.0] * D
    assert all(not part.any() and len(part) == B for part in rssm.initial(B))


def test_the_layers_are_the_sheets():
    """One row by hand: h = GRU(elu(W [z; a]), h'), posterior from [h; e], prior from h."""
    rssm, rows = make_rssm(), make_rows()
    for p in rssm.parameters():
        torch.nn.init.normal_(p, std=0.3)
    state = State(torch.randn(B, D), torch.randn(B, Z), torch.zeros(B, 2 * Z))
    one = {name: row[:, :1] for name, row in rows.items()}
    post, prior = observe(rssm, one, state)
    h = rssm.cell(F.elu(rssm.inputs(torch.cat([state.stoch, rows["prev_act"][:, 0]], -1))), state.deter)
    torch.testing.assert_close(post.deter[:, 0], h)

    def head(hidden, out, x):
        mean, raw = out(F.elu(hidden(x))).chunk(2, -1)
        return torch.cat([mean, F.softplus(raw) + 0.1], -1)

    wanted = head(rssm.post_hidden, rssm.post_stats, torch.cat([h, rows["embed"][:, 0]], -1))
    torch.testing.assert_close(post.stats[:, 0], wanted)
    torch.testing.assert_close(prior.stats[:, 0], head(rssm.prior_hidden, rssm.prior_stats, h))


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
    rssm.latent.noise = lambda *lead, like, generator=None: torch.zeros(*lead, Z)
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
    changed = {**rows, "embed": rows["embed"].clone()}
    changed["embed"][:, t] += 1
    post, prior = observe(rssm, rows)
    post2, prior2 = observe(rssm, changed)
    same = [torch.equal(prior.stats[:, i], prior2.stats[:, i]) for i in range(T)]
    assert same == [i <= t for i in range(T)]
    assert [torch.equal(post.deter[:, i], post2.deter[:, i]) for i in range(T)] == same
    assert [torch.equal(post.stats[:, i], post2.stats[:, i]) for i in range(T)] == [i < t for i in range(T)]


def test_an_action_moves_the_row_that_it_led_to():
    """Sheet 12.8, the cheap form: dh_t / da_t != 0 and dh_t / da_{t+1} = 0."""
    rssm, rows = make_rssm(), make_rows()
    act = rows["prev_act"].requires_grad_()
    post, prior = observe(rssm, rows)
    for t in range(T):
        for h in (post.deter[:, t], prior.stats[:, t]):
            (grad,) = torch.autograd.grad(h.sum(), act, retain_graph=True)
            assert [bool(g.any()) for g in grad.unbind(1)] == [i <= t for i in range(T)]


@pytest.mark.parametrize("t", range(1, T))
def test_is_first_cuts_the_past_and_its_gradient(t):
    rssm, rows = make_rssm(), make_rows()
    rows["is_first"][0, t] = True  # of the first sequence only
    embed, act = rows["embed"].requires_grad_(), rows["prev_act"].requires_grad_()
    post, prior = observe(rssm, rows)
    later = post.feat[:, t:].sum() + prior.stats[:, t:].sum()
    for grad in torch.autograd.grad(later, (embed, act)):
        assert not grad[0, :t].any() and grad[0, t:].any()
        assert grad[1:, t - 1].any()  # the others do remember
    fresh, _ = observe(rssm, {**rows, "embed": embed.detach() + (torch.arange(T) < t)[:, None]})
    for part, ours in zip(post, fresh, strict=True):
        assert torch.equal(part[0, t:], ours[0, t:]) and not torch.equal(part[1, t:], ours[1, t:])


def test_is_first_forgets_the_state_that_is_given():
    rssm, rows = make_rssm(), make_rows()
    state = State(torch.randn(B, D), torch.randn(B, Z), torch.randn(B, 2 * Z))
    rows["is_first"][:, 0] = True
    for ours, fresh in zip(observe(rssm, rows, state)[0], observe(rssm, rows)[0], strict=True):
        assert torch.equal(ours, fresh)


def test_dreams_start_detached_from_every_row():
    post, _ = observe(make_rssm(), make_rows())
    flat = post.flat()
    assert flat.feat.shape == (B * T, Z + D) and not flat.feat.requires_grad
    assert torch.equal(flat.deter[T], post.deter[1, 0])


def test_gradients_of_the_whole_are_right():
    """Against finite differences, in double precision: the scan with its cut and the KL."""
    rssm, rows = make_rssm(dtype=torch.float64), make_rows(dtype=torch.float64)
    rows = {name: row[:1, :3] for name, row in rows.items()}
    rows["is_first"][:, 1] = True

    def kl(embed, act):
        post, prior = observe(rssm, {**rows, "embed": embed, "prev_act": act})
        return post.feat, prior.stats

    assert torch.autograd.gradcheck(kl, (rows["embed"].requires_grad_(), rows["prev_act"].requires_grad_()))
