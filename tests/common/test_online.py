"""What surrounds the loop of papers 2 and 3: command line, folder, resumes to the bit, signals, bad input."""

import csv
import functools
import importlib
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from common.agent import load_agent
from common.checkpoint import RunState, load_file
from common.errors import UserError
from common.logger import read_metrics
from common.online import OnlineRun, run_main

PAPERS = ["paper2_dreamerv1", "paper3_dreamerv2"]
SMALL = (
    "--preset tiny --env toy_point --device cpu --conv.depth 2 --conv.units 8 --rssm.deter 8 --rssm.hidden 8 "
    "--rssm.stoch 4 --model.units 8 --actor.units 8 --behaviour.horizon 3 --behaviour.warmup 2 "
    "--replay.batch 2 --replay.length 5 --eval-episodes 1 --eval-every 65 --steps 130 --prefill 40 "
    "--train-every 6 --checkpoint-every 50 --log-every 4"
).split()
OWN = {  # checkpoints are after updates 1, 10 and 15, in the middle of a row of metrics.jsonl
    "paper2_dreamerv1": ["--behaviour.value-units", "8"],
    "paper3_dreamerv2": [*"--rssm.classes 4 --behaviour.critic-units 8 --behaviour.slow-every 4".split()],
}
CLOCKS = ("time", "_per_s", "_ms", "_share", "_mb")


@pytest.fixture(autouse=True)
def no_link(monkeypatch):
    """./model.pt is the user's."""
    monkeypatch.setattr("common.online.link_latest", lambda *where: None)


def train(paper: str, *flags: str) -> None:
    importlib.import_module(f"{paper}.train").main([*flags])


def start(paper: str, folder: Path, *flags: str) -> None:
    train(paper, *SMALL, *OWN[paper], "--logdir", str(folder), *flags)


def rows(folder: Path) -> list[dict]:
    """metrics.jsonl without what a clock or the machine says."""
    kept = read_metrics(folder / "metrics.jsonl")
    same = lambda value: "nan" if value != value else value  # noqa: E731  (nan is not equal to itself)
    return [{k: same(v) for k, v in row.items() if not k.endswith(CLOCKS)} for row in kept]


def curve(folder: Path) -> list[dict]:
    with open(folder / "curve.csv", newline="") as file:
        return [
            {k: v for k, v in row.items() if k not in ("wall_s", "cpu_s")} for row in csv.DictReader(file)
        ]


def state(folder: Path) -> dict:
    """The newest saved state, without clocks and file names."""
    step, parts = RunState(folder / "state").load()
    parts["counters"]["curve"] = [row["frames"] for row in parts["counters"]["curve"]["rows"]]
    parts["replay"].pop("rows")
    chunks = {}
    for path in sorted((folder / "state" / "replay").iterdir()):  # of each chunk the newest
        chunks[path.name.rsplit("-", 1)[0]] = path.read_bytes()
    return {"step": step, **parts, "rows": chunks}


