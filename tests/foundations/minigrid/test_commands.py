"""python -m foundations.minigrid: each command prints a table and leaves its files; a mistake is a line."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from foundations.commands import run_command
from foundations.minigrid import clips
from foundations.minigrid.__main__ import COMMANDS
from foundations.minigrid.checkpoint import load_model
from foundations.minigrid.envs import AGENT, full_view, make_env
from foundations.minigrid.experience import load_rows

TINY = ["--steps", "600", "--updates", "40"]
RUNS = {
    "show": (["--episodes", "3"], ["env.png"]),
    "mdp": (["--episodes", "5"], ["values.png", "q_learning.png"]),
    "pomdp": (["--episodes", "2", "--views", "3", "--slips", "0", "--errors", "0"], ["belief.gif"]),
    "collect": (["--steps", "200"], ["experience.npz"]),
    "train-model": (TINY, ["world_model.pt", "reconstruction.png", "uniform_prior.png", "learned_prior.png"]),
    "dyna-q": ([*TINY, "--transitions", "2e3", "--episodes", "2"], ["dyna_q.gif"]),
    "limits": (["--sizes", "5", "6", "--drop-up-to", "5"], ["limits.png"]),
}


def run(*words: object) -> None:
    run_command("foundations.minigrid", COMMANDS, [str(word) for word in words])


@pytest.mark.parametrize("command", RUNS)
def test_a_command_leaves_its_files_and_a_table(command, tmp_path, capsys):
    flags, files = RUNS[command]
    run(command, *flags, "--out", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*files, f"{command}.json"])
    told = json.loads((tmp_path / f"{command}.json").read_text(), parse_constant=pytest.fail)  # no NaN
    assert told["command"] == command and told["args"]["seed"] == 0 and told["versions"]
    for name in files:
        if name.endswith(("png", "gif")):
            with Image.open(tmp_path / name) as image:
                assert min(image.size) > 100
    assert "---" in capsys.readouterr().out


@pytest.mark.parametrize("env", ["DoorKey-5x5", "MiniGrid-LavaGapS5-v0"])
def test_other_worlds(env, tmp_path):
    run("show", "--env", env, "--episodes", 2, "--out", tmp_path)
    run("mdp", "--env", env, "--slip", 0.1, "--episodes", 3, "--out", tmp_path)
    told = json.loads((tmp_path / "mdp.json").read_text())
    assert told["states"] in (60, 16) and told["largest_difference"] < 1e-9


def test_seeds_give_rows(tmp_path):
    run("train-model", *TINY, "--seeds", 2, "--out", tmp_path)
    rows = json.loads((tmp_path / "train-model.json").read_text())["rows"]
    assert [row["seed"] for row in rows] == [0, 1] and rows[0]["losses"] != rows[1]["losses"]


def test_a_model_is_kept_with_its_world_and_dreams(tmp_path, capsys):
    run("train-model", "--env", "DoorKey-5x5", "--latent", "4x4", *TINY, "--out", tmp_path)
    model, world = load_model(tmp_path / "world_model.pt")
    assert model.shape == (4, 4) and world.actions == (0, 1, 2, 3, 5) and not world.random_start
    first = model.encode(torch.from_numpy(full_view(world.grid))[None])
    again = load_model(tmp_path / "world_model.pt")[0].encode(torch.from_numpy(full_view(world.grid))[None])
    assert torch.equal(first, again)
    run("dream", "--out", tmp_path, "--dreams", 3, "--horizon", 5)
    told = json.loads((tmp_path / "dream.json").read_text())
    assert told["exact_frame"].keys() == {"0", "1", "5"} and (tmp_path / "dream.gif").exists()


def test_kept_experience_trains_a_model(tmp_path):
    run("collect", "--steps", 300, "--out", tmp_path)
    rows, env = load_rows(tmp_path / "experience.npz")
    assert env == "Empty-6x6" and rows.steps == 300
    data = ["--data", tmp_path / "experience.npz", "--updates", 4, "--out", tmp_path]
    run("train-model", *data)
    assert json.loads((tmp_path / "train-model.json").read_text())["rows"][0]["steps"] == 300
    with pytest.raises(UserError, match="--data .* is of Empty-6x6"):
        run("train-model", *data, "--env", "Empty-8x8")
    with pytest.raises(UserError, match="no experience at"):
        run("train-model", "--data", tmp_path / "nothing.npz", "--out", tmp_path)
    with pytest.raises(UserError, match="is not what collect writes"):
        run("train-model", "--data", tmp_path / "collect.json", "--out", tmp_path)


def test_demo_runs_everything(tmp_path, capsys):
    run("demo", "--quick", "--out", tmp_path)
    files = {name for _, files in RUNS.values() for name in files} | {"dream.gif"}
    assert files <= {path.name for path in tmp_path.iterdir()}
    out = capsys.readouterr().out
    assert all(f"[{n}/8]" in out for n in range(1, 9))


def test_the_same_command_twice_gives_the_same_numbers(tmp_path):
    for folder in ("a", "b"):
        run("dyna-q", *TINY, "--transitions", 2000, "--episodes", 3, "--out", tmp_path / folder)
    a, b = (json.loads((tmp_path / folder / "dyna-q.json").read_text())["rows"] for folder in ("a", "b"))
    assert a == b


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["fly"], "unknown command 'fly'"),
        (["show", "--env", "Nowhere"], "--env Nowhere: no such world.*TwoRooms"),
        (["show", "--view", "4"], "--view 4: must be odd"),
        (["mdp", "--slip", "0.4"], "--slip 0.4: must be from 0 to 0.2"),
        (["mdp", "--gamma", "1"], "--gamma 1: must be from 0 to 0.9999"),
        (["mdp", "--env", "Dynamic-Obstacles-5x5"], "random numbers in its steps"),
        (["pomdp", "--errors", "2"], "--errors 2: must be"),
        (["train-model", "--latent", "8"], "--latent 8: must be VARIABLESxCLASSES"),
        (["train-model", "--seeds", "0"], "--seeds 0: must be at least 1"),
        (["dream"], "no model at .*train-model --out"),
        (["limits", "--sizes", "3"], "--sizes 3: must be from 5 to 128"),
        (["dyna-q", "--sede", "1"], "unknown flag --sede"),
    ],
)
def test_mistakes_are_one_line(words, says, tmp_path):
    with pytest.raises(UserError, match=says) as error:
        run(*words, *(["--out", tmp_path] if words != ["fly"] else []))
    assert "\n" not in str(error.value)


def test_a_foreign_checkpoint_is_refused(tmp_path):
    from common.checkpoint import save_file

    save_file(tmp_path / "world_model.pt", {"paper": "paper2_dreamerv1"})
    with pytest.raises(UserError, match="was written by 'paper2_dreamerv1'"):
        run("dream", "--out", tmp_path)
    save_file(tmp_path / "world_model.pt", {"paper": "foundations.minigrid", "world": {}})
    with pytest.raises(UserError, match="does not fit"):
        run("dream", "--out", tmp_path)


def test_help_needs_neither_torch_nor_minigrid():
    code = """
import sys
from foundations.commands import run_command
from foundations.minigrid.__main__ import COMMANDS
run_command("foundations.minigrid", COMMANDS, ["--help"])
print([name for name in ("torch", "minigrid", "matplotlib", "gymnasium") if name in sys.modules])
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"
    for name in COMMANDS:
        assert f"  {name} " in out


def test_wrong_cells_are_framed():
    picture = np.zeros((2 * 8, 3 * 8, 3), np.uint8)
    wrong = np.zeros((2, 3), bool)
    wrong[1, 2] = True
    marked = clips.mark(picture, wrong)
    assert (
        (marked[8:10, 16:] == (255, 0, 255)).all()
        and (marked[8:, :16] == 0).all()
        and (marked[:8] == 0).all()
    )
    assert (marked[10:14, 18:22] == 0).all()


def test_what_is_carried_is_drawn_in_the_corner():
    world = make_env("DoorKey-5x5")
    view = full_view(world.grid)
    assert clips.cells_of(view, (5, 5))[0, 0] == view[0]
    view[-1] = 7
    cells = clips.cells_of(view, (5, 5))
    assert cells[0, 0] == 7 and view[0] != 7 and (cells >= AGENT).sum() == 1
