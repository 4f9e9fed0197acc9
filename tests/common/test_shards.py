"""Frame shards: what a kill, a torn line or a full disk leaves, and that a gather is what was written."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from common.errors import UserError
from common.shards import ShardWriter, open_shards

FIELDS = {"image": ((4, 4, 3), np.uint8), "act": ((2,), np.float32), "is_first": ((), bool)}


def episode(length: int, number: int) -> dict[str, np.ndarray]:
    """Rows that say which episode and row they are."""
    time_ = np.arange(length)
    image = np.zeros((length, 4, 4, 3), np.uint8)
    image[:, 0, 0, 0], image[:, 0, 0, 1] = number % 256, time_ % 256
    act = np.stack([np.full(length, number), time_], 1).astype(np.float32)
    return {"image": image, "act": act, "is_first": time_ == 0}


def test_what_is_read_is_what_was_written(tmp_path):
    rng = np.random.default_rng(0)
    rows = {name: [] for name in FIELDS}
    table, number, total = [], 0, 0
    for shard, episodes in enumerate([3, 0, 5]):
        with ShardWriter(tmp_path / f"worker-{shard}", FIELDS) as writer:
            start = 0
            for _ in range(episodes):
                length = int(rng.integers(1, 9))
                new = episode(length, number)
                if number % 2:
                    writer.add_episode(new, seed=number)
                else:
                    for t in range(length):
                        writer.add({name: value[t] for name, value in new.items()})
                    writer.finish(seed=np.int64(number))
                for name in FIELDS:
                    rows[name].append(new[name])
                table.append((shard, start, length))
                start, number, total = start + length, number + 1, total + length
    shards = open_shards(tmp_path)
    expected = {name: np.concatenate(values) for name, values in rows.items()}
    assert shards.total == total and shards.episodes.tolist() == [list(e) for e in table]
    assert [info["seed"] for info in shards.info] == list(range(8))
    indices = rng.integers(0, total, (7, 11))
    got = shards.rows(indices)
    for name in FIELDS:
        np.testing.assert_array_equal(got[name], expected[name][indices])
        assert got[name].dtype == FIELDS[name][1]
    assert shards.rows(indices, ["act"]).keys() == {"act"}
    assert shards.rows(np.zeros((0, 3), int))["image"].shape == (0, 3, 4, 4, 3)
    assert shards.rows(shards.first)["act"].tolist() == [[number, 0] for number in range(8)]
    for number in range(8):
        np.testing.assert_array_equal(shards.episode(number)["act"], rows["act"][number])
    for bad in (-1, total):
        with pytest.raises(IndexError):
            shards.rows(np.array([0, bad]))


def test_a_reopened_shard_goes_on_after_the_last_finished_episode(tmp_path):
    folder = tmp_path / "worker-0"
    with ShardWriter(folder, FIELDS, capacity=20) as writer:
        writer.add_episode(episode(5, 0))
        writer.add_episode(episode(3, 1))
        writer.add({name: value[0] for name, value in episode(1, 9).items()})  # dropped by close
        assert writer.room == 11
    with open(folder / "image.bin", "ab") as file:  # a kill while the next episode was written
        file.write(bytes(1000))
    with open(folder / "episodes.jsonl", "ab") as file:
        file.write(b'{"start": 8, "leng')
    assert open_shards(tmp_path).total == 8
    with ShardWriter(folder, FIELDS, capacity=20) as writer:
        assert len(writer.episodes) == 2 and writer.room == 12
        writer.add_episode(episode(2, 2))
    shards = open_shards(tmp_path)
    assert shards.episodes[:, 2].tolist() == [5, 3, 2]
    np.testing.assert_array_equal(shards.episode(2)["image"], episode(2, 2)["image"])
    os.truncate(folder / "act.bin", 9 * 8)  # a power cut lost the end of one field
    assert open_shards(tmp_path).total == 8


def test_a_killed_collector_loses_its_open_episode_at_most(tmp_path):
    count = 0
    for attempt in range(6):
        acknowledged, told = os.pipe()
        if (child := os.fork()) == 0:  # numpy only in here: nothing that a fork could break
            writer = ShardWriter(tmp_path / "worker-0", FIELDS)
            while True:
                number = len(writer.episodes)
                writer.add_episode(episode(number % 7 + 1, number))
                os.write(told, b".")
        os.close(told)
        os.read(acknowledged, 1)
        time.sleep(0.02 + 0.013 * attempt)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        done = 1
        while data := os.read(acknowledged, 1 << 16):
            done += len(data)
        os.close(acknowledged)
        shards = open_shards(tmp_path)
        before, count = count, len(shards.episodes)
        assert before + done <= count <= before + done + 1
        for number in {0, before, count - 1}:
            got, wanted = shards.episode(number), episode(number % 7 + 1, number)
            for name in FIELDS:
                np.testing.assert_array_equal(got[name], wanted[name])


def test_two_writers_and_other_fields_are_refused(tmp_path):
    writer = ShardWriter(tmp_path / "worker-0", FIELDS)
    writer.add_episode(episode(5, 0))
    with pytest.raises(UserError, match="another process"):
        ShardWriter(tmp_path / "worker-0", FIELDS)
    writer.close()
    fewer = {"image": FIELDS["image"]}
    with pytest.raises(UserError, match="holds rows of"):
        ShardWriter(tmp_path / "worker-0", fewer)
    ShardWriter(tmp_path / "worker-1", fewer).close()
    with pytest.raises(UserError, match="other fields"):
        open_shards(tmp_path)
    with pytest.raises(UserError, match="no collected frames"):
        open_shards(tmp_path / "worker-0")
    (tmp_path / "worker-0" / "meta.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        ShardWriter(tmp_path / "worker-0", FIELDS)


def test_bad_rows_are_refused(tmp_path):
    with ShardWriter(tmp_path / "worker-0", FIELDS) as writer:
        good = episode(3, 0)
        with pytest.raises(ValueError, match="act has shape"):
            writer.add_episode({**good, "act": good["act"][:2]})
        with pytest.raises(TypeError):
            writer.add_episode({**good, "image": good["image"] / 255})
        with pytest.raises(AssertionError):
            writer.add({"act": good["act"][0]})
        writer.add_episode(good)
    shards = open_shards(tmp_path)  # what a refused episode had written is gone
    np.testing.assert_array_equal(shards.episode(0)["image"], good["image"])


def test_a_full_disk_keeps_all_earlier_episodes(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with ShardWriter(tmp_path / "worker-0", FIELDS) as writer:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
            with pytest.raises(UserError, match="disk full"):
                for number in range(100):
                    writer.add_episode(episode(20, number))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        count = len(writer.episodes)
        assert count == 10  # 48 bytes an image: the 11th would need 10,560
        writer.add_episode(episode(4, 50))  # space was freed
    shards = open_shards(tmp_path)
    np.testing.assert_array_equal(shards.episode(count)["image"], episode(4, 50)["image"])
    np.testing.assert_array_equal(shards.episode(count - 1)["act"], episode(20, count - 1)["act"])


def test_workers_start_without_torch():
    modules = "shards", "faults", "replay_buffer", "checkpoint", "resources"
    code = "import sys\n" + "".join(f"import common.{module}\n" for module in modules)
    subprocess.run([sys.executable, "-c", code + "assert 'torch' not in sys.modules"], check=True)
