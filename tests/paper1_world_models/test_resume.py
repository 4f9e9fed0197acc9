"""Resuming under other circumstances: more workers, changed flags, torn files, an interrupt."""

import json
import shutil
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from common.checkpoint import load_file
from common.cli import save_config
from common.env_wrapper import EnvSpec
from common.errors import UserError
from common.faults import SignalGuard
from common.shards import open_shards
from paper1_world_models import dataset, experiments
from paper1_world_models.collect import collect
from paper1_world_models.rollout_games import env_spec
from paper1_world_models.train import main, open_data, train


def weights(folder: Path) -> dict:
    return load_file(folder / "model.pt")["weights"]


def same(ours: dict, theirs: dict) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.mark.parametrize("remembered", [True, False])
def test_more_workers_on_resume_change_nothing(tmp_path, remembered, small):
    train(small(iterations=2), tmp_path, "cpu", "all")
    before = weights(tmp_path)
    if not remembered:  # a folder of an earlier version
        (tmp_path / "data" / "workers.json").unlink()
    train(small(iterations=2, num_envs=2), tmp_path, "cpu", "all")
    assert same(weights(tmp_path), before)
    assert [f.name for f in open_shards(tmp_path / "data").folders] == ["00-00", "01-00"]


def test_latents_of_other_frames_are_refused(tmp_path, small):
    train(small(), tmp_path, "cpu", "rnn")
    path = tmp_path / "latents" / "00.npy"
    np.save(path, np.load(path)[:, :-3])
    with pytest.raises(UserError, match="remove"):
        dataset.encode_shards(None, open_data(tmp_path, 0), tmp_path / "latents", 0)


def test_flags_that_do_not_fit_the_run_are_refused(tmp_path, small):
    cfg = small()
    train(cfg, tmp_path, "cpu", "all")
    save_config(tmp_path, cfg, paper="paper1_world_models", preset="tiny")
    files = {path: path.read_bytes() for path in (tmp_path / "config.json", tmp_path / "model.pt")}
    for flag, value in (
        ("--vae.latents", "6"),
        ("--rnn.hidden", "16"),
        ("--controller.inputs", "z"),
        ("--rnn.updates", "9"),  # too late: C has learned with M as it is
    ):
        with pytest.raises(UserError, match=f"{flag} {value}.*new run"):
            main(["--resume", str(tmp_path), flag, value])
        assert all(path.read_bytes() == content for path, content in files.items()), flag
    main(["--resume", str(tmp_path), "--generations", "3", "--vae.latents", "4"])
    assert load_file(tmp_path / "model.pt")["config"]["generations"] == 3


def test_m_can_be_trained_longer_until_c_has_begun(tmp_path, small):
    train(small(), tmp_path, "cpu", "rnn")
    save_config(tmp_path, small(), paper="paper1_world_models", preset="tiny")
    main(["--resume", str(tmp_path), "--rnn.updates", "9", "--stage", "rnn"])
    assert load_file(tmp_path / "model.pt")["config"]["rnn"]["updates"] == 9


def test_a_stopped_run_says_so_and_a_collected_one_has_no_model(tmp_path, monkeypatch, capsys, small):
    save_config(tmp_path, small(iterations=2), paper="paper1_world_models", preset="tiny")
    main(["--resume", str(tmp_path), "--stage", "collect"])  # of two passes: only the first can be collected
    out = capsys.readouterr().out
    assert "done:" not in out and "stage collect ended: python train.py --resume" in out
    assert not (tmp_path / "model.pt").exists()
    monkeypatch.setattr("common.faults.SignalGuard", Stopping)
    with pytest.raises(SystemExit) as stop:
        main(["--resume", str(tmp_path)])
    out = capsys.readouterr().out
    assert stop.value.code == 130 and "stopped" in out and "done:" not in out
    assert train(small(), tmp_path, "cpu", "all") is False


class Stopping(SignalGuard):
    """Somebody pressed Ctrl-C before anything began."""

    def __init__(self):
        super().__init__()
        self.stop_requested = True


