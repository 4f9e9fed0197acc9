"""CMA-ES: progress on standard functions, maximisation, flat fitness, a state that resumes bit for bit."""

import numpy as np
import pytest
import torch

from common.checkpoint import load_file, save_file
from paper1_world_models.config import ControllerConfig, EvolveConfig
from paper1_world_models.controller import ActionCodec, Controller
from paper1_world_models.evolve import Basis, Evolution, generation_seeds, held_out_seeds, training_seed


def run(evolution, f, generations):
    for _ in range(generations):
        evolution.tell(f(evolution.ask()))


def test_sphere_is_maximised():
    evolution = Evolution(10, 10, 0.5, seed=1)
    run(evolution, lambda X: -((X - 1) ** 2).sum(1), 200)
    assert ((evolution.mean - 1) ** 2).sum() < 1e-8


def test_rosenbrock():
    def f(X):
        return -(100 * (X[:, 1:] - X[:, :-1] ** 2) ** 2 + (1 - X[:, :-1]) ** 2).sum(1)

    evolution = Evolution(8, 12, 0.5, seed=2)
    run(evolution, f, 450)
    assert -f(evolution.mean[None])[0] < 1e-8


def test_paper_sized_search_makes_the_expected_progress():
    evolution = Evolution(867, 64, 0.1, seed=1)
    assert evolution.es.sp.weights.mu == 32 and evolution.es.sp.weights.mueff == pytest.approx(
        17.62, abs=0.01
    )
    run(evolution, lambda X: -((X - 0.5) ** 2).sum(1), 20)
    assert 112 < ((evolution.mean - 0.5) ** 2).sum() < 125  # from 216.75; 118.1 with pycma's own generator


def test_flat_fitness_does_not_end_the_run():
    evolution = Evolution(5, 8, 0.1, seed=1)
    run(evolution, lambda X: np.zeros(len(X)), 30)
    assert not evolution.es.stop() and np.isfinite(evolution.mean).all()


@pytest.mark.parametrize("size, population, before, flat", [(30, 12, 7, 0), (10, 4, 1, 0), (10, 4, 3, 1)])
def test_a_resumed_search_asks_for_the_same_vectors(tmp_path, size, population, before, flat):
    def f(X):
        return (1 - flat) * (-np.abs(X - 1).sum(1) - (X[:, :3] ** 4).sum(1))

    one = Evolution(size, population, 0.3, seed=1)
    run(one, f, before)
    save_file(tmp_path / "cma.pt", one.state_dict())
    two = Evolution(size, population, 0.3, seed=99)
    two.load_state_dict(load_file(tmp_path / "cma.pt"))
    for _ in range(15):
        X, Y = one.ask(), two.ask()
        np.testing.assert_array_equal(X, Y)
        one.tell(f(X)), two.tell(f(Y))


def test_seeds_are_shared_fresh_and_never_those_of_tests():
    cfg = EvolveConfig(rollouts=4)
    first, second = generation_seeds(cfg, 0, 0, 0), generation_seeds(cfg, 0, 0, 1)
    assert len(set(first + second)) == 8
    assert first == generation_seeds(cfg, 0, 0, 0)
    assert not set(range(10_000)) & {training_seed(0, i) for i in range(1000)}
    assert min(held_out_seeds(3)) > 10_000 + 10**9


def test_pca_basis_is_a_linear_controller_on_whitened_features():
    rng = np.random.default_rng(0)
    controller = Controller(
        ControllerConfig(inputs="z"), 6, 4, ActionCodec("tanh", 2, (-1.0, -1.0), (1.0, 1.0))
    )
    features = rng.standard_normal((500, 6)) @ rng.standard_normal((6, 6)) + 3
    basis = Basis.pca(features, controller, components=4)
    y = rng.standard_normal((1, basis.size))
    assert basis.size == 2 * (4 + 1)
    values, vectors = np.linalg.eigh(np.cov(features.T))
    top = np.argsort(values)[::-1][:4]
    white = (features - features.mean(0)) @ vectors[:, top] / np.sqrt(values[top] + 1e-3)
    expected = np.tanh(white @ y[0, :8].reshape(2, 4).T + 0)  # outputs' weights, then their biases
    y_flat = np.concatenate([np.r_[y[0, o * 4 : o * 4 + 4]] for o in range(2)])
    vector = np.zeros((1, basis.size))
    for o in range(2):
        vector[0, o * 4 : o * 4 + 4] = y_flat[o * 4 : o * 4 + 4]
    params = torch.from_numpy(np.repeat(basis(vector), 500, 0)).float()
    got = controller.act_many(params, torch.from_numpy(features).float()).numpy()
    np.testing.assert_allclose(got, expected, atol=2e-3)


def test_plain_basis_changes_nothing():
    y = np.arange(5.0)
    assert Basis(None, 5)(y) is y
