"""M: published sizes, the mixture's likelihood and sampling, the LSTM, the death head (sheet section 10)."""

import math

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, Normal

from common.config import resolve
from paper1_world_models.config import RNNConfig
from paper1_world_models.presets import PRESETS, SUITES
from paper1_world_models.rnn import MDNRNN, Prediction, done_loss, mdn_nll, sample_next
from paper1_world_models.train_rnn import learning_rate


def trainable(module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def test_published_parameter_counts():
    car = MDNRNN(RNNConfig(hidden=256), 32, 3)
    doom = MDNRNN(RNNConfig(hidden=512, restart_input=True, done_head=True), 64, 1)
    assert trainable(car) == 422_368 and trainable(doom) == 1_678_785
    assert sum(p.numel() for p in car.parameters()) == 423_392  # torch's second bias vector, frozen at zero
    assert sum(p.numel() for p in doom.parameters()) == 1_680_833
    port = MDNRNN(RNNConfig(hidden=256, shared_pi=True, done_head=True, reward_head=True), 32, 3)
    assert port.head.out_features == 327
    assert sum(p.numel() for p in port.parameters()) - 256 * 327 - 327 == 423_392 - 256 * 480 - 480


def test_gates_start_as_the_authors():
    rnn = MDNRNN(RNNConfig(hidden=8, done_head=True, done_bias=-4.0), 2, 1)
    assert rnn.lstm.bias_ih_l0[8:16].tolist() == [1.0] * 8
    assert rnn.lstm.bias_ih_l0[:8].abs().max() == 0 and rnn.lstm.bias_hh_l0.abs().max() == 0
    assert rnn.head.bias[-1].item() == -4.0


def prediction(logits, mu, sigma) -> Prediction:
    logits, mu, sigma = (torch.as_tensor(v, dtype=torch.float32) for v in (logits, mu, sigma))
    return Prediction(logits.log_softmax(-1), mu, sigma.log(), None, None)


def test_nll_fixed_cases():
    five = prediction([[0.0] * 5], [[-2.0, -1, 0, 1, 2]], [[1.0] * 5])
    assert mdn_nll(five, torch.tensor([0.5])).item() == pytest.approx(1.6289327, abs=1e-6)
    two = prediction([[0, math.log(3)]], [[0.0, 4]], [[1, 0.5]])
    for y, nll in ((0.0, 2.3052330), (4.0, 0.5134175), (2.0, 4.2904701)):
        assert mdn_nll(two, torch.tensor([y])).item() == pytest.approx(nll, abs=1e-6)


@pytest.mark.parametrize("components", [1, 5])
def test_nll_equals_torch_distributions(components):
    logits, mu, logsigma = torch.randn(3, 6, 4, 7, components)
    y = torch.randn(6, 4, 7)
    ours = mdn_nll(Prediction(logits.log_softmax(-1), mu, logsigma, None, None), y)
    theirs = MixtureSameFamily(Categorical(logits=logits), Normal(mu, logsigma.exp())).log_prob(y)
    torch.testing.assert_close(ours, -theirs.mean(-1), atol=1e-5, rtol=1e-5)


def test_equal_components_cost_the_entropy_of_a_normal():
    y = torch.randn(200_000, 1, generator=torch.Generator().manual_seed(0))
    zero = torch.zeros(200_000, 1, 5)
    nll = mdn_nll(Prediction(zero.log_softmax(-1), zero, zero, None, None), y).mean()
    assert nll.item() == pytest.approx(1.4189385, abs=0.005)


def test_dimensions_have_mixtures_of_their_own():
    torch.manual_seed(0)
    logits, mu, logsigma = torch.randn(3, 3, 2)  # Z = 3, K = 2
    y = torch.randn(3)
    order = torch.tensor([2, 0, 1])

    def each(index):
        pred = Prediction(logits.log_softmax(-1), mu, logsigma, None, None)
        one = Prediction(*(v[index : index + 1] for v in (pred.logpi, pred.mu, pred.logsigma)), None, None)
        return mdn_nll(one, y[index : index + 1])

    singles = torch.stack([each(i) for i in range(3)])
    pred = Prediction(logits[order].log_softmax(-1), mu[order], logsigma[order], None, None)
    torch.testing.assert_close(mdn_nll(pred, y[order]), singles.mean())
    torch.testing.assert_close(pred.logpi.exp().sum(-1), torch.ones(3))


def test_shared_weights_make_one_joint_mixture():
    torch.manual_seed(0)
    logits, mu, logsigma = torch.randn(1, 2), *torch.randn(2, 3, 2)
    y = torch.randn(3)
    pred = Prediction(logits.log_softmax(-1).expand(3, 2), mu, logsigma, None, None)
    joint = MixtureSameFamily(
        Categorical(logits=logits[0]), torch.distributions.Independent(Normal(mu.T, logsigma.T.exp()), 1)
    )
    torch.testing.assert_close(mdn_nll(pred, y, shared_pi=True), -joint.log_prob(y) / 3)


def test_extremes_stay_finite():
    rnn = MDNRNN(RNNConfig(hidden=8), 2, 1)
    with torch.no_grad():
        rnn.head.bias[20:] = -50.0  # log sigma
    z = torch.full((1, 1, 2), 1e4)
    hidden, _ = rnn(z, torch.zeros(1, 1, 1), torch.ones(1, 1, dtype=torch.bool), rnn.initial(1))
    nll = mdn_nll(rnn.predict(hidden), z).mean()
    nll.backward()
    assert torch.isfinite(nll)
    assert all(torch.isfinite(p.grad).all() for p in rnn.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    "tau, second, mean, variance",
    [
        (0.1, 0.9999831, None, None),
        (0.5, 0.9, 3.6, 1.6025),
        (1.0, 0.75, 3.0, 3.4375),
        (1.15, 0.7221828, 2.8887, 3.7373),
        (1.3, 0.6995353, None, None),
        (2.0, 0.6339746, 2.5359, 4.7619),
    ],
)
def test_temperature(tau, second, mean, variance):
    n = 200_000
    pred = prediction([[[0, math.log(3)]]], [[[0.0, 4]]], [[[1, 0.5]]])
    big = Prediction(*(v.expand(n, 1, 2) for v in (pred.logpi, pred.mu, pred.logsigma)), None, None)
    draws = sample_next(big, tau, torch.Generator().manual_seed(1))[:, 0]
    if mean is None:  # of a mixture whose weights are `second`, and whose variances are scaled by tau
        mean = 4 * second
        variance = tau * ((1 - second) + second / 4) + 16 * second * (1 - second)
    fourth = sum(  # central moment of the mixture: what the spread of a measured variance depends on
        weight * ((mu - mean) ** 4 + 6 * (mu - mean) ** 2 * tau * sigma**2 + 3 * tau**2 * sigma**4)
        for weight, mu, sigma in ((1 - second, 0, 1), (second, 4, 0.5))
    )
    assert draws.mean().item() == pytest.approx(mean, abs=4 * math.sqrt(variance / n))
    assert draws.var().item() == pytest.approx(variance, abs=4 * math.sqrt((fourth - variance**2) / n))


@pytest.mark.parametrize(
    "tau, second",
    [(0.1, 0.9999831), (0.5, 0.9), (1.0, 0.75), (1.15, 0.7221828), (1.3, 0.6995353), (2.0, 0.6339746)],
)
def test_temperature_moves_the_choice_of_the_component(tau, second):
    """Components 40 apart cannot be confused, so a draw tells which one it came from."""
    n = 200_000
    pred = prediction([[[0, math.log(3)]]], [[[0.0, 40]]], [[[1, 0.5]]])
    big = Prediction(*(v.expand(n, 1, 2) for v in (pred.logpi, pred.mu, pred.logsigma)), None, None)
    share = (sample_next(big, tau, torch.Generator().manual_seed(2)) > 20).float().mean().item()
    assert share == pytest.approx(second, abs=4 * math.sqrt(second * (1 - second) / n))


@pytest.mark.parametrize("shared", [False, True])
def test_a_constant_added_to_all_logits_changes_nothing(shared):
    """M normalises its raw logits itself: over the components and over nothing else."""
    rnn = MDNRNN(RNNConfig(hidden=8, mixtures=3, shared_pi=shared), 2, 1)
    hidden, z = torch.randn(5, 4, 8), torch.randn(5, 4, 2)
    before = rnn.predict(hidden)
    with torch.no_grad():
        rnn.head.bias[: 3 if shared else 6] += 7.0
    after = rnn.predict(hidden)
    torch.testing.assert_close(after.logpi, before.logpi, atol=1e-5, rtol=1e-5)
    assert torch.equal(after.mu, before.mu) and torch.equal(after.logsigma, before.logsigma)
    nll = [mdn_nll(pred, z, shared_pi=shared) for pred in (before, after)]
    torch.testing.assert_close(nll[1], nll[0], atol=1e-5, rtol=1e-5)
    draws = [sample_next(pred, 1.15, torch.Generator().manual_seed(0), shared) for pred in (before, after)]
    torch.testing.assert_close(draws[1], draws[0], atol=1e-5, rtol=1e-5)


def test_cold_dreams_follow_the_likeliest_component():
    pred = prediction([[[0, math.log(3)]]], [[[0.0, 4]]], [[[1, 0.5]]])
    assert sample_next(pred, 1e-9, torch.Generator().manual_seed(0)).item() == pytest.approx(4, abs=1e-3)


@pytest.mark.parametrize("restarts", [[], [3], [1, 4]])
def test_sequence_equals_steps_and_restarts_cut(restarts):
    torch.manual_seed(0)
    rnn = MDNRNN(RNNConfig(hidden=16), 4, 2)
    z, act = torch.randn(3, 6, 4), torch.randn(3, 6, 2)
    restart = torch.zeros(3, 6, dtype=torch.bool)
    restart[1, restarts] = True
    start = (torch.randn(3, 16), torch.randn(3, 16))
    hidden, last = rnn(z, act, restart, start)
    h, c = start
    for t in range(6):
        keep = (~restart[:, t]).float()[:, None]
        h, c = rnn.step(z[:, t], act[:, t], restart[:, t], (h * keep, c * keep))
        torch.testing.assert_close(hidden[:, t], h, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(last[1], c, atol=1e-6, rtol=1e-5)
    for at in restarts[:1]:  # after a restart nothing of the past is left
        alone, _ = rnn(z[1:2, at:], act[1:2, at:], restart[1:2, at:], rnn.initial(1))
        torch.testing.assert_close(alone[0], hidden[1, at:], atol=1e-6, rtol=1e-5)


def test_causality():
    rnn = MDNRNN(RNNConfig(hidden=16), 4, 2)
    z, act = torch.randn(1, 6, 4), torch.randn(1, 6, 2)
    none = torch.zeros(1, 6, dtype=torch.bool)
    before, _ = rnn(z, act, none, rnn.initial(1))
    z[:, 3] += 1.0
    after, _ = rnn(z, act, none, rnn.initial(1))
    assert torch.equal(before[:, :3], after[:, :3]) and not torch.equal(before[:, 3], after[:, 3])


def test_death_head():
    zero = torch.zeros(2)
    loss = done_loss(zero, torch.tensor([True, False]), weight=10.0)
    assert loss.tolist() == pytest.approx([6.931472, 0.693147], abs=1e-5)


def test_learning_rate_schedule():
    doom = resolve(PRESETS, SUITES, "paper", "doom_takecover")[0].rnn
    assert learning_rate(doom, 0, doom.updates) == pytest.approx(1e-3)
    assert learning_rate(doom, 24_380, doom.updates) == pytest.approx(7.86e-4, abs=1e-6)  # the authors' log
    car = resolve(PRESETS, SUITES, "paper", "CarRacing-v3")[0].rnn
    assert learning_rate(car, 3_999, car.updates) == pytest.approx(1e-3)
    tiny = resolve(PRESETS, SUITES, "tiny", "toy_dodge")[0].rnn
    assert learning_rate(tiny, tiny.updates // 2, tiny.updates) == pytest.approx(1e-3)
    assert learning_rate(tiny, tiny.updates, tiny.updates) == pytest.approx(5e-5)