def test_torn_files_are_written_anew(tmp_path, small):
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    whole.mkdir()
    train(small(iterations=2), whole, "cpu", "all")
    shutil.copytree(whole, torn)
    for name in ("model.pt", "latents/00.npy", "latents/01.npy"):
        content = (torn / name).read_bytes()
        (torn / name).write_bytes(content[: len(content) // 2])
    train(small(iterations=2), torn, "cpu", "all")
    assert same(weights(torn), weights(whole))
    for name in ("latents/00.npy", "latents/01.npy"):
        np.testing.assert_array_equal(np.load(torn / name), np.load(whole / name))


class Repeating(EnvSpec):
    """An environment that takes two frames per action."""

    frames_per_step = 2


def test_steps_are_frames_of_the_environment(tmp_path, small):
    cfg = small(steps=40, **{"collect.max_steps": 4})
    collect(cfg, Repeating("toy_dodge", env_spec(cfg).options), tmp_path, 0, None, lambda frames: False)
    assert open_shards(tmp_path).total == 20  # four episodes of five rows


def test_the_start_block_counts_frames(capsys):
    pytest.importorskip("vizdoom")
    main("--env doom_takecover --preset tiny --steps 40 --dry-run".split())
    assert "frames to come: 40 = 10 policy steps" in capsys.readouterr().out


@pytest.fixture
def base(tmp_path, small):
    """A finished run, in the real environment on the plain basis."""
    folder = tmp_path / "base"
    cfg = small()
    save_config(folder, cfg, paper="paper1_world_models", preset="tiny")
    train(cfg, folder, "cpu", "all")
    return folder


def test_variants_of_other_settings_are_not_taken_over(base):
    command = ["undertrained", "--base", str(base), "--episodes", "2", "--rnn-updates"]
    experiments.main([*command, "3"])
    experiments.main([*command, "3"])  # the same again is finished already
    model = base.parent / "base-undertrained" / "under_trained_model" / "model.pt"
    before = model.read_bytes()
    with pytest.raises(UserError, match="remove that folder"):
        experiments.main([*command, "2"])
    assert model.read_bytes() == before
    manifest = base / "state" / "vae-00" / "manifest.json"
    manifest.write_text(manifest.read_text() + " ")
    with pytest.raises(UserError, match="trained further: remove that folder"):
        experiments.main([*command, "3"])


def test_the_ablation_has_four_rows(base, small):
    command = ["ablation", "--base", str(base), "--episodes", "2"]
    other = {"score": {"mean": 8.0, "sd": 1.0}, "seed": 5, "returns": [8.0, 8.0]}
    (base / "eval.json").write_text(json.dumps(other))  # of other episodes than the variants play
    experiments.main(command)
    assert len(json.loads((base / "experiment-ablation.json").read_text())["rows"]) == 3
    own = {"score": {"mean": 7.0, "sd": 1.0}, "seed": 0, "returns": [7.0, 7.0]}
    (base / "eval.json").write_text(json.dumps(own))
    experiments.main(command)
    rows = json.loads((base / "experiment-ablation.json").read_text())["rows"]
    labels = [row["label"] for row in rows]
    assert labels == ["z only", "z + hidden layer", "untrained LSTM", experiments.FULL]
    assert rows[-1]["real"]["mean"] == 7.0
    for changed in ({"train_in": "dream"}, {"evolve.basis": "pca"}, {"iterations": 2}):
        planned = experiments.variants(Namespace(name="ablation", generations=0), small(**changed))
        assert list(planned) == labels and planned[experiments.FULL][1] == ("vae-00", "rnn-00")
        assert {overrides["evolve.basis"] for overrides, _ in planned.values()} == {"plain"}


def test_a_stopped_experiment_stops(base, monkeypatch, capsys):
    monkeypatch.setattr("common.faults.SignalGuard", Stopping)
    with pytest.raises(SystemExit) as stop:
        experiments.main(["cheat", "--base", str(base), "--episodes", "1e0"])
    assert stop.value.code == 130 and "the same command goes on" in capsys.readouterr().out
    assert len(list((base.parent / "base-cheat").iterdir())) == 1  # the second variant has not begun


@pytest.mark.parametrize("flags", ["--episodes 0", "--taus 0.5 0", "--taus -1", "--episodez 3"])
def test_bad_flags_of_experiments(tmp_path, flags):
    with pytest.raises(UserError, match=flags.split()[0]):
        experiments.main(["temperature", "--base", str(tmp_path), *flags.split()])


def test_a_stopped_demo_plays_nothing(tmp_path, monkeypatch, capsys, small):
    from scripts import demo

    monkeypatch.setattr(demo, "FOLDER", tmp_path)
    save_config(tmp_path, small(), paper="paper1_world_models", preset="tiny")
    monkeypatch.setattr("common.faults.SignalGuard", Stopping)
    monkeypatch.setattr("paper1_world_models.eval.main", None)
    with pytest.raises(SystemExit):
        demo.main()
    assert "make demo" in capsys.readouterr().out
