"""Published sizes to the unit, shapes, and Keras' initialisers (sheet sections 2 and 12.1, 12.14)."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common.errors import UserError
from common.spaces import Spaces
from paper2_dreamerv1.actor_critic import Actor, Value
from paper2_dreamerv1.config import ConvConfig
from paper2_dreamerv1.networks import (
    MLP,
    Decoder,
    Encoder,
    gaussian_nll,
    init_keras_,
    preprocess,
    to_pixels,
)
from paper2_dreamerv1.presets import PRESETS
from paper2_dreamerv1.train import PUBLISHED, make_agent, published
from paper2_dreamerv1.world_model import WorldModel

PAPER = PRESETS["paper"]


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def walker(actions: int = 6) -> Spaces:
    return Spaces({"image": (64, 64, 3)}, actions, False)


@pytest.fixture(scope="module")
def paper_model() -> WorldModel:
    return WorldModel(PAPER, walker(), True)


def test_the_papers_parameters_by_component(paper_model):
    model, rssm = paper_model, paper_model.rssm
    assert [count(conv) for conv in model.encoder.convs] == [1_568, 32_832, 131_200, 524_544]
    assert count(model.encoder) == 690_144
    assert count(rssm.inputs) == 7_400
    assert count(rssm.cell) == 241_200
    assert count(rssm.prior_hidden) + count(rssm.prior_stats) == 52_260
    assert count(rssm.post_hidden) + count(rssm.post_stats) == 257_060
    assert count(rssm) == 557_920
    decoder = [count(model.decoder.dense), *(count(conv) for conv in model.decoder.convs)]
    assert decoder == [236_544, 3_276_928, 204_864, 73_760, 3_459]
    assert count(model.decoder) == 3_795_555
    assert count(model.rew) == 253_201
    assert count(model.cont) == 413_601


def test_the_papers_parameters_in_all(paper_model):
    assert count(paper_model) - count(paper_model.cont) == 5_296_820 == PUBLISHED["model"]
    assert count(Actor(PAPER.actor, 230, 6, False)) == 578_412 == PUBLISHED["actor"]
    assert count(Value(PAPER, 230)) == 413_601 == PUBLISHED["value"]


@pytest.mark.parametrize("actions", [1, 2, 4, 12])
def test_parameters_are_linear_in_the_actions(actions):
    assert count(WorldModel(PAPER, walker(actions), False)) == 5_295_620 + 200 * actions
    assert count(Actor(PAPER.actor, 230, actions, False)) == 573_600 + 802 * actions


def test_the_tiny_preset_has_the_sizes_of_the_sheet():
    cfg, spaces = PRESETS["tiny"], Spaces({"image": (32, 32, 3)}, 2, False)
    agent = make_agent(cfg, type("Spec", (), {"name": "toy_point", "options": {}})(), spaces, "cpu")
    assert {name: count(part) for name, part in agent.parts().items()} == {
        "model": 134_004,
        "actor": 9_604,
        "value": 9_409,
    }


def test_published_numbers_are_shown_only_where_they_are_of_the_same_kind():
    assert published(PAPER, walker()) == PUBLISHED
    assert published(PAPER, walker(4)) is None
    assert published(PAPER, Spaces({"image": (64, 64, 3)}, 6, True)) is None
    assert published(PAPER, Spaces({"image": (64, 64, 3), "vector": (3,)}, 6, False)) is None


def test_map_sizes_are_the_papers():
    spaces = walker()
    encoder, decoder = Encoder(ConvConfig(depth=2), spaces), Decoder(ConvConfig(depth=2), 7, spaces)
    x, sizes = torch.zeros(1, 3, 64, 64), []
    for conv in encoder.convs:
        x = conv(x)
        sizes.append(x.shape[-1])
    assert sizes == [31, 14, 6, 2] and encoder.size == 4 * 16
    assert Encoder(PAPER.conv, spaces).size == 1024
    x, sizes = torch.zeros(1, decoder.dense.out_features, 1, 1), []
    for conv in decoder.convs:
        x = conv(x)
        sizes.append(x.shape[-1])
    assert sizes == [5, 13, 30, 64]


@pytest.mark.parametrize("size", [64, 32])
def test_all_observations_go_in_and_come_out(size):
    shapes = {"image": (size, size, 3), "image_map": (size, size, 1), "vector": (4,), "vector_speed": (2,)}
    spaces, cfg = Spaces(shapes, 2, False), ConvConfig(depth=2, units=8)
    torch.manual_seed(0)
    encoder, decoder = Encoder(cfg, spaces), Decoder(cfg, 7, spaces)
    obs = {key: torch.randint(256, (5, 2, *shape)) for key, shape in shapes.items()}
    obs = {
        key: value.to(torch.uint8 if key in spaces.images else torch.float32) for key, value in obs.items()
    }
    embed = encoder(obs)
    assert embed.shape == (5, 2, encoder.size)
    for key in shapes:  # none is forgotten
        changed = encoder({**obs, key: obs[key].flip(0)})
        assert not torch.equal(changed, embed), key
    means = decoder(torch.randn(5, 2, 7))
    assert {key: tuple(mean.shape) for key, mean in means.items()} == {
        key: (5, 2, *shape) for key, shape in shapes.items()
    }


@pytest.mark.parametrize("shape", [(48, 48, 3), (64, 32, 3)])
def test_other_pictures_are_refused_in_one_line(shape):
    with pytest.raises(UserError, match="64 or 32 pixels wide"):
        Encoder(ConvConfig(), Spaces({"image": shape}, 2, False))


def test_the_encoder_is_four_convolutions_with_relu():
    torch.manual_seed(0)
    spaces = Spaces({"image": (64, 64, 3)}, 2, False)
    encoder, image = init(Encoder(ConvConfig(depth=2), spaces)), torch.randint(256, (2, 3, 64, 64, 3))
    x = (image.flatten(0, 1) / 255 - 0.5).permute(0, 3, 1, 2)
    for conv in encoder.convs:
        x = F.conv2d(x, conv.weight, conv.bias, stride=2).relu()
    expected = x.flatten(1).unflatten(0, (2, 3))
    torch.testing.assert_close(encoder({"image": image.to(torch.uint8)}), expected, atol=1e-6, rtol=1e-5)


def test_the_decoders_product_of_matrices_is_the_transposed_convolution():
    torch.manual_seed(0)
    spaces = Spaces({"image": (32, 32, 3)}, 2, False)
    decoder, feat = init(Decoder(ConvConfig(depth=2), 7, spaces)), torch.randn(4, 3, 7)
    x = decoder.dense(feat.flatten(0, 1))[..., None, None]
    for conv in decoder.convs:
        x = conv(F.relu(x) if conv is not decoder.convs[0] else x)  # the first dense layer is linear
    expected = x.permute(0, 2, 3, 1).unflatten(0, (4, 3))
    torch.testing.assert_close(decoder(feat)["image"], expected, atol=1e-6, rtol=1e-5)


def init(module: nn.Module) -> nn.Module:
    init_keras_(module)
    with torch.no_grad():  # biases that are not zero, so that they can be missed
        for name, p in module.named_parameters():
            if name.endswith("bias"):
                p.uniform_(-0.1, 0.1)
    return module


def test_pictures_are_brought_to_half_a_unit_and_back():
    pixels = torch.arange(256, dtype=torch.uint8)
    x = preprocess(pixels)
    assert x.min() == -0.5 and x.max() == 0.5
    assert torch.equal(to_pixels(x), pixels)
    assert to_pixels(torch.tensor([-2.0, 2.0])).tolist() == [0, 255]


def test_dense_layers_use_elu_and_end_linear():
    mlp = MLP(3, 2, 4, 1)
    x = torch.randn(5, 3)
    expected = F.elu(mlp.hidden[1](F.elu(mlp.hidden[0](x)))) @ mlp.out.weight.T + mlp.out.bias
    torch.testing.assert_close(mlp(x), expected)


def test_gaussian_nll_leaves_out_only_the_constant():
    mean, target = torch.randn(2, 3, 64, 64, 3), torch.randn(2, 3, 64, 64, 3)
    expected = -torch.distributions.Independent(torch.distributions.Normal(mean, 1.0), 3).log_prob(target)
    constant = 12_288 * 0.5 * math.log(2 * math.pi)
    assert constant == pytest.approx(11_291.92, abs=0.01)
    torch.testing.assert_close(gaussian_nll(mean, target, 3) + constant, expected, rtol=1e-5, atol=0.02)
    scalar = -torch.distributions.Normal(mean, 1.0).log_prob(target)
    torch.testing.assert_close(gaussian_nll(mean, target, 0) + 0.9189385, scalar)


def test_every_network_is_initialised_as_keras_does():
    spaces = Spaces({"image": (32, 32, 3), "vector": (4,)}, 2, False)
    cfg = PRESETS["tiny"]
    torch.manual_seed(0)
    for net in (WorldModel(cfg, spaces, True), Actor(cfg.actor, 80, 2, False), Value(cfg, 80)):
        for name, p in net.named_parameters():
            if "bias" in name:
                assert p.abs().max() == 0, name
            elif name.endswith("weight_hh"):  # [3u, u]: orthonormal columns over the three gates together
                torch.testing.assert_close(p.T @ p, torch.eye(p.shape[1]), atol=1e-5, rtol=0)
            else:  # [a, b, k, k]: glorot's limit, symmetric in a and b, and drawn up to it
                receptive = math.prod(p.shape[2:])
                limit = math.sqrt(6 / (receptive * (p.shape[0] + p.shape[1])))
                assert p.abs().max() <= limit, name
                if p.numel() > 1_000:
                    assert p.abs().max() > 0.97 * limit, name
                    assert p.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.1), name
