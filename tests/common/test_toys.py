"""The toys: rules against the sheets' oracles, pictures against brute force, batching against Gymnasium."""

import itertools
import json

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from common.env_wrapper import make_env, make_vector_env
from common.envs.toy_policies import blind_policies, constant, held_random, rollout, sweep
from common.envs.toys import (
    SCORES_FILE,
    TOYS,
    ToyEnv,
    ToyVectorEnv,
    blend_square,
    coverage,
    make_core,
    toy_core,
    toy_scores,
)
from common.errors import UserError

VARIANTS = [
    ("toy_dodge", {}),
    ("toy_dodge", {"size": 16, "gap": 24}),
    ("toy_catch", {"grid": 5, "drops": 3, "size": 32, "gray": True}),
    ("toy_catch", {"grid": 4, "drops": 1, "size": 16}),
    ("toy_catch", {"grid": 8, "drops": 1, "size": 32, "gray": True}),
    ("toy_point", {"size": 32}),
    ("toy_point", {"actions": "discrete", "size": 16}),
    ("toy_simple_world", {"size": 4}),
    ("toy_simple_world", {"actions": "discrete", "terminal": True, "size": 16}),
]
IDS = [f"{name}-{'-'.join(str(v) for v in options.values())}" for name, options in VARIANTS]
every_variant = pytest.mark.parametrize("name,options", VARIANTS, ids=IDS)


def play(name, policy, n=200, seed=0, **options):
    """Returns and lengths [n] of a policy maker (None: the optimal policy)."""
    core = make_core(toy_core(name), n, **options)
    return rollout(core, policy and policy(n, np.random.default_rng(seed)), seed=seed)


# --- every toy ---


@every_variant
def test_passes_gymnasiums_checker(name, options):
    env = ToyEnv(toy_core(name), **options)
    check_env(env, skip_render_check=True)  # that check wants a registered id
    env.reset(seed=0)
    assert env.render().shape == (*env.observation_space["image"].shape[:2], 3)


@every_variant
def test_vector_env_equals_gymnasiums_sync_vector_env(name, options):
    """Frames, rewards and ends as of n single games under NEXT_STEP autoreset, through several resets."""
    core, n = toy_core(name), 4
    ours = ToyVectorEnv(core, n, **options)
    theirs = SyncVectorEnv([lambda: ToyEnv(core, **options)] * n, autoreset_mode=AutoresetMode.NEXT_STEP)
    assert ours.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    assert ours.observation_space == theirs.observation_space and ours.action_space == theirs.action_space
    act = held_random(ours.single_action_space, 1, 6)(n, np.random.default_rng(0))
    mine, other = ours.reset(seed=5)[0], theirs.reset(seed=5)[0]
    ends = 0
    for t in range(130):
        np.testing.assert_array_equal(mine["image"], other["image"])
        actions = act(t)
        (mine, *a, _), (other, *b, _) = ours.step(actions), theirs.step(actions)
        for x, y in zip(a, b, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-6)
        ends += int((a[1] | a[2]).sum())
    assert ends >= 4  # autoreset was really exercised


@every_variant
def test_row_results_do_not_depend_on_other_rows(name, options):
    """One batch of 6 in lockstep, against each row stepped alone and in another order."""
    together, alone = (make_core(toy_core(name), 6, **options) for _ in range(2))
    together.reset(range(6), range(10, 16))
    alone.reset([3, 5, 0, 2, 4, 1], [13, 15, 10, 12, 14, 11])
    act = held_random(together.action_space, 1, 3)(6, np.random.default_rng(1))
    live = np.arange(6)
    for t in range(40):
        actions = act(t)
        result = np.stack(together.step(live, actions[live]))
        for i, row in reversed(list(enumerate(live))):
            one = np.stack(alone.step(np.array([row]), actions[[row]]))
            np.testing.assert_array_equal(one[:, 0], result[:, i])
            np.testing.assert_array_equal(alone.render(np.array([row]))[0], together.render(live)[i])
        live = live[~(result[1] + result[2]).astype(bool)]


