"""DreamerV2's aggregates over games against table 1 of the paper, and the scores of runs on disk."""

import json
from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from common.scores import (
    atari_records,
    atari_scores,
    final_score,
    main,
    record_aggregates,
    scores_of_runs,
)

AGENTS = ["IQN", "Rainbow", "C51", "DQN"]


def column(agent: str) -> dict[str, list[float]]:
    return {game: [row[agent]] for game, row in atari_records()["games"].items()}


@pytest.mark.parametrize("agent", AGENTS)
def test_published_scores_of_55_games_reproduce_table_1(agent):
    """With James Bond's random score as the paper has it, to the digits that it prints."""
    as_printed = {"Jamesbond": {**atari_records()["games"]["Jamesbond"], "random": 7.0}}
    result = record_aggregates(column(agent), as_printed)
    assert result.pop("games") == 55
    assert {name: round(value, 2) for name, value in result.items()} == atari_records()["printed"][agent]


@pytest.mark.parametrize("agent", AGENTS)
def test_the_corrected_random_score_changes_little(agent):
    result, printed = record_aggregates(column(agent)), atari_records()["printed"][agent]
    for name, value in printed.items():
        assert result[name] == pytest.approx(value, abs=0.02 if name == "gamer_mean" else 0.005), name


def test_the_uncorrected_row_would_spoil_the_gamer_mean():
    """random 7 and gamer 29, as the authors' file has them: a few points count as a hundredfold human."""
    wrong = {"Jamesbond": {**atari_records()["games"]["Jamesbond"], "random": 7.0, "gamer": 29.0}}
    assert record_aggregates(column("IQN"), wrong)["gamer_mean"] == pytest.approx(11.27, abs=0.01)
    assert record_aggregates(column("IQN"))["gamer_mean"] == pytest.approx(8.87, abs=0.01)
    row = atari_records()["games"]["Jamesbond"]
    assert (row["random"], row["gamer"]) == (29.0, 302.8)


def test_the_eleven_published_seeds_of_dreamerv2_reproduce_their_aggregates():
    """The authors' curves, the window being the last 2M of 200M frames (sheet of paper 3, oracle 18)."""
    file = Path(__file__).with_name("dreamerv2_200m.json")
    scores = json.loads(file.read_text(encoding="utf-8"))["games"]
    found = record_aggregates(scores)
    assert found.pop("games") == 55
    expected = {"gamer_median": 2.2404, "gamer_mean": 11.1916, "record_mean": 0.4349}
    assert found == pytest.approx(expected | {"clipped_record_mean": 0.2769}, abs=5e-5)
    uncorrected = {"Jamesbond": {**atari_records()["games"]["Jamesbond"], "random": 7.0, "gamer": 29.0}}
    assert record_aggregates(scores, uncorrected)["gamer_mean"] == pytest.approx(40.45, abs=0.01)


def test_both_tables_agree_about_random_and_human():
    for game, row in atari_scores()["games"].items():
        ours = atari_records()["games"][game]
        assert ours["gamer"] == pytest.approx(row["human"], abs=0.05), game
        assert ours["random"] == pytest.approx(row["random"], abs=1.0 if game == "Alien" else 0.05), game


def test_random_gamer_and_record_are_zero_one_and_one():
    games = atari_records()["games"]
    assert len(games) == 55
    rows = {
        kind: {game: [row[kind]] for game, row in games.items()} for kind in ("random", "gamer", "record")
    }
    assert set(record_aggregates(rows["random"]).values()) == {0.0, 55}
    assert record_aggregates(rows["gamer"])["gamer_mean"] == pytest.approx(1)
    assert record_aggregates(rows["gamer"])["gamer_median"] == pytest.approx(1)
    assert record_aggregates(rows["record"])["record_mean"] == pytest.approx(1)
    assert record_aggregates(rows["record"])["clipped_record_mean"] == pytest.approx(1)


def test_seeds_are_clipped_before_they_are_averaged():
    """Three Breakout seeds, one at random and one far above the record: their mean would pass unclipped."""
    random, record = 1.7, 864.0
    seeds = [random, record + 2 * (record - random), random + 0.5 * (record - random)]
    result = record_aggregates({"Breakout": seeds})
    assert result["record_mean"] == pytest.approx((0 + 3 + 0.5) / 3)
    assert result["clipped_record_mean"] == pytest.approx((0 + 1 + 0.5) / 3)


def test_the_clip_is_from_above_only():
    below = {"Skiing": [-28_707.56]}
    assert record_aggregates(below)["clipped_record_mean"] == pytest.approx(-11_609.46 / 13_826.1, abs=1e-4)


def test_pong_by_hand_and_games_weigh_the_same_whatever_their_seeds():
    pong, boxing = (19.1 + 20.7) / (14.6 + 20.7), (88.1 - 0.1) / (12.1 - 0.1)  # sheet, section 7.2
    result = record_aggregates({"atari_pong": [18.1, 20.1], "ALE/Boxing-v5": [88.1] * 5})
    assert result["gamer_mean"] == pytest.approx((pong + boxing) / 2)
    assert result["gamer_median"] == pytest.approx((pong + boxing) / 2)
    assert result["games"] == 2
    with pytest.raises(UserError, match="known games"):
        record_aggregates({"atari_adventure": [1.0]})


def test_the_score_of_a_run_is_the_mean_of_its_last_window():
    steps = np.arange(1, 201) * 1e6
    assert final_score(steps, np.arange(200.0), 2e6) == pytest.approx((198 + 199) / 2)
    assert final_score([5], [3.0], 2e6) == 3.0
    with pytest.raises(UserError, match="evaluation"):
        final_score([], [], 2e6)


def run_folder(folder, env: str, returns: list[float]):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"config": {"env": env}}))
    rows = [f"{(i + 1) * 1_000_000},{value}" for i, value in enumerate(returns)]
    (folder / "curve.csv").write_text("\n".join(["frames,ret_mean", *rows, ""]))
    return folder


def test_runs_on_disk(tmp_path, monkeypatch, capsys):
    a = run_folder(tmp_path / "a", "atari_pong", [-21, 10, 20])
    b = run_folder(tmp_path / "b", "ALE/Pong-v5", [-21, 14, 14])
    c = run_folder(tmp_path / "c", "atari_james_bond", [302.8] * 4)
    scores = scores_of_runs([a, b, c])
    assert scores == {"Pong": [15.0, 14.0], "Jamesbond": [pytest.approx(302.8)]}
    monkeypatch.setattr("sys.argv", ["scores", str(a), str(b), str(c)])
    main()
    out = capsys.readouterr().out
    assert "Pong" in out and "(2 runs)" in out and "gamer_median" in out
    with pytest.raises(UserError, match="no run folder"):
        scores_of_runs([tmp_path])
    monkeypatch.setattr("sys.argv", ["scores"])
    with pytest.raises(UserError, match="run folders"):
        main()
