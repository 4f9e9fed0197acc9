"""Trajectories out of the model: a Gymnasium vector env whose games are dreamed, and rollouts in it.

Whatever plays a vector env can play here: an agent of any paper, a script, a person.  Games begin at real
frames.
Letters: N games, M frames to begin at, T steps, K tokens, H W C picture.
"""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from common.spaces import Spaces
from paper5_iris.imagination import Imagination
from paper5_iris.tokenizer import to_frames, to_images


class DreamEnv(VectorEnv):
    """N dreamed games, Gymnasium's NEXT_STEP autoreset, observations {key: uint8 [N, H, W, C]}.

    A game ends by a sampled end, or is truncated after `limit` steps.  The worlds share one cache, so when
    some begin anew, the others go on from their newest frame: the memory flush that comes anyway.
    info: tokens [N, K], end_prob [N] (nan where a game began).
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(self, world: Imagination, starts: np.ndarray, spaces: Spaces, num: int, limit: int = 1_000):
        """starts: real frames uint8 [M, H, W, C]; spaces: of the real environment, with one picture."""
        (key,) = spaces.images
        self.world, self.starts, self.key, self.limit = world, starts, key, limit
        self.device = world.model.token.weight.device
        self.num_envs, self.render_mode = num, "rgb_array"
        image = gym.spaces.Box(0, 255, spaces.obs[key], np.uint8)
        act = gym.spaces.Discrete(spaces.act)
        if not spaces.discrete:
            act = gym.spaces.Box(-1.0, 1.0, (spaces.act,), np.float32)
        self.single_observation_space = gym.spaces.Dict({key: image})
        self.single_action_space = act
        self.observation_space = batch_space(self.single_observation_space, num)
        self.action_space = batch_space(act, num)
        self.is_over, self.age = np.zeros(num, bool), np.zeros(num, np.int64)

    def reset(self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None):
        """All games anew.  A seed (of a list the first) fixes their starts and all that is sampled."""
        seed = next(iter(seed), None) if isinstance(seed, list | tuple) else seed
        super().reset(seed=seed)
        if seed is not None or self.world.generator is None:
            self.world.generator = torch.Generator(self.device)
            self.world.generator.manual_seed(int(self.np_random.integers(2**62)))
        self.is_over[:], self.age[:] = False, 0
        self.world.reset(self.begin(self.num_envs))
        return self.observe(), self.info(np.full(self.num_envs, np.nan))

    def begin(self, num: int) -> torch.Tensor:
        """Tokens of drawn frames [num, K]."""
        frames = torch.from_numpy(self.starts[self.np_random.integers(len(self.starts), size=num)])
        return self.world.tokenizer.tokenize(to_frames(frames.to(self.device)))

    def step(self, actions: np.ndarray):
        """One action per game; a game that is over begins anew instead, with reward 0."""
        began, world = self.is_over.copy(), self.world
        step = world.step(torch.as_tensor(np.asarray(actions), device=self.device))
        rew, end = step.rew.cpu().numpy().astype(np.float64), step.end.cpu().numpy()
        prob = step.end_prob.cpu().numpy().copy()
        if began.any():  # the step that they took with the others counts for nothing
            tokens = step.tokens.clone()
            tokens[torch.from_numpy(began).to(self.device)] = self.begin(int(began.sum()))
            world.reset(tokens)
            rew[began], end[began], prob[began] = 0.0, False, np.nan
        self.age = np.where(began, 0, self.age + 1)
        truncated = (self.age >= self.limit) & ~end
        self.is_over = end | truncated
        return self.observe(), rew, end, truncated, self.info(prob)

    def observe(self) -> dict[str, np.ndarray]:
        """The newest frames, decoded."""
        self.last = to_images(self.world.frame()).cpu().numpy()
        return {self.key: self.last}

    def info(self, end_prob: np.ndarray) -> dict[str, np.ndarray]:
        """What only a dream can tell."""
        return {"tokens": self.world.tokens.cpu().numpy(), "end_prob": end_prob}

    def render(self) -> tuple[np.ndarray, ...]:
        """The newest frame of every game."""
        return tuple(self.last)


def rollout(
    env: DreamEnv, act: Callable[[dict[str, np.ndarray]], np.ndarray], steps: int, seed: int | None = None
) -> dict[str, np.ndarray]:
    """Play T steps -> rows [N, T + 1, ...] as a replay stores them (common/replay_buffer.py), and tokens.

    act: observations with is_first [N] -> actions [N, ...].  A game that ended begins anew in the next row.
    """
    obs, info = env.reset(seed=seed)
    N, key = env.num_envs, env.key
    rew, over, terminal, rows = np.zeros(N), np.zeros(N, bool), np.zeros(N, bool), []
    is_first = np.ones(N, bool)
    for t in range(steps + 1):
        action = np.asarray(act({**obs, "is_first": is_first}))
        stored = action.copy()
        stored[over if t < steps else ...] = 0
        flags = {"is_first": is_first, "is_last": over.copy(), "is_terminal": terminal}
        rows.append({key: obs[key], "act": stored, "rew": rew, **flags, "tokens": info["tokens"]})
        if t < steps:
            is_first = over
            obs, rew, terminal, truncated, info = env.step(action)
            over = terminal | truncated
    rows[-1]["is_last"] = np.ones(N, bool)
    return {name: np.stack([row[name] for row in rows], 1) for name in rows[0]}
