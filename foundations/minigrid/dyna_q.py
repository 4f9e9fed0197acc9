"""Planning inside the learned model: its table of visited codes, and Dyna-Q by imagined rollouts.

A predicted code that was never visited is replaced by the most probable one that was ("snapping"): followed
as it stands, such codes breed further ones (thousands out of 140 true states in Empty-8x8).  Rewards are
snapped too, to 0 or 1: a head that is wrong by .03 in one place makes staying there worth .03 / (1 - gamma),
as much as the goal.

Shapes: S visited codes, A actions, G variables, C classes, N rollouts at once.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from foundations.minigrid.experience import Transitions
from foundations.minigrid.mdp import TabularMDP
from foundations.minigrid.train_model import codes_of


def visited_codes(model, data: Transitions) -> Tensor:
    """The codes in which an action was ever taken.  -> int [S, G]"""
    return torch.unique(codes_of(model, data.obs), dim=0)


@torch.no_grad()
def learned_mdp(model, codes: Tensor, snap_rew: bool = True) -> tuple[TabularMDP, int]:
    """Ask the model for every visited code and action.  codes: int [S, G] -> table, predictions snapped

    Needs `shape` (G, C), `sizes["actions"]`, `one_hot`, `dynamics`, `reward` and `done` of the model.
    """
    num_states, num_actions = len(codes), model.sizes["actions"]
    z = model.one_hot(codes).repeat_interleave(num_actions, 0)  # [S * A, G, C]
    act = torch.arange(num_actions).repeat(num_states)
    logits = model.dynamics(z, act)  # [S * A, G, C]
    terminal = model.done(z, act) > 0  # the logit of one half
    scores = nearest_scores(logits.log_softmax(-1), model.one_hot(codes))  # [S * A, S]
    nearest = scores.argmax(1)
    strange = (codes[nearest] != logits.argmax(-1)).any(1) & ~terminal
    here = torch.arange(num_states).repeat_interleave(num_actions)
    rew = model.reward(z, act).double()
    table = [torch.where(terminal, here, nearest), rew.round() if snap_rew else rew, terminal]
    table = [column.reshape(num_states, num_actions).numpy() for column in table]
    return TabularMDP(*table, states=[tuple(code) for code in codes.tolist()]), int(strange.sum())


def nearest_scores(log_probs: Tensor, visited: Tensor) -> Tensor:
    """Log probability of every visited code.  [n, G, C], one-hot [S, G, C] -> [n, S]"""
    return log_probs.flatten(1) @ visited.flatten(1).T


class Plan(NamedTuple):
    """What imagination led to."""

    q: np.ndarray  # [S, A]
    snapshots: list[tuple[int, np.ndarray]]  # (imagined transitions so far, values [S])


def dyna_q(
    mdp: TabularMDP,
    rng: np.random.Generator,
    *,
    transitions: int = 200_000,
    rollouts: int = 64,
    horizon: int = 10,
    epsilon: float = 0.3,
    alpha: float = 0.5,
    gamma: float = 0.97,
    snapshots: int = 0,
) -> Plan:
    """Q-learning on imagined steps alone: rollouts begin at visited codes and end after `horizon` steps.

    mdp: the model's answers, from `learned_mdp`; each is asked for so often that they are kept in a table.
    """
    q, shots = np.zeros((mdp.num_states, mdp.num_actions)), []
    rounds = max(1, transitions // (rollouts * horizon))
    marks = set(np.unique(np.geomspace(1, rounds, snapshots).astype(int)).tolist()) if snapshots else set()
    for round_ in range(1, rounds + 1):
        state = rng.integers(mdp.num_states, size=rollouts)  # [N]
        for _ in range(horizon):
            explore = rng.random(rollouts) < epsilon
            act = np.where(explore, rng.integers(mdp.num_actions, size=rollouts), q[state].argmax(1))
            after, over = mdp.next_state[state, act], mdp.terminal[state, act]
            target = mdp.rew[state, act] + gamma * np.where(over, 0.0, q[after].max(1))
            q[state, act] += alpha * (target - q[state, act])
            # A dream that ended goes on somewhere else, so that none of the N stands idle.
            state = np.where(over, rng.integers(mdp.num_states, size=rollouts), after)
        if round_ in marks:
            shots.append((round_ * rollouts * horizon, q.max(1)))
    return Plan(q, shots)


class CodeAgent:
    """Acts in the real world by the code of what it sees: obs [N] -> action."""

    def __init__(self, model, codes: Tensor, q: np.ndarray):
        self.model, self.visited, self.q = model, model.one_hot(codes), q
        self.rows: dict[bytes, int] = {}  # observation -> row of the table

    @torch.no_grad()
    def row(self, obs: np.ndarray) -> int:
        """The visited code that is most probable for an observation."""
        key = obs.tobytes()
        if key not in self.rows:
            probs = self.model.encode(torch.from_numpy(obs)[None])  # [1, G, C]
            self.rows[key] = int(nearest_scores(probs.log(), self.visited).argmax())
        return self.rows[key]

    def __call__(self, obs: np.ndarray) -> int:
        """The best action, the first of equals."""
        return int(self.q[self.row(obs)].argmax())
