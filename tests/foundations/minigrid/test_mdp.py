"""The table of a world: extracted by playing, by the symbolic rules, and with chance on top."""

import numpy as np
import pytest

from common.errors import UserError
from foundations.minigrid.envs import load_state, make_env, make_grid, save_state
from foundations.minigrid.mdp import TabularMDP, extract_mdp, with_slip
from foundations.minigrid.symbolic import SymbolicGrid, symbolic_mdp

# name, layout, drop -> states, terminal pairs
SIZES = [
    ("Empty-5x5", 0, False, 32, 2),
    ("Empty-6x6", 0, False, 60, 2),
    ("Empty-8x8", 0, False, 140, 2),
    ("Empty-16x16", 0, False, 780, 2),
    ("FourRooms", 0, False, 1_036, 4),
    ("FourRooms", 1, False, 1_036, 3),
    ("FourRooms", 42, False, 1_036, 4),
    ("DoorKey-5x5", 0, False, 60, 2),
    ("DoorKey-5x5", 0, True, 260, 10),
    ("DoorKey-5x5", 1, False, 64, 2),
    ("DoorKey-6x6", 0, False, 152, 2),
    ("DoorKey-6x6", 0, True, 1_272, 22),
    ("DoorKey-8x8", 0, False, 424, 2),
    ("LavaGapS5", 0, False, 16, 4),
    ("TwoRooms", 0, False, 112, 2),
]


def table(name: str, layout: int = 0, drop: bool = False) -> TabularMDP:
    world = make_env(name, layout, drop=drop, view=3)
    return extract_mdp(world.grid, world.actions)


@pytest.mark.parametrize(("name", "layout", "drop", "states", "terminal"), SIZES)
def test_sizes(name, layout, drop, states, terminal):
    mdp = table(name, layout, drop)
    assert (mdp.num_states, int(mdp.terminal.sum())) == (states, terminal)
    assert len(set(mdp.states)) == states
    if name.startswith("Empty"):
        n = int(name.split("x")[1])
        assert states == 4 * ((n - 2) ** 2 - 1)


def test_the_table_says_what_the_world_does():
    world, rng = make_env("DoorKey-6x6", view=3), np.random.default_rng(0)
    mdp = extract_mdp(world.grid, world.actions)
    world.reset(seed=0)
    state, ends = mdp.index[save_state(world.grid)], 0
    assert state == 0
    for _ in range(3000):
        action = int(rng.integers(len(world.actions)))
        _, rew, terminated, truncated, _ = world.step(action)
        assert mdp.terminal[state, action] == terminated and mdp.rew[state, action] == float(rew > 0)
        if not terminated:
            assert mdp.states[mdp.next_state[state, action]] == save_state(world.grid)
        ends += terminated
        if terminated or truncated:
            world.reset()
        state = mdp.index[save_state(world.grid)]
    assert ends > 0


def test_extraction_leaves_the_world_where_it_was():
    world = make_env("DoorKey-5x5")
    extract_mdp(world.grid, world.actions)
    assert save_state(world.grid) == world.start


def test_lava_ends_and_pays_nothing():
    mdp = table("LavaGapS5")
    assert mdp.rew[mdp.terminal].sum() < mdp.terminal.sum()
    assert (mdp.rew[~mdp.terminal] == 0).all()


@pytest.mark.parametrize(
    ("name", "layout", "drop"),
    [("Empty-6x6", 0, False), ("FourRooms", 1, False), ("DoorKey-5x5", 0, True), ("DoorKey-6x6", 3, True),
     ("DoorKey-8x8", 0, False), ("LavaGapS5", 0, False), ("TwoRooms", 0, False)],
)  # fmt: skip
def test_symbolic_rules_equal_the_real_world(name, layout, drop):
    world = make_env(name, layout, drop=drop, view=3)
    real, fast, rules = (
        extract_mdp(world.grid, world.actions),
        symbolic_mdp(world.grid, world.actions),
        SymbolicGrid(world.grid),
    )
    row = {tuple(state): i for i, state in enumerate(fast.states.tolist())}
    to_fast = np.array([row[rules.numbers(state)] for state in real.states])  # [S]
    assert len(row) == real.num_states == len(set(to_fast.tolist())) and to_fast[0] == 0
    assert np.array_equal(to_fast[real.next_state], fast.next_state[to_fast])
    assert np.array_equal(real.rew, fast.rew[to_fast]) and np.array_equal(
        real.terminal, fast.terminal[to_fast]
    )


def test_slip_by_hand():
    mdp = with_slip(table("Empty-5x5"), 0.1)
    assert np.array_equal(mdp.chance, [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]])
    start = mdp.transition()[:, 0]  # [A, S]: from (1, 1) facing right
    to = {mdp.states[s][:3]: start[:, s].tolist() for s in np.flatnonzero(start.sum(0))}
    assert to == {(1, 1, 3): [0.8, 0.1, 0.1], (1, 1, 1): [0.1, 0.8, 0.1], (2, 1, 0): [0.1, 0.1, 0.8]}


def test_the_end_is_no_state():
    mdp = table("Empty-5x5")
    mass = mdp.transition().sum(-1).T  # [S, A]
    assert np.array_equal(mass, 1.0 - mdp.terminal)
    assert (mdp.next_state[mdp.terminal] == np.nonzero(mdp.terminal)[0]).all()


def test_drawn_steps_follow_the_chances():
    mdp, rng = with_slip(table("Empty-5x5"), 0.2), np.random.default_rng(0)
    forward = mdp.next_state[0, 2]
    share = np.mean([mdp.step(0, 2, rng)[0] == forward for _ in range(3000)])
    assert share == pytest.approx(0.6, abs=0.03)
    goal = tuple(np.argwhere(mdp.terminal)[0])
    assert {mdp.step(*goal, rng)[1:] for _ in range(100)} == {(1.0, True), (0.0, False)}


def test_worlds_that_no_table_fits():
    with pytest.raises(UserError, match="random numbers"):
        grid = make_grid("Dynamic-Obstacles-5x5")
        grid.reset(seed=0)
        extract_mdp(grid, (0, 1, 2))
    with pytest.raises(UserError, match="more than 100 states"):
        world = make_env("Empty-8x8")
        extract_mdp(world.grid, world.actions, max_states=100)
    with pytest.raises(UserError, match="do not know ball"):
        grid = make_grid("Fetch-5x5-N2")
        grid.reset(seed=2)
        SymbolicGrid(grid)


def test_states_can_be_loaded_from_the_table():
    world = make_env("DoorKey-5x5")
    mdp = extract_mdp(world.grid, world.actions)
    for state in mdp.states:
        load_state(world.grid, state)
        assert save_state(world.grid) == state
