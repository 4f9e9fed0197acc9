"""EnvPool's cars in lockstep: tracks by seed alone, finished games rest, options it lacks are refused."""

import numpy as np
import pytest
import torch

from common.env_wrapper import EnvSpec
from common.errors import UserError
from paper1_world_models.config import ControllerConfig, RNNConfig, VAEConfig
from paper1_world_models.controller import ActionCodec, Controller
from paper1_world_models.rnn import MDNRNN
from paper1_world_models.rollout import Noise, Player, grid, play
from paper1_world_models.rollout_games import make_games
from paper1_world_models.vae import VAE

OPTIONS = {"native_actions": True, "render": "envpool", "size": 16, "crop": True}
GAS, LEFT = np.float32([0, 0.6, 0]), np.float32([-1, 0.3, 0])


def games(slots, threads=1, **options):
    return make_games(EnvSpec("CarRacing-v3", OPTIONS | options), slots, threads, (16, 16, 3))


def drive(cars, rows, seeds, steps=30):
    """Odd seeds turn left.  -> frames of the start and the end, rewards [steps, k]"""
    first = cars.reset(np.array(rows), seeds)
    actions = np.stack([(LEFT if seed % 2 else GAS) for seed in seeds])
    out = [cars.start(np.array(rows), actions)() for _ in range(steps)]
    return np.stack([first, out[-1][0]], 1), np.stack([outcome[0] for _, outcome in out])


def test_envpool_is_asked_for_by_an_option():
    pytest.importorskip("envpool")
    assert type(games(2)).__name__ == "EnvPoolGames"
    assert type(games(2, render="fast")).__name__ == "LocalGames"


def test_a_game_depends_on_its_seed_alone():
    pytest.importorskip("envpool")
    one, many = games(1), games(5, threads=2)
    frames, rew = drive(many, [4, 1, 2], [7, 8, 9])
    for i, seed in enumerate((7, 8, 9)):
        alone_frames, alone_rew = drive(one, [0], [seed])
        np.testing.assert_array_equal(alone_frames[0], frames[i])
        np.testing.assert_array_equal(alone_rew[:, 0], rew[:, i])
    assert (frames[0, 0] != frames[1, 0]).any()
    one.close()
    many.close()


def test_rows_of_several_pools_move_in_one_call_and_others_rest():
    pytest.importorskip("envpool")
    cars, alone = games(4, threads=2), games(1)
    cars.reset(np.arange(4), [1, 2, 3, 4])
    cars.reset(np.array([2]), [30])  # row 2 now lives in a pool of its own
    actions = np.stack([GAS, LEFT, GAS])
    for _ in range(20):
        frames, outcome = cars.start(np.array([3, 2, 0]), actions)()
    for at, seed in enumerate((4, 30, 1)):
        alone.reset(np.array([0]), [seed])
        for _ in range(20):
            expected, _ = alone.start(np.array([0]), actions[at : at + 1])()
        np.testing.assert_array_equal(frames[at], expected[0])
    # row 1 has waited all the time: it now goes on from its first frame
    alone.reset(np.array([0]), [2])
    expected, _ = alone.start(np.array([0]), GAS[None])()
    np.testing.assert_array_equal(cars.start(np.array([1]), GAS[None])()[0], expected)
    assert len({id(pool) for pool in cars.pool}) == 2
    cars.reset(np.array([0, 1, 3]), [5, 6, 7])
    assert len({id(pool) for pool in cars.pool}) == 2  # the first pool is gone
    cars.close()
    alone.close()


def test_the_fitness_does_not_depend_on_slots_or_threads():
    pytest.importorskip("envpool")
    torch.manual_seed(0)
    vae, rnn = VAE(VAEConfig(size=16, width=0.25, latents=4)), MDNRNN(RNNConfig(hidden=16), 4, 3)
    controller = Controller(ControllerConfig(), 4, 16, ActionCodec("car", 3))
    params = np.random.default_rng(1).standard_normal((6, controller.size)).astype(np.float32)

    def scores(slots, threads):
        cars, episodes = games(slots, threads, max_steps=25), grid(6, [3, 4, 5])
        player = Player(vae, rnn, controller, slots)
        returns = play(cars, player, params, episodes, Noise.draw(7, 3, 64, 4, "sample"))
        cars.close()
        assert {e.length for e in episodes} == {25}
        return returns

    alone = scores(1, 1)
    assert len(np.unique(alone)) > 3  # else equality would mean nothing
    for slots, threads in ((5, 1), (18, 2)):  # 18: two turns
        np.testing.assert_array_equal(scores(slots, threads), alone)


def test_leaving_the_field_ends_a_game_and_is_no_lap():
    pytest.importorskip("envpool")
    cars = games(1)
    cars.reset(np.array([0]), [11])
    for _ in range(1000):
        _, (rew, terminated, truncated, lap) = cars.start(np.array([0]), GAS[None])()
        if terminated[0] or truncated[0]:
            break
    assert terminated[0] and not truncated[0] and not lap[0] and rew[0] < -99
    cars.close()


def test_options_that_envpool_lacks_are_refused():
    pytest.importorskip("envpool")
    with pytest.raises(UserError, match="EnvPool cannot do action_repeat=4.*render fast"):
        games(2, action_repeat=4)
    with pytest.raises(UserError, match="size=200 is not possible"):
        games(2, size=200)


def test_a_missing_envpool_is_one_line(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "envpool", None)
    with pytest.raises(UserError, match="pip install envpool"):
        games(2)
