"""Replay: how rows are aligned, what is drawn how often, a brute-force twin, checkpoints that survive."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from common.checkpoint import RunState
from common.errors import UserError
from common.replay_buffer import ReplayBuffer
from common.replay_storage import forecast

FIELDS = {
    "vector": ((2,), np.float32),
    "rew": ((), np.float32),
    "act": ((), np.int64),
    "is_first": ((), bool),
    "is_last": ((), bool),
    "is_terminal": ((), bool),
    "latent": ((3,), np.float32),
}


def row(n: int, first=False, last=False, value=0) -> dict[str, np.ndarray]:
    """One row for each of n envs, recognisable by `value`."""
    flags = {"is_first": first, "is_last": last, "is_terminal": False}
    out = {key: np.broadcast_to(flag, n).copy() for key, flag in flags.items()}
    value = np.broadcast_to(value, n).astype(np.float32)
    out |= {"vector": np.stack([value, value], 1), "rew": value, "act": np.full(n, 7)}
    return {**out, "latent": np.zeros((n, 3), np.float32)}


def fill(buffer: ReplayBuffer, lengths: list[int]) -> None:
    """Episodes of those lengths into every stream; vector = (episode, row)."""
    for episode, length in enumerate(lengths):
        for t in range(length):
            rows = row(buffer.num_envs, t == 0, t == length - 1)
            rows["vector"][:] = (episode, t)
            buffer.add(rows)


class CountingEnv(gym.Env):
    """Shows (time, last action) and pays 100 * time + last action, so that any shift by one is seen."""

    observation_space = gym.spaces.Box(-1, 1e6, (2,), np.float32)
    action_space = gym.spaces.Discrete(50)

    def __init__(self, length: int):
        self.length = length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return np.array([0, -1], np.float32), {}

    def step(self, action):
        self.time += 1
        is_end = self.time == self.length
        reward = 100.0 * self.time + action
        return np.array([self.time, action], np.float32), reward, is_end, False, {}


def collect(buffer: ReplayBuffer, lengths: list[int], steps: int) -> None:
    """The collection loop that every paper writes, over a NEXT_STEP vector env with random actions."""
    envs = gym.vector.SyncVectorEnv([lambda n=n: CountingEnv(n) for n in lengths])
    assert envs.metadata["autoreset_mode"] == gym.vector.AutoresetMode.NEXT_STEP
    rng = np.random.default_rng(3)
    obs, _ = envs.reset(seed=0)
    n = len(lengths)
    rew, terminated, first = np.zeros(n), np.zeros(n, bool), np.ones(n, bool)
    for _ in range(steps):
        act = rng.integers(0, 50, n)
        flags = {"is_first": first, "is_last": terminated, "is_terminal": terminated}
        buffer.add({"vector": obs, "rew": rew, "act": act, **flags, "latent": np.zeros((n, 3))})
        first = terminated  # NEXT_STEP: the step after an end is the reset
        obs, rew, terminated, _, _ = envs.step(act)


@pytest.mark.parametrize("mode", ["uniform_start", "episode"])
def test_action_reward_and_observation_are_aligned(mode):
    buffer = ReplayBuffer(120, FIELDS, num_envs=3)
    collect(buffer, [3, 7, 12], steps=200)
    batch = buffer.sample_sequences(300, 6, mode)
    natural = buffer.gather(batch["id"])["is_first"]
    time, shown = batch["vector"][..., 0], batch["vector"][..., 1]
    seen = 0
    for b in range(300):
        for t in range(6):
            if natural[b, t]:
                assert time[b, t] == 0 and batch["rew"][b, t] == 0 and shown[b, t] == -1
            elif t > 0:
                act = batch["act"][b, t - 1]
                assert shown[b, t] == act and batch["rew"][b, t] == 100 * time[b, t] + act
                assert time[b, t] == time[b, t - 1] + 1
                seen += 1
            if batch["is_last"][b, t]:
                assert batch["is_terminal"][b, t] and batch["act"][b, t] == 0
    assert seen > 500
    led = buffer.previous("act", batch["id"])  # also where the window begins in mid-episode
    inside = (time > 0) & (batch["id"] // 3 > buffer._streams()[0][batch["id"] % 3])
    np.testing.assert_array_equal(led[inside], shown[inside])
    assert (led[natural] == 0).all() and batch["is_first"][:, 0].all()
    np.testing.assert_array_equal(batch["is_first"][:, 1:], natural[:, 1:])
    oldest = buffer._streams()[0] * 3 + np.arange(3)
    assert (buffer.previous("vector", oldest) == 0).all()  # what led there is overwritten


def test_against_a_list_of_rows():
    """Random adds to random streams, closes and write-backs, compared with plain Python lists."""
    rng = np.random.default_rng(0)
    for trial in range(20):
        n, ring = int(rng.integers(1, 4)), int(rng.integers(3, 12))
        buffer = ReplayBuffer(ring * n + int(rng.integers(n)), FIELDS, n, seed=trial)
        streams: list[list[dict]] = [[] for _ in range(n)]  # all rows ever, newest last
        for step in range(60):
            envs = np.flatnonzero(rng.random(n) < 0.8)
            rows = row(len(envs), rng.random(len(envs)) < 0.2, rng.random(len(envs)) < 0.2, step)
            ids = buffer.add(rows, envs)
            for k, env in enumerate(envs):
                if rows["is_first"][k] and streams[env] and not streams[env][-1]["is_last"]:
                    streams[env][-1] |= {"is_last": True, "act": 0}
                new = {key: value[k].copy() for key, value in rows.items()}
                new |= {"id": len(streams[env]) * n + env, "act": 0 if new["is_last"] else 7}
                streams[env].append(new)
                assert ids[k] == new["id"]
            if step % 17 == 5:
                buffer.close_episodes(envs[:1])
                for env in envs[:1]:
                    streams[env][-1] |= {"is_last": True, "act": 0}
            if step % 11 == 3:
                old = rng.integers(0, max(len(s) for s in streams) * n, 5)
                old = np.array([i for i in old if i // n < len(streams[i % n])], np.int64)
                buffer.update(old, {"latent": np.full((len(old), 3), step)})
                for i in old:
                    streams[i % n][i // n]["latent"] = np.full(3, step)
        kept = [r for s in streams for r in s[-ring:]]
        assert len(buffer) == len(kept)
        got = buffer.gather(np.array([r["id"] for r in kept]))
        for key in FIELDS:
            np.testing.assert_array_equal(got[key], np.stack([r[key] for r in kept]), err_msg=key)
        dead = [r["id"] for s in streams for r in s[:-ring]]
        for i in dead:
            with pytest.raises(IndexError):
                buffer.gather(np.array([i]))

        expected = []
        for env, stream in enumerate(streams):
            for r in stream[-ring:]:
                if r["is_first"] or r is stream[-ring:][0]:
                    expected.append([r["id"], 0, None])
                mine = max((e for e in expected if e[0] % n == env), key=lambda e: e[0])
                mine[1], mine[2] = mine[1] + 1, not r["is_last"]
        table = buffer.episodes()
        found = list(zip(table.start, table.length, table.is_open, strict=True))
        assert sorted(expected) == [list(e) for e in found]


def test_every_run_of_rows_is_drawn_equally_often():
    buffer = ReplayBuffer(30, FIELDS, num_envs=2, seed=1)
    fill(buffer, [4, 9, 20])  # the rings of 15 rows are full and wrapped
    buffer.add(row(1, True), np.array([1]))  # one stream is a row ahead
    ids = buffer.sample_sequences(22_000, 5, names=[])["id"]
    assert (np.diff(ids, axis=1) == 2).all()
    starts, often = np.unique(ids[:, 0], return_counts=True)
    expected = [c * 2 for c in range(18, 29)] + [c * 2 + 1 for c in range(19, 30)]
    assert starts.tolist() == sorted(expected)
    assert abs(often / 1000 - 1).max() < 0.15


def test_windows_in_a_long_episode_and_other_start_rules():
    """Sheet of paper 2, section 12.11: an episode of 501 rows, windows of 50."""
    buffer = ReplayBuffer(501, FIELDS)
    fill(buffer, [501])

    def faithful(rng, rows, length):  # the first Dreamer: the last window is never drawn
        return rng.integers(0, rows - length)

    def balanced(rng, rows, length):  # the same with dataset_balance
        return np.minimum(rng.integers(0, rows), rows - length)

    def starts(**rule):
        return buffer.sample_sequences(60_000, 50, "episode", names=[], **rule)["id"][:, 0]

    assert set(starts()) == set(range(452))
    assert set(starts(start_rule=faithful)) == set(range(451))
    assert np.mean(starts(start_rule=balanced) == 451) == pytest.approx(50 / 501, abs=0.005)


def test_short_episodes_are_drawn_as_often_as_long_ones():
    buffer = ReplayBuffer(100, FIELDS)
    fill(buffer, [3, 20, 2])
    batch = buffer.sample_sequences(6000, 8, "episode")
    episode, time = batch["vector"][..., 0], batch["vector"][..., 1]
    assert batch["vector"].shape == (6000, 8, 2)
    first = batch["id"][:, 0]
    assert np.mean(first == 0) == pytest.approx(1 / 3, abs=0.03)  # the short one, running on into the next
    assert (episode[first == 0] == [0] * 3 + [1] * 5).all()
    np.testing.assert_array_equal(batch["is_first"][:, 1:], time[:, 1:] == 0)  # the seam is marked
    assert np.mean(first == 17) == pytest.approx(1 / 3, abs=0.03)  # the last one, shifted back


def test_padding_shows_one_episode_only():
    buffer = ReplayBuffer(100, FIELDS)
    fill(buffer, [3, 20, 2])

    def end_uniform(rng, rows, length):  # IRIS, actor-critic: the end is uniform, padding on the left
        return rng.integers(0, rows) - length + 1

    batch = buffer.sample_sequences(500, 8, "episode", start_rule=end_uniform, pad=True)
    mask, episode, time = batch["mask"], batch["vector"][..., 0], batch["vector"][..., 1]
    assert mask[:, -1].all() and not mask.all() and set(batch["vector"][:, -1, 0]) == {0, 1, 2}
    for b in range(500):
        real = mask[b].nonzero()[0]
        assert len(set(episode[b, real])) == 1 and (np.diff(time[b, real]) == 1).all()
        assert (batch["vector"][b, ~mask[b]] == 0).all() and not batch["is_first"][b, ~mask[b]].any()
        assert batch["is_first"][b, real[0]] and not batch["is_first"][b, real[1:]].any()
    right = buffer.sample_sequences(500, 8, "episode", pad=True)  # short episodes, right padding
    assert right["mask"][:, 0].all() and set(right["mask"].sum(1)) == {2, 3, 8}


def test_weights_over_the_age_of_episodes():
    buffer = ReplayBuffer(200, FIELDS, num_envs=2)
    fill(buffer, [5] * 4)

    def by_age(episodes):  # IRIS's first release: a share for each quarter, oldest first
        quarter = np.arange(len(episodes.start)) * 4 // len(episodes.start)
        return np.array([0.125, 0.125, 0.25, 0.5])[quarter]

    drawn = buffer.sample_sequences(8000, 5, "episode", weights=by_age)["vector"][:, 0, 0]
    shares = [np.mean(drawn == episode) for episode in range(4)]
    np.testing.assert_allclose(shares, [0.125, 0.125, 0.25, 0.5], atol=0.02)


def test_streams_too_short_must_wait():
    buffer = ReplayBuffer(100, FIELDS, num_envs=2)
    for t in range(6):
        buffer.add(row(1, t == 0), np.array([1]))
    buffer.add(row(1, True), np.array([0]))
    assert buffer.can_sample(6) and not buffer.can_sample(7)
    for mode in ("uniform_start", "episode"):
        assert set(buffer.sample_sequences(50, 6, mode)["id"][:, 0]) == {1}
        with pytest.raises(ValueError, match="7 rows"):
            buffer.sample_sequences(50, 7, mode)


def test_online_windows_come_once_in_order_and_first():
    """Sheet of paper 4, section 11.10: window k is rows 1+65k .. 65+65k."""
    buffer = ReplayBuffer(1000, FIELDS, online=65)
    for t in range(200):
        buffer.add(row(1, t == 0, value=t))
    first = buffer.sample_sequences(2, 65)["vector"][..., 0]
    np.testing.assert_array_equal(first, [np.arange(1, 66), np.arange(66, 131)])
    second = buffer.sample_sequences(3, 65)["vector"][..., 0]
    np.testing.assert_array_equal(second[0], np.arange(131, 196))
    assert len(set(buffer.sample_sequences(50, 65)["id"][:, 0])) > 20  # from here on uniform
    small = ReplayBuffer(10, FIELDS, online=4)
    for t in range(30):
        small.add(row(1, t == 0, value=t))
    starts = small.sample_sequences(3, 4)["vector"][:, 0, 0]  # older windows are overwritten by now
    assert starts[:2].tolist() == [21, 25] and starts[2] >= 20


def test_write_back_leaves_newer_rows_alone():
    buffer = ReplayBuffer(8, FIELDS, num_envs=2)
    fill(buffer, [4])
    batch = buffer.sample_sequences(4, 4)
    buffer.add(row(2, True))  # overwrites row 0 of both streams
    buffer.update(batch["id"], {"latent": np.full((4, 4, 3), 5.0)})
    newest = buffer.gather(np.array([8, 9]))["latent"]
    assert (newest == 0).all()
    assert (buffer.gather(np.unique(batch["id"])[2:])["latent"] == 5).all()


def test_a_cut_stream_is_closed():
    buffer = ReplayBuffer(20, FIELDS, num_envs=2)
    buffer.add(row(2, True))
    buffer.add(row(2))
    buffer.add(row(2, [True, False]))  # the worker of env 0 was restarted
    rows = buffer.gather(np.array([2, 3]))
    assert rows["is_last"].tolist() == [True, False] and rows["act"].tolist() == [0, 7]
    assert not rows["is_terminal"].any()
    assert buffer.episodes().is_open.tolist() == [False, True, True]
    buffer.close_episodes()
    assert not buffer.episodes().is_open.any()


def test_bad_rows_change_nothing():
    buffer = ReplayBuffer(20, FIELDS)
    with pytest.raises(ValueError, match="vector has shape"):
        buffer.add({**row(1, True), "vector": np.zeros((1, 3))})
    with pytest.raises(TypeError):
        buffer.add({**row(1, True), "is_terminal": np.array([0.5])})
    with pytest.raises(AssertionError):
        buffer.add({"rew": np.zeros(1)})
    assert len(buffer) == 0 and not buffer.storage.arrays["is_first"].any()


def busy(buffer: ReplayBuffer, seed: int, steps: int) -> list[np.ndarray]:
    """Play: add, sample, write latents back; what was drawn."""
    rng, drawn = np.random.default_rng(seed), []
    for _ in range(steps):
        buffer.add(row(buffer.num_envs, rng.random(buffer.num_envs) < 0.1, value=rng.integers(1000)))
        if buffer.can_sample(6):
            batch = buffer.sample_sequences(4, 6, "episode" if rng.random() < 0.5 else "uniform_start")
            buffer.update(batch["id"], {"latent": rng.random((4, 6, 3), np.float32)})
            drawn.append(
                np.concatenate([batch["vector"].ravel(), batch["latent"].ravel(), batch["id"].ravel()])
            )
    return drawn


@pytest.mark.parametrize("mapped", [False, True])
def test_resume_is_bit_exact_and_older_versions_stay(tmp_path, mapped, monkeypatch):
    monkeypatch.setattr("common.replay_storage.CHUNK_BYTES", 100)  # many chunks even here

    def make(name):
        return ReplayBuffer(60, FIELDS, 2, tmp_path / name if mapped else None, seed=9, online=6)

    state, buffer = RunState(tmp_path / "state"), make("live")
    for version in range(3):  # the rings of 30 rows overwrite themselves
        busy(buffer, version, 45)
        fill(buffer, [14])  # leaves fresh windows in the online queue
        tree, files = buffer.save(state.folder / "replay", state.next_version)
        state.save(version, {"replay": tree}, files=files)
    expected = busy(buffer, 7, 40)

    state = RunState(tmp_path / "state")
    step, parts = state.load()
    resumed = make("resumed")
    resumed.restore(state.folder / "replay", parts["replay"])
    assert step == 2
    for mine, theirs in zip(busy(resumed, 7, 40), expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    newest = next((tmp_path / "state/replay").glob("latent*v000003.bin"))
    newest.write_bytes(b"torn")
    state = RunState(tmp_path / "state")
    step, parts = state.load()
    older, twin = make("older"), make("twin")
    older.restore(state.folder / "replay", parts["replay"])
    for version in range(2):
        busy(twin, version, 45)
        fill(twin, [14])
    assert step == 1
    for key in FIELDS:
        np.testing.assert_array_equal(older.storage.arrays[key], twin.storage.arrays[key])

    older.add(row(2, True))  # the next version names the files of the restored one where nothing changed
    tree, files = older.save(state.folder / "replay", state.next_version)
    state.save(3, {"replay": tree}, files=files)
    again = make("again")
    again.restore(state.folder / "replay", RunState(tmp_path / "state").load()[1]["replay"])
    for key in FIELDS:
        np.testing.assert_array_equal(again.storage.arrays[key], older.storage.arrays[key])


def test_a_checkpoint_writes_only_what_changed(tmp_path, monkeypatch):
    monkeypatch.setattr("common.replay_storage.CHUNK_BYTES", 120)
    buffer = ReplayBuffer(100, FIELDS)
    fill(buffer, [50])
    _, before = buffer.save(tmp_path, 1)
    buffer.update(np.arange(5), {"latent": np.ones((5, 3))})
    buffer.add(row(1, True))
    _, after = buffer.save(tmp_path, 2)
    changed = sorted(path.name for path in after.keys() - before.keys())
    expected = ["act-000003", "is_first-000000", "is_last-000000", "is_terminal-000000", "rew-000001"]
    expected += ["latent-000000", "latent-000005", "vector-000003"]
    assert changed == sorted(f"{name}-v000002.bin" for name in expected)


def test_another_config_is_refused(tmp_path):
    buffer = ReplayBuffer(20, FIELDS, 2)
    fill(buffer, [5])
    tree, _ = buffer.save(tmp_path, 1)
    for other in (
        ReplayBuffer(8, FIELDS, 2),  # too small for the 5 rows of each stream
        ReplayBuffer(20, FIELDS, 4),
        ReplayBuffer(20, FIELDS, 2, online=5),
    ):
        with pytest.raises(UserError, match="same config"):
            other.restore(tmp_path, tree)
    fewer = {key: value for key, value in FIELDS.items() if key != "latent"}
    with pytest.raises(UserError, match="fields"):
        ReplayBuffer(20, fewer, 2).restore(tmp_path, tree)


def test_forecasts(tmp_path, monkeypatch):
    fields = {"image": ((64, 64, 3), np.uint8), "is_first": ((), bool), "is_last": ((), bool)}
    monkeypatch.setattr("common.resources.free_ram", lambda: 16_000_000_000)
    monkeypatch.setattr("common.resources.free_disk", lambda path: 100_000_000_000)
    lines = forecast(1_000_000, fields, "--replay.capacity", tmp_path)
    assert lines[0] == "replay of 1,000,000 rows: 12.3 GB of RAM (16.0 GB free)" and len(lines) == 2
    with pytest.raises(UserError, match="lower --replay.capacity"):
        forecast(2_000_000, fields, "--replay.capacity", tmp_path)
    latents = {"deter": ((2048,), np.uint16)}  # rewritten all over: three versions lie there at a time
    told = forecast(100_000, fields | latents, "--replay.capacity", tmp_path, rewritten=latents)
    assert told[0].startswith("replay of 100,000 rows: 1.64 GB") and "checkpoints: 2.46 GB" in told[1]
    assert "checkpoints" in forecast(2_000_000, fields, "--replay.capacity", tmp_path, mapped=True)[0]
    with pytest.raises(UserError, match="disk"):
        forecast(4_000_000, fields, "--replay.capacity", tmp_path, mapped=True)


def test_a_shorter_run_takes_a_larger_replay_over(tmp_path):
    large, small = ReplayBuffer(50, FIELDS), ReplayBuffer(20, FIELDS)
    fill(large, [6, 9])
    small.restore(tmp_path, large.save(tmp_path, 1)[0])
    np.testing.assert_array_equal(
        small.gather(np.arange(15))["vector"], large.gather(np.arange(15))["vector"]
    )


@pytest.mark.parametrize("num_envs", [1, 3])
def test_a_longer_run_takes_a_smaller_replay_over(num_envs, tmp_path):
    small, large = (ReplayBuffer(n * num_envs, FIELDS, num_envs, seed=n) for n in (20, 50))
    fill(small, [6, 9])
    tree, _ = small.save(tmp_path, 1)
    large.restore(tmp_path, tree)
    ids = np.arange(15 * num_envs)
    for name, value in small.gather(ids).items():
        np.testing.assert_array_equal(large.gather(ids)[name], value)
    np.testing.assert_array_equal(large.episodes().start, small.episodes().start)
    for buffer in (small, large):  # both draw the same from here on
        fill(buffer, [5])
    np.testing.assert_array_equal(*(b.sample_sequences(8, 4)["id"] for b in (small, large)))
    tree, files = large.save(tmp_path, 2)
    again = ReplayBuffer(50 * num_envs, FIELDS, num_envs)
    again.restore(tmp_path, tree)
    np.testing.assert_array_equal(again.gather(ids)["vector"], small.gather(ids)["vector"])
    fill(small, [5])  # the ring is full: what was overwritten cannot be made up
    with pytest.raises(UserError, match="capacity"):
        ReplayBuffer(50 * num_envs, FIELDS, num_envs).restore(tmp_path, small.save(tmp_path, 3)[0])
