"""One update: all losses in one sum, who learns from what, the same twice, eager and compiled (2, 11.11)."""

import pytest
import torch

from common.seeding import seed_everything
from common.spaces import Spaces
from paper4_dreamerv3 import actor_critic
from paper4_dreamerv3.actor_critic import replay_return

KINDS = {
    "discrete": Spaces({"vector": (5,)}, 3, True),
    "continuous": Spaces({"vector": (5,)}, 2, False),
    "several choices": Spaces({"vector": (5,)}, 9, True, (2, 3, 4)),
    "everything": Spaces(
        {"image": (32, 32, 1), "image_wrist": (32, 32, 3), "vector": (4,), "vector_goal": (2,)}, 3, True
    ),
}
GAMMA = 1 - 1 / 333


def update(learner, batch: dict, seed: int = 1) -> dict:
    """One update with the same random numbers whatever came before."""
    seed_everything(seed)
    metrics, _ = learner.update(batch)
    return metrics


def losses_of(learner, batch: dict, seed: int = 1) -> dict:
    seed_everything(seed)
    return learner.losses(batch)[0]


def weights_of(module: torch.nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


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


# --- who learns from what


def reached(learner, loss: torch.Tensor) -> set[str]:
    """Modules that get a finite gradient that is not zero."""
    model, found = learner.agent.model, set()
    parts = {name: getattr(model, name) for name in ("encoder", "decoder", "rew", "cont")}
    rssm = model.rssm
    parts |= {"core": rssm.gates, "post": rssm.post_linear, "prior": rssm.prior_logit}
    parts |= {"actor": learner.agent.actor, "critic": learner.agent.critic, "slow": learner.agent.slow}
    for name, part in parts.items():
        tensors = [p for p in part.parameters() if p.requires_grad]
        grads = torch.autograd.grad(loss, tensors, retain_graph=True, allow_unused=True) if tensors else ()
        assert all(grad.isfinite().all() for grad in grads if grad is not None)
        found |= {name} if any(grad is not None and grad.any() for grad in grads) else set()
    return found


LEARN = {"encoder", "core", "post"}


@pytest.mark.parametrize("kind", KINDS)
def test_which_loss_trains_what(learner, random_batch, kind):
    one = learner(spaces=KINDS[kind], awake=True)
    losses = losses_of(one, random_batch(KINDS[kind]))
    expected = {key: LEARN | {"decoder"} for key in KINDS[kind].obs} | {
        "rew": LEARN | {"rew"},
        "cont": LEARN | {"cont"},
        "dyn": LEARN | {"prior"},
        "rep": LEARN,
        "policy": {"actor"},
        "value": {"critic"},
        "replay_value": LEARN | {"critic"},
    }
    assert {name: reached(one, loss.mean()) for name, loss in losses.items()} == expected
    assert not any(p.requires_grad for p in one.agent.slow.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_after_two_updates_every_weight_has_moved(learner, random_batch, kind):
    """Two: reward and critic begin at zero, and pass their first gradient on in the second."""
    one = learner(spaces=KINDS[kind])
    before = {name: weights_of(part) for name, part in one.agent.parts().items()}
    for seed in range(3):
        metrics = update(one, random_batch(KINDS[kind], seed=seed))
        assert all(torch.as_tensor(value).isfinite().all() for value in metrics.values())
    for name, part in one.agent.parts().items():
        for old, (key, new) in zip(before[name], part.named_parameters(), strict=True):
            assert not torch.equal(old, new), (name, key)


# --- the sum


def test_the_weights_of_the_losses(learner):
    """One each, but for rep and the critic on replayed rows."""
    scales = learner(spaces=KINDS["everything"]).scales()
    ones = {*KINDS["everything"].obs, "rew", "cont", "dyn", "policy", "value"}
    assert scales == dict.fromkeys(ones, 1.0) | {"rep": 0.1, "replay_value": 0.3}
    more = {
        "model.rec_scale": 3.0,
        "model.dyn_scale": 0.5,
        "model.rep_scale": 0.2,
        "behaviour.replay_scale": 0.0,
    }
    scales = learner(more, spaces=KINDS["everything"]).scales()
    assert (scales["dyn"], scales["rep"], scales["replay_value"]) == (0.5, 0.2, 0.0)
    assert {scales[key] for key in KINDS["everything"].obs} == {3.0} and scales["rew"] == scales[
        "policy"
    ] == 1


def test_the_total_is_the_weighed_sum_of_means(learner, random_batch):
    one, batch = learner(), random_batch()
    losses, metrics = losses_of(one, batch), update(learner(), batch)
    total = sum(one.scales()[name] * loss.mean() for name, loss in losses.items())
    torch.testing.assert_close(metrics["loss/total"], total.detach())
    for name, loss in losses.items():
        torch.testing.assert_close(metrics[f"loss/{name}"], loss.detach().mean())


def test_every_row_starts_a_dream_or_only_the_last_ones(learner, random_batch, spy):
    for last, rows in ((0, 6), (2, 2), (50, 6)):
        dreams, batch = spy("imagine"), random_batch()
        losses = losses_of(learner({"behaviour.imag_last": last}), batch)
        _, _, start, horizon = dreams[-1][0]
        assert start.feat.shape[0] == 3 * rows and horizon == 4 and not start.feat.requires_grad
        assert losses["policy"].shape == losses["value"].shape == (4, 3 * rows)
        assert losses["replay_value"].shape == (3, rows - 1)
        again = learner({"behaviour.imag_last": last})
        seed_everything(1)
        _, post, _ = again.losses(batch)
        assert torch.equal(start.deter, post.deter[:, -rows:].flatten(0, 1))


# --- the behaviour's losses, put together again


def test_policy_and_value_by_hand(learner, random_batch, spy):
    one, batch = learner({"actor.entropy": 0.05}, awake=True), random_batch()
    dreams = spy("imagine")
    losses = losses_of(one, batch)
    feat, act = dreams[0][2]
    model, agent = one.agent.model, one.agent
    with torch.no_grad():
        rew, cont, slow = model.reward(feat), model.going_on(feat), agent.slow(feat).mean()
        critic, policy = agent.critic(feat[:-1]), agent.actor(feat[:-1])
        val = agent.critic(feat).mean()
        ret = [val[-1]]
        for i in reversed(range(4)):
            ret.insert(0, rew[i + 1] + cont[i + 1] * (0.05 * val[i + 1] + 0.95 * ret[0]))
        ret, weight = torch.stack(ret[:-1]), cont.cumprod(0)[:-1]
        low, high = (0.01 * torch.quantile(ret.flatten(), q) for q in (0.05, 0.95))
        scale = max(1.0, (high - low).item())
        gain = policy.log_prob(act) * (ret - val[:-1]) / scale + 0.05 * policy.entropy()
        torch.testing.assert_close(losses["policy"].detach(), -weight * gain)
        value = weight * (critic.loss(ret) + critic.loss(slow[:-1]))
        torch.testing.assert_close(losses["value"].detach(), value)
    assert scale > 1  # else the test says nothing about it


def test_the_critic_on_replayed_rows_by_hand(learner, random_batch, spy):
    """Real rewards, the dreams' first returns as bootstrap, rows that end an episode left out."""
    one, batch = learner(awake=True), random_batch()
    returns = spy("lambda_return")
    seed_everything(1)
    losses, post, _ = one.losses(batch)
    boot = returns[0][2][0].view(3, 6)
    flags = {name: batch[name] for name in ("rew", "is_last", "is_terminal")}
    with torch.no_grad():
        target = replay_return(**flags, boot=boot, gamma=GAMMA, lam=0.95)
        critic, slow = one.agent.critic(post.feat[:, :-1]), one.agent.slow(post.feat[:, :-1]).mean()
        expected = (critic.loss(target) + critic.loss(slow)) * (~batch["is_last"][:, :-1])
    torch.testing.assert_close(losses["replay_value"].detach(), expected)
    assert losses["replay_value"][0, 2] == losses["replay_value"][1, 3] == 0


@pytest.mark.parametrize("contdisc, at_root", [(True, GAMMA), (False, 1.0)])
def test_the_weight_of_the_start(learner, random_batch, spy, contdisc, at_root):
    """Predicted, or the replay's own: then a dream from a terminal row weighs nothing."""
    weights = spy("actor_loss")
    for root in ("pred", "true"):
        more = {"behaviour.root_cont": root, "model.contdisc": contdisc}
        losses_of(learner(more, awake=True), random_batch())
        cont = weights[-1][0][3][0].view(3, 6)
        is_terminal = random_batch()["is_terminal"]
        if root == "true":
            assert not cont[is_terminal].any()
            torch.testing.assert_close(cont[~is_terminal], torch.full((17,), at_root))
        else:
            assert ((0 < cont) & (cont < 1)).all() and cont.unique().numel() > 1


def test_without_the_norm_advantages_are_plain(learner, random_batch, spy):
    calls = spy("actor_loss")
    for norm in (True, False):
        one = learner({"behaviour.norm": norm, "behaviour.norm_rate": 1.0}, awake=True)
        losses_of(one, random_batch())
        assert (one.range.high.item() != 0) == norm
    scale = calls[1][0][2] / calls[0][0][2]
    torch.testing.assert_close(scale, scale[0, 0].expand_as(scale), rtol=1e-3, atol=0)
    assert scale[0, 0] > 1


# --- after the step


def test_the_slow_critic_follows_by_two_percent(learner, random_batch):
    one = learner()
    assert same(weights_of(one.agent.slow), weights_of(one.agent.critic))
    old = weights_of(one.agent.slow)
    update(one, random_batch())
    for before, critic, slow in zip(
        old, one.agent.critic.parameters(), one.agent.slow.parameters(), strict=True
    ):
        torch.testing.assert_close(slow.detach(), 0.98 * before + 0.02 * critic.detach())
    assert not same(old, weights_of(one.agent.slow))


def test_a_batch_that_is_not_finite_changes_nothing(learner, random_batch):
    one, bad = learner(), random_batch()
    bad["vector"][0, 1, 0] = float("nan")
    before = {name: weights_of(part) for name, part in one.agent.parts().items()}
    update(one, bad)
    assert all(same(before[name], weights_of(part)) for name, part in one.agent.parts().items())
    assert one.optimizer.count == 0 and one.range.low.isfinite() and one.range.high.isfinite()
    one.guard.flush()
    assert one.guard.skipped == 1
    assert all(torch.as_tensor(value).isfinite().all() for value in update(one, random_batch()).values())


@pytest.mark.parametrize("kind", ["discrete", "continuous"])
def test_two_runs_are_equal_to_the_bit(learner, random_batch, kind):
    runs = []
    for _ in range(2):
        one = learner(spaces=KINDS[kind], seed=3)
        curve = []
        for seed in range(5):
            metrics, post = one.update(random_batch(KINDS[kind], seed=seed))
            curve.append([torch.as_tensor(value) for value in metrics.values()])
        runs.append((sum(curve, []), weights_of(one.agent.model), list(post.values())))
    assert all(same(a, b) for a, b in zip(*runs, strict=True))


def test_half_precision_is_close(learner, random_batch):
    exact = update(learner(), random_batch())
    got = update(learner({"precision": "bf16"}), random_batch())
    for name in ("loss/rew", "loss/vector", "loss/cont", "loss/value", "loss/replay_value"):
        assert got[name].dtype == torch.float32
        torch.testing.assert_close(got[name], exact[name], rtol=0.05, atol=0.02)


@pytest.mark.slow
def test_a_compiled_update_is_the_eager_one(learner, random_batch):
    """Five updates with the same noise: losses to 1e-5 relative."""
    curves = []
    for compiled in (False, True):
        one, curve = learner({"compile": compiled}), []
        latent, rng = one.agent.model.rssm.latent, torch.Generator()
        fixed = {n: torch.empty(n, 3, 4).exponential_(generator=rng.manual_seed(n)) for n in (3, 18)}
        rows = torch.empty(3, 6, 3, 4).exponential_(generator=rng.manual_seed(1))
        latent.noise = lambda *lead, fixed=fixed, rows=rows, **_: rows if len(lead) == 2 else fixed[lead[0]]
        for seed in range(5):
            metrics = update(one, random_batch(seed=seed), seed)
            curve.append({name: value.item() for name, value in metrics.items() if name.startswith("loss")})
        curves.append(curve)
    for eager, compiled in zip(*curves, strict=True):
        assert compiled == pytest.approx(eager, rel=1e-5, abs=1e-6)
