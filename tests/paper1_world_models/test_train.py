"""The whole procedure on a tiny scale: it runs, resumes bit for bit from anywhere, and answers bad input in
one line."""

import json
import multiprocessing
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import common.faults
from common.checkpoint import load_file
from common.config import override
from common.errors import UserError
from common.shards import open_shards
from paper1_world_models.agent import WorldModelsAgent
from paper1_world_models.presets import PRESETS, SUITES
from paper1_world_models.run import cpu_seconds
from paper1_world_models.train import main, train

FOLDER = Path(__file__).parents[2] / "paper1_world_models"
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


def small(**more):
    return override(PRESETS["tiny"], {**SUITES["toy"]["tiny"], **SMALL, **more})


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
def test_a_run_that_is_stopped_everywhere_ends_with_the_same_bits(tmp_path, monkeypatch, train_in):
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


def test_stages_can_be_run_alone(tmp_path):
    cfg = small()
    for stage, expected in (("collect", None), ("vae", "vae"), ("rnn", "rnn"), ("controller", "controller")):
        train(cfg, tmp_path, "cpu", stage)
        if expected:
            assert load_file(tmp_path / "model.pt")["extra"]["stage"] == expected
    agent = WorldModelsAgent.load(tmp_path)
    assert np.any(agent.params)


def test_the_controller_stage_needs_no_frames(tmp_path):
    """V, M and the CMA state can be carried to another machine."""
    cfg = small(generations=1)
    train(cfg, tmp_path / "a", "cpu", "all")
    carried = tmp_path / "b"
    carried.mkdir()
    (tmp_path / "a" / "model.pt").rename(carried / "model.pt")
    (tmp_path / "a" / "state").rename(carried / "state")
    train(override(cfg, {"generations": 2}), carried, "cpu", "controller")
    assert load_file(carried / "model.pt")["extra"]["stage"] == "controller"
    assert not (carried / "data").exists()
    state = json.loads((carried / "state" / "controller-00" / "manifest.json").read_text())
    assert state["versions"][-1]["step"] == 2


def test_the_same_seed_gives_the_same_run_and_another_does_not(tmp_path):
    runs = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        train(small(seed=seed, generations=1), tmp_path / name, "cpu", "all")
        runs[name] = weights(tmp_path / name)
    assert all(torch.equal(runs["a"][k], runs["b"][k]) for k in runs["a"])
    assert not torch.equal(runs["a"]["controller"], runs["c"]["controller"])


def test_rows_are_stored_as_the_convention_says(tmp_path):
    train(small(), tmp_path, "cpu", "collect")
    shards = open_shards(tmp_path / "data")
    for i in range(len(shards.episodes)):
        rows = shards.episode(i)
        assert rows["is_first"][0] and not rows["is_first"][1:].any()
        assert rows["is_last"][-1] and not rows["is_last"][:-1].any()
        assert rows["rew"][0] == 0 and not rows["act"][-1].any()
        assert set(np.unique(rows["act"])) <= {-1.0, 0.0, 1.0}
        assert rows["is_terminal"][-1] == (len(rows["rew"]) < 201)


def test_workers_share_the_episodes(tmp_path):
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


def test_gates_stop_a_bad_model(tmp_path):
    with pytest.raises(UserError, match="gate of V failed"):
        train(small(gates="stop"), tmp_path, "cpu", "all")


def test_the_cpu_time_of_living_workers_counts():
    worker = multiprocessing.get_context("spawn").Process(target=sum, args=(range(10**11),), daemon=True)
    before = cpu_seconds()
    worker.start()
    try:
        deadline = time.time() + 60
        while cpu_seconds() - before < 0.5 and time.time() < deadline:
            time.sleep(0.1)
        assert cpu_seconds() - before >= 0.5 and worker.is_alive()
    finally:
        worker.kill()
        worker.join()


def test_the_clocks_go_on_over_a_resume(tmp_path):
    train(small(generations=1, eval_every=1), tmp_path, "cpu", "all")
    first = np.genfromtxt(tmp_path / "curve.csv", delimiter=",", names=True)
    begin = time.time()
    train(small(generations=2, eval_every=1), tmp_path, "cpu", "all")
    both = np.genfromtxt(tmp_path / "curve.csv", delimiter=",", names=True)
    assert both["wall_s"][0] == first["wall_s"]
    assert first["wall_s"] < both["wall_s"][1] < first["wall_s"] + time.time() - begin + 1
    assert both["cpu_s"][1] > first["cpu_s"]


def test_the_random_lstm_of_the_ablation_is_not_trained(tmp_path):
    train(small(**{"rnn.train": False}), tmp_path, "cpu", "rnn")
    bias = WorldModelsAgent.load(tmp_path).rnn.lstm.bias_ih_l0
    assert set(bias.tolist()) == {0.0, 1.0}  # as it was initialised


def script(name: str, *args: str, cwd: Path = FOLDER) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, name, *args], cwd=cwd, capture_output=True, text=True, timeout=120)


def one_line(done: subprocess.CompletedProcess, *words: str) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    assert all(word in lines[0] for word in words), lines[0]


