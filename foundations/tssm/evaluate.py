"""Scores in the real world: the mean action, over every start state of simple_world or a few drawn games.

Shapes: n games, A actions.
"""

from collections.abc import Callable

import numpy as np
import torch

from foundations.tssm.agent import Agent
from foundations.tssm.autoencoder import Autoencoder
from foundations.tssm.config import Config
from foundations.tssm.env import start_states
from foundations.tssm.games import GridGames, make_games
from foundations.tssm.references import references
from foundations.tssm.train import frames_to_tensor

Policy = Callable[[np.ndarray], np.ndarray]  # uint8 [n, H, W, 3] -> [n, A]
PIXEL_GAMES = 5  # evaluation games of a drawn environment


def policy_of(code: Autoencoder, agent: Agent) -> Policy:
    """The agent's mean action on the likeliest code of a frame."""
    device = next(agent.parameters()).device

    @torch.no_grad()
    def policy(obs: np.ndarray) -> np.ndarray:
        return agent.act(code.one_hot(code.encode(frames_to_tensor(obs, device)))).cpu().numpy()

    return policy


def play(games, policy: Policy, obs: np.ndarray, steps: int) -> dict[str, np.ndarray]:
    """Play on from `obs`: return, steps on target and threat (simple_world) of each game, all [n]."""
    totals = {"return": np.zeros(games.n)}
    if isinstance(games, GridGames):
        totals |= {"goal_steps": np.zeros(games.n), "threat_steps": np.zeros(games.n)}
    for _ in range(steps):
        obs, rew, _ = games.step(policy(obs))
        totals["return"] += rew
        if isinstance(games, GridGames):
            for name, count in zip(
                ("goal_steps", "threat_steps"), games.core.contacts(games.rows), strict=True
            ):
                totals[name] += count
    return totals


def evaluate(config: Config, policy: Policy, seed: int = 0) -> dict[str, float]:
    """Mean return, and on simple_world mean steps on target and threat; in the world's own rewards.

    With one threat each start state is played once: no sampling error where threats stand still.
    """
    if config.env.name == "simple_world" and config.env.num_threats == 1:
        starts = start_states(legacy=config.env.legacy)
        games = make_games(config.env, len(starts))
        games.core.place(starts)
        obs = games.core.render(games.rows)
    else:
        games = make_games(config.env, 1000 if config.env.name == "simple_world" else PIXEL_GAMES)
        obs = games.reset(seed)
    totals = play(games, policy, obs, min(config.data.length, games.max_steps))
    return {name: round(float(total.mean()), 4) for name, total in totals.items()}


def baselines(config: Config, seed: int = 0) -> dict[str, dict[str, float]]:
    """What needs no learning: exact for one threat that stands still, else random and stay as played."""
    if config.env.name == "simple_world" and config.env.num_threats == 1 and not config.env.moving_threats:
        table = references(config.env.threat_penalty, config.env.legacy)
        names = ("return", "goal_steps", "threat_steps")
        return {
            name: {key: round(x, 4) for key, x in zip(names, score, strict=True)}
            for name, score in table.items()
        }
    rng = np.random.default_rng(seed)
    size = make_games(config.env, 1).act_size
    hold = config.data.hold
    held: list[np.ndarray] = []

    def random(obs: np.ndarray) -> np.ndarray:
        held.append(held[-1] if len(held) % hold else rng.uniform(-1, 1, (len(obs), size)))
        return held[-1]

    policies = {"random": random, "stay": lambda obs: np.zeros((len(obs), size))}
    return {name: evaluate(config, policy, seed) for name, policy in policies.items()}
