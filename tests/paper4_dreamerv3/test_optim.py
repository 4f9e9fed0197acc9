"""Adaptive clipping, LaProp, warm-up, tiny gradients, and updates that must not happen (11.9)."""

import logging

import pytest
import torch

from common.faults import NonFiniteGuard
from paper4_dreamerv3.optim import LaProp


def optimiser(values: list[float], **more) -> tuple[torch.nn.Parameter, LaProp]:
    parameter = torch.nn.Parameter(torch.tensor(values))
    return parameter, LaProp([parameter], **{"lr": 0.1, **more})


def step(parameter: torch.nn.Parameter, optim: LaProp, grad: list[float], ok: float = 1.0) -> list[float]:
    """One step along that gradient -> how far it went."""
    before = parameter.detach().clone()
    parameter.grad = torch.tensor(grad)
    optim.apply(ok)
    return (parameter.detach() - before).tolist()


@pytest.mark.parametrize(
    "values, grad, clipped",
    [
        ([3.0, 4], [30.0, 40], [0.9, 1.2]),
        ([3.0, 4], [0.6, 0.8], [0.6, 0.8]),
        ([0.0, 0], [3.0, 4], [0.00018, 0.00024]),  # a weight that begins at zero can move
    ],
)
def test_gradients_are_clipped_to_a_share_of_the_weights(values, grad, clipped):
    """Seen in the second moment after one step, (1 - beta2) g^2."""
    parameter, optim = optimiser(values)
    step(parameter, optim, grad)
    assert (optim.square[0] / 0.001).sqrt().tolist() == pytest.approx(clipped, rel=1e-5)


def test_each_tensor_is_clipped_by_its_own_norm():
    big, small = (torch.nn.Parameter(torch.full((2,), value)) for value in (100.0, 0.1))
    optim = LaProp([big, small], lr=0.1)
    big.grad, small.grad = torch.ones(2), torch.ones(2)
    optim.apply()
    found = [(square / 0.001).sqrt()[0].item() for square in optim.square]
    assert found == pytest.approx([1.0, 0.03], rel=1e-5)


def test_three_steps_by_the_official_numbers():
    parameter, optim = optimiser([1.0, -2])
    expected = [
        ([0.1, -0.2], [-0.09999933, 0.09999933], [0.9000007, -1.9000007]),
        ([0.3, 0.1], [-0.11796595, 0.0140763], [0.7820348, -1.8859243]),
        ([-0.2, 0.0], [-0.04027676, 0.0088821], [0.741758, -1.8770423]),
    ]
    for grad, moved, values in expected:  # Adam's second step would be -0.0917781
        assert step(parameter, optim, grad) == pytest.approx(moved, abs=3e-6)
        assert parameter.tolist() == pytest.approx(values, abs=3e-6)


def test_many_steps_by_a_plain_loop():
    """Normalise, then average: written out in float64."""
    parameter, optim = optimiser([0.5, -1.0, 2.0], lr=0.01, warmup=5, beta1=0.8, beta2=0.95)
    p, m, v = parameter.detach().double(), torch.zeros(3).double(), torch.zeros(3).double()
    for k in range(1, 21):
        grad = torch.randn(3) * 10 ** torch.randn(1)
        step(parameter, optim, grad.tolist())
        g = grad.double()
        g = g / max(1.0, (g.norm() / (0.3 * max(1e-3, p.norm()))).item())
        v = 0.95 * v + 0.05 * g * g
        m = 0.8 * m + 0.2 * g / (v / (1 - 0.95**k)).sqrt()
        p = p - 0.01 * min(1.0, (k - 1) / 5) * m / (1 - 0.8**k)
    torch.testing.assert_close(parameter.detach().double(), p, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "update, rate", [(0, 0), (1, 4e-8), (500, 2e-5), (999, 3.996e-5), (1000, 4e-5), (5000, 4e-5)]
)
def test_warm_up(update, rate):
    """Of a gradient that never changes, normalised and averaged, 1 is left: the step is the rate."""
    parameter, optim = optimiser([0.0], lr=4e-5, warmup=1000)
    optim.count.fill_(update)
    optim.mean[0].fill_(1 - 0.9**update)
    optim.square[0].fill_((1 - 0.999**update) * 1e-8)
    assert -step(parameter, optim, [1e-4])[0] == pytest.approx(rate, rel=2e-3, abs=1e-15)


