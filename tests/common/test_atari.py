"""Atari: frames skipped once, maximum over two, no-ops, sticky actions, lives, limit, ale-py's vector env."""

import numpy as np
import pytest

from common.env_wrapper import EnvSpec, make_env, make_vector_env
from common.envs import atari
from common.envs.wrappers import resize
from common.errors import UserError

PROTOCOLS = {  # the papers', as their configs write them on top of the defaults
    "dreamerv1": {"sticky": 0.25, "resize": "bilinear", "life_loss": True},
    "dreamerv2": {"sticky": 0.25, "gray": True, "full_actions": True},
    "dreamerv3_57": {"sticky": 0.25, "gray": True, "full_actions": True, "size": 96, "resize": "bilinear"},
    "dreamerv3_100k": {"resize": "bilinear"},
    "iris": {
        "resize": "bilinear",
        "resize_first": True,
        "noop_max": {"train": 30, "eval": 1},
        "life_loss": {"train": True, "eval": False},
        "limit": {"train": 20_000, "eval": 108_000},
    },
}


@pytest.mark.parametrize("name", ["atari_pong", "ALE/Pong-v5", "PongNoFrameskip-v4", "atari_Pong"])
@pytest.mark.parametrize("skip", [4, 1])
def test_frames_are_never_skipped_twice(name, skip):
    env = make_env(name, frame_skip=skip, noop_max=0)
    _, info = env.reset(seed=0)
    assert info["frame"] == 0
    for step in range(1, 6):
        info = env.step(0)[-1]
        assert info["frame"] == skip * step


@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("game", ["breakout", "seaquest"])
def test_frames_rewards_and_ends_equal_those_of_ales_vector_env(game, gray):
    options = {"noop_max": 0, "gray": gray, "limit": 1200}
    pool, one = make_vector_env(f"atari_{game}", 1, **options), make_env(f"atari_{game}", **options)
    assert type(pool).__name__ == "_AleVector"
    theirs, ours = pool.reset(seed=0)[0], one.reset(seed=0)[0]
    rng, ends, total = np.random.default_rng(0), 0, 0.0
    for _ in range(400):
        assert np.array_equal(theirs["image"][0], ours["image"])
        action = int(rng.integers(one.action_space.n))
        theirs, rew, terminated, truncated, _ = pool.step(np.array([action]))
        ours, our_rew, our_terminated, our_truncated, _ = one.step(action)
        assert (rew[0], terminated[0], truncated[0]) == (our_rew, our_terminated, our_truncated)
        total += our_rew
        if our_terminated or our_truncated:
            ends += 1
            theirs, ours = pool.step(np.array([action]))[0], one.reset()[0]
    assert ends and total > 0


def test_the_picture_is_the_maximum_over_the_last_two_frames():
    env = make_env("atari_space_invaders", noop_max=0, size=84)
    env.reset(seed=0)
    differs = 0
    for _ in range(40):
        state = env.unwrapped.ale.cloneSystemState()
        seen = env.step(0)[0]["image"]
        after = env.unwrapped.ale.cloneSystemState()
        env.unwrapped.ale.restoreSystemState(state)
        screens = []
        for _ in range(4):
            env.unwrapped.ale.act(0)
            screens.append(env.unwrapped.ale.getScreenRGB())
        env.unwrapped.ale.restoreSystemState(after)
        assert np.array_equal(seen, resize(np.maximum(screens[2], screens[3]), 84))
        differs += not np.array_equal(seen, resize(screens[3], 84))
    assert differs  # else the game would not tell a maximum from the last frame


def test_resize_first_takes_the_maximum_of_small_frames():
    large, small = (make_env("atari_breakout", noop_max=0, resize_first=first) for first in (False, True))
    a, b = large.reset(seed=0)[0]["image"], small.reset(seed=0)[0]["image"]
    assert np.array_equal(a, b)
    moved = [(large.step(1)[0]["image"], small.step(1)[0]["image"]) for _ in range(20)]
    assert any(not np.array_equal(x, y) for x, y in moved)
    assert all(np.all(x.astype(int) + 1 >= y) for x, y in moved)  # mean of maxima >= maximum of means


def test_noops_follow_the_seed():
    env = make_env("atari_pong", noop_max=30)
    frames = [env.reset(seed=seed)[1]["frame"] for seed in range(5)]
    assert frames == [env.reset(seed=seed)[1]["frame"] for seed in range(5)]
    frames += [env.reset()[1]["frame"] for _ in range(60)]
    assert min(frames) >= 1 and max(frames) <= 30 and len(set(frames)) > 15
    assert {make_env("atari_pong", noop_max=1).reset(seed=s)[1]["frame"] for s in range(3)} == {1}


def test_sticky_actions_repeat_a_quarter():
    def course(sticky, seed):
        env = make_env("atari_breakout", sticky=sticky, noop_max=0)
        env.reset(seed=seed)
        return [env.step([1, 2, 3, 3][t % 4])[0]["image"].sum() for t in range(30)]

    assert course(0.0, 1) == course(0.0, 2)  # the console itself is deterministic
    assert course(0.25, 1) == course(0.25, 1) != course(0.25, 2)


