"""Small settings of paper 1 that run in seconds; and the user's ./model.pt stays as it is."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from common.config import override
from paper1_world_models.config import Config
from paper1_world_models.presets import PRESETS, SUITES

LINK = Path(__file__).parents[2] / "paper1_world_models" / "model.pt"
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


@pytest.fixture(autouse=True)
def kept_link(tmp_path_factory):
    """train.py points ./model.pt at its newest run; one in a test's folder would soon be gone."""
    before = os.readlink(LINK) if LINK.is_symlink() else None
    yield
    ours = LINK.is_symlink() and LINK.resolve().is_relative_to(tmp_path_factory.getbasetemp().resolve())
    if ours:
        LINK.unlink()
        if before is not None:
            os.symlink(before, LINK)
