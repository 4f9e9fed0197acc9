"""Games, collected rows and their one shift, against Gymnasium and a counting environment."""

import gymnasium
import numpy as np
import pytest

from common.errors import UserError
from foundations.dyna import data_collection as data
from foundations.dyna.games import CartPoleGames, GymGames, make_env, make_games


def test_cartpole_in_numpy_is_gymnasiums_bit_for_bit():
    env, rng = gymnasium.make("CartPole-v1").unwrapped, np.random.default_rng(0)
    games = CartPoleGames(1, 0)
    for step in range(2000):
        if step % 20 == 0:
            env.reset(seed=step)
            games.state[0] = env.state
        act = int(rng.integers(2))
        env.steps_beyond_terminated = None  # we go on behind the end, too
        seen, _, lost, _, _ = env.step(act)
        obs, rew, terminated, _ = games.step(np.array([act]))
        assert np.array_equal(obs[0], seen) and bool(terminated[0]) == lost and rew[0] == 1
        assert np.array_equal(games.state[0], np.asarray(env.state))


def test_cartpole_games_are_cut_at_500_and_begin_anew_by_row():
    games = CartPoleGames(3, 0)
    games.steps[:] = [499, 10, 499]
    _, _, terminated, truncated = games.step(np.zeros(3, np.int64))
    assert truncated.tolist() == [True, False, True] and not terminated.any()
    kept = games.state[1].copy()
    games.reset(truncated)
    assert games.steps.tolist() == [0, 11, 0] and np.array_equal(games.state[1], kept)
    assert np.abs(games.state[[0, 2]]).max() <= 0.05


def test_other_games_have_the_same_methods():
    games = make_games("MountainCar-v0", 2, seed=3)
    assert isinstance(games, GymGames) and games.num_actions == 3 and games.max_steps == 200
    before = games.obs.copy()
    obs, rew, terminated, truncated = games.step(np.array([0, 2]))
    assert obs.shape == (2, 2) and rew.tolist() == [-1, -1] and not (terminated | truncated).any()
    assert not np.array_equal(before, games.obs)  # the copy is no view of what `step` changes
    games.reset(np.array([True, False]))
    assert np.array_equal(games.obs[1], obs[1]) and not np.array_equal(games.obs[0], obs[0])
    again = make_games("MountainCar-v0", 2, seed=3)
    assert np.array_equal(again.obs, before) and not np.array_equal(before[0], before[1])


@pytest.mark.parametrize(
    ("name", "word"),
    [("CartPole-v9", "CartPole"), ("FrozenLake-v1", "Discrete"), ("CarRacing-v3", "flat vectors")],
)
def test_environments_that_do_not_fit_are_refused(name, word):
    with pytest.raises(UserError, match=word):
        make_env(name)


def test_the_random_policy_lasts_as_long_as_it_is_known_to():
    rows = data.collect("CartPole-v1", data.random_policy(make_env("CartPole-v1").action_space), 1000, 0)
    returns = data.episode_returns(rows)
    assert round(returns.mean(), 3) == 22.197 and round(returns.std(ddof=1), 2) in (11.31, 11.32)
    assert np.median(returns) == 19 and returns.max() == 76
    part = data.as_transitions(rows, 2)
    copy = np.square(part.next_obs - part.obs).mean()
    assert 0.028 < copy < 0.034
    assert round(part.done.mean(), 3) == 0.045


def test_the_controller_keeps_the_pole_up():
    returns = data.episode_returns(data.collect_named("CartPole-v1", "controller", 30, 0))
    assert 300 < returns.mean() < 430


class Counting(gymnasium.Env):
    """Shows its step and its last action, pays the number of the step; the third is terminal or a limit."""

    observation_space = gymnasium.spaces.Box(-100, 100, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(3)
    episodes = 0

    def reset(self, *, seed=None, options=None):
        self.t, Counting.episodes = 0, Counting.episodes + 1
        return np.array([0, -1], np.float32), {}

    def step(self, act):
        self.t += 1
        over = self.t == 3
        is_cut = Counting.episodes % 2 == 0
        return np.array([self.t, act], np.float32), float(self.t), over and not is_cut, over and is_cut, {}


@pytest.fixture
def rows(monkeypatch):
    Counting.episodes = 0
    monkeypatch.setattr(data, "make_env", lambda name: Counting())
    turn = iter(range(1000))
    return data.collect("counting", lambda obs, rng: next(turn) % 3, episodes=4, seed=0)


def test_rows_and_their_shift(rows):
    assert rows["obs"][:4, 0].tolist() == [0, 1, 2, 3] and rows["rew"][:4].tolist() == [0, 1, 2, 3]
    assert rows["is_first"][:5].tolist() == [True, False, False, False, True]
    assert rows["is_last"][3] and rows["is_last"][7] and rows["is_terminal"][3] and not rows["is_terminal"][7]
    part = data.as_transitions(rows, 3)
    assert len(part.rew) == 12
    assert np.array_equal(part.act.argmax(-1), part.next_obs[:, 1])  # the action is the one that led there
    assert np.array_equal(part.next_obs[:, 0], part.obs[:, 0] + 1) and np.array_equal(
        part.rew, part.next_obs[:, 0]
    )
    assert part.done.tolist() == [0, 0, 1, 0, 0, 0] * 2  # a time limit is no end


def test_pieces_cross_no_end(rows):
    found = data.pieces(rows, 2, 100, np.random.default_rng(0))
    assert len(found) == 8 and len({int(piece[0]) for piece in found}) == 8  # two starts in each episode
    assert all(np.array_equal(rows["obs"][piece, 0], rows["obs"][piece[0], 0] + [0, 1, 2]) for piece in found)
    assert len(data.pieces(rows, 2, 3, np.random.default_rng(0))) == 3
    with pytest.raises(UserError, match="no episode lasts 4 steps"):
        data.pieces(rows, 4, 1, np.random.default_rng(0))


def test_the_split_keeps_episodes_whole(rows):
    rows["obs"][:, 1] = np.cumsum(rows["is_first"])  # the number of the episode
    train, test = data.split_by_episode(rows, 0.25, np.random.default_rng(0))
    assert not set(train["obs"][:, 1]) & set(test["obs"][:, 1])
    assert len(test["rew"]) == 4 and len(train["rew"]) == 12


def test_files_come_back_and_foreign_ones_are_refused(rows, tmp_path):
    data.save(tmp_path / "data" / "transitions.npz", rows, env="counting", policy="random", seed=4)
    again, told = data.load(tmp_path / "data" / "transitions.npz")
    assert told == {"env": "counting", "policy": "random", "seed": "4"}
    assert again.keys() == rows.keys() and all(np.array_equal(again[name], rows[name]) for name in rows)
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04 and no more")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    for name, word in (
        ("torn", "holds no transitions"),
        ("other", "holds no transitions"),
        ("none", "data_collection"),
    ):
        with pytest.raises(UserError, match=word):
            data.load(tmp_path / f"{name}.npz")


def test_a_controller_needs_cartpole():
    with pytest.raises(UserError, match="CartPole-v1 only"):
        data.collect_named("MountainCar-v0", "mix", 10, 0)
