"""Published sizes to the unit, shapes, ELU everywhere, Keras' initialisers (sheet sections 2 and 12.1)."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common.config import override, resolve
from common.env_wrapper import EnvSpec
from common.errors import UserError
from common.spaces import Spaces
from paper3_dreamerv2.actor_critic import Actor, Critic
from paper3_dreamerv2.agent import DreamerV2Agent
from paper3_dreamerv2.config import Config, ConvConfig
from paper3_dreamerv2.networks import MLP, Decoder, Encoder, gaussian_nll, preprocess, to_pixels
from paper3_dreamerv2.presets import PRESETS, SUITES
from paper3_dreamerv2.train import PUBLISHED, published
from paper3_dreamerv2.world_model import WorldModel

GRAY, RGB = {"image": (64, 64, 1)}, {"image": (64, 64, 3)}


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def build(cfg: Config, spaces: Spaces, cont: bool) -> DreamerV2Agent:
    """Without memory: only the shapes of the parameters matter."""
    with torch.device("meta"):
        return DreamerV2Agent(cfg, EnvSpec(cfg.env, {}), spaces, cont, "meta")


def atari(actions: int) -> DreamerV2Agent:
    return build(resolve(PRESETS, SUITES, "paper", "atari_pong")[0], Spaces(GRAY, actions, True), True)


def test_the_papers_parameters_by_component():
    agent = atari(18)
    model, rssm = agent.model, agent.model.rssm
    assert [count(conv) for conv in model.encoder.convs] == [816, 73_824, 295_104, 1_180_032]
    assert count(model.encoder) == 1_549_776 and model.encoder.size == 1536
    assert count(rssm.inputs) == 625_800
    assert count(rssm.cell) == 2_165_400
    assert count(rssm.prior_hidden) + count(rssm.prior_stats) == 976_024
    assert count(rssm.post_hidden) + count(rssm.post_stats) == 1_897_624
    assert count(rssm) == 5_664_848 and rssm.feature == 1624
    decoder = [count(model.decoder.dense), *(count(conv) for conv in model.decoder.convs)]
    assert decoder == [2_496_000, 7_372_992, 460_896, 165_936, 1_729]
    assert count(model.decoder) == 10_497_553
    assert count(model.rew) == count(model.cont) == 1_131_601
    assert count(agent.critic) == count(agent.slow) == 1_131_601


@pytest.mark.parametrize(
    "actions, model, actor",
    [(18, 19_975_379, 1_138_418), (6, 19_968_179, 1_133_606), (4, 19_966_979, 1_132_804)],
)
def test_the_papers_parameters_in_all(actions, model, actor):
    agent = atari(actions)
    counts = {name: count(part) for name, part in agent.parts().items()}
    assert counts == {"model": model, "actor": actor, "critic": 1_131_601}
    if actions == 18:
        assert counts == PUBLISHED and sum(counts.values()) == pytest.approx(22.2e6, abs=0.05e6)


def test_dmc_visions_parameters():
    cfg = resolve(PRESETS, SUITES, "dmc_vision", "dmc_walker_walk")[0]
    agent = build(cfg, Spaces(RGB, 6, False), cont=False)
    counts = {name: count(part) for name, part in agent.parts().items()}
    assert counts == {"model": 13_656_772, "actor": 976_012, "critic": 971_601}


def test_the_number_that_the_released_code_prints():
    """Pictures in colour, deter 1024, 8 actions: 32,342,130 with three scalars that are no weights."""
    cfg = override(Config(), {"rssm.deter": 1024, "rssm.hidden": 1024})
    agent = build(cfg, Spaces(RGB, 8, True), cont=True)
    networks = [*agent.parts().values(), agent.slow]
    assert sum(count(part) for part in networks) + 3 == 32_342_130


def test_the_tiny_preset_has_the_sizes_of_the_sheet():
    cfg = resolve(PRESETS, SUITES, "tiny", "toy_catch")[0]
    agent = build(cfg, Spaces({"image": (32, 32, 1)}, 3, True), cont=False)
    counts = {name: count(part) for name, part in agent.parts().items()}
    assert counts == {"model": 149_874, "actor": 12_611, "critic": 12_481}


def test_published_numbers_are_shown_only_where_they_are_of_the_same_kind():
    cfg = PRESETS["paper"]
    assert published(cfg, Spaces(GRAY, 18, True)) == PUBLISHED
    for spaces in (Spaces(GRAY, 6, True), Spaces(RGB, 18, True), Spaces(GRAY, 18, False)):
        assert published(cfg, spaces) is None


def test_map_sizes_are_the_papers():
    spaces = Spaces(GRAY, 2, True)
    encoder, decoder = Encoder(ConvConfig(depth=2), spaces), Decoder(ConvConfig(depth=2), 7, spaces)
    x, sizes = torch.zeros(1, 1, 64, 64), []
    for conv in encoder.convs:
        x = conv(x)
        sizes.append(x.shape[-1])
    assert sizes == [31, 14, 6, 2]
    x, sizes = torch.zeros(1, decoder.dense.out_features, 1, 1), []
    for conv in decoder.convs:
        x = conv(x)
        sizes.append(x.shape[-1])
    assert sizes == [5, 13, 30, 64]


@pytest.mark.parametrize("size", [64, 32])
def test_all_observations_go_in_and_come_out(size):
    shapes = {"image": (size, size, 1), "image_map": (size, size, 3), "vector": (4,), "vector_speed": (2,)}
    spaces, cfg = Spaces(shapes, 2, False), ConvConfig(depth=2, layers=1, units=8)
    encoder, decoder = Encoder(cfg, spaces), Decoder(cfg, 7, spaces)
    obs = {
        key: torch.zeros(5, 2, *shape, dtype=torch.uint8 if key in spaces.images else torch.float32)
        for key, shape in shapes.items()
    }
    embed = encoder(obs)
    assert embed.shape == (5, 2, encoder.size)
    for key in shapes:  # none is forgotten
        assert not torch.equal(encoder({**obs, key: obs[key] + 1}), embed), key
    means = decoder(torch.randn(5, 2, 7))
    assert {key: tuple(mean.shape) for key, mean in means.items()} == {
        key: (5, 2, *shape) for key, shape in shapes.items()
    }


@pytest.mark.parametrize("shape", [(48, 48, 3), (64, 32, 3)])
def test_other_pictures_are_refused_in_one_line(shape):
    with pytest.raises(UserError, match="64 or 32 pixels wide"):
        Encoder(ConvConfig(), Spaces({"image": shape}, 2, False))


def with_biases(module: nn.Module) -> nn.Module:
    """Biases that are not zero, so that they can be missed."""
    for name, p in module.named_parameters():
        if name.endswith("bias"):
            nn.init.uniform_(p, -0.5, 0.5)
    return module


def test_the_convolutions_by_hand():
    """ELU after every one but the decoder's last; the product of matrices is the transposed convolution."""
    torch.manual_seed(0)
    spaces = Spaces({"image": (32, 32, 3)}, 2, False)
    encoder = with_biases(Encoder(ConvConfig(depth=2), spaces))
    image = torch.randint(256, (4, 3, 32, 32, 3), dtype=torch.uint8)
    x = (image.flatten(0, 1).float() / 255 - 0.5).permute(0, 3, 1, 2)
    for conv in encoder.convs:
        x = F.elu(F.conv2d(x, conv.weight, conv.bias, 2))
    torch.testing.assert_close(encoder({"image": image}), x.flatten(1).unflatten(0, (4, 3)))

    decoder, feat = with_biases(Decoder(ConvConfig(depth=2), 7, spaces)), torch.randn(4, 3, 7)
    x = decoder.dense(feat.flatten(0, 1))[..., None, None]  # linear
    for i, conv in enumerate(decoder.convs):
        x = F.conv_transpose2d(F.elu(x) if i else x, conv.weight, conv.bias, 2)
    expected = x.permute(0, 2, 3, 1).unflatten(0, (4, 3))
    torch.testing.assert_close(decoder(feat)["image"], expected, atol=1e-6, rtol=1e-5)


