"""Layers, initialisation, what the encoder and the decoder take and give (1.4, 1.5, 1.7, 11.5)."""

import math

import pytest
import torch
import torch.nn.functional as F

from common.errors import UserError
from common.spaces import Spaces
from paper4_dreamerv3.networks import MLP, BlockLinear, Conv, Decoder, Dense, Encoder, RMSNorm, UpConv, linear
from paper4_dreamerv3.symlog import symlog
from paper4_dreamerv3.world_model import NumberHead, WorldModel

MIXED = Spaces(
    {"image": (32, 32, 1), "image_wrist": (32, 32, 3), "vector": (4,), "vector_goal": (2,)}, 3, True
)


# --- layers


def test_block_linear_by_hand():
    layer = BlockLinear(4, 6, 2)
    with torch.no_grad():
        layer.weight.copy_((torch.arange(12) + 1.0).view(2, 2, 3) / 10)
    out = layer(torch.tensor([1.0, 2, 3, 4]))
    assert out.shape == (2, 3)
    assert out.flatten().tolist() == pytest.approx([0.9, 1.2, 1.5, 6.1, 6.8, 7.5], abs=1e-6)


@pytest.mark.parametrize("bias", [True, False])
def test_block_linear_is_linear_with_a_block_diagonal_matrix(bias):
    layer, x = BlockLinear(24, 40, 8, bias=bias), torch.randn(5, 3, 24, requires_grad=True)
    if bias:
        torch.nn.init.normal_(layer.bias)
    matrix = torch.block_diag(*(block.T for block in layer.weight))
    dense, mix = F.linear(x, matrix, layer.bias), torch.randn(5, 3, 40)
    assert matrix.shape == (40, 24) and (layer.bias is not None) == bias
    torch.testing.assert_close(layer(x).flatten(-2), dense, atol=1e-6, rtol=1e-6)
    inputs = (x, *layer.parameters())
    ours = torch.autograd.grad((layer(x).flatten(-2) * mix).sum(), inputs)
    for a, b in zip(ours, torch.autograd.grad((dense * mix).sum(), inputs), strict=True):
        torch.testing.assert_close(a, b, atol=2e-6, rtol=1e-5)


def test_rms_norm_has_no_offset_and_a_scale():
    norm = RMSNorm(4)
    assert norm(torch.tensor([3.0, 4, 0, 0])).tolist() == pytest.approx(
        [1.1999904, 1.5999872, 0, 0], abs=1e-6
    )
    assert [name for name, _ in norm.named_parameters()] == ["scale"] and (norm.scale == 1).all()
    x = torch.randn(7, 4) * 0.01  # so small that epsilon counts
    with torch.no_grad():
        norm.scale.copy_(torch.tensor([1.0, 2, 3, 4]))
    torch.testing.assert_close(norm(x), x / (x.square().mean(-1, True) + 1e-4).sqrt() * norm.scale)


def test_rms_norm_computes_in_float32():
    x = (torch.randn(4, 64) * 300).bfloat16()
    assert RMSNorm(64)(x).dtype == torch.bfloat16
    torch.testing.assert_close(RMSNorm(64)(x), RMSNorm(64)(x.float()).bfloat16())


def test_hidden_layers_are_linear_norm_silu():
    layer, x = Dense(5, 6), torch.randn(3, 5)
    torch.nn.init.normal_(layer.linear.bias)
    y = F.linear(x, layer.linear.weight, layer.linear.bias)
    y = y / (y.square().mean(-1, True) + 1e-4).sqrt()
    torch.testing.assert_close(layer(x), y * y.sigmoid())
    mlp = MLP(5, 3, 6, 2)
    assert len(mlp.hidden) == 3 and isinstance(mlp.out, torch.nn.Linear)
    assert mlp.out.weight.shape == (2, 6)


# --- initial weights


@pytest.mark.parametrize(
    "make, std, fan_in",
    [
        (lambda: BlockLinear(2048, 2048, 8, fan_in=8192).weight, 0.01105, 8192),
        (lambda: BlockLinear(2048, 1024, 8).weight, 1 / math.sqrt(2048), 2048),
        (lambda: linear(512, 256).weight, 0.0442, 512),
        (lambda: linear(512, 256, fan_in=8192).weight, 0.01105, 8192),
        (lambda: Conv(3, 1536).conv.weight, 0.1155, 75),
        (lambda: UpConv(48, 96, strided=False).conv.weight, 1 / math.sqrt(1200), 1200),
        (lambda: UpConv(48, 96, strided=True).conv.weight, 1 / math.sqrt(1200), 1200),
    ],
)
def test_initial_weights_have_the_std_of_their_full_fan_in_and_are_cut(make, std, fan_in):
    weight = make().detach()
    assert weight.numel() >= 1e5
    assert weight.std().item() == pytest.approx(std, rel=0.01)
    assert abs(weight.mean().item()) < 0.01 * std
    limit = 2 * 1.1368 / math.sqrt(fan_in)
    assert 0.99 * limit < weight.abs().max() <= limit * (1 + 1e-6)


