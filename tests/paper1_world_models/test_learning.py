"""That the agent learns: the tiny presets of toy_dodge, both ways (minutes each; `make learn`)."""

import numpy as np
import pytest

from common.config import override
from common.env_wrapper import scores
from common.evaluate import evaluate
from common.metrics import way_to_optimum
from paper1_world_models.agent import WorldModelsAgent
from paper1_world_models.presets import PRESETS, SUITES
from paper1_world_models.train import train


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["tiny", "tiny-dream"])
def test_toy_dodge_is_learned(tmp_path, preset):
    cfg = override(PRESETS[preset], {**SUITES["toy"][preset], **SUITES["toy_dodge"][preset], "seed": 7})
    train(cfg, tmp_path, "cpu", "all")
    returns = evaluate(WorldModelsAgent.load(tmp_path), None, 100, 0).returns
    baselines = scores("toy_dodge", {})
    levels = {name: baselines[name]["value"] for name in ("random", "blind", "optimum")}
    assert way_to_optimum(np.mean(returns), **levels) > 0.8


@pytest.mark.slow
def test_a_hard_cutoff_is_cheated(tmp_path):
    """A dream that only ends above one half is easy to survive; the real game is not (the article, 4.4)."""
    base = SUITES["toy"]["tiny-dream"] | SUITES["toy_dodge"]["tiny-dream"]
    one_pass = {**base, "iterations": 1, "dream.done": "cutoff", "gates": "warn", "seed": 7}
    train(override(PRESETS["tiny-dream"], one_pass), tmp_path, "cpu", "all")
    from paper1_world_models.dream import dream_score

    agent = WorldModelsAgent.load(tmp_path)
    assert dream_score(agent, 1.0, 100, 0).mean() > 1.3 * evaluate(agent, None, 100, 0).returns.mean()
