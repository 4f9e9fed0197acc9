"""C: published sizes, squashing, a vector per row, action spaces it takes and refuses."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from common.errors import UserError
from paper1_world_models.config import ControllerConfig
from paper1_world_models.controller import ActionCodec, Controller, make_codec

CAR = ActionCodec("car", 3, (-1.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    "cfg, latents, hidden, codec, size",
    [
        (ControllerConfig(inputs="zh"), 32, 256, CAR, 867),
        (ControllerConfig(inputs="z"), 32, 256, CAR, 99),
        (ControllerConfig(inputs="z", hidden=40), 32, 256, CAR, 1_443),
        (ControllerConfig(inputs="zch", bias=False), 64, 512, ActionCodec("tanh", 1, (-1.0,), (1.0,)), 1_088),
        (ControllerConfig(inputs="zh"), 12, 128, ActionCodec("thirds", 1), 141),
    ],
)
def test_published_parameter_counts(cfg, latents, hidden, codec, size):
    assert Controller(cfg, latents, hidden, codec).size == size


def test_car_squashing():
    raw = torch.tensor([[-1.0] * 3, [0.0] * 3, [1.0] * 3])
    expected = [[-0.76159, 0.11920, 0], [0, 0.5, 0], [0.76159, 0.88080, 0.76159]]
    torch.testing.assert_close(CAR.squash(raw), torch.tensor(expected), atol=1e-5, rtol=0)
    torch.testing.assert_close(CAR.squash(raw)[:, 1], torch.sigmoid(2 * raw[:, 1]))


def test_thirds():
    codec = ActionCodec("thirds", 1)
    raw = torch.atanh(torch.tensor([[-0.34], [-0.33], [0.33], [0.34]]))
    act = codec.squash(raw).numpy()
    assert act[:, 0].tolist() == [-1, 0, 0, 1]
    assert codec.to_env(act).tolist() == [0, 1, 1, 2]
    assert np.array_equal(codec.from_env(codec.to_env(act)), act)


@pytest.mark.parametrize(
    "space, kind, size",
    [
        (spaces.Discrete(4), "auto", 4),
        (spaces.Discrete(3), "thirds", 1),
        (spaces.Box(-1, 1, (2,)), "auto", 2),
        (spaces.Box(np.float32([-1, 0, 0]), np.float32([1, 1, 1])), "car", 3),
    ],
)
def test_codecs_round_trip(space, kind, size):
    codec = make_codec(space, kind)
    act = codec.squash(torch.randn(5, codec.outputs)).numpy()
    assert act.shape == (5, size)
    env_act = codec.to_env(act)
    assert all(space.contains(a) for a in env_act)
    np.testing.assert_array_equal(codec.to_env(codec.from_env(env_act)), env_act)


@pytest.mark.parametrize(
    "space, kind",
    [
        (spaces.MultiDiscrete([3, 3]), "auto"),
        (spaces.Discrete(4), "thirds"),
        (spaces.Box(-np.inf, np.inf, (2,)), "auto"),
        (spaces.Discrete(4), "car"),
        (spaces.Box(-1, 1, (4,)), "car"),
    ],
)
def test_spaces_it_cannot_drive(space, kind):
    with pytest.raises(UserError):
        make_codec(space, kind)


@pytest.mark.parametrize("hidden", [0, 5])
@pytest.mark.parametrize("bias", [True, False])
def test_every_row_acts_with_its_own_vector(hidden, bias):
    torch.manual_seed(0)
    codec = ActionCodec("tanh", 2, (-1.0, -2.0), (1.0, 2.0))
    controller = Controller(ControllerConfig(inputs="zh", hidden=hidden, bias=bias), 3, 4, codec)
    params, feature = torch.randn(6, controller.size), torch.randn(6, 7)
    together = controller.act_many(params, feature)
    for i in range(6):
        layers, at, x = controller.layers, 0, feature[i]
        for k, (n_in, n_out) in enumerate(layers):
            weight = params[i, at : at + n_in * n_out].reshape(n_out, n_in)
            at += n_in * n_out
            x = weight @ x
            if bias:
                x, at = x + params[i, at : at + n_out], at + n_out
            if k < len(layers) - 1:
                x = x.tanh()
        torch.testing.assert_close(together[i], x.tanh() * torch.tensor([1.0, 2.0]))


def test_hopelessly_many_parameters_are_refused():
    with pytest.raises(UserError, match="2,500"):
        Controller(ControllerConfig(inputs="zch"), 64, 512, ActionCodec("argmax", 18))
