"""Playing into the replay: every row in the one alignment, whatever ends when and however often it is cut.

The counting env's picture holds (t, last action, seed); a step gives t; even seeds terminate, odd ones are
truncated.
"""

import numpy as np
import pytest

from common.collector import Collector
from common.replay_buffer import ReplayBuffer
from common.seeding import derive
from common.spaces import Spaces
from common.testing import CountingEnv, VectorCountingEnv, counting_envs, length_of

SEED = 5


class Laps(CountingEnv):
    """Each game that nobody seeded has the seed after the one before: lengths and ends differ."""

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=self.seed_now + 1 if seed is None else seed)


class Player:
    """Random actions; remembers what it saw.  Never action 0, which is what zeros look like."""

    def __init__(self, num: int):
        self.rng, self.num, self.seen = np.random.default_rng(0), num, []

    def __call__(self, obs: dict[str, np.ndarray]) -> tuple[np.ndarray, dict]:
        self.seen.append({key: value.copy() for key, value in obs.items()})
        return self.rng.integers(1, 5, self.num), {}


def make(
    num: int, repeat: int = 1, on_episode=lambda ret, length, told: None
) -> tuple[Collector, ReplayBuffer]:
    envs = counting_envs(num, Laps)
    replay = ReplayBuffer(3_000, Spaces.of(envs).fields(), num)
    return Collector(envs, replay, repeat, SEED, on_episode), replay


def episodes_of(replay: ReplayBuffer, env: int) -> list[dict[str, np.ndarray]]:
    """The stored episodes of one env, oldest first."""
    table, num = replay.episodes(), replay.num_envs
    mine = table.start % num == env
    pairs = zip(table.start[mine], table.length[mine], strict=True)
    return [replay.gather(start + np.arange(length) * num) for start, length in pairs]


def check(rows: dict[str, np.ndarray], seed: int, ended: bool = True) -> None:
    """Assert the convention on an episode with this seed; ended: by itself, not from outside."""
    t, last_act, shown = rows["image"][:, 0, 0].T.astype(int)
    T = len(t) - 1
    np.testing.assert_array_equal(t, np.arange(T + 1))  # no row is lost or doubled
    np.testing.assert_array_equal(shown, seed % 256)
    np.testing.assert_array_equal(rows["rew"], t)  # received on arriving; nothing at the first
    np.testing.assert_array_equal(rows["act"][:-1], last_act[1:])  # chosen here, shown in the next row
    assert rows["act"][-1] == 0
    np.testing.assert_array_equal(rows["is_first"], t == 0)
    np.testing.assert_array_equal(rows["is_last"], t == T)
    np.testing.assert_array_equal(rows["is_terminal"], (t == T) & ended & (seed % 2 == 0))
    assert T == length_of(seed) if ended else T < length_of(seed)


@pytest.mark.parametrize("num", [1, 3])
def test_every_row_is_stored_in_its_alignment(num):
    collector, replay = make(num)
    collector.begin(0)
    player = Player(num)
    for _ in range(60):
        collector.step(player)
    assert len(replay) == 60 * num  # one row per env and step, last rows included
    kinds = set()
    for env in range(num):
        seed = derive(SEED, "episode", 0, env)
        *whole, rest = episodes_of(replay, env)
        assert len(whole) >= 5
        for k, rows in enumerate(whole):
            check(rows, seed + k)
            kinds.add((seed + k) % 2)
        assert not rest["is_last"][:-1].any()
    assert kinds == {0, 1}  # time limits and true ends were among them


def test_a_time_limit_may_be_stored_as_an_end():
    """But a checkpoint that cuts an episode off is none (paper 5)."""
    envs = counting_envs(1, Laps)
    replay = ReplayBuffer(300, Spaces.of(envs).fields())
    collector = Collector(envs, replay, 1, SEED, timeout_is_end=True)
    collector.begin(0)
    for _ in range(60):
        collector.step(Player(1))
    collector.end_episodes()
    *whole, cut = episodes_of(replay, 0)
    assert all(rows["is_terminal"].tolist() == rows["is_last"].tolist() for rows in whole)
    assert cut["is_last"][-1] and not cut["is_terminal"].any()


def test_what_the_policy_thinks_is_stored_beside_what_it_saw():
    """Latents of paper 4: rows that a checkpoint cuts off have none, and nothing starts from them."""
    envs = counting_envs(2, Laps)
    replay = ReplayBuffer(100, Spaces.of(envs).fields() | {"thought": ((2,), np.uint8)}, 2)
    collector, player = Collector(envs, replay, 1, SEED), Player(2)
    collector.begin(0)
    for step in range(5):
        thought = np.full((2, 2), step + 1, np.uint8)
        collector.step(lambda obs, thought=thought: (player(obs)[0], {"thought": thought}))
    collector.end_episodes()
    for env in range(2):
        thoughts = np.concatenate([game["thought"] for game in episodes_of(replay, env)])
        np.testing.assert_array_equal(thoughts[:5], np.repeat(np.arange(1, 6)[:, None], 2, 1))
        assert not thoughts[5:].any()


