"""Every, and the curve of a run with its clocks, also over a resume."""

import csv
import time

import numpy as np
import pytest

from common.loop import COLUMNS, Curve, Every


def test_every_counts_what_became_due():
    every = Every(10)
    assert [every(n) for n in (0, 3, 9, 10, 11, 19, 20, 45, 45, 50)] == [0, 0, 0, 1, 0, 0, 1, 2, 0, 1]


def test_a_resumed_every_does_nothing_twice():
    whole, due = Every(10), []
    for n in range(0, 101, 4):
        due.append((n, whole(n)))
    first, cut = Every(10), 48
    resumed = Every(10, cut)
    again = [(n, first(n) if n <= cut else resumed(n)) for n in range(0, 101, 4)]
    assert again == due and sum(times for _, times in due) == 10


def test_period_zero_is_never():
    every = Every(0, 100)
    assert [every(n) for n in (0, 1, 1000)] == [0, 0, 0]


def read(folder) -> list[dict[str, float]]:
    with open(folder / "curve.csv", newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def test_a_row_has_the_mean_and_its_interval(tmp_path):
    curve, returns = Curve(tmp_path), np.arange(16.0)
    row = curve.add(1_000, 500, 123, returns)
    assert tuple(row) == COLUMNS
    assert (row["frames"], row["policy_steps"], row["updates"], row["episodes"]) == (1_000, 500, 123, 16)
    assert row["ret_low"] < row["ret_mean"] == 7.5 < row["ret_high"]
    half = 1.96 * returns.std(ddof=1) / 4
    assert row["ret_high"] - row["ret_mean"] == pytest.approx(half, rel=0.15)  # bootstrap, or normal
    assert read(tmp_path) == [pytest.approx(row)]
    one = curve.add(2_000, 1_000, 300, np.array([3.0]))
    assert one["ret_low"] == one["ret_mean"] == one["ret_high"] == 3  # one episode says nothing of the spread
    assert [row["frames"] for row in read(tmp_path)] == [1_000, 2_000]
    big = curve.add(123_456_789, 1, 1, np.ones(2))
    assert read(tmp_path)[-1]["frames"] == big["frames"] == 123_456_789


def test_the_clocks_go_on_over_a_resume(tmp_path, monkeypatch):
    clock, cpu = time.time(), [1000.0]
    monkeypatch.setattr("common.loop.cpu_seconds", lambda: cpu[0])
    monkeypatch.setattr("common.loop.time.time", lambda: clock)
    curve = Curve(tmp_path)
    clock, cpu[0] = clock + 60, 1040.0
    curve.add(100, 100, 10, np.ones(3))
    state = curve.state()
    curve.add(200, 200, 20, np.ones(3))  # after the checkpoint: this process is killed later
    clock, cpu[0] = clock + 5_000, 3.0  # hours later a new process begins, whose CPU clock starts anew
    resumed = Curve(tmp_path)
    resumed.restore(state)
    assert [row["frames"] for row in read(tmp_path)] == [100]  # the row after the checkpoint is gone
    clock, cpu[0] = clock + 30, 23.0
    row = resumed.add(200, 200, 20, np.ones(3))
    assert (row["wall_s"], row["cpu_s"]) == pytest.approx((90, 60))
    assert [row["frames"] for row in read(tmp_path)] == [100, 200]
    assert resumed.totals() == pytest.approx((90, 60))


def test_a_resume_before_the_first_evaluation(tmp_path):
    curve, resumed = Curve(tmp_path), Curve(tmp_path)
    state = curve.state()
    resumed.restore(state)
    assert not (tmp_path / "curve.csv").exists()
    curve.add(100, 100, 10, np.ones(2))  # after the checkpoint
    resumed.restore(state)
    assert read(tmp_path) == []
    resumed.add(100, 100, 10, np.ones(2))
    assert len(read(tmp_path)) == 1
