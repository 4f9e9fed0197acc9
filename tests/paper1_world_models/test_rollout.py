"""Lockstep rollouts: timing of z and h, equal results for any slots and workers, dead workers, shared
noise."""

import os
import signal

import numpy as np
import pytest
import torch

from common.env_wrapper import EnvSpec
from common.errors import UserError
from paper1_world_models.config import ControllerConfig, RNNConfig, VAEConfig
from paper1_world_models.controller import ActionCodec, Controller
from paper1_world_models.rnn import MDNRNN
from paper1_world_models.rollout import Episode, Noise, Player, grid, play
from paper1_world_models.rollout_games import LocalGames, ToyGames, make_pixels
from paper1_world_models.rollout_workers import ProcessGames
from paper1_world_models.vae import VAE

SPEC = EnvSpec("toy_dodge", {"native_actions": True, "size": 16})


def models(latents=4, hidden=16):
    torch.manual_seed(0)
    codec = ActionCodec("thirds", 1)
    vae = VAE(VAEConfig(size=16, width=0.25, latents=latents))
    rnn = MDNRNN(RNNConfig(hidden=hidden), latents, 1)
    return vae, rnn, Controller(ControllerConfig(), latents, hidden, codec)


def scores(games, candidates=6, seeds=(3, 4, 5), max_steps=0):
    vae, rnn, controller = models()
    params = np.random.default_rng(1).standard_normal((candidates, controller.size)).astype(np.float32)
    player = Player(vae, rnn, controller, games.slots)
    noise = Noise.draw(7, len(seeds), 64, 4, "sample")
    return play(games, player, params, grid(candidates, list(seeds)), noise, max_steps)


def test_the_fitness_does_not_depend_on_slots_or_workers():
    alone = scores(ToyGames(SPEC, 18))
    assert alone.std() > 0  # else equality would mean nothing
    for slots in (1, 5, 7, 64):
        np.testing.assert_array_equal(scores(ToyGames(SPEC, slots)), alone)
    np.testing.assert_array_equal(scores(LocalGames(SPEC, 4)), alone)
    for workers in (1, 2, 4):
        games = ProcessGames(SPEC, 5, workers, (16, 16, 3))
        try:
            np.testing.assert_array_equal(scores(games), alone)
        finally:
            games.close()


def test_a_killed_worker_costs_nothing_but_time():
    alone = scores(ToyGames(SPEC, 18))
    games = ProcessGames(SPEC, 4, 2, (16, 16, 3))
    calls, start = [], games.start

    def start_and_kill(rows, actions):
        calls.append(1)
        if len(calls) == 12:
            os.kill(games.pool.processes[1].pid, signal.SIGKILL)
        return start(rows, actions)

    games.start = start_and_kill
    try:
        np.testing.assert_array_equal(scores(games), alone)
        assert games.pool.restarts == 1
    finally:
        games.close()


def test_workers_that_keep_dying_end_the_run():
    games = ProcessGames(SPEC, 2, 1, (16, 16, 3))
    start = games.start

    def start_and_kill(rows, actions):
        os.kill(games.pool.processes[0].pid, signal.SIGKILL)
        return start(rows, actions)

    games.start = start_and_kill
    try:
        with pytest.raises(UserError, match="died 4 times"):
            scores(games)
    finally:
        games.close()


def test_an_error_in_a_worker_is_told():
    games = ProcessGames(EnvSpec("toy_dodge", {"native_actions": True, "size": 16}), 2, 1, (16, 16, 3))
    try:
        with pytest.raises(UserError, match="IndexError|ValueError|KeyError"):
            games.reset(np.array([0]), [0])
            games.step(np.array([1]), np.array([1]))  # a game that was never reset
    finally:
        games.close()


class Recorder:
    """A controller that writes down what it is shown and acts on z alone."""

    def __init__(self, controller):
        self.codec, self.seen, self.real = controller.codec, [], controller
        self.size = controller.size

    def feature(self, z, h, c):
        self.seen.append((z.clone(), h.clone(), c.clone()))
        return self.real.feature(z, h, c)

    def act_many(self, params, feature):
        return self.real.act_many(params, feature)


def test_timing_of_z_and_h():
    """a_t sees z_t and the state of steps < t; M is then stepped with (z_t, the squashed a_t)."""
    vae, rnn, controller = models()
    recorder = Recorder(controller)
    player = Player(vae, rnn, recorder, 1)
    params = torch.randn(1, controller.size)
    frames = np.random.default_rng(0).integers(0, 256, (4, 1, 16, 16, 3), dtype=np.uint8)
    row, h, c = np.zeros(1, np.int64), torch.zeros(1, 16), torch.zeros(1, 16)
    for t in range(4):
        _, act, z = player.act(row, frames[t], params, None, np.array([t == 0]))
        seen_z, seen_h, seen_c = (v[:1] for v in recorder.seen[t])
        mu, _ = vae.encode(torch.from_numpy(frames[t]))
        torch.testing.assert_close(seen_z, mu)
        torch.testing.assert_close(seen_h, h)  # nothing of step t is in it
        torch.testing.assert_close(seen_c, c)
        assert act[0, 0] in (-1, 0, 1)  # squashed
        h, c = rnn.step(mu, torch.from_numpy(act), torch.tensor([t == 0]), (h, c))
    assert recorder.seen[0][1].abs().max() == 0  # the first action sees z_0 alone
    player.reset(row)
    assert player.h.abs().max() == 0


def test_candidates_share_their_noise():
    noise = Noise.draw(0, 3, 10, 4, "sample")
    one = noise.at([1, 1, 2], [5, 5, 5])
    assert torch.equal(one[0], one[1]) and not torch.equal(one[0], one[2])
    assert not torch.equal(noise.at([1], [5]), noise.at([1], [6]))
    assert Noise.draw(0, 3, 10, 4, "mean").at([1], [0]) is None


def test_episodes_are_cut_at_max_steps():
    episodes = [Episode(0, 0, 3)]
    vae, rnn, controller = models()
    games = ToyGames(SPEC, 1)
    player = Player(vae, rnn, controller, 1)
    zero = np.zeros((1, controller.size), np.float32)
    play(games, player, zero, episodes, Noise(None), 6)
    assert episodes[0].length == 6


def test_hopeless_episodes_are_extrapolated():
    """CarRacing: -0.1 per step, positive only on a new tile."""
    episode = Episode(0, 0, 0)
    for rew in [5.0] + [-0.1] * 10:
        episode.ret += rew
        episode.length += 1
        over = episode.give_up(rew, patience=10, max_steps=1000)
    assert over and episode.length == 11
    assert episode.ret == pytest.approx(5 - 0.1 * 999)  # what it would have been at the end


def test_pictures_are_required():
    with pytest.raises(UserError, match="square RGB"):
        make_pixels(EnvSpec("CartPole-v1", {}))