@every_variant
def test_seed_fixes_the_game_and_no_seed_goes_on(name, options):
    env = ToyEnv(toy_core(name), **options)

    def course(seed):
        frames = [env.reset(seed=seed)[0]["image"]]
        for _ in range(3):
            frames.append(env.step(env.action_space.sample() * 0)[0]["image"])
        return np.stack(frames)

    first, second, again = course(7), course(None), course(7)
    np.testing.assert_array_equal(first, again)
    starts = [course(seed) for seed in range(16)] + [second]
    assert len({frames.tobytes() for frames in starts}) > 4


@every_variant
def test_moving_sprites_cover_enough_of_the_frame(name, options):
    """What moves must cover 3.5 % of the picture, else a VAE stays at the mean image for long."""
    core = make_core(toy_core(name), 300, **options)
    core.reset(range(300), range(300))
    middle = np.median(core.render(np.arange(300)).astype(float), axis=0)
    changed = (np.abs(core.render(np.arange(300)) - middle).max(-1) > 20).mean(
        (1, 2)
    )  # pixels off the background
    assert np.median(changed) > 0.034


def test_wrong_options_say_what_is_allowed():
    for name, options, words in (
        ("toy_dodge", {"size": 20}, "64, 32, 16"),
        ("toy_dodge", {"speed": 2}, "size, gap"),
        ("toy_point", {"actions": "both"}, "continuous, discrete"),
        ("toy_catch", {"grid": 1}, "grid from 2"),
        ("toy_simple_world", {"size": 30}, "multiple of grid=4"),
    ):
        with pytest.raises(UserError, match=words):
            make_core(toy_core(name), 1, **options)
    with pytest.raises(UserError, match="toy_catch"):
        toy_core("toy_chess")


def test_coverage_and_square_equal_a_fine_grid():
    """Sub-pixel drawing against the mean of a 16 times finer picture."""
    np.testing.assert_allclose(coverage(np.array([1.25]), 2.5, 5)[0], [0, 0.75, 1, 0.75, 0])
    frames, fine = np.full((1, 20, 24, 3), 40, np.uint8), np.full((320, 384, 3), 40.0)
    fine[int(16 * 3.25) : int(16 * 9.25), int(16 * 17.5) : int(16 * 23.5)] = (200, 100, 0)
    blend_square(frames, np.array([3.25]), np.array([17.5]), 6, np.array([200, 100, 0], np.float32))
    expected = fine.reshape(20, 16, 24, 16, 3).mean((1, 3))
    assert np.abs(frames[0] - expected).max() <= 0.51


# --- toy_dodge (paper 1) ---


def test_dodge_oracles():
    """Constants live exactly 19 steps, the PD rule all 200, doing nothing about 33 (standard error 2)."""
    for action in (0, 2):
        assert set(play("toy_dodge", constant(action))[0]) == {19.0}
    ret, length = play("toy_dodge", None)
    assert set(ret) == {200.0} and set(length) == {200}
    assert play("toy_dodge", constant(1))[0].mean() == pytest.approx(33, abs=7)
    uniform = held_random(make_core(toy_core("toy_dodge"), 1).action_space, 1, 1)
    assert play("toy_dodge", uniform)[0].mean() == pytest.approx(26, abs=5)
    assert play("toy_dodge", sweep(0, 2, 20))[0].mean() == pytest.approx(19, abs=1)


def test_dodge_every_pd_rule_of_the_sheet_survives():
    core = make_core(toy_core("toy_dodge"), 40)
    for damping, dead_zone in itertools.product((2, 4, 6), (0, 1, 2)):

        def pd(rows, kd=damping, dz=dead_zone):
            s = core.truth(rows)
            error = s["g"] + 14 - s["x"] - 6 - kd * s["v"]
            return 1 + np.sign(error).astype(int) * (np.abs(error) > dz)

        core.optimal_policy = pd
        assert set(rollout(core)[0]) == {200.0}


