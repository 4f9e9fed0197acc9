"""simple_world: its rules, the starting project's defects, and what it is worth, against brute force."""

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from common.errors import UserError
from foundations.tssm.config import EnvConfig
from foundations.tssm.env import STEPS, SimpleWorld, make_env, make_vector_env, moved, start_states
from foundations.tssm.games import GridGames
from foundations.tssm.references import random_moves, references

ROW = np.zeros(1, np.int64)


def at(x: int, y: int) -> int:
    return 4 * y + x


def board(actor: int, goal: int, *threats: int, **options) -> SimpleWorld:
    core = SimpleWorld(1, num_threats=len(threats), **options)
    core.place(np.array([[actor, goal, *threats]]))
    return core


@pytest.mark.parametrize(
    ("legacy", "act", "to"),
    [
        (False, (0.51, 0), (3, 2)),
        (False, (0.49, 0), (2, 2)),
        (False, (-0.51, 0), (1, 2)),
        (False, (1, -1), (3, 1)),
        (False, (0, 0.9), (2, 3)),
        (True, (0.99, 0), (2, 2)),
        (True, (-0.1, 0), (1, 2)),
        (True, (-1, 0), (1, 2)),
        (True, (1, 1), (3, 3)),
    ],
)
def test_moves_from_cell_2_2(legacy, act, to):
    core = board(at(2, 2), at(0, 0), at(0, 3), legacy=legacy)
    core.step(ROW, np.array([act], np.float32))
    assert tuple(core.actor[0]) == to


def test_walls_stop_a_move():
    assert moved(np.array([0, 3]), np.array([-1.0, 1.0]), 4).tolist() == [0, 3]
    assert moved(np.array([0, 3]), np.array([-1.0, 1.0]), 4, legacy=True).tolist() == [0, 3]


@pytest.mark.parametrize(
    ("goal", "threats", "penalty", "rew"),
    [
        (5, (9,), 100, 1),
        (9, (5,), 100, -100),
        (5, (5,), 100, -99),
        (9, (5, 5), 100, -200),
        (9, (10,), 100, 0),
    ],
)
def test_reward_is_paid_for_every_step_on_a_cell(goal, threats, penalty, rew):
    core = board(5, goal, *threats, threat_penalty=penalty)
    for _ in range(2):  # nothing ends, and it is paid again
        got, terminated, truncated = core.step(ROW, np.zeros((1, 2)))
        assert (got[0], terminated[0], truncated[0]) == (rew, False, False)


def test_a_game_is_cut_after_25_steps():
    core = board(0, 5, 9)
    cuts = [bool(core.step(ROW, np.zeros((1, 2)))[2][0]) for _ in range(STEPS)]
    assert cuts == [False] * 24 + [True]


def test_starts_are_distinct_and_everywhere():
    core = SimpleWorld(1000, num_threats=2)
    core.reset(range(1000), list(range(1000)))
    cells = np.concatenate([core.actor[:, None], core.goal[:, None], core.threats], 1) @ [1, 4]  # [n, 4]
    assert all(len(set(row)) == 4 for row in cells.tolist())
    assert all(set(column) == set(range(16)) for column in cells.T.tolist())


def test_legacy_starts_crowd_in_a_corner():
    core = SimpleWorld(1000, legacy=True)
    core.reset(range(1000), list(range(1000)))
    assert {tuple(c) for c in core.actor.tolist()} == {(x, y) for x in range(3) for y in range(3)}
    assert 80 < (core.actor == core.threat).all(-1).sum() < 145  # one in nine


def test_picture_draws_threat_target_actor_in_this_order():
    def colors(actor, goal, threat):
        picture = board(actor, goal, threat).render(ROW)[0]
        return {(x, y): tuple(picture[y, x].tolist()) for x in range(4) for y in range(4)}

    apart = colors(at(3, 0), at(1, 2), at(0, 1))
    assert (apart[3, 0], apart[1, 2], apart[0, 1]) == ((0, 0, 0), (0, 255, 0), (255, 0, 0))
    assert sum(color == (255, 255, 255) for color in apart.values()) == 13
    assert colors(5, 5, 9)[1, 1] == (0, 0, 0)  # the actor hides the target
    assert colors(0, 5, 5)[1, 1] == (0, 255, 0)  # the target hides the threat


