"""From environment to M: an action must meet the frame it was chosen at, and the frame it led to.

The environment's picture shows the last action; latents are read straight off the picture instead of V, so
that nothing but the pairing of rows can make the prediction good or bad.
"""

import gymnasium as gym
import numpy as np
import pytest
import torch

from common.shards import ShardWriter, open_shards
from paper1_world_models.collect import play_episode, row_fields
from paper1_world_models.config import CollectConfig, RNNConfig
from paper1_world_models.controller import make_codec
from paper1_world_models.dataset import Latents, Windows, make_batch
from paper1_world_models.policies import Held
from paper1_world_models.rnn import MDNRNN, mdn_nll


class LastAction(gym.Env):
    """Three patches; the one of the last action is white."""

    observation_space = gym.spaces.Dict({"image": gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)})
    action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.picture(None), {}

    def step(self, action):
        self.t += 1
        return self.picture(action), 0.0, False, self.t == 40, {}

    def picture(self, action):
        image = np.zeros((16, 16, 3), np.uint8)
        if action is not None:
            image[:, 5 * action : 5 * action + 5] = 255
        return {"image": image}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Latents:
    folder, env = tmp_path_factory.mktemp("alignment"), LastAction()
    codec, cfg = make_codec(env.action_space), CollectConfig(max_steps=40)
    rng = np.random.default_rng(0)
    with ShardWriter(folder / "00-00", row_fields((16, 16, 3), 3)) as writer:
        for i in range(20):
            policy = Held(CollectConfig(holds=((1, 1),)), codec, i, rng)
            writer.add_episode(play_episode(env, codec, policy, cfg, i)[0], index=i)
    shards = open_shards(folder)
    rows = shards.rows(np.arange(shards.total))
    mu = rows["image"][:, 8, [2, 7, 12], 0].astype(np.float16) / 255 * 2 - 1  # [R, 3] one of them +1
    fields = {k: rows[k] for k in ("act", "rew", "is_first", "is_last", "is_terminal")}
    episodes = np.stack([shards.first, shards.episodes[:, 2]], 1)
    return Latents(mu, np.full_like(mu, -5), **fields, episodes=episodes)


def nll_after_training(data: Latents, shift: int) -> float:
    """Train a small M on actions moved by `shift` rows; held-out-free, for there is nothing to overfit."""
    torch.manual_seed(0)
    shifted = Latents(**{**vars(data), "act": np.roll(data.act, shift, 0)})
    rnn = MDNRNN(RNNConfig(hidden=16, mixtures=2), 3, 3)
    optim = torch.optim.Adam(rnn.parameters(), lr=1e-2)
    batches = Windows(shifted, np.arange(20), 16, 20, seed=0)
    generator, scores = torch.Generator().manual_seed(0), []
    for step in range(150):
        batch = make_batch(shifted, batches(step), generator, True, "cpu")
        hidden, _ = rnn(batch.z[:, :-1], batch.act, batch.restart, rnn.initial(16))
        nll = mdn_nll(rnn.predict(hidden), batch.z[:, 1:])[batch.valid].mean()
        optim.zero_grad()
        nll.backward()
        optim.step()
        scores.append(nll.item())
    return float(np.mean(scores[-20:]))


def test_the_next_frame_follows_from_the_action_chosen_here(data):
    right, late, early = (nll_after_training(data, shift) for shift in (0, 1, -1))
    assert right < -0.5  # far below the 1.4189 of N(0, 1)
    # One row off, and M has to guess one of three actions: ln 3 nats, over three dimensions.
    assert late > right + 0.25 and early > right + 0.25
