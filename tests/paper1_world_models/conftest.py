"""Small settings of paper 1 that run in seconds."""

from collections.abc import Callable

import pytest

from common.config import override
from paper1_world_models.config import Config
from paper1_world_models.presets import PRESETS, SUITES

SMALL = {
    "env_options": {"size": 16},
    "controller.actions": "thirds",
    "collect.episodes": 12,
    "collect.again_frames": 150,
    "vae.size": 16,
    "vae.latents": 4,
    "vae.updates": 8,
    "rnn.hidden": 8,
    "rnn.batch": 4,
    "rnn.length": 8,
    "rnn.updates": 7,
    "rnn.again_updates": 3,
    "generations": 2,
    "eval_every": 1,
    "evolve.population": 4,
    "evolve.rollouts": 2,
    "evolve.eval_episodes": 2,
    "evolve.max_steps": 30,
    "checkpoint_every": 3,
    "gates": "warn",
}


@pytest.fixture(scope="session")
def small() -> Callable[..., Config]:
    """toy_dodge in a second: small(generations=1, **{"vae.updates": 4})."""
    return lambda **more: override(PRESETS["tiny"], {**SUITES["toy"]["tiny"], **SMALL, **more})


@pytest.fixture(scope="session")
def small_flags() -> list[str]:
    """The same on the command line."""
    flags = []
    for name, value in SMALL.items():
        words = sum(value.items(), ()) if isinstance(value, dict) else (value,)
        flags += [f"--{name.replace('_', '-')}", *map(str, words)]
    return flags
