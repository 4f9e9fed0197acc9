"""The command line: error lines, files, figures, play, the pendulum; tiny budgets."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from common.flags import parse
from foundations.commands import run_command
from foundations.tssm.commands import COMMANDS
from foundations.tssm.config import PRESETS, Config, EnvConfig
from foundations.tssm.evaluate import baselines, evaluate
from foundations.tssm.games import PixelGames
from foundations.tssm.play import action_of

ROOT = Path(__file__).resolve().parents[3]
RESULTS = sorted((ROOT / "benchmarks" / "foundations").glob("tssm-*.json"))
BUDGET = ["--episodes", "60", "--obs-steps", "3", "--wm-steps", "3", "--steps", "4", "--eval-every", "2"]


def run(*words) -> None:
    run_command("foundations.tssm", COMMANDS, [str(word) for word in words])


def result(out: Path, name: str) -> dict:
    return json.loads((out / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run of all stages with almost no training."""
    out = tmp_path_factory.mktemp("tssm")
    run("train", "--out", out, "--gate", 0, *BUDGET, "--device", "cpu")
    return out


# --- what goes wrong is one line ---


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["train-wm"], r"no .*observation\.pt: first python -m foundations\.tssm train-obs --out"),
        (["train-agent"], r"no .*dynamics\.pt: first python -m foundations\.tssm train-wm --out"),
        (["play-model"], r"no .*observation\.pt: first python -m foundations\.tssm train-obs"),
        (["play-agent"], r"no .*observation\.pt: first python -m foundations\.tssm train-obs"),
        (["test-obs"], r"no .*observation\.pt: first python -m foundations\.tssm train-obs"),
        (["plot"], r"no train\*\.json in .*: first python -m foundations\.tssm train --out"),
        (["train-td3"], r"train-td3 was dropped: .*use train-agent --objective value"),
        (["train-td3", "--load"], r"train-td3 was dropped"),
        (["trian"], r"unknown command 'trian' \(did you mean train\?\)"),
        (["train", "--objective", "td3"], r"--objective td3: must be one of value, reward, reinforce"),
        (
            ["train", "--env", "Pendulum-v1", "--preset", "tiny"],
            r"--env Pendulum-v1 --preset tiny: do not fit",
        ),
        (
            ["train", "--env", "Pendulum-v1", "--threat-penalty", "100"],
            r"--threat-penalty: only --env simple_world",
        ),
        (["train", "--env", "Pendulum-v1", "--latent", "board"], r"--latent board: only for simple_world"),
        (
            ["train", "--env", "CartPole-v1"],
            r"--env CartPole-v1: takes Discrete\(2\), and this module one box",
        ),
        (["train", "--env", "Nowhere-v9"], r"--env Nowhere-v9: .*; choose simple_world or Pendulum-v1"),
        (["train", "--num-threats", "15"], r"num_threats=15: must be 1 to 14"),
        (["train", "--episodes", "-1"], r"--episodes -1: must be at least 0"),
        (["train-obs", "--steps", "-5"], r"--steps -5: must be at least 0"),
        (["train", "--threat-penalty", "-1"], r"--threat-penalty -1\.0: must be at least 0"),
        (["play-real", "--steps", "0"], r"--steps 0: must be at least 1"),
        (["train-obs", "--seed", "-1"], r"--seed -1: must be at least 0"),
    ],
)
def test_error_lines(words, line, tmp_path):
    with pytest.raises(UserError, match=line) as error:
        run(*words, "--out", tmp_path)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("*.json"))


def test_a_missing_agent_names_its_objective(finished):
    with pytest.raises(UserError, match="first python -m foundations.tssm train-agent --objective reward"):
        run("play-agent", "--objective", "reward", "--out", finished)


def test_flags_that_contradict_the_run(finished):
    with pytest.raises(UserError, match="--preset pendulum: the run in .* has tiny; name another --out"):
        run("train-wm", "--preset", "pendulum", "--out", finished)
    with pytest.raises(UserError, match="--env Pendulum-v1: the run in .* has simple_world"):
        run("play-model", "--env", "Pendulum-v1", "--out", finished)
    with pytest.raises(UserError, match=r"--threat-penalty 100.0: the run in .* has 1.0"):
        run("train-agent", "--threat-penalty", 100, "--out", finished)


def test_a_failed_gate_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no autoencoder of 12 attempts passed the gate of 0.99"):
        run("train-obs", "--episodes", 20, "--steps", 1, "--out", tmp_path)


