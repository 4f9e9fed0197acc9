"""Further graders of paper 4's exercises: small cases worked out by hand, and classic mistakes."""

import inspect

import numpy as np
import pytest
import torch

from common.config import override
from common.env_wrapper import EnvSpec
from common.seeding import seed_everything
from common.spaces import Spaces
from paper4_dreamerv3 import actor_critic
from paper4_dreamerv3.actor_critic import ReturnRange
from paper4_dreamerv3.agent import DreamerV3Agent
from paper4_dreamerv3.config import RSSMConfig
from paper4_dreamerv3.presets import PRESETS
from paper4_dreamerv3.rssm import RSSM, Categorical, block_gru
from paper4_dreamerv3.symlog import TwoHot, symexp_bins, two_hot
from paper4_dreamerv3.train import Learner

SMALL = {
    **{"units": 8, "conv.depth": 2, "conv.layers": 1, "rssm.deter": 16, "rssm.hidden": 8, "rssm.stoch": 3},
    **{"rssm.classes": 4, "actor.layers": 1, "behaviour.critic_layers": 1, "behaviour.horizon": 4},
    **{"behaviour.imag_last": 0, "lr_warmup": 0},
}
B, T = 3, 6
GAMMA = 1 - 1 / 333


# --- numbers


def bins_of(count: int) -> torch.Tensor:
    """Around the cache, which would remember another attempt's bins."""
    return symexp_bins.__wrapped__(count)