def same(ours, theirs) -> bool:
    """Are two trees the same bits?"""
    if isinstance(ours, torch.Tensor):
        return torch.equal(ours, theirs)
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(same(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, (list, tuple)):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return ours == theirs


def differing(ours: dict, theirs: dict) -> list[str]:
    return [
        key for key in ours.keys() | theirs.keys() if key not in ours or not same(ours[key], theirs.get(key))
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Callable[[str], Path]:
    """whole(paper): the folder of its small run that nobody interrupts."""

    @functools.cache
    def run(paper: str) -> Path:
        folder = tmp_path_factory.mktemp(paper) / "run"
        start(paper, folder)
        return folder

    return run


@pytest.mark.parametrize("paper", PAPERS)
def test_a_run_leaves_all_its_files(paper, whole):
    folder = whole(paper)
    config = json.loads((folder / "config.json").read_text())
    assert config["paper"] == paper and config["preset"] == "tiny" and config["config"]["rssm"]["deter"] == 8
    assert {"command", "git", "versions", "machine"} <= config.keys()
    assert load_file(folder / "model.pt")["paper"] == paper and (folder / "state" / "manifest.json").exists()
    assert list(folder.glob("events*"))
    frames = [float(row["frames"]) for row in curve(folder)]
    assert frames == [65, 130]
    last = curve(folder)[-1]
    assert last["episodes"] == "1" and int(last["policy_steps"]) == 130 and int(last["updates"]) == 15
    logged = [row for row in rows(folder) if "updates" in row]
    assert [row["updates"] for row in logged] == [1, 4, 8, 10, 12, 15]  # every 4, and at checkpoints
    assert {"loss/rew", "grad_norm/model", "imag/return"} <= logged[2].keys()
    assert all(np.isfinite(list(row.values())).all() for row in rows(folder))
    assert sum("eval/return" in row for row in rows(folder)) == 2


@pytest.mark.parametrize("paper", PAPERS)
def test_an_agent_of_the_run_can_be_loaded(paper, whole):
    agent = load_agent(whole(paper))
    assert agent.paper == paper and agent.updates == 15 and agent.env.name == "toy_point"


class Kill(Exception):
    """What kill -9 looks like from inside."""


def at(frames: int, what: Callable[[], None]):
    """Do something, once, when the loop comes to that frame (two envs may jump over it), before it saves."""
    done = []

    def keep_up(self: OnlineRun) -> bool:
        if self.frames >= frames and not done:
            done.append(True)
            what()
        return KEEP_UP(self)

    return keep_up


KEEP_UP = OnlineRun.keep_up


def killed() -> None:
    raise Kill


def terminated() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def interrupt(paper: str, folder: Path, frames: int, what, monkeypatch, *flags: str) -> None:
    monkeypatch.setattr(OnlineRun, "keep_up", at(frames, what))
    with pytest.raises(Kill if what is killed else SystemExit) as stop:
        start(paper, folder, *flags)
    assert what is killed or stop.value.code == 130
    monkeypatch.setattr(OnlineRun, "keep_up", KEEP_UP)


@pytest.mark.parametrize(
    "paper, frames, what",
    [
        (PAPERS[0], 100, terminated),
        (PAPERS[0], 117, killed),
        (PAPERS[0], 47, killed),
        (PAPERS[1], 117, killed),
    ],
)
def test_a_resumed_run_ends_with_the_same_bits(paper, frames, what, whole, tmp_path, monkeypatch):
    """Stopped at a scheduled checkpoint; killed after one; killed before the first."""
    folder = whole(paper)
    interrupt(paper, tmp_path / "run", frames, what, monkeypatch)
    train(paper, "--resume", str(tmp_path / "run"))
    assert differing(state(tmp_path / "run"), state(folder)) == []
    assert same(
        load_file(tmp_path / "run" / "model.pt")["weights"], load_file(folder / "model.pt")["weights"]
    )
    assert curve(tmp_path / "run") == curve(folder)
    ours, theirs = rows(tmp_path / "run"), rows(folder)
    assert ours == theirs


def test_two_envs_with_ends_resume_too(tmp_path, monkeypatch):
    """Discrete actions, short games that end for good, a discount head."""
    env = "--env toy_simple_world --env-options.actions discrete --env-options.terminal True"
    flags = "--num-envs", "2", *env.split()
    start(PAPERS[0], tmp_path / "whole", *flags)
    interrupt(PAPERS[0], tmp_path / "run", 100, terminated, monkeypatch, *flags)
    train(PAPERS[0], "--resume", str(tmp_path / "run"))
    assert differing(state(tmp_path / "run"), state(tmp_path / "whole")) == []
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")
    episodes = [row for row in rows(tmp_path / "run") if "episode/return" in row]
    assert len(episodes) > 5 and "loss/cont" in rows(tmp_path / "run")[-1].keys() | episodes[-1].keys()


@pytest.mark.parametrize("paper", PAPERS)
def test_resuming_what_cannot_go_on(paper, tmp_path, whole, capsys):
    """Too few steps, another paper's run; without a checkpoint a run begins anew and says so."""
    folder = tmp_path / "run"
    shutil.copytree(whole(paper), folder)
    with pytest.raises(UserError, match="--steps 90: the run in .* is at 130 frames already"):
        train(paper, "--resume", str(folder), "--steps", "90")
    other = PAPERS[1 - PAPERS.index(paper)]
    with pytest.raises(UserError, match=f"a run of {paper}; go on with the train.py of that folder"):
        train(other, "--resume", str(folder))
    shutil.rmtree(folder / "state")
    train(paper, "--resume", str(folder))
    assert "holds no checkpoint yet: the run begins anew" in capsys.readouterr().out


def test_sigterm_saves_and_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    paper, folder = PAPERS[0], tmp_path / "run"
    interrupt(paper, folder, 83, terminated, monkeypatch)
    out = capsys.readouterr().out
    assert f"stopped; the state is saved: python train.py --resume {folder}" in out and "done:" not in out
    assert RunState(folder / "state").load()[0] == 83 and load_file(folder / "model.pt")["paper"] == paper
    first = json.loads((folder / "config.json").read_text())["command"]
    train(paper, "--resume", str(folder))
    assert "done:" in capsys.readouterr().out
    assert [row["frames"] for row in curve(folder)] == ["65", "130"]
    config = json.loads((folder / "config.json").read_text())
    assert config["command"] == first and "resumed_with" in config
    train(paper, "--resume", str(folder))  # it has ended: nothing more happens
    assert len(curve(folder)) == 2 and RunState(folder / "state").load()[0] == 130


@pytest.mark.parametrize("paper", PAPERS)
def test_a_finished_run_can_be_made_longer(paper, whole, tmp_path):
    shutil.copytree(whole(paper), tmp_path / "run")
    train(paper, "--resume", str(tmp_path / "run"), "--steps", "150", "--eval-episodes", "2")
    got = [(row["frames"], row["episodes"]) for row in curve(tmp_path / "run")]
    assert got == [("65", "1"), ("130", "1"), ("150", "2")]
    assert state(tmp_path / "run")["replay"]["counts"][0] > 150  # the old rows are still there


@pytest.mark.parametrize(
    "flags", ["--rssm.deter 16", "--seed 3", "--prefill 50", "--replay.batch 3", "--env-options.size 64"]
)
def test_a_resume_refuses_flags_of_another_run(flags, whole):
    paper, folder = PAPERS[0], whole(PAPERS[0])
    before = (folder / "config.json").read_bytes()
    name, value = flags.split()
    with pytest.raises(UserError, match=f"{name.split('.')[0]}.*keeps.*without --resume") as error:
        train(paper, "--resume", str(folder), name, value)
    assert "\n" not in str(error.value) and (folder / "config.json").read_bytes() == before
    with pytest.raises(UserError, match="--env toy_catch: the run in .* is on toy_point"):
        train(paper, "--resume", str(folder), "--env", "toy_catch")


@pytest.mark.parametrize("paper", PAPERS)
def test_a_dry_run_says_what_would_happen_and_writes_nothing(paper, tmp_path, capsys):
    start(paper, tmp_path / "run", "--dry-run")
    out = capsys.readouterr().out
    assert "frames to come: 130 = 130 policy steps" in out and "gradient steps to come: 15" in out
    assert "parameters" in out and "replay of 1,146 rows" in out and "run folder: none (--dry-run)" in out
    assert not (tmp_path / "run").exists()


def test_env_options_are_flags(tmp_path, capsys):
    """`--env-options.NAME VALUE`, also of options that the preset does not name, with their types."""
    flags = "--env toy_catch --env-options.gray False --env-options.drops 3 --env-options.size 64".split()
    start(PAPERS[0], tmp_path / "run", *flags, "--dry-run")
    out = " ".join(capsys.readouterr().out.split())
    assert all(word in out for word in ("'gray': False", "'drops': 3", "'size': 64"))
    start(PAPERS[0], tmp_path / "run", "--env-options.actions", "discrete", "--dry-run")
    assert "'actions': 'discrete'" in capsys.readouterr().out
    for flag, value in (("--env-options.no-gray", False), ("--env-options.gray", True)):
        start(PAPERS[0], tmp_path / "run", "--env", "toy_catch", flag, "--dry-run")
        out = " ".join(capsys.readouterr().out.split())  # lines are wrapped
        assert f"'gray': {value}" in out.split("command line")[1]


# --- bad input


class TwoKnobs(gym.Env):
    """Its actions are two choices at once."""

    observation_space = gym.spaces.Box(0, 255, (32, 32, 3), np.uint8)
    action_space = gym.spaces.MultiDiscrete([3, 2])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros((32, 32, 3), np.uint8), {}

    def step(self, action):
        return np.zeros((32, 32, 3), np.uint8), 0.0, True, False, {}


@pytest.fixture
def two_knobs():
    gym.register("TwoKnobs-v0", TwoKnobs)
    yield
    gym.registry.pop("TwoKnobs-v0")


BOTH = [  # what each paper checks itself
    ("--steps 30", ("--steps 30", "--prefill 40")),
    ("--behaviour.horizon 1", ("--behaviour.horizon 1", "at least 2")),
    ("--env-options.size 16", ("16", "64 or 32 pixels")),
]
SHARED = [
    ("--env toy_piont", ("toy_piont", "toy_point")),
    ("--env TwoKnobs-v0", ("TwoKnobs-v0", "MultiDiscrete", "Box or Discrete")),
    ("--image-size 48", ("48", "64, 32")),
    ("--env-options.colour 1", ("toy_point", "colour", "actions")),
    ("--replay.capacity 1e12 --steps 1e12", ("--replay.capacity", "TB")),
    ("--rssm.detre 8", ("--rssm.detre", "--rssm.deter")),
    ("--prefill 4", ("--prefill 4", "--replay.length")),
    ("--replay.capacity 4", ("--replay.capacity 4", "--replay.length")),
    ("--num-envs 20", ("--prefill 40", "--replay.length")),
]


@pytest.mark.parametrize(
    "paper, flags, words",
    [(PAPERS[0], *case) for case in SHARED] + [(paper, *case) for paper in PAPERS for case in BOTH],
)
def test_bad_input_is_one_line_and_exit_code_2(paper, flags, words, tmp_path, two_knobs, capsys):
    with pytest.raises(SystemExit) as stop:
        run_main(lambda: start(paper, tmp_path / "run", *flags.split()))
    told = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and len(told) == 1 and told[0].startswith("error: "), told
    assert all(word in told[0] for word in words), told
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_disk_that_filled_up_since_is_to_be_freed(tmp_path, monkeypatch, capsys):
    """A resumed run keeps its capacity, so that is not what it is told to lower."""
    start(PAPERS[0], tmp_path / "run", "--steps", "60")
    monkeypatch.setattr("common.resources.free_disk", lambda path: 1)
    with pytest.raises(UserError, match="free some of it") as error:
        train(PAPERS[0], "--resume", str(tmp_path / "run"), "--steps", "80")
    assert "lower" not in str(error.value) and "\n" not in str(error.value)