def test_process_ends_with_2_and_help_needs_no_torch(tmp_path):
    def python(*words):
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [sys.executable, *words], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60
        )

    done = python("-m", "foundations.tssm", "train-wm", "--out", str(tmp_path / "none"))
    assert done.returncode == 2 and done.stderr.startswith("error: no ") and done.stderr.count("\n") == 1
    before = os.times().children_user
    done = python("-X", "importtime", "-m", "foundations.tssm", "train", "--help")
    assert done.returncode == 0 and "--threat-penalty" in done.stdout
    assert os.times().children_user - before < 1
    assert "torch" not in {line.split("|")[-1].strip() for line in done.stderr.splitlines()}


# --- what is written ---


def test_train_leaves_its_files(finished):
    there = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    parts = {f"checkpoints/{name}.pt" for name in ("observation", "dynamics", "agent-value")}
    assert there >= {"data/replay.npz", "train.json", *parts}
    told = result(finished, "train")
    assert told["command"] == "train" and told["args"]["steps"] == 4
    assert set(told["stage_cpu_s"]) == {
        *("collect", "observation", "dynamics", "agent", "agent with evaluations", "total")
    }
    assert [row["update"] for row in told["agent"]["evaluations"]] == [2, 4]
    assert set(told["score"]) == {"return", "goal_steps", "threat_steps"}
    assert told["baselines"]["optimal"]["return"] == 24.0929
    assert told["baselines"]["straight line"]["return"] == 24.0357
    assert told["config"]["agent"]["updates"] == 4 and told["dynamics"]["parameters"] == 566_529


def test_stages_one_by_one_give_the_same_as_train(finished, tmp_path):
    small = ["--out", tmp_path, "--device", "cpu"]
    run("train-obs", "--episodes", 60, "--steps", 3, "--gate", 0, *small)
    run("train-wm", "--steps", 3, *small)
    run("train-agent", "--steps", 4, "--eval-every", 2, *small)
    whole, agent = result(finished, "train"), result(tmp_path, "train-agent-value")
    assert agent["score"] == whole["score"]
    rows = [[{k: v for k, v in row.items() if k != "train_cpu_s"} for row in rows] for rows in (
        agent["evaluations"], whole["agent"]["evaluations"])]  # fmt: skip
    assert rows[0] == rows[1]
    assert result(tmp_path, "train-wm")["curve"] == whole["dynamics"]["curve"]
    assert result(tmp_path, "train-obs")["curve"] == whole["observation"]["curve"]
    for objective in ("reward", "reinforce"):
        run("train-agent", "--objective", objective, "--steps", 2, *small)
        assert np.isfinite(result(tmp_path, f"train-agent-{objective}")["score"]["return"])


def test_other_worlds_run_end_to_end(tmp_path):
    few = [*BUDGET, "--eval-every", 4]
    run("train", "--out", tmp_path / "a", "--gate", 0, *few, "--threat-penalty", 100)
    config = result(tmp_path / "a", "train")["config"]
    assert config["symlog"] and config["agent"]["updates"] == 4 and config["dynamics"]["rew_weight"] == 1.0
    run(
        *("train", "--out", tmp_path / "b", "--gate", 0, *few, "--latent", "board", "--num-threats", 2),
        *("--moving-threats", "--legacy"),
    )
    told = result(tmp_path / "b", "train")
    assert told["config"]["env"]["legacy"] and told["config"]["code"]["kind"] == "board"
    assert set(told["baselines"]) == {"random", "stay"}  # the exact ones are of a single threat


def test_figures_and_gifs(finished, capsys):
    run("test-obs", "--out", finished)
    run("plot", "--out", finished)
    run("play-model", "--out", finished, "--steps", 6)
    run("play-agent", "--out", finished, "--steps", 6)
    run("play-real", "--out", finished, "--steps", 6, "--policy", "script")
    assert capsys.readouterr().out.count("no display here") == 3
    plots = {path.name for path in (finished / "plots").iterdir()}
    assert plots == {
        *("reconstructions.png", "losses.png", "scores-by-updates.png", "scores-by-cpu.png", "dream.png"),
        "rewards.png",
        *("play-model.gif", "play-agent-value.gif", "play-real.gif"),
    }
    assert 0 <= result(finished, "test-obs")["exact_frames"] <= 1
    for name in ("play-model", "play-agent-value", "play-real"):
        with Image.open(finished / "plots" / f"{name}.gif") as gif:
            assert gif.n_frames == 7  # equal frames are kept
            assert min(gif.size) >= 160


