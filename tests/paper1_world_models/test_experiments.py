"""Every experiment of experiments.py runs on a minuscule run; which dreams visualize.py has a score for."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from common.cli import save_config
from common.config import from_json
from common.errors import UserError
from paper1_world_models import eval as eval_script
from paper1_world_models import rnn, visualize
from paper1_world_models.agent import WorldModelsAgent
from paper1_world_models.config import Config
from paper1_world_models.dream import Starts
from paper1_world_models.experiments import base_row, main
from paper1_world_models.rnn import sample_next
from paper1_world_models.rollout_games import env_spec
from paper1_world_models.train import new_agent, train
from paper1_world_models.variants import PAPER, derive_run


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


def test_eyes_closed_draws_as_m_was_trained_to(base, monkeypatch):
    """With shared mixture weights one component is drawn for all dimensions of z."""
    told = []

    def spy(prediction, temperature, generator, shared_pi=None):
        told.append(shared_pi)
        return sample_next(prediction, temperature, generator, bool(shared_pi))

    monkeypatch.setattr(rnn, "sample_next", spy)
    rows_of(base, "eyes-closed")
    assert set(told) == {WorldModelsAgent.load(base).cfg.rnn.shared_pi}


def test_the_base_runs_row_is_of_the_same_episodes(base, capsys):
    args = SimpleNamespace(base=base, episodes=2, seed=5)
    play = ["--checkpoint", str(base), "--seed", "5", "--episodes"]
    eval_script.main([*play, "3"])
    assert base_row(args) == [] and "--episodes 2 --seed 5" in capsys.readouterr().out
    eval_script.main([*play, "2"])
    assert base_row(args)[0]["real"]["episodes"] == 2


def test_a_base_that_cannot_serve_is_one_line(base, tmp_path):
    for taus in ("nan", "inf", "0"):
        with pytest.raises(UserError, match="--taus"):
            main(["temperature", "--base", str(base), "--taus", taus])
    stored = json.loads((base / "config.json").read_text())
    for text in ("[]", "{", json.dumps({name: stored[name] for name in stored if name != "config"})):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match="not a run folder"):
            main(["sweep", "--base", str(tmp_path)])


def test_variants_of_a_run_that_was_moved_or_lost_its_data(base, tmp_path):
    moved, cfg = tmp_path / "run", from_json(Config, json.loads((base / "config.json").read_text())["config"])
    shutil.copytree(base, moved)
    (tmp_path / "variant").mkdir()
    for name in ("data", "latents"):
        (tmp_path / "variant" / name).symlink_to(tmp_path / "where-it-was" / name)
    derive_run(moved, tmp_path / "variant", cfg, "tiny", ())
    assert (tmp_path / "variant" / "data").resolve() == moved / "data"
    shutil.rmtree(moved / "data")
    with pytest.raises(UserError, match="its data/ is gone"):
        derive_run(moved, tmp_path / "other", cfg, "tiny", ())
    assert not (tmp_path / "other").exists()


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
