"""The transformer: blocks by hand, causality to the bit, dropout, and the cache against the full pass."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common.config import override
from paper5_iris.config import WorldConfig
from paper5_iris.transformer import KVCache, Transformer, init_

CFG = WorldConfig(layers=3, heads=2, width=8, embed_dropout=0.0, residual_dropout=0.0, attention_dropout=0.0)


def make(rows: int = 12, **more) -> Transformer:
    """All weights random and large."""
    net = Transformer(override(CFG, more), rows)
    for p in net.parameters():
        nn.init.normal_(p, std=0.4)
    return net.eval()


def by_hand(net: Transformer, x: torch.Tensor) -> torch.Tensor:
    """[B, T, D]: norms first, positions added, exact GELU, scores of the past alone."""
    B, T, D = x.shape
    x = x + net.position.weight[:T]
    for block in net.blocks:
        h, attend = block.norm1(x), block.attention
        q, k, v = (
            f(h).view(B, T, 2, D // 2).transpose(1, 2) for f in (attend.query, attend.key, attend.value)
        )
        score = q @ k.transpose(2, 3) / (D / 2) ** 0.5
        score = score + torch.full((T, T), -torch.inf).triu(1)
        y = (score.softmax(-1) @ v).transpose(1, 2).reshape(B, T, D)
        x = x + attend.out(y)
        first, last = block.mlp[0], block.mlp[2]
        h = first(block.norm2(x))
        x = x + last(h * 0.5 * (1 + torch.erf(h / 2**0.5)))
    return F.layer_norm(x, (D,), net.norm.weight, net.norm.bias)


def test_all_layers_by_hand():
    net, x = make(), torch.randn(2, 7, 8)
    torch.testing.assert_close(net(x), by_hand(net, x), atol=1e-5, rtol=1e-4)


def test_the_future_changes_nothing_to_the_bit():
    net, x = make(), torch.randn(2, 12, 8)
    before = net(x)
    for at in (0, 5, 11):
        other = x.clone()
        other[:, at] += torch.randn(8)
        after = net(other)
        assert torch.equal(after[:, :at], before[:, :at])
        assert ((after - before)[:, at:].abs().amax(-1) > 1e-6).all()


def test_initial_weights():
    net = Transformer(WorldConfig(layers=2), 340)
    init_(net)
    for part in net.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            assert part.weight.mean().abs() < 1e-3 and part.weight.std().item() == pytest.approx(
                0.02, rel=0.02
            )
        if isinstance(part, nn.Linear):
            assert not part.bias.any()
        if isinstance(part, nn.LayerNorm):
            assert (part.weight == 1).all() and not part.bias.any()
    assert {part.approximate for part in net.modules() if isinstance(part, nn.GELU)} == {"none"}


def test_where_dropout_is():
    """Each kind alone leaves out everything it may, so that what remains has a closed form."""
    x = torch.randn(2, 5, 8)
    net = make(embed_dropout=1.0).train()
    torch.testing.assert_close(net(x)[0, 0], net(x * 3)[1, 0])  # neither tokens nor positions
    assert not torch.equal(net.eval()(x), net(x * 3))
    net = make(residual_dropout=1.0).train()
    torch.testing.assert_close(net(x), net.norm(x + net.position.weight[:5]))  # no block adds anything
    net = make(attention_dropout=1.0).train()
    for block in net.blocks:
        nn.init.zeros_(block.attention.out.bias)
    y = x + net.position.weight[:5]
    for block in net.blocks:
        y = y + block.mlp(block.norm2(y))  # nobody reads anybody
    torch.testing.assert_close(net(x), net.norm(y))
    assert WorldConfig().embed_dropout == WorldConfig().residual_dropout == 0.1
    assert WorldConfig().attention_dropout == 0.1


# --- the cache


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("parts", [[1] * 12, [4] + [1] * 8, [5, 1, 3, 1, 2], [12]])
@torch.no_grad()
def test_a_cache_changes_nothing(static, parts):
    net, x = make(), torch.randn(3, 12, 8)
    cache, found, at = net.new_cache(3, static), [], 0
    assert cache.keys.shape == cache.values.shape == (3, 3, 2, 12, 4)
    for _ in range(2):  # what an earlier sequence left behind is not seen
        cache.reset()
        found, at = [], 0
        for rows in parts:
            found.append(net(x[:, at : at + rows], cache))
            at += rows
            assert cache.length == cache.start.item() == at
    torch.testing.assert_close(torch.cat(found, 1), net(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("static", [False, True])
@torch.no_grad()
def test_remembering_fills_the_cache_and_no_more(static):
    net, x = make(), torch.randn(2, 12, 8)
    one, two = net.new_cache(2, static), net.new_cache(2, static)
    net(x[:, :5], one)
    assert net.remember(x[:, :5], two) is None and two.length == 5
    torch.testing.assert_close(one.keys, two.keys)
    torch.testing.assert_close(one.values, two.values)
    net.remember(x[:, 5:6], two)
    torch.testing.assert_close(net(x[:, 6:], two), net(x)[:, 6:], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_static_steps_are_the_same_work_on_the_same_addresses():
    net = make()
    cache = net.new_cache(1, static=True)
    before = cache.keys.data_ptr(), cache.start.data_ptr()
    for length in range(3):
        keys, values, mask = cache.write(0, torch.ones(1, 2, 1, 4), torch.ones(1, 2, 1, 4))
        assert keys.shape == values.shape == (1, 2, 12, 4)
        assert mask.tolist() == [[place <= length for place in range(12)]]
        assert (keys[0, 0, :, 0] == (torch.arange(12) <= length)).all()
        cache.advance(1)
    cache.reset()
    assert (cache.keys.data_ptr(), cache.start.data_ptr()) == before


@pytest.mark.parametrize("static", [False, True])
@torch.no_grad()
def test_a_full_cache_says_so(static):
    net = make()
    cache = net.new_cache(1, static)
    net(torch.randn(1, 11, 8), cache)
    with pytest.raises(IndexError, match="row 13 of a cache of 12 rows"):
        net(torch.randn(1, 2, 8), cache)
    net(torch.randn(1, 1, 8), cache)
    for function in (net, net.remember):
        with pytest.raises(IndexError, match="row 13 of a cache of 12 rows"):
            function(torch.randn(1, 1, 8), cache)
    assert cache.length == 12


@torch.no_grad()
def test_the_cache_has_the_type_that_autocast_computes_with():
    net, x = make(), torch.randn(2, 6, 8)
    assert net.new_cache(2).keys.dtype == torch.float32 and not net.new_cache(2).static
    with torch.autocast("cpu", torch.bfloat16):
        cache = net.new_cache(2)
        assert cache.keys.dtype == torch.bfloat16
        found = torch.cat([net(x[:, :3], cache), net(x[:, 3:], cache)], 1)
    torch.testing.assert_close(found.float(), net(x), atol=0.1, rtol=0.1)


def test_a_cache_of_the_paper_takes_446_megabytes():
    cache = KVCache(WorldConfig(), 340, 64, "meta")
    assert (cache.keys.nbytes + cache.values.nbytes) // 1_000_000 == 445


def test_a_cache_keeps_no_gradient():
    net = make()
    with pytest.raises(AssertionError, match="torch.no_grad"):
        net(torch.randn(1, 1, 8), net.new_cache(1))


# --- pictures of attention


def test_attention_weights_are_those_that_are_used():
    net, x = make(), torch.randn(2, 6, 8)
    weights = net.attention(x)
    assert weights.shape == (3, 2, 2, 6, 6)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 2, 2, 6))
    assert not weights.triu(1).any()
    block = net.blocks[0]
    h = block.norm1(x + net.position.weight[:6])
    value = block.attention.split(block.attention.value(h))
    mixed = block.attention.out((weights[0] @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(mixed, block.attention(h), atol=1e-5, rtol=1e-4)
