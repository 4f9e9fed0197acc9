"""Gates: what they let pass, what they stop, and that real scores are capped as dreams are."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from common.config import fields_of, override, resolve
from common.env_wrapper import EnvSpec
from common.envs.toys import ToyCore
from common.errors import UserError
from paper1_world_models import imitation
from paper1_world_models.config import ControllerConfig
from paper1_world_models.controller import ActionCodec, Controller
from paper1_world_models.dream import Starts
from paper1_world_models.gates import dream_failures, judge_dream, rnn_failures, vae_failures
from paper1_world_models.imitation import Teacher, raw_of
from paper1_world_models.presets import PRESETS, SUITES
from paper1_world_models.rollout import Episode, Noise, Player, play
from paper1_world_models.rollout_games import ToyGames, env_spec
from paper1_world_models.train import new_agent, train
from paper1_world_models.worlds import TablePlayer, blind_tables, dream_table, summary


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
    assert (dream_failures(table) == {}) == passes


def test_few_real_episodes_get_the_benefit_of_the_doubt():
    table = {"no-op": {"real": 100.0, "dream": 65.0, "real_error": 6.0}}
    assert dream_failures(table) == {}
    real = np.array([90.0, 110.0] * 8)
    assert summary(real, real)["real_error"] == pytest.approx(2 * 10 / 4)


def test_tables_play_blindly_and_are_capped():
    games = ToyGames(EnvSpec("toy_dodge", {"native_actions": True, "size": 16}), 4)
    table = np.full((6, 50, 1), -1.0, np.float32)  # left for ever: the toy's own 19 steps
    vectors = np.arange(6, dtype=np.float32)[:, None]
    player = TablePlayer(table, ActionCodec("thirds", 1), 4)
    episodes = [Episode(i, 0, i) for i in range(6)]
    assert play(games, player, vectors, episodes, Noise(None)).tolist() == [19.0] * 6
    episodes = [Episode(i, 0, i) for i in range(6)]
    assert play(games, player, vectors, episodes, Noise(None), max_steps=7).tolist() == [7.0] * 6


def both(real: float, dream: float, **more: float) -> dict[str, float]:
    return {"real": real, "dream": dream, "real_error": 0.0, **more}


def test_a_competent_player_counts_only_where_it_is_one():
    """The imitation of a toy's optimum is judged if it comes at least half the way to it, in reality."""
    assert "competent" in dream_failures({"competent": both(200.0, 60.0, way=1.0)})
    assert dream_failures({"competent": both(40.0, 10.0, way=0.1)}) == {}
    assert "competent" in dream_failures({"competent": both(800.0, 300.0)})  # TakeCover's sweep has no `way`


class Told:
    def __init__(self, iterations: int):
        self.cfg = SimpleNamespace(iterations=iterations, gates="stop")
        self.log, self.notes, self.folder = SimpleNamespace(note=self.notes_append), [], "run"

    def notes_append(self, line: str) -> None:
        self.notes.append(line)


def test_the_competent_player_is_decisive_in_the_last_pass():
    table = {"no-op": both(33.0, 30.0), "competent": both(200.0, 60.0, way=1.0)}
    for iteration in (0, 1):
        run = Told(3)
        judge_dream(run, table, iteration)
        assert "competent scores 60" in run.notes[0]
    with pytest.raises(UserError, match="competent scores 60 in the dream and 200"):
        judge_dream(Told(3), table, 2)
    with pytest.raises(UserError, match="no-op"):  # the others are decisive in every pass
        judge_dream(Told(3), table | {"no-op": both(33.0, 90.0)}, 0)


def test_v_is_judged_at_half_its_updates(tmp_path, small):
    strict = {"vae.half_gate": 1e-3, "vae.gate": 9.0, "vae.foreground": "none"}
    cfg = small(gates="stop", **strict)
    for _ in range(2):  # going on without a change meets the same gate
        with pytest.raises(UserError, match="gate of V at update 4 failed"):
            train(cfg, tmp_path, "cpu", "vae")
    train(override(cfg, {"gates": "warn"}), tmp_path, "cpu", "vae")
    assert dict(fields_of(resolve(PRESETS, SUITES, "tiny", "toy_dodge")[0]))["vae.half_gate"] == 1 / 3
    assert resolve(PRESETS, SUITES, "tiny", "CarRacing-v3")[0].vae.half_gate == 0


THIRDS, TANH = ActionCodec("thirds", 1), ActionCodec("tanh", 1, (-1.0,), (1.0,))


