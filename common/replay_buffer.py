"""Replay of environment rows, in one alignment that holds everywhere in this repository:

    row t       0             1             2                    T (last)
    obs[t]      o_0           o_1           o_2         ...      o_T
    rew[t]      0             r_1           r_2                  r_T        received on arriving at o_t
    is_first    True          False         False                False
    is_last     False         False         False                True       end or time limit
    is_terminal False         False         False                True       only a true end: no future reward
    act[t]      a_0           a_1           a_2                  zeros      chosen at o_t, leads to row t+1

An episode of T steps has T+1 rows.  Whoever needs the action that *led to* a row asks `previous("act", ids)`.
Each env writes a stream of its own, a ring of capacity / num_envs rows.  Rows have ids that are never used
again, `count * num_envs + env`, so that what is written back later (latents) can never hit a newer row.
Letters: N envs, B sequences, T rows of a sequence, E episodes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from common.errors import UserError
from common.replay_sampling import Episodes, StartRule, episode_starts, uniform_starts, uniform_window
from common.replay_storage import Fields, RowStorage


class ReplayBuffer:
    """Rows of `num_envs` streams, and sequences drawn from them.

    fields: name -> (shape of one row, dtype); is_first and is_last (bool) must be among them.
    directory: keep the arrays in mapped files there instead of RAM.  online: DreamerV3's queue; every fresh
    window of that many rows is handed out once before any uniform draw of that length.
    """

    def __init__(
        self,
        capacity: int,
        fields: Fields,
        num_envs: int = 1,
        directory: str | Path | None = None,
        seed: int = 0,
        online: int = 0,
    ):
        if not {"is_first", "is_last"} <= fields.keys():
            raise ValueError(f"is_first and is_last must be stored, fields are {sorted(fields)}")
        self.num_envs, self.online = num_envs, online
        self.stream_rows = capacity // num_envs  # the ring of one env
        self.storage = RowStorage(self.stream_rows * num_envs, fields, directory)
        self.rng = np.random.default_rng(seed)
        self._counts = np.zeros(num_envs, np.int64)  # [N] rows ever added
        self._queue: deque[int] = deque()  # first ids of fresh windows
        self._episodes: Episodes | None = None  # until the next change

    def __len__(self) -> int:
        """Rows that are stored now."""
        lows, counts = self._streams()
        return int((counts - lows).sum())

    def add(self, rows: Mapping[str, Any], envs: np.ndarray | None = None) -> np.ndarray:
        """Append a row to each stream, or to those of `envs` [K]: values [K, ...] -> ids [K].

        Where an episode begins though the one before it never ended (a crashed worker), that one is closed.
        """
        assert rows.keys() == self.storage.fields.keys(), (sorted(rows), sorted(self.storage.fields))
        envs = np.arange(self.num_envs) if envs is None else np.asarray(envs)
        counts = self._counts[envs]
        ids = counts * self.num_envs + envs
        self.close_episodes(envs[np.asarray(rows["is_first"]) & (counts > 0)])
        if "act" in rows:  # what a policy says after the end leads nowhere
            act = np.array(rows["act"])
            act[np.asarray(rows["is_last"])] = 0
            rows = {**rows, "act": act}
        self.storage.write(self.slots(ids), rows)
        self._counts[envs] += 1
        self._episodes = None
        if self.online:
            # Counted before row 0 goes in, as the official code does: windows are 1..L, L+1..2L, ...
            is_full = (counts > 0) & (counts % self.online == 0)
            self._queue.extend((ids - (self.online - 1) * self.num_envs)[is_full].tolist())
        return ids

    def close_episodes(self, envs: np.ndarray | None = None) -> None:
        """Make the newest row of each stream a last one, its action zeros; whether it is terminal stays."""
        envs = np.arange(self.num_envs) if envs is None else np.asarray(envs)
        envs = envs[self._counts[envs] > 0]
        slots = self.slots((self._counts[envs] - 1) * self.num_envs + envs)
        last = {"is_last": np.ones(len(slots), bool)}
        if "act" in self.storage.fields:
            last["act"] = np.zeros_like(self.storage.arrays["act"][slots])
        self.storage.write(slots, last)
        self._episodes = None

    def episodes(self) -> Episodes:
        """The table of stored episodes."""
        if self._episodes is None:
            tables = [np.empty((2, 0), np.int64)]
            flags = self.storage.arrays["is_first"].reshape(self.num_envs, -1)
            for env, (low, high) in enumerate(np.transpose(self._streams())):
                place = np.flatnonzero(flags[env])
                start = high - 1 - (high - 1 - place) % self.stream_rows  # the count that lies there now
                start = np.union1d(start, [low][: high - low])  # the oldest row, if its episode lost the head
                tables.append(np.stack([start * self.num_envs + env, np.diff(start, append=high)]))
            start, length = np.concatenate(tables, 1)
            order = np.argsort(start)
            start, length = start[order], length[order]
            last = self.slots(start + (length - 1) * self.num_envs)
            self._episodes = Episodes(start, length, ~self.storage.arrays["is_last"][last])
        return self._episodes

    def can_sample(self, length: int) -> bool:
        """Is there a stream with `length` rows?"""
        lows, counts = self._streams()
        return bool((counts - lows).max() >= length)

    def sample_sequences(
        self,
        batch: int,
        length: int,
        mode: Literal["uniform_start", "episode"] = "uniform_start",
        *,
        start_rule: StartRule = uniform_window,
        weights: Callable[[Episodes], np.ndarray] | None = None,
        pad: bool = False,
        names: Iterable[str] | None = None,
    ) -> dict[str, np.ndarray]:
        """Draw B sequences of T rows -> {name: [B, T, *row], "id": [B, T]}; is_first is set at every start.

        uniform_start: every run of T rows of a stream equally often, across episode ends (DreamerV3).
        episode: first an episode, uniformly or by `weights(episodes)` [E] (IRIS), then an offset in it by
          `start_rule`.  A window that sticks out of its episode, because the episode is short or by the rule,
          runs on into its neighbours in the stream, whose is_first rows mark the seam; at the end of the
          stream it is shifted back.  So short episodes are drawn as often as any.  Only a stream that holds
          fewer than T rows in all must wait.  With pad=True nothing runs on: rows outside the episode are
          zeros and "mask" [B, T] is False there (offsets may then be negative: left padding).
        """
        assert mode in ("uniform_start", "episode"), mode
        if mode == "uniform_start":
            fresh = self._fresh_starts(batch) if length == self.online else []
            drawn = uniform_starts(self.rng, self._streams(), batch - len(fresh), length)
            low = first = np.concatenate([np.array(fresh, np.int64), drawn])
            end = first + length * self.num_envs
        else:
            chance = None if weights is None else weights(self.episodes())
            args = self.episodes(), self._streams(), batch, length, start_rule, chance, pad
            first, low, end = episode_starts(self.rng, *args)
        ids = first[:, None] + np.arange(length) * self.num_envs  # [B, T]
        mask = (ids >= low[:, None]) & (ids < end[:, None])  # [B, T] all True without padding
        assert mask.any(1).all(), "the start rule left an episode"
        out = self.gather(np.clip(ids, low[:, None], end[:, None] - self.num_envs), names)
        if "is_first" in out:  # the model starts every sequence from its initial state
            out["is_first"][np.arange(batch), mask.argmax(1)] = True
        if pad:
            for value in out.values():
                value[~mask] = 0
            out["mask"] = mask
        return {**out, "id": ids}

    def gather(self, ids: np.ndarray, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
        """Rows by id: ids [...] -> {name: [..., *row]}; IndexError where one is not stored (any more)."""
        if not self._is_stored(ids).all():
            raise IndexError("some of these rows are not in the buffer (any more)")
        return self.storage.read(self.slots(ids), names)

    def previous(self, name: str, ids: np.ndarray) -> np.ndarray:
        """A field of the row before: ids [...] -> [..., *row]; zeros where an episode, or its rest, begins.

        previous("act", batch["id"]) is the action that led to each row, the `a_t` of the Dreamer papers.
        """
        has_one = self.has_previous(ids)
        values = self.storage.arrays[name][self.slots(np.where(has_one, ids - self.num_envs, ids))]
        values[~has_one] = 0
        return values

    def has_previous(self, ids: np.ndarray) -> np.ndarray:
        """Is the row before stored, and of the same episode?  ids [...] -> bool [...]"""
        is_first = self.storage.arrays["is_first"][self.slots(ids)]
        return self._is_stored(ids - self.num_envs) & ~is_first

    def update(self, ids: np.ndarray, values: Mapping[str, np.ndarray]) -> None:
        """Write fields back into rows, such as fresh latents: ids [...], values [..., *row].

        Rows that were overwritten in the meantime are left alone.
        """
        stored = self._is_stored(ids)
        self.storage.write(self.slots(ids[stored]), {name: value[stored] for name, value in values.items()})

    def save(self, folder: Path, version: int) -> tuple[dict[str, Any], dict[Path, str]]:
        """Write what changed below `folder` -> (tree, files) for `RunState.save`.

        tree, files = replay.save(state.folder / "replay", state.next_version)
        state.save(step, {..., "replay": tree}, files=files)
        """
        rows, files = self.storage.save(folder, version)
        sizes = {"num_envs": self.num_envs, "online": self.online}
        streams = {"counts": self._counts.tolist(), "queue": list(self._queue)}
        return {"rows": rows, **sizes, **streams, "rng": self.rng.bit_generator.state}, files

    def restore(self, folder: Path, tree: Mapping[str, Any]) -> None:
        """Fill this fresh buffer from what `save` wrote; UserError where fields or sizes are others.

        The capacity may differ, for a run made longer or shorter, if both have room for all rows so far.
        """
        for key, mine in (("num_envs", self.num_envs), ("online", self.online)):
            if tree[key] != mine:
                line = f"the replay in {folder} has {key} {tree[key]}, this run {mine}"
                raise UserError(f"{line}: use the same config")
        capacity = tree["rows"]["capacity"]
        mine, rows = self.storage.capacity, max(tree["counts"]) * self.num_envs
        if mine != capacity and min(mine, capacity) >= rows:
            old = ReplayBuffer(capacity, self.storage.fields, self.num_envs, online=self.online)
            old.restore(folder, tree)
            for env, count in enumerate(tree["counts"]):  # each stream has moved
                ids = np.arange(count) * self.num_envs + env
                self.storage.write(self.slots(ids), old.storage.read(old.slots(ids)))
        else:
            self.storage.restore(folder, tree["rows"])
        self._counts[:] = tree["counts"]
        self._queue = deque(tree["queue"])
        self.rng.bit_generator.state = tree["rng"]
        self._episodes = None

    def _streams(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each stream [N]: the oldest count that is still stored, and the count of the next row."""
        return np.maximum(self._counts - self.stream_rows, 0), self._counts

    def slots(self, ids: np.ndarray) -> np.ndarray:
        """Where rows lie: one ring after the other."""
        count, env = np.divmod(ids, self.num_envs)
        return env * self.stream_rows + count % self.stream_rows

    def _is_stored(self, ids: np.ndarray) -> np.ndarray:
        count, env = np.divmod(ids, self.num_envs)
        low, high = self._streams()
        return (count >= low[env]) & (count < high[env])

    def _fresh_starts(self, batch: int) -> list[int]:
        """Up to `batch` windows from the online queue, but none that the ring has begun to overwrite."""
        fresh: list[int] = []
        while self._queue and len(fresh) < batch:
            first = self._queue.popleft()
            if self._is_stored(first):
                fresh.append(first)
        return fresh