def test_dodge_slides_and_stops_at_the_border():
    """v <- 0.90 v + 0.45 a, and 0 where the player is stopped."""
    core, rows = make_core(toy_core("toy_dodge"), 3), np.arange(3)
    core.reset(rows, rows)
    core.x[:], core.v[:] = [20, 1, 51], [2, -3, 3]
    core.step(rows, np.array([2, 0, 1]))
    np.testing.assert_allclose(core.v, [2.25, 0, 0])
    np.testing.assert_allclose(core.x, [22.25, 0, 52])


def test_dodge_wall_timing():
    """29 steps per wall, a new gap each time, contact on steps 20 to 27."""
    core, row = make_core(toy_core("toy_dodge"), 1), np.array([0])
    core.reset([0], [0])
    heights, gaps, deadly = [], [], []
    for t in range(1, 88):
        core.x[0], core.v[0] = core.g[0] + 30, 0  # beside the gap: dies exactly where wall and player meet
        core.x[0] = min(core.x[0], 52) if core.g[0] < 20 else 0
        _, crash, _ = core.step(row, np.array([1]))
        heights.append(core.y[0]), gaps.append(core.g[0])
        if crash[0]:
            deadly.append(t)
    assert [t + 1 for t, y in enumerate(heights) if y == -8] == [29, 58, 87] and len(set(gaps)) == 4
    assert [t for t in deadly if t <= 29] == list(range(20, 28))


def test_dodge_picture_equals_a_fine_grid():
    """Wall and player at sub-pixel places against a picture drawn 8 times finer, frame edges included."""
    core = make_core(toy_core("toy_dodge"), 5)
    core.reset(range(5), range(5))
    core.x[:] = [0, 52, 20.375, 31.5, 8.125]
    core.y[:] = [-8, 63.5, 44.5, -3.5, 49.5]
    core.g[:] = [36, 0, 22.25, 11.625, 30.5]
    for frame, x, y, g in zip(core.render(np.arange(5)), core.x, core.y, core.g, strict=True):
        sky = core._sky[core._pad : core._pad + 64]
        fine = np.repeat(np.repeat(sky, 8, axis=0)[:, None], 512, axis=1)
        hole = slice(int(g * 8), int((g + 28) * 8))
        wall = np.ones(512, bool)
        wall[hole] = False
        fine[max(0, int(y * 8)) : max(0, int((y + 8) * 8)), wall] = 255 * np.array([0.95, 0.45, 0.15])
        fine[48 * 8 : 60 * 8, int(x * 8) : int((x + 12) * 8)] = 255 * np.array([0.35, 0.95, 0.75])
        difference = np.abs(frame - fine.reshape(64, 8, 64, 8, 3).mean((1, 3)))
        # Two roundings add up where the player meets the wall.  (Where an edge of the gap and one of the
        # player share a pixel column, blending one after the other is only an approximation: not drawn here.)
        assert difference.max() <= 1.01 and difference[:48].max() <= 0.51


# --- toy_catch (papers 3, 4, 5) ---


@pytest.mark.parametrize("grid,drops", [(4, 1), (5, 16), (8, 1)])
def test_catch_rules(grid, drops):
    options = {"grid": grid, "drops": drops, "size": 32}
    ret, length = play("toy_catch", None, n=400, **options)
    assert set(ret) == {float(drops)} and set(length) == {drops * (grid - 1)}  # every ball can be caught
    uniform = held_random(make_core(toy_core("toy_catch"), 1).action_space, 1, 1)
    expected = drops * (2 / grid - 1)  # the paddle is uniform, the ball too
    assert play("toy_catch", uniform, n=2000, **options)[0].mean() == pytest.approx(expected, abs=0.3)


def test_catch_ends_terminal_with_one_drop_and_by_time_with_more():
    for drops, is_terminal in ((1, True), (2, False)):
        env = ToyEnv(toy_core("toy_catch"), grid=4, drops=drops, size=16)
        env.reset(seed=0)
        ends = [env.step(1)[2:4] for _ in range(3 * drops)]
        assert ends[-1] == (is_terminal, not is_terminal) and not any(map(any, ends[:-1]))