def test_takecovers_gate_has_wall_huggers_and_the_sweep_for_both_kinds_of_turn():
    for codec, env in ((THIRDS, {"frame_skip": 4}), (TANH, {"continuous": True})):
        spec = EnvSpec("doom_takecover", env)
        agent = SimpleNamespace(codec=codec, env=spec, cfg=PRESETS["tiny"])
        tables = blind_tables(agent, 3, 210, 0)
        assert list(tables)[-3:] == ["left for ever", "right for ever", "competent"]
        assert (tables["left for ever"] == -1).all() and (tables["right for ever"] == 1).all()
        half = 100 // spec.frames_per_step
        assert (tables["competent"][:, :half] == 1).all()
        assert (tables["competent"][:, half : 2 * half] == -1).all()
    car = SimpleNamespace(codec=ActionCodec("car", 3, (-1.0, 0.0, 0.0), (1.0,) * 3), cfg=PRESETS["tiny"])
    car.env = EnvSpec("CarRacing-v3")
    tables = blind_tables(car, 2, 5, 0)
    assert list(tables) == ["no-op", "uniform", "held", "low for ever", "high for ever"]
    assert (tables["low for ever"] == [-1, 0, 0]).all() and (tables["high for ever"] == 1).all()
    assert tables["low for ever"].shape == (2, 5, 3)
    many = SimpleNamespace(codec=ActionCodec("argmax", 4), cfg=PRESETS["tiny"], env=EnvSpec("toy_catch"))
    assert list(blind_tables(many, 2, 5, 0)) == ["no-op", "uniform", "held"]  # which would be the wall?


@pytest.mark.parametrize("codec", [THIRDS, TANH, ActionCodec("argmax", 4)])
def test_raw_outputs_of_an_imitation_are_squashed_to_its_actions(codec):
    acts = {"thirds": [[-1], [0], [1]], "tanh": [[-0.9], [0.2], [0.6]], "argmax": np.eye(4)}[codec.kind]
    acts = np.float32(acts)
    got = codec.squash(torch.from_numpy(np.float32(raw_of(codec, acts)))).numpy()
    np.testing.assert_allclose(got, acts, atol=1e-5)


class Sighted:
    """A V that sees everything: z is the toy's true state."""

    core: ToyCore

    def act(self, rows, frames, *args):
        state = np.stack(list(self.core.truth(rows).values()), 1) / 50
        self.state = np.concatenate(
            [state, np.repeat(state[:1], -len(rows) % 8, 0)]
        )  # as Player.act fills up
        return super().act(rows, frames, *args)

    def encode(self, frames):
        z = torch.from_numpy(self.state[: len(frames)]).float()
        return z, torch.full_like(z, -30.0)


def test_an_imitation_on_the_true_state_plays_as_the_optimum_does(small, monkeypatch):
    """x, v, y, g are all that the PD rule looks at, and it is linear in them but for its dead zone."""
    monkeypatch.setattr(imitation, "Teacher", type("SightedTeacher", (Sighted, Teacher), {}))
    cfg = small()
    agent, games = new_agent(cfg, env_spec(cfg), "cpu"), ToyGames(env_spec(cfg), 64)
    controller = Controller(ControllerConfig(), 4, 8, agent.codec)
    run = SimpleNamespace(cfg=cfg, leave_if_asked=lambda: None)
    params = imitation.imitate_optimum(run, agent, controller, games, 0)
    player = type("SightedPlayer", (Sighted, Player), {})(agent.vae, agent.rnn, controller, 64)
    player.core = games.core
    returns = play(games, player, params[None], [Episode(0, r, r) for r in range(40)], Noise(None))
    assert returns.mean() > 180  # of 200; the best blind policy has 34


@pytest.mark.parametrize("toy", ["toy_dodge", "toy_catch", "toy_point", "toy_simple_world"])
def test_every_toy_has_a_competent_player(toy):
    """Untrained models: the rows are there, and their actions are legal."""
    cfg = resolve(PRESETS, SUITES, "tiny-dream", toy)[0]
    cfg = override(cfg, {"dream.max_steps": 12, "vae.width": 0.06, "rnn.hidden": 8})
    agent = new_agent(cfg, env_spec(cfg), "cpu")
    agent.starts = Starts(*torch.randn(2, 5, cfg.vae.latents))
    run = SimpleNamespace(cfg=cfg, leave_if_asked=lambda: None)
    table = dream_table(run, agent, ToyGames(env_spec(cfg), 64))
    assert list(table)[:3] == ["no-op", "uniform", "held"] and list(table)[-1] == "competent"
    assert all(np.isfinite(list(row.values())).all() for row in table.values())
