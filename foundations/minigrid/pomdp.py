"""When the agent sees only what lies before it: a filter that keeps a belief, and three ways to act on it.

A view is not a state: in TwoRooms 112 states show 62 different 5 x 5 views, or 32 of 3 x 3.  Bayes' rule
turns the views seen so far into a distribution over states.  QMDP then acts as if everything became known
after the next step, so it never does anything in order to find out; the most likely state bets on one; the
one-view policy remembers nothing.

Shapes: S states, A actions, Z views.
"""

from collections.abc import Callable

import numpy as np

from foundations.minigrid.envs import agent_view, load_state
from foundations.minigrid.mdp import TabularMDP
from foundations.minigrid.solvers import Outcome, greedy_policy

KINDS = ("full state", "QMDP", "most likely state", "one view only", "random")


def view_of_states(env, mdp: TabularMDP, size: int) -> tuple[np.ndarray, np.ndarray]:
    """What the env shows in every state.  -> number of the view [S], the views uint8 [Z, V, V]"""
    shown = []
    for state in mdp.states:
        load_state(env, state)
        shown.append(agent_view(env, size))
    load_state(env, mdp.states[0])
    views, number = np.unique(np.stack(shown), axis=0, return_inverse=True)
    return number.reshape(-1), views


def observation_model(view_of: np.ndarray, error: float = 0.0) -> np.ndarray:
    """P(z | s) of a sensor that, with probability `error`, shows any of the other views.  [S] -> [S, Z]"""
    views = int(view_of.max()) + 1
    model = np.full((len(view_of), views), error / (views - 1) if views > 1 else 0.0)
    model[np.arange(len(view_of)), view_of] = 1 - error if views > 1 else 1.0
    return model


def belief_update(
    belief: np.ndarray, action: int, view: int, transition: np.ndarray, observation: np.ndarray
) -> tuple[np.ndarray, float]:
    """Bayes' rule: b'(s') ~ P(z | s') * sum_s P(s' | s, a) b(s).

    belief: [S]; transition: [A, S, S], without what ended the episode; observation: [S, Z].
    -> belief [S], evidence P(z, and it goes on | b, a).  ValueError where that is 0: the model is wrong.
    """
    predicted = belief @ transition[action]  # [S]
    joint = predicted * observation[:, view]  # [S]
    evidence = float(joint.sum())
    if evidence <= 0:
        raise ValueError(f"view {view} cannot be seen after action {action} in any state of the belief")
    return joint / evidence, evidence


def first_belief(view: int, observation: np.ndarray) -> np.ndarray:
    """From "it can be any state" to the belief after the first view.  -> [S]"""
    return observation[:, view] / observation[:, view].sum()


def qmdp_action(belief: np.ndarray, q: np.ndarray) -> tuple[int, np.ndarray]:
    """argmax_a sum_s b(s) Q(s, a), with Q of the fully observed world (Littman et al. 1995).

    belief: [S]; q: [S, A] -> action (the first of equals), the values [A]
    """
    values = belief @ q  # [A]
    return int(values.argmax()), values


def likely_action(belief: np.ndarray, policy: np.ndarray) -> int:
    """What is best in the most likely state (the first of equals).  belief: [S]; policy: [S]"""
    return int(policy[belief.argmax()])


def one_view_policy(q: np.ndarray, observation: np.ndarray) -> np.ndarray:
    """The action for each view seen without any memory: QMDP on the first belief.  -> [Z]"""
    return np.array([qmdp_action(first_belief(z, observation), q)[0] for z in range(observation.shape[1])])


class Filter:
    """A belief that follows an episode."""

    def __init__(self, transition: np.ndarray, observation: np.ndarray):
        self.transition, self.observation = transition, observation

    def reset(self, view: int) -> np.ndarray:
        """Forget all but the first view.  -> [S]"""
        self.belief = first_belief(view, self.observation)
        return self.belief

    def update(self, action: int, view: int) -> np.ndarray:
        """An action and what was seen after it.  -> [S]"""
        self.belief, _ = belief_update(self.belief, action, view, self.transition, self.observation)
        return self.belief


def agents(
    mdp: TabularMDP, q: np.ndarray, observation: np.ndarray, rng: np.random.Generator
) -> dict[str, Callable[[int, int, np.ndarray], int]]:
    """(state, view, belief) -> action, by kind; each looks at what it is allowed to."""
    best, by_view = greedy_policy(q), one_view_policy(q, observation)
    return {
        "full state": lambda state, view, belief: int(best[state]),
        "QMDP": lambda state, view, belief: qmdp_action(belief, q)[0],
        "most likely state": lambda state, view, belief: likely_action(belief, best),
        "one view only": lambda state, view, belief: int(by_view[view]),
        "random": lambda state, view, belief: int(rng.integers(mdp.num_actions)),
    }


def play(
    mdp: TabularMDP,
    act: Callable[[int, int, np.ndarray], int],
    observation: np.ndarray,
    rng: np.random.Generator,
    *,
    episodes: int = 400,
    max_steps: int = 100,
    filtered: bool = True,
) -> Outcome:
    """Episodes from uniformly drawn states.  filtered: keep a belief (without, `act` gets an empty one)."""
    belief_filter = Filter(mdp.transition(), observation) if filtered else None
    seen = observation.cumsum(1)  # [S, Z]
    lengths = []
    for _ in range(episodes):
        state = int(rng.integers(mdp.num_states))
        view = int((rng.random() > seen[state]).sum())
        belief = belief_filter.reset(view) if belief_filter else np.empty(0)
        for step in range(1, max_steps + 1):
            action = act(state, view, belief)
            state, rew, terminal = mdp.step(state, action, rng)
            if terminal:
                lengths += [step] if rew > 0 else []
                break
            view = int((rng.random() > seen[state]).sum())
            if belief_filter:
                belief = belief_filter.update(action, view)
    return Outcome(len(lengths) / episodes, float(np.mean(lengths)) if lengths else float("nan"))
