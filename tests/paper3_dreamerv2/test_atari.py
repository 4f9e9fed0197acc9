"""What the presets make of Atari: gray 64 x 64, sticky actions, all or minimal ones, raw scores (sheet 6)."""

import numpy as np
import pytest

from common.config import resolve
from common.env_wrapper import EnvSpec, can_terminate
from common.spaces import Spaces
from paper3_dreamerv2.presets import PRESETS, SUITES
from paper3_dreamerv2.train import published


def spec(preset: str, name: str = "atari_pong") -> EnvSpec:
    cfg, _ = resolve(PRESETS, SUITES, preset, name)
    return EnvSpec(name, dict(cfg.env_options))


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("preset, actions", [("paper", 18), ("atari_head", 6), ("cpu", 6)])
def test_the_protocol_is_the_papers_in_training_and_evaluation(preset, actions, mode):
    env = spec(preset).make(mode)
    game = env.unwrapped
    assert env.observation_space["image"].shape == (64, 64, 1)
    assert env.action_space.n == actions
    assert game.ale.getFloat("repeat_action_probability") == 0.25
    assert game.ale.getInt("frame_skip") == 1 and game.frame_skip == 4  # ours alone skips
    assert game.ale.getInt("max_num_frames_per_episode") == 108_000
    assert (game.noop_max, game.life_loss, game.how, game.resize_first) == (30, False, "area", False)
    assert spec(preset).frames_per_step == 4 and can_terminate("atari_pong")


@pytest.mark.parametrize(
    "game, minimal", [("pong", 6), ("breakout", 4), ("space_invaders", 6), ("qbert", 6), ("seaquest", 18)]
)
def test_action_sets(game, minimal):
    for preset, actions in (("paper", 18), ("atari_head", minimal)):
        assert spec(preset, f"atari_{game}").make().action_space.n == actions


@pytest.mark.parametrize("name", ["atari_jamesbond", "atari_james_bond", "ALE/Jamesbond-v5"])
def test_james_bond_has_several_names(name):
    assert spec("paper", name).make().action_space.n == 18


def test_many_games_at_once_see_the_same_kind_of_picture():
    envs = spec("paper", "atari_breakout").make_vector(2)
    assert Spaces.of(envs) == Spaces({"image": (64, 64, 1)}, 18, True)
    obs, _ = envs.reset(seed=[0, 1])
    assert obs["image"].shape == (2, 64, 64, 1) and obs["image"].dtype == np.uint8 and obs["image"].any()
    envs.close()
    assert published(PRESETS["paper"], Spaces.of(spec("paper").make())) is not None
    assert published(PRESETS["paper"], Spaces.of(spec("atari_head").make())) is None


def test_rewards_of_the_env_are_raw_whatever_the_learner_makes_of_them():
    cfg, _ = resolve(PRESETS, SUITES, "paper", "atari_ms_pacman")
    assert cfg.model.reward_transform == "tanh"
    env = spec("paper", "atari_ms_pacman").make()
    env.reset(seed=0)
    assert max(env.step(3)[1] for _ in range(100)) >= 10  # a pill
