"""CarRacing: Gymnasium's physics to the bit, nearly its pixels; crop, starts, action repeat, EnvPool."""

import importlib.util
import platform
import sys
from functools import lru_cache

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from common.envs.car_racing import CarRacingEnv, load_envpool, make_car_racing, make_car_racing_pool, shrink
from common.errors import UserError

pytest.importorskip("Box2D", reason="CarRacing needs Box2D")
has_envpool = pytest.mark.skipif(
    importlib.util.find_spec("envpool") is None, reason="envpool is not installed: pip install envpool"
)
TILES = [319, 275, 335, 271, 275, 329]  # tracks of seeds 0..5 under gymnasium 1.4.0
GRASS, LIGHT_GRASS, ROAD = (102, 204, 102), (102, 230, 102), (102, 102, 102)
DOWN_THE_ROAD = np.array([0.0, 0.3, 0.0], np.float32)


def drive(steps, seed=0):
    """A wild but reproducible drive: actions held 3 to 14 steps.  [steps, 3]"""
    rng, actions = np.random.default_rng(seed), []
    while len(actions) < steps:
        action = [rng.uniform(-0.7, 0.7), rng.uniform() * (rng.random() < 0.7), 0.3 * (rng.random() < 0.15)]
        actions += [action] * int(rng.integers(3, 15))
    return np.array(actions[:steps], np.float32)


@lru_cache
def stock(seed, steps):
    """Gymnasium's own env: frames [steps + 1, 96, 96, 3], rewards [steps]."""
    env = gym.make("CarRacing-v3", disable_env_checker=True)
    frames, rew = [env.reset(seed=seed)[0]], []
    for action in drive(steps, seed):
        obs, r, *_ = env.step(action)
        frames.append(obs), rew.append(r)
    return np.stack(frames), np.array(rew)


def ours(seed, steps, **options):
    """The same drive in our env."""
    env = make_car_racing(**options)
    frames, rew = [env.reset(seed=seed)[0]["image"]], []
    for action in drive(steps, seed):
        obs, r, *_ = env.step(action)
        frames.append(obs["image"]), rew.append(r)
    return np.stack(frames), np.array(rew)


def difference(a, b):
    return np.abs(a.astype(float) - b.astype(float))


# --- physics ---


@pytest.mark.skipif(gym.__version__ != "1.4.0", reason=f"goldens of gymnasium 1.4.0, not {gym.__version__}")
def test_tracks_and_first_rewards_are_the_goldens():
    env = make_car_racing()
    for seed, tiles in enumerate(TILES):
        _, info = env.reset(seed=seed)
        assert len(env.core.track) == tiles
        assert info == {"lap_finished": False, "tiles_visited": 2 / tiles}  # tiles 0 and 1, before any action
        _, rew, *_ = env.step(np.zeros(3, np.float32))
        assert rew == pytest.approx(2000 / tiles - 0.1)  # the first step pays for both


@pytest.mark.parametrize("render", ["stock", "exact", "fast"])
def test_rewards_are_gymnasiums(render):
    np.testing.assert_array_equal(ours(1, 150, render=render)[1], stock(1, 150)[1])


def test_same_seed_same_frames_and_rewards():
    (a, r), (b, s) = ours(3, 300), ours(3, 300)
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(r, s)
    env = make_car_racing()
    runs = []
    for seed in (4, 5, 4):  # a second reset of the same env starts from scratch
        frames = [env.reset(seed=seed)[0]["image"]] + [env.step(a)[0]["image"] for a in drive(60)]
        runs.append(np.stack(frames))
    np.testing.assert_array_equal(runs[0], runs[2])
    assert difference(runs[0], runs[1]).mean() > 1


# --- pixels ---


def test_fast_picture_equals_the_stock_picture():
    """Below 1/255 on average in each frame of the zoom-in and the drive; few pixels far off."""
    for seed in (0, 1):
        d = difference(ours(seed, 150)[0], stock(seed, 150)[0])
        assert d.mean() < 0.5 and d.mean((1, 2, 3)).max() < 1
        assert (d.max(-1) > 30).mean() < 0.01
        assert d[60:, 64:80, 42:54].mean() < 6  # the car itself
        assert d[:, 84:].mean() < 1  # the strip: bars and score


