"""Resuming under other circumstances: more workers, changed flags, torn files, an interrupt."""

from pathlib import Path

import numpy as np
import pytest
import torch

from common.checkpoint import load_file
from common.config import override
from common.errors import UserError
from common.shards import open_shards
from paper1_world_models import dataset
from paper1_world_models.config import PRESETS, SUITES
from paper1_world_models.train import open_data, train

SMALL = {
    "env_options": {"size": 16},
    "controller.actions": "thirds",
    "collect.episodes": 6,
    "collect.again_frames": 150,
    "vae.size": 16,
    "vae.latents": 4,
    "vae.updates": 4,
    "rnn.hidden": 8,
    "rnn.batch": 4,
    "rnn.length": 8,
    "rnn.updates": 4,
    "rnn.again_updates": 3,
    "generations": 1,
    "eval_every": 0,
    "evolve.population": 4,
    "evolve.rollouts": 2,
    "evolve.eval_episodes": 2,
    "evolve.max_steps": 20,
    "gates": "warn",
}


def small(**more):
    return override(PRESETS["tiny"], {**SUITES["toy"]["tiny"], **SMALL, **more})


def weights(folder: Path) -> dict:
    return load_file(folder / "model.pt")["weights"]


def same(ours: dict, theirs: dict) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.mark.parametrize("remembered", [True, False])
def test_more_workers_on_resume_change_nothing(tmp_path, remembered):
    train(small(iterations=2), tmp_path, "cpu", "all")
    before = weights(tmp_path)
    if not remembered:  # a folder of an earlier version
        (tmp_path / "data" / "workers.json").unlink()
    train(small(iterations=2, num_envs=2), tmp_path, "cpu", "all")
    assert same(weights(tmp_path), before)
    assert [f.name for f in open_shards(tmp_path / "data").folders] == ["00-00", "01-00"]


def test_latents_of_other_frames_are_refused(tmp_path):
    train(small(), tmp_path, "cpu", "rnn")
    path = tmp_path / "latents" / "00.npy"
    np.save(path, np.load(path)[:, :-3])
    with pytest.raises(UserError, match="remove"):
        dataset.encode_shards(None, open_data(tmp_path, 0), tmp_path / "latents", 0)
