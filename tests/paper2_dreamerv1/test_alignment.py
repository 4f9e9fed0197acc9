"""From the environment to the prior: the action that led to a row must arrive with that row (sheet 12.8).

The picture shows the last action and nothing else, so only the pairing of rows decides how good a prior is.
"""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from common.collector import Collector
from common.replay_buffer import ReplayBuffer
from common.spaces import Spaces
from paper2_dreamerv1.buffer import sample
from paper2_dreamerv1.networks import preprocess
from paper2_dreamerv1.world_model import WorldModel

EPISODE = 12


class LastAction(gym.Env):
    """Brightness (a + 1) / 2; black at first."""

    observation_space = gym.spaces.Dict({"image": gym.spaces.Box(0, 255, (32, 32, 1), np.uint8)})
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.picture(-1.0), {}

    def step(self, action):
        self.t += 1
        return self.picture(float(action[0])), 0.0, False, self.t == EPISODE, {}

    def picture(self, action):
        return {"image": np.full((32, 32, 1), round(255 * (action + 1) / 2), np.uint8)}


def collect() -> tuple[ReplayBuffer, Spaces]:
    envs = SyncVectorEnv([LastAction] * 2, autoreset_mode=AutoresetMode.NEXT_STEP)
    spaces, rng = Spaces.of(envs), np.random.default_rng(0)
    replay = ReplayBuffer(2_000, spaces.fields(), 2, seed=0)
    collector = Collector(envs, replay, 1, seed=0)
    collector.begin(0)
    for _ in range(200):
        collector.step(lambda obs: (spaces.random(rng, 2), {}))
    collector.end_episodes()
    return replay, spaces


def prior_error(cfg, shift: int) -> tuple[float, float]:
    """Squared error of the prior's pictures, and of the mean one, trained with actions `shift` rows late."""
    torch.manual_seed(0)
    replay, spaces = collect()
    model = WorldModel(cfg, spaces, False)
    optim, errors, baseline = torch.optim.Adam(model.parameters(), lr=1e-2), [], []
    for step in range(60):
        batch = sample(replay, 8, 6, "uniform", spaces, torch.device("cpu"))
        batch["prev_act"] = batch["prev_act"].roll(shift, 1)
        losses, post, _ = model.loss(batch)
        optim.zero_grad()
        (losses["image"].mean() + losses["kl"].mean()).backward()
        optim.step()
        if step >= 50:
            with torch.no_grad():
                prior = model.rssm.prior(post.deter)
                guess = post._replace(stoch=prior.chunk(2, -1)[0]).feat
                truth = preprocess(batch["image"])
                inside = ~batch["is_first"] & ~batch["is_first"].roll(1, 1)  # rows that got a real action
                errors.append((model.decoder(guess)["image"] - truth)[inside].square().mean().item())
                baseline.append(truth[inside].var(correction=0).item())
    return float(np.mean(errors)), float(np.mean(baseline))


@pytest.mark.parametrize("shift", [0, 1])
def test_the_prior_knows_the_picture_that_an_action_leads_to(small, shift):
    error, baseline = prior_error(small(**{"rssm.deter": 32, "rssm.hidden": 32}), shift)
    assert baseline == pytest.approx(1 / 12, abs=0.01)
    if shift == 0:
        assert error < 0.2 * baseline
    else:  # a row late, and nothing beats the mean (one that comes early can be remembered)
        assert error > 0.8 * baseline
