"""The growth of tables: closed forms, and the same values from a dense table."""

import numpy as np
import pytest

from foundations.minigrid.limits import WORLDS, dense_sweeps, measure, sweep
from foundations.minigrid.mdp import extract_mdp
from foundations.minigrid.solvers import value_iteration


@pytest.mark.parametrize(
    ("size", "states", "sweeps"), [(5, 32, 7), (8, 140, 13), (16, 780, 29), (32, 3_596, 61)]
)
def test_empty_grows_with_the_square(size, states, sweeps):
    row = measure("Empty", size, real_states=0, dense_states=0)
    assert (row["states"], row["sweeps"]) == (states, sweeps) and states == 4 * ((size - 2) ** 2 - 1)
    assert row["dense_bytes"] == 8 * states * states * 3
    assert "dense_s" not in row and "play_s" not in row


@pytest.mark.parametrize(
    ("world", "size", "states"),
    [("DoorKey", 5, 60), ("DoorKey", 8, 424), ("DoorKey", 16, 2_680), ("DoorKey", 32, 12_712),
     ("DoorKey with drop", 5, 260), ("DoorKey with drop", 8, 9_152)],
)  # fmt: skip
def test_doors_keys_and_dropping(world, size, states):
    assert measure(world, size, real_states=0, dense_states=0)["states"] == states


def test_measured_rows_hold_what_was_asked_for():
    rows = list(sweep([5, 6], drop_up_to=5, real_states=100, dense_states=100))
    assert [(row["world"], row["n"]) for row in rows] == [
        ("Empty", 5), ("Empty", 6), ("DoorKey", 5), ("DoorKey", 6), ("DoorKey with drop", 5)
    ]  # fmt: skip
    assert all(("dense_s" in row) == ("play_s" in row) == (row["states"] <= 100) for row in rows)


def test_the_dense_table_gives_the_same_values():
    env = WORLDS["DoorKey"][0](5)
    env.reset(seed=0)
    mdp = extract_mdp(env, (0, 1, 2, 3, 5))
    solution = value_iteration(mdp)
    assert np.allclose(dense_sweeps(mdp, 0.99, solution.rounds), solution.values)
    assert not np.allclose(dense_sweeps(mdp, 0.99, solution.rounds - 3), solution.values)


@pytest.mark.slow
def test_a_key_that_can_lie_anywhere():
    row = measure("DoorKey with drop", 16)
    assert row["states"] == 357_680