def test_dense_layers_use_elu_and_end_linear():
    torch.manual_seed(0)
    mlp, x = with_biases(MLP(3, 2, 4, 1)), torch.randn(5, 3)
    expected = F.elu(mlp.hidden[1](F.elu(mlp.hidden[0](x)))) @ mlp.out.weight.T + mlp.out.bias
    torch.testing.assert_close(mlp(x), expected)


def test_pictures_are_brought_to_half_a_unit_and_back():
    pixels = torch.arange(256, dtype=torch.uint8)
    x = preprocess(pixels)
    assert x.min() == -0.5 and x.max() == 0.5
    assert torch.equal(to_pixels(x), pixels)
    assert to_pixels(torch.tensor([-2.0, 2.0])).tolist() == [0, 255]


@pytest.mark.parametrize("channels, floor", [(1, 3_763.97), (3, 11_291.92)])
def test_gaussian_nll_leaves_out_only_the_constant(channels, floor):
    """What must be subtracted from the authors' image_loss to compare (sheet, section 3)."""
    mean, target = torch.randn(2, 3, 64, 64, channels), torch.randn(2, 3, 64, 64, channels)
    expected = -torch.distributions.Independent(torch.distributions.Normal(mean, 1.0), 3).log_prob(target)
    constant = channels * 4096 * 0.5 * math.log(2 * math.pi)
    assert constant == pytest.approx(floor, abs=0.01)
    torch.testing.assert_close(gaussian_nll(mean, target, 3) + constant, expected, rtol=1e-5, atol=0.02)
    scalar = -torch.distributions.Normal(mean, 1.0).log_prob(target)
    torch.testing.assert_close(gaussian_nll(mean, target, 0) + 0.9189385, scalar)


def test_every_network_is_initialised_as_keras_does():
    spaces = Spaces({"image": (32, 32, 3), "vector": (4,)}, 2, False)
    cfg = PRESETS["tiny"]
    torch.manual_seed(0)
    model = WorldModel(cfg, spaces, True)
    actor = Actor(cfg.actor, model.rssm.feature, 2, False)
    for net in (model, actor, Critic(cfg, model.rssm.feature)):
        for name, p in net.named_parameters():
            if "norm" in name:
                assert (p == float("weight" in name)).all(), name
            elif "bias" in name:
                assert p.abs().max() == 0, name
            elif net is actor and name == "net.out.weight":  # two layers of 2 outputs, stored as one
                assert p.abs().max() <= math.sqrt(6 / (64 + 2)) and p.shape[0] == 4
                assert p.abs().max() > math.sqrt(6 / (64 + 4)), name
            else:  # [a, b, k, k]: glorot's limit, symmetric in a and b, and drawn up to it
                limit = math.sqrt(6 / (math.prod(p.shape[2:]) * (p.shape[0] + p.shape[1])))
                assert p.abs().max() <= limit, name
                if p.numel() > 1_000:
                    assert p.abs().max() > 0.97 * limit, name
                    assert p.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.1), name
