"""Further graders of paper 5's exercises: small cases worked out by hand, and classic mistakes."""

import math
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from common.config import override
from paper5_iris.actor_critic import Dream, losses
from paper5_iris.config import ActorConfig, TokenizerConfig, WorldConfig
from paper5_iris.imagination import Imagination
from paper5_iris.tokenizer import Codes, Quantizer, Tokenizer
from paper5_iris.transformer import KVCache, SelfAttention
from paper5_iris.world_model import IGNORE, WorldModel
from tests.on_device import OnDevice
from tests.paper5_iris.conftest import IMAGE, SMALL, spread


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def part(name: str, **more):
    """A group of the small settings, with more of them."""
    defaults = {"tokenizer": TokenizerConfig, "world": WorldConfig}[name]()
    values = {key.split(".")[1]: value for key, value in SMALL.items() if key.startswith(f"{name}.")}
    return override(defaults, values | more)


# --- the tokenizer


def test_words_are_chosen_in_float32():
    """1.0 and 1.002 are one number in bfloat16; latents come in it under autocast."""
    quantizer = Quantizer(TokenizerConfig(vocab=3, code=1))
    with torch.no_grad():
        quantizer.codebook.copy_(torch.tensor([[1.002], [1.0], [0.99]]))
    z = torch.tensor([1.0, 0.99]).bfloat16().view(1, 1, 1, 2)
    codes = quantizer(z)
    assert codes.tokens.tolist() == [[1, 2]] and codes.tokens.dtype == torch.int64
    assert codes.quantized.dtype == torch.float32


def test_psnr_and_perplexity_of_a_batch():
    tokenizer = Tokenizer(
        part("tokenizer", mults=(1, 1, 1), encoder_blocks=1, decoder_blocks=1), IMAGE.obs["image"]
    )
    spread(tokenizer)
    for frame in (torch.rand(5, 3, 8, 8), torch.full((2, 3, 8, 8), 0.5)):
        losses, codes, metrics = tokenizer.loss(frame)
        assert metrics.keys() >= {"tokenizer/psnr", "tokenizer/perplexity"}
        decoded = (tokenizer.decode(codes.quantized) + 1) / 2  # of frames in [0, 1]
        psnr = -10 * torch.log10((decoded - frame).square().mean())
        torch.testing.assert_close(metrics["tokenizer/psnr"], psnr.detach())
        share = codes.tokens.flatten().bincount(minlength=8) / codes.tokens.numel()
        entropy = -sum(p * math.log(p) for p in share.tolist() if p)
        assert metrics["tokenizer/perplexity"].item() == pytest.approx(math.exp(entropy), rel=1e-4)
        assert not any(value.requires_grad for value in metrics.values())


@pytest.mark.parametrize("codebook", ["gradient", "ema"])
def test_dead_words_go_to_different_places_and_living_ones_stay(codebook):
    """Word 0 lives, five are dead, four rows: each row gets one, and one of them a second."""
    quantizer = Quantizer(TokenizerConfig(vocab=6, code=1, codebook=codebook, ema_decay=0.5))
    z = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 2, 2)
    with torch.no_grad():
        quantizer.codebook.copy_(torch.tensor([[0.0], [50], [60], [70], [80], [90]]))
        if codebook == "ema":
            quantizer.sum.copy_(quantizer.codebook)
    quantizer.follow(quantizer(z), revive=False)
    living = quantizer.codebook[0].item()
    assert quantizer.codebook[1:].min() > 4 and quantizer.used.tolist() == [4, 0, 0, 0, 0, 0]
    quantizer.follow(quantizer(z), revive=True)
    book = quantizer.codebook.detach().flatten()
    assert sorted(set(book[1:].tolist())) == [1, 2, 3, 4] and not quantizer.used.any()
    if codebook == "gradient":
        assert book[0].item() == living == 0
    else:  # the averages say the same, so that they do not pull the words back
        torch.testing.assert_close(quantizer.sum / quantizer.count[:, None], quantizer.codebook.detach())
        assert (quantizer.count[1:] == 1).all()
    nobody = Codes(z, z, torch.zeros(1, 4, dtype=torch.int64))
    quantizer.follow(nobody, revive=False)  # without `revive` the dead stay where they are
    torch.testing.assert_close(quantizer.codebook.detach()[1:, 0], book[1:])


