"""Metrics against brute force, scipy and torch.distributions; the Atari aggregates against IRIS' own."""

import multiprocessing
import time

import numpy as np
import pytest
import torch
from scipy import stats

from common import metrics
from common.errors import UserError
from common.meters import cpu_seconds

rng = np.random.default_rng(0)


# --- returns --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8, 31, 130])
def test_iqm_is_scipys_trimmed_mean(size):
    values = rng.normal(size=size)
    assert metrics.iqm(values) == pytest.approx(stats.trim_mean(values, 0.25))


def test_iqm_along_an_axis():
    values = rng.normal(size=(7, 9))
    np.testing.assert_allclose(metrics.iqm(values, axis=1), stats.trim_mean(values, 0.25, axis=1))


def test_bootstrap_interval_covers_the_mean_as_often_as_it_says():
    hits = 0
    for trial in range(200):
        low, high = metrics.bootstrap_ci(
            np.random.default_rng(trial).exponential(size=60), samples=400, seed=trial
        )
        hits += low < 1 < high
    assert 175 <= hits <= 198  # 95 % of 200, a little less for a skewed law and 60 values


def test_bootstrap_interval_is_scipys_and_repeats():
    values = rng.normal(3, 2, size=80)
    ours = metrics.bootstrap_ci(values, samples=8000)
    reference = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=8000, rng=1)
    np.testing.assert_allclose(ours, reference.confidence_interval, atol=0.05)
    assert ours == metrics.bootstrap_ci(values, samples=8000)
    assert ours != metrics.bootstrap_ci(values, samples=8000, seed=1)


def test_summary_has_plain_numbers_and_no_interval_for_one_episode():
    summary = metrics.summarise([1.0, 2.0, 3.0, 10.0], [5, 5, 5, 7])
    assert summary["mean"] == 4.0 and summary["sd"] == pytest.approx(np.std([1, 2, 3, 10], ddof=1))
    assert (summary["min"], summary["max"], summary["iqm"], summary["length"]) == (1.0, 10.0, 2.5, 5.5)
    assert metrics.summarise([3.0])["ci95"] is None
    with pytest.raises(UserError, match="--episodes"):
        metrics.summarise([])


def test_area_under_a_curve():
    assert metrics.area_under_curve([0, 10], [0, 1]) == pytest.approx(0.5)
    assert metrics.area_under_curve([5, 10], [2, 4], start=0, end=20) == pytest.approx(
        (5 * 2 + 5 * 3 + 10 * 4) / 20  # the first value is held before step 5, the last behind step 10
    )
    assert metrics.area_under_curve([0, 10], [0, 1], end=5) == pytest.approx(0.25)
    for bad in ([], [3, 1]):
        with pytest.raises(UserError, match="rising"):
            metrics.area_under_curve(bad, bad)


def test_way_to_the_optimum_counts_from_the_better_floor():
    assert metrics.way_to_optimum(184.3, 25.5, 33.9, 200) == pytest.approx((184.3 - 33.9) / 166.1)
    assert metrics.way_to_optimum(10, 12, None, 20) == pytest.approx(-0.25)
    assert metrics.way_to_optimum(10, None, None, 20) is None
    assert metrics.way_to_optimum(10, 1, 2, None) is None


# --- human-normalised scores ----------------------------------------------------------------------


def test_iris_per_seed_scores_reproduce_the_papers_five_aggregates():
    table = metrics.atari_scores()
    matrix = metrics.normalised_matrix(table["iris_seeds"])  # [5, 26]
    assert matrix.shape == (5, 26)
    result = metrics.aggregates(matrix)
    for name, value in {"mean": 1.046, "median": 0.289, "iqm": 0.501, "optimality_gap": 0.512}.items():
        assert result[name] == pytest.approx(value, abs=5e-4), name
    assert result["superhuman"] == 10  # Pong only ties with the human


@pytest.mark.parametrize("method", ["IRIS", "Delta-IRIS", "DIAMOND", "STORM", "TWM", "DreamerV3 (own files)"])
def test_per_game_columns_reproduce_the_printed_mean_and_median(method):
    table = metrics.atari_scores()
    result = metrics.aggregates(
        metrics.normalised_matrix({game: [row[method]] for game, row in table["games"].items()})
    )
    printed = table["printed"][method]
    assert result["mean"] == pytest.approx(printed["mean"], abs=1.5e-3)  # the columns are rounded
    assert result["median"] == pytest.approx(printed["median"], abs=1e-3)
    assert result["superhuman"] == printed["superhuman"]


def test_random_is_zero_and_human_is_one():
    for game, row in metrics.atari_scores()["games"].items():
        assert metrics.human_normalised(game, [row["random"], row["human"]]) == pytest.approx([0, 1])


