"""The autoencoder: counts and FLOPs of the paper's tables, codebook by brute force, losses by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from common.config import override
from common.errors import UserError
from paper5_iris.config import TokenizerConfig
from paper5_iris.layers import Attention, Down, ResBlock, Up
from paper5_iris.presets import PRESETS
from paper5_iris.tokenizer import Codes, Quantizer, Tokenizer, to_frames, to_images

PAPER = PRESETS["paper"].tokenizer


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(scope="module")
def paper() -> Tokenizer:
    return Tokenizer(PAPER, (64, 64, 3))


# --- the paper's tables


def test_the_paper_has_so_many_parameters(paper):
    assert (count(paper), count(paper.encoder), count(paper.decoder)) == (4_027_523, 1_418_240, 1_821_827)
    assert (count(paper.pre), count(paper.quantizer), count(paper.post)) == (262_656, 262_144, 262_656)
    assert count(Tokenizer(PRESETS["tiny"].tokenizer, (16, 16, 3))) == 43_731


def rows(part: nn.Sequential) -> list[tuple[str, int, int]]:
    """Its layers: kind, parameters, side of the map that comes out."""
    sides, found = [64 if part[0].in_channels == 3 else 4], []
    for layer in part:
        change = {"Down": 0.5, "Up": 2}.get(type(layer).__name__, 1)
        sides.append(int(sides[-1] * change))
        found.append((type(layer).__name__, count(layer), sides[-1]))
    return found


def test_every_layer_is_where_the_tables_have_it(paper):
    res, attend = ("ResBlock", 74_112), ("Attention", 16_768)
    mid = [(*res, 4), (*attend, 4), (*res, 4)]
    out = [("GroupNorm", 128, 4), ("SiLU", 0, 4), ("Conv2d", 295_424, 4)]
    encoder = [("Conv2d", 1_792, 64)]
    for side in (64, 32, 16, 8, 4):
        if side < 64:
            encoder.append(("Down", 36_928, side))
        encoder += [(*res, side), *([(*attend, side)] if side in (16, 8) else [])] * 2
    assert rows(paper.encoder) == encoder + mid + out
    decoder = [("Conv2d", 294_976, 4), *mid]
    for side in (4, 8, 16, 32, 64):
        if side > 4:
            decoder.append(("Up", 36_928, side))
        decoder += [(*res, side), *([(*attend, side)] if side in (16, 8) else [])] * 3
    assert rows(paper.decoder) == [
        *decoder,
        *[("GroupNorm", 128, 64), ("SiLU", 0, 64), ("Conv2d", 1_731, 64)],
    ]


def test_the_paper_has_so_many_flops(paper):
    frame = torch.rand(1, 64, 64, 3).permute(0, 3, 1, 2)
    code = torch.zeros(1, 512, 4, 4)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):  # the others are not counted
        for function, flops in (
            (lambda: paper.encoder(frame), 1_794_834_432),
            (lambda: paper.encode(frame), 1_811_611_648),
            (lambda: paper.decode(code), 2_936_864_768),
        ):
            with FlopCounterMode(display=False) as counter:
                function()
            assert counter.get_total_flops() == flops


def test_sizes_and_initial_codebook(paper):
    codes = paper.encode(torch.rand(2, 3, 64, 64))
    assert codes.z.shape == codes.quantized.shape == (2, 512, 4, 4) and codes.tokens.shape == (2, 16)
    assert paper.decode(codes.quantized).shape == (2, 3, 64, 64)
    book = paper.quantizer.codebook
    assert book.abs().max() <= 1 / 512 and book.std().item() == pytest.approx(1 / 512 / 3**0.5, rel=0.01)
    norms = [layer for layer in paper.modules() if isinstance(layer, nn.GroupNorm)]
    assert {(layer.num_groups, layer.eps, layer.affine) for layer in norms} == {(32, 1e-6, True)}
    assert not paper.state_dict().keys() - {"quantizer.used"} - {n for n, _ in paper.named_parameters()}


def test_pictures_that_do_not_fit():
    for image in ((64, 32, 3), (24, 24, 3), (8, 8, 3)):
        with pytest.raises(UserError, match="must be square, the side a multiple of 16"):
            Tokenizer(PAPER, image)
    narrow = override(TokenizerConfig(), {"channels": 4, "groups": 2, "code": 4, "latents": 4})
    assert Tokenizer(narrow, (32, 32, 1)).tokens == 4


# --- layers


def random_(module: nn.Module) -> nn.Module:
    for p in module.parameters():
        nn.init.normal_(p, std=0.5)
    return module


def test_attention_is_that_of_three_convolutions():
    layer, x = random_(Attention(4, 2)), torch.randn(2, 4, 3, 3)
    h = F.group_norm(x, 2, layer.norm.weight, layer.norm.bias, 1e-6)
    q, k, v = (
        F.conv2d(h, w, b).flatten(2)
        for w, b in zip(layer.qkv.weight.chunk(3), layer.qkv.bias.chunk(3), strict=True)
    )
    weight = (q.transpose(1, 2) @ k / 4**0.5).softmax(-1)  # [N, query, key]
    expected = x + layer.out((v @ weight.transpose(1, 2)).unflatten(2, (3, 3)))
    torch.testing.assert_close(layer(x), expected)


def test_residual_block():
    for outputs in (4, 6):
        layer, x = random_(ResBlock(4, outputs, 2)), torch.randn(2, 4, 3, 3)
        h = layer.conv1(F.silu(F.group_norm(x, 2, layer.norm1.weight, layer.norm1.bias, 1e-6)))
        h = layer.conv2(F.silu(F.group_norm(h, 2, layer.norm2.weight, layer.norm2.bias, 1e-6)))
        torch.testing.assert_close(layer(x), h + (layer.skip(x) if outputs == 6 else x))


def test_down_pads_right_and_bottom_and_up_repeats():
    x = torch.randn(1, 2, 4, 4)
    down, up = random_(Down(2)), random_(Up(2))
    padded = torch.zeros(1, 2, 5, 5)
    padded[..., :4, :4] = x
    torch.testing.assert_close(down(x), F.conv2d(padded, down.conv.weight, down.conv.bias, stride=2))
    twice = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(up(x), F.conv2d(twice, up.conv.weight, up.conv.bias, padding=1))


# --- the codebook


def test_every_place_takes_its_nearest_word_row_by_row(networks):
    quantizer, z = networks().tokenizer.quantizer, torch.randn(3, 6, 2, 2)
    nn.init.normal_(quantizer.codebook)
    codes = quantizer(z)
    for n in range(3):
        for k in range(4):
            place = z[n, :, k // 2, k % 2]
            nearest = (quantizer.codebook - place).square().sum(-1).argmin()
            assert codes.tokens[n, k] == nearest
            assert torch.equal(codes.quantized[n, :, k // 2, k % 2], quantizer.codebook[nearest])


@pytest.mark.parametrize("beta, expected", [(1.0, (1.8, -3.4)), (0.25, (1.95, -3.1))])
def test_straight_through(networks, beta, expected):
    """Sheet 14: codebook {(0, 0), (1, 1)}, z = (.8, .6), gradient (2, -3) behind the codebook."""
    more = {"tokenizer.vocab": 2, "tokenizer.code": 2, "tokenizer.beta": beta, "tokenizer.pixel_loss": "l1"}
    tokenizer = networks(**more).tokenizer
    for name in ("encoder", "decoder", "pre", "post"):
        setattr(tokenizer, name, nn.Identity())
    z = torch.tensor([0.8, 0.6]).view(1, 2, 1, 1).requires_grad_()
    book = tokenizer.quantizer.codebook
    with torch.no_grad():
        book.copy_(torch.tensor([[0.0, 0], [1, 1]]))
    seen = []

    def downstream(target, decoded):
        seen.append(decoded)
        return (decoded * torch.tensor([2.0, -3]).view(1, 2, 1, 1)).sum((1, 2, 3))

    losses, codes, _ = tokenizer.loss((z + 1) / 2, downstream)
    distances = tokenizer.quantizer.distances(z.flatten()[None])
    torch.testing.assert_close(distances, torch.tensor([[1.0, 0.2]]))
    assert codes.tokens.tolist() == [[1]] and seen[0].flatten().tolist() == [1, 1]
    scales = {**tokenizer.scales(True), "l1": 0.0}
    total = sum(scales[name] * loss.mean() for name, loss in losses.items())
    if beta == 1:
        assert total.item() == pytest.approx(-0.8)
    total.backward()
    assert z.grad.flatten().tolist() == pytest.approx(expected)
    torch.testing.assert_close(book.grad, torch.tensor([[0, 0], [0.2, 0.4]]))


def test_an_averaged_codebook_follows_what_chose_it(networks):
    more = {"tokenizer.codebook": "ema", "tokenizer.ema_decay": 0.75}
    tokenizer = networks(**more).tokenizer
    quantizer = tokenizer.quantizer
    losses, _, _ = tokenizer.loss(torch.rand(2, 3, 8, 8))
    assert "codebook" not in losses and losses.keys() == tokenizer.scales(False).keys()
    sum(loss.mean() for loss in losses.values()).backward()
    assert quantizer.codebook.grad is None and tokenizer.pre.weight.grad.any()
    before, z = quantizer.codebook.detach().clone(), torch.randn(1, 6, 1, 2)
    tokens = torch.tensor([[3, 3]])
    quantizer.follow(Codes(z, z, tokens))
    mean = 0.75 * before[3] + 0.25 * z[0, :, 0].sum(-1)
    torch.testing.assert_close(quantizer.codebook[3], mean / (0.75 + 0.25 * 2))
    torch.testing.assert_close(quantizer.codebook[4], before[4])
    for _ in range(100):
        quantizer.follow(Codes(z, z, tokens))
    torch.testing.assert_close(quantizer.codebook[3], z[0, :, 0].mean(-1))


@pytest.mark.parametrize("codebook", ["gradient", "ema"])
def test_words_that_nobody_chose_go_where_the_error_is(networks, codebook):
    quantizer = networks(**{"tokenizer.codebook": codebook}).tokenizer.quantizer
    nn.init.constant_(quantizer.codebook, 100.0)
    quantizer.codebook.data[0] = 0
    if codebook == "ema":
        quantizer.sum.copy_(quantizer.codebook.detach())
    z = torch.zeros(1, 6, 4, 4)
    z[0, :, 3, 3] = 5.0  # all but one place fit perfectly
    before = quantizer.codebook.detach().clone()
    quantizer.follow(quantizer(z))
    assert quantizer.used.tolist() == [16] + [0] * 7
    if codebook == "gradient":
        assert torch.equal(quantizer.codebook, before)
    quantizer.follow(quantizer(z), revive=True)
    book = quantizer.codebook.detach()
    assert ((book[1:] == z[0, :, 0, 0]) | (book[1:] == 5)).all() and (book[1:] == 5).any()
    assert not quantizer.used.any()
    for _ in range(3):
        quantizer.follow(quantizer(z))
    assert (quantizer(z).quantized - z)[0, :, 3, 3].abs().max() < 1e-5


def test_reviving_draws_words_by_their_error():
    quantizer = Quantizer(TokenizerConfig(vocab=2, code=1))
    z = torch.tensor([1.0, 3.0]).view(1, 1, 1, 2)  # squared errors 1 and 9
    picks = []
    for _ in range(300):
        with torch.no_grad():
            quantizer.codebook.copy_(torch.tensor([[0.0], [50.0]]))
        quantizer.follow(quantizer(z), revive=True)
        picks.append(quantizer.codebook[1].item())
    assert set(picks) == {1.0, 3.0} and picks.count(3.0) / 300 == pytest.approx(0.9, abs=0.05)


# --- losses


@pytest.mark.parametrize("pixel", ["l1", "l2", "l1+l2"])
def test_every_term_by_hand(networks, pixel):
    tokenizer = networks(**{"tokenizer.pixel_loss": pixel}).tokenizer
    frame = torch.rand(3, 3, 8, 8)
    losses, codes, _ = tokenizer.loss(frame)
    decoded = tokenizer.decode(codes.quantized)
    error = 2 * frame - 1 - decoded
    vq = (codes.z - codes.quantized).square().mean((1, 2, 3))
    expected = {"commit": vq, "codebook": vq}
    if "l1" in pixel:
        expected["l1"] = error.abs().mean((1, 2, 3))
    if "l2" in pixel:
        expected["l2"] = error.square().mean((1, 2, 3))
    if pixel == "l1+l2":
        expected["worst"] = error.square().amax((1, 2, 3))
    assert losses.keys() == expected.keys() == tokenizer.scales(False).keys()
    for name, loss in losses.items():
        assert loss.shape == (3,)
        torch.testing.assert_close(loss, expected[name], msg=name)


def test_weights_and_what_auto_means(networks):
    tokenizer = networks(**{"tokenizer.pixel_loss": "auto", "tokenizer.beta": 0.25}).tokenizer
    vq = {"commit": 0.25, "codebook": 1.0}
    assert tokenizer.scales(True) == {**vq, "l1": 1.0, "perceptual": 1.0}
    assert tokenizer.scales(False) == {**vq, "l1": 0.1, "l2": 1.0, "worst": 0.01}
    scales = networks(**{"tokenizer.pixel_loss": "l2", "tokenizer.beta": 1.0}).tokenizer.scales
    assert scales(True) == {"commit": 1.0, "codebook": 1.0, "l2": 1.0, "perceptual": 1.0}
    paper = Tokenizer.scales(Tokenizer(PRESETS["tiny"].tokenizer, (16, 16, 3)), False)
    assert paper == {"commit": 1.0, "codebook": 1.0, "l2": 1.0}
    assert PAPER.pixel_loss == "auto" and PAPER.beta == 1.0


def test_the_perceptual_term_compares_target_and_picture(networks):
    tokenizer, frame, seen = networks().tokenizer, torch.rand(2, 3, 8, 8), []

    def perceptual(target, decoded):
        seen.extend((target, decoded))
        return decoded.square().mean((1, 2, 3))

    losses, codes, _ = tokenizer.loss(frame, perceptual)
    torch.testing.assert_close(seen[0], 2 * frame - 1)
    torch.testing.assert_close(seen[1], tokenizer.decode(codes.quantized))
    (grad,) = torch.autograd.grad(losses["perceptual"].sum(), tokenizer.encoder[0].weight)
    assert grad.any()


def test_the_codebook_learns_from_its_own_term_alone(networks):
    tokenizer = networks(**{"tokenizer.pixel_loss": "l1+l2"}).tokenizer
    losses, _, _ = tokenizer.loss(torch.rand(2, 3, 8, 8), lambda a, b: (a - b).square().mean((1, 2, 3)))
    book, encoder = tokenizer.quantizer.codebook, tokenizer.encoder[0].weight
    for name, loss in losses.items():
        grads = torch.autograd.grad(loss.sum(), [book, encoder], retain_graph=True, allow_unused=True)
        is_live = [grad is not None and bool(grad.any()) for grad in grads]
        assert is_live == [name == "codebook", name != "codebook"], name


# --- what others see


def test_frames_come_back_clamped_and_without_gradient(networks):
    tokenizer = networks().tokenizer
    for p in tokenizer.decoder.parameters():
        nn.init.normal_(p)
    frame = torch.rand(2, 3, 8, 8)
    seen, codes = tokenizer.encode_decode(frame), tokenizer.encode(frame)
    expected = ((tokenizer.decode(codes.quantized) + 1) / 2).clamp(0, 1)
    assert torch.equal(seen, expected.detach()) and not seen.requires_grad
    assert seen.min() == 0 and seen.max() == 1  # such weights leave [0, 1]
    assert torch.equal(tokenizer.tokenize(frame), codes.tokens)
    assert torch.equal(tokenizer.decode_tokens(codes.tokens), seen)
    assert torch.equal(tokenizer.decode_tokens(codes.tokens.to(torch.int16)), seen)


def test_pictures_survive_the_way_to_frames_and_back():
    image = torch.arange(256, dtype=torch.uint8).view(2, 8, 8, 2)
    frame = to_frames(image)
    assert frame.shape == (2, 2, 8, 8) and frame.is_contiguous(memory_format=torch.channels_last)
    assert frame.min() == 0 and frame.max() == 1 and frame[0, 1, 2, 3] == image[0, 2, 3, 1] / 255
    assert torch.equal(to_images(frame), image)
    assert torch.equal(to_frames(image.view(1, 2, 8, 8, 2)), frame)


def test_frames_are_learned_by_heart(networks):
    """Eight frames of coloured cells come back, and the straight-through path is what taught the encoder."""
    more = {"tokenizer.channels": 16, "tokenizer.groups": 4, "tokenizer.code": 16, "tokenizer.latents": 16}
    tokenizer = networks(**more, **{"tokenizer.vocab": 16, "tokenizer.mid": False}).tokenizer
    colors = torch.tensor([[0.0, 0, 0], [1, 0.8, 0.2], [0.2, 0.6, 1]])
    cells = colors[torch.randint(3, (8, 2, 2))].permute(0, 3, 1, 2)  # [N, 3, 2, 2] one per token
    frame = cells.repeat_interleave(4, 2).repeat_interleave(4, 3)
    optimizer = torch.optim.Adam(tokenizer.parameters(), lr=3e-3)
    before = (tokenizer.encode_decode(frame) - frame).abs().mean()
    for step in range(120):
        losses, codes, _ = tokenizer.loss(frame)
        total = sum(tokenizer.scales(False)[name] * loss.mean() for name, loss in losses.items())
        optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(tokenizer.parameters(), 10.0)
        optimizer.step()
        tokenizer.quantizer.follow(codes, revive=step % 10 == 9)
    after = (tokenizer.encode_decode(frame) - frame).abs()
    assert before > 0.3 and after.mean() < 0.05 and after.max() < 0.3


def test_attention_at_a_side_that_no_map_has_is_refused(small):
    with pytest.raises(UserError, match="--tokenizer.attention 5: the maps have sides 8, 4, 2"):
        Tokenizer(small(**{"tokenizer.attention": (4, 5)}).tokenizer, (8, 8, 3))
