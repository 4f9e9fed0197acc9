"""The commands as a user types them, with small budgets; what they print, write and refuse."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import UserError
from foundations.dyna import agent, compare_agents, data_collection, plan_with_model, train_model, world_model

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("dyna")
    data_collection.main(["--episodes", "60", "--out", str(out)])
    train_model.main(["--epochs", "3", "--hidden", "16", "--out", str(out), "--device", "cpu"])
    return out


def test_data_then_model_then_plots(folder, capsys):
    plan_with_model.main(["--out", str(folder), "--starts", "50", "--horizon", "20", "--device", "cpu"])
    for name in ("training_curve", "trajectory_comparison", "compounding_error", "disagreement_vs_error"):
        assert (folder / "plots" / f"{name}.png").stat().st_size > 5_000
    said = capsys.readouterr().out
    assert "error after h steps" in said and "controller episodes" in said
    told = json.loads((folder / "train_model.json").read_text())
    assert told["networks"] == 5 and told["mse"] < told["mse_copy_last"] and len(told["curve"]) == 3
    assert json.loads((folder / "data_collection.json").read_text())["episodes"] == 60


def test_shapes_and_counts_are_printed(capsys):
    world_model.main([])
    said = capsys.readouterr().out
    assert "5,702 parameters" in said and "2,596 parameters" in said and "5,028 parameters" in said


@pytest.mark.parametrize("env", ["MountainCar-v0", "Pendulum-v1"])
def test_other_games(env, tmp_path, capsys):
    out = ["--out", str(tmp_path)]
    data_collection.main(["--env", env, "--episodes", "3", *out])
    train_model.main(["--variant", "simple", "--epochs", "1", "--device", "cpu", *out])
    plan_with_model.main(["--starts", "20", "--horizon", "5", "--device", "cpu", *out])
    assert f"{env}, random" in capsys.readouterr().out
    assert (tmp_path / "plots" / "compounding_error.png").exists()


def test_learning_by_planning(tmp_path, capsys, monkeypatch):
    from foundations.dyna import planner

    monkeypatch.setattr(planner, "UPDATES", 20)
    flags = [
        "--learn",
        "--steps",
        "500",
        "--seeds",
        "2",
        "--episodes",
        "1",
        "--candidates",
        "20",
        "--horizon",
        "5",
    ]
    plan_with_model.main(
        [*flags, "--variant", "ensemble", "--penalty", "1", "--planner", "cem", "--out", str(tmp_path)]
    )
    told = json.loads((tmp_path / "planning.json").read_text())
    assert (
        told["steps"] == [250, 500]
        and len(told["returns"]) == 2
        and told["label"].startswith("cem, ensemble, penalty 1")
    )
    assert (tmp_path / "plots" / "planning.png").exists() and "500 real steps" in capsys.readouterr().out


def test_one_agent_beside_dqn(tmp_path, capsys):
    agent.main(
        [
            "--steps",
            "250",
            "--k",
            "1",
            "--horizon",
            "2",
            "--seeds",
            "2",
            "--hidden",
            "8",
            "--out",
            str(tmp_path),
        ]
    )
    told = json.loads((tmp_path / "agent.json").read_text())
    assert [row["label"] for row in told["rows"]] == ["DQN", "Dyna K 1 h 2"]
    assert (tmp_path / "plots" / "dqn_vs_dyna.png").exists() and "stable" in capsys.readouterr().out


def test_the_comparison_has_every_row(tmp_path, capsys, monkeypatch):
    from dataclasses import replace

    small = {
        "model_from": 230,
        "model_updates": (2, 1),
        "eval_episodes": 1,
        "batch": 4,
        "imagined": 100,
        "warmup": 240,
    }
    for name in ("DQN", "DYNA"):
        monkeypatch.setattr(compare_agents, name, replace(getattr(compare_agents, name), **small))
    agent.main(["--compare", "--steps", "250", "--seeds", "2", "--hidden", "4", "--out", str(tmp_path)])
    told = json.loads((tmp_path / "dqn_vs_dyna.json").read_text())
    labels = [row["label"] for row in told["rows"]]
    assert (
        len(labels) == len(set(labels)) == 19
        and "Dyna K 10 h 50" in labels
        and "true dynamics K 5 h 1" in labels
    )
    assert len(told["paired"]) == 15 and "gain shown" in capsys.readouterr().out
    assert (tmp_path / "plots" / "k_horizon_table.png").exists()
    # Stopped and begun again, it goes on with what is missing; with other settings nothing old is taken.
    (tmp_path / "rows" / "Dyna-K-5-h-5.json").unlink()
    trained = []
    real = compare_agents.train_dyna_agent
    monkeypatch.setattr(
        compare_agents, "train_dyna_agent", lambda cfg, *more: trained.append(cfg) or real(cfg, *more)
    )
    flags = ["--compare", "--steps", "250", "--seeds", "2", "--hidden", "4", "--out", str(tmp_path)]
    agent.main(flags)
    again = json.loads((tmp_path / "dqn_vs_dyna.json").read_text())
    assert [(cfg.k, cfg.horizon) for cfg in trained] == [(5, 5)]
    assert [row["areas"] for row in again["rows"]] == [row["areas"] for row in told["rows"]]


def test_the_table_of_models(tmp_path, capsys, monkeypatch):
    from foundations.dyna import compare

    monkeypatch.setattr(compare, "RANDOM_TEST", 5)
    monkeypatch.setattr(compare, "CONTROLLER_TEST", 2)
    train_model.main(
        ["--compare", "--seeds", "2", "--episodes", "20", "--epochs", "1", "--out", str(tmp_path)]
    )
    told = json.loads((tmp_path / "compare.json").read_text())
    assert len(told["rows"]) == len(compare.ROWS) and len(told["rows"][0]["random"]) == 2
    assert "members_random" in told["rows"][5] and (tmp_path / "plots" / "variants_mse.png").exists()
    assert "least-squares" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("main", "flags", "word"),
    [
        (data_collection.main, ["--env", "Nothing-v0"], "--env Nothing-v0"),
        (data_collection.main, ["--episodes", "1"], "at least 2"),
        (data_collection.main, ["--env", "Pendulum-v1", "--policy", "mix"], "CartPole-v1 only"),
        (train_model.main, ["--epochs", "0"], "--epochs 0"),
        (train_model.main, ["--lr", "-1"], "--lr -1"),
        (train_model.main, ["--test-share", "1"], "--test-share 1"),
        (train_model.main, ["--variant", "big"], "simple"),
        (train_model.main, [], "data_collection"),
        (plan_with_model.main, [], "train_model"),
        (plan_with_model.main, ["--learn", "--penalty", "1"], "--variant ensemble"),
        (agent.main, ["--env", "Pendulum-v1"], "discrete actions"),
        (agent.main, ["--env", "Acrobot-v1", "--model", "true"], "only CartPole-v1"),
        (agent.main, ["--cut", "1"], "--cut 1"),
        (agent.main, ["--horizons", "3"], "--horizon"),
        (world_model.main, ["--hidden", "1"], "--hidden 1"),
    ],
)
def test_bad_input_is_one_line(main, flags, word, tmp_path):
    with pytest.raises(UserError, match=word) as error:
        main([*flags, "--out", str(tmp_path)])
    assert "\n" not in str(error.value)


def test_a_folder_of_another_game_is_noticed(folder, tmp_path):
    import shutil

    shutil.copytree(folder, tmp_path / "x")
    data_collection.main(["--env", "MountainCar-v0", "--episodes", "2", "--out", str(tmp_path / "x")])
    with pytest.raises(UserError, match="run train_model again"):
        plan_with_model.main(["--out", str(tmp_path / "x")])


def test_a_module_runs_as_a_script_and_exits_with_2_on_a_mistake(tmp_path):
    command = [sys.executable, "-m", "foundations.dyna.train_model", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "error: no " in done.stderr
