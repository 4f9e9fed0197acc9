"""The whole procedure on a tiny scale: it runs, and resumes bit for bit from anywhere."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import common.faults
from common.checkpoint import load_file
from common.errors import UserError
from common.shards import open_shards
from paper1_world_models.agent import WorldModelsAgent
from paper1_world_models.train import main, train


def weights(folder: Path) -> dict:
    return load_file(folder / "model.pt")["weights"]


class StopAfter(common.faults.SignalGuard):
    """A guard that asks the run to leave at the n-th time somebody looks."""

    looks = 10**9

    def __init__(self):
        super().__init__()
        self.left = StopAfter.looks

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    @property
    def stop_requested(self) -> bool:
        self.left -= 1
        return self.left <= 0

    @stop_requested.setter
    def stop_requested(self, value):
        pass


@pytest.mark.parametrize("train_in", ["real", "dream"])
def test_a_run_that_is_stopped_everywhere_ends_with_the_same_bits(tmp_path, monkeypatch, train_in, small):
    cfg = small(iterations=2, train_in=train_in, **{"evolve.basis": "pca"})
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir(), broken.mkdir()
    train(cfg, whole, "cpu", "all")
    monkeypatch.setattr(common.faults, "SignalGuard", StopAfter)
    stops = 0
    for i in range(60):
        # Less than any stage has steps, so every stage is left at least once; a generation with its score is
        # played in one go or not at all, which takes more looks.
        StopAfter.looks = 3 if (i + 1) % 9 else 140
        train(cfg, broken, "cpu", "all")
        if (broken / "model.pt").exists() and load_file(broken / "model.pt")["extra"][
            "stage"
        ] == "controller":
            iterations = {f.name[:2] for f in (broken / "data").iterdir()}
            state = broken / "state" / "controller-01" / "manifest.json"
            if (
                "01" in iterations
                and state.exists()
                and json.loads(state.read_text())["versions"][-1]["step"] == 2
            ):
                break
        stops += 1
    assert stops > 7
    StopAfter.looks = 10**9
    train(cfg, broken, "cpu", "all")  # a finished run does nothing more
    ours, theirs = weights(broken), weights(whole)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name
    drop = {"wall_s", "cpu_s"}
    tables = [np.genfromtxt(f / "curve.csv", delimiter=",", names=True) for f in (whole, broken)]
    for column in set(tables[0].dtype.names) - drop:
        np.testing.assert_array_equal(tables[0][column], tables[1][column], column)


def test_stages_can_be_run_alone(tmp_path, small):
    cfg = small()
    for stage, expected in (("collect", None), ("vae", "vae"), ("rnn", "rnn"), ("controller", "controller")):
        train(cfg, tmp_path, "cpu", stage)
        if expected:
            assert load_file(tmp_path / "model.pt")["extra"]["stage"] == expected
    agent = WorldModelsAgent.load(tmp_path)
    assert np.any(agent.params)


@pytest.mark.parametrize("stage, words", [("vae", "--resume"), ("all", "eval.py")])
def test_the_last_line_is_what_can_be_typed_next(tmp_path, small_flags, capsys, stage, words):
    main(["--preset", "tiny", "--logdir", str(tmp_path / "run"), "--stage", stage, *small_flags])
    last = capsys.readouterr().out.splitlines()[-1]
    assert words in last and ("eval.py" in last) == (stage == "all")


def test_the_same_seed_gives_the_same_run_and_another_does_not(tmp_path, small):
    runs = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        train(small(seed=seed, generations=1), tmp_path / name, "cpu", "all")
        runs[name] = weights(tmp_path / name)
    assert all(torch.equal(runs["a"][k], runs["b"][k]) for k in runs["a"])
    assert not torch.equal(runs["a"]["controller"], runs["c"]["controller"])


def test_rows_are_stored_as_the_convention_says(tmp_path, small):
    train(small(), tmp_path, "cpu", "collect")
    shards = open_shards(tmp_path / "data")
    for i in range(len(shards.episodes)):
        rows = shards.episode(i)
        assert rows["is_first"][0] and not rows["is_first"][1:].any()
        assert rows["is_last"][-1] and not rows["is_last"][:-1].any()
        assert rows["rew"][0] == 0 and not rows["act"][-1].any()
        assert set(np.unique(rows["act"])) <= {-1.0, 0.0, 1.0}
        assert rows["is_terminal"][-1] == (len(rows["rew"]) < 201)


def test_workers_share_the_episodes(tmp_path, small):
    episodes = {}
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        folder.mkdir()
        train(small(num_envs=workers), folder, "cpu", "collect")
        shards = open_shards(folder / "data")
        assert len(shards.folders) == workers
        episodes[workers] = {info["index"]: shards.episode(i) for i, info in enumerate(shards.info)}
    assert sorted(episodes[1]) == sorted(episodes[2]) == list(range(12))
    for index, rows in episodes[1].items():  # the same episodes whoever plays them
        for name in rows:
            np.testing.assert_array_equal(rows[name], episodes[2][index][name], f"{name} of {index}")


def test_gates_stop_a_bad_model(tmp_path, small):
    with pytest.raises(UserError, match="gate of V failed"):
        train(small(gates="stop"), tmp_path, "cpu", "all")


def test_the_clocks_go_on_over_a_resume(tmp_path, small):
    train(small(generations=1, eval_every=1), tmp_path, "cpu", "all")
    first = np.genfromtxt(tmp_path / "curve.csv", delimiter=",", names=True)
    begin = time.time()
    train(small(generations=2, eval_every=1), tmp_path, "cpu", "all")
    both = np.genfromtxt(tmp_path / "curve.csv", delimiter=",", names=True)
    assert both["wall_s"][0] == first["wall_s"]
    assert first["wall_s"] < both["wall_s"][1] < first["wall_s"] + time.time() - begin + 1
    assert both["cpu_s"][1] > first["cpu_s"]


def test_the_random_lstm_of_the_ablation_is_not_trained(tmp_path, small):
    train(small(**{"rnn.train": False}), tmp_path, "cpu", "rnn")
    bias = WorldModelsAgent.load(tmp_path).rnn.lstm.bias_ih_l0
    assert set(bias.tolist()) == {0.0, 1.0}  # as it was initialised