def test_stock_renderer_is_bit_equal_to_gymnasium():
    np.testing.assert_array_equal(ours(1, 40, render="stock")[0], stock(1, 150)[0][:41])


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="other CPUs fuse a product and a sum"
)
@pytest.mark.parametrize("seed", [0, 1])
def test_exact_renderer_is_bit_equal_to_gymnasium(seed):
    np.testing.assert_array_equal(ours(seed, 150, render="exact")[0], stock(seed, 150)[0])
    cropped = np.stack([shrink(frame, 64, True) for frame in stock(seed, 150)[0]])
    np.testing.assert_array_equal(ours(seed, 150, render="exact", size=64, crop=True)[0], cropped)
    env = make_car_racing(render="exact")
    env.reset(seed=seed)
    env.reset(seed=seed + 1)  # a second track in the same env
    np.testing.assert_array_equal(env.step(drive(1)[0])[0]["image"], second_frame(seed + 1))


def second_frame(seed):
    env = gym.make("CarRacing-v3", disable_env_checker=True)
    env.reset(seed=seed)
    return env.step(drive(1)[0])[0]


@pytest.mark.parametrize("size,crop", [(64, True), (64, False), (96, True)])
def test_crop_and_size(size, crop):
    """Rows 0..83 of 96, resized by area; the fast picture, drawn at that size, is nearly the same."""
    frames = stock(1, 150)[0][::3]
    expected = np.stack([shrink(frame, size, crop) for frame in frames])
    fast = ours(1, 150, size=size, crop=crop)[0][::3]
    assert fast.shape[1:] == (size, size, 3) and fast.dtype == np.uint8
    assert difference(fast, expected).mean() < 1
    np.testing.assert_array_equal(ours(1, 6, render="stock", size=size, crop=crop)[0][::3], expected[:3])
    is_black = expected[:, -1].mean() < 20
    assert is_black == (not crop) == (fast[:, -1].mean() < 20)


def test_shrink_averages_areas():
    rows = np.repeat(np.arange(96, dtype=np.uint8)[:, None, None], 96, axis=1).repeat(3, axis=2)
    assert shrink(rows, 32, False)[:, 0, 0].tolist() == [1 + 3 * i for i in range(32)]  # mean of 3 rows
    assert difference(shrink(rows, 42, True)[:, 0, 0], 2 * np.arange(42) + 0.5).max() <= 0.5  # 84 rows -> 42


@pytest.mark.parametrize("render", ["stock", "fast"])
def test_colours_after_the_zoom(render):
    env = make_car_racing(render)
    env.reset(seed=0)
    for _ in range(60):
        image = env.step(np.zeros(3, np.float32))[0]["image"]
    for color in (GRASS, LIGHT_GRASS, ROAD):
        assert (difference(image, np.array(color)).max(-1) <= 3).mean() > 0.05
    assert (
        not image[84:, :20].any(-1).all() and image[88:92, 2:10].max() > 150
    )  # strip is black, score is white


def test_visited_tiles_lose_their_shade():
    """The contact listener recolours a tile in place: the fast picture must see it, as the stock one does."""
    env = make_car_racing()
    env.reset(seed=0)
    shades = [tuple(tile.color) for tile in env.core.road]
    assert len(set(shades)) == 3
    for _ in range(100):
        env.step(DOWN_THE_ROAD)
    visited = [i for i, tile in enumerate(env.core.road) if tile.road_visited]
    assert len(visited) > 5
    for i in visited:
        assert tuple(env.core.road[i].color) == ROAD
    plain = sum((color == ROAD).all() for color in env.core.renderer._colors)
    assert plain == sum(shade == ROAD for shade in shades) + sum(shades[i] != ROAD for i in visited)


def test_black_beyond_the_edge_of_the_field():
    env = make_car_racing(crop=True)
    env.reset(seed=0)
    env.core.car.hull.position = (330.0, 330.0)  # in the corner, and the camera still high up
    image = env.step(np.zeros(3, np.float32))[0]["image"]
    assert 0.3 < (image == 0).all(-1).mean() < 0.95


# --- the env ---


@pytest.mark.parametrize(
    "options", [{"render": "stock", "max_steps": 20}, {"size": 64, "crop": True, "start": "random"}]
)
def test_passes_gymnasiums_checker(options):
    check_env(make_car_racing(**options), skip_render_check=True)  # that check wants a registered id


def test_video_frames_are_the_stock_ones():
    env = make_car_racing(size=64)
    env.reset(seed=0)
    assert env.render().shape == (400, 600, 3) and env.render().mean() > 30


