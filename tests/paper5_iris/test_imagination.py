"""Dreams: heads and cache step by step, draws, flushes, gradients, never waiting for the device, by heart."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from common.spaces import Spaces
from paper5_iris import actor_critic
from paper5_iris.imagination import Imagination, imagine
from paper5_iris.transformer import KVCache
from tests.on_device import OnDevice, called_again

NUMBERS = Spaces({"image": (8, 8, 3)}, 2, False)


def awake(model: nn.Module) -> nn.Module:
    """Large random weights: what was said matters more than where."""
    for p in model.parameters():
        nn.init.normal_(p, std=0.4)
    nn.init.normal_(model.token.weight, std=2.0)
    return model


def test_a_step_says_what_the_full_pass_says(networks):
    """Greedy, three steps: tokens, reward and end are the likeliest of teacher forcing on the same tokens."""
    net = networks()
    world = Imagination(net.tokenizer, awake(net.world), temperature=0)
    start, act = torch.randint(8, (5, 4)), torch.randint(3, (5, 3))
    world.reset(start)
    frames, steps = [start], []
    for t in range(3):
        steps.append(world.step(act[:, t], want_frame=t < 2))
        if t < 2:
            frames.append(steps[-1].tokens)
    out = net.world(torch.stack(frames, 1), act)
    for t, step in enumerate(steps):
        assert torch.equal(step.rew, out.rew[:, t].argmax(-1) - 1.0)
        assert torch.equal(step.end, out.end[:, t].argmax(-1).bool())
        torch.testing.assert_close(step.end_prob, out.end[:, t].softmax(-1)[:, 1], atol=1e-5, rtol=1e-4)
        if t < 2:
            assert torch.equal(step.tokens.flatten(), out.obs[:, 4 * t + 3 : 4 * t + 7].argmax(-1).flatten())
    assert steps[-1].tokens is None and len({tuple(f.flatten().tolist()) for f in frames}) == 3
    assert torch.equal(world.frame(), net.tokenizer.decode_tokens(frames[-1]))


def test_the_horizon_fills_the_context_exactly(networks):
    net = networks()
    world, lengths = Imagination(net.tokenizer, net.world), []
    world.reset(torch.zeros(2, 4).long())
    for t in range(3):
        lengths.append(world.past.length)
        world.step(torch.zeros(2).long(), want_frame=t < 2)
    assert [*lengths, world.past.length] == [4, 9, 14, 15] and world.past.rows == 15 and not world.flushes


def test_longer_play_flushes_the_memory(networks):
    """After 14 of 15 positions no step fits: it goes on from the newest frame, as if just begun there."""
    net = networks()
    model = awake(net.world)
    world, other = (Imagination(net.tokenizer, model, temperature=0) for _ in range(2))
    world.reset(torch.randint(8, (2, 4)))
    act, lengths = torch.tensor([0, 2]), []
    for t in range(5):
        if t == 2:
            other.reset(world.tokens)
        step = world.step(act)
        lengths.append(world.past.length)
        if t >= 2:
            expected = other.step(act)
            assert torch.equal(step.tokens, expected.tokens) and torch.equal(step.rew, expected.rew)
    assert lengths == [9, 14, 9, 14, 9] and world.flushes == 2


def test_rewards_are_signs_and_all_of_them_are_drawn(networks):
    """Sheet 14 (vi); with a head that gives 0.2, 0.3 and 0.5, and ends of 0.25."""
    net = networks()
    for head, prob in ((net.world.rew_head, [0.2, 0.3, 0.5]), (net.world.end_head, [0.75, 0.25])):
        nn.init.zeros_(head[2].weight)
        head[2].bias.data = torch.tensor(prob).log()
    world = Imagination(net.tokenizer, net.world)
    world.reset(torch.zeros(8_000, 4).long())
    step = world.step(torch.zeros(8_000).long(), want_frame=False)
    shares = [(step.rew == sign).float().mean().item() for sign in (-1, 0, 1)]
    assert shares == pytest.approx([0.2, 0.3, 0.5], abs=0.02) and step.rew.dtype == torch.float32
    assert step.end.float().mean().item() == pytest.approx(0.25, abs=0.02) and step.end.dtype == torch.bool
    torch.testing.assert_close(step.end_prob, torch.full((8_000,), 0.25))


def test_temperature_and_generator(networks):
    net = networks()
    model = awake(net.world)

    def play(temperature: float, seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        world = Imagination(net.tokenizer, model, temperature=temperature, generator=generator)
        world.reset(torch.zeros(20, 4).long())
        return torch.cat([world.step(torch.zeros(20).long()).tokens for _ in range(2)], 1)

    assert torch.equal(play(1.0, 1), play(1.0, 1)) and not torch.equal(play(1.0, 1), play(1.0, 2))
    assert len(play(0.0, 1).unique(dim=0)) == 1 < len(play(1.0, 1).unique(dim=0))
    assert len(play(1e-4, 1).unique(dim=0)) == 1


def test_numbers_as_actions_and_as_rewards(networks):
    net = networks(NUMBERS, **{"world.reward_head": "mse"})
    world = Imagination(net.tokenizer, awake(net.world))
    tokens = torch.randint(8, (3, 4))
    world.reset(tokens)
    act = torch.rand(3, 2)
    step = world.step(act)
    out = net.world(tokens[:, None], act[:, None])
    torch.testing.assert_close(step.rew, out.rew[:, 0, 0], atol=1e-5, rtol=1e-4)


def test_dropout_is_off_in_dreams(networks):
    net = networks()
    net.world.train()
    with pytest.raises(AssertionError, match="eval"):
        Imagination(net.tokenizer, net.world).reset(torch.zeros(1, 4).long())


def test_the_cache_is_made_once(networks):
    net = networks()
    world = Imagination(net.tokenizer, net.world)
    world.reset(torch.zeros(2, 4).long())
    keys = world.past.keys
    world.reset(torch.zeros(2, 4).long())
    assert world.past.keys is keys
    world.reset(torch.zeros(3, 4).long())
    assert world.past.batch == 3 and world.past.length == 4


# --- under the policy


def test_a_dream_has_h_steps_of_the_policy(networks):
    net = networks()
    world = Imagination(net.tokenizer, awake(net.world), generator=torch.Generator().manual_seed(1))
    start, memory = torch.randint(8, (5, 4)), net.actor.initial(5)
    dream = imagine(world, net.actor, start, memory, 3)
    assert all(part.shape == (5, 3) for part in dream) and world.past.length == 15
    world.generator.manual_seed(1)
    world.reset(start)
    for t in range(3):  # the same again, one by one
        policy, val, memory = net.actor(world.frame(), memory)
        act = policy.sample(world.generator)
        step = world.step(act, want_frame=t < 2)
        for found, expected in zip(
            dream, (policy.log_prob(act), policy.entropy(), val, step.rew, step.end), strict=True
        ):
            assert torch.equal(found[:, t], expected)
    assert set(dream.rew.unique().tolist()) <= {-1.0, 0.0, 1.0}


def test_the_policy_alone_has_gradients(networks):
    """Sheet 14 (iii), and through the LSTM: the last losses reach the first frame's memory."""
    net = networks()
    memory = actor_critic.Memory(torch.zeros(4, 8, requires_grad=True), torch.zeros(4, 8))
    dream = imagine(Imagination(net.tokenizer, net.world), net.actor, torch.randint(8, (4, 4)), memory, 3)
    found, _ = actor_critic.losses(net.cfg.actor, dream)
    weights = actor_critic.scales(net.cfg.actor)
    sum(weights[name] * loss.mean() for name, loss in found.items()).backward()
    assert all(p.grad is None for part in (net.tokenizer, net.world) for p in part.parameters())
    assert all(p.grad is not None and p.grad.any() for p in net.actor.parameters())
    (grad,) = torch.autograd.grad(
        imagine(Imagination(net.tokenizer, net.world), net.actor, torch.randint(8, (4, 4)), memory, 3)
        .val[:, -1]
        .sum(),
        memory.hidden,
    )
    assert grad.any()


