"""That the agent learns: `tiny` on toy_catch, three seeds (minutes each; `make learn`)."""

import csv

import pytest

from paper5_iris.train import main


@pytest.fixture(scope="module")
def returns(tmp_path_factory) -> list[float]:
    """Mean return of the last evaluation (50 episodes) of three seeds."""
    found = []
    for seed in range(3):
        run = tmp_path_factory.mktemp("learn") / "run"
        main(["--preset", "tiny", "--seed", str(seed), "--device", "cpu", "--logdir", str(run)])
        with open(run / "curve.csv", newline="") as file:
            found.append([float(row["ret_mean"]) for row in csv.DictReader(file)][-1])
    return found


@pytest.mark.slow
def test_the_toy_is_learned(returns):
    """The band of the sheet (section 11.3): random -0.5, optimum 1."""
    assert sum(returns) / 3 >= 0.7 and min(returns) >= 0.4, returns
