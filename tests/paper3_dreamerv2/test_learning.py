"""That the agent learns: the tiny preset, discrete actions and continuous ones (minutes; `make learn`)."""

import csv

import pytest

from paper3_dreamerv2.train import main


@pytest.mark.slow
@pytest.mark.parametrize(
    "env, steps, least",
    [("toy_catch", 4_000, 4.0), ("toy_point", 3_000, 45.0)],  # random -9.6 and 15.0, optimum 16 and 62.5
)
def test_a_toy_is_learned(tmp_path, env, steps, least):
    """The bars of the sheet (9.1): REINFORCE on falling balls, the dynamics' gradient on a moving point."""
    folder = str(tmp_path / "run")
    main(["--preset", "tiny", "--env", env, "--steps", str(steps), "--device", "cpu", "--logdir", folder])
    with open(tmp_path / "run" / "curve.csv", newline="") as file:
        returns = [float(row["ret_mean"]) for row in csv.DictReader(file)]
    assert returns[-1] >= least, returns