def test_biases_begin_at_zero_and_heads_where_they_should(learner):
    agent = learner({"units": 256, "rssm.hidden": 64, "rssm.deter": 512}).agent
    for part in agent.parts().values():
        for name, p in part.named_parameters():
            assert not (name.endswith("bias") and p.any()), name
            assert not (name.endswith("scale") and (p != 1).any()), name
    assert not agent.model.rew.net.out.weight.any() and not agent.critic.net.out.weight.any()
    assert agent.actor.net.out.weight.std().item() == pytest.approx(0.01 / 16, rel=0.1)
    assert agent.model.cont.out.weight.std().item() == pytest.approx(1 / 16, rel=0.2)
    logit = agent.model.rssm.post_logit.weight
    assert logit.std().item() == pytest.approx(1 / 8, rel=0.1)


def test_the_block_layer_of_the_gru_knows_its_full_width(small):
    """Its input is the slice of h and three copies of the inputs for each of 8 blocks: D + 24 U."""
    rssm = WorldModel(small(**{"rssm.deter": 512, "rssm.hidden": 64}), Spaces({"vector": (4,)}, 3, True)).rssm
    for weight in (rssm.hidden_deter.weight, rssm.hidden_in.weight):
        assert weight.std().item() == pytest.approx(1 / math.sqrt(512 + 24 * 64), rel=0.02)
    assert rssm.gates.weight.std().item() == pytest.approx(1 / math.sqrt(512), rel=0.02)


@torch.no_grad()
def test_a_fresh_model_expects_nothing(learner):
    agent = learner({"units": 64, "rssm.deter": 128}).agent
    feat = torch.randn(500, agent.model.rssm.feature)
    for value in (agent.model.reward(feat), agent.critic(feat).mean(), agent.slow(feat).mean()):
        assert not value.any()
    going_on = agent.model.going_on(feat)
    assert 0.3 < going_on.mean() < 0.7
    assert agent.actor(feat).entropy().min() > 0.999 * math.log(3)


def test_the_ablation_without_symlog_begins_at_zero_too(small):
    head = NumberHead(small(**{"model.symlog": False}), 7, 1)
    assert not head(torch.randn(5, 7)).mean().any() and head.net.out.weight.shape == (1, 8)


# --- encoder


