"""Settings that cannot work are refused before anything is built."""

import pytest

from common.config import override, resolve
from common.errors import UserError
from paper1_world_models.config import MINIMA
from paper1_world_models.presets import PRESETS, SUITES


@pytest.mark.parametrize(
    "wrong",
    [
        {"collect.episodes": 1},
        {"vae.batch": 0},
        {"vae.latents": 0},
        {"vae.width": 0.0},
        {"epochs": -1},
        {"evolve.population": 1},
        {"evolve.eval_episodes": 0},
        {"dream.temperature": 0.0},
        {"collect.holds": ((0, 5),)},
        {"collect.holds": ()},
        {"evolve.patience": 5, "evolve.max_steps": 0},
        {"train_in": "dream", "rnn.done_head": False},
    ],
)
def test_impossible_settings(wrong):
    with pytest.raises(UserError, match="--"):
        override(resolve(PRESETS, SUITES, "tiny", "toy_dodge")[0], wrong).check()


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    "env", ["toy_dodge", "toy_point", "CarRacing-v3", "doom_takecover", "crafter_reward", "CartPole-v1"]
)
def test_every_preset_is_possible_everywhere(preset, env):
    cfg, _ = resolve(PRESETS, SUITES, preset, env)
    cfg.check()


def test_the_minima_name_fields():
    with pytest.raises(ValueError):
        override(PRESETS["tiny"], {"no.such_field": 1})
    for name in MINIMA:
        override(PRESETS["tiny"], {name: MINIMA[name]})
