"""Symlog, bins, two-hot codes and how they are read out, against the official code's numbers (11.2)."""

import math

import pytest
import torch

from paper4_dreamerv3.symlog import (
    Number,
    TwoHot,
    encode,
    squared_error,
    symexp,
    symexp_bins,
    symlog,
    two_hot,
)

FIVE = torch.tensor([-2.0, -1, 0, 1, 2])
LN255 = 5.5412635


@pytest.mark.parametrize(
    "x, y", [(0, 0), (1, 0.69314718), (9, 2.30258509), (1e-3, 0.00099950033), (1e6, 13.81551156)]
)
def test_symlog(x, y):
    x, y = torch.tensor(float(x)), torch.tensor(float(y))
    torch.testing.assert_close(symlog(x), y, rtol=1e-6, atol=0)
    torch.testing.assert_close(symlog(-x), -y, rtol=1e-6, atol=0)


@pytest.mark.parametrize("x, y", [(0, 0), (1, 1.71828183), (2, 6.38905610), (20, 485165184)])
def test_symexp(x, y):
    x, y = torch.tensor(float(x)), torch.tensor(float(y))
    torch.testing.assert_close(symexp(x), y, rtol=1e-6, atol=0)
    torch.testing.assert_close(symexp(-x), -y, rtol=1e-6, atol=0)


def test_symexp_is_the_inverse_of_symlog():
    x = torch.cat([torch.logspace(-6, 8, 200), -torch.logspace(-6, 8, 200), torch.zeros(1)])
    torch.testing.assert_close(symexp(symlog(x)), x, rtol=2e-5, atol=0)


# --- bins


def test_the_255_bins():
    bins = symexp_bins(255)
    assert bins.shape == (255,) and bins.dtype == torch.float32
    expected = [0, 0.17055772, 0.37020536, 0.60390446, 0.87746274, 1.19767850, 1.57250952, 2.01127087]
    assert bins[127:135].tolist() == pytest.approx(expected, rel=1e-6)
    assert bins[254].item() == pytest.approx(4.85165194e8, rel=1e-7)
    assert torch.equal(bins, -bins.flip(0)) and (bins.diff() > 0).all()


def test_five_bins_and_an_even_count():
    assert symexp_bins(5).tolist() == pytest.approx([-4.8516518e8, -22025.465, 0, 22025.465, 4.8516518e8])
    even = symexp_bins(6)
    assert torch.equal(even, -even.flip(0)) and not even[2:4].any() and (even[1] < 0 < even[4])


# --- codes


@pytest.mark.parametrize(
    "x, weights",
    [
        (0.0, {127: 1}),
        (0.1, {127: 0.413688, 128: 0.586312}),
        (0.5, {129: 0.444608, 130: 0.555392}),
        (1.0, {131: 0.617330, 132: 0.382670}),
        (3.0, {135: 0.209682, 136: 0.790318}),
        (100.0, {156: 0.710530, 157: 0.289470}),
        (1000.0, {170: 0.138452, 171: 0.861548}),
        (-1.0, {122: 0.382670, 123: 0.617330}),
        (5e8, {254: 1}),
        (-5e8, {0: 1}),
        (math.inf, {254: 1}),
    ],
)
def test_two_hot_codes(x, weights):
    code = encode(torch.tensor(x), symexp_bins(255))
    found = {i: code[i].item() for i in code.nonzero().flatten().tolist()}
    assert found.keys() == weights.keys() and found == pytest.approx(weights, abs=2e-5)
    if abs(x) == 100:
        assert symexp_bins(255)[156:158].tolist() == pytest.approx([95.248, 111.664], abs=1e-3)


def test_every_bin_is_its_own_code():
    for bins in (symexp_bins(255), FIVE):
        assert torch.equal(encode(bins, bins), torch.eye(len(bins)))


