"""eval.py --report: the papers' averaging rule, human scores, Crafter's achievements, bad input."""

import json

import numpy as np
import pytest

from common.errors import UserError
from paper4_dreamerv3.eval import main
from paper4_dreamerv3.report import last_bin, report, success_rates


def run_of(folder, env: str, returns: dict[int, float], steps: int = 400_000, **more):
    """A run folder with training episodes {step of their end: return}."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"config": {"env": env, "steps": steps}}))
    rows = [{"step": step, "time": 0.0, "episode/return": ret, **more} for step, ret in returns.items()]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_only_the_last_fortieth_of_the_budget_counts():
    rows = [
        {"step": s, "episode/return": r} for s, r in ((390_000, 1), (390_001, 5), (400_000, 7), (400_004, 99))
    ]
    assert last_bin(rows, 400_000) == 6
    assert last_bin(rows[:1], 400_000) is None


def test_atari_by_human_scores(tmp_path):
    """Pong: random -20.7, human 14.6.  Seeds first, then games; without an episode a seed is left out."""
    runs = [run_of(tmp_path / f"pong{i}", "atari_pong", {395_000: x}) for i, x in enumerate((14.6, -20.7))]
    runs.append(run_of(tmp_path / "pong2", "atari_pong", {100_000: 21.0}))
    lines = report(runs)
    line = next(line for line in lines if line.startswith("atari_pong"))
    assert "-3.0 ± 25.0" in line and "(2 of 3 seeds)" in line
    assert any("mean 50.0 %" in line and "median 50.0 %" in line for line in lines)


def test_control_tasks(tmp_path):
    runs = [
        run_of(tmp_path / f"{i}", f"dmc_walker_{task}", {999_000: x}, 1_000_000)
        for i, (task, x) in enumerate((("walk", 900.0), ("run", 600.0), ("stand", 960.0)))
    ]
    assert "DMC, 3 tasks: mean 820.0, median 900.0" in report(runs)


def test_crafter_counts_episodes_in_which_something_was_unlocked(tmp_path):
    names = {"episode/achievements/collect_wood": 3.0, "episode/achievements/eat_cow": 0.0}
    folder = run_of(tmp_path / "a", "crafter_reward", {10: 1.0, 20: 2.0}, 20, **names)
    rows = [{"episode/return": 1.0, **names}, {"episode/return": 1.0, "episode/achievements/eat_cow": 1.0}]
    assert success_rates(rows) == {"collect_wood": 50.0, "eat_cow": 50.0}
    lines = report([folder])
    assert f"crafter_reward, score: {np.sqrt(101) - 1:.1f} %" in lines
    assert any(line.split() == ["collect_wood", "100.0", "%"] for line in lines)


def test_bad_input_is_one_line(tmp_path, capsys):
    for words, text in (
        (["--report"], "--report takes run folders"),
        (["--report", str(tmp_path)], "no run folder"),
        (["--report", "a", "--episodes"], "and nothing else"),
    ):
        with pytest.raises(UserError, match=text):
            main(words)
    empty = run_of(tmp_path / "empty", "atari_pong", {})
    with pytest.raises(UserError, match="no episode has ended"):
        main(["--report", str(empty)])
    main(["--report", str(run_of(tmp_path / "one", "atari_boxing", {399_000: 50.0}))])
    assert "atari_boxing" in capsys.readouterr().out
