"""A linear controller that imitates a toy's optimal policy: a competent player for the dream's gate.

The optimal policy plays in the real toy, now and then a random action sends it astray, and what C would have
read at each step is regressed on what the policy did there.

Shapes: k rows of a call, n samples, F features, O raw outputs, A action numbers.
"""

import numpy as np
import torch

from paper1_world_models.agent import WorldModelsAgent
from paper1_world_models.controller import ActionCodec, Controller
from paper1_world_models.evolve import training_seed
from paper1_world_models.policies import random_action
from paper1_world_models.rollout import Episode, Noise, Player, play
from paper1_world_models.run import Run

EPISODES, ASTRAY, RIDGE = 32, 0.1, 1e-3  # taught; share of random actions; of the features' variance


class Teacher(Player):
    """Plays the optimal policy of a toy's core, and writes down what C would have read."""

    def __init__(self, agent: WorldModelsAgent, controller: Controller, games, rng: np.random.Generator):
        super().__init__(agent.vae, agent.rnn, controller, games.slots)
        self.core, self.rng = games.core, rng
        self.features: list[torch.Tensor] = []  # each [k, F]
        self.best: list[np.ndarray] = []  # each [k, A], as M reads it

    @torch.inference_mode()
    def act(self, rows, frames, params, eps, first):
        """As Player.act; the parameters are not looked at."""
        codec, at = self.controller.codec, torch.as_tensor(rows, device=self.device)
        mu, logvar = self.encode(torch.from_numpy(frames).to(self.device))
        z = mu if eps is None else mu + (0.5 * logvar).exp() * eps.to(self.device)
        h, c = self.h[at], self.c[at]
        self.features.append(self.controller.feature(z, h, c))
        best = codec.from_env(self.core.optimal_policy(rows))
        self.best.append(best)
        act = best.copy()
        for i in np.flatnonzero(self.rng.random(len(rows)) < ASTRAY):
            act[i] = random_action(codec, self.rng)
        first = torch.from_numpy(first).to(self.device)
        self.h[at], self.c[at] = self.rnn.step(z, torch.from_numpy(act).to(self.device), first, (h, c))
        return codec.to_env(act), act, z


def imitate_optimum(
    run: Run, agent: WorldModelsAgent, controller: Controller, games, seed: int
) -> np.ndarray:
    """Flat parameters of the imitation.  -> [n]"""
    cfg = run.cfg
    teacher = Teacher(agent, controller, games, np.random.default_rng(seed))
    noise = Noise.draw(seed, EPISODES, cfg.dream.max_steps, cfg.vae.latents, cfg.controller.z)
    episodes = [Episode(0, r, training_seed(seed, "taught", r)) for r in range(EPISODES)]
    limit, leave = cfg.dream.max_steps, run.leave_if_asked
    play(games, teacher, np.zeros((1, 1)), episodes, noise, max_steps=limit, each_step=leave)
    X = torch.cat(teacher.features).double().cpu().numpy()  # [n, F]
    Y = raw_of(agent.codec, np.concatenate(teacher.best)).astype(np.float64)  # [n, O]
    mean, target = X.mean(0), Y.mean(0)
    X, Y = X - mean, Y - target
    gram = X.T @ X
    weight = np.linalg.solve(gram + RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram)), X.T @ Y)  # [F, O]
    return np.concatenate([weight.T.ravel(), target - mean @ weight]).astype(np.float32)


def raw_of(codec: ActionCodec, act: np.ndarray) -> np.ndarray:
    """Raw outputs that squash to about these actions.  [n, A] -> [n, O]"""
    if codec.kind == "thirds":
        return 2 * np.arctanh(1 / 3) * act  # half-way between two of these lies a border of the thirds
    if codec.kind == "argmax":
        return act
    share = (act - np.array(codec.low)) / (np.array(codec.high) - codec.low)
    return np.arctanh(np.clip(2 * share - 1, -0.95, 0.95))
