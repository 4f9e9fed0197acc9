"""metrics.jsonl, TensorBoard events and the progress line."""

import io
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.logger import Logger, cut_back, read_metrics
from common.progress import Progress


def quiet(run_dir, **options) -> Logger:
    return Logger(run_dir, **{"tensorboard": False, "stream": io.StringIO(), **options})


def events(run_dir) -> dict[str, list]:
    """tag -> [(step, value)] as TensorBoard itself reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run_dir), size_guidance={"scalars": 0, "images": 0, "tensors": 0}).Reload()
    out = {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}
    out |= {
        tag: [(e.step, e.encoded_image_string) for e in found.Images(tag)] for tag in found.Tags()["images"]
    }
    out |= {
        t: [(e.step, e.tensor_proto.string_val[0]) for e in found.Tensors(t)] for t in found.Tags()["tensors"]
    }
    return out


def test_rows_of_numbers_and_tensors(tmp_path):
    with quiet(tmp_path) as logger:
        logger.scalars(
            10, {"loss": torch.tensor(1.5, requires_grad=True), "lr": 1e-3, "count": torch.tensor([7])}
        )
        logger.scalars(20, {"loss": np.float32(2.0), "bad": float("nan"), "worse": torch.tensor(-math.inf)})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[1])["bad"] == "nan" and "NaN" not in lines[1], "strict JSON"
    first, second = read_metrics(tmp_path / "metrics.jsonl")
    assert {k: first[k] for k in ("step", "loss", "lr", "count")} == {
        "step": 10,
        "loss": 1.5,
        "lr": 1e-3,
        "count": 7,
    }
    assert second["loss"] == 2.0 and math.isnan(second["bad"]) and second["worse"] == -math.inf
    assert 0 <= first["time"] <= second["time"] < 60


def test_one_transfer_per_interval_and_values_of_their_moment(tmp_path, monkeypatch):
    transfers = []
    original = torch.Tensor.cpu
    monkeypatch.setattr(
        torch.Tensor, "cpu", lambda tensor: (transfers.append(tensor.shape), original(tensor))[1]
    )
    for name in ("item", "tolist", "__float__"):
        before = getattr(torch.Tensor, name)
        watched = lambda tensor, name=name, before=before: (  # noqa: E731
            transfers.append(name) if tensor.ndim == 0 else None,
            before(tensor),
        )[1]
        monkeypatch.setattr(torch.Tensor, name, watched)
    loss = torch.zeros(())
    logger = quiet(tmp_path, flush_seconds=1e9)
    for step in range(5):
        loss += 1  # in place, as the outputs of a CUDA graph are
        logger.accumulate({"mean": loss})
        logger.scalars(step, {"loss": loss})
    assert transfers == []
    logger.flush()
    assert transfers == [torch.Size([10])]
    logger.close()
    assert [row["loss"] for row in read_metrics(logger.path)] == [1, 2, 3, 4, 5]


def test_accumulate_means(tmp_path):
    with quiet(tmp_path) as logger:
        for value in (1.0, 2.0, 6.0):
            logger.accumulate({"loss": torch.tensor(value), "norm": value})
        logger.scalars(3, {"lr": 0.1})
        logger.accumulate({"loss": torch.tensor(8.0)})
        logger.scalars(4)
        logger.accumulate({"loss": 5.0})  # what is left is not lost at the end
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row.get("loss") for row in rows] == [3.0, 8.0, 5.0]
    assert rows[0]["norm"] == 3.0 and "norm" not in rows[1]


def test_a_tensor_that_is_no_scalar_is_named(tmp_path):
    with quiet(tmp_path) as logger, pytest.raises(ValueError, match="'loss' has shape"):
        logger.scalars(1, {"loss": torch.zeros(3)})


def test_a_killed_run_goes_on(tmp_path):
    with quiet(tmp_path) as logger:
        for step in (1, 2, 3, 4):
            logger.scalars(step, {"loss": float(step)})
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + b'{"step": 5, "lo')
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3, 4]
    with quiet(tmp_path) as logger:
        logger.scalars(5, {"loss": 5.0})
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3, 4, 5]
    with quiet(tmp_path, resume_step=2) as logger:
        logger.scalars(3, {"loss": -3.0})
    rows = read_metrics(path)
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 1.0), (2, 2.0), (3, -3.0)]
    path.write_bytes(b'{"step": 1}\ngarbage\n{"step": 2}\n')
    with pytest.raises(UserError, match="line 2"):
        quiet(tmp_path)
    assert path.read_bytes().count(b"\n") == 3, "a damaged file is left as it is"


def test_time_goes_on_where_the_run_stopped(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "time": 50.0}\n{"step": 2, "time": 99.0}\n')
    with quiet(tmp_path, resume_step=1) as logger:
        logger.scalars(2, {"loss": 1.0})
    assert 50.0 <= read_metrics(tmp_path / "metrics.jsonl")[1]["time"] < 60.0


def test_stages_have_their_own_steps(tmp_path):
    with quiet(tmp_path) as logger:
        logger.stage("vae", total=10)
        logger.scalars(5, {"loss": 1.0})
        logger.scalars(10, {"loss": 1.0})
        logger.stage("rnn", total=10)
        logger.scalars(5, {"loss": 2.0})
    cut_back(tmp_path / "metrics.jsonl", {"vae": 5, "rnn": -1})
    assert [(row["stage"], row["step"]) for row in read_metrics(tmp_path / "metrics.jsonl")] == [("vae", 5)]


def test_tensorboard_reads_everything(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (4, 16, 12, 3), dtype=np.uint8)
    with quiet(tmp_path, tensorboard=True) as logger:
        logger.scalars(1, {"loss": torch.tensor(0.5)})
        logger.image(1, "frame", frames[0])
        logger.video(2, "dream", frames)
        logger.text(3, "note", "hello")
        logger.stage("vae")
        logger.scalars(7, {"loss": 0.25})
        with pytest.raises(ValueError, match="uint8"):
            logger.image(1, "frame", frames[0] / 255)
    found = events(tmp_path)
    assert found["loss"] == [(1, 0.5)] and found["vae/loss"] == [(7, 0.25)]
    assert found["note"] == [(3, b"hello")]
    from PIL import Image

    assert np.array_equal(np.asarray(Image.open(io.BytesIO(found["frame"][0][1]))), frames[0])
    gif = Image.open(io.BytesIO(found["dream"][0][1]))
    assert gif.format == "GIF" and gif.n_frames == 4 and gif.size == (12, 16)


def test_tensorboard_forgets_what_a_resume_cut(tmp_path):
    with quiet(tmp_path, tensorboard=True) as logger:
        for step in (1, 2, 3):
            logger.scalars(step, {"loss": float(step)})
    with quiet(tmp_path, tensorboard=True, resume_step=2) as logger:
        logger.scalars(3, {"loss": 30.0})
    assert events(tmp_path)["loss"] == [(1, 1.0), (2, 2.0), (3, 30.0)]


def test_without_tensorboard_the_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.summary.writer.event_file_writer", None)
    stream = io.StringIO()
    with quiet(tmp_path, tensorboard=True, stream=stream) as logger:
        logger.scalars(1, {"loss": 1.0})
    assert "pip install tensorboard" in stream.getvalue()
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_one_line(tmp_path):
    logger = quiet(tmp_path)
    logger._file.close()
    logger._file = open("/dev/full", "w")
    logger.scalars(1, {"loss": 1.0})
    with pytest.raises(UserError, match="disk full"):
        logger.flush()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_lines_where_there_is_no_terminal():
    now = [0.0]
    stream = io.StringIO()
    progress = Progress(1000, start=0, every=30, stream=stream, clock=lambda: now[0])
    for second in range(1, 61):
        now[0] = second
        progress(second * 10, updates=second, ret=float(second))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0] == (
        "frames 300/1,000 (30 %), 10 frames/s, 1 updates/s, return 25.5 (last 10), ETA 1 min 10 s"
    )


def test_a_rate_in_updates_is_said_once():
    now, stream = [0.0], io.StringIO()
    progress = Progress(100, unit="updates", every=5, stream=stream, clock=lambda: now[0])
    now[0] = 5
    progress(50, updates=50)
    assert stream.getvalue().count("updates/s") == 1


def test_progress_of_a_resumed_run_counts_only_what_is_new():
    now = [0.0]
    progress = Progress(2000, start=1000, stream=io.StringIO(), clock=lambda: now[0])
    for second in range(0, 11):
        now[0] = second
        progress(1000 + 20 * second, updates=500 + 5 * second)
    assert progress.rates() == pytest.approx((20, 5))


def test_rates_follow_the_last_minute():
    now = [0.0]
    progress = Progress(None, stream=io.StringIO(), clock=lambda: now[0])
    for second in range(1, 300):
        now[0] = second
        progress(100 * min(second, 100) + max(second - 100, 0))
    assert progress.rates()[0] == pytest.approx(1.0, abs=0.05)


def test_progress_bar_on_a_terminal(tmp_path):
    stream = Terminal()
    with quiet(tmp_path, total=100, stream=stream) as logger:
        logger.episode(50, ret=3.0, length=50)
        logger.note("half of it")
    assert "50" in stream.getvalue() and "half of it\n" in stream.getvalue()
    assert read_metrics(tmp_path / "metrics.jsonl")[0]["episode/return"] == 3.0
