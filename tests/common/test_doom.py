"""ViZDoom TakeCover against the measured baselines of paper 1; crops, thirds, the time-out, no litter."""

import os

import numpy as np
import pytest

from common.env_wrapper import make_env, scores
from common.envs.doom import LEFT, RIGHT, STAY
from common.envs.wrappers import resize

SWEEP_SURVIVES = 50041  # with 100 tics right, 100 tics left, this seed reaches the time-out


def play(env, policy, seeds):
    """Returns of one episode per seed; policy(step, rng) -> action."""
    returns = []
    for seed in seeds:
        env.reset(seed=seed)
        rng, step, ret, over = np.random.default_rng(seed), 0, 0.0, False
        while not over:
            _, rew, terminated, truncated, _ = env.step(policy(step, rng))
            ret, step, over = ret + rew, step + 1, terminated or truncated
        returns.append(ret)
    return np.array(returns)


@pytest.fixture(scope="module")
def skip4():
    env = make_env("doom_takecover", frame_skip=4)
    yield env
    env.close()


def test_baselines_lie_where_they_were_measured(skip4):
    seeds = range(50_000, 50_040)
    noop = play(skip4, lambda t, rng: STAY, seeds)
    uniform = play(skip4, lambda t, rng: int(rng.integers(3)), seeds)
    assert noop.mean() == pytest.approx(151, abs=3 * 48 / np.sqrt(40))
    assert uniform.mean() == pytest.approx(292, abs=3 * 150 / np.sqrt(40))
    assert uniform.mean() < scores("doom_takecover", {"frame_skip": 4})["blind"]["value"]


def test_skip_one_is_harder_for_a_uniform_policy():
    """Measured over 200 episodes: 203, sd 100 (the article: 210, sd 108).  The band is 3 standard errors."""
    env = make_env("doom_takecover")
    returns = play(env, lambda t, rng: int(rng.integers(3)), range(50_000, 50_100))
    env.close()
    assert returns.mean() == pytest.approx(203, abs=3 * 100 / np.sqrt(100))


def test_skip_one_and_who_does_nothing():
    """Measured: 144, sd 47; a fireball that is stood in kills soon."""
    env = make_env("doom_takecover")
    returns = play(env, lambda t, rng: STAY, range(50_000, 50_040))
    env.close()
    assert returns.mean() == pytest.approx(144, abs=3 * 47 / np.sqrt(40))


def test_the_time_out_truncates_after_2100_tics(skip4):
    def sweep(t, rng):
        return RIGHT if t * 4 // 100 % 2 == 0 else LEFT

    skip4.reset(seed=SWEEP_SURVIVES)
    ret, step, over = 0.0, 0, False
    while not over:
        _, rew, terminated, truncated, _ = skip4.step(sweep(step, None))
        ret, step, over = ret + rew, step + 1, terminated or truncated
    assert (ret, terminated, truncated) == (2100, False, True)


def test_death_terminates_and_keeps_a_last_frame(skip4):
    skip4.reset(seed=50_000)
    terminated = False
    while not terminated:
        obs, rew, terminated, truncated, _ = skip4.step(STAY)
        assert not truncated and rew > 0
    assert obs["image"].shape == (64, 64, 3) and obs["image"].any()


def test_seeds_repeat_episodes(skip4):
    def course(seed):
        frames = [skip4.reset(seed=seed)[0]["image"]]
        return np.stack(frames + [skip4.step(t % 3)[0]["image"] for t in range(40)])

    assert np.array_equal(course(3), course(3)) and not np.array_equal(course(3), course(4))


def test_the_crops(skip4):
    obs, _ = skip4.reset(seed=1)
    frame = skip4.render()
    assert frame.shape == (120, 160, 3)
    rows = obs["image"][:, :].astype(float).mean(1)  # rows are kept, columns averaged
    assert np.allclose(rows, frame[36:100].astype(float).mean(1), atol=0.6)
    paper = make_env("doom_takecover", crop="paper")
    squeezed = paper.reset(seed=1)[0]["image"]
    assert np.array_equal(squeezed, resize(paper.render()[:100], 64))
    paper.close()


def test_a_turn_is_cut_into_thirds():
    env, steps = (
        make_env("doom_takecover", continuous=True, frame_skip=4),
        make_env("doom_takecover", frame_skip=4),
    )
    for turn, action in [
        (-1.0, LEFT),
        (-0.34, LEFT),
        (-0.33, STAY),
        (0.33, STAY),
        (0.34, RIGHT),
        (1.0, RIGHT),
    ]:
        env.reset(seed=7), steps.reset(seed=7)
        for _ in range(5):
            a, b = env.step(np.float32([turn]))[0], steps.step(action)[0]
        assert np.array_equal(a["image"], b["image"])
    env.close(), steps.close()


def test_left_and_right_move_the_view_apart(skip4):
    pictures = []
    for action in (LEFT, STAY, RIGHT):
        skip4.reset(seed=2)
        for _ in range(8):
            obs = skip4.step(action)[0]
        pictures.append(obs["image"].astype(int))
    # Walking right shifts the room to the left: the left wall's picture moves out on that side.
    shift = [
        np.abs(pictures[2][:, :-6] - pictures[0][:, 6:]).mean(),
        np.abs(pictures[0][:, :-6] - pictures[2][:, 6:]).mean(),
    ]
    assert shift[0] < shift[1]


def test_the_engine_leaves_nothing_behind(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    env = make_env("doom_takecover")
    env.reset(seed=0)
    folder = env.unwrapped._folder.name
    env.close()
    assert os.listdir(tmp_path) == [] and not os.path.exists(folder)
    assert capfd.readouterr() == ("", "")