# --- playing ---


def test_random_policy_of_play_real_stays_within_its_steps(tmp_path):
    run("play-real", "--out", tmp_path, "--steps", 3)
    with Image.open(tmp_path / "plots" / "play-real.gif") as gif:
        assert gif.n_frames <= 4


def test_arrow_keys_move_the_actor(monkeypatch):
    """Keys in a window of SDL's dummy driver, two steps at most."""
    import pygame

    from foundations.tssm.play import RealWorld, window

    world = RealWorld(Config(), 0)
    world.reset()
    seen = []
    step = world.step
    world.step = lambda act: (seen.append(act.tolist()), step(act))[1]
    keys = [pygame.K_a, pygame.K_LEFT, pygame.K_DOWN, pygame.K_SPACE]
    events = [[pygame.event.Event(pygame.KEYDOWN, key=key)] for key in keys]
    monkeypatch.setattr(pygame.event, "get", lambda: events.pop(0) if events else [])
    assert window(world, "test", 2) == 2
    assert seen == [[-1, 0], [0, 1]]
    events[:] = [[pygame.event.Event(pygame.KEYDOWN, key=pygame.K_ESCAPE)]]
    assert window(world, "test", 2) == 0
    assert window(world, "test", 2, idle_seconds=0.05) == 0  # nobody is there


def test_two_arrows_held_are_a_diagonal():
    import pygame

    held = {key: False for key in (pygame.K_LEFT, pygame.K_RIGHT, pygame.K_UP, pygame.K_DOWN)}
    held[pygame.K_RIGHT] = True
    assert action_of(pygame.K_UP, held, 2).tolist() == [1, -1]
    assert action_of(pygame.K_SPACE, {**held, pygame.K_RIGHT: False}, 2).tolist() == [0, 0]
    assert action_of(pygame.K_RIGHT, held, 1).tolist() == [1]  # a pendulum's torque
    assert action_of(pygame.K_a, held, 2) is None


def test_the_model_can_be_played_by_hand(finished):
    import torch

    from foundations.tssm.play import window
    from foundations.tssm.stages import held_out_game, load_dynamics, load_observation
    from foundations.tssm.visualize import DreamWorld

    cpu = torch.device("cpu")
    code, model = load_observation(finished, cpu)[1], load_dynamics(finished, cpu)[1]
    world = DreamWorld(code, model, held_out_game(finished), 1)
    assert window(world, "test", 3, lambda frame: np.ones(2)) == 3
    frame, line = world.step(np.zeros(2))
    assert frame.shape == (4, 4, 3) and frame.dtype == np.uint8 and line.startswith("dreamed reward")


def test_no_display_is_seen(monkeypatch):
    from foundations.tssm import play

    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setenv("DISPLAY", ":0")
    assert not play.has_display()
    monkeypatch.delenv("SDL_VIDEODRIVER")
    assert play.has_display()


# --- evaluation ---


def test_evaluation_of_known_policies_is_exact():
    """Reading the board off the frame: stay is worth 0, straight to the target 24.036."""

    def straight(obs):
        where = lambda color: np.stack(  # noqa: E731
            np.unravel_index((obs == color).all(-1).reshape(len(obs), -1).argmax(-1), (4, 4))[::-1], -1
        )
        goal, actor = where((0, 255, 0)), where((0, 0, 0))
        is_hidden = ~(obs == (0, 255, 0)).all(-1).any((1, 2))
        return np.where(is_hidden[:, None], 0, np.sign(goal - actor))

    found = evaluate(Config(), straight)
    assert found == {"return": 24.0357, "goal_steps": 24.1, "threat_steps": 0.0643}
    assert evaluate(Config(), lambda obs: np.zeros((len(obs), 2)))["return"] == 0
    assert baselines(Config())["straight line"] == found


# --- the pendulum ---


