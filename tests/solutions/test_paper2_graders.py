"""Further graders of paper 2's exercises, for classic mistakes that the paper's own tests let pass."""

import pytest
import torch

from common.config import override
from common.env_wrapper import EnvSpec
from common.faults import NonFiniteGuard
from common.spaces import Spaces
from paper2_dreamerv1 import actor_critic as ac
from paper2_dreamerv1.agent import DreamerV1Agent
from paper2_dreamerv1.config import RSSMConfig
from paper2_dreamerv1.networks import init_keras_
from paper2_dreamerv1.presets import PRESETS
from paper2_dreamerv1.rssm import RSSM, State
from paper2_dreamerv1.train import Learner

N, D, Z, A, E = 5, 8, 4, 2, 7


def make_rssm() -> RSSM:
    torch.manual_seed(0)
    rssm = RSSM(RSSMConfig(deter=D, stoch=Z, hidden=9), E, A)
    init_keras_(rssm)
    return rssm


def test_a_dreamed_step_lets_the_gradient_through_to_state_and_action():
    rssm = make_rssm()
    state = State(*(torch.randn(N, size).requires_grad_() for size in (D, Z, 2 * Z)))
    act = torch.randn(N, A).requires_grad_()
    after = rssm.imagine(state, act, torch.Generator().manual_seed(0))
    assert [tuple(part.shape) for part in after] == [(N, D), (N, Z), (N, 2 * Z)]
    for part in after:
        grads = torch.autograd.grad(part.sum(), (act, state.deter, state.stoch), retain_graph=True)
        assert all(grad.any() for grad in grads)
    again, other = (rssm.imagine(state, act, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert torch.equal(again.stoch, after.stoch) and not torch.equal(other.stoch, after.stoch)
    assert torch.equal(other.deter, after.deter)  # h has no chance in it


def test_every_row_of_every_sequence_draws_its_own_noise():
    """Layers that say zero: z is pure noise with the standard deviation softplus(0) + 0.1."""
    rssm, B, T = make_rssm(), 40, 30
    for p in rssm.parameters():
        torch.nn.init.zeros_(p)
    rows = torch.randn(B, T, E), torch.randn(B, T, A), torch.zeros(B, T, dtype=torch.bool)
    post, prior = rssm.observe(*rows, generator=torch.Generator().manual_seed(0))
    assert post.stoch.shape == (B, T, Z) and len(post.stoch.unique()) > 0.99 * B * T * Z
    assert post.stoch.mean().abs() < 0.05 and post.stoch.std().item() == pytest.approx(0.793147, abs=0.03)
    assert torch.equal(prior.stoch, post.stoch) and torch.equal(prior.deter, post.deter)
    again, _ = rssm.observe(*rows, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.stoch, post.stoch)


def test_one_hot_draws_come_from_the_generator():
    dist = ac.OneHot(torch.zeros(3, 50, 6))
    first, again, other = (dist.rsample(torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert first.shape == (3, 50, 6) and torch.equal(first, again) and not torch.equal(first, other)


def test_the_gradient_of_a_return_reaches_all_rewards_and_values_after_it():
    """dG_1 / dr_i = (g lam)^(i-1), and each value has its share of what is not lambda."""
    rew, val = (torch.randn(4, dtype=torch.float64).requires_grad_() for _ in range(2))
    disc, g, lam = torch.full((4,), 0.9, dtype=torch.float64), 0.9, 0.5
    ret = ac.lambda_return(rew, val, disc, lam)
    of_rew, of_val = torch.autograd.grad(ret[0], (rew, val))
    k = g * lam
    torch.testing.assert_close(of_rew, torch.tensor([1, k, k**2, 0], dtype=torch.float64))
    share = g * (1 - lam)
    wanted = [0, share, k * share, k**2 * g]  # the last one closes the sum: both shares are its
    torch.testing.assert_close(of_val, torch.tensor(wanted, dtype=torch.float64))


# --- an update


def learner(cont: bool, **more) -> tuple[Learner, dict[str, torch.Tensor]]:
    """Small, and its optimisers move nothing: learning rates are 0.  And a batch for it."""
    sizes = {"conv.units": 8, "rssm.deter": 12, "rssm.hidden": 10, "rssm.stoch": 5, "model.units": 8}
    sizes |= {"actor.units": 8, "behaviour.value_units": 8, "behaviour.horizon": 4, "behaviour.warmup": 0}
    still = {"model.lr": 0.0, "actor.lr": 0.0, "behaviour.value_lr": 0.0}
    cfg, spaces = override(PRESETS["tiny"], {**sizes, **still, **more}), Spaces({"vector": (4,)}, 2, False)
    torch.manual_seed(0)
    one = Learner(DreamerV1Agent(cfg, EnvSpec("toy_point"), spaces, cont), NonFiniteGuard())
    batch = {
        "vector": torch.randn(3, 6, 4),
        "prev_act": torch.rand(3, 6, 2) * 2 - 1,
        "rew": torch.randn(3, 6),
    }
    batch |= {name: torch.zeros(3, 6, dtype=torch.bool) for name in ("is_first", "is_terminal")}
    return one, batch


@pytest.mark.parametrize("cont", [False, True])
def test_the_three_losses_of_an_update(cont):
    """The same draws, put together by hand: scan first, then the dream."""
    one, batch = learner(cont, **{"model.free_nats": 3.0, "model.cont_scale": 7.0})
    batch["is_terminal"][1, 2] = cont
    model, actor, value = one.agent.model, one.agent.actor, one.agent.value
    torch.manual_seed(1)
    metrics = one.update(batch)
    torch.manual_seed(1)
    losses, post, _ = model.loss(batch)
    feat = ac.imagine(model, actor, post.flat(), 4)
    rew, disc, val = model.reward(feat), model.discount(feat), value(feat)
    ret, weight = ac.lambda_return(rew, val, disc, 0.95), ac.weights(disc)
    weight = weight * (~batch["is_terminal"]).flatten()
    expected = {
        "loss/model": model.total(losses),
        "loss/actor": ac.actor_loss(ret, weight),
        "loss/value": ac.value_loss(val[:-1], ret, weight),
        "imag/reward": rew.mean(),
        "imag/return": ret.mean(),
        "imag/value": val.mean(),
        **{f"loss/{name}": loss.mean() for name, loss in losses.items()},
    }
    for name, wanted in expected.items():
        torch.testing.assert_close(
            metrics[name], wanted.detach(), msg=lambda text, name=name: f"{name}: {text}"
        )
        assert not metrics[name].requires_grad, f"{name} keeps the graph of the whole update"
    assert {"grad_norm/model", "grad_norm/actor", "grad_norm/value", "policy_entropy"} <= metrics.keys()


def test_the_actor_learns_from_the_value_too():
    """Rewards that are always zero: what is left of the return is the value's, and it has a gradient."""
    one, batch = learner(False, **{"actor.lr": 1e-3})
    for p in one.agent.model.rew.parameters():
        torch.nn.init.zeros_(p)
    before = [p.detach().clone() for p in one.agent.actor.parameters()]
    one.update(batch)
    assert any(not torch.equal(a, b) for a, b in zip(before, one.agent.actor.parameters(), strict=True))
