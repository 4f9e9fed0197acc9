"""`kill -9` at any moment: the run goes on from its last checkpoint and ends with the same bits."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from common.checkpoint import load_file

FOLDER = Path(__file__).parents[2] / "paper1_world_models"
FLAGS = (
    "--preset tiny --env-options size 16 --collect.episodes 12 --vae.size 16 --vae.latents 4 "
    "--vae.updates 60 --rnn.hidden 8 --rnn.batch 4 --rnn.length 8 --rnn.updates 60 --generations 6 "
    "--eval-every 0 --evolve.population 4 --evolve.rollouts 2 --evolve.eval-episodes 2 "
    "--evolve.max-steps 30 --checkpoint-every 2 --gates warn"
).split()


def start(*args: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "train.py", *args], cwd=FOLDER, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )


@pytest.mark.parametrize("stage", ["vae-00", "rnn-00", "controller-00"])
def test_a_killed_run_ends_with_the_same_bits(tmp_path, stage, whole):
    run = tmp_path / "run"
    process = start(*FLAGS, "--logdir", str(run))
    manifest, deadline = run / "state" / stage / "manifest.json", time.time() + 300
    while not manifest.exists() and process.poll() is None and time.time() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL  # it was still running
    done = start("--resume", str(run))
    assert done.wait(timeout=600) == 0
    ours = load_file(run / "model.pt")["weights"]
    assert ours.keys() == whole.keys() and all(torch.equal(ours[name], whole[name]) for name in ours)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict:
    run = tmp_path_factory.mktemp("whole") / "run"
    assert start(*FLAGS, "--logdir", str(run)).wait(timeout=600) == 0
    return load_file(run / "model.pt")["weights"]