def test_what_is_encoded_is_read_again():
    x = torch.cat([torch.logspace(-3, 6, 500), -torch.logspace(-3, 6, 500)])
    below, above, share = two_hot(x, symexp_bins(255))
    code = encode(x, symexp_bins(255)).double()
    torch.testing.assert_close((code * symexp_bins(255).double()).sum(-1), x.double(), rtol=1e-5, atol=2e-8)
    torch.testing.assert_close(
        TwoHot(code.log().float().nan_to_num(neginf=-1e9)).mean(), x, rtol=1e-4, atol=1e-4
    )
    assert (above - below == 1).all() and (share >= 0).all() and (share <= 1).all()


# --- the distribution


def test_a_head_that_knows_nothing_predicts_exactly_zero():
    """In pairs; a plain sum gives anything up to one, for terms reach 1.9e6."""
    dist = TwoHot(torch.zeros(7, 255))
    assert dist.mean().tolist() == [0.0] * 7
    for x in (0.0, 1.0, -3.0, 1e4):
        assert dist.loss(torch.full((7,), x))[0].item() == pytest.approx(LN255, abs=1e-6)
    for spread in (1.0, 5.0):  # any symmetric distribution, at any level
        half = torch.randn(7, 127) * spread
        dist = TwoHot(torch.cat([half, torch.randn(7, 1), half.flip(1)], 1) + 3.0)
        assert dist.mean().tolist() == [0.0] * 7


def test_mean_and_losses_of_five_bins():
    dist = TwoHot(torch.tensor([0.0, 1, 2, 0, -1]), FIVE)
    assert dist.mean().item() == pytest.approx(-0.23907584, abs=1e-6)
    for x, loss in ((0.25, 1.0237441), (-1, 1.5237441), (-1.5, 2.0237441), (5, 3.5237441)):
        assert dist.loss(torch.tensor(float(x))).item() == pytest.approx(loss, abs=1e-6)


def test_the_loss_is_the_cross_entropy_with_the_code():
    logit, x = torch.randn(4, 6, 255, requires_grad=True), torch.randn(4, 6) * 50
    loss = TwoHot(logit).loss(x)
    by_hand = -(encode(x, symexp_bins(255)) * logit.log_softmax(-1)).sum(-1)
    torch.testing.assert_close(loss, by_hand)
    (grad,) = torch.autograd.grad(loss.sum(), logit)
    torch.testing.assert_close(
        grad, logit.softmax(-1).detach() - encode(x, symexp_bins(255)), atol=1e-5, rtol=0
    )


def test_the_mean_is_the_expectation_of_the_bins():
    logit = torch.randn(50, 255) * 0.5 - symexp_bins(255).abs().log1p() * 1.5  # mass near zero
    exact = (logit.double().softmax(-1) * symexp_bins(255).double()).sum(-1).float()
    torch.testing.assert_close(TwoHot(logit).mean(), exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind, outputs", [(TwoHot, 255), (Number, 1)])
def test_targets_get_no_gradient_and_rows_can_be_taken(kind, outputs):
    out, target = torch.randn(5, 3, outputs, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    dist = kind(out)
    assert torch.autograd.grad(dist.loss(target).sum(), target, allow_unused=True) == (None,)
    assert torch.equal(dist[:-1].mean(), dist.mean()[:-1]) and dist[1:].loss(target[1:]).shape == (4, 3)
    assert torch.equal(dist[1:].loss(target[1:]), dist.loss(target)[1:])


def test_half_precision_logits_are_read_in_float32():
    logit = torch.randn(3, 255).bfloat16()
    dist = TwoHot(logit)
    assert dist.mean().dtype == dist.loss(torch.zeros(3)).dtype == torch.float32
    assert torch.equal(dist.mean(), TwoHot(logit.float()).mean())


def test_squared_errors_are_sums_without_a_half():
    mean, target = torch.zeros(2, 3, 4, 4, 1), torch.full((2, 3, 4, 4, 1), 2.0)
    assert torch.equal(squared_error(mean, target, 3), torch.full((2, 3), 64.0))
    assert torch.equal(squared_error(mean[..., 0, 0], target[..., 0, 0], 1), torch.full((2, 3), 16.0))


def test_a_number_that_is_none_has_no_finite_loss():
    """The guard against bad updates must see it."""
    assert TwoHot(torch.zeros(255)).loss(torch.tensor(float("nan"))).isnan()
