"""Kept tokens and frames are those that encoding anew would give, as long as that is so (sheet 14, vii)."""

import numpy as np
import pytest
import torch

from common.replay_buffer import ReplayBuffer
from paper5_iris import encoded as module
from paper5_iris.encoded import EncodedRows
from paper5_iris.tokenizer import to_frames
from tests.paper5_iris.conftest import spread


@pytest.fixture
def replay(networks) -> ReplayBuffer:
    """Two streams of random pictures, ten rows each in a ring of twelve."""
    buffer, rng = ReplayBuffer(24, networks().spaces.fields(), 2, seed=0), np.random.default_rng(0)
    fill(buffer, rng, 10)
    return buffer


def fill(replay: ReplayBuffer, rng: np.random.Generator, rows: int) -> np.ndarray:
    """Add rows -> the ids of the last ones [2]."""
    for t in range(rows):
        first = np.full(2, len(replay) == 0)
        flags = {"is_first": first, "is_last": np.zeros(2, bool), "is_terminal": np.zeros(2, bool)}
        image = rng.integers(256, size=(2, 8, 8, 3), dtype=np.uint8)
        ids = replay.add({"image": image, "act": np.array([t % 3, 0]), "rew": np.zeros(2), **flags})
    return ids


@pytest.fixture
def net(networks):
    return spread(networks().tokenizer)


def anew(net, replay, ids) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens [N, K] and decoded frames [N, C, h, w]."""
    frames = to_frames(torch.from_numpy(replay.gather(ids.ravel(), ("image",))["image"]))
    return net.tokenize(frames), net.encode_decode(frames)


def test_what_is_kept_is_what_encoding_anew_gives(net, replay, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 3)  # several passes
    rows, ids = EncodedRows(replay, "image", net), np.array([[0, 7, 3], [18, 0, 5]])
    tokens, frames = anew(net, replay, ids)
    for _ in range(2):  # computed, then remembered
        assert torch.equal(rows.tokens_of(ids).flatten(0, 1), tokens)
        torch.testing.assert_close(
            rows.frames_of(ids).flatten(0, 1), frames, atol=5e-4, rtol=0
        )  # half floats
    assert rows.tokens_of(ids).shape == (2, 3, 4) and rows.frames_of(ids).shape == (2, 3, 3, 8, 8)


def counted(monkeypatch, net) -> list[int]:
    """Rows of every pass through the encoder."""
    seen, encode = [], net.encode
    monkeypatch.setattr(net, "encode", lambda frame: seen.append(len(frame)) or encode(frame))
    return seen


def test_a_row_is_encoded_once(net, replay, monkeypatch):
    rows, seen = EncodedRows(replay, "image", net), counted(monkeypatch, net)
    rows.tokens_of(np.array([0, 1, 1, 0]))
    rows.tokens_of(np.array([1, 2]))
    assert seen == [2, 1]
    rows.frames_of(np.array([2, 2, 3]))  # of row 2 only the tokens were known
    rows.tokens_of(np.array([3]))
    rows.frames_of(np.array([3]))
    assert seen == [2, 1, 1]


def test_after_the_tokenizer_has_learned_everything_is_computed_anew(net, replay):
    rows, ids = EncodedRows(replay, "image", net), np.arange(20)
    before = rows.tokens_of(ids), rows.frames_of(ids)
    spread(net, seed=1)
    rows.forget()
    tokens, frames = anew(net, replay, ids)
    assert torch.equal(rows.tokens_of(ids), tokens) and not torch.equal(before[0], tokens)
    torch.testing.assert_close(rows.frames_of(ids), frames, atol=5e-4, rtol=0)
    assert not torch.equal(before[1], rows.frames_of(ids))


def test_a_row_that_took_the_place_of_another_is_not_mistaken_for_it(net, replay):
    rows = EncodedRows(replay, "image", net)
    rows.frames_of(np.arange(20))
    last = fill(replay, np.random.default_rng(1), 5)  # the ring has gone round
    assert replay.slots(last)[0] == replay.slots(np.array([last[0] - 24]))[0]
    tokens, frames = anew(net, replay, last)
    assert torch.equal(rows.tokens_of(last), tokens)
    torch.testing.assert_close(rows.frames_of(last), frames, atol=5e-4, rtol=0)
    with pytest.raises(IndexError):
        rows.tokens_of(last - 24)