def test_aggregates_by_brute_force():
    matrix = rng.normal(0.8, 0.6, size=(3, 7))
    result = metrics.aggregates(matrix)
    assert result["median"] == pytest.approx(
        sorted(sum(matrix[r, g] for r in range(3)) / 3 for g in range(7))[3]
    )
    assert result["iqm"] == pytest.approx(
        np.mean(sorted(matrix.ravel())[5:16])
    )  # 21 entries, 5 cut at an end
    assert result["optimality_gap"] == pytest.approx(np.mean([1 - min(x, 1) for x in matrix.ravel()]))


def test_aggregate_interval_resamples_runs_within_each_game():
    same = np.tile(rng.normal(size=6), (4, 1))  # runs do not differ: nothing to resample
    low, high = metrics.aggregate_ci(same, samples=50)["mean"]
    assert low == pytest.approx(high)
    spread = same + rng.normal(size=(4, 6))
    low, high = metrics.aggregate_ci(spread, samples=300)["mean"]
    assert low < metrics.aggregates(spread)["mean"] < high


def test_games_of_different_numbers_of_runs_weigh_the_same():
    games = [rng.normal(size=2), rng.normal(size=5), rng.normal(size=3)]
    result = metrics.aggregates(metrics.balanced(games))
    means = [sum(game) / len(game) for game in games]
    assert result["mean"] == pytest.approx(sum(means) / 3) and result["median"] == pytest.approx(
        sorted(means)[1]
    )
    entries = sorted(x for game in games for x in game for _ in range(30 // len(game)))  # 2 x 3 x 5 of each
    assert result["iqm"] == pytest.approx(np.mean(entries[22:-22]))
    matrix = rng.normal(size=(4, 3))
    assert np.array_equal(metrics.balanced(list(matrix.T)), matrix)
    low, high = metrics.aggregate_ci([games[0], np.full(5, 7.0)], samples=300)["mean"]
    assert (low, high) == pytest.approx(((min(games[0]) + 7) / 2, (max(games[0]) + 7) / 2))


def test_human_scores_of_200m_frames_games():
    assert metrics.human_normalised("atari_asteroids", 719.1) == 0
    assert metrics.human_normalised("atari_alien", 7127.7) == 1  # of the 26 by their own table


def test_game_names():
    for name in ("BankHeist", "atari_bank_heist", "ALE/BankHeist-v5", "bankheist"):
        assert metrics.atari_game(name) == "BankHeist"
    with pytest.raises(UserError, match="known games"):
        metrics.atari_game("atari_adventure")
    with pytest.raises(UserError, match="equally many"):
        metrics.normalised_matrix({"Pong": [1.0], "Alien": [1.0, 2.0]})


# --- models ---------------------------------------------------------------------------------------


def test_images_are_compared_as_zero_to_one():
    truth = np.zeros((2, 3, 4, 4, 3), np.uint8)
    pred = truth.copy()
    pred[:, 1] = 255
    assert metrics.recon_mse(truth, pred) == pytest.approx(1 / 3)
    np.testing.assert_allclose(metrics.horizon_error(truth, pred), [0, 1, 0])


def test_horizon_error_leaves_masked_rows_out():
    truth, pred = np.zeros((2, 3, 1)), np.array([[1.0, 2, 9], [3, 9, 9]])[..., None]
    mask = np.array([[1, 1, 0], [1, 0, 0]])
    np.testing.assert_allclose(metrics.horizon_error(truth, pred, mask), [5, 4, np.nan])


def test_gaussian_kl_against_torch():
    mean, prior_mean = torch.randn(4, 6), torch.randn(4, 6)
    std, prior_std = torch.rand(4, 6) + 0.1, torch.rand(4, 6) + 0.1
    post, prior = torch.distributions.Normal(mean, std), torch.distributions.Normal(prior_mean, prior_std)
    truth = torch.distributions.kl_divergence(post, prior).sum(-1)
    np.testing.assert_allclose(metrics.kl_gaussian(mean, std, prior_mean, prior_std), truth, rtol=1e-4)
    np.testing.assert_allclose(metrics.gaussian_entropy(std), post.entropy().sum(-1), rtol=1e-4)
    assert metrics.kl_gaussian(np.array([2.0]), np.exp([-1.0])) == pytest.approx(
        2.5676676
    )  # paper1.md, section 10


def test_categorical_kl_and_entropy_against_torch():
    logit, prior_logit = torch.randn(5, 4, 8), torch.randn(5, 4, 8)
    post, prior = (torch.distributions.Categorical(logits=value) for value in (logit, prior_logit))
    truth = torch.distributions.kl_divergence(post, prior).sum(-1)
    np.testing.assert_allclose(metrics.kl_categorical(logit, prior_logit), truth, rtol=1e-4)
    np.testing.assert_allclose(metrics.categorical_entropy(logit), post.entropy(), rtol=1e-5)
    np.testing.assert_allclose(metrics.kl_categorical(logit, logit), 0, atol=1e-12)


def test_tensors_with_gradients_and_bfloat16_are_taken():
    value = torch.ones(3, 2, dtype=torch.bfloat16, requires_grad=True)
    assert metrics.recon_mse(value, np.zeros((3, 2))) == 1.0
    assert metrics.active_units(torch.tensor([[0.0, 1], [0, 2]], requires_grad=True)) == 1


def test_reward_accuracy():
    rew, pred = np.array([0, 0, 0, 1, 1, -1.0]), np.array([0, 0.9, 0.1, 0.8, 0.2, -1.2])
    result = metrics.reward_accuracy(rew, pred)
    assert result["found"] == pytest.approx(2 / 3) and result["invented"] == pytest.approx(1 / 3)
    assert result["mse"] == pytest.approx(np.mean((rew - pred) ** 2))
    assert metrics.reward_accuracy(rew, pred, mask=[1, 0, 1, 1, 0, 1])["found"] == 1.0


def test_continue_accuracy_shows_a_head_that_never_ends():
    cont = np.ones(100)
    cont[-2:] = 0
    blind = metrics.continue_accuracy(cont, np.full(100, 0.98))
    assert blind["accuracy"] == 0.98 and blind["end_recall"] == 0.0
    assert blind["bce"] == pytest.approx(blind["bce_base"])
    assert metrics.continue_accuracy(cont, cont)["end_recall"] == 1.0


def test_latent_utilisation():
    mean = np.concatenate([rng.normal(size=(500, 3)), 0.01 * rng.normal(size=(500, 5))], axis=1)
    assert metrics.active_units(mean) == 3
    usage = metrics.code_usage(np.array([[0, 1], [2, 3]]), 8)
    assert usage == {"used": 0.5, "perplexity": pytest.approx(4)}
    assert metrics.code_usage(np.zeros(9, int), 8)["perplexity"] == pytest.approx(1)
    prob = np.zeros((4, 2, 4))
    prob[:, 0, 1] = 1  # this group always says 1
    prob[np.arange(4), 1, np.arange(4)] = 1  # this one uses all four classes
    assert metrics.categorical_usage(prob) == {"perplexity": pytest.approx(2.5), "groups_used": 0.5}


def test_explained_variance():
    target = rng.normal(size=200)
    assert metrics.explained_variance(target + 5, target) == pytest.approx(1)  # a constant offset is forgiven
    assert metrics.explained_variance(np.zeros(200), target) == pytest.approx(0)
    assert np.isnan(metrics.explained_variance(target, np.ones(200)))


# --- cost -----------------------------------------------------------------------------------------


def test_parameter_counts_size_and_gradient_norms():
    shared = torch.nn.Linear(3, 4)
    net = torch.nn.ModuleDict({"a": torch.nn.Linear(2, 5), "b": shared, "again": shared})
    assert metrics.parameter_counts(net) == {"a": 15, "b": 16, "total": 31}
    assert metrics.model_size_mb(net) == pytest.approx(31 * 4 / 1e6)
    assert metrics.grad_norms(net)["grad_norm"] == 0
    (net["a"](torch.ones(1, 2)).sum() + 2 * net["b"](torch.ones(1, 3)).sum()).backward()
    norms = metrics.grad_norms(net)
    flat = [torch.cat([p.grad.ravel() for p in net[key].parameters()]) for key in ("a", "b")]
    assert norms["grad_norm/a"] == pytest.approx(flat[0].norm().item())
    assert norms["grad_norm"] == pytest.approx(torch.cat(flat).norm().item())
    assert metrics.grad_norms({"only": net["a"]}).keys() == {"grad_norm", "grad_norm/only"}


def test_meter_rates(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("common.meters.time.perf_counter", lambda: clock[0])
    meter = metrics.Meter()
    for _ in range(4):
        with meter.timed("env"):
            clock[0] += 0.25
        meter.add(frames=8, updates=1)
        clock[0] += 0.25
    rates = meter.rates()
    assert rates == {"frames_per_s": 16, "updates_per_s": 2, "env_ms": 250, "env_share": 0.5}
    clock[0] += 1
    assert meter.rates() == {} and meter.totals["frames"] == 32


def test_peak_memory_sees_an_allocation():
    before = metrics.peak_memory_mb()["ram_peak_mb"]
    block = np.ones(300 * 2**17)  # 300 MiB, beyond what is there now or perhaps below an older peak
    assert metrics.peak_memory_mb()["ram_peak_mb"] >= max(before, block.nbytes / 2**20)


def test_there_is_one_way_to_measure_the_peak(monkeypatch):
    monkeypatch.setattr("common.meters.peak_ram", lambda: 7 * 2**20)
    assert metrics.peak_memory_mb()["ram_peak_mb"] == 7


def test_the_cpu_time_of_living_workers_counts():
    worker = multiprocessing.get_context("spawn").Process(target=sum, args=(range(10**11),), daemon=True)
    before = cpu_seconds()
    worker.start()
    try:
        deadline = time.time() + 60
        while cpu_seconds() - before < 0.5 and time.time() < deadline:
            time.sleep(0.1)
        assert cpu_seconds() - before >= 0.5 and worker.is_alive()
    finally:
        worker.kill()
        worker.join()