@pytest.mark.parametrize("cnn", ["pool", "strided"])
@pytest.mark.parametrize("side, channels, edge", [(64, 3, 4), (96, 1, 6)])
def test_the_official_stages(small, cnn, side, channels, edge):
    cfg = small(**{"conv.mults": (2, 3, 4, 4), "conv.depth": 2, "conv.cnn": cnn})
    spaces = Spaces({"image": (side, side, channels)}, 3, True)
    encoder, decoder = Encoder(cfg, spaces), Decoder(cfg, spaces)
    assert encoder.size == edge * edge * 8
    assert [conv.conv.out_channels for conv in encoder.convs] == [4, 6, 8, 8]
    assert [conv.conv.stride[0] for conv in encoder.convs] == [2 if cnn == "strided" else 1] * 4
    image = torch.randint(256, (2, 3, side, side, channels), dtype=torch.uint8)
    assert encoder({"image": image}).shape == (2, 3, encoder.size)
    x, sides = image.flatten(0, 1).float().permute(0, 3, 1, 2), []
    for conv in encoder.convs:
        x = conv(x)
        sides.append(x.shape[-1])
    assert sides == [side // 2, side // 4, side // 8, side // 16]
    out = decoder(torch.randn(2, 3, 16), torch.randn(2, 3, 12))["image"]
    assert out.shape == image.shape and out.min() >= 0 and out.max() <= 1


def test_pooling_comes_before_the_norm():
    conv, x = Conv(2, 6, pool=True), torch.randn(3, 2, 8, 8)
    y = F.max_pool2d(F.conv2d(x, conv.conv.weight, conv.conv.bias, padding=2), 2)
    y = F.silu(y / (y.square().mean(1, True) + 1e-4).sqrt())  # over channels
    torch.testing.assert_close(conv(x), y)


def test_pictures_are_centred_once_and_vectors_squashed(small):
    encoder = Encoder(small(), MIXED)
    seen = {}
    encoder.convs.register_forward_pre_hook(lambda _, args: seen.update(image=args[0]))
    encoder.mlp.register_forward_pre_hook(lambda _, args: seen.update(vector=args[0]))
    obs = {
        key: torch.full((2, *shape), 255 if key == "image" else 0, dtype=torch.uint8)
        if key in MIXED.images
        else torch.randn(2, *shape) * 100
        for key, shape in MIXED.obs.items()
    }
    assert encoder(obs).shape == (2, encoder.size) == (2, 8 + 4 * 4 * 8)
    assert seen["image"].shape == (2, 4, 32, 32)  # all pictures stacked
    assert (seen["image"][:, 0] == 0.5).all() and (seen["image"][:, 1:] == -0.5).all()
    torch.testing.assert_close(seen["vector"], symlog(torch.cat([obs["vector"], obs["vector_goal"]], -1)))


def test_every_part_of_every_observation_counts(small):
    encoder = Encoder(small(), MIXED)
    obs = {
        key: torch.randint(200, (1, *shape), dtype=torch.uint8)
        if key in MIXED.images
        else torch.randn(1, *shape)
        for key, shape in MIXED.obs.items()
    }
    before = encoder(obs)
    for key, value in obs.items():
        for last in range(value.shape[-1]):
            changed = value.clone()
            changed[..., last] += 50
            assert not torch.equal(encoder({**obs, key: changed}), before), (key, last)


@pytest.mark.parametrize(
    "shapes",
    [
        {"image": (32, 64, 1)},
        {"image": (36, 36, 1)},
        {"image": (16, 16, 1)},
        {"image": (136, 136, 3)},
        {"image": (32, 32, 1), "image_far": (64, 64, 1)},
    ],
)
def test_pictures_that_do_not_fit_are_refused_in_one_line(small, shapes):
    for kind in (Encoder, Decoder):
        with pytest.raises(UserError, match="24 to 128 pixels wide") as error:
            kind(small(), Spaces(shapes, 3, True))
        assert "\n" not in str(error.value)


# --- decoder


def test_every_observation_is_decoded_in_its_own_shape(small):
    decoder = Decoder(small(), MIXED)
    out = decoder(torch.randn(2, 5, 16), torch.randn(2, 5, 12))
    assert {key: value.shape for key, value in out.items()} == {
        key: (2, 5, *shape) for key, shape in MIXED.obs.items()
    }
    assert all(0 <= out[key].min() and out[key].max() <= 1 for key in MIXED.images)


def test_each_block_of_h_has_channels_of_its_own(small):
    """The map before the first norm: channel c belongs to block c // (channels / blocks), at every place."""
    cfg = small(**{"conv.depth": 4})  # 16 channels, 8 blocks
    decoder = Decoder(cfg, Spaces({"image": (32, 32, 1)}, 3, True))
    for p in decoder.from_stoch.parameters():
        torch.nn.init.zeros_(p)
    seen = []
    decoder.norm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    deter = torch.randn(1, 16)
    decoder(deter, torch.zeros(1, 12))
    for block in range(8):
        changed = deter.clone()
        changed[:, 2 * block] += 1
        decoder(changed, torch.zeros(1, 12))
        moved = (seen[-1] != seen[0])[0]  # [4, 4, 16]
        mine = torch.arange(16) // 2 == block
        assert seen[-1].shape == (1, 4, 4, 16)
        assert moved[..., mine].all() and not moved[..., ~mine].any()


@pytest.mark.parametrize("strided", [True, False])
def test_each_step_up_doubles_the_side(strided):
    layer, x = UpConv(4, 6, strided), torch.randn(2, 4, 5, 5)
    assert layer(x).shape == (2, 6, 10, 10)
    assert UpConv(4, 1, strided, norm=False)(x).min() < 0  # SiLU and norm only where asked for
    if not strided:
        up = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        y = F.conv2d(up, layer.conv.weight, layer.conv.bias, padding=2)
        torch.testing.assert_close(layer(x), F.silu(y / (y.square().mean(1, True) + 1e-4).sqrt()))
