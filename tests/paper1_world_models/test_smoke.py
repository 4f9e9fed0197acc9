"""The whole of paper 1 in seconds: V, M and C each beat their baseline on 16 x 16 pixels."""

import numpy as np

from common.config import override
from common.evaluate import evaluate
from common.logger import read_metrics
from paper1_world_models.agent import WorldModelsAgent
from paper1_world_models.presets import PRESETS, SUITES
from paper1_world_models.train import train

SMOKE = {
    "env_options": {"size": 16},
    "collect.episodes": 300,
    "vae.size": 16,
    "vae.latents": 8,
    "vae.width": 0.5,
    "vae.updates": 700,
    "rnn.hidden": 16,
    "rnn.updates": 150,
    "generations": 20,
    "eval_every": 0,
    "evolve.population": 24,
    "evolve.rollouts": 4,
    "gates": "warn",
}


def test_every_stage_beats_its_baseline(tmp_path):
    settings = {**SUITES["toy"]["tiny"], **SUITES["toy_dodge"]["tiny"], **SMOKE}
    train(override(PRESETS["tiny"], settings), tmp_path, "cpu", "all")
    last = {}
    for row in read_metrics(tmp_path / "metrics.jsonl"):
        last |= {name: value for name, value in row.items() if name.startswith("test_")}
    assert last["test_recon"] < last["test_mean_image"] / 2
    assert last["test_nll"] < last["test_nll_standard_normal"]
    returns = evaluate(WorldModelsAgent.load(tmp_path), None, 100, 0).returns
    random = 27.4  # common/envs/toy_scores.json
    assert returns.mean() - random > 3 * returns.std() / np.sqrt(len(returns))