def test_native_bounds_and_discrete_actions():
    space = make_car_racing().action_space
    assert space.low.tolist() == [-1, 0, 0] and space.high.tolist() == [1, 1, 1]
    env, original = make_car_racing(continuous=False), gym.make("CarRacing-v3", continuous=False)
    env.reset(seed=2), original.reset(seed=2)
    assert env.action_space == original.action_space
    for action in [3] * 20 + [1] * 5 + [4] * 5:
        assert env.step(action)[1] == original.step(action)[1]


def test_action_repeat_sums_rewards_and_draws_once():
    """Four single frames and one repeat of 4 give the same rewards and the same last picture."""
    one, four = make_car_racing(), make_car_racing(action_repeat=4)
    one.reset(seed=1), four.reset(seed=1)
    drawn = []
    four.core.renderer.draw = lambda env, draw=four.core.renderer.draw: drawn.append(1) or draw(env)
    for action in drive(160, 1)[::4]:
        single = [one.step(action) for _ in range(4)]
        obs, rew, *_ = four.step(action)
        assert rew == pytest.approx(sum(s[1] for s in single), abs=1e-9)
        np.testing.assert_array_equal(obs["image"], single[-1][0]["image"])
    assert len(drawn) == 40


def test_time_limit_counts_frames_and_truncates():
    env = make_car_racing(action_repeat=3, max_steps=10)
    env.reset(seed=0)
    ends = [env.step(np.zeros(3, np.float32)) for _ in range(4)]
    assert [(te, tr) for _, _, te, tr, _ in ends] == [(False, False)] * 3 + [(False, True)]
    assert ends[3][1] == pytest.approx(-0.1) and ends[3][0]["image"].any()  # the 10th frame alone
    assert gym.spec("CarRacing-v3").max_episode_steps == CarRacingEnv(render="fast").max_steps


def test_leaving_the_field_and_finishing_the_lap():
    """Both end the episode; `lap_finished` tells them apart and is there at every step."""
    for action_repeat in (1, 4):
        env = make_car_racing(action_repeat=action_repeat)
        env.reset(seed=0)
        assert env.step(DOWN_THE_ROAD)[4]["lap_finished"] is False
        env.core.car.hull.position = (340.0, 0.0)
        obs, rew, terminated, truncated, info = env.step(DOWN_THE_ROAD)
        assert (rew, terminated, truncated, info["lap_finished"]) == (-100.0, True, False, False)
        assert env.observation_space.contains(obs)  # also where the end fell inside a repeat
        env.reset(seed=0)
        env.core.tile_visited_count = len(env.core.track)
        _, _, terminated, truncated, info = env.step(DOWN_THE_ROAD)
        assert (terminated, truncated) == (True, False)
        assert (info["lap_finished"], info["tiles_visited"]) == (True, 1.0)
    env = make_car_racing(max_steps=1)
    env.reset(seed=0)
    env.core.car.hull.position = (340.0, 0.0)
    assert env.step(DOWN_THE_ROAD)[2:4] == (True, False)  # an end at the limit is an end, not a time-out


def test_random_start_puts_the_car_on_some_tile():
    """On the road, pointing along it, by seed; the track itself stays that of the seed."""
    env, line = make_car_racing(start="random"), make_car_racing()
    places = []
    for seed in range(8):
        env.reset(seed=seed), line.reset(seed=seed)
        assert len(env.core.track) == len(line.core.track)
        tile = [t.road_visited for t in env.core.road].index(True)
        places.append(tile / len(env.core.track))
        total = sum(env.step(DOWN_THE_ROAD)[1] for _ in range(40))
        assert total > 5  # drives on along the track
    assert len(set(places)) == 8 and max(places) - min(places) > 0.4
    env.reset(seed=3)
    position = tuple(env.core.car.hull.position)
    env.reset(seed=3)
    assert tuple(env.core.car.hull.position) == position


def white_noise(rng):
    """A new uniform action in every step."""
    return lambda: rng.uniform([-1, 0, 0], 1)


def brownian(rng):
    """A random walk in action space, as a known port collects its data."""
    action = np.zeros(3)

    def act():
        action[:] = np.clip(action + np.sqrt(1 / 50) * rng.standard_normal(3), [-1, 0, 0], 1)
        return action

    return act


def held(rng):
    """Uniform actions with a light brake, each held for 1 to 10 steps."""
    state = [0, np.zeros(3)]

    def act():
        if state[0] == 0:
            state[:] = int(rng.integers(1, 11)), rng.uniform([-1, 0, 0], [1, 1, 0.1])
        state[0] -= 1
        return state[1]

    return act