@pytest.mark.parametrize("size", [1e-6, 1e-12, 1e-18])
def test_the_size_of_a_step_does_not_depend_on_that_of_the_gradient(size):
    """With denormals flushed to zero, 1e-18 squared times 0.001 would be none, and 1e-18 / 1e-20 is 100."""
    parameter, optim = optimiser([1.0])
    for _ in range(5):
        (moved,) = step(parameter, optim, [size])
        assert moved == pytest.approx(-0.1, rel=1e-2)


def test_no_gradient_is_no_step():
    parameter, optim = optimiser([1.0, 2.0])
    for _ in range(3):
        assert step(parameter, optim, [0.0, 0.0]) == [0.0, 0.0]
    assert step(parameter, optim, [0.1, 0.0])[1] == 0


def test_a_bad_update_leaves_no_trace():
    parameter, optim = optimiser([1.0, -2])
    step(parameter, optim, [0.1, -0.2])
    state = parameter, optim.mean[0], optim.square[0], optim.count
    kept = [x.clone() for x in state]
    assert step(parameter, optim, [float("nan"), float("inf")], ok=0.0) == [0.0, 0.0]
    assert all(torch.equal(a, b) for a, b in zip(kept, state, strict=True))
    assert step(parameter, optim, [0.3, 0.1]) == pytest.approx([-0.11796595, 0.0140763], abs=3e-6)


def test_a_bad_first_update_leaves_no_trace_either():
    parameter, optim = optimiser([1.0, -2])
    assert step(parameter, optim, [float("nan"), 1.0], ok=0.0) == [0.0, 0.0]
    assert step(parameter, optim, [0.1, -0.2]) == pytest.approx([-0.09999933, 0.09999933], abs=3e-6)


def test_the_guard_names_the_loss_that_went_first(caplog):
    guard = NonFiniteGuard()
    parameter = torch.nn.Parameter(torch.ones(2))
    optim = LaProp([parameter], lr=0.1)
    losses = {"good": parameter.square(), "bad": parameter * float("nan")}
    guard.record(losses, optim.step(sum(losses.values()).sum(), losses)[1])
    with caplog.at_level(logging.WARNING):
        guard.flush()
    assert guard.skipped == 1 and "bad is not finite" in caplog.text and parameter.tolist() == [1, 1]
    norm, flags = optim.step(parameter.square().sum(), {"good": parameter.square()})
    assert norm.item() == pytest.approx(8**0.5) and flags.tolist() == [True, True]
    assert parameter.tolist() == pytest.approx([0.9, 0.9])


def test_weights_that_a_loss_does_not_reach_stay():
    used, unused = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    optim = LaProp([used, unused], lr=0.1)
    optim.step(used.sum(), {})
    assert unused.tolist() == [1, 1] and used.tolist() != [1, 1]


def test_it_goes_on_from_what_was_saved():
    (one, first), (two, second) = optimiser([1.0, -2], warmup=3), optimiser([1.0, -2], warmup=3)
    for grad in ([0.1, -0.2], [0.3, 0.1]):
        step(one, first, grad)
    with torch.no_grad():
        two.copy_(one)
    second.load_state_dict({k: v if torch.is_tensor(v) else list(v) for k, v in first.state_dict().items()})
    assert step(one, first, [-0.2, 0.3]) == step(two, second, [-0.2, 0.3])
    assert first.count.item() == second.count.item() == 3