@pytest.mark.parametrize("codebook", ["gradient", "ema"])
@pytest.mark.parametrize("spaces", [Spaces({"image": (8, 8, 3)}, 3, True), NUMBERS], ids=["choices", "box"])
def test_no_update_waits_for_the_device(networks, random_batch, codebook, spaces, monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # it does not know meta
    net = networks(spaces, device="meta", **{"tokenizer.codebook": codebook})
    world = Imagination(net.tokenizer, net.world)
    world.past = KVCache(net.cfg.world, 15, 2, "meta", static=True)
    batch = {name: value.to("meta") for name, value in random_batch(spaces).items()}
    frame = torch.rand(2, 3, 8, 8, device="meta")
    with OnDevice():
        mask = torch.ones(2, 3, dtype=torch.bool, device="meta")
        memory = net.actor.burn_in(frame[:, None].expand(2, 3, 3, 8, 8), mask)
        dream = imagine(world, net.actor, net.tokenizer.tokenize(frame), memory, 3)
        found, _ = actor_critic.losses(net.cfg.actor, dream)
        found |= net.world.loss(batch)[0]
        losses, codes, _ = net.tokenizer.loss(frame)
        sum(loss.mean() for loss in (found | losses).values()).backward()
        net.tokenizer.quantizer.follow(codes, revive=True)


# --- by heart


def test_one_segment_is_learned_by_heart_and_dreamed_again(networks, random_batch):
    """Sheet 14 (i) and (ii): 20 steps; then greedy generation from frame 0 gives its frames and rewards."""
    net = networks(**{"world.steps": 20, "world.width": 32})
    model, batch = net.world, random_batch(B=1, T=20, end=None)
    batch["end"][0, 19] = True
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(150):
        losses, _ = model.loss(batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
    losses, _ = model.loss(batch)
    assert losses["obs"] < 0.05 and losses["rew"] < 0.05 and losses["end"] < 0.05
    world = Imagination(net.tokenizer, model, temperature=0)
    world.reset(batch["tokens"][:, 0])
    for t in range(20):
        step = world.step(batch["act"][:, t], want_frame=t < 19)
        assert step.rew == batch["rew"][0, t].sign() and step.end == batch["end"][0, t]
        if t < 19:
            assert torch.equal(step.tokens, batch["tokens"][:, t + 1])
            real = net.tokenizer.decode_tokens(batch["tokens"][:, t + 1])
            torch.testing.assert_close(world.frame(), real)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_captured_dream_is_the_eager_one(networks, precision):
    """With a stand-in for the CUDA graph, and a cache that is used again (sheet 8.4)."""
    dreams = []
    for capture in (None, called_again):
        net = networks(**{"world.steps": 5, "actor.horizon": 5})
        wanted = net.world.transformer.new_cache
        net.world.transformer.new_cache = lambda batch, wanted=wanted: wanted(batch, static=True)
        world = Imagination(net.tokenizer, net.world, capture=capture)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            for seed in range(2):
                torch.manual_seed(seed)
                tokens = torch.randint(8, (6, 4))
                dreams.append(imagine(world, net.actor, tokens, net.actor.initial(6), 5))
        assert world.past.keys.dtype == (
            torch.bfloat16 if precision == "bf16" and not capture else torch.float32
        )
    eager, captured = dreams[:2], dreams[2:]
    for a, b in zip(eager, captured, strict=True):
        assert a.rew.shape == b.rew.shape == (6, 5) and b.val.isfinite().all()
        if precision == "fp32":
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
