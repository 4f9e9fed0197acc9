"""voxel_navigate: rays against brute force, a body that cannot pass walls, MineRL's rewards, goldens."""

import hashlib
import math

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from common.env_wrapper import make_env, make_vector_env, scores
from common.envs import voxel_camera, voxel_world
from common.envs.minecraft import ACTIONS, Minecraft
from common.errors import UserError

FLOOR = 10  # of the plain below: the player stands at 11
INDEX = {name: i for i, (name, _) in enumerate(ACTIONS)}


def plain(goal=(100, FLOOR + 1, 140), **options):
    """A meadow without anything but the goal; the player in its middle looks along +z.  -> env, game"""
    env = make_env("voxel_navigate", **{"sticky_attack": 1, "sticky_jump": 1, **options})
    env.reset(seed=0)
    game = env.unwrapped._game
    game.cells[: voxel_world.HEIGHT - 1] = 1
    game.cells[: FLOOR + 1] = voxel_world.GRASS
    game.goal, game.target = goal, (goal[0] + 0.5, goal[2] + 0.5)
    voxel_world.put(game.cells, *goal, voxel_world.DIAMOND)
    game.feet = np.array([100.5, FLOOR + 1.0001, 100.5])
    game.yaw = 0.0
    return env, game


def play(env, name: str, times: int = 1) -> list:
    """The same action some times -> the steps."""
    return [env.step(INDEX[name]) for _ in range(times)]


# --- the world -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cells():
    return voxel_world.make_world(np.random.default_rng(3))


def test_air_knows_how_far_it_is_to_the_next_block(cells):
    rng, reach = np.random.default_rng(0), np.arange(-voxel_world.FAR, voxel_world.FAR + 1)
    cells = cells.copy()
    for _ in range(20):  # what is built and dug later counts too; digging may leave a number too small
        x, y, z = rng.integers((0, 20, 0), (256, 40, 256)).tolist()
        voxel_world.put(cells, x, y, z, voxel_world.DIRT)
    for _ in range(200):
        x, y, z = rng.integers((0, 1, 0), (256, voxel_world.HEIGHT - 1, 256)).tolist()
        ys = y + reach[(y + reach >= 0) & (y + reach < voxel_world.HEIGHT - 1)]
        block = cells[np.ix_(ys, (x + reach) % 256, (z + reach) % 256)] < 0
        steps = np.maximum(
            np.abs(ys - y)[:, None, None], np.maximum(np.abs(reach)[:, None], np.abs(reach)[None])
        )
        nearest = min(steps[block].min(initial=99), voxel_world.FAR)
        assert cells[y, x, z] == nearest if nearest else cells[y, x, z] < 0


