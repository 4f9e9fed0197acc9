"""Values against the closed form and each other, Q-learning by hand and against the planners."""

import numpy as np
import pytest

from foundations.minigrid.envs import make_env
from foundations.minigrid.mdp import TabularMDP, extract_mdp, with_slip
from foundations.minigrid.solvers import (
    backup,
    evaluate_policy,
    greedy_policy,
    path_length,
    policy_iteration,
    q_learning,
    q_update,
    value_iteration,
)

# name, layout, drop, start pose, shortest path, V* at the start, the library's return, sweeps of VI
ORACLES = [
    ("Empty-5x5", 0, False, (1, 1, 0), 5, 0.960596, 0.955, 7),
    ("Empty-6x6", 0, False, (1, 1, 0), 7, 0.941480, 0.95625, 9),
    ("Empty-8x8", 0, False, (1, 1, 0), 11, 0.904382, 0.961328, 13),
    ("Empty-16x16", 0, False, (1, 1, 0), 27, 0.770043, 0.976270, 29),
    ("FourRooms", 0, False, (3, 15, 2), 15, 0.868746, 0.865, 28),
    ("FourRooms", 1, False, (4, 5, 3), 5, 0.960596, 0.955, 29),
    ("FourRooms", 42, False, (8, 16, 0), 26, 0.777821, 0.766, 35),
    ("DoorKey-5x5", 0, False, (1, 3, 2), 11, 0.904382, 0.9604, 13),
    ("DoorKey-5x5", 0, True, (1, 3, 2), 11, 0.904382, 0.9604, 15),
    ("DoorKey-5x5", 1, False, (1, 2, 1), 7, 0.941480, 0.9748, 11),
    ("DoorKey-6x6", 0, False, (1, 3, 1), 14, 0.877521, 0.965, 18),
    ("DoorKey-6x6", 0, True, (1, 3, 1), 14, 0.877521, 0.965, 20),
    ("DoorKey-8x8", 0, False, (3, 4, 1), 17, 0.851458, 0.976094, 24),
    ("LavaGapS5", 0, False, (1, 1, 0), 6, 0.950990, 0.946, 8),
    ("TwoRooms", 0, False, (1, 1, 1), 12, 0.895338, 0.892, 15),
]


@pytest.mark.parametrize("name layout drop start steps value ret sweeps".split(), ORACLES)
def test_values_and_paths(name, layout, drop, start, steps, value, ret, sweeps):
    world = make_env(name, layout, drop=drop, view=3)
    if world.start[:3] != start:  # minigrid draws other layouts in other versions
        pytest.fail(f"{name} ({layout}) starts at {world.start[:3]}: another version of minigrid?")
    mdp = extract_mdp(world.grid, world.actions)
    vi = value_iteration(mdp)
    assert vi.values[0] == pytest.approx(value, abs=1e-6) == 0.99 ** (steps - 1)
    assert path_length(vi.values, 0.99)[0] == pytest.approx(steps)
    assert vi.rounds == sweeps
    pi = policy_iteration(mdp)
    assert np.abs(vi.values - pi.values).max() < 1e-9
    assert pi.rounds <= vi.rounds
    # The greedy policy walks that path in the real world and gets the library's reward.
    world.reset(seed=0)
    policy, state, total = greedy_policy(vi.q), 0, 0.0
    for _ in range(steps):
        _, rew, terminated, _, _ = world.step(policy[state])
        total, state = total + rew, int(mdp.next_state[state, policy[state]])
    assert terminated and total == pytest.approx(ret, abs=1e-6)


def test_two_rooms_with_slip():
    world = make_env("TwoRooms", view=3)
    mdp = with_slip(extract_mdp(world.grid, world.actions), 0.1)
    vi, pi = value_iteration(mdp, 0.97), policy_iteration(mdp, 0.97)
    assert vi.values[0] == pytest.approx(0.579171, abs=1e-6)
    assert vi.values.mean() == pytest.approx(0.714008, abs=1e-6)
    assert np.abs(vi.values - pi.values).max() < 1e-9


