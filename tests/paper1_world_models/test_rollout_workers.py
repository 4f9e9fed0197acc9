"""Worker processes in two turns: equal results, deaths at any moment, no threads and no torch in a worker."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from common.env_wrapper import EnvSpec
from paper1_world_models import rollout_workers
from paper1_world_models.config import ControllerConfig, RNNConfig, VAEConfig
from paper1_world_models.controller import ActionCodec, Controller
from paper1_world_models.rnn import MDNRNN
from paper1_world_models.rollout import Noise, Player, grid, play
from paper1_world_models.rollout_games import LocalGames, ToyGames, WorkerDied
from paper1_world_models.rollout_workers import ProcessGames
from paper1_world_models.vae import VAE
from paper1_world_models.worker_pool import one_thread

SPEC = EnvSpec("toy_dodge", {"native_actions": True, "size": 16})


def scores(games, max_steps=0):
    """Returns of 9 candidates on 3 seeds."""
    torch.manual_seed(0)
    vae, rnn = VAE(VAEConfig(size=16, width=0.25, latents=4)), MDNRNN(RNNConfig(hidden=16), 4, 1)
    controller = Controller(ControllerConfig(), 4, 16, ActionCodec("thirds", 1))
    params = np.random.default_rng(1).standard_normal((9, controller.size)).astype(np.float32)
    noise = Noise.draw(7, 3, 64, 4, "sample")
    player = Player(vae, rnn, controller, games.slots)
    return play(games, player, params, grid(9, [3, 4, 5]), noise, max_steps)


@pytest.fixture
def games():
    """24 slots in 2 workers: two turns of 12."""
    made = ProcessGames(SPEC, 24, 2, (16, 16, 3))
    yield made
    made.close()


def test_turns_are_halves_with_games_of_every_worker(games):
    halves = games.turns(24)
    assert sorted(np.concatenate(halves).tolist()) == list(range(24))
    assert all(set(half % 2) == {0, 1} and len(half) == 12 for half in halves)
    assert len(games.turns(15)) == 1  # two batches of 8 cost more than one of 15
    assert len(ToyGames(SPEC, 64).turns(64)) == len(LocalGames(SPEC, 64).turns(64)) == 1


def test_two_turns_give_the_same_fitness(games):
    alone = scores(ToyGames(SPEC, 5))
    np.testing.assert_array_equal(scores(games), alone)
    np.testing.assert_array_equal(scores(games, max_steps=7), scores(ToyGames(SPEC, 27), max_steps=7))


@pytest.mark.parametrize("call", [1, 2, 15])
def test_a_worker_killed_while_both_turns_move(games, call):
    alone = scores(ToyGames(SPEC, 5))
    calls, send = [], games._send

    def send_and_kill(*args):
        calls.append(1)
        requests = send(*args)
        if len(calls) == call:
            os.kill(games.pool.processes[1].pid, signal.SIGKILL)
        return requests

    games._send = send_and_kill
    np.testing.assert_array_equal(scores(games), alone)
    assert games.pool.restarts == 1


def test_answers_come_in_the_order_of_asking(games):
    """The second turn's answer may be taken first, and no late answer survives a death."""
    a, b = games.turns(24)
    frames = {id(rows): games.reset(rows, list(range(len(rows)))) for rows in (a, b)}
    local = LocalGames(SPEC, 24)
    for rows in (a, b):
        np.testing.assert_array_equal(local.reset(rows, list(range(len(rows)))), frames[id(rows)])
    first, second = games.start(a, np.full(12, 2)), games.start(b, np.zeros(12, int))
    (seen_b, _), (seen_a, _) = second(), first()
    np.testing.assert_array_equal(seen_a, local.step(a, np.full(12, 2))[0])
    np.testing.assert_array_equal(seen_b, local.step(b, np.zeros(12, int))[0])
    assert (seen_a != seen_b).any()
    games.start(b, np.zeros(12, int))
    os.kill(games.pool.processes[0].pid, signal.SIGKILL)
    games.pool.processes[0].join()
    with pytest.raises(WorkerDied):
        games.start(a, np.full(12, 2))()
    assert [len(waiting) for waiting in games.open] == [0, 0]
    np.testing.assert_array_equal(games.reset(a, list(range(12))), frames[id(a)])


def test_an_interrupt_of_the_whole_group_leaves_the_workers_alive(games):
    """Ctrl-C on a terminal reaches them too, and the trainer still wants to end its generation."""
    rows = np.arange(4)
    before = games.reset(rows, [1, 2, 3, 4])
    for process in games.pool.processes:
        os.kill(process.pid, signal.SIGINT)
    np.testing.assert_array_equal(games.reset(rows, [1, 2, 3, 4]), before)
    assert games.pool.restarts == 0 and all(process.is_alive() for process in games.pool.processes)


def test_a_silent_worker_counts_as_dead(games, monkeypatch):
    games.reset(np.arange(2), [1, 2])
    monkeypatch.setattr(rollout_workers, "STEP_TIMEOUT", 0.3)
    os.kill(games.pool.processes[0].pid, signal.SIGSTOP)
    with pytest.raises(WorkerDied):
        games.start(np.arange(2), np.ones(2, int))()
    assert games.pool.restarts == 1


def test_workers_are_started_with_one_thread(games):
    """Linux tells what a process was started with."""
    environment = Path(f"/proc/{games.pool.processes[0].pid}/environ")
    if environment.exists():
        assert b"OPENBLAS_NUM_THREADS=1" in environment.read_bytes().split(b"\0")


def test_workers_have_one_thread_and_no_torch(monkeypatch):
    """Torch would cost each worker seconds and 250 MB; more BLAS threads would fight for the cores."""
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    code = "import os, sys, paper1_world_models.rollout_workers\n"
    code += "print(os.environ['OPENBLAS_NUM_THREADS'], os.environ['OMP_NUM_THREADS'], 'torch' in sys.modules)"
    with one_thread():
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["1", "1", "False"]
    assert "OPENBLAS_NUM_THREADS" not in os.environ and os.environ["OMP_NUM_THREADS"] == "7"
