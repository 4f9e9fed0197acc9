"""eval.py --report: the papers' averaging rule, human scores, Crafter's achievements, bad input."""

import json

import numpy as np
import pytest

from common.env_wrapper import scores
from common.errors import UserError
from common.scores import atari_scores, human_normalised
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


def settings(folder, preset: str = "atari100k", **config):
    """Give a run other settings: settings(run, rssm={"deter": 8})."""
    stored = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"preset": preset, "config": stored["config"] | config}))
    return folder


def test_the_published_scores_give_the_published_aggregates(tmp_path):
    """124.7 and 49.4 % (6.0), from the 26 scores of 6.2."""
    protocol = "DreamerV3, Atari 100k: 400k frames, no sticky actions, mean of the last fortieth"
    table = {
        f"atari_{game}": row["value"]
        for game in atari_scores()["games"]
        for row in scores(f"atari_{game}")["published_all"]
        if row["protocol"] == protocol
    }
    assert len(table) == 26
    runs = [run_of(tmp_path / env, env, {399_000: value}) for env, value in table.items()]
    (line,) = (line for line in report(runs) if line.startswith("Atari"))
    assert line.startswith("Atari, 26 games of 1 seeds, of the human score: mean 124.7 %, median 49.4 %, iqm")


def test_a_game_of_few_seeds_takes_none_from_the_others(tmp_path):
    """And every game redraws its own."""
    known = {"atari_pong": [14.6, -20.7], "atari_boxing": [0.1, 12.1, 12.1, 12.1, 36.1]}
    runs = [
        run_of(tmp_path / f"{env}{i}", env, {399_000: value})
        for env, values in known.items()
        for i, value in enumerate(values)
    ]
    (line,) = (line for line in report(runs) if line.startswith("Atari"))
    assert line.startswith("Atari, 2 games of 2 to 5 seeds") and "mean 85.0 % (95 % " in line
    low, high = (float(word) for word in line.split("mean 85.0 % (95 % ")[1].split(")")[0].split(" to "))
    draws = np.random.default_rng(1).integers  # the same by brute force
    games = [human_normalised(env, values) for env, values in known.items()]
    means = [50 * sum(game[draws(len(game), size=len(game))].mean() for game in games) for _ in range(4000)]
    assert np.percentile(means, [2.5, 97.5]) == pytest.approx([low, high], abs=6)
    alone = report([*runs[:1], *runs[2:]])  # a single seed says nothing of its spread
    assert any("mean 110.0 %, median" in line for line in alone)


def test_games_without_a_human_score_count_for_themselves(tmp_path):
    games = {"atari_defender": 5e5, "atari_asteroids": 719.1}
    lines = report(run_of(tmp_path / env, env, {399_000: value}) for env, value in games.items())
    assert any(line.startswith("atari_defender") for line in lines)
    assert any(line.startswith("Atari, 1 games of 1 seeds, of the human score: mean 0.0 %") for line in lines)


def test_runs_of_other_settings_are_no_seeds(tmp_path):
    """Budget, preset and settings tell runs apart; seed, machine and pace of logging do not."""
    env, end = "atari_boxing", {399_000: 12.1}
    runs = [settings(run_of(tmp_path / f"a{i}", env, end), seed=i, threads=i, log_every=i) for i in (1, 2)]
    runs.append(settings(run_of(tmp_path / "b", env, {99_000: 6.1}, 100_000)))
    runs.append(settings(run_of(tmp_path / "c", env, end), preset="tiny"))
    runs.append(settings(run_of(tmp_path / "d", env, end), rssm={"deter": 4096}, train_ratio=128.0))
    lines = report(runs)
    found = [line for line in lines if line.startswith("atari_boxing")]
    assert len(found) == 4
    for line, text in zip(
        found,
        (
            "(2 of 2 seeds)  400,000 frames, preset atari100k, rssm.deter=2048, train_ratio=512.0",
            "(1 of 1 seeds)  100,000 frames, preset atari100k",
            "(1 of 1 seeds)  400,000 frames, preset tiny",
            "(1 of 1 seeds)  400,000 frames, preset atari100k, rssm.deter=4096, train_ratio=128.0",
        ),
        strict=True,
    ):
        assert line.endswith(text)
    joint = [line for line in lines if line.startswith("Atari")]
    assert (
        len(joint) == 4 and all("mean 100.0 %" in joint[i] for i in (0, 2, 3)) and "mean 50.0 %" in joint[1]
    )
    assert joint[2].endswith("400,000 frames, preset tiny")


def test_control_tasks(tmp_path):
    runs = [
        run_of(tmp_path / f"{i}", f"dmc_walker_{task}", {999_000: x}, 1_000_000)
        for i, (task, x) in enumerate((("walk", 900.0), ("run", 600.0), ("stand", 960.0)))
    ]
    assert "DMC, 3 tasks: mean 820.0, median 900.0" in report(runs)
    again = [
        run_of(tmp_path / f"again{i}", f"dmc_walker_{task}", {999_000: x}, 1_000_000)
        for i, (task, x) in enumerate((("walk", 920.0), ("run", 620.0), ("stand", 980.0)))
    ]
    assert "DMC, 3 tasks: mean 826.7, median 910.0" in report([*runs, *again[:1], again[2]])  # run: one seed
    line = next(line for line in report([*runs, *again]) if line.startswith("DMC"))
    mean, median = line.split(", median ")
    assert mean.startswith("DMC, 3 tasks: mean 830.0 (95 % 82") and mean.endswith("to 836.7)")
    assert median.startswith("910.0 (95 % 900.0 to 920.0)")


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
        (["--episodes", "3", "--report", "a"], "and nothing else"),
        (["--report", "a", "--report", "b"], "and nothing else"),
        (["a", "--report", "b"], "unexpected argument 'a'"),
    ):
        with pytest.raises(UserError, match=text):
            main(words)
    empty = run_of(tmp_path / "empty", "atari_pong", {})
    with pytest.raises(UserError, match="no episode has ended"):
        main(["--report", str(empty)])
    folder = str(run_of(tmp_path / "one", "atari_boxing", {399_000: 50.0}))
    for words in (["--report", folder], [f"--report={folder}"]):
        main(words)
        assert "atari_boxing" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--report", "--help"])
    assert "--report [PATH" in capsys.readouterr().out