def test_pendulum_frames_show_angle_and_speed():
    games = PixelGames(EnvConfig(name="Pendulum-v1"), 1)
    first = games.reset(0)
    assert first.shape == (1, 64, 64, 3) and (first[..., 0] == first[..., 2]).all()
    assert first.min() < 200 < first.max()
    for _ in range(3):
        obs, rew, done = games.step(np.ones((1, 1)))
    assert (obs[..., 0] != obs[..., 2]).any() and -17 < rew[0] < 0 and not done[0]
    later, _, _ = games.step(np.ones((1, 1)))
    assert (later[..., :2] == obs[..., 1:]).all() and (later[..., 2] != obs[..., 2]).any()
    again = PixelGames(EnvConfig(name="Pendulum-v1"), 1)
    assert (again.reset(0) == first).all()


def test_pendulum_actions_are_stretched_to_its_bounds():
    games = PixelGames(EnvConfig(name="Pendulum-v1"), 1)
    games.reset(0)
    inner = games.envs[0].unwrapped
    for act, torque in ((1.0, 2.0), (-0.5, -1.0), (3.0, 2.0)):
        games.step(np.array([[act]]))
        assert inner.last_u == pytest.approx(torque)


def test_pendulum_preset_runs_end_to_end(tmp_path, monkeypatch):
    """The preset as it is but for its budgets; the sizes: 32 x 32 latents, 4 layers, 15 steps."""
    preset = PRESETS["pendulum"]
    assert (preset.code.latents, preset.code.classes) == (32, 32)
    assert preset.dynamics.layers >= 4 and preset.agent.horizon == 15 and preset.code.kind == "deep"
    short = dataclasses.replace(
        preset,
        data=dataclasses.replace(preset.data, length=20),
        code=dataclasses.replace(preset.code, batch=8),
        dynamics=dataclasses.replace(preset.dynamics, batch=4),
        agent=dataclasses.replace(preset.agent, batch=4),
    )
    monkeypatch.setitem(PRESETS, "pendulum", short)
    monkeypatch.setattr("foundations.tssm.evaluate.PIXEL_GAMES", 1)
    few = ["--episodes", 2, "--obs-steps", 2, "--wm-steps", 2, "--steps", 1]
    run("train", "--env", "Pendulum-v1", "--out", tmp_path, *few, "--device", "cpu")
    told = result(tmp_path, "train")
    assert told["args"]["preset"] is None and told["config"]["env"]["name"] == "Pendulum-v1"
    assert -17 * 20 < told["score"]["return"] < 0 and set(told["baselines"]) == {"random", "stay"}
    run("play-model", "--out", tmp_path, "--steps", 3)
    run("test-obs", "--out", tmp_path)
    run("plot", "--out", tmp_path)
    assert (tmp_path / "plots" / "play-model.gif").is_file()


# --- what the README says ---


def test_commands_of_the_readme_parse():
    readme = (ROOT / "foundations" / "tssm" / "README.md").read_text()
    lines = re.findall(r"^python -m foundations\.tssm (.*?)(?:  +#.*)?$", readme, re.M)
    assert len(lines) >= 4
    for line in lines:
        name, *flags = line.split()
        parse(COMMANDS[name].args, flags, "")


def test_files_of_the_readme_are_all_there_are():
    readme = (ROOT / "foundations" / "tssm" / "README.md").read_text()
    named = set(re.findall(r"`(\w+\.py)`", readme))
    there = {path.name for path in (ROOT / "foundations" / "tssm").glob("*.py")}
    assert named == there - {"__init__.py", "__main__.py"}


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_results_of_the_readme_are_those_of_the_files(path):
    """Every file has its row: name, score as it is in the file."""
    readme = (ROOT / "foundations" / "tssm" / "README.md").read_text()
    told = json.loads(path.read_text())
    row = next(line for line in readme.splitlines() if f"`{path.stem}`" in line)
    for name in ("return", "goal_steps", "threat_steps"):
        assert f"{told['score'][name]:.2f}" in row, name
    agent = told.get("agent", told)
    assert f"{agent['evaluations'][-1]['train_cpu_s']:.0f}" in row


# --- the config has no dead fields ---


def test_every_field_is_read():
    source = "".join(
        p.read_text() for p in (ROOT / "foundations" / "tssm").glob("*.py") if p.stem != "config"
    )
    source += (ROOT / "foundations" / "tssm" / "config.py").read_text().split("def for_penalty")[1]

    def names(kind):
        for field in dataclasses.fields(kind):
            inner = getattr(kind(), field.name)
            yield from names(type(inner)) if dataclasses.is_dataclass(inner) else [field.name]

    dead = [name for name in names(Config) if f".{name}" not in source]
    assert not dead
