"""The environment that M makes: a controller can live and learn in it without a pixel (paper 1, "VizDoom
Experiment").

A dream begins with a stored first frame's posterior, then M's own samples follow each other.  `Dreams` is
the core that evolution uses: N dreams in lockstep, dead ones leave the batch.  `DreamEnv` is the same as a
Gymnasium VectorEnv, for any other learner.

Shapes: N dreams, k living rows, Z latents, D hidden units, A action numbers, F controller features.
"""

from dataclasses import dataclass, replace

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from common.errors import UserError
from paper1_world_models.config import DreamConfig
from paper1_world_models.controller import Controller
from paper1_world_models.rnn import MDNRNN, State, noise, sample_next
from paper1_world_models.vae import resample


@dataclass(frozen=True)
class Starts:
    """Posteriors of stored first frames; every dream begins with a draw from one of them."""

    mu: Tensor  # [M, Z]
    logvar: Tensor  # [M, Z]

    def draw(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """z_0 of the chosen starts.  [N] -> [N, Z]"""
        mu, logvar = self.mu[index], self.logvar[index]
        return resample(mu, logvar, noise(torch.randn, mu.shape, generator, mu.device))

    def pick(self, count: int, generator: torch.Generator) -> Tensor:
        """Random rows of the starts.  -> [count]"""
        rows = torch.randint(len(self.mu), (count,), generator=generator, device=generator.device)
        return rows.to(self.mu.device)


class Dreams:
    """N dreams: z [N, Z] and the state (h, c) after all that came before it."""

    def __init__(self, rnn: MDNRNN, starts: Starts, cfg: DreamConfig, generator: torch.Generator):
        if cfg.reward == "head" and not rnn.cfg.reward_head:
            raise UserError("--dream.reward head needs a model that was trained with --rnn.reward-head")
        self.rnn, self.starts, self.cfg, self.generator = rnn, starts, cfg, generator

    def reset(self, index: Tensor) -> None:
        """Begin one dream per entry of index [N] (rows of the stored starts)."""
        self.z = self.starts.draw(index, self.generator)  # [N, Z]
        self.h, self.c = self.rnn.initial(len(index))
        self.first = torch.ones(len(index), dtype=torch.bool, device=self.z.device)

    def step(self, rows: Tensor, act: Tensor) -> tuple[Tensor, Tensor]:
        """Dream on in `rows`.  [k], [k, A] -> reward [k], ended bool [k]"""
        self.h[rows], self.c[rows], pred = self._advance(rows, act)
        self.z[rows] = sample_next(pred, self.cfg.temperature, self.generator, self.rnn.cfg.shared_pi)
        self.first[rows] = False
        if pred.done is None:
            ended = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        elif self.cfg.done == "cutoff":
            ended = pred.done > 0  # probability above one half
        else:
            ended = noise(torch.rand, pred.done.shape, self.generator, rows.device) < pred.done.sigmoid()
        rew = (
            pred.rew if self.cfg.reward == "head" else torch.full_like(self.z[rows, 0], self.cfg.step_reward)
        )
        return rew, ended

    def _advance(self, rows: Tensor, act: Tensor):
        state: State = (self.h[rows], self.c[rows])
        h, c = self.rnn.step(self.z[rows], act, self.first[rows], state)
        return h, c, self.rnn.predict(h)


@torch.inference_mode()
def dream_returns(dreams: Dreams, act, index: Tensor) -> np.ndarray:
    """Play each dream to its end or the cap.  act(rows [k], dreams, t) -> [k, A]; starts [N] -> returns
    [N]"""
    dreams.reset(index)
    total = torch.zeros(len(index), device=index.device)
    alive = torch.arange(len(index), device=index.device)
    for t in range(dreams.cfg.max_steps):
        rew, ended = dreams.step(alive, act(alive, dreams, t))
        total[alive] += rew
        alive = alive[~ended]
        if not len(alive):
            break
    return total.cpu().numpy()


def evolved_policy(controller: Controller, params: Tensor, candidate: Tensor):
    """The controller as an `act` for `dream_returns`: row i uses vector candidate[i].  [P, n], [N]"""

    def act(rows: Tensor, dreams: Dreams, t: int) -> Tensor:
        feature = controller.feature(dreams.z[rows], dreams.h[rows], dreams.c[rows])  # [k, F]
        return controller.act_many(params[candidate[rows]], feature)

    return act


def dream_score(agent, temperature: float, dreams: int, seed: int) -> np.ndarray:
    """Returns of an agent's controller in `dreams` dreams at a temperature.  -> [dreams]"""
    generator = torch.Generator(agent.device).manual_seed(seed)
    world = Dreams(agent.rnn, agent.starts, replace(agent.cfg.dream, temperature=temperature), generator)
    candidate = torch.zeros(dreams, dtype=torch.long, device=agent.device)
    policy = evolved_policy(
        agent.controller, torch.from_numpy(agent.params)[None].to(agent.device), candidate
    )
    return dream_returns(world, policy, agent.starts.pick(dreams, generator))


class DreamEnv(VectorEnv):
    """M as a Gymnasium VectorEnv: observations are C's features [N, F], actions those of the real
    environment."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(
        self,
        num_envs: int,
        rnn: MDNRNN,
        controller: Controller,
        starts: Starts,
        cfg: DreamConfig,
        action_space: gym.Space,
        seed: int = 0,
    ):
        self.num_envs, self.cfg, self.controller = num_envs, cfg, controller
        self.device = starts.mu.device
        self.dreams = Dreams(rnn, starts, cfg, torch.Generator(self.device).manual_seed(seed))
        self.single_observation_space = gym.spaces.Box(-np.inf, np.inf, (controller.features,), np.float32)
        self.single_action_space = action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(action_space, num_envs)
        self._done = np.zeros(num_envs, bool)
        self._steps = np.zeros(num_envs, np.int64)

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """New dreams everywhere -> features [N, F], {}"""
        if isinstance(seed, (list, tuple)):
            seed = seed[0]  # the dreams share one generator
        if seed is not None:
            self.dreams.generator.manual_seed(seed)
        self.dreams.reset(self._draw_starts(self.num_envs))
        self._done[:], self._steps[:] = False, 0
        return self._features(), {}

    @torch.inference_mode()
    def step(self, actions: np.ndarray):
        """Dream one step -> features, rewards, terminated, truncated, {}; ended dreams begin anew instead."""
        rew = np.zeros(self.num_envs, np.float32)
        terminated, truncated = np.zeros((2, self.num_envs), bool)
        alive = np.flatnonzero(~self._done)
        for row in np.flatnonzero(self._done):
            d = self.dreams
            d.z[row] = d.starts.draw(self._draw_starts(1), d.generator)[0]
            d.h[row], d.c[row], d.first[row] = 0.0, 0.0, True
            self._steps[row] = 0
        if len(alive):
            act = torch.from_numpy(self.controller.codec.from_env(np.asarray(actions))[alive]).to(self.device)
            r, ended = self.dreams.step(torch.from_numpy(alive).to(self.device), act)
            rew[alive], terminated[alive] = r.cpu().numpy(), ended.cpu().numpy()
            self._steps[alive] += 1
            truncated = (self._steps >= self.cfg.max_steps) & ~terminated
        self._done = terminated | truncated
        return self._features(), rew, terminated, truncated, {}

    def _draw_starts(self, n: int) -> Tensor:
        return self.dreams.starts.pick(n, self.dreams.generator)

    def _features(self) -> np.ndarray:
        d = self.dreams
        return self.controller.feature(d.z, d.h, d.c).cpu().numpy()
