"""A real `kill -9` of papers 3 to 5, after a checkpoint: the resumed run ends with the same bits."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from common.checkpoint import load_file

ROOT = Path(__file__).parents[2]
COMMON = (
    "--preset tiny --env toy_point --device cpu --steps 200 --prefill 40 --checkpoint-every 60 "
    "--eval-every 100 --eval-episodes 1 --rssm.deter 8 --rssm.hidden 8 --rssm.stoch 4 "
    "--conv.depth 2 --behaviour.horizon 3 --replay.batch 2 --replay.length 5"
)
FLAGS = {
    "paper3_dreamerv2": f"{COMMON} --conv.units 8 --model.units 8 --actor.units 8 --train-every 4",
    "paper4_dreamerv3": f"{COMMON} --units 8 --rssm.blocks 2 --train-ratio 2",
    "paper5_iris": (
        "--preset tiny --device cpu --steps 300 --collect.steps 20 --eval-every 100 --eval-episodes 1 "
        "--checkpoint-every 60 --tokenizer.learn.start 0 --tokenizer.learn.updates 2 --world.learn.start 1 "
        "--world.learn.updates 2 --world.width 16 --actor.learn.start 2 --actor.learn.updates 2"
    ),
}


def start(paper: str, *args: str) -> subprocess.Popen:
    """train.py in a process of its own; ./model.pt is the user's."""
    code = (
        "import common.online; common.online.link_latest = lambda *where: None; "
        f"from {paper}.train import main; main()"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, *args],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )


def weights(run: Path) -> dict[str, torch.Tensor]:
    parts = load_file(run / "model.pt")["weights"]
    return {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}


@pytest.mark.parametrize("paper", FLAGS)
def test_a_killed_run_ends_with_the_same_bits(paper, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = FLAGS[paper].split()
    whole = start(paper, *flags, "--logdir", "whole")
    run = tmp_path / "run"
    process = start(paper, *flags, "--logdir", "run")
    manifest, deadline = run / "state" / "manifest.json", time.time() + 300
    while not manifest.exists() and process.poll() is None and time.time() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL  # it was still running
    assert whole.wait(timeout=300) == 0
    before = manifest.read_bytes()
    assert start(paper, "--resume", "run").wait(timeout=300) == 0
    assert manifest.read_bytes() != before  # it had something left to do
    ours, theirs = weights(run), weights(tmp_path / "whole")
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