def test_a_lost_life_ends_the_episode_but_not_the_game():
    env = make_env("atari_breakout", life_loss=True, noop_max=0)
    _, info = env.reset(seed=0)
    lives, frames = [info["lives"]], []
    for _ in range(5):
        terminated = truncated = False
        while not terminated:
            _, _, terminated, truncated, info = env.step(1)
            assert not truncated
        lives.append(info["lives"])
        frames.append(info["frame"])
        _, info = env.reset()
        frames.append(info["frame"])
    assert lives == [5, 4, 3, 2, 1, 0]
    assert [after - before for before, after in zip(frames[:-2:2], frames[1:-2:2], strict=True)] == [4] * 4
    assert frames[-1] == 0 and info["lives"] == 5  # the last life: a new game
    env.step(1)
    assert env.reset(seed=0)[1]["frame"] == 0  # a seeded reset is always a new game


def test_without_life_loss_a_game_is_one_episode():
    env = make_env("atari_breakout", noop_max=0)
    env.reset(seed=0)
    terminated, lives = False, []
    while not terminated:
        _, _, terminated, _, info = env.step(1)
        lives.append(info["lives"])
    assert sorted(set(lives)) == [0, 1, 2, 3, 4, 5]


def test_the_limit_truncates():
    env = make_env("atari_pong", limit=50, noop_max=0)
    env.reset(seed=0)
    ends = [env.step(0)[2:4] for _ in range(13)]
    assert ends == [(False, False)] * 12 + [(False, True)]
    assert env.reset()[1]["frame"] == 0


def test_the_limit_may_count_as_the_end_of_the_game():
    """As in DreamerV3's last code; in ale-py's vector env, too."""
    options = {"limit": 50, "noop_max": 0, "timeout_terminal": True}
    env = make_env("atari_pong", **options)
    env.reset(seed=0)
    ends = [env.step(0)[2:4] for _ in range(13)]
    assert ends == [(False, False)] * 12 + [(True, False)]
    assert env.reset()[1]["frame"] == 0
    pool = make_vector_env("atari_pong", 2, **options)
    assert type(pool).__name__ == "_AleVector"
    pool.reset(seed=0)
    ends = [pool.step(np.array([0, 0]))[2:4] for _ in range(15)]
    assert [terminated.tolist() for terminated, _ in ends] == [[i == 12] * 2 for i in range(15)]
    assert not any(truncated.any() for _, truncated in ends)
    pool.close()


@pytest.mark.parametrize(
    "options, shape, actions",
    [
        ({}, (64, 64, 3), 4),
        ({"gray": True, "size": 84}, (84, 84, 1), 4),
        ({"full_actions": True}, (64, 64, 3), 18),
    ],
)
def test_sizes_colours_and_action_sets(options, shape, actions):
    for env in (make_env("atari_breakout", **options), make_vector_env("atari_breakout", 2, **options)):
        single = getattr(env, "single_observation_space", env.observation_space)
        assert single["image"].shape == shape
        assert getattr(env, "single_action_space", env.action_space).n == actions
        env.close()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_papers_protocols_run_in_both_modes(protocol):
    spec = EnvSpec("atari_breakout", PROTOCOLS[protocol])
    for mode in ("train", "eval"):
        env = spec.make(mode)
        env.reset(seed=0)
        assert env.step(1)[0] in env.observation_space
        if protocol == "iris":
            assert env.unwrapped.life_loss == (mode == "train")
            assert env.unwrapped.noop_max == (30 if mode == "train" else 1)
    fits = protocol == "dreamerv2"  # only its frames are those of ale-py's vector env
    assert (type(spec.make_vector(2)).__name__ == "_AleVector") == fits


def test_rewards_are_raw_and_no_fire_is_pressed():
    env = make_vector_env("atari_ms_pacman", 1, noop_max=0)
    env.reset(seed=0)
    rews = [env.step(np.array([3]))[1][0] for t in range(120)]
    assert max(rews) > 1  # ale-py would clip to 1 by default
    lives = make_vector_env("atari_breakout", 1, noop_max=0)
    ball = [lives.reset(seed=0)[0]["image"]] + [lives.step(np.array([0]))[0]["image"] for _ in range(8)]
    assert all(np.array_equal(ball[0], later) for later in ball)  # no FIRE, no ball


def test_names():
    assert atari.rom_id("atari_MsPacman") == atari.rom_id("ALE/MsPacman-v5") == "ms_pacman"
    assert atari.rom_id("atari_up_n_down") == "up_n_down" and atari.rom_id("atari_nope") is None
    assert "atari_breakout" in atari.names()
    with pytest.raises(UserError, match="only pixels"):
        make_vector_env("atari_pong", 2, obs="vector")