def test_bad_input_gets_one_line(tmp_path):
    one_line(script("train.py", "--env", "toy_dogde"), "toy_dogde", "toy_dodge")
    one_line(script("train.py", "--step", "100"), "--step")
    one_line(script("train.py", "--resume", str(tmp_path)), str(tmp_path))
    one_line(
        script(
            "train.py",
            "--preset",
            "tiny",
            "--env",
            "CartPole-v1",
            "--dry-run",
            "--env-options",
            "obs",
            "vector",
        ),
        "pictures",
    )
    one_line(script("eval.py", "--checkpoint", str(tmp_path / "none.pt")), "none.pt")
    torn = tmp_path / "model.pt"
    torn.write_bytes(b"PK\x03\x04 torn")
    one_line(script("eval.py", "--checkpoint", str(torn)), "torn")
    one_line(script("visualize.py", "--checkpoint", str(torn)), "torn")
    one_line(script("experiments.py", "ablation", "--base", str(tmp_path)), "train.py")


@pytest.mark.parametrize(
    "args",
    [
        ("--preset", "tiny"),
        ("--env", "CarRacing-v2", "--epochs", "10", "--preset", "tiny"),
        ("--env", "CarRacing-v3", "--preset", "cpu"),
        ("--env", "CarRacing-v3", "--preset", "paper"),
        ("--env", "doom_takecover", "--preset", "tiny"),
        ("--env", "doom_takecover", "--preset", "paper"),
        ("--env", "BipedalWalker-v3", "--preset", "cpu"),
    ],
)
def test_the_guides_commands_dry_run(args, capsys):
    main([*args, "--dry-run"])
    out = capsys.readouterr().out
    assert "parameters" in out and "none (--dry-run)" in out
    if "paper" in args:
        published = (
            ["4,348,547", "422,368", "867"] if "CarRacing-v3" in args else ["4,446,915", "1,678,785", "1,088"]
        )
        for count in published:
            assert f"{count}  (paper: {count})" in out


def test_the_seeds_command_runs_the_whole_paper(tmp_path, monkeypatch):
    """`train.py --env CarRacing-v2 --epochs 10`, with small numbers behind it."""
    run = tmp_path / "run"
    numbers = "--collect.episodes 3 --collect.max-steps 30 --rnn.updates 4 --rnn.length 8 --rnn.hidden 8 "
    numbers += "--generations 1 --evolve.population 4 --evolve.rollouts 1 --evolve.max-steps 20 "
    numbers += "--evolve.eval-episodes 1 --vae.width 0.125 --gates warn --eval-every 0"
    seed = ["--env", "CarRacing-v2", "--epochs", "10", "--preset", "tiny"]
    main([*seed, "--logdir", str(run), *numbers.split()])
    agent = WorldModelsAgent.load(run)
    assert agent.stage == "controller" and agent.env.name == "CarRacing-v3"
    frames, batch = 93 - 31, 64  # every 20th episode is held out: here the first of three
    steps = json.loads((run / "state" / "vae-00" / "manifest.json").read_text())["versions"][-1]["step"]
    assert steps == 10 * max(1, frames // batch)


def test_the_carried_controller_stage_is_small():
    """V, M and the state of CMA-ES at the cpu preset's size: at most 8 MB, so that it can travel."""
    from common.env_wrapper import EnvSpec
    from paper1_world_models.controller import make_codec
    from paper1_world_models.evolve import Evolution

    cfg = override(PRESETS["cpu"], SUITES["box2d_car"]["cpu"])
    codec = make_codec(EnvSpec("CarRacing-v3", {"native_actions": True}).make().action_space, "car")
    agent = WorldModelsAgent(cfg, EnvSpec("CarRacing-v3"), codec)
    state = Evolution(agent.controller.size, cfg.evolve.population, 0.1, 0).state_dict()
    tensors = [*agent.vae.state_dict().values(), *agent.rnn.state_dict().values()]
    size = sum(t.numel() * 4 for t in tensors) + state["covariance"].nbytes
    assert agent.controller.size == 867 and size < 8e6


def test_from_command_line_to_pictures(tmp_path):
    """train.py, eval.py --render, visualize.py and an experiment, as a user types them."""
    flags = []
    for name, value in SMALL.items():
        flags += [
            f"--{name.replace('_', '-')}",
            *(map(str, sum(value.items(), ())) if isinstance(value, dict) else [str(value)]),
        ]
    run = tmp_path / "run"
    done = script("train.py", "--preset", "tiny", "--logdir", str(run), *flags)
    assert done.returncode == 0, done.stderr
    assert (
        (run / "config.json").exists() and (run / "curve.csv").exists() and (run / "metrics.jsonl").exists()
    )
    done = script("eval.py", "--checkpoint", str(run), "--episodes", "3", "--render")
    assert done.returncode == 0, done.stderr
    assert json.loads((run / "eval.json").read_text())["score"]["episodes"] == 3
    done = script(
        "visualize.py", "--checkpoint", str(run), "--num-dreams", "2", "--horizon", "6", "--context", "3"
    )
    assert done.returncode == 0, done.stderr
    for name in (
        "open_loop.mp4",
        "four_views.mp4",
        "latent_traversal.png",
        "temperature_dreams.mp4",
        "temperature_score.png",
    ):
        assert (run / "videos" / name).stat().st_size > 0, name
    done = script("experiments.py", "cheat", "--base", str(run), "--episodes", "2", "--generations", "1")
    assert done.returncode == 0, done.stderr
    assert len(json.loads((run / "experiment-cheat.json").read_text())["rows"]) == 2
