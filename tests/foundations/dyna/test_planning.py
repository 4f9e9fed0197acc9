"""Rollouts against the true dynamics, error by horizon, and planning."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces

from foundations.dyna import data_collection as data
from foundations.dyna.games import CartPoleGames
from foundations.dyna.plan_with_model import TrueCartPole, evaluate_model_accuracy, imagine_rollout, predict
from foundations.dyna.planner import Experience, PlanConfig, Planner, cartpole_cost, evaluate
from foundations.dyna.world_model import CopyLast, DynamicsModel, Ensemble, Prediction

TWO = spaces.Discrete(2)


def balanced(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """States float64 [steps + 1, 4] of one game under a controller, and its actions."""
    games, states, acts = CartPoleGames(1, 0), [], []
    for _ in range(steps):
        states.append(games.state[0])
        acts.append(int(games.state[0, 2] + 0.5 * games.state[0, 3] > 0))
        _, _, terminated, _ = games.step(np.array(acts[-1:]))
        assert not terminated
    return np.stack([*states, games.state[0]]), np.array(acts)


def test_the_true_dynamics_imagine_what_happens():
    states, acts = balanced(50)
    act = torch.from_numpy(np.eye(2)[acts])[None, None]
    found = imagine_rollout(TrueCartPole(), torch.from_numpy(states[:1])[None], act)
    assert (
        found.obs.shape == (1, 1, 51, 4) and found.rew.shape == (1, 1, 50) and found.alive.shape == (1, 1, 51)
    )
    assert np.abs(found.obs[0, 0].numpy() - states).max() < 1e-6
    assert found.alive.min() == 1 and found.rew.sum() == 50


def test_an_imagined_episode_stops_at_its_end():
    act = torch.eye(2)[torch.ones(2, 60, dtype=torch.int64)][None]  # always right
    found = imagine_rollout(TrueCartPole(), torch.zeros(1, 2, 4), act)
    length = int(found.rew[0, 0].sum())
    assert 5 < length < 15 and found.alive[0, 0].tolist() == [1.0] * length + [0.0] * (61 - length)
    assert abs(found.obs[0, 0, length, 2]) > 0.2  # the state that ended it, kept from there on
    assert torch.equal(found.obs[0, 0, length:], found.obs[0, 0, length].expand(61 - length, 4))


def make_ensemble(seeds: int = 1, members: int = 3) -> Ensemble:
    torch.manual_seed(0)
    return Ensemble(DynamicsModel(4, 2, stack=seeds * members), members)


def test_with_a_generator_one_member_speaks_for_each_row():
    ensemble, obs = make_ensemble(2), torch.randn(2, 64, 4)
    act = torch.eye(2)[torch.randint(2, (2, 64))]
    each = ensemble.each(obs, act)
    found, spread = predict(ensemble, obs, act, torch.Generator().manual_seed(0))
    same = (found.next_obs[:, None] == each.next_obs).all(-1)  # [S, E, B]
    assert (same.sum(1) == 1).all() and (same.sum((0, 2)) > 20).all()
    chosen = same.float().argmax(1)  # [S, B]
    for name in ("rew", "done"):
        assert torch.equal(getattr(found, name), getattr(each, name).gather(1, chosen[:, None])[:, 0])
    assert torch.equal(spread, ensemble.predict(obs, act)[1])


def test_error_by_horizon_against_its_definition():
    rows = data.collect_named("CartPole-v1", "controller", 3, 0)
    found = evaluate_model_accuracy(CopyLast(), rows, 2, 4, count=50, seed=1)
    assert found["mse"].shape == (1, 4) and np.allclose(found["mse"][0], found["copy"], rtol=1e-4)
    assert (
        found["starts"] == 50
        and (found["low"] <= found["mse"]).all()
        and (np.diff(found["mse"][0]) > 0).any()
    )
    index = data.pieces(rows, 4, 50, np.random.default_rng(1))
    by_hand = np.square(rows["obs"][index[:, 3]] - rows["obs"][index[:, 0]]).mean()
    assert found["mse"][0, 2] == pytest.approx(by_hand, rel=1e-5)
    true = evaluate_model_accuracy(TrueCartPole(), rows, 2, 4, count=50, seed=1)
    assert true["mse"].max() < 1e-9
    halved = evaluate_model_accuracy(
        CopyLast(), rows, 2, 4, count=50, seed=1, scale=np.full(4, 2, np.float32)
    )
    assert np.allclose(halved["mse"] * 4, found["mse"], rtol=1e-5)


def test_each_model_of_a_stack_is_measured_alone():
    rows = data.collect_named("CartPole-v1", "controller", 2, 0)
    found = evaluate_model_accuracy(make_ensemble(seeds=2), rows, 2, 3, count=20)
    assert found["mse"].shape == (2, 3) and found["disagreement"].shape == (2, 20, 3)
    assert (found["mse"][0] != found["mse"][1]).all() and (found["disagreement"] > 0).all()


def test_candidates_hold_an_action_or_toss_a_coin():
    planner = Planner(TrueCartPole(), TWO, PlanConfig(candidates=400, horizon=30))
    found = planner.sequences((1, 2), torch.Generator().manual_seed(0))
    assert (
        found.shape == (1, 2, 400, 30, 2)
        and (found.sum(-1) == 1).all()
        and set(found.unique().tolist()) == {0, 1}
    )
    act = found.argmax(-1).float()[0]  # [2, 400, 30]
    changes = (act[..., 1:] != act[..., :-1]).float().mean(-1)
    assert changes[:, 200:].mean() < 0.7 * changes[:, :200].mean()  # the second half holds on
    shares = act[:, :200].mean(-1)
    assert shares.min() < 0.1 and shares.max() > 0.9 and abs(shares.mean() - 0.5) < 0.06  # coins of any bias
    assert (act[:, 200:, 0].mean() - 0.5).abs() < 0.06


def test_vectors_are_drawn_within_their_bounds():
    box = spaces.Box(np.float32([-2, 0]), np.float32([2, 1]))
    planner = Planner(CopyLast(), box, PlanConfig(candidates=200, horizon=10))
    found = planner.sequences((2, 1), torch.Generator().manual_seed(0))
    assert found.shape == (2, 1, 200, 10, 2)
    for i, (low, high) in enumerate(((-2, 2), (0, 1))):
        assert low <= found[..., i].min() < low + 0.1 and high - 0.1 < found[..., i].max() <= high
    assert (found[:, :, 100:, 1:] == found[:, :, 100:, :-1]).all(-1).float().mean() > 0.2
    assert planner.act(np.zeros((2, 1, 3), np.float32), torch.Generator()).shape == (2, 1, 2)


class Corridor(torch.nn.Module):
    """x grows by 1 on action 1 and pays x; x = 3 ends the episode with probability 1/2."""

    def predict(self, obs, act):
        after = obs + act[..., 1:]
        return Prediction(after, after[..., 0], 0.5 * (after[..., 0] >= 3))


def test_the_score_is_what_is_earned_while_alive():
    planner = Planner(Corridor(), TWO, PlanConfig(horizon=4))
    right, stay = (
        torch.eye(2)[torch.ones(4, dtype=torch.int64)],
        torch.eye(2)[torch.zeros(4, dtype=torch.int64)],
    )
    score = planner.score(torch.ones(1, 1, 1), torch.stack([right, stay])[None, None])
    assert score[0, 0].tolist() == [2 + 3 + 0.5 * 4 + 0.25 * 5, 4]
    dear = Planner(Corridor(), TWO, PlanConfig(horizon=4, cost=2.0), lambda obs: 0.5 * obs[..., 0])
    assert dear.score(torch.ones(1, 1, 1), stay[None, None, None]).item() == 0  # 1 a step, less 2 x 0.5


def test_disagreement_has_its_price():
    ensemble, sequences = make_ensemble(), torch.eye(2)[torch.randint(2, (1, 1, 5, 6))]
    cheap, dear = (Planner(ensemble, TWO, PlanConfig(horizon=6, penalty=p)) for p in (0.0, 2.0))
    obs = torch.zeros(1, 1, 4)
    rows = imagine_by_hand(ensemble, obs, sequences)
    assert torch.allclose(cheap.score(obs, sequences) - dear.score(obs, sequences), 2.0 * rows, atol=1e-4)


def imagine_by_hand(ensemble: Ensemble, obs: torch.Tensor, sequences: torch.Tensor) -> torch.Tensor:
    """Summed disagreement, weighed by the chance to be there.  [1, 1, C]"""
    totals = []
    for c in range(sequences.shape[2]):
        state, alive, total = obs, 1.0, 0.0
        for t in range(sequences.shape[3]):
            step, spread = ensemble.predict(state, sequences[:, :, c, t])
            total += alive * spread.item()
            alive *= 1 - step.done.item()
            state = step.next_obs
        totals.append(total)
    return torch.tensor(totals)[None, None]


@pytest.mark.parametrize("method", ["shooting", "cem"])
def test_planning_in_the_true_dynamics_keeps_the_pole_up(method):
    cfg = PlanConfig(method, candidates=100, horizon=15, cost=10.0)
    planner = Planner(TrueCartPole(), TWO, cfg, cartpole_cost)
    ret = evaluate(planner, "CartPole-v1", 1, 1, 3, torch.Generator().manual_seed(0))
    assert ret.shape == (1,) and ret[0] == 500


def test_cem_ends_with_better_sequences_than_it_began_with():
    planner = Planner(Corridor(), TWO, PlanConfig("cem", candidates=40, horizon=12))
    rng, obs = torch.Generator().manual_seed(0), torch.full((1, 1, 1), -20.0)  # no end in reach: always right
    first = planner.sequences((1, 1), rng)
    score = planner.score(obs, first)
    again = planner._refit(first, score, rng)
    assert again.shape == first.shape
    assert planner.score(obs, again).mean() > score.mean() + 10
    assert torch.equal(planner.score(obs, again)[..., :4].max(), score.max())  # the elite stays


def test_cem_on_vectors_narrows_to_the_best():
    class Target(torch.nn.Module):
        def predict(self, obs, act):
            return Prediction(obs, -(act[..., 0] - 0.7).abs(), torch.zeros_like(obs[..., 0]))

    box = spaces.Box(np.float32([-1]), np.float32([1]))
    planner = Planner(Target(), box, PlanConfig("cem", candidates=200, horizon=1))
    act = planner.act(np.zeros((1, 3, 2), np.float32), torch.Generator().manual_seed(0))
    assert act.shape == (1, 3, 1) and np.abs(act - 0.7).max() < 0.02


def test_an_evaluation_counts_each_game_to_its_own_end():
    class Script:
        """Game 0 of each seed is left to fall to the right, game 1 to the left; both last alike."""

        widths: list[int] = []

        def act(self, obs, rng):
            self.widths.append(obs.shape[1])
            return np.broadcast_to(np.array([1, 0])[: obs.shape[1]], obs.shape[:2]).copy()

    script = Script()
    ret = evaluate(script, "CartPole-v1", 2, 2, 0, None)
    assert ret.shape == (2,) and (8 <= ret).all() and (ret <= 11).all()
    assert script.widths[0] == 2 and len(script.widths) <= 11


def test_experience_is_what_the_games_did():
    found = Experience("CartPole-v1", 3, 0)
    for step in range(40):
        found.step(np.zeros(3, np.int64) if step % 2 else None)
    obs, act, rew, next_obs, done = found.sets().columns
    assert obs.shape == (3, 40, 4) and act.shape == (3, 40, 2) and rew.min() == 1
    goes_on = done[:, :-1] == 0
    assert torch.equal(obs[:, 1:][goes_on], next_obs[:, :-1][goes_on])
    assert (obs[:, 1:][~goes_on].abs() <= 0.05).all() and (~goes_on).any()
    planned = act[:, 1::2].argmax(-1)
    assert 0 < planned.float().mean() < 0.15  # left as planned, but for chance
    true = TrueCartPole().predict(obs, act)
    assert torch.allclose(true.next_obs, next_obs, atol=1e-5) and torch.equal(true.done, done)


def test_plan_config_is_what_the_flags_say():
    cfg = PlanConfig()
    assert (cfg.method, cfg.candidates, cfg.horizon) == ("shooting", 300, 20) and replace(
        cfg, cost=3
    ).cost == 3