def test_is_first_tells_the_policy_where_games_begin():
    collector, _ = make(3)
    collector.begin(0)
    player = Player(3)
    for _ in range(40):
        collector.step(player)
    for obs in player.seen:
        np.testing.assert_array_equal(obs["is_first"], obs["image"][:, 0, 0, 0] == 0)


def test_frames_count_steps_and_not_resets():
    told = []
    collector, replay = make(3, repeat=4, on_episode=lambda ret, length, info: told.append((ret, length)))
    collector.begin(0)
    player = Player(3)
    for _ in range(40):
        collector.step(player)
    resets = sum(obs["is_first"].sum() for obs in player.seen[1:]) + collector.is_first.sum()
    assert resets > 5 and collector.policy_steps == 3 * 40 - resets
    assert collector.frames == 4 * collector.policy_steps
    lengths = []
    for env in range(3):
        seed, at = derive(SEED, "episode", 0, env), 0
        while (at := at + length_of(seed)) <= 40:
            lengths.append((at, env, length_of(seed)))
            at, seed = at + 1, seed + 1
    assert told == [(n * (n + 1) / 2, n) for _, _, n in sorted(lengths)]  # returns 1 + 2 + ... + n, in order


@pytest.mark.parametrize("steps", [1, 20, length_of(derive(SEED, "episode", 0, 0)) + 1])
def test_ending_all_episodes_stores_the_rows_that_wait(steps):
    """At a checkpoint open games end, not terminally, and those that have ended keep how they did."""
    collector, replay = make(5)
    collector.begin(0)
    player = Player(5)
    for _ in range(steps):
        collector.step(player)
    waiting, terminal = collector.is_first.copy(), collector.is_terminal.copy()
    assert waiting[0] == (steps not in (1, 20))  # in the third case env 0 has just been reset
    collector.end_episodes()
    table = replay.episodes()
    assert not table.is_open.any() and table.length.min() >= 2
    for env in range(5):
        seed, games = derive(SEED, "episode", 0, env), episodes_of(replay, env)
        rows = sum(len(game["rew"]) for game in games)
        assert rows == steps + (not waiting[env])  # a game of one row would teach nothing
        for k, game in enumerate(games):
            check(game, seed + k, ended=len(game["rew"]) == length_of(seed + k) + 1)
        assert games[-1]["is_terminal"][-1] == terminal[env] or waiting[env]


def test_after_a_cut_new_games_begin_with_seeds_of_their_own():
    collector, replay = make(2)
    player = Player(2)
    for number in (0, 500, 1_000):
        collector.begin(number)
        collector.step(player)
        collector.step(player)
        collector.end_episodes()
    for env in range(2):
        for game, number in zip(episodes_of(replay, env), (0, 500, 1_000), strict=True):
            check(game, derive(SEED, "episode", number, env), ended=False)
    seeds = {derive(SEED, "episode", number, env) for number in (0, 500, 1_000) for env in range(2)}
    assert len(seeds) == 6


def test_a_resumed_collector_plays_the_same_rows():
    def play(collector: Collector, steps: int) -> None:
        player = Player(2)
        collector.begin(collector.frames)
        for _ in range(steps):
            collector.step(player)
        collector.end_episodes()

    whole, kept = make(2)
    play(whole, 15)
    steps = whole.policy_steps
    play(whole, 15)
    resumed, replay = make(2)
    resumed.policy_steps = steps  # all that a checkpoint keeps of it
    play(resumed, 15)
    count = 0
    for env in range(2):
        theirs = episodes_of(kept, env)
        for ours, game in zip(reversed(episodes_of(replay, env)), reversed(theirs), strict=False):
            assert all(np.array_equal(ours[name], game[name]) for name in ours)
            count += 1
    assert count > 2


def test_vectors_and_continuous_actions():
    envs = counting_envs(2, VectorCountingEnv)
    replay = ReplayBuffer(100, Spaces.of(envs).fields(), 2)
    collector, rng = Collector(envs, replay, 1, SEED), np.random.default_rng(0)
    collector.begin(0)
    acts = rng.uniform(-1, 1, (30, 2, 2)).astype(np.float32)
    for act in acts:
        collector.step(lambda obs, act=act: (act, {}))
    game = episodes_of(replay, 1)[0]
    assert len(game["rew"]) == 21 and game["is_terminal"][-1]
    np.testing.assert_array_equal(game["act"][:20], acts[:20, 1])
    np.testing.assert_array_equal(game["act"][20], [0, 0])
    np.testing.assert_allclose(game["vector"][:, 0], 0.9 ** np.arange(21), rtol=1e-6)
    assert game["rew"].tolist() == [0.0] + [1.0] * 20