def test_threats_move_one_step_and_only_when_asked_to():
    for moving in (False, True):
        core = SimpleWorld(50, num_threats=3, moving_threats=moving)
        core.reset(range(50), list(range(50)))
        before = core.threats.copy()
        core.step(np.arange(50), np.zeros((50, 2)))
        distance = np.abs(core.threats - before).sum(-1)
        assert distance.max() == int(moving)
        assert core.threats.min() >= 0 and core.threats.max() <= 3
        assert (core.threat == core.threats[:, 0]).all()  # what the parent class reads


def test_gymnasium_accepts_it():
    check_env(make_env(cell_pixels=2), skip_render_check=False)
    vector = make_vector_env(3)
    obs, _ = vector.reset(seed=0)
    assert obs["image"].shape == (3, 4, 4, 3)
    assert vector.step(np.zeros((3, 2), np.float32))[1].shape == (3,)


def test_too_many_threats_are_refused():
    with pytest.raises(UserError, match="num_threats=15: must be 1 to 14"):
        SimpleWorld(1, num_threats=15)


def test_every_start_once():
    starts = start_states()
    assert starts.shape == (3360, 3)
    assert len({tuple(row) for row in starts.tolist()}) == 3360
    assert all(len(set(row)) == 3 for row in starts.tolist())
    assert start_states(legacy=True).shape == (729, 3)


@pytest.mark.parametrize(
    ("penalty", "name", "expected"),
    [
        (1, "optimal", 24.093),
        (1, "straight line", 24.036),
        (1, "random", 0.0),
        (1, "stay", 0.0),
        (100, "optimal", 24.093),
        (100, "straight line", 17.671),
        (100, "stay", 0.0),
    ],
)
def test_values_of_the_references(penalty, name, expected):
    assert references(penalty)[name].ret == pytest.approx(expected, abs=5e-4)


def test_random_actions_meet_target_and_threat_equally_often():
    score = references(100)["random"]
    assert score.goal_steps == pytest.approx(score.threat_steps)
    assert 1.40 < score.goal_steps < 1.50
    assert references(1)["straight line"].threat_steps == pytest.approx(0.0643, abs=1e-4)


def test_legacy_is_worth_less():
    scores = references(100, legacy=True)
    assert scores["stay"].ret == pytest.approx(25 / 9 * -99)  # one start in nine is on the threat
    assert scores["optimal"].ret == pytest.approx(22.0, abs=0.2)
    assert scores["random"].ret < -170


def test_random_moves_by_cell():
    inner, corner = random_moves(4, False)[at(1, 1)], random_moves(4, False)[at(0, 0)]
    assert (inner[at(1, 1)], inner[at(0, 1)], inner[at(2, 2)]) == (0.25, 0.125, 0.0625)
    assert (corner[at(0, 0)], corner[at(1, 0)], corner[at(1, 1)]) == (0.5625, 0.1875, 0.0625)
    legacy = random_moves(4, True)[at(1, 1)]
    assert (legacy[at(1, 1)], legacy[at(0, 1)], legacy[at(2, 2)]) == (0.5, 0.125, 0.0)


def played(policy, legacy: bool, games: int = 8000) -> tuple[np.ndarray, np.ndarray]:
    """The rules themselves, game by game, instead of the tables that `references` makes of them."""
    world = GridGames(EnvConfig(threat_penalty=100, legacy=legacy), games)
    world.reset(0)
    rng, totals = np.random.default_rng(0), np.zeros((3, games))
    for _ in range(STEPS):
        _, rew, _ = world.step(policy(world.core, rng))
        totals += np.stack([rew, *world.core.contacts(world.rows)])
    return totals.mean(1), totals.std(1) / np.sqrt(games)


def unit_moves(core, rng):
    """The starting project's random policy."""
    ways = np.array([[0, 0]] * 4 + [[1, 0], [-1, 0], [0, 1], [0, -1]])
    return ways[rng.integers(8, size=core.n)]


@pytest.mark.parametrize(
    ("name", "legacy", "policy"),
    [
        ("random", False, lambda core, rng: rng.uniform(-1, 1, (core.n, 2))),
        ("random", True, unit_moves),
        ("straight line", False, lambda core, rng: np.sign(core.goal - core.actor)),
        ("optimal", False, lambda core, rng: core.optimal_policy(np.arange(core.n))),
    ],
)
def test_references_agree_with_games(name, legacy, policy):
    mean, error = played(policy, legacy)
    exact = np.array(references(100, legacy)[name])
    assert (np.abs(mean - exact) < 4 * error + 1e-9).all(), (mean, exact, error)