def test_rays_meet_what_tiny_steps_meet(cells):
    rng, reach, n = np.random.default_rng(1), 20.0, 300
    wrong = 0
    for _ in range(5):
        x, z = rng.uniform(-300, 300, 2)
        eye = np.array([x, voxel_world.surface(cells, int(x // 1), int(z // 1)) + 2.6, z])
        rays = rng.normal(size=(3, n))
        rays = (rays / np.sqrt((rays**2).sum(0))).astype(np.float32)
        block, dist, axis = voxel_world.march(cells, eye, rays, reach)
        t = np.arange(0, reach, 0.002)
        at = np.floor(eye[:, None, None] + rays[:, :, None].astype(float) * t).astype(int)  # [3, n, T]
        met = cells[np.clip(at[1], 0, 63), at[0] % 256, at[2] % 256]
        stops = met < 0
        first = stops.argmax(1)
        for i in range(n):
            code = met[i, first[i]] if stops[i].any() else 0
            wanted = 0 if code == voxel_world.SKY else code
            agree = block[i] == wanted and (not wanted or abs(dist[i] - t[first[i]]) < 0.004)
            wrong += not agree
            if agree and wanted and first[i]:
                step = at[:, i, first[i]] - at[:, i, first[i] - 1]
                wrong += np.abs(step).sum() == 1 and not step[axis[i]]
    assert wrong <= 0.01 * 5 * n  # a step of 2 mm misses corners that a ray meets


def test_a_world_is_a_golden_and_has_everything(cells):
    assert hashlib.sha256(cells.tobytes()).hexdigest()[:16] == "efa4e1edf14b0f2f"
    assert set(range(-10, 0)) - set(np.unique(cells)) == {voxel_world.DIAMOND}  # the game adds the goal
    assert not np.array_equal(cells, voxel_world.make_world(np.random.default_rng(4)))
    seam = np.abs(np.diff([[voxel_world.surface(cells, x, z) for z in range(256)] for x in (-1, 0)], axis=0))
    assert np.median(seam) <= 1  # no edge where the torus closes


# --- the env -------------------------------------------------------------------------------------------


def test_it_passes_gymnasiums_checker_and_is_shaped_like_minecraft():
    env = make_env("voxel_navigate")
    with pytest.warns(UserWarning, match="infinity"):  # vectors have open bounds
        check_env(env)
    assert isinstance(env.unwrapped, Minecraft) and env.action_space == spaces.Discrete(len(ACTIONS))
    assert {key: space.shape for key, space in env.observation_space.items()} == {
        "image": (64, 64, 3),
        "vector": (3,),
    }
    env.reset(seed=0)
    assert env.render().shape == (256, 256, 3)
    assert set(make_env("voxel_navigate", obs="pixels").reset(seed=0)[0]) == {"image"}
    assert set(make_env("voxel_navigate", obs="vector").reset(seed=0)[0]) == {"vector"}
    both = make_vector_env("voxel_navigate", 2, backend="sync", size=16)
    assert both.reset(seed=0)[0]["image"].shape == (2, 16, 16, 3)


def rollout(seed: int, steps: int):
    """Seeded actions -> images [T, 64, 64, 3], vectors [T, 3], rewards [T]."""
    env, rng = make_env("voxel_navigate"), np.random.default_rng(0)
    obs, rews = [env.reset(seed=seed)[0]], [0.0]
    for _ in range(steps):
        step = env.step(int(rng.integers(len(ACTIONS))))
        obs.append(step[0]), rews.append(step[1])
    obs.append(env.reset()[0])  # the next world follows from the same seed
    return np.stack([o["image"] for o in obs]), np.stack([o["vector"] for o in obs]), np.array(rews)


def test_golden_rollout_and_determinism():
    images, vectors, rews = rollout(7, 80)
    for one, two in zip((images, vectors, rews), rollout(7, 80), strict=True):
        assert np.array_equal(one, two)
    assert not np.array_equal(images[0], rollout(8, 0)[0][0])
    assert not np.array_equal(images[-1], images[0])
    # statistics, not a digest: sines of another machine may move a pixel
    assert images.mean() == pytest.approx(139.54, abs=0.05)
    assert images.std() == pytest.approx(44.46, abs=0.05)
    assert rews.sum() == pytest.approx(-8.03339, abs=1e-4)
    assert vectors[0] == pytest.approx((0.84537, -0.53418, 0.00000), abs=1e-4)


def test_the_compass_points_at_the_goal():
    env, game = plain()  # the goal lies straight ahead
    for turns, wanted in (
        (0, (0, 1)),
        (6, (-1, 0)),
        (6, (0, -1)),
        (6, (1, 0)),
    ):  # a right angle each
        play(env, "turn_right", turns)
        obs = play(env, "noop")[0][0]
        assert obs["vector"][:2] == pytest.approx(wanted, abs=1e-5)
    game.feet[2] = 100.5 - 256  # once around the world is the same place
    assert play(env, "noop")[0][0]["vector"][:2] == pytest.approx((1, 0), abs=1e-5)


def test_goal_start_and_compass_lie_where_the_rules_say():
    env = make_env("voxel_navigate", offset=8.0, size=8)
    offsets = []
    for seed in range(8):
        env.reset(seed=seed)
        game = env.unwrapped._game
        x, y, z = game.goal
        assert voxel_world.get(game.cells, x, y, z) == voxel_world.DIAMOND
        assert voxel_world.surface(game.cells, x, z) == y
        assert math.hypot(x + 0.5 - game.feet[0], z + 0.5 - game.feet[2]) == pytest.approx(64, abs=1)
        assert not game._blocks() and voxel_world.get(game.cells, x, y - 1, z) < 0
        offsets.append(math.hypot(game.target[0] - x - 0.5, game.target[1] - z - 0.5))
    assert max(offsets) <= 8 and max(offsets) > 3


def test_dense_pays_per_block_nearer_and_sparse_does_not():
    env, game = plain()
    for action, sign in (("forward", 1), ("back", -1)):
        start = game.feet[2]
        rews = [step[1] for step in play(env, action, 20)]
        assert sum(rews) == pytest.approx(game.feet[2] - start) == pytest.approx(sign * 20 * 0.2158)
    env, _ = plain(dense=False)
    assert all(step[1] == 0 for action in ("forward", "back") for step in play(env, action, 20))


@pytest.mark.parametrize("dense", [True, False])
def test_touching_the_goal_pays_100_and_ends_for_good(dense):
    env, game = plain(goal=(100, FLOOR + 1, 104), dense=dense)
    for _ in range(30):
        _, rew, terminated, truncated, _ = env.step(INDEX["forward"])
        if terminated:
            break
    assert terminated and not truncated
    assert game.feet[2] + 0.3 == pytest.approx(104, abs=0.05)
    assert 100 <= rew < 100.5 if dense else rew == 100


def test_the_time_limit_truncates():
    env = make_env("voxel_navigate", limit=5, size=8)
    env.reset(seed=0)
    assert [step[2:4] for step in play(env, "noop", 5)] == [(False, False)] * 4 + [(False, True)]


# --- body and hands ------------------------------------------------------------------------------------


@pytest.mark.parametrize("turns", [0, 4])
def test_the_four_ways_to_walk(turns):
    env, game = plain()
    play(env, "turn_right", turns)
    a = math.radians(15 * turns)
    for action, way in (
        ("forward", (-math.sin(a), math.cos(a))),
        ("back", (math.sin(a), -math.cos(a))),
        ("left", (math.cos(a), math.sin(a))),  # yaw 0 looks along +z, and +x is on its left
        ("right", (-math.cos(a), -math.sin(a))),
    ):
        start = game.feet.copy()
        play(env, action)
        assert (game.feet - start)[[0, 2]] == pytest.approx(0.2158 * np.array(way))


def wall(game, height: int, block: int = voxel_world.STONE) -> None:
    """A wall along x, two blocks thick, 3 m ahead of the player."""
    game.cells[FLOOR + 1 : FLOOR + 1 + height, :, 103:105] = block


def test_walking_needs_a_jump_for_one_block_and_two_are_too_high():
    env, game = plain()
    wall(game, 1)
    play(env, "forward", 40)
    assert game.feet[2] + 0.3 == pytest.approx(103, abs=1e-3) and game.feet[1] < FLOOR + 1.01
    play(env, "jump", 20)
    assert game.feet[2] > 103.5
    env, game = plain()
    wall(game, 2)
    highest = 0.0
    for _ in range(60):
        play(env, "jump")
        highest = max(highest, game.feet[1] - FLOOR - 1)
        assert game.feet[2] + 0.3 <= 103
    assert highest == pytest.approx(1.25, abs=0.01)  # Minecraft's jump


def test_a_body_is_never_inside_a_block():
    env, rng = make_env("voxel_navigate", size=8), np.random.default_rng(2)
    env.reset(seed=5)
    for step in range(1500):
        env.step(int(rng.choice([6, 7, 8, 9, 10, 10, 10, 4, 5, 11, 1])))
        assert set(env.unwrapped._game._blocks()) <= {voxel_world.WATER}, step


def test_water_is_waded_through_slowly_and_left_with_a_jump():
    env, game = plain()
    game.cells[FLOOR, :, 101:106] = voxel_world.WATER
    game.cells[FLOOR - 1] = voxel_world.SAND
    play(env, "forward", 10)
    start = game.feet[2]
    play(env, "forward", 10)
    assert game.feet[1] < FLOOR + 0.01 and game.feet[2] - start == pytest.approx(1.1)
    play(env, "forward", 30)
    assert game.feet[2] < 106
    play(env, "jump", 20)
    assert game.feet[2] > 106 and game.feet[1] > FLOOR + 0.99


def test_placing_needs_dirt_and_dirt_comes_from_digging():
    env, game = plain()
    play(env, "look_down", 3)
    before = game.cells.copy()
    assert play(env, "place_dirt")[0][0]["vector"][2] == 0 and np.array_equal(game.cells, before)
    steps = play(env, "attack", 18)  # grass with bare hands: 0.9 s
    assert [step[0]["vector"][2] for step in steps] == [0] * 17 + [1 / 64]
    (hole,) = np.argwhere((game.cells > 0) & (before < 0)).tolist()
    assert hole[0] == FLOOR and hole[1] == 100 and hole[2] in (101, 102)
    assert play(env, "place_dirt")[0][0]["vector"][2] == 0
    y, x, z = np.argwhere(game.cells == voxel_world.DIRT)[0]
    assert (y, x, z) == tuple(hole) or y == FLOOR  # back into the hole, or on its far wall
    play(env, "attack", 10), play(env, "noop"), play(env, "attack", 10)
    assert play(env, "noop")[0][0]["vector"][2] == 0  # who lets go starts again


def test_nothing_is_placed_where_the_player_stands_and_the_goal_does_not_break():
    env, game = plain(goal=(100, FLOOR + 1, 102), pitch_limit=90)
    game.dirt = 5
    play(env, "look_down", 6)  # at the own feet
    play(env, "place_dirt")
    assert game.dirt == 5 and not game._blocks()
    play(env, "look_up", 4)  # at the goal
    assert game._aim()[0] == voxel_world.DIAMOND
    play(env, "attack", 200)
    assert voxel_world.get(game.cells, *game.goal) == voxel_world.DIAMOND


# --- the picture ---------------------------------------------------------------------------------------


def test_the_picture_shows_the_goal_where_it_is():
    env, game = plain(goal=(100, FLOOR + 1, 105))

    def seen():
        image = play(env, "noop")[0][0]["image"].astype(int)
        return (image[..., 1] > 120) & (image[..., 1] - image[..., 0] > 60) & (image[..., 2] > 120)

    rows, columns = np.nonzero(seen())
    assert 60 < len(rows) < 400 and abs(columns.mean() - 31.5) < 1 and rows.mean() > 32
    play(env, "turn_left")
    assert np.nonzero(seen())[1].mean() > 40  # who turns left sees it on the right
    play(env, "turn_right", 13)
    assert not seen().any()


def test_the_picture_has_sky_above_grass_below_and_fog_at_its_end():
    env, game = plain()
    image = play(env, "noop")[0][0]["image"].astype(int)
    assert np.all(image[:20, :, 2] > image[:20, :, 1]) and np.all(image[-20:, :, 1] > image[-20:, :, 2])
    game.cells[FLOOR + 1 : FLOOR + 20, :, 131] = voxel_world.STONE  # 30 m away, just before the view ends
    misty = voxel_camera.draw(game.cells, game._eye(), 0, 0, 64, 32)[24, 32]
    clear = voxel_camera.draw(game.cells, game._eye(), 0, 0, 64, 96)[24, 32]
    assert np.abs(misty - voxel_camera.HORIZON).max() < 30 and np.ptp(clear.astype(int)) < 10


@pytest.mark.parametrize(
    "options, text",
    [
        ({"view": 1000}, "option view 1000: must be from 4 to 128"),
        ({"distance": 0}, "option distance 0: must be from 2 to 120"),
        ({"dense": 1}, "option dense is .*like True, not 1"),
        ({"gap": 3}, "no option 'gap'; it takes size, view, dense, limit, distance"),
    ],
)
def test_bad_options_are_one_line(options, text):
    with pytest.raises(UserError, match=text):
        make_env("voxel_navigate", **options)


def test_stored_scores_are_those_of_the_protocol():
    dense, sparse = scores("voxel_navigate"), scores("voxel_navigate", {"dense": False})
    assert dense["random"]["value"] < dense["blind"]["value"] < sparse["random"]["value"] < 100
    assert sparse["optimum"]["value"] == 100 < dense["optimum"]["value"] < 164
    assert scores("voxel_navigate", {"distance": 16})["random"] is None