def test_catch_picture():
    """One cell per 4x4 block; a caught ball hides the paddle; a missed one leaves both in the bottom row."""
    core, rows = make_core(toy_core("toy_catch"), 2, grid=4, drops=1, size=16), np.arange(2)
    core.reset(rows, [0, 1])
    core.row[:], core.col[:], core.paddle[:] = 2, [1, 1], [1, 3]
    rew, terminated, _ = core.step(rows, np.array([1, 1]))
    assert rew.tolist() == [1, -1] and terminated.all()
    caught, missed = core.render(rows)
    assert (caught[12:, 4:8] == (250, 210, 60)).all() and not caught[:12].any() and not caught[12:, 8:].any()
    assert (missed[12:, 4:8] == (250, 210, 60)).all() and (missed[12:, 12:] == (70, 170, 250)).all()


# --- toy_point (papers 2, 3) ---


def test_point_scores_agree_with_the_sheet():
    assert play("toy_point", None, n=1000)[0].mean() == pytest.approx(62.5, abs=0.2)
    assert play("toy_point", None, n=1000, actions="discrete")[0].mean() == pytest.approx(58.2, abs=0.4)
    uniform = held_random(make_core(toy_core("toy_point"), 1).action_space, 1, 1)
    assert play("toy_point", uniform, n=1000)[0].mean() == pytest.approx(15.5, abs=1.5)


def test_point_moves_and_pays():
    core, rows = make_core(toy_core("toy_point"), 3, size=32), np.arange(3)
    core.reset(rows, [0, 1, 2])
    core.pos[:] = [[0.3, 0.0], [-1.0, 0.95], [0.0, 0.15]]
    rew, terminated, _ = core.step(rows, np.array([[1, 0], [-1, 9], [0, -1]], np.float32))
    np.testing.assert_allclose(
        core.pos, [[0.45, 0], [-1, 1], [0, 0]], atol=1e-7
    )  # clipped: wall, and action 9
    np.testing.assert_allclose(rew, [0.55, 0, 1], atol=1e-6)
    assert not terminated.any()
    right, corner, centre = core.render(rows)
    assert (corner[24:, :8] == (245, 130, 50)).all()  # x to the right, y down
    assert (centre[12:20, 12:20] == (245, 130, 50)).all()  # the goal is hidden under the agent
    assert (right[12:20, 12:17] == (60, 180, 75)).all()


# --- toy_simple_world (foundations, IRIS) ---


