"""Solving a table: value iteration, policy iteration, and Q-learning, which has to try things out.

The two planners know the table and find the same values; Q-learning only sees steps.  The end of an episode
is worth nothing beyond its reward: without that the goal would pay in every step for ever and its value grow
to 1 / (1 - gamma).

Shapes: S states, A actions, B outcomes, N episodes played at once.
"""

from typing import NamedTuple

import numpy as np

from foundations.minigrid.mdp import TabularMDP


class Solution(NamedTuple):
    """What a planner found."""

    values: np.ndarray  # [S]
    q: np.ndarray  # [S, A]
    rounds: int  # sweeps over all states, or evaluations of a policy


def backup(mdp: TabularMDP, values: np.ndarray, gamma: float) -> np.ndarray:
    """Q(s, a) = E[r + gamma * V(s')], with V = 0 after the end (Bellman).  values: [S] -> [S, A]"""
    by_outcome = mdp.rew + gamma * np.where(mdp.terminal, 0.0, values[mdp.next_state])  # [S, B]
    return by_outcome @ mdp.chance.T


def value_iteration(mdp: TabularMDP, gamma: float = 0.99, tol: float = 1e-10) -> Solution:
    """Sweep V(s) <- max_a Q(s, a) over all states at once until nothing moves by more than `tol`."""
    values, sweeps = np.zeros(mdp.num_states), 0
    while True:
        q = backup(mdp, values, gamma)  # [S, A]
        change = np.abs(q.max(1) - values).max()
        values, sweeps = q.max(1), sweeps + 1
        if change <= tol:
            return Solution(values, q, sweeps)


def policy_iteration(mdp: TabularMDP, gamma: float = 0.99) -> Solution:
    """Solve for the value of a policy, act greedily on it, and again until the policy stays as it is.

    Dense linear algebra, [S, S]: for tables of a few thousand states.
    """
    policy, rounds = np.zeros(mdp.num_states, np.int64), 0
    rows = np.arange(mdp.num_states)
    while True:
        chance = mdp.chance[policy]  # [S, B]
        system = np.eye(mdp.num_states)  # I - gamma * P
        for b in range(chance.shape[1]):
            system[rows, mdp.next_state[:, b]] -= gamma * chance[:, b] * ~mdp.terminal[:, b]
        values = np.linalg.solve(system, (chance * mdp.rew).sum(1))
        q, rounds = backup(mdp, values, gamma), rounds + 1
        # An action must be better by more than rounding, or equally good ones would take turns for ever.
        better = q.max(1) > q[rows, policy] + 1e-12
        if not better.any():
            return Solution(values, q, rounds)
        policy = np.where(better, q.argmax(1), policy)


def q_update(
    q: np.ndarray,
    state: int,
    action: int,
    rew: float,
    next_state: int,
    terminal: bool,
    alpha: float,
    gamma: float,
) -> None:
    """Move Q(s, a), in place, by `alpha` of the way to r + gamma * max_a' Q(s', a'), or to r at the end."""
    target = rew if terminal else rew + gamma * q[next_state].max()
    q[state, action] += alpha * (target - q[state, action])


def q_learning(
    mdp: TabularMDP,
    rng: np.random.Generator,
    *,
    episodes: int = 600,
    max_steps: int = 100,
    gamma: float = 0.99,
    alpha: float = 0.2,
    epsilon: float = 0.1,
    starts: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Learn from experience alone; epsilon-greedy, ties broken by chance.

    starts: states [n] where episodes may begin (None: all).  -> q [S, A], steps to the goal [episodes] with
    0 for episodes that never got there
    """
    q, steps = np.zeros((mdp.num_states, mdp.num_actions)), np.zeros(episodes, np.int64)
    starts = np.arange(mdp.num_states) if starts is None else starts
    for episode in range(episodes):
        state = int(rng.choice(starts))
        for step in range(1, max_steps + 1):
            if rng.random() < epsilon:
                action = int(rng.integers(mdp.num_actions))
            else:
                action = int(rng.choice(np.flatnonzero(q[state] == q[state].max())))
            after, rew, terminal = mdp.step(state, action, rng)
            q_update(q, state, action, rew, after, terminal, alpha, gamma)
            state = after
            if terminal:
                steps[episode] = step if rew > 0 else 0
                break
    return q, steps


def greedy_policy(q: np.ndarray) -> np.ndarray:
    """The best action of every state, the first of equals; values apart by rounding count as equal.
    [S, A] -> [S]"""
    return (q >= q.max(1, keepdims=True) - 1e-9).argmax(1)


class Outcome(NamedTuple):
    """How a policy did."""

    success: float  # share of episodes that reached a reward at their end
    steps: float  # mean length of those; nan where there is none


def evaluate_policy(
    mdp: TabularMDP,
    policy: np.ndarray,
    rng: np.random.Generator,
    *,
    starts: np.ndarray | None = None,
    episodes: int = 400,
    max_steps: int = 100,
) -> Outcome:
    """Play N episodes at once.  policy: actions [S] or probabilities [S, A]; starts as in `q_learning`."""
    table = np.eye(mdp.num_actions)[policy] if policy.ndim == 1 else policy  # [S, A]
    odds = (table @ mdp.chance).cumsum(1)  # [S, B]
    state = rng.choice(np.arange(mdp.num_states) if starts is None else starts, episodes)  # [N]
    steps, playing = np.zeros(episodes, np.int64), np.ones(episodes, bool)
    for step in range(1, max_steps + 1):
        outcome = (rng.random((episodes, 1)) > odds[state]).sum(1).clip(max=odds.shape[1] - 1)  # [N]
        over = playing & mdp.terminal[state, outcome]
        steps[over & (mdp.rew[state, outcome] > 0)] = step
        playing &= ~over
        state = mdp.next_state[state, outcome]
    won = steps > 0
    return Outcome(float(won.mean()), float(steps[won].mean()) if won.any() else float("nan"))


def path_length(values: np.ndarray, gamma: float) -> np.ndarray:
    """Steps to the goal that values of a world without chance stand for: V = gamma^(d - 1).  [S] -> [S]"""
    with np.errstate(divide="ignore"):
        return 1 + np.log(values) / np.log(gamma)
