"""What each position says, who learns from it, and generation: all oracles of the sheet's section 14."""

import math

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from common.spaces import Spaces
from paper5_iris.presets import PRESETS
from paper5_iris.world_model import IGNORE, WorldModel

ATARI = Spaces({"image": (64, 64, 3)}, 4, True)
NUMBERS = Spaces({"image": (8, 8, 3)}, 2, False)


def paper_model(actions: int = 4, device: str = "cpu") -> WorldModel:
    with torch.device(device):
        spaces = Spaces({"image": (64, 64, 3)}, actions, True)
        return WorldModel(PRESETS["paper"].world, 512, 16, spaces).eval()


@pytest.fixture(scope="module")
def paper() -> WorldModel:
    torch.manual_seed(0)
    return paper_model()


def awake(model: WorldModel) -> WorldModel:
    """Large random weights: everything that can matter does."""
    for p in model.parameters():
        nn.init.normal_(p, std=0.4)
    return model


# --- numbers of the paper


@pytest.mark.parametrize(
    "actions, total", [(3, 8_447_237), (4, 8_447_493), (6, 8_448_005), (9, 8_448_773), (18, 8_451_077)]
)
def test_the_paper_has_so_many_parameters(actions, total):
    assert sum(p.numel() for p in paper_model(actions, "meta").parameters()) == total


def test_and_so_has_every_part():
    def count(*parts: nn.Module) -> int:
        return sum(p.numel() for part in parts for p in part.parameters())

    model = paper_model(device="meta")
    gpt = model.transformer
    assert count(gpt.position) == 87_040 and count(model.act, model.token) == 132_096
    assert {count(block) for block in gpt.blocks} == {789_760} and count(gpt.blocks, gpt.norm) == 7_898_112
    heads = model.obs_head, model.rew_head, model.end_head
    assert [count(head) for head in heads] == [197_376, 66_563, 66_306]
    with torch.device("meta"):
        tiny = WorldModel(PRESETS["tiny"].world, 6, 16, Spaces({"image": (16, 16, 3)}, 3, True))
    assert count(tiny) == 118_219


def test_weights_that_decay():
    model = paper_model(device="meta")
    decayed, rest = model.decay_groups()
    assert (len(decayed), sum(p.numel() for p in decayed)) == (66, 8_193_280)
    assert (len(rest), sum(p.numel() for p in rest)) == (111, 254_213)
    names = {id(p): name for name, p in model.named_parameters()}
    assert all(names[id(p)].endswith("weight") and p.dim() == 2 for p in decayed)
    assert not any("position" in names[id(p)] or names[id(p)].startswith(("token", "act")) for p in decayed)
    assert {id(p) for p in [*decayed, *rest]} == names.keys()


def test_a_sequence_has_so_many_flops():
    model = paper_model(device="meta")
    tokens, act = torch.zeros(1, 20, 16, device="meta").long(), torch.zeros(1, 20, device="meta").long()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(tokens, act)
    assert counter.get_total_flops() == 6_662_604_800


def test_shapes_and_losses_at_the_start(paper, random_batch):
    batch = random_batch(ATARI, T=20, K=16, V=512, end=9)
    with torch.no_grad():
        losses, out = paper.loss(batch)[0], paper(batch["tokens"], batch["act"])
    assert (out.obs.shape, out.rew.shape, out.end.shape) == ((2, 320, 512), (2, 20, 3), (2, 20, 2))
    assert losses["obs"].item() == pytest.approx(math.log(512), abs=0.01)
    assert 0.98 < losses["rew"] < 1.2 and 0.66 < losses["end"] < 0.74


def test_cached_generation_is_the_full_pass(paper, random_batch):
    """340 positions in fp32, one at a time after the first frame; lengths 16, 33, ..., 339, 340."""
    batch = random_batch(ATARI, B=1, T=20, K=16, V=512, end=None)
    tokens, act = batch["tokens"], batch["act"]
    past, lengths = paper.transformer.new_cache(1), []
    with torch.no_grad():
        full = paper(tokens, act)
        paper.start(tokens[:, 0], past)
        obs, rew, end = [], [], []
        for t in range(20):
            lengths.append(past.length)
            heard = paper.step_act(act[:, t], past)
            obs.append(heard.obs)
            rew.append(heard.rew)
            end.append(heard.end)
            if t < 19:
                obs += [paper.step_token(tokens[:, t + 1, k], past) for k in range(15)]
                paper.step_last(tokens[:, t + 1, 15], past)
        lengths.append(past.length)
        with pytest.raises(IndexError, match="row 341 of a cache of 340 rows"):
            paper.step_token(tokens[:, 0, 0], past)
    assert lengths == [*range(16, 340, 17), 340]
    for found, expected in ((obs, full.obs[:, 15:]), (rew, full.rew), (end, full.end)):
        torch.testing.assert_close(torch.stack(found, 1), expected, atol=2e-5, rtol=0)