def all_starts(**options):
    """A core with one game for each of the 3,360 placements on the 4x4 board."""
    cells = np.array(list(itertools.permutations(range(16), 3)))
    core = make_core(toy_core("toy_simple_world"), len(cells), size=4, **options)
    core.reset(range(len(cells)), range(len(cells)))
    core.actor[:], core.goal[:], core.threat[:] = (np.stack([c % 4, c // 4], -1) for c in cells.T)
    return core


@pytest.mark.parametrize("penalty,straight", [(1.0, 24.036), (100.0, 17.671)])
def test_simple_world_over_all_start_states(penalty, straight):
    """The sheet's exact figures: optimal 24.093; straight at the goal, threat or not, 24.036 or 17.671."""
    for ignore, expected in ((False, 24.093), (True, straight)):
        core, rows, ret = all_starts(threat_penalty=penalty), np.arange(3360), 0.0
        for _ in range(25):
            way = np.sign(core.goal - core.actor).astype(np.float32)
            rew, terminated, truncated = core.step(rows, way if ignore else core.optimal_policy(rows))
            assert not terminated.any()
            ret += rew.astype(np.float64).mean()
        assert truncated.all()
        assert ret == pytest.approx(expected, abs=1e-3)


def test_simple_world_terminal_and_discrete_is_grid_goal():
    core = all_starts(actions="discrete", terminal=True)
    rows, act = np.arange(3360), held_random(core.action_space, 1, 1)(3360, np.random.default_rng(0))
    goal = threat = 0
    for t in range(12):
        rew, terminated, truncated = core.step(rows, act(t)[rows])
        goal, threat = goal + (rew == 1).sum(), threat + (rew == -1).sum()
        rows = rows[~(terminated | truncated)]
    assert len(rows) == 0
    assert goal / 3360 == pytest.approx(0.26, abs=0.03) and threat / 3360 == pytest.approx(0.26, abs=0.03)
    assert set(play("toy_simple_world", None, n=300, actions="discrete", terminal=True)[0]) == {1.0}


def test_simple_world_moves_are_symmetric_and_picture_is_the_board():
    core, rows = make_core(toy_core("toy_simple_world"), 4, size=4), np.arange(4)
    core.reset(rows, range(4))
    core.actor[:], core.goal[:], core.threat[:] = [[1, 1]] * 4, [[0, 3]] * 4, [[3, 0]] * 4
    core.step(rows, np.array([[0.6, 0], [-0.6, 0], [0.4, -0.4], [0, 1]], np.float32))
    assert core.actor.tolist() == [[2, 1], [0, 1], [1, 1], [1, 2]]
    board = core.render(rows)[3]
    assert board[2, 1].tolist() == [0, 0, 0] and board[3, 0].tolist() == [0, 255, 0]
    assert board[0, 3].tolist() == [255, 0, 0] and (board == 255).all(-1).sum() == 13


def test_simple_world_trains_on_few_boards_and_is_tested_on_any():
    """The same ten boards whatever the seed, alone and side by side; evaluations begin anywhere."""

    def boards(mode: str, seed: int) -> set[bytes]:
        env = make_env("toy_simple_world", mode, size=8, levels=10)
        both = make_vector_env("toy_simple_world", 2, mode, size=8, levels=10)
        env.reset(seed=seed), both.reset(seed=seed + 1)
        starts = (np.stack([*both.reset()[0]["image"], env.reset()[0]["image"]]) for _ in range(60))
        return {picture.tobytes() for pictures in starts for picture in pictures}

    first = boards("train", 0)
    assert len(first) == 10 and boards("train", 7) == first
    assert len(boards("eval", 0)) > 100
    with pytest.raises(UserError, match="levels -1"):
        make_env("toy_simple_world", levels=-1)


# --- blind policies and stored scores ---


def test_blind_policies_hold_sweep_and_cover_the_corners():
    discrete, box = (
        blind_policies(make_core(toy_core(n), 1).action_space) for n in ("toy_dodge", "toy_point")
    )
    assert {"constant 0", "constant 1", "constant 2", "sweep 0/2 half-period 10"} <= discrete.keys()
    assert {"constant zero", "constant -x", "constant +y", "sweep low/high half-period 4"} <= box.keys()
    act = sweep(0, 2, 3)(2, None)
    assert [int(act(t)[0]) for t in range(8)] == [0, 0, 0, 2, 2, 2, 0, 0]
    act = held_random(make_core(toy_core("toy_point"), 1).action_space, 2, 5)(50, np.random.default_rng(0))
    changes = (np.diff([act(t)[:, 0] for t in range(200)], axis=0) != 0).mean()
    assert changes == pytest.approx(1 / 3.5, abs=0.02)


def test_stored_scores():
    """Every toy is there, each score names its protocol, and the options pick the entry."""
    assert json.loads(SCORES_FILE.read_text())["toys"].keys() == TOYS.keys()
    assert toy_scores("toy_dodge")["optimum"]["value"] == 200
    assert toy_scores("toy_catch", {"size": 32, "gray": True})["random"]["value"] == pytest.approx(
        -9.6, abs=0.2
    )
    assert toy_scores("toy_catch", {"grid": 4, "drops": 1})["random"]["value"] == pytest.approx(
        -0.5, abs=0.05
    )
    assert toy_scores("toy_simple_world", {"threat_penalty": 100})["optimum"]["value"] == pytest.approx(
        24.1, abs=0.1
    )
    assert toy_scores("toy_catch", {"grid": 7})["random"] is None
    for key in ("random", "blind", "optimum"):
        assert toy_scores("toy_point")[key].keys() >= {"value", "protocol", "source"}
    blind = toy_scores("toy_dodge")["blind"]["value"]
    assert play("toy_dodge", constant(1), n=1000, seed=5000)[0].mean() == pytest.approx(blind, abs=3)
