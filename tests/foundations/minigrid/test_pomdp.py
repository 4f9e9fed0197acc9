"""Beliefs against Bayes' rule by brute force, QMDP by hand, and the TwoRooms table."""

from itertools import pairwise, product

import numpy as np
import pytest

from foundations.minigrid.envs import make_env
from foundations.minigrid.mdp import TabularMDP, extract_mdp, with_slip
from foundations.minigrid.pomdp import (
    Filter,
    agents,
    belief_update,
    first_belief,
    likely_action,
    observation_model,
    one_view_policy,
    play,
    qmdp_action,
    view_of_states,
)
from foundations.minigrid.solvers import value_iteration

LEFT, RIGHT = 0, 1
WALL = np.array([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.1, 0.9]])  # [S, Z]: no wall, wall
CORRIDOR = [(RIGHT, 0), (RIGHT, 1), (LEFT, 1)]


def corridor(ends: bool) -> TabularMDP:
    """Four cells; outcomes are left, stay, right, and both actions fail to move with .2."""
    cells = np.arange(4)
    next_state = np.stack([np.maximum(cells - 1, 0), cells, np.minimum(cells + 1, 3)], 1)
    enters = (next_state == 3) & (cells[:, None] != 3) & ends
    return TabularMDP(
        next_state, enters.astype(float), enters, list(cells), np.array([[0.8, 0.2, 0], [0, 0.2, 0.8]])
    )


def test_the_corridor_step_by_step():
    belief, transition = np.full(4, 0.25), corridor(ends=False).transition()
    expected = [
        ([0.083333, 0.416667, 0.416667, 0.083333], 0.54),
        ([0.003846, 0.034615, 0.096154, 0.865385], 0.433333),
        ([0.013226, 0.035161, 0.298387, 0.653226], 0.238462),
    ]
    for (action, view), (after, evidence) in zip(CORRIDOR, expected, strict=True):
        belief, found = belief_update(belief, action, view, transition, WALL)
        assert belief == pytest.approx(after, abs=1e-6) and found == pytest.approx(evidence, abs=1e-6)


def test_the_corridor_against_all_paths():
    transition = corridor(ends=False).transition()
    posterior = np.zeros(4)
    for path in product(range(4), repeat=4):
        weight = 0.25
        for (action, view), (before, after) in zip(CORRIDOR, pairwise(path), strict=True):
            weight *= transition[action, before, after] * WALL[after, view]
        posterior[path[-1]] += weight
    belief, evidence = np.full(4, 0.25), 1.0
    for action, view in CORRIDOR:
        belief, part = belief_update(belief, action, view, transition, WALL)
        evidence *= part
    assert evidence == pytest.approx(0.0558, abs=1e-9) == posterior.sum()
    assert belief == pytest.approx(posterior / posterior.sum(), abs=1e-12)


def test_beliefs_of_random_worlds_against_all_paths():
    rng = np.random.default_rng(0)
    for _ in range(10):
        transition = rng.dirichlet(np.ones(3), (2, 3))  # [A, S, S]
        observation = rng.dirichlet(np.ones(2), 3)
        start, history = (
            rng.dirichlet(np.ones(3)),
            [(int(rng.integers(2)), int(rng.integers(2))) for _ in range(4)],
        )
        posterior = np.zeros(3)
        for path in product(range(3), repeat=5):
            weight = start[path[0]]
            for (action, view), (before, after) in zip(history, pairwise(path), strict=True):
                weight *= transition[action, before, after] * observation[after, view]
            posterior[path[-1]] += weight
        belief = start
        for action, view in history:
            belief, _ = belief_update(belief, action, view, transition, observation)
        assert belief == pytest.approx(posterior / posterior.sum())


def test_an_impossible_view_is_an_error():
    with pytest.raises(ValueError, match="cannot be seen"):
        belief_update(np.array([1.0, 0]), 0, 1, np.eye(2)[None], np.eye(2))


def test_who_is_still_playing_is_not_at_the_goal():
    """From the cell before the goal, "right" ends the episode with .8: who goes on has not moved."""
    belief, evidence = belief_update(
        np.array([0, 0, 1.0, 0]), RIGHT, 0, corridor(ends=True).transition(), WALL
    )
    assert belief.tolist() == [0, 0, 1, 0] and evidence == pytest.approx(0.2 * 0.9)


def test_qmdp_in_the_corridor():
    q = value_iteration(corridor(ends=True), 0.9).q
    expected = [[0.676949, 0.752166], [0.695753, 0.856633], [0.792385, 0.975610]]
    assert q[:3] == pytest.approx(np.array(expected), abs=1e-6)
    action, values = qmdp_action(np.array([1 / 3, 1 / 3, 1 / 3, 0]), q)
    assert action == RIGHT and values == pytest.approx([0.721696, 0.861469], abs=1e-6)


def tiger() -> tuple[TabularMDP, np.ndarray, np.ndarray]:
    """Tiger left or right; listen, open left, open right.  A door puts the tiger anywhere.  -> world, T, O"""
    # outcomes: listen; open left, tiger then left / right; open right, the same
    next_state = np.array([[0, 0, 1, 0, 1], [1, 0, 1, 0, 1]])
    rew = np.array([[-1, -100, -100, 10, 10], [-1, 10, 10, -100, -100]], float)
    chance = np.array([[1, 0, 0, 0, 0], [0, 0.5, 0.5, 0, 0], [0, 0, 0, 0.5, 0.5]])
    mdp = TabularMDP(next_state, rew, np.zeros((2, 5), bool), ["left", "right"], chance)
    return mdp, mdp.transition(), np.array([[0.85, 0.15], [0.15, 0.85]])


