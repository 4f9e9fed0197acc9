"""Random policies: what they put out, how long they hold it, and the authors' Cauchy networks."""

import numpy as np
import pytest
import torch

from common.config import override, resolve
from common.errors import UserError
from paper1_world_models.config import CollectConfig
from paper1_world_models.controller import ActionCodec
from paper1_world_models.policies import Brownian, Held, Networks, noop, random_action, random_networks
from paper1_world_models.presets import PRESETS, SUITES
from paper1_world_models.rollout_games import env_spec, make_pixels

CAR = ActionCodec("car", 3, (-1.0, 0.0, 0.0), (1.0, 1.0, 1.0))
THIRDS, ARGMAX = ActionCodec("thirds", 1), ActionCodec("argmax", 4)
FRAME = np.zeros((16, 16, 3), np.uint8)


@pytest.mark.parametrize("codec", [CAR, THIRDS, ARGMAX, ActionCodec("tanh", 2, (-1.0, -2.0), (1.0, 2.0))])
def test_random_actions_are_legal(codec):
    rng = np.random.default_rng(0)
    for act in [noop(codec), *(random_action(codec, rng) for _ in range(50))]:
        assert act.shape == (codec.size,) and act.dtype == np.float32
        if codec.low:
            assert (act >= np.float32(codec.low)).all() and (act <= np.float32(codec.high)).all()
        assert np.array_equal(codec.from_env(codec.to_env(act[None])), act[None])


def test_actions_are_held_as_long_as_the_episode_says():
    cfg, rng = CollectConfig(holds=((1, 1), (5, 9))), np.random.default_rng(0)

    def runs(index):
        policy = Held(cfg, CAR, index, rng)
        acts = np.stack([policy(FRAME) for _ in range(200)])
        change = np.flatnonzero((acts[1:] != acts[:-1]).any(1)) + 1
        return np.diff(np.concatenate([[0], change]))

    assert set(runs(0)) == {1}
    assert runs(1).min() >= 5 and runs(1).max() <= 9


def test_the_share_of_no_ops():
    rng = np.random.default_rng(0)
    policy = Held(CollectConfig(holds=((1, 1),), noop_prob=(0.7,)), THIRDS, 0, rng)
    acts = np.array([policy(FRAME)[0] for _ in range(4000)])
    assert (acts == 0).mean() == pytest.approx(0.7, abs=0.03)
    assert (acts == 1).mean() == pytest.approx(0.15, abs=0.03)


def test_brownian_steps_are_small_and_bounded():
    policy = Brownian(CAR, np.random.default_rng(0))
    acts = np.stack([policy(FRAME) for _ in range(500)])
    assert np.diff(acts[:, 0]).std() == pytest.approx(np.sqrt(1 / 50), rel=0.2)
    assert np.abs(acts[:, 0]).max() <= 1 and acts[:, 1:].min() >= 0
    with pytest.raises(UserError, match="Box"):
        Brownian(THIRDS, np.random.default_rng(0))


def test_cauchy_networks_drive_with_finite_actions():
    cfg = override(
        PRESETS["tiny"], {"vae.size": 16, "vae.latents": 4, "rnn.hidden": 8, "controller.actions": "car"}
    )
    rng, frames = np.random.default_rng(0), np.random.default_rng(1)
    first = []
    for _ in range(5):
        player, params = random_networks(cfg, CAR, rng)
        policy = Networks(player, params, 4, rng, None, 0.0)
        acts = np.stack([policy(frames.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in range(20)])
        assert np.isfinite(acts).all() and acts.shape == (20, 3)
        first.append(acts[0])
        weights = np.concatenate([p.detach().numpy().ravel() for p in player.vae.parameters()])
        spread = np.median(
            np.abs(weights)
        )  # the median of |Cauchy(0, s)| is s, the same for all of a network
        halves = [np.median(np.abs(p.detach().numpy())) for p in player.vae.parameters() if p.numel() > 2000]
        assert 0 < spread < 0.012 and max(halves) < 1.3 * min(halves)
    assert np.std(first, axis=0).max() > 0


def test_cauchy_networks_see_little_of_the_track():
    """As the other random policies (tests/common/test_car_racing.py): under 12 % of the tiles."""
    pytest.importorskip("Box2D")
    small = {"vae.size": 16, "env_options": {"render": "fast", "size": 16, "crop": True}}
    cfg = override(resolve(PRESETS, SUITES, "tiny", "CarRacing-v3")[0], small)
    env, seen = make_pixels(env_spec(cfg)), []
    for seed in range(4):
        rng, (obs, _), steps, over = np.random.default_rng(seed), env.reset(seed=seed), 0, False
        torch.manual_seed(seed)
        policy = Networks(*random_networks(cfg, CAR, rng), cfg.vae.latents, rng, None, 0.0)
        while not over and steps < 1000:
            obs, _, terminated, truncated, _ = env.step(CAR.to_env(policy(obs["image"])))
            steps, over = steps + 1, terminated or truncated
        track = env.get_wrapper_attr("core")
        seen.append(track.tile_visited_count / len(track.track))
    assert 0 < min(seen) and max(seen) < 0.12, seen
