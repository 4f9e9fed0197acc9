"""Every experiment of experiments.py runs on a minuscule run; which dreams visualize.py has a score for."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from common.cli import save_config
from paper1_world_models import visualize
from paper1_world_models.dream import Starts
from paper1_world_models.experiments import main
from paper1_world_models.rollout_games import env_spec
from paper1_world_models.train import new_agent, train
from paper1_world_models.variants import PAPER


@pytest.fixture(scope="module")
def base(tmp_path_factory, small) -> Path:
    folder = tmp_path_factory.mktemp("experiments") / "run"
    folder.mkdir()
    cfg = small(generations=1, **{"dream.max_steps": 12, "dream.starts": 4})
    save_config(folder, cfg, paper=PAPER, preset="tiny")
    train(cfg, folder, "cpu", "all")
    return folder


def rows_of(base: Path, *args: str) -> list[dict]:
    main([*args, "--base", str(base), "--episodes", "2"])
    assert (base / f"experiment-{args[0]}.png").stat().st_size > 0
    return json.loads((base / f"experiment-{args[0]}.json").read_text())["rows"]


def test_the_sweep_has_both_worlds_for_every_half_period(base):
    rows = rows_of(base, "sweep")
    assert len(rows) == 11 and [row["half_period"] for row in rows] == sorted(r["half_period"] for r in rows)
    assert all(0 < row["dream"]["mean"] <= 12 and row["real"]["mean"] >= 19 for row in rows)


def test_eyes_closed_is_played_beside_eyes_open(base):
    rows = rows_of(base, "eyes-closed")
    assert [row["label"] for row in rows] == ["eyes open", "eyes closed"]
    assert all(19 <= row["real"]["mean"] <= 200 for row in rows)


def test_a_controller_is_evolved_at_every_temperature(base):
    rows = rows_of(base, "temperature", "--taus", "0.5", "1.3", "--generations", "1")
    assert [row["label"] for row in rows] == ["tau 0.5", "tau 1.3"]
    assert all(0 < row["dream"]["mean"] <= 12 and row["real"]["mean"] >= 19 for row in rows)
    for tau in (0.5, 1.3):
        folder = base.parent / "run-temperature" / f"tau_{tau}"
        assert json.loads((folder / "config.json").read_text())["config"]["dream"]["temperature"] == tau


@pytest.mark.parametrize(
    "done, reward, scored", [(True, "survival", True), (False, "head", True), (False, "survival", False)]
)
def test_temperature_is_drawn_against_score_wherever_dreams_have_one(
    tmp_path, monkeypatch, small, done, reward, scored
):
    for name in ("four_views", "traversal", "temperature_dreams"):
        monkeypatch.setattr(visualize, name, lambda *args: tmp_path)
    heads = {"rnn.done_head": done, "rnn.reward_head": reward == "head", "dream.reward": reward}
    cfg = small(**heads, **{"dream.max_steps": 3})
    agent = new_agent(cfg, env_spec(cfg), "cpu")
    agent.starts = Starts(*torch.randn(2, 5, cfg.vae.latents))
    args = SimpleNamespace(temperatures=(0.5, 1.0), seed=0, latents=2, checkpoint=tmp_path / "model.pt")
    files = visualize.extras(agent, None, tmp_path, args)
    assert (files[-1].name == "temperature_score.png") == scored
    assert (tmp_path / "temperature_score.png").exists() == scored
