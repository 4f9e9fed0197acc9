"""The dynamics: block GRU, its dense twin, resets, what may look at what, the action's index (1.6, 11.6)."""

import pytest
import torch
import torch.nn.functional as F

from paper4_dreamerv3.config import RSSMConfig
from paper4_dreamerv3.rssm import RSSM, State, block_gru

B, T, E, A, D, S, C, U = 3, 6, 7, 2, 16, 4, 5, 6
Z = S * C


def make_rssm(**more) -> RSSM:
    torch.manual_seed(0)
    rssm = RSSM(RSSMConfig(**{"deter": D, "stoch": S, "classes": C, "hidden": U, **more}), E, A)
    for p in rssm.parameters():
        torch.nn.init.normal_(p, std=0.4)
    return rssm


def make_rows(seed: int = 1) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    rows = {"tokens": torch.randn(B, T, E, generator=rng), "prev_act": torch.randn(B, T, A, generator=rng)}
    rows |= {
        "deter": torch.randn(B, D, generator=rng).tanh(),
        "is_first": torch.zeros(B, T, dtype=torch.bool),
    }
    return rows | {"stoch": F.one_hot(torch.randint(C, (B, S), generator=rng), C).flatten(1).float()}


def observe(rssm: RSSM, rows: dict) -> State:
    """Always with the same noise."""
    return rssm.observe(**rows, generator=torch.Generator().manual_seed(2))


def soft(rssm: RSSM) -> RSSM:
    """z is its own distribution: a class may stay the same by chance."""
    rssm.latent.sample = lambda logit, noise, temperature=1.0: rssm.latent.probs(logit).flatten(-2)
    return rssm


# --- the gates


def test_the_gates_lie_block_by_block():
    pre = (torch.arange(12) / 10 - 0.5).view(2, 6)
    h = torch.tensor([0.5, -0.5, 0.25, -0.25])
    got = block_gru(pre, h)
    assert got.tolist() == pytest.approx([0.3469643, -0.387069, 0.2145883, -0.062806], abs=1e-6)
    flat = block_gru(pre.view(1, 12), h)  # what a split in three, across the blocks, would give
    assert flat.tolist() == pytest.approx([0.3215725, -0.3228281, 0.1716717, -0.1136378], abs=1e-6)
    reset, cand, update = torch.tensor([[-0.5, -0.4, 0.1, 0.2], [-0.3, -0.2, 0.3, 0.4], [-0.1, 0, 0.5, 0.6]])
    update = (update - 1).sigmoid()
    torch.testing.assert_close(got, update * (reset.sigmoid() * cand).tanh() + (1 - update) * h)