@pytest.mark.parametrize("codebook", ["gradient", "ema"])
def test_the_bookkeeping_never_waits_for_the_device(codebook, monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # it does not know meta
    with torch.device("meta"):
        quantizer = Quantizer(TokenizerConfig(vocab=6, code=2, codebook=codebook))
        z, tokens = torch.rand(2, 2, 2, 2), torch.zeros(2, 4, dtype=torch.int64)
    with OnDevice():
        quantizer.follow(Codes(z, z, tokens), revive=True)


# --- the transformer


def test_attention_of_three_rows_by_hand():
    """Two heads of one number each: row i has query and key x[i], so all scores are known."""
    attend = SelfAttention(WorldConfig(heads=2, width=2))
    for layer in (attend.query, attend.key):
        nn.init.eye_(layer.weight)
        nn.init.zeros_(layer.bias)
    with torch.no_grad():
        attend.key.weight.mul_(2)  # queries and keys differ
    x = torch.tensor([[[1.0, 0.0], [2.0, 1.0], [-1.0, 3.0]]])
    found = attend.weights(x)
    assert found.shape == (1, 2, 3, 3)
    for head in range(2):
        for i in range(3):
            score = [math.exp(float(x[0, i, head] * 2 * x[0, j, head])) for j in range(i + 1)]
            wanted = [value / sum(score) for value in score] + [0.0] * (2 - i)
            assert found[0, head, i].tolist() == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_two_rows_behind_two_rows(static, dtype):
    cache = KVCache(WorldConfig(layers=2, heads=2, width=8), 5, 3, "cpu", dtype, static)
    cache.advance(2)
    key, value = torch.randn(2, 3, 2, 2, 4)
    keys, values, mask = cache.write(1, key, value)
    rows = 5 if static else 4
    assert keys.shape == values.shape == (3, 2, rows, 4) and keys.dtype == values.dtype == dtype
    assert mask.tolist() == [[True, True, True, False, False][:rows], [True, True, True, True, False][:rows]]
    for stored, returned, new in ((cache.keys, keys, key), (cache.values, values, value)):
        assert torch.equal(stored[1, :, :, 2:4], new.to(dtype)) and not stored[0].any()
        assert not stored[1, :, :, [0, 1, 4]].any() and torch.equal(returned, stored[1, :, :, :rows])
    assert cache.length == cache.start.item() == 2  # other layers have yet to write there


# --- the world model


@pytest.mark.parametrize(
    "K, steps, obs, rest",
    [
        (4, 2, [0, 1, 2, 4, 5, 6, 7, 9], [4, 9]),
        (2, 2, [0, 2, 3, 5], [2, 5]),
        (3, 1, [0, 1, 3], [3]),
        (1, 3, [1, 3, 5], [1, 3, 5]),  # one token per frame: only actions are heard
        (16, 20, [i for i in range(340) if i % 17 != 15], list(range(16, 340, 17))),
    ],
)
def test_each_head_hears_its_positions(K, steps, obs, rest):
    model, L = WorldModel(part("world"), 8, K, IMAGE), steps * (K + 1)
    heard = model.read(torch.arange(2.0 * L).view(2, L, 1).expand(-1, -1, 5))
    for rows, wanted in zip(heard, (obs, rest), strict=True):
        assert rows.shape == (2, len(wanted), 5)
        assert rows[0, :, 0].tolist() == wanted and rows[1, :, 4].tolist() == [L + i for i in wanted]


def test_reading_never_waits_for_the_device():
    with torch.device("meta"):
        model, hidden = WorldModel(part("world"), 8, 4, IMAGE), torch.rand(2, 15, 16)
    with OnDevice():
        obs, rest = model.read(hidden)
    assert obs.shape == (2, 12, 16) and rest.shape == (2, 3, 16)


def test_labels_of_two_steps_by_hand():
    model = WorldModel(part("world"), 8, 2, IMAGE)
    batch = {
        "tokens": torch.tensor([[[1, 2], [3, 4]], [[5, 6], [7, 0]]], dtype=torch.int32),
        "rew": torch.tensor([[0.3, -7.0], [-0.2, 9.0]]),
        "end": torch.tensor([[False, True], [True, False]]),
        "mask": torch.tensor([[True, True], [True, False]]),
    }
    obs, rew, end = model.labels(batch)
    assert obs.tolist() == [[2, 3, 4], [6, IGNORE, IGNORE]]
    assert rew.tolist() == [[2, 0], [0, IGNORE]] and end.tolist() == [[0, 1], [1, IGNORE]]
    assert {x.dtype for x in (obs, rew, end)} == {torch.int64}


@torch.no_grad()
def test_every_token_is_drawn_and_has_heard_the_one_before():
    """A model that says, whatever was said before, `as before` or `the next one`, with equal odds."""
    cfg = part("world", layers=1, heads=1, width=12)
    model = WorldModel(cfg, 6, 3, IMAGE).eval()
    for p in model.parameters():
        nn.init.zeros_(p)
    for norm in (model.transformer.norm, *(block.norm1 for block in model.transformer.blocks)):
        nn.init.ones_(norm.weight)
    model.token.weight.copy_(torch.cat([torch.eye(6), torch.zeros(6, 6)], 1))  # blocks add nothing
    model.act.weight[0, 6] = 1.0  # after an action: token 0
    first, last = model.obs_head[0], model.obs_head[2]
    nn.init.eye_(first.weight)
    for i in range(6):
        last.weight[i, i] = last.weight[(i + 1) % 6, i] = 100.0
    last.weight[0, 6] = 100.0
    world = Imagination(None, model)
    world.reset(torch.zeros(4_000, 3).long())
    step = world.step(torch.zeros(4_000).long())
    assert step.tokens.shape == (4_000, 3) and step.tokens is world.tokens
    assert not step.tokens[:, 0].any()
    moved = step.tokens.diff(dim=1) % 6
    assert set(moved.unique().tolist()) == {0, 1}
    assert moved.float().mean(0).tolist() == pytest.approx([0.5, 0.5], abs=0.04)


# --- behaviour


def test_all_that_follows_an_end_is_left_out():
    """Two steps and more beyond it; a second end there brings nothing back."""
    end = torch.zeros(2, 7, dtype=torch.bool)
    end[0, [1, 3]] = True
    real = [torch.randn(2, 7) for _ in range(3)]
    dream = Dream(*real, torch.randint(-1, 2, (2, 7)).float(), end)
    plain, _ = losses(ActorConfig(), dream)
    found, _ = losses(override(ActorConfig(), {"mask_after_end": True}), dream)
    alive = torch.tensor([[1, 1, 0, 0, 0, 0], [1] * 6]).bool()
    for name, loss in plain.items():
        assert loss.shape == (2, 6) and loss[~alive].all() and not found[name][~alive].any()
        torch.testing.assert_close(found[name].mean(), loss[alive].mean())
        torch.testing.assert_close(found[name][alive] / loss[alive], torch.full((8,), 12 / 8))
