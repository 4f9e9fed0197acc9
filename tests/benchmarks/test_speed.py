"""The speed scripts run at a tiny size, and `make bench` runs all of them."""

import json
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import envs, one_by_one, paper1_rollouts, speed
from benchmarks.one_by_one import Size, Timing
from benchmarks.results import ROOT
from common.errors import UserError


def test_envs_at_a_tiny_size(tmp_path, monkeypatch):
    pytest.importorskip("Box2D")
    monkeypatch.setattr(envs, "FILE", tmp_path / "speed" / "envs.json")
    monkeypatch.setattr(envs, "SECONDS", 0.01)
    monkeypatch.setattr(envs, "RUNS", 1)
    some = [case for case in envs.cases() if "toy_dodge" in case[0] or "fast 64 cropped" in case[0]]
    monkeypatch.setattr(envs, "cases", lambda: some)
    envs.main()
    rates = json.loads((tmp_path / "speed" / "envs.json").read_text())["steps_per_cpu_second"]
    assert rates["toy_dodge() x64"] > rates["CarRacing-v3, fast 64 cropped"] > 10


def test_paper1_rollouts_at_a_tiny_size(tmp_path, monkeypatch, capsys):
    pytest.importorskip("Box2D")
    tiny = {"stock": Size(2, 1, 3), "fast": Size(16, 1, 3)}
    monkeypatch.setattr(paper1_rollouts, "QUICK", tiny)
    out = tmp_path / "speed" / "rollouts.json"
    paper1_rollouts.main(["--quick", "--width", "0.25", "--out", str(out)])
    rows = json.loads(out.read_text())["rows"]
    assert len(rows) == 3 + 3 + 3  # the ports' scheme three times; each backend with 0, 1 and 2 workers
    assert rows["stock, one process per rollout, batch 1"]["times_cpu"] == 1
    rates = np.array([[row["steps_per_cpu_s"], row["steps_per_s"]] for row in rows.values()])
    assert (rates > 0).all()
    printed = capsys.readouterr().out
    assert all(label in printed for label in rows) and "fast: at best" in printed


def test_a_rate_counts_the_reset_once_per_episode():
    steps = Timing(steps=100, cpu=1.0, wall=0.5, reset=0.0)
    assert steps.rates() == (100, 200)
    assert Timing(100, 1.0, 0.5, reset=10.0).rates() == (50, 100)  # 1,000 steps of 10 ms, and 10 s more


def test_one_by_one_plays_what_lockstep_plays(monkeypatch):
    """The same networks, frames and timing as ours: the ports' car is driven by the same actions."""
    pytest.importorskip("Box2D")
    from paper1_world_models.rollout import Episode, Noise, Player, play
    from paper1_world_models.rollout_games import make_games

    nets = one_by_one.models(0.25)
    vector = 10 * one_by_one.candidates(1, nets[-1].size)[0]
    games = make_games(one_by_one.spec("fast"), 1, 1, (64, 64, 3))
    games.reset(np.array([0]), [100])
    env, ours, theirs = games.envs[0], [], []
    step = env.step
    monkeypatch.setattr(env, "step", lambda action: ours.append(action.copy()) or step(action))
    play(games, Player(*nets, 1), vector[None], [Episode(0, 0, 100)], Noise(None), 12)
    monkeypatch.setattr(env, "step", lambda action: theirs.append(action.copy()) or step(action))
    monkeypatch.setattr("torch.randn_like", lambda x: x * 0)  # the mean of z, as Noise(None)
    one_by_one.rollout(env, 100, nets, vector, False, Size(1, 2, 12))
    np.testing.assert_allclose(theirs, ours, atol=1e-4)
    assert np.std(ours, axis=0).max() > 1e-3  # it reacts, else equality would mean nothing


def test_speed_runs_every_script(monkeypatch):
    assert {file.stem for file in (ROOT / "benchmarks" / "speed").glob("*.json")} <= set(speed.SCRIPTS)
    assert "-m benchmarks.speed" in (ROOT / "Makefile").read_text()
    calls = []

    def call(command, env):
        calls.append((command[-1], env["OPENBLAS_NUM_THREADS"]))
        return subprocess.CompletedProcess(command, int(command[-1].endswith(speed.SCRIPTS[-1])))

    monkeypatch.setattr(speed.subprocess, "run", call)
    with pytest.raises(UserError, match="benchmarks.dreamer_update failed"):
        speed.main([])
    assert calls == [(f"benchmarks.{name}", "1") for name in speed.SCRIPTS]
    with pytest.raises(UserError, match="no speed script 'evns': choose from envs"):
        speed.main(["evns"])


def test_bad_input_is_one_line():
    command = [sys.executable, "-m", "benchmarks.paper1_rollouts", "--rounds", "0"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (
        done.returncode == 2 and done.stderr.startswith("error: --rounds 0") and done.stderr.count("\n") == 1
    )
