"""Gates: what they let pass, what they stop, and that real scores are capped as dreams are."""

import numpy as np
import pytest

from common.env_wrapper import EnvSpec
from paper1_world_models.controller import ActionCodec
from paper1_world_models.gates import Table, dream_failures, rnn_failures, summary, vae_failures
from paper1_world_models.rollout import Episode, Noise, play
from paper1_world_models.rollout_games import ToyGames


def test_v_must_beat_the_mean_image():
    assert vae_failures({"recon": 30.0, "mean_image": 100.0, "kl": 5.0}, 0.35) == []
    assert len(vae_failures({"recon": 40.0, "mean_image": 100.0, "kl": 5.0}, 0.35)) == 1
    small = {"recon": 30.0, "mean_image": 100.0, "foreground": 0.2, "foreground_mean_image": 0.8}
    assert vae_failures({**small, "foreground": 0.09}, 0.35) == []
    assert "foreground" in vae_failures(small, 0.35)[0]  # the whole is fine, what matters is not


def test_m_must_beat_both_baselines():
    good = {"nll": 0.4, "nll_standard_normal": 1.42, "nll_copy_last": 0.5}
    assert rnn_failures(good) == []
    assert "copy" in rnn_failures({**good, "nll": 0.6})[0]
    assert len(rnn_failures({**good, "nll": 1.5})) == 2


@pytest.mark.parametrize(
    "name, real, dream, passes",
    [
        ("no-op", 100, 75, True),
        ("no-op", 100, 65, False),
        ("left for ever", 100, 190, True),  # hugging a wall may pay a little more
        ("left for ever", 100, 210, False),
        ("random linear", 100, 140, True),
        ("random linear", 100, 160, False),
        ("controller", 100, 55, True),
        ("controller", 100, 45, False),  # a good player must not drop dead in the dream
        ("uniform", -100, -120, True),
        ("uniform", -100, -140, False),
        ("uniform", -100, 20, False),
    ],
)
def test_the_dream_must_agree_with_reality(name, real, dream, passes):
    table = {name: {"real": float(real), "dream": float(dream), "real_error": 0.0}}
    assert (dream_failures(table) == []) == passes


def test_few_real_episodes_get_the_benefit_of_the_doubt():
    table = {"no-op": {"real": 100.0, "dream": 65.0, "real_error": 6.0}}
    assert dream_failures(table) == []
    real = np.array([90.0, 110.0] * 8)
    assert summary(real, real)["real_error"] == pytest.approx(2 * 10 / 4)


def test_tables_play_blindly_and_are_capped():
    games = ToyGames(EnvSpec("toy_dodge", {"native_actions": True, "size": 16}), 4)
    table = np.full((6, 50, 1), -1.0, np.float32)  # left for ever: the toy's own 19 steps
    vectors = np.arange(6, dtype=np.float32)[:, None]
    player = Table(table, ActionCodec("thirds", 1), 4)
    episodes = [Episode(i, 0, i) for i in range(6)]
    assert play(games, player, vectors, episodes, Noise(None)).tolist() == [19.0] * 6
    episodes = [Episode(i, 0, i) for i in range(6)]
    assert play(games, player, vectors, episodes, Noise(None), max_steps=7).tolist() == [7.0] * 6
