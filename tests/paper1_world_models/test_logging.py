"""What a run tells: costs and scores in metrics.jsonl, pictures in TensorBoard, M's held-out scores."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from common.config import override, resolve
from common.logger import read_metrics
from common.meters import peak_memory_mb
from paper1_world_models.config import RNNConfig
from paper1_world_models.dataset import Latents, make_batch
from paper1_world_models.forecast import noise_bytes
from paper1_world_models.presets import PRESETS, SUITES
from paper1_world_models.rnn import MDNRNN
from paper1_world_models.train import train
from paper1_world_models.train_rnn import evaluate, held_out_sampler, losses_of

COSTS = {
    "vae-00": {"updates_per_s", "frames_per_s", "batch_ms", "update_ms", "grad_norm", "ram_peak_mb"},
    "rnn-00": {"updates_per_s", "frames_per_s", "batch_ms", "update_ms", "grad_norm", "ram_peak_mb"},
    "controller-00": {"generations_per_s", "frames_per_s", "play_ms", "cma_ms", "ram_peak_mb"},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory, small) -> Path:
    folder = tmp_path_factory.mktemp("logging")
    train(small(), folder, "cpu", "all")
    train(small(generations=3), folder, "cpu", "all")  # V and M are finished and say nothing more
    return folder


def test_rows_hold_what_a_stage_costs(run):
    rows = read_metrics(run / "metrics.jsonl")
    for stage, names in COSTS.items():
        costs = [row for row in rows if row["stage"] == stage and "ram_peak_mb" in row]
        assert costs and all(names <= row.keys() for row in costs), stage
        assert all(row[name] > 0 for row in costs for name in names)
    last = [row for row in rows if row["stage"] == "controller-00" and "play_ms" in row][-1]
    assert 100 < last["ram_peak_mb"] <= peak_memory_mb()["ram_peak_mb"]
    scored = [row for row in rows if "test_recon" in row]
    assert scored[-1]["test_mse"] == pytest.approx(scored[-1]["test_recon"] / (16 * 16 * 3), rel=1e-4)
    assert 0 <= scored[-1]["test_active_units"] <= 4


def test_a_finished_stage_does_not_repeat_its_rows(run):
    rows = read_metrics(run / "metrics.jsonl")
    where = [(row["stage"], row["step"], "test_recon" in row, "test_nll" in row) for row in rows]
    for stage in ("vae-00", "rnn-00"):
        scores = [w for w in where if w[0] == stage and (w[2] or w[3])]
        assert len(scores) == len(set(scores)) > 1


def test_tensorboard_shows_reconstructions_a_dream_and_the_agent(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run), size_guidance={"images": 0}).Reload()
    steps = {tag: [event.step for event in found.Images(tag)] for tag in found.Tags()["images"]}
    assert steps == {"vae-00/reconstruction": [8], "rnn-00/open_loop": [7], "controller-00/agent": [2, 3]}
    gif, png = (found.Images(tag)[0] for tag in ("controller-00/agent", "vae-00/reconstruction"))
    assert gif.encoded_image_string[:3] == b"GIF" and gif.width > 3 * 16
    assert (png.height, png.width) == (2 * 16, 16 * 16)


def latents(lengths: list[int]) -> Latents:
    """Episodes without noise whose latents are random."""
    first = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    last = np.cumsum(lengths) - 1
    flags = np.zeros((3, sum(lengths)), bool)
    flags[0, first], flags[1, last], flags[2, last[:1]] = True, True, True
    rng, R = np.random.default_rng(0), sum(lengths)
    mu, act = rng.standard_normal((R, 3)), rng.standard_normal((R, 1))
    episodes = np.stack([first, lengths], 1)
    logvar = np.full((R, 3), -30, np.float16)
    return Latents(np.float16(mu), logvar, np.float32(act), np.zeros(R, np.float32), *flags, episodes)


def test_a_carried_model_is_scored_on_the_stream_with_its_state():
    torch.manual_seed(0)
    data = latents([60, 35, 90, 55])
    cfg = RNNConfig(hidden=8, carry=True, batch=2, length=10, done_head=True)
    rnn, episodes = MDNRNN(cfg, 3, 1), np.arange(4)
    scores = evaluate(rnn, data, episodes, seed=1)
    stream, batches = held_out_sampler(cfg, data, episodes, 0)
    assert (stream.batch, batches) == (2, 11)
    stream, batches = held_out_sampler(RNNConfig(carry=True, batch=32, length=32), data, episodes, 0)
    assert (stream.batch, stream.length, batches) == (1, 32, 7)  # few rows: most chunks go on from a state

    from common.seeding import derive

    stream, batches = held_out_sampler(cfg, data, episodes, derive(1, "rnn test"))
    parts = [stream(i) for i in range(batches)]  # the rows in one piece each
    whole = parts[0].__class__(
        np.concatenate([part.rows[:, :-1] for part in parts] + [parts[-1].rows[:, -1:]], 1),
        np.concatenate([part.restart for part in parts], 1),
        np.concatenate([part.valid for part in parts], 1),
        True,
    )
    batch = make_batch(data, whole, torch.Generator().manual_seed(0), True, "cpu")
    with torch.inference_mode():
        losses, masks, _ = losses_of(rnn, batch, rnn.initial(2))
        expected = {name: (losses[name] * masks[name]).sum() / masks[name].sum() for name in losses}
    for name in ("nll", "done"):
        assert scores[name] == pytest.approx(expected[name].item(), rel=1e-4)
    z, after = batch.z[:, :-1][batch.score], batch.z[:, 1:][batch.score]
    spread = (after - z).square().mean(0)
    copied = (0.5 * (2 * math.pi * math.e * spread).log()).mean().item()
    assert scores["nll_copy_last"] == pytest.approx(copied, rel=1e-4)
    normal = (0.5 * (after.square() + math.log(2 * math.pi))).mean().item()
    assert scores["nll_standard_normal"] == pytest.approx(normal, rel=1e-4)
    single = [make_batch(data, part, torch.Generator(), True, "cpu") for part in parts]
    alone = [losses_of(rnn, part, rnn.initial(2)) for part in single]
    zero = sum((loss["nll"] * mask["nll"]).sum() for loss, mask, _ in alone) / whole.valid.sum()
    assert abs(zero.item() - scores["nll"]) > 1e-4  # from zero states it is another number


def test_the_draws_of_the_papers_score_are_in_the_forecast():
    paper = resolve(PRESETS, SUITES, "paper", "doom_takecover")[0]
    assert noise_bytes(paper) == 4 * 1024 * 1024 * 64  # 268 MB
    assert noise_bytes(override(paper, {"controller.z": "mean"})) == 0


@pytest.mark.parametrize("module", ["train", "experiments"])
def test_blas_gets_one_thread_in_the_trainer(module):
    """Linux tells how many threads a process has."""
    code = f"import os, paper1_world_models.{module}, numpy as np; x = np.ones((600, 600)); x @ x; "
    code += "there = os.path.exists(tasks := '/proc/self/task'); "
    code += "print(len(os.listdir(tasks)) if there else 1, os.environ['OPENBLAS_NUM_THREADS'])"
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    command = {"cwd": Path(__file__).parents[2], "env": environment, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-c", code], **command)
    assert done.stdout.split() == ["1", "1"], done.stderr
