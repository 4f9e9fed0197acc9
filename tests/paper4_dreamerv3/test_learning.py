"""That the agent learns: `tiny` on vectors and pixels, discrete and continuous (minutes; `make learn`)."""

import csv

import pytest

from paper4_dreamerv3.train import main


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "env, steps, least",
    [
        ("CartPole-v1", 7_000, 200.0),  # random 22.5, optimum 500
        ("Pendulum-v1", 7_000, -400.0),  # random -1,204
        ("toy_catch", 5_000, 4.0),  # random -9.6, optimum 16
    ],
)
def test_a_task_is_learned(tmp_path, env, steps, least, seed):
    """The budgets of the sheet (section 9); all tasks with the same numbers."""
    flags = {"--preset": "tiny", "--env": env, "--steps": steps, "--seed": seed, "--device": "cpu"}
    main([str(word) for pair in flags.items() for word in pair] + ["--logdir", str(tmp_path / "run")])
    with open(tmp_path / "run" / "curve.csv", newline="") as file:
        returns = [float(row["ret_mean"]) for row in csv.DictReader(file)]
    assert returns[-1] >= least, returns
