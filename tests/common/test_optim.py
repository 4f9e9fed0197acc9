"""ClippedAdam: clipping, decay, whose parameters it touches, and steps that are left out."""

import pytest
import torch
from torch import nn

from common.errors import UserError
from common.faults import NonFiniteGuard
from common.optim import ClippedAdam

NAN = float("nan")


def make(lr=0.1, eps=1e-8, clip=1e9, decay=0.0, guard=None) -> tuple[nn.Linear, ClippedAdam]:
    torch.manual_seed(0)
    net = nn.Linear(3, 2)
    guard = guard or NonFiniteGuard()
    return net, ClippedAdam("net", net.parameters(), guard, lr=lr, eps=eps, clip=clip, decay=decay)


def loss_of(net: nn.Linear, step: int, scale: float = 1.0) -> torch.Tensor:
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
    return scale * net(x).square().mean()


def everything(net: nn.Module, optim: ClippedAdam) -> list[torch.Tensor]:
    """Weights and Adam's state, copied."""
    state = [value for entry in optim.adam.state.values() for value in entry.values()]
    return [value.detach().clone() for value in (*net.parameters(), *state)]


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("clip", [1e9, 0.05])
def test_it_is_torchs_adam_on_clipped_gradients(clip, decay):
    net, optim = make(clip=clip, decay=decay)
    twin, _ = make()
    kind = torch.optim.AdamW if decay else torch.optim.Adam
    plain = kind(twin.parameters(), lr=0.1, eps=1e-8, weight_decay=decay)
    for step in range(5):
        metrics = optim.step(loss_of(net, step), {})
        plain.zero_grad()
        loss = loss_of(twin, step)
        loss.backward()
        norm = torch.cat([p.grad.flatten() for p in twin.parameters()]).norm()
        for p in twin.parameters():
            p.grad *= min(1.0, clip / norm)
        plain.step()
        torch.testing.assert_close(metrics["grad_norm/net"], norm)  # before the clip
        torch.testing.assert_close(metrics["loss/net"], loss.detach())
        for ours, theirs in zip(net.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)
    assert not any(value.requires_grad for value in metrics.values())


def test_decay_shrinks_every_weight_by_the_rate_times_it():
    net, optim = make(lr=0.01, decay=0.5)
    before = [p.detach().clone() for p in net.parameters()]
    optim.step(sum((0 * p).sum() for p in net.parameters()), {})  # no gradient: Adam itself stands still
    for p, old in zip(net.parameters(), before, strict=True):
        torch.testing.assert_close(p.detach(), old * (1 - 0.01 * 0.5))


def test_only_its_own_parameters_get_a_gradient():
    net, optim = make()
    other = nn.Linear(2, 1)
    optim.step(other(net(torch.ones(1, 3))).sum(), {})
    assert all(p.grad is None for p in other.parameters()) and all(
        p.grad is not None for p in net.parameters()
    )


def test_gradients_do_not_add_up():
    net, optim = make(lr=0.0)
    norms = [optim.step(loss_of(net, 0), {})["grad_norm/net"].item() for _ in range(3)]
    assert norms[0] == norms[1] == norms[2]


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("where", ["loss", "gradient", "part"])
def test_a_step_that_is_not_finite_leaves_weights_and_adam_as_they_were(where, decay):
    guard = NonFiniteGuard()
    net, optim = make(decay=decay, guard=guard)
    for step in range(2):
        optim.step(loss_of(net, step), {})
    before = everything(net, optim)
    loss, losses = loss_of(net, 2), {"image": torch.ones(2, 3), "rew": torch.ones(2, 3)}
    if where == "loss":
        loss = loss * NAN
    elif where == "gradient":  # a finite loss with an infinite slope
        loss = loss + (net.bias - net.bias.detach()).abs().sqrt().sum()
        assert loss.isfinite()
    else:
        losses["rew"][1, 2] = NAN
    optim.step(loss, losses)
    after = everything(net, optim)
    assert len(before) == 2 + 2 * 3 and all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    guard.flush()
    assert guard.skipped == 1
    optim.step(loss_of(net, 3), losses | {"rew": torch.ones(2, 3)})  # and it goes on
    assert not torch.equal(net.weight, before[0])
    guard.flush()
    assert guard.skipped == 1


def test_the_skipped_step_might_never_have_been():
    """Bit for bit: poisoned steps between good ones change nothing of what follows."""
    ends = []
    for poison in (False, True):
        net, optim = make(clip=0.5)
        for step in range(4):
            optim.step(loss_of(net, step), {})
            if poison:
                optim.step(loss_of(net, step) * NAN, {})
        ends.append(everything(net, optim))
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_the_first_culprit_is_named_at_the_limit():
    net, optim = make(guard=NonFiniteGuard(limit=2))
    for _ in range(2):
        optim.step(loss_of(net, 0), {"image": torch.ones(2), "rew": torch.full((2,), NAN)})
    with pytest.raises(UserError, match="2 updates in a row were not finite, first rew"):
        optim.guard.flush()


def test_a_good_step_of_one_optimiser_does_not_excuse_another():
    """Three networks share a guard: a value that is lost for good stops the run though the model is fine."""
    guard = NonFiniteGuard(limit=3)
    net, optim = make(guard=guard)
    lost = ClippedAdam("value", make()[0].parameters(), guard, lr=0.1, eps=1e-8, clip=1.0)
    for step in range(3):
        optim.step(loss_of(net, step), {})
        lost.step(NAN * sum(p.sum() for p in lost.parameters), {})
    with pytest.raises(UserError, match="3 updates in a row were not finite, first value loss"):
        guard.flush()


def test_its_state_comes_back(tmp_path):
    net, optim = make()
    for step in range(3):
        optim.step(loss_of(net, step), {})
    torch.save({"net": net.state_dict(), "adam": optim.state_dict()}, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    twin, resumed = make()
    twin.load_state_dict(state["net"])
    resumed.load_state_dict(state["adam"])
    for step in range(3, 6):
        optim.step(loss_of(net, step), {})
        resumed.step(loss_of(twin, step), {})
    pairs = zip(everything(net, optim), everything(twin, resumed), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