def test_causality_at_paper_scale(paper, random_batch):
    batch = random_batch(ATARI, B=1, T=20, K=16, V=512, end=None)
    x = paper.embed(batch["tokens"], batch["act"])
    other = x.clone()
    other[:, 100] += torch.randn(256)
    with torch.no_grad():
        before, after = paper.transformer(x), paper.transformer(other)
    assert torch.equal(before[:, :100], after[:, :100])
    assert ((before - after)[:, 100:].abs().amax(-1) > 0).all()


# --- which position says what


def test_each_head_reads_its_positions(networks):
    """Sheet 14, with blocks of 5 and of 17: all but the last token's, and the actions' alone."""
    for K, steps in ((4, 2), (16, 20)):
        model = networks(**{"world.steps": steps}).world
        model.block = K + 1
        hidden = torch.arange(steps * (K + 1.0))[None, :, None]
        obs, rest = (rows.flatten().tolist() for rows in model.read(hidden))
        assert rest == list(range(K, steps * (K + 1), K + 1)) and len(obs) == steps * K
        assert obs == [i for i in range(steps * (K + 1)) if i % (K + 1) != K - 1]
        if K == 4:
            assert (obs, rest) == ([0, 1, 2, 4, 5, 6, 7, 9], [4, 9])


def test_inputs_take_turns(networks, random_batch):
    model, batch = awake(networks().world), random_batch()
    x = model.embed(batch["tokens"], batch["act"])
    assert x.shape == (2, 15, 16)
    for t in range(3):
        for k in range(4):
            assert torch.equal(x[0, 5 * t + k], model.token.weight[batch["tokens"][0, t, k]])
        assert torch.equal(x[0, 5 * t + 4], model.act.weight[batch["act"][0, t]])


def test_heads_read_their_positions(networks, random_batch):
    model, batch = awake(networks().world), random_batch()
    out = model(batch["tokens"], batch["act"])
    hidden = model.transformer(model.embed(batch["tokens"], batch["act"]))
    torch.testing.assert_close(out.rew, model.rew_head(hidden[:, 4::5]))
    torch.testing.assert_close(out.end, model.end_head(hidden[:, 4::5]))
    says = [k for k in range(15) if k % 5 != 3]
    torch.testing.assert_close(out.obs, model.obs_head(hidden[:, says]))


def test_every_label_is_what_comes_next(networks, random_batch):
    """Row i of the logits has read all inputs before the token it tells, and none after."""
    model, batch = awake(networks().world), random_batch(end=None)
    tokens, (obs, _, _) = batch["tokens"], model.labels(batch)
    with torch.no_grad():
        before = model(tokens, batch["act"]).obs[:, :-1]
        assert before.shape[:2] == obs.shape == (2, 11)
        for i in range(11):
            t, k = divmod(i + 1, 4)
            assert torch.equal(obs[:, i], tokens[:, t, k])
            later = tokens.clone()
            later[:, t, k:] = (later[:, t, k:] + 1) % 8
            later[:, t + 1 :] = (later[:, t + 1 :] + 3) % 8
            act = batch["act"].clone()
            act[:, t:] = (act[:, t:] + 1) % 3
            assert torch.equal(model(later, act).obs[:, i], before[:, i])
            if k:  # the token just before is heard
                last = tokens.clone()
                last[:, t, k - 1] = (last[:, t, k - 1] + 1) % 8
                assert not torch.equal(model(last, batch["act"]).obs[:, i], before[:, i])
            else:  # token 0 of a frame is told by the action before it
                act = batch["act"].clone()
                act[:, t - 1] = (act[:, t - 1] + 1) % 3
                assert not torch.equal(model(tokens, act).obs[:, i], before[:, i])


# --- labels and losses