@pytest.mark.parametrize("count", [255, 5, 41])
def test_the_bins_are_symexp_of_equally_spaced_numbers(count):
    x = np.linspace(-20, 20, count)
    bins = bins_of(count)
    assert bins.dtype == torch.float32 and bins.shape == (count,)
    wanted = np.sign(x) * np.expm1(np.abs(x))
    np.testing.assert_allclose(bins.numpy(), wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("count", [255, 5, 254, 6])
def test_the_bins_are_their_own_mirror_image(count):
    bins = bins_of(count)
    assert bins.shape == (count,) and torch.equal(bins, -bins.flip(0))
    assert (bins.diff() >= 0).all() and (bins == 0).sum() == 2 - count % 2
    assert bins[-1].item() == pytest.approx(4.85165194e8, rel=1e-7)


def test_neighbours_and_share_of_five_bins():
    x = torch.tensor([[0.25, -1.5, 1.75], [5.0, -9.0, -0.1]])
    below, above, share = two_hot(x, torch.tensor([-2.0, -1, 0, 1, 2]))
    assert below.shape == above.shape == share.shape == x.shape
    code = torch.zeros(2, 3, 5).scatter_add_(-1, below[..., None], (1 - share)[..., None])
    code.scatter_add_(-1, above[..., None], share[..., None])
    wanted = torch.tensor(
        [
            [[0, 0, 0.75, 0.25, 0], [0.5, 0.5, 0, 0, 0], [0, 0, 0, 0.25, 0.75]],
            [[0, 0, 0, 0, 1], [1, 0, 0, 0, 0], [0, 0.1, 0.9, 0, 0]],
        ]
    )
    torch.testing.assert_close(code, wanted)


def test_an_even_count_is_read_in_pairs_as_well():
    bins = torch.tensor([-3.0, -1, 0, 0, 1, 3])
    probs = torch.tensor([[0.1, 0.2, 0.3, 0.1, 0.1, 0.2], [1 / 6] * 6])
    assert TwoHot(probs.log(), bins).mean().tolist() == pytest.approx([0.2, 0], abs=1e-6)
    half = torch.randn(50, 3)
    assert not TwoHot(torch.cat([half, half.flip(-1)], -1), bins).mean().any()


# --- networks and latents


def test_mixed_probabilities_sum_to_one_in_float32():
    latent, logit = Categorical(3, 5, 0.01), 4 * torch.randn(7, 15)
    for wanted in (logit, logit.bfloat16()):
        probs = latent.probs(wanted)
        assert probs.shape == (7, 3, 5) and probs.dtype == torch.float32
        torch.testing.assert_close(probs.sum(-1), torch.ones(7, 3))
        by_hand = 0.99 * torch.softmax(wanted.float().view(7, 3, 5), -1) + 0.002
        torch.testing.assert_close(probs, by_hand)


def test_gates_in_half_precision_leave_h_in_float32():
    """h is carried through a sequence: rounded at every step it would forget what changes slowly."""
    gates, h = torch.randn(5, 4, 6).bfloat16(), torch.randn(5, 8)
    new = block_gru(gates, h)
    assert new.dtype == torch.float32 and new.shape == (5, 8)
    torch.testing.assert_close(new, block_gru(gates.float(), h))
    sleepy = gates.float().unflatten(-1, (3, 2)).index_fill(-2, torch.tensor(2), -100.0).flatten(-2)
    assert torch.equal(block_gru(sleepy.bfloat16(), h), h)  # to the bit: nothing was rounded


def test_every_input_of_the_core_counts_and_silent_gates_keep_h():
    torch.manual_seed(0)
    rssm = RSSM(RSSMConfig(deter=16, hidden=6, stoch=3, classes=4), 7, 2)
    for p in rssm.parameters():
        torch.nn.init.normal_(p, std=0.4)
    h, z, act = torch.randn(5, 16).tanh(), torch.rand(5, 12), torch.randn(5, 16)
    weight = rssm.hidden_in.weight[:, :12]
    new = rssm.core(h, z, act, weight)
    assert new.shape == (5, 16)
    for other in ((h.flip(0), z, act, weight), (h, z.flip(0), act, weight), (h, z, act.flip(0), weight)):
        assert not torch.allclose(rssm.core(*other)[:2], new[:2], atol=1e-3)
    with torch.no_grad():
        for p in rssm.gates.parameters():
            p.zero_()
    torch.testing.assert_close(rssm.core(h, z, act, weight), 0.7310586 * h)


# --- behaviour


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_returns_that_are_not_finite_leave_the_range_as_it_was(bad):
    span, ret = ReturnRange(0.5), torch.arange(101.0).view(1, 101)
    span.update(ret)
    scale = span.update(ret)
    assert scale.item() == pytest.approx(0.75 * 90)
    buffers, poisoned = (span.low, span.high), ret.clone()
    poisoned[:, 50:] = bad
    poisoned[:, :20] = -bad
    assert torch.equal(span.update(poisoned), scale)
    assert (span.low.item(), span.high.item()) == pytest.approx((0.75 * 5, 0.75 * 95))
    assert span.low is buffers[0] and span.high is buffers[1]  # in place: a checkpoint holds these two


# --- one update


def make_learner(more: dict | None = None) -> Learner:
    """All weights random, for heads that begin at zero say nothing."""
    seed_everything(0)
    cfg = override(PRESETS["tiny"], SMALL | (more or {}))
    agent = DreamerV3Agent(cfg, EnvSpec("toy_catch", {}), Spaces({"vector": (5,)}, 3, True))
    for part in (*agent.parts().values(), agent.slow):
        for p in part.parameters():
            torch.nn.init.normal_(p, std=0.3)
    return Learner(agent)


def make_batch() -> dict[str, torch.Tensor]:
    """The first sequence is over in row 4, the second cut by a time limit in row 2."""
    rng = torch.Generator().manual_seed(0)
    flags = {name: torch.zeros(B, T, dtype=torch.bool) for name in ("is_first", "is_last", "is_terminal")}
    for row, t in ((0, 4), (1, 2)):
        flags["is_last"][row, t] = flags["is_first"][row, t + 1] = True
    flags["is_terminal"][0, 4] = True
    act = torch.eye(3)[torch.randint(3, (B, T), generator=rng)] * (~flags["is_first"])[..., None]
    return flags | {
        "vector": torch.randn(B, T, 5, generator=rng),
        "prev_act": act,
        "rew": torch.randn(B, T, generator=rng),
        "deter": torch.rand(B, 16, generator=rng),
        "stoch": torch.eye(4)[torch.randint(4, (B, 3), generator=rng)].flatten(1),
    }


@pytest.fixture
def calls(monkeypatch):
    """calls("imagine") -> a list of {argument: value} that every call of it in actor_critic adds to."""

    def watch(name: str) -> list[dict]:
        seen, original = [], getattr(actor_critic, name)

        def wrapped(*args, **kwargs):
            seen.append(dict(inspect.signature(original).bind(*args, **kwargs).arguments))
            return original(*args, **kwargs)

        monkeypatch.setattr(actor_critic, name, wrapped)
        return seen

    return watch


def losses_of(learner: Learner) -> tuple:
    """Always with the same noise."""
    seed_everything(1)
    return learner.losses(make_batch())


@pytest.mark.parametrize("last, rows", [(0, 6), (2, 2), (50, 6)])
def test_the_last_rows_start_dreams_from_detached_posteriors(calls, last, rows):
    dreams = calls("imagine")
    losses, post, metrics = losses_of(make_learner({"behaviour.imag_last": last}))
    (dream,) = dreams
    assert dream["horizon"] == 4 and not dream["start"].feat.requires_grad
    for part, whole in zip(dream["start"], post, strict=True):
        assert torch.equal(part, whole[:, -rows:].flatten(0, 1))
    assert losses["policy"].shape == losses["value"].shape == (4, B * rows)
    assert losses["replay_value"].shape == (B, rows - 1) and post.feat.requires_grad
    assert all(torch.as_tensor(value).isfinite().all() for value in metrics.values())


@pytest.mark.parametrize("contdisc, at_root", [(True, GAMMA), (False, 1.0)])
def test_the_weight_of_a_root_is_predicted_or_known(calls, contdisc, at_root):
    seen, is_terminal = calls("actor_loss"), make_batch()["is_terminal"]
    for root in ("pred", "true"):
        losses_of(make_learner({"behaviour.root_cont": root, "model.contdisc": contdisc}))
    pred, true = (call["weight"] for call in seen)
    assert pred.shape == (4, B * T) and not pred.requires_grad
    assert ((0 < pred[0]) & (pred[0] < 1)).all() and pred[0].unique().numel() > 1
    torch.testing.assert_close(true[0].view(B, T), at_root * (~is_terminal).float())
    assert not true[:, is_terminal.flatten()].any()
    alive = ~is_terminal.flatten()  # what comes behind the root is predicted either way
    torch.testing.assert_close((true[1:] / true[0])[:, alive], (pred[1:] / pred[0])[:, alive])


def test_advantages_are_divided_by_the_range_where_asked_for(calls):
    seen = calls("actor_loss")
    scaled, plain = (
        make_learner({"behaviour.norm": norm, "behaviour.norm_rate": 1.0}) for norm in (True, False)
    )
    losses_of(scaled), losses_of(plain)
    span = (scaled.range.high - scaled.range.low).item()
    assert span > 1 and not plain.range.high.any()
    torch.testing.assert_close(seen[0]["advantage"] * span, seen[1]["advantage"], rtol=1e-4, atol=1e-5)