def test_the_tiger():
    mdp, transition, hearing = tiger()
    solution = value_iteration(mdp, 0.95)
    assert solution.values == pytest.approx([200, 200], abs=1e-6)
    assert solution.q == pytest.approx(np.array([[189, 90, 200], [189, 200, 90]]), abs=1e-6)
    belief = np.array([0.5, 0.5])
    action, values = qmdp_action(belief, solution.q)
    assert action == 0 and values == pytest.approx([189, 145, 145], abs=1e-6)
    belief, _ = belief_update(belief, 0, 0, transition, hearing)
    action, values = qmdp_action(belief, solution.q)
    assert belief[0] == pytest.approx(0.85) and action == 0 and values[2] == pytest.approx(183.5, abs=1e-6)
    belief, _ = belief_update(belief, 0, 0, transition, hearing)
    action, values = qmdp_action(belief, solution.q)
    assert belief[0] == pytest.approx(0.969799, abs=1e-6) and action == 2
    assert values[2] == pytest.approx(196.678, abs=1e-3)


def test_most_likely_state_bets_on_one():
    policy = np.array([2, 1, 0])
    assert likely_action(np.array([0.2, 0.5, 0.3]), policy) == 1
    assert likely_action(np.array([0.4, 0.2, 0.4]), policy) == 2  # the first of equals


@pytest.fixture(scope="module")
def rooms():
    world = make_env("TwoRooms", view=5)
    return world, extract_mdp(world.grid, world.actions)


@pytest.mark.parametrize(("size", "count", "largest"), [(3, 32, 13), (5, 62, 5)])
def test_views_of_two_rooms(rooms, size, count, largest):
    world, mdp = rooms
    view_of, views = view_of_states(world.grid, mdp, size)
    assert views.shape == (count, size, size) and np.bincount(view_of).max() == largest
    assert len(view_of) == 112 and set(view_of) == set(range(count))


def test_observation_models_are_distributions(rooms):
    world, mdp = rooms
    view_of, _ = view_of_states(world.grid, mdp, 3)
    exact, noisy = observation_model(view_of), observation_model(view_of, 0.1)
    assert np.array_equal(exact.argmax(1), view_of) and (exact.max(1) == 1).all()
    assert noisy.sum(1) == pytest.approx(1) and (noisy[np.arange(112), view_of] == 0.9).all()
    assert np.unique(noisy.round(12)).tolist() == [pytest.approx(0.1 / 31), 0.9]
    one = first_belief(int(view_of[0]), exact)
    assert one == pytest.approx((view_of == view_of[0]) / (view_of == view_of[0]).sum())


def test_the_filter_follows_the_world(rooms):
    """Without chance and sensor error, the true state is never ruled out, and views narrow the belief."""
    world, mdp = rooms
    view_of, _ = view_of_states(world.grid, mdp, 5)
    belief_filter, rng = Filter(mdp.transition(), observation_model(view_of)), np.random.default_rng(0)
    state, support = int(np.flatnonzero(view_of == np.bincount(view_of).argmax())[0]), []
    belief = belief_filter.reset(int(view_of[state]))
    for _ in range(30):
        assert belief[state] > 0 and belief.sum() == pytest.approx(1)
        support.append(int((belief > 0).sum()))
        action = int(rng.integers(3))
        state, _, over = mdp.step(state, action, rng)
        if over:
            break
        belief = belief_filter.update(action, int(view_of[state]))
    assert support == sorted(support, reverse=True) and support[-1] < support[0]


def test_one_view_forgets(rooms):
    world, mdp = rooms
    view_of, _ = view_of_states(world.grid, mdp, 5)
    observation, q = observation_model(view_of), value_iteration(mdp, 0.97).q
    policy = one_view_policy(q, observation)
    for z in (0, 7):
        assert policy[z] == q[view_of == z].mean(0).argmax()


# view, sensor error, slip -> success of the full state, QMDP, most likely state, one view only
TABLE = [
    (3, 0.0, 0.0, (1.00, 0.485, 0.27, 0.30)),
    (3, 0.1, 0.0, (1.00, 0.51, 0.26, 0.47)),
    (5, 0.0, 0.0, (1.00, 1.00, 0.77, 0.475)),
    (5, 0.1, 0.0, (1.00, 1.00, 0.79, 0.57)),
    (3, 0.0, 0.1, (1.00, 0.895, 0.54, 0.49)),
    (3, 0.1, 0.1, (1.00, 0.92, 0.995, 0.44)),
    (5, 0.0, 0.1, (1.00, 1.00, 1.00, 0.72)),
    (5, 0.1, 0.1, (1.00, 1.00, 1.00, 0.66)),
]


@pytest.mark.parametrize(("size", "error", "slip", "expected"), TABLE)
def test_the_success_table_of_two_rooms(rooms, size, error, slip, expected):
    """400 episodes here and there: two standard errors of the difference are at most .07."""
    world, mdp = rooms
    slippery, rng = with_slip(mdp, slip), np.random.default_rng(0)
    view_of, _ = view_of_states(world.grid, mdp, size)
    observation, q = observation_model(view_of, error), value_iteration(slippery, 0.97).q
    acts = agents(slippery, q, observation, rng)
    found = {
        kind: play(slippery, act, observation, rng, filtered=kind in ("QMDP", "most likely state")).success
        for kind, act in acts.items()
    }
    assert [*found.values()][:4] == pytest.approx(expected, abs=0.08)
    assert 0.18 < found["random"] < 0.32