def test_labels_of_the_sheet(paper, random_batch):
    batch = random_batch(ATARI, T=20, K=16, V=512, end=9)
    batch["rew"][1, :3] = torch.tensor([5.0, -0.5, 0])
    obs, rew, end = paper.labels(batch)
    assert obs.numel() == 638 and (obs != IGNORE).sum(1).tolist() == [159, 319]
    assert (rew != IGNORE).sum() == (end != IGNORE).sum() == 30
    assert rew[1, :3].tolist() == [2, 0, 1]
    assert end[0].tolist() == [0] * 9 + [1] + [IGNORE] * 10 and not end[1].any()
    assert IGNORE == -100


def test_every_term_by_hand(networks, random_batch):
    model, batch = awake(networks().world), random_batch()
    losses, out = model.loss(batch)[0], model(batch["tokens"], batch["act"])
    assert losses.keys() == {"obs", "rew", "end"}
    log = {name: getattr(out, name).log_softmax(-1) for name in losses}
    terms: dict[str, list] = {name: [] for name in losses}
    for b in range(2):
        for t in range(3):
            if batch["mask"][b, t]:
                terms["rew"].append(-log["rew"][b, t, int(batch["rew"][b, t].sign()) + 1])
                terms["end"].append(-log["end"][b, t, int(batch["end"][b, t])])
                for k in range(4):
                    if t or k:
                        terms["obs"].append(-log["obs"][b, 4 * t + k - 1, batch["tokens"][b, t, k]])
    assert len(terms["obs"]) == 7 + 11 and len(terms["rew"]) == 5
    for name, loss in losses.items():
        torch.testing.assert_close(loss, torch.stack(terms[name]).mean())


@pytest.mark.parametrize("head", ["sign_ce", "mse"])
def test_padding_changes_no_loss(networks, random_batch, head):
    model, batch = awake(networks(**{"world.reward_head": head}).world), random_batch()
    before, _ = model.loss(batch)
    pad = ~batch["mask"]
    batch["tokens"][pad] = (batch["tokens"][pad] + 1) % 8
    batch["act"][pad] = (batch["act"][pad] + 1) % 3
    batch["rew"][pad] += 3
    batch["end"][pad] = True
    after, _ = model.loss(batch)
    for name in before:
        assert torch.equal(before[name], after[name]), name


def test_rewards_as_numbers(networks, random_batch):
    model, batch = awake(networks(**{"world.reward_head": "mse"}).world), random_batch()
    losses, out = model.loss(batch)[0], model(batch["tokens"], batch["act"])
    error = (out.rew[..., 0] - batch["rew"]).square()
    torch.testing.assert_close(losses["rew"], error[batch["mask"]].mean())


def test_actions_may_be_numbers(networks, random_batch):
    model, batch = awake(networks(NUMBERS).world), random_batch(NUMBERS)
    x = model.embed(batch["tokens"], batch["act"])
    torch.testing.assert_close(x[:, 4::5], batch["act"] @ model.act.weight.T + model.act.bias)
    losses, _ = model.loss(batch)
    (grad,) = torch.autograd.grad(losses["rew"], model.act.weight)
    assert grad.any()
    past = model.transformer.new_cache(2)
    model.start(batch["tokens"][:, 0], past)
    heard = model.step_act(batch["act"][:, 0], past)
    out = model(batch["tokens"], batch["act"])
    torch.testing.assert_close(heard.rew, out.rew[:, 0], atol=1e-5, rtol=1e-4)
    decayed, free = model.decay_groups()
    assert len(decayed) == len(networks().world.decay_groups()[0])  # it embeds, so it does not decay
    assert any(p is model.act.weight for p in free)


def test_no_gradient_reaches_the_tokenizer(networks):
    net = networks()
    frame = torch.rand(6, 3, 8, 8)
    tokens = net.tokenizer.tokenize(frame).unflatten(0, (2, 3))
    flags = {"end": torch.zeros(2, 3, dtype=torch.bool), "mask": torch.ones(2, 3, dtype=torch.bool)}
    batch = {"tokens": tokens, "act": torch.zeros(2, 3).long(), "rew": torch.zeros(2, 3), **flags}
    losses, _ = net.world.loss(batch)
    sum(losses.values()).backward()
    assert all(p.grad is None for p in net.tokenizer.parameters())
    grads = {name: p.grad for name, p in net.world.named_parameters()}
    # Attention does not notice the same number added to all scores of a query: its keys need no bias.
    assert all(grad is not None and grad.any() for name, grad in grads.items() if "key.bias" not in name)
