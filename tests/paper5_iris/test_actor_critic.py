"""Policy and value: counts, burn-in, returns by hand and by brute force, losses, who learns from what."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from common.config import override
from common.errors import UserError
from common.spaces import Spaces
from paper5_iris.actor_critic import ActorCritic, Choice, Dream, Numbers, draw, lambda_returns, losses, scales
from paper5_iris.config import ActorConfig
from paper5_iris.presets import PRESETS

NUMBERS = Spaces({"image": (8, 8, 3)}, 2, False)


def of_paper(actions: int = 4) -> ActorCritic:
    return ActorCritic(PRESETS["paper"].actor, (64, 64, 3), Spaces({"image": (64, 64, 3)}, actions, True))


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# --- the network


@pytest.mark.parametrize(
    "actions, total", [(3, 3_217_444), (4, 3_217_957), (6, 3_218_983), (9, 3_220_522), (18, 3_225_139)]
)
def test_the_paper_has_so_many_parameters(actions, total):
    with torch.device("meta"):
        assert count(of_paper(actions)) == total


def test_and_so_has_every_part():
    with torch.device("meta"):
        net = of_paper()
        tiny = Spaces({"image": (16, 16, 3)}, 3, True)
        assert count(ActorCritic(PRESETS["tiny"].actor, (16, 16, 3), tiny)) == 35_516
    assert [count(conv) for conv in net.trunk.convs] == [896, 9_248, 18_496, 36_928]
    assert (count(net.lstm), count(net.critic), count(net.actor)) == (3_149_824, 513, 2_052)


def test_a_frame_has_so_many_flops():
    net = of_paper()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(torch.rand(1, 3, 64, 64), net.initial(1))
    assert counter.get_total_flops() == 46_404_608


def test_a_step_by_hand(networks):
    net, frame = networks().actor, torch.rand(2, 3, 8, 8)
    policy, val, memory = net(frame, net.initial(2))
    x = 2 * frame - 1
    for conv in net.trunk.convs:
        x = F.max_pool2d(F.relu(F.conv2d(x, conv.weight, conv.bias, padding=1)), 2)
    hidden, cell = net.lstm(x.flatten(1), (torch.zeros(2, 8), torch.zeros(2, 8)))
    torch.testing.assert_close(memory.hidden, hidden)
    torch.testing.assert_close(memory.cell, cell)
    torch.testing.assert_close(policy.log, net.actor(hidden).log_softmax(-1))
    torch.testing.assert_close(val, net.critic(hidden)[:, 0])
    assert net(frame, memory)[2].hidden.ne(hidden).any()  # it remembers
    half = net(frame, net.initial(2), temperature=0.5)[0]
    torch.testing.assert_close(half.log, (net.actor(hidden) / 0.5).log_softmax(-1))


def test_pictures_that_are_too_small():
    with pytest.raises(UserError, match="8 pixels: too small for 4 --actor.channels"):
        ActorCritic(ActorConfig(), (8, 8, 3), NUMBERS)


# --- burn-in


def test_burn_in_is_one_step_after_the_other(networks):
    net, frames = networks().actor, torch.rand(2, 3, 3, 8, 8)
    found = net.burn_in(frames, torch.ones(2, 3, dtype=torch.bool))
    memory = net.initial(2)
    for t in range(3):
        memory = net(frames[:, t], memory)[2]
    torch.testing.assert_close(found.hidden, memory.hidden)
    torch.testing.assert_close(found.cell, memory.cell)
    assert not found.hidden.requires_grad


def test_padding_on_the_left_leaves_zeros(networks):
    net, frames = networks().actor, torch.rand(3, 4, 3, 8, 8)
    mask = torch.tensor([[0, 0, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1]]).bool()
    found = net.burn_in(frames, mask)
    assert not found.hidden[0].any() and not found.cell[0].any()
    short = net.burn_in(frames[1:2, 2:], torch.ones(1, 2, dtype=torch.bool))
    torch.testing.assert_close(found.hidden[1:2], short.hidden)
    torch.testing.assert_close(found.cell[1:2], short.cell)
    other = frames.clone()
    other[~mask] = 0.5
    for a, b in zip(net.burn_in(other, mask), found, strict=True):
        assert torch.equal(a, b)
    nothing = net.burn_in(frames[:, :0], mask[:, :0])
    assert not nothing.hidden.any() and nothing.hidden.shape == (3, 8)


# --- distributions


def test_choices(networks):
    logit = torch.randn(5, 4)
    policy, reference = Choice(logit), torch.distributions.Categorical(logits=logit)
    act = policy.sample()
    assert act.dtype == torch.int64 and act.shape == (5,)
    torch.testing.assert_close(policy.log_prob(act), reference.log_prob(act))
    torch.testing.assert_close(policy.entropy(), reference.entropy())


def test_draws_have_their_probabilities_and_their_generator():
    prob = torch.tensor([0.5, 0.3, 0.2, 0.0])
    found = draw(prob.log().expand(20_000, 4)).bincount(minlength=4) / 20_000
    torch.testing.assert_close(found, prob, atol=0.015, rtol=0)
    first, second = (draw(torch.randn(3, 8), torch.Generator().manual_seed(7)) for _ in range(2))
    a = draw(prob.log().expand(50, 4), torch.Generator().manual_seed(7))
    b = draw(prob.log().expand(50, 4), torch.Generator().manual_seed(7))
    assert torch.equal(a, b) and first.shape == second.shape == (3,)
    assert draw(torch.randn(2, 3).bfloat16()).shape == (2,)


def test_numbers(networks):
    net = networks(NUMBERS).actor
    policy, val, _ = net(torch.rand(4, 3, 8, 8), net.initial(4))
    act = policy.sample()
    assert isinstance(policy, Numbers) and act.shape == (4, 2) and not act.requires_grad
    assert policy.log_prob(act).shape == policy.entropy().shape == val.shape == (4,)
    mean, std = policy.normal.mean, policy.normal.stddev
    expected = torch.distributions.Normal(mean, std).log_prob(act).sum(-1)
    torch.testing.assert_close(policy.log_prob(act), expected)
    assert (mean.abs() <= 1).all() and (std > 0.1).all()
    half = net(torch.rand(4, 3, 8, 8), net.initial(4), temperature=0.5)[0]
    assert half.normal.stddev.mean().item() == pytest.approx(std.mean().item() / 2, rel=0.05)


# --- returns


@pytest.mark.parametrize(
    "end, gamma, lam, expected",
    [
        (None, 0.995, 0.95, (1.211814, 0.203030, 0.199000, 0.2)),
        (1, 0.995, 0.95, (1.019900, 0, 0.199, 0.2)),
        (2, 0.995, 0.95, (1.034008, 0.014925, 0, 0.2)),
        (3, 0.995, 0.95, (1.211814, 0.203030, 0.199000, 0.2)),
        (None, 1.0, 1.0, (1.2, 0.2, 0.2, 0.2)),
        (None, 0.9, 0.0, (1.36, 0.27, 0.18, 0.2)),
    ],
)
def test_returns_of_the_sheet(end, gamma, lam, expected):
    rew, val = torch.tensor([[1.0, 0, 0, -1]]), torch.tensor([[0.5, 0.4, 0.3, 0.2]])
    ends = torch.zeros(1, 4, dtype=torch.bool)
    if end is not None:
        ends[0, end] = True
    assert lambda_returns(rew, val, ends, gamma, lam)[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_returns_are_mixtures_of_n_step_returns():
    rew, val, gamma, lam = torch.randn(2, 5), torch.randn(2, 5), 0.9, 0.8
    end = torch.zeros(2, 5, dtype=torch.bool)
    end[1, 2] = True
    found = lambda_returns(rew, val, end, gamma, lam)
    for b in range(2):
        for t in range(5):
            total, weight, ret, disc = 0.0, 1.0, 0.0, 1.0
            for n in range(t, 4):
                ret, disc = ret + disc * rew[b, n], disc * gamma * (1 - end[b, n].float())
                share = weight * (1 - lam) if n < 3 else weight
                total, weight = total + share * (ret + disc * val[b, n + 1]), weight * lam
            assert found[b, t].item() == pytest.approx(float(total if t < 4 else val[b, 4]), abs=1e-5)


# --- losses


def random_dream(H: int = 4) -> Dream:
    end = torch.zeros(2, H, dtype=torch.bool)
    end[0, 1] = True
    real = [torch.randn(2, H, requires_grad=True) for _ in range(3)]
    return Dream(*real, torch.randint(-1, 2, (2, H)).float(), end)


def test_every_term_by_hand():
    cfg, dream = ActorConfig(), random_dream()
    found, metrics = losses(cfg, dream)
    ret = lambda_returns(dream.rew, dream.val.detach(), dream.end, 0.995, 0.95)
    for t in range(3):
        adv = ret[:, t] - dream.val[:, t].detach()
        torch.testing.assert_close(found["policy"][:, t], -dream.log_prob[:, t] * adv)
        torch.testing.assert_close(found["value"][:, t], (dream.val[:, t] - ret[:, t]) ** 2)
        torch.testing.assert_close(found["entropy"][:, t], -dream.entropy[:, t])
    assert all(loss.shape == (2, 3) for loss in found.values()) and found.keys() == scales(cfg).keys()
    assert scales(cfg) == {"policy": 1.0, "value": 1.0, "entropy": 0.001}
    torch.testing.assert_close(metrics["imag/return"], ret[:, :-1].mean())


def test_who_learns_from_what():
    dream = random_dream()
    found, _ = losses(ActorConfig(), dream)
    real = [dream.log_prob, dream.entropy, dream.val]
    for name, expected in (("policy", [1, 0, 0]), ("entropy", [0, 1, 0]), ("value", [0, 0, 1])):
        grads = torch.autograd.grad(found[name].sum(), real, allow_unused=True, retain_graph=True)
        assert [grad is not None for grad in grads] == [bool(x) for x in expected]
    (grad,) = torch.autograd.grad(found["value"].sum(), dream.val)
    assert (
        not grad[:, -1].any() and grad[:, :-1].all()
    )  # of the last step only the value is used, as a target


def test_the_last_reward_and_end_are_not_used():
    dream = random_dream()
    before, _ = losses(ActorConfig(), dream)
    rew, end = dream.rew.clone(), dream.end.clone()
    rew[:, -1], end[:, -1] = 7, True
    after, _ = losses(ActorConfig(), dream._replace(rew=rew, end=end))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_what_follows_an_end_can_be_left_out():
    """The authors learn from it; the end is in step 1, so step 2 of row 0 is beyond it."""
    dream = random_dream()
    plain, _ = losses(ActorConfig(), dream)
    found, _ = losses(override(ActorConfig(), {"mask_after_end": True}), dream)
    alive = torch.tensor([[1.0, 1, 0], [1, 1, 1]])
    for name, loss in plain.items():
        torch.testing.assert_close(found[name].mean(), loss[alive.bool()].mean())
        assert not found[name][0, 2].any() and loss[0, 2].any()


# --- the other trunk


def test_the_transformer_trunk_reads_every_token_and_needs_no_picture(networks, monkeypatch):
    net = networks(**{"actor.trunk": "transformer"})
    tokens = torch.randint(8, (1, 4))
    monkeypatch.setattr(net.tokenizer, "decode_tokens", None)  # nothing may decode
    assert net.actor.view(net.tokenizer, tokens) is tokens
    base = net.actor.trunk(tokens)
    assert base.shape == (1, 8)
    for k in range(4):
        changed = tokens.clone()
        changed[0, k] = (tokens[0, k] + 1) % 8
        assert not torch.allclose(net.actor.trunk(changed), base, atol=1e-6)


def test_both_trunks_learn_in_dreams(networks):
    """The policy's loss reaches every parameter of either trunk, by the same imagination."""
    from paper5_iris.imagination import Imagination, imagine

    for trunk in ("cnn", "transformer"):
        net = networks(**{"actor.trunk": trunk})
        world = Imagination(net.tokenizer, net.world)
        memory, tokens = net.actor.initial(5), torch.randint(8, (5, 4))
        found, _ = losses(net.cfg.actor, imagine(world, net.actor, tokens, memory, 3))
        sum(loss.mean() for loss in found.values()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in net.actor.parameters())
        assert any(p.grad.any() for p in net.actor.trunk.parameters())
