"""One update: who learns from what, with which gradient; when the slow critic follows (12.4, 12.11-12)."""

import hashlib

import pytest
import torch

from common.faults import NonFiniteGuard
from common.optim import ClippedAdam
from common.seeding import seed_everything
from common.spaces import Spaces
from paper3_dreamerv2 import actor_critic
from paper3_dreamerv2.actor_critic import OneHot, TruncatedNormal
from paper3_dreamerv2.utils import copy_into, decoupled, linear

IMAGES = Spaces({"image": (32, 32, 1)}, 3, True)


def update(learner, batch: dict, policy_steps: int = 0, seed: int = 1) -> dict:
    """One update as the loop does it, with the same random numbers whatever came before."""
    seed_everything(seed)
    metrics = learner.update(batch, policy_steps)
    learner.agent.updates += 1
    return metrics


def weights_of(module: torch.nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def grads(module: torch.nn.Module) -> list[torch.Tensor]:
    return [p.grad.clone() for p in module.parameters()]


@pytest.fixture
def spy(monkeypatch):
    """spy("imagine") -> a list of (args, kwargs, result) of every call in actor_critic."""

    def watch(name: str) -> list:
        calls, original = [], getattr(actor_critic, name)

        def wrapped(*args, **kwargs):
            result = original(*args, **kwargs)
            calls.append((args, kwargs, result))
            return result

        monkeypatch.setattr(actor_critic, name, wrapped)
        return calls

    return watch


def detach_draws(monkeypatch) -> None:
    for kind in (OneHot, TruncatedNormal):
        plain = kind.rsample
        monkeypatch.setattr(kind, "rsample", lambda self, *args, plain=plain: plain(self, *args).detach())


# --- which gradient


@pytest.mark.parametrize("discrete, share", [(True, 1.0), (False, 0.0)])
def test_without_a_choice_discrete_actions_take_reinforce_and_continuous_ones_the_dynamics(
    learner, random_batch, spy, discrete, share
):
    one, losses, dreams = learner(discrete=discrete), spy("actor_loss"), spy("imagine")
    update(one, random_batch(one.agent.spaces))
    assert losses[0][1]["rho"] == share == one.rho
    assert dreams[0][2].feat.requires_grad == dreams[0][2].act.requires_grad == (not discrete)


@pytest.mark.parametrize("rho", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("discrete", [True, False])
def test_only_where_it_is_needed_is_there_a_graph(learner, random_batch, spy, rho, discrete):
    one, dreams = learner({"actor.rho": rho}, discrete=discrete), spy("imagine")
    metrics = update(one, random_batch(one.agent.spaces))
    (model, _, start, horizon), kwargs, dream = dreams[0]
    assert kwargs == {"with_graph": rho < 1} and dream.feat.requires_grad == (rho < 1)
    assert dream.feat.shape == (horizon + 1, 18, model.rssm.feature)  # every row is a start
    assert torch.equal(dream.feat[0], start.feat) and not start.feat.requires_grad
    assert dream.act.shape == (horizon, 18, one.agent.spaces.act)
    assert all(grad.any() for grad in grads(one.agent.actor))
    assert all(torch.as_tensor(value).isfinite().all() for value in metrics.values())


@pytest.mark.parametrize("discrete", [True, False])
def test_a_detached_action_leaves_the_actor_as_it_is(learner, random_batch, monkeypatch, discrete):
    """Pure dynamics gradient: through draws that carry none, only the weight decay is left."""
    settings = {"actor.rho": 0.0, "actor.entropy": 0.0}
    one = learner(settings, discrete=discrete)
    update(one, random_batch(one.agent.spaces))
    assert all(grad.any() for grad in grads(one.agent.actor))
    detach_draws(monkeypatch)
    one = learner(settings, discrete=discrete)
    before = weights_of(one.agent.actor)
    update(one, random_batch(one.agent.spaces))
    assert not any(grad.any() for grad in grads(one.agent.actor))
    for old, new in zip(before, one.agent.actor.parameters(), strict=True):
        torch.testing.assert_close(new.detach(), old * (1 - 1e-6), rtol=2e-7, atol=0)


def test_but_for_the_entropy(learner, random_batch, monkeypatch):
    detach_draws(monkeypatch)
    found = []
    for eta in (1e-3, 2e-3):
        one = learner({"actor.rho": 0.0, "actor.entropy": eta})
        update(one, random_batch())
        found.append(grads(one.agent.actor))
    assert any(grad.any() for grad in found[0])
    for once, twice in zip(*found, strict=True):
        torch.testing.assert_close(2 * once, twice)


def test_reinforce_does_not_need_the_draws_gradient(learner, random_batch, monkeypatch):
    found = []
    for detached in (False, True):
        if detached:
            detach_draws(monkeypatch)
        one = learner({"actor.rho": 1.0})
        update(one, random_batch())
        found.append(grads(one.agent.actor))
    assert same(*found) and any(grad.any() for grad in found[0])


# --- who learns


@pytest.mark.parametrize("rho", [0.0, 1.0])
def test_the_model_learns_from_its_own_loss_only(learner, random_batch, rho):
    """Bit for bit the same with and without behaviour learning; its gradients too."""
    both, model_only = (learner({"actor.rho": rho, "behaviour.warmup": n}) for n in (0, 1))
    others = [weights_of(part) for part in (model_only.agent.actor, model_only.agent.critic)]
    for one in (both, model_only):
        update(one, random_batch())
    assert same(weights_of(both.agent.model), weights_of(model_only.agent.model))
    assert same(grads(both.agent.model), grads(model_only.agent.model))
    for part, before in zip((model_only.agent.actor, model_only.agent.critic), others, strict=True):
        assert same(weights_of(part), before)  # nothing but the model while it warms up
    for part, before in zip((both.agent.actor, both.agent.critic), others, strict=True):
        assert not any(torch.equal(new, old) for new, old in zip(weights_of(part), before, strict=True))


def test_the_critic_does_not_feel_the_actors_loss(learner, random_batch):
    found = []
    for settings in ({"actor.rho": 0.0}, {"actor.rho": 0.0, "actor.entropy": 0.5, "actor.advantage": "head"}):
        one = learner(settings)
        one.agent.updates = 1  # no copy after this update
        slow = weights_of(one.agent.slow)
        update(one, random_batch())
        assert same(weights_of(one.agent.slow), slow)
        assert not any(p.requires_grad for p in one.agent.slow.parameters())
        found.append((weights_of(one.agent.critic), weights_of(one.agent.actor)))
    assert same(found[0][0], found[1][0]) and not same(found[0][1], found[1][1])


def test_targets_come_from_the_slow_critic_and_baselines_as_each_source_says(learner, random_batch, spy):
    losses, targets, critics = spy("actor_loss"), spy("lambda_target"), spy("critic_loss")
    for advantage, expected in (("eq6", 3.0), ("head", 7.0)):
        one = learner({"actor.advantage": advantage})
        for critic, value in ((one.agent.critic, 3.0), (one.agent.slow, 7.0)):
            for p in critic.parameters():
                torch.nn.init.zeros_(p)
            torch.nn.init.constant_(critic.net.out.bias, value)
        update(one, random_batch())
        assert targets.pop()[0][1].unique().tolist() == [7.0]
        args, kwargs, _ = losses.pop()
        assert args[3].unique().tolist() == [expected] and not args[3].requires_grad
        assert kwargs["advantage"] == advantage
        assert critics.pop()[0][0].unique().tolist() == [3.0]


@pytest.mark.parametrize("cont", [True, False])
def test_the_discount_of_the_start_is_known(learner, random_batch, spy, cont):
    """gamma, and 0 where the replay says terminal; later ones are predicted."""
    targets, losses, critics = spy("lambda_target"), spy("actor_loss"), spy("critic_loss")
    one, batch = learner(cont=cont), random_batch()
    update(one, batch)
    disc, end = targets[0][0][2], batch["is_terminal"].flatten()
    assert end.sum() == 1 and disc[0].tolist() == pytest.approx([0.95 * (not e) for e in end.tolist()])
    assert (disc[1:] == 0.95).all() == (not cont)
    to_actor, to_critic = losses[0][0][4], critics[0][0][2]
    assert to_critic[:, end].flatten().tolist() == [1, 0, 0, 0]  # the critic learns the terminal reward
    assert not to_actor[:, end].any() and torch.equal(to_actor[:, ~end], to_critic[:, ~end])


def test_terminal_starts_teach_the_actor_only_if_asked(learner, random_batch):
    batch = random_batch()
    batch["is_terminal"][:] = True
    for mask in (True, False):
        one = learner({"actor.mask_terminal_start": mask})
        update(one, batch)
        assert any(grad.any() for grad in grads(one.agent.actor)) == (not mask)
        assert any(grad.any() for grad in grads(one.agent.critic))


# --- the slow critic, decay, schedules


def test_the_slow_critic_follows_after_updates_1_and_101(learner, random_batch):
    one, batch = learner({"behaviour.horizon": 2}), random_batch(B=1, T=2)
    assert one.cfg.behaviour.slow_every == 100
    assert same(one.agent.slow.parameters(), one.agent.critic.parameters())  # so no bootstrap is random
    equal = []
    for _ in range(101):
        update(one, batch)
        equal.append(same(one.agent.slow.parameters(), one.agent.critic.parameters()))
    assert equal == [i in (1, 101) for i in range(1, 102)]


def test_copying_shares_no_memory():
    slow, fast = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    copy_into(slow, fast)
    assert same(slow.parameters(), fast.parameters())
    with torch.no_grad():
        fast.weight += 1
    assert not torch.equal(slow.weight, fast.weight)


@pytest.mark.parametrize("lr", [2e-4, 4e-5, 1e-1])
def test_the_decay_does_not_depend_on_the_rate(lr):
    """Without gradients 100 updates leave (1 - 1e-6)^100 of every weight."""
    weight = torch.nn.Parameter(torch.randn(50, dtype=torch.float64))
    before = weight.detach().clone()
    adam = ClippedAdam("x", [weight], NonFiniteGuard(), lr=lr, eps=1e-5, clip=100, decay=decoupled(1e-6, lr))
    for _ in range(100):
        adam.step((weight * 0).sum(), {})
    torch.testing.assert_close(weight.detach() / before, torch.full((50,), 0.9999000050, dtype=torch.float64))


def test_each_network_has_its_rate_and_the_same_decay(learner, small):
    one = learner({"model.lr": 3e-4, "actor.lr": 8e-5, "behaviour.critic_lr": 1e-4})
    groups = {name: optim.adam.param_groups[0] for name, optim in one.optimizers.items()}
    assert {name: group["lr"] for name, group in groups.items()} == {
        "model": 3e-4,
        "actor": 8e-5,
        "critic": 1e-4,
    }
    for name, group in groups.items():
        assert group["lr"] * group["weight_decay"] == pytest.approx(1e-6)
        assert group["eps"] == 1e-5 and one.optimizers[name].clip == 100
        assert {id(p) for p in group["params"]} == {id(p) for p in one.agent.parts()[name].parameters()}


@pytest.mark.parametrize("part, field", [("actor", "actor.lr"), ("critic", "behaviour.critic_lr")])
def test_at_rate_zero_a_network_is_frozen(learner, random_batch, part, field):
    one = learner({field: 0.0})
    before = weights_of(one.agent.parts()[part])
    update(one, random_batch())
    assert same(weights_of(one.agent.parts()[part]), before)


@pytest.mark.parametrize(
    "now, eta, rho",
    [(0, 3e-3, 0.9), (1_250_000, 1.65e-3, 0.95), (2_500_000, 3e-4, 1.0), (50_000_000, 3e-4, 1.0)],
)
def test_the_first_releases_schedules(learner, random_batch, spy, now, eta, rho):
    losses, dreams = spy("actor_loss"), spy("imagine")
    schedules = {"actor.entropy_start": 3e-3, "actor.entropy": 3e-4, "actor.rho_start": 0.9}
    one = learner(schedules | {"actor.schedule_steps": 2_500_000})
    update(one, random_batch(), policy_steps=now)
    assert losses[0][1]["entropy"] == pytest.approx(eta) and losses[0][1]["rho"] == pytest.approx(rho)
    assert dreams[0][1]["with_graph"] == (rho < 1)


def test_without_a_first_value_nothing_is_scheduled():
    assert linear(None, 3.0, 100, 0) == linear(None, 3.0, 100, 1000) == 3.0
    assert linear(1.0, 3.0, 100, 50) == 2.0


# --- the whole


def hash_of(agent) -> str:
    digest = hashlib.sha256()
    for module in (*agent.parts().values(), agent.slow):
        for p in module.parameters():
            digest.update(p.detach().numpy().tobytes())
    return digest.hexdigest()


def test_twenty_updates_repeat_bit_for_bit(learner, random_batch):
    def run(seed: int) -> str:
        one = learner(spaces=IMAGES, seed=seed)
        seed_everything(seed)
        for i in range(20):
            one.update(random_batch(IMAGES, seed=i), i)
            one.agent.updates += 1
        return hash_of(one.agent)

    first, again, other = run(0), run(0), run(1)
    assert first == again != other


def test_half_precision_keeps_losses_and_weights_in_full(learner, random_batch, spy):
    losses, critics = spy("actor_loss"), spy("critic_loss")
    one = learner({"precision": "bf16"}, spaces=IMAGES)
    metrics = update(one, random_batch(IMAGES))
    assert losses[0][2].dtype == critics[0][2].dtype == torch.float32
    assert all(value.dtype == torch.float32 for name, value in metrics.items() if name.startswith("loss/"))
    for part in one.agent.parts().values():
        assert all(p.dtype == torch.float32 and p.isfinite().all() for p in part.parameters())
    full = learner({"precision": "fp32"}, spaces=IMAGES)
    exact = update(full, random_batch(IMAGES))
    assert metrics["loss/image"].item() == pytest.approx(exact["loss/image"].item(), rel=0.02)
    assert metrics["loss/image"] != exact["loss/image"]


def test_an_update_that_is_no_number_changes_nothing(learner, random_batch):
    one, batch = learner(), random_batch()
    batch["rew"][1, 2] = float("nan")
    before = {name: weights_of(part) for name, part in one.agent.parts().items()}
    update(one, batch)
    one.optimizers["model"].guard.flush()
    assert same(before["model"], one.agent.model.parameters())
    assert one.optimizers["model"].guard.skipped >= 1