def test_a_gru_that_says_zero_keeps_73_percent():
    h = torch.randn(B, D)
    torch.testing.assert_close(block_gru(torch.zeros(B, 8, 3 * D // 8), h), 0.7310586 * h)


def dense_core(rssm: RSSM, deter, stoch, act) -> torch.Tensor:
    """The same with full matrices: block-diagonal where h goes in, full where the inputs do."""

    def norm(x, layer):
        return F.silu(x / (x.square().mean(-1, True) + 1e-4).sqrt() * layer.scale)

    def dense(x, layer):
        return norm(F.linear(x, layer.linear.weight, layer.linear.bias), layer.norm)

    act = act / act.abs().clamp(min=1)
    x = torch.cat([dense(deter, rssm.in_deter), dense(stoch, rssm.in_stoch), dense(act, rssm.in_act)], -1)
    matrix = torch.cat([torch.block_diag(*rssm.hidden_deter.weight.mT), rssm.hidden_in.weight], 1)
    assert matrix.shape == (D, D + 3 * U)
    y = norm(F.linear(torch.cat([deter, x], -1), matrix, rssm.hidden_in.bias), rssm.hidden_norm)
    gates = F.linear(y, torch.block_diag(*rssm.gates.weight.mT), rssm.gates.bias)  # [N, 3 D]
    reset, cand, update = gates.view(-1, 8, 3, D // 8).unbind(2)
    update = (update.flatten(1) - 1).sigmoid()
    return update * (reset.flatten(1).sigmoid() * cand.flatten(1)).tanh() + (1 - update) * deter


def test_the_core_is_a_dense_gru_with_block_diagonal_matrices():
    rssm, rows = make_rssm(), make_rows()
    act = rows["prev_act"][:, 0] * 3
    expected = dense_core(rssm, rows["deter"], rows["stoch"], act)
    start = State(rows["deter"], rows["stoch"], torch.zeros(B, Z))
    torch.testing.assert_close(rssm.imagine(start, act).deter, expected, atol=1e-5, rtol=1e-5)
    one = rows | {
        "tokens": rows["tokens"][:, :1],
        "prev_act": act[:, None],
        "is_first": rows["is_first"][:, :1],
    }
    torch.testing.assert_close(observe(rssm, one).deter[:, 0], expected, atol=1e-5, rtol=1e-5)


def test_the_posterior_sees_h_and_tokens_and_the_prior_h_alone():
    rssm, rows = make_rssm(), make_rows()
    post = observe(rssm, rows)
    x = F.linear(torch.cat([post.deter, rows["tokens"]], -1), rssm.post_linear.weight, rssm.post_linear.bias)
    logit = rssm.post_logit(F.silu(rssm.post_norm(x)))
    torch.testing.assert_close(post.logit, logit, atol=1e-5, rtol=1e-5)
    expected = rssm.prior_logit(rssm.prior_hidden[1](rssm.prior_hidden[0](post.deter)))
    torch.testing.assert_close(rssm.prior(post.deter), expected)
    assert len(rssm.prior_hidden) == 2


def test_actions_beyond_one_are_brought_back_and_the_divisor_has_no_gradient():
    rssm = make_rssm()
    act = torch.tensor([[5.0, 0.3], [-2.0, -0.3]], requires_grad=True)
    cut = torch.tensor([[1.0, 0.3], [-1.0, -0.3]], requires_grad=True)
    ours, theirs = rssm.act_input(act), rssm.in_act(cut)
    torch.testing.assert_close(ours, theirs)
    mix = torch.randn(2, U)
    (got,), (full,) = (torch.autograd.grad((y * mix).sum(), a) for y, a in ((ours, act), (theirs, cut)))
    torch.testing.assert_close(got, full / act.detach().abs().clamp(min=1))


# --- one row


def test_features_are_h_then_z_and_the_first_state_is_zero():
    rssm = make_rssm()
    state = State(torch.ones(B, D), torch.zeros(B, Z), torch.zeros(B, Z))
    assert state.feat.shape == (B, rssm.feature) == (B, D + Z)
    assert state.feat[0].tolist() == [1.0] * D + [0.0] * Z
    assert all(not part.any() and len(part) == B for part in rssm.initial(B))


def test_both_kinds_of_draw_are_one_hot_from_the_mixed_probabilities():
    rssm, rows = make_rssm(unimix=0.5), make_rows()
    post = observe(rssm, rows)
    start = State(rows["deter"], rows["stoch"], torch.zeros(B, Z))
    for z in (post.stoch, rssm.imagine(start, rows["prev_act"][:, 0]).stoch):
        assert torch.equal(z.unflatten(-1, (S, C)).sum(-1), torch.ones(*z.shape[:-1], S))
    with torch.no_grad():  # a posterior that is sure takes another class in 0.5 * 4 / 5 of its draws
        rssm.post_logit.weight.zero_()
        rssm.post_logit.bias.copy_(F.one_hot(torch.zeros(S, dtype=torch.long), C).flatten() * 1e3)
    many = {name: row.repeat(300, *[1] * (row.dim() - 1)) for name, row in rows.items()}
    others = 1 - observe(rssm, many).stoch.unflatten(-1, (S, C))[..., 0].mean().item()
    assert others == pytest.approx(0.4, abs=0.02)


def test_both_kinds_of_draw_carry_the_gradient():
    rssm, rows = make_rssm(), make_rows()
    rows["tokens"].requires_grad_()
    post = observe(rssm, rows)
    (grad,) = torch.autograd.grad((post.stoch * torch.randn(B, T, Z)).sum(), rows["tokens"])
    assert grad.abs().amin(-1).min() > 0


# --- rows after rows


def test_observing_and_imagining_share_the_core():
    rssm, rows = make_rssm(), make_rows()
    post = observe(rssm, rows)
    for t in range(T - 1):
        after = rssm.imagine(State(*(part[:, t] for part in post)), rows["prev_act"][:, t + 1])
        torch.testing.assert_close(after.deter, post.deter[:, t + 1])
        torch.testing.assert_close(after.logit, rssm.prior(post.deter)[:, t + 1])


def test_going_on_from_a_state_is_the_same_as_one_scan():
    rssm, rows = make_rssm(), make_rows()
    fixed = torch.rand(B, T, S, C)
    rssm.latent.noise = lambda B, T, device, generator=None: fixed[:, -T:]
    whole = observe(rssm, rows)
    rssm.latent.noise = lambda B, T, device, generator=None: fixed[:, :T]
    head = observe(rssm, {k: v if k in ("deter", "stoch") else v[:, :4] for k, v in rows.items()})
    rssm.latent.noise = lambda B, T, device, generator=None: fixed[:, -T:]
    carry = {"deter": head.deter[:, -1], "stoch": head.stoch[:, -1]}
    tail = observe(rssm, {k: v[:, 4:] for k, v in rows.items() if k not in carry} | carry)
    for part, first, second in zip(whole, head, tail, strict=True):
        torch.testing.assert_close(part, torch.cat([first, second], 1))


@pytest.mark.parametrize("t", range(T))
def test_h_does_not_see_its_own_row(t):
    """Changing o_t changes the posterior from t on, h and the prior only after t."""
    rssm, rows = soft(make_rssm()), make_rows()
    changed = {**rows, "tokens": rows["tokens"].clone()}
    changed["tokens"][:, t] += 1
    one, two = observe(rssm, rows), observe(rssm, changed)
    for a, b, last in ((one.deter, two.deter, t), (one.logit, two.logit, t - 1)):
        assert [torch.equal(a[:, i], b[:, i]) for i in range(T)] == [i <= last for i in range(T)]


def test_an_action_moves_the_row_that_it_led_to():
    """dh_t / da_t != 0 and dh_t / da_{t+1} = 0."""
    rssm, rows = soft(make_rssm()), make_rows()
    act = rows["prev_act"].requires_grad_()
    post = observe(rssm, rows)
    for t in range(T):
        (grad,) = torch.autograd.grad((post.deter[:, t] * torch.randn(B, D)).sum(), act, retain_graph=True)
        assert [bool(g.any()) for g in grad.unbind(1)] == [i <= t for i in range(T)]


@pytest.mark.parametrize("t", range(T))
def test_a_reset_row_knows_neither_carry_nor_action(t):
    """Bit for bit, and its sequence alone; no gradient goes across."""
    rssm, rows = make_rssm(), make_rows()
    rows["is_first"][0, t] = True
    inputs = [rows[name].requires_grad_() for name in ("tokens", "prev_act", "deter", "stoch")]
    post = observe(rssm, rows)
    fresh = {**rows, "deter": torch.zeros(B, D), "stoch": torch.zeros(B, Z)}
    fresh["prev_act"] = rows["prev_act"].detach() * (torch.arange(T) > t)[:, None]
    fresh["tokens"] = rows["tokens"].detach() + (torch.arange(T) < t)[:, None]
    again = observe(rssm, fresh)
    for part, ours in zip(post, again, strict=True):
        assert torch.equal(part[0, t:], ours[0, t:])
    assert not torch.equal(post.deter[1, t], again.deter[1, t])
    mix = torch.randn(B, T - t, D + Z)
    tokens, act, deter, stoch = torch.autograd.grad((post.feat[:, t:] * mix).sum(), inputs)
    assert not tokens[0, :t].any() and not act[0, : t + 1].any() and not deter[0].any() and not stoch[0].any()
    assert act[1, t].any() and deter[1].any() and stoch[1].any() and tokens[0, t].any()


def test_dreams_of_different_generators_differ_and_of_the_same_do_not():
    rssm, rows = make_rssm(), make_rows()
    start = State(rows["deter"], rows["stoch"], torch.zeros(B, Z))
    draws = [
        rssm.imagine(start, rows["prev_act"][:, 0], torch.Generator().manual_seed(seed)).stoch
        for seed in (0, 0, 1)
    ]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
