"""From stored rows to transitions: the shift, padding, what is never a step, and how often each is drawn."""

import numpy as np
import pytest

from common.replay_buffer import ReplayBuffer
from common.spaces import Spaces
from paper5_iris import sampler

SPACES = Spaces({"image": (2, 2, 1)}, 5, True)
LENGTHS = (4, 2, 7)  # rows: 3, 1 and 6 steps


@pytest.fixture
def replay() -> ReplayBuffer:
    """Row t of episode e: picture 10 e + t, action t % 5, reward 100 e + t; 0 ends, 1 is cut, 2 runs."""
    buffer = ReplayBuffer(50, SPACES.fields(), seed=0)
    for e, rows in enumerate(LENGTHS):
        for t in range(rows):
            is_last = e < 2 and t == rows - 1
            buffer.add(
                {
                    "image": np.full((1, 2, 2, 1), 10 * e + t, np.uint8),
                    "act": np.array([t % 5]),
                    "rew": np.array([0 if t == 0 else 100 * e + t], np.float32),
                    "is_first": np.array([t == 0]),
                    "is_last": np.array([is_last]),
                    "is_terminal": np.array([is_last and e == 0]),
                }
            )
    return buffer


def value(batch: dict) -> np.ndarray:
    """Picture numbers [B, T]."""
    return batch["image"][..., 0, 0, 0].astype(int)


def test_a_step_is_a_row_with_what_it_led_to(replay):
    batch = sampler.segments(replay, 600, 5, "image")
    shown, mask = value(batch), batch["mask"]
    assert shown.shape == mask.shape == batch["act"].shape == batch["rew"].shape == (600, 5)
    episode, t = shown // 10, shown % 10
    assert (batch["act"][mask] == t[mask] % 5).all()
    assert (batch["rew"][mask] == (100 * episode + t + 1)[mask]).all()
    assert (batch["end"] == (mask & (shown == 2))).all()  # row 3 of episode 0 is terminal
    for b in range(600):
        steps = int(mask[b].sum())
        assert mask[b, :steps].all() and steps >= 1  # padding on the right alone
        assert (np.diff(shown[b, :steps]) == 1).all() and len(set(episode[b, :steps])) == 1
        last = LENGTHS[episode[b, 0]] - 2  # the last row is no step
        assert t[b, 0] + steps - 1 == min(t[b, 0] + 4, last)
        for name in ("image", "act", "rew", "end"):
            assert not batch[name][b, steps:].any()
    assert (replay.gather(batch["id"][mask], ("image",))["image"] == batch["image"][mask]).all()


def test_episodes_are_drawn_equally_and_steps_in_them(replay):
    starts = value(sampler.segments(replay, 9_000, 5, "image"))[:, 0]
    for e, steps in ((0, 3), (1, 1), (2, 6)):
        for t in range(steps):
            assert np.mean(starts == 10 * e + t) == pytest.approx(1 / 3 / steps, abs=0.02)
    singles, ids = sampler.frames(replay, 9_000, "image")
    assert singles.shape == (9_000, 2, 2, 1) and ids.shape == (9_000,)
    shown = singles[:, 0, 0, 0]
    assert set(shown) == {0, 1, 2, 10, 20, 21, 22, 23, 24, 25}  # never a last row
    assert np.mean(shown == 10) == pytest.approx(1 / 3, abs=0.02)


def test_dreams_begin_at_the_last_frame(replay):
    batch = sampler.starts(replay, 9_000, 3, "image")
    shown, mask = value(batch), batch["mask"]
    assert shown.shape == mask.shape == (9_000, 4) and mask[:, -1].all()
    for e, steps in ((0, 3), (1, 1), (2, 6)):
        for t in range(steps):
            assert np.mean(shown[:, -1] == 10 * e + t) == pytest.approx(1 / 3 / steps, abs=0.02)
    for b in range(200):
        real = mask[b].sum()
        assert mask[b, 4 - real :].all() and real == min(shown[b, -1] % 10 + 1, 4)  # padding on the left
        assert (np.diff(shown[b, 4 - real :]) == 1).all() and not batch["image"][b, : 4 - real].any()


def test_pictures_may_stay_where_they_are(replay):
    assert sampler.segments(replay, 4, 3, "").keys() == {"act", "rew", "end", "mask", "id"}
    assert sampler.starts(replay, 4, 3, "").keys() == {"mask", "id"}


def test_an_episode_without_a_step_is_never_drawn():
    buffer = ReplayBuffer(50, SPACES.fields(), num_envs=2)
    image = np.zeros((2, 2, 2, 1), np.uint8)
    flags = {"is_last": np.zeros(2, bool), "is_terminal": np.zeros(2, bool)}
    for t in range(3):
        rows = {"image": image + t, "act": np.zeros(2, int), "rew": np.zeros(2, np.float32), **flags}
        buffer.add({**rows, "is_first": np.array([t == 0, t in (0, 2)])})
    for batch in (sampler.segments(buffer, 100, 3, "image"), sampler.starts(buffer, 100, 3, "image")):
        row = batch["id"][batch["mask"]]
        assert not (row == 5).any()  # stream 1's newest row began an episode of its own


def test_continuous_actions_keep_their_shape():
    spaces = Spaces({"image": (2, 2, 1)}, 2, False)
    buffer = ReplayBuffer(50, spaces.fields())
    for t in range(4):
        flags = {
            name: np.array([t == 0 and name == "is_first"]) for name in ("is_first", "is_last", "is_terminal")
        }
        rows = {"image": np.zeros((1, 2, 2, 1), np.uint8), "act": np.full((1, 2), t / 10, np.float32)}
        buffer.add({**rows, "rew": np.zeros(1, np.float32), **flags})
    batch = sampler.segments(buffer, 8, 5, "image")
    assert batch["act"].shape == (8, 5, 2) and not batch["act"][~batch["mask"]].any()
