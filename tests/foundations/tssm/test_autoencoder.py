"""The categorical autoencoder: straight-through gradients, codes, the soft start, the gate."""

import dataclasses

import numpy as np
import pytest
import torch

from common.errors import UserError
from foundations.tssm import train
from foundations.tssm.autoencoder import Autoencoder, is_exact, sample_one_hot, straight_through
from foundations.tssm.config import PRESETS, CodeConfig, Config, DataConfig
from foundations.tssm.data import collect
from foundations.tssm.dynamics import count_parameters


def test_straight_through_is_one_hot_forward_and_soft_backward():
    torch.manual_seed(0)
    logits = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 8, dtype=torch.float64)
    probs = logits.softmax(-1)
    stoch = straight_through(sample_one_hot(probs), probs)
    assert set(stoch.flatten().tolist()) == {0.0, 1.0} and (stoch.sum(-1) == 1).all()
    (weight * stoch).sum().backward()
    eps, numeric = 1e-6, torch.zeros(3, 8, dtype=torch.float64)
    with torch.no_grad():
        for i in range(3):
            for j in range(8):
                step = torch.zeros(3, 8, dtype=torch.float64)
                step[i, j] = eps
                up, down = ((weight * (logits + s).softmax(-1)).sum() for s in (step, -step))
                numeric[i, j] = (up - down) / (2 * eps)
    torch.testing.assert_close(logits.grad, numeric, rtol=1e-6, atol=1e-8)


def test_draws_follow_the_probabilities():
    torch.manual_seed(0)
    probs = torch.tensor([0.1, 0.2, 0.7]).expand(20_000, 2, 3)
    share = sample_one_hot(probs).mean(0)  # [2, 3]
    torch.testing.assert_close(share, probs[0], atol=0.015, rtol=0)


def test_probabilities_keep_a_little_of_the_uniform_ones():
    model = Autoencoder(CodeConfig())
    with torch.no_grad():
        model.encoder[-1].bias[0] = 1e4
        probs = model.probs(torch.rand(2, 3, 4, 4))
    torch.testing.assert_close(probs.min(), torch.tensor(0.01 / 8))
    torch.testing.assert_close(probs.sum(-1), torch.ones(2, 16))


@pytest.mark.parametrize(
    ("cfg", "side"),
    [
        (CodeConfig(), 4),
        (CodeConfig(kind="board", latents=8), 4),
        (dataclasses.replace(PRESETS["pendulum"].code, width=4), 64),
    ],
)
def test_shapes_there_and_back(cfg, side):
    model, obs = Autoencoder(cfg), torch.rand(5, 3, side, side)
    codes = model.encode(obs)
    assert codes.shape == (5, cfg.latents) and codes.max() < cfg.classes
    assert model.decode(model.one_hot(codes)).shape == obs.shape
    assert model.reconstruct(obs).min() >= 0 and model.reconstruct(obs).max() <= 1
    assert model.loss(obs, obs.mean(0), 1.0)["image"].shape == (5,)


def test_size_of_the_cell_code():
    assert count_parameters(Autoencoder(CodeConfig())) == 2_891


def test_a_cell_speaks_for_itself_alone():
    model, obs = Autoencoder(CodeConfig()), torch.rand(1, 3, 4, 4)
    other = obs.clone()
    other[:, :, 1, 2] = 1 - other[:, :, 1, 2]
    changed = (model.logits(obs) != model.logits(other)).any(-1)[0]  # [K]
    assert changed.nonzero().flatten().tolist() == [4 * 1 + 2]
    stoch = torch.rand(1, 16, 8)
    moved = stoch.clone()
    moved[:, 7] = 1 - moved[:, 7]
    pixels = (model.decode(stoch) != model.decode(moved)).any(1)[0]  # [4, 4]
    assert pixels.nonzero().tolist() == [[1, 3]]


def test_soft_frames_pass_probabilities_and_hard_ones_draws():
    class Seen(Autoencoder):
        def decode(self, stoch):
            self.stoch = stoch
            return super().decode(stoch)

    torch.manual_seed(0)
    model, obs = Seen(CodeConfig()), torch.rand(400, 3, 4, 4)
    for share in (0.0, 0.3, 1.0):
        model.loss(obs, obs.mean(0), share)
        is_hard = ((model.stoch == 0) | (model.stoch == 1)).flatten(1).all(1)  # [B]
        assert abs(float(is_hard.float().mean()) - share) <= 0.08 * (share not in (0, 1))


def test_rare_pixels_weigh_more():
    torch.manual_seed(0)
    model = Autoencoder(CodeConfig())
    obs = torch.ones(1, 3, 4, 4)
    model.decode = lambda stoch: torch.zeros(1, 3, 4, 4)  # an error of ln 2 in each of 48 numbers
    common = model.loss(obs, torch.ones(3, 4, 4), 0.0)["image"]
    rare = model.loss(obs, torch.zeros(3, 4, 4), 0.0)["image"]
    assert float(common) == pytest.approx(48 * np.log(2), rel=1e-5)
    assert float(rare) == pytest.approx(11 * 48 * np.log(2), rel=1e-5)


def test_exact_means_every_pixel():
    obs = torch.zeros(2, 3, 4, 4)
    pred = obs.clone()
    pred[0] = 0.49
    pred[1, 0, 0, 0] = 0.51
    assert is_exact(pred, obs).tolist() == [True, False]


def small(**code) -> Config:
    return Config(data=DataConfig(episodes=40), code=CodeConfig(**code))


def test_gate_throws_attempts_away_until_one_passes(monkeypatch):
    config = small(steps=2, attempts=5)
    shares = iter([0.2, 0.985, 1.0, 1.0])
    monkeypatch.setattr(train, "exact_frames", lambda model, replay: next(shares))
    _, told = train.fit_autoencoder(config, *collect(config, 0).split(), 0, "cpu")
    assert told["attempts"] == [0.2, 0.985, 1.0]


def test_attempts_differ_and_their_number_is_limited():
    config = small(steps=2, attempts=3)
    with pytest.raises(UserError, match="no autoencoder of 3 attempts passed the gate of 0.99"):
        train.fit_autoencoder(config, *collect(config, 0).split(), 0, "cpu")
    assert PRESETS["tiny"].code.attempts >= 8


def test_some_attempt_passes_the_gate_with_frames_of_every_kind():
    config = Config(data=DataConfig(episodes=300))
    replay, held_out = collect(config, 0).split()
    model, told = train.fit_autoencoder(config, replay, held_out, 0, "cpu")
    assert told["attempts"][-1] >= 0.99
    codes = train.encode_replay(model, held_out).codes
    assert len(codes.unique()) >= 4  # ground, actor, target, threat have classes of their own