def test_a_goal_that_does_not_end_is_worth_a_hundred():
    """The starting tutorial's figure: its goal pays in every step, for ever."""
    mdp = TabularMDP(np.array([[1], [1]]), np.array([[0.0], [1.0]]), np.zeros((2, 1), bool), ["way", "goal"])
    assert value_iteration(mdp, 0.99).values == pytest.approx([99, 100], abs=1e-6)


def test_both_planners_agree_on_random_worlds():
    rng = np.random.default_rng(0)
    for _ in range(20):
        states, actions = int(rng.integers(2, 30)), int(rng.integers(2, 5))
        chance = rng.dirichlet(np.ones(4), actions)
        shape, ends = (states, 4), rng.random((states, 4)) < 0.1
        next_state, rew = rng.integers(states, size=shape), rng.normal(size=shape)
        mdp = TabularMDP(next_state, rew, ends, list(range(states)), chance)
        vi, pi = value_iteration(mdp, 0.9), policy_iteration(mdp, 0.9)
        assert np.abs(vi.values - pi.values).max() < 1e-8
        dense = (chance @ mdp.rew.T).T + 0.9 * np.einsum("ast,t->sa", mdp.transition(), vi.values)
        assert np.allclose(backup(mdp, vi.values, 0.9), dense)


def test_q_update_by_hand():
    q = np.array([[0.5, 0.0], [2.0, 1.0]])
    q_update(q, 0, 0, 1.0, 1, False, 0.1, 0.9)
    assert q[0, 0] == pytest.approx(0.73)
    q = np.array([[0.5, 0.0], [2.0, 1.0]])
    q_update(q, 0, 0, 1.0, 1, True, 0.1, 0.9)
    assert q[0, 0] == pytest.approx(0.55)
    assert q[0, 1] == 0 and q[1].tolist() == [2.0, 1.0]


@pytest.mark.parametrize("slip", [0.0, 0.1])
def test_q_learning_finds_the_way(slip):
    world = make_env("TwoRooms", view=3)
    mdp, start = with_slip(extract_mdp(world.grid, world.actions), slip), np.array([0])
    q, steps = q_learning(mdp, np.random.default_rng(0), episodes=600, starts=start)
    first, last = (steps[:100] > 0).mean(), (steps[-100:] > 0).mean()
    assert first < 0.9 <= last
    found = evaluate_policy(mdp, greedy_policy(q), np.random.default_rng(1), starts=start)
    best = evaluate_policy(mdp, greedy_policy(value_iteration(mdp).q), np.random.default_rng(1), starts=start)
    assert found.success > 0.95 and found.steps < (1.25 if slip == 0 else 2.0) * best.steps


def test_q_learning_repeats_itself_with_its_seed():
    world = make_env("Empty-5x5", view=3)
    mdp = extract_mdp(world.grid, world.actions)
    runs = [q_learning(mdp, np.random.default_rng(seed), episodes=30)[1].tolist() for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]


def test_evaluation_counts_only_rewarded_ends():
    world = make_env("LavaGapS5", view=3)
    mdp = extract_mdp(world.grid, world.actions)
    straight = np.full(mdp.num_states, 2)
    score = evaluate_policy(mdp, straight, np.random.default_rng(0), starts=np.array([0]), max_steps=20)
    assert score.success == 0 and np.isnan(score.steps)
    best = evaluate_policy(
        mdp, greedy_policy(value_iteration(mdp).q), np.random.default_rng(0), starts=np.array([0])
    )
    assert best == (1.0, 6.0)


def test_evaluation_of_a_random_policy_matches_single_steps():
    world = make_env("TwoRooms", view=3)
    mdp = with_slip(extract_mdp(world.grid, world.actions), 0.1)
    uniform = np.full((mdp.num_states, 3), 1 / 3)
    score = evaluate_policy(mdp, uniform, np.random.default_rng(0), episodes=4000)
    assert 0.2 < score.success < 0.29


def test_greedy_takes_the_first_of_equals():
    assert greedy_policy(np.array([[0.1, 0.3, 0.3 + 1e-12], [1, 1, 1], [0, 0, 1]])).tolist() == [1, 0, 2]