def test_random_policies_see_little_of_the_track():
    """Over 1,000 steps white noise returns -33 (sd 5.4 over tracks), and none of them sees 12 % of the tiles.

    Physics alone, nothing is drawn: that takes a fifth of the time."""
    env, returns, tiles = make_car_racing(), {}, {}
    for policy, tracks in ((white_noise, 20), (brownian, 6), (held, 6)):
        for seed in range(tracks):
            env.reset(seed=seed)
            act, total, over, steps = policy(np.random.default_rng(seed)), 0.0, False, 0
            env.core.drawing = False
            while not over and steps < 1000:
                image, rew, over, *_ = env.core.step(act().astype(np.float32))
                assert image is None
                total, steps = total + rew, steps + 1
            returns.setdefault(policy, []).append(total)
            tiles.setdefault(policy, []).append(env.core.tile_visited_count / len(env.core.track))
    assert np.mean(returns[white_noise]) == pytest.approx(-33, abs=5)
    assert all(0 < min(seen) and max(seen) < 0.12 for seen in tiles.values()), tiles


def test_wrong_options_say_what_is_allowed(monkeypatch):
    for options, words in (
        ({"render": "gl"}, "stock, exact, fast"),
        ({"start": "tile"}, "line, random"),
        ({"size": 128}, "16 to 96"),
        ({"action_repeat": 0}, "1 or more"),
    ):
        with pytest.raises(UserError, match=words):
            make_car_racing(**options)
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(UserError, match="pip install envpool"):
        load_envpool()
    with pytest.raises(gym.error.ResetNeeded):
        make_car_racing().step(DOWN_THE_ROAD)


# --- EnvPool ---


@has_envpool
def test_envpool_drives_and_looks_like_gymnasium():
    """Other tracks for the same seed: means over 24 tracks agree, of the returns and of pictures at rest."""
    n, still, steps = 24, 60, 90
    pool, env = make_car_racing_pool(n, threads=1), make_car_racing()
    actions = np.concatenate([np.zeros((still, 3)), drive(steps, 7) * [0.1, 1, 1]]).astype(np.float32)
    theirs, ours, images = np.zeros(n), np.zeros(n), [None, []]
    pool.reset(seed=0)
    for t, action in enumerate(actions):
        obs, rew, terminated, truncated, info = pool.step(np.repeat(action[None], n, axis=0))
        theirs += rew
        images[0] = obs["image"].astype(float) if t == still - 1 else images[0]
        assert not (terminated | truncated | info["lap_finished"]).any()
    for seed in range(n):
        env.reset(seed=seed)
        for t, action in enumerate(actions):
            obs, rew, *_ = env.step(action)
            ours[seed] += rew
            images[1] += [obs["image"]] if t == still - 1 else []
    error = np.sqrt(theirs.var() / n + ours.var() / n)
    assert theirs.mean() == pytest.approx(ours.mean(), abs=4 * error) and 0 < error < 3
    a, b = images[0].mean(0), np.mean(images[1], axis=0)
    assert difference(a, b)[:84].mean() < 5  # also because the bends behind the start differ
    assert difference(a, b)[64:80, 42:54].mean() < 12  # the car; EnvPool draws it without smoothing


@has_envpool
def test_envpool_resets_at_the_next_step_and_by_seed():
    pool = make_car_racing_pool(2, size=64, crop=True, threads=1, max_steps=5)
    assert pool.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    first = pool.reset(seed=3)[0]["image"]
    assert first.shape == (2, 64, 64, 3) and pool.observation_space.contains({"image": first})
    zero = np.zeros((2, 3), np.float32)
    ends = [pool.step(zero)[1:4] for _ in range(6)]
    assert [bool(truncated.all()) for _, _, truncated in ends] == [False] * 4 + [True, False]
    assert not ends[5][0].any()  # the reset step pays nothing
    np.testing.assert_array_equal(pool.reset(seed=3)[0]["image"], first)
    np.testing.assert_array_equal(pool.reset(seed=[4, 3])[0]["image"][1], first[0])
    assert not np.array_equal(pool.reset()[0]["image"], first)
    pool.close()


@has_envpool
def test_envpool_tells_a_crash_from_a_lap():
    pool = make_car_racing_pool(2, threads=1)
    pool.reset(seed=3)
    ends = 0
    for _ in range(400):  # straight on, out of the field
        _, rew, terminated, truncated, info = pool.step(np.array([[0, 0.2, 0]] * 2))
        assert not truncated.any() and not info["lap_finished"].any() and info["lap_finished"].shape == (2,)
        assert (rew[terminated] == -100).all()
        ends += terminated.sum()
    assert ends >= 2
