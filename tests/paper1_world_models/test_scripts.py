"""train.py, eval.py, visualize.py and experiments.py as a user types them; bad input is one line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from paper1_world_models.agent import WorldModelsAgent
from paper1_world_models.train import main

FOLDER = Path(__file__).parents[2] / "paper1_world_models"


def script(name: str, *args: str, cwd: Path = FOLDER) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, name, *args], cwd=cwd, capture_output=True, text=True, timeout=600)


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


def test_from_command_line_to_pictures(tmp_path, small_flags):
    """train.py, eval.py --render, visualize.py and an experiment, as a user types them."""
    run = tmp_path / "run"
    done = script("train.py", "--preset", "tiny", "--logdir", str(run), *small_flags)
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
    for line in ("eval.py --checkpoint model.pt --episodes 10 --render", "visualize.py --num-dreams 5"):
        done = script(*line.split())  # the link in this folder, to the newest run
        assert done.returncode == 0, done.stderr
    assert json.loads((run / "eval.json").read_text())["score"]["episodes"] == 10
    done = script("experiments.py", "cheat", "--base", str(run), "--episodes", "2", "--generations", "1")
    assert done.returncode == 0, done.stderr
    assert len(json.loads((run / "experiment-cheat.json").read_text())["rows"]) == 2
