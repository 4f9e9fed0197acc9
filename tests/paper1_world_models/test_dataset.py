"""What M is trained on: alignment, streams and windows, batches that re-draw z."""

import numpy as np
import pytest
import torch

from common.errors import UserError
from paper1_world_models.dataset import Latents, Streams, Windows, make_batch


def counting_data(lengths) -> Latents:
    """Row numbers as latents and actions: mu = global row, act = global row + 0.5."""
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    R = sum(lengths)
    flags = {name: np.zeros(R, bool) for name in ("is_first", "is_last", "is_terminal")}
    flags["is_first"][starts] = True
    flags["is_last"][np.cumsum(lengths) - 1] = True
    flags["is_terminal"][lengths[0] - 1] = True
    rows = np.arange(R)
    return Latents(
        mu=np.float16(rows)[:, None],
        logvar=np.full((R, 1), -20, np.float16),
        act=np.float32(rows + 0.5)[:, None],
        rew=np.float32(rows),
        **flags,
        episodes=np.stack([starts, np.array(lengths)], 1),
    )


@pytest.mark.parametrize("sampler", [Streams, Windows])
def test_targets_are_the_next_rows_of_the_same_episode(sampler):
    data = counting_data([7, 12, 30, 5])
    batches = sampler(data, np.arange(4), 3, 6, seed=0)
    for step in range(12):
        seq = batches(step)
        batch = make_batch(data, seq, torch.Generator().manual_seed(0), True, "cpu")
        z, following = batch.z[:, :-1, 0].round(), batch.z[:, 1:, 0].round()
        valid = batch.valid
        assert valid.any()
        assert torch.equal(following[valid], z[valid] + 1)  # z_{t+1} belongs to z_t
        assert torch.equal(batch.act[..., 0][valid], z[valid] + 0.5)  # a_t was chosen at z_t
        assert torch.equal(batch.rew[valid], z[valid] + 1)  # the reward of arriving
        assert torch.equal(batch.done[valid], z[valid] == 5)  # row 6 is the terminal one
        last = torch.from_numpy(np.isin(seq.rows[:, :-1], [6, 18, 48, 53]))
        assert not valid[last].any()  # nothing follows a last row


def test_a_stream_reads_every_step_once_in_a_pass_and_carries_on():
    data = counting_data([9, 14, 25])
    stream = Streams(data, np.arange(3), 2, 5, seed=1)
    seen, previous = [], None
    for step in range(stream.per_pass):
        seq = stream(step)
        assert seq.new_stream == (step == 0)
        assert (
            seq.restart[:, 0].all() == (step == 0)
            or seq.restart[:, 0].any() == data.is_first[seq.rows[:, 0]].any()
        )
        if previous is not None:
            np.testing.assert_array_equal(
                seq.rows[:, 0], previous
            )  # the chunk goes on where the last one ended
        previous = seq.rows[:, -1]
        np.testing.assert_array_equal(
            seq.restart | (step == 0), data.is_first[seq.rows[:, :-1]] | (step == 0)
        )
        seen += seq.rows[:, :-1].ravel().tolist()
    assert len(seen) == len(set(seen))
    other = Streams(data, np.arange(3), 2, 5, seed=1)
    np.testing.assert_array_equal(other(stream.per_pass + 1).rows, stream(stream.per_pass + 1).rows)


def test_short_episodes_are_filled_up_and_not_scored():
    data = counting_data([3, 40])
    windows = Windows(data, np.arange(2), 64, 20, seed=0)
    seq = windows(0)
    short = seq.rows[:, 0] < 3
    assert short.any()
    assert seq.valid[short].sum(1).max() <= 2
    assert seq.restart[:, 0].all() and not seq.restart[:, 1:].any()


def test_each_batch_draws_z_anew_but_once_per_frame():
    data = counting_data([20])
    data.logvar[:] = 0
    seq = Windows(data, np.arange(1), 4, 6, seed=0)(0)
    one = make_batch(data, seq, torch.Generator().manual_seed(1), True, "cpu").z
    two = make_batch(data, seq, torch.Generator().manual_seed(2), True, "cpu").z
    assert not torch.equal(one, two)
    assert one.shape == (4, 7, 1)  # one draw serves as target of step t and as input of step t + 1


def test_too_few_steps_for_a_batch_name_both_flags():
    data = counting_data([4, 4])
    assert Streams(data, np.arange(2), 7, 32, seed=0)(0).rows.shape == (7, 2)  # 8 rows are 7 steps
    with pytest.raises(UserError, match=r"7 steps.*--collect\.episodes.*--rnn\.batch 8"):
        Streams(data, np.arange(2), 8, 32, seed=0)


def test_the_frame_after_the_end_can_be_left_out():
    data = counting_data([7])
    seq = Windows(data, np.arange(1), 2, 6, seed=0)(0)
    batch = make_batch(data, seq, torch.Generator(), False, "cpu")
    assert batch.valid.all() and not batch.score[:, -1].any() and batch.score[:, :-1].all()
