"""The dreamed vector env: Gymnasium's rules, autoreset, seeds; rollouts as rows of a replay; the script."""

import re
import runpy
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from torch import nn

from common.env_wrapper import EnvSpec
from common.errors import UserError
from common.evaluate import evaluate
from common.seeding import seed_everything
from common.spaces import Spaces
from paper5_iris.actor_critic import Memory
from paper5_iris.agent import IrisAgent
from paper5_iris.imagination import Imagination
from paper5_iris.sample import DreamEnv, dream_on, games, main, player, rollout
from paper5_iris.tokenizer import to_frames, to_images
from paper5_iris.world_model import WorldModel
from tests.paper5_iris.conftest import spread

FOLDER = Path(__file__).parents[2] / "paper5_iris"
CATCH = EnvSpec("toy_catch", {"grid": 4, "drops": 1, "size": 8})
NUMBERS = Spaces({"image": (8, 8, 3)}, 2, False)


def ends(world: WorldModel, prob: float) -> None:
    """From now on every step ends the game with this probability."""
    nn.init.zeros_(world.end_head[2].weight)
    world.end_head[2].bias.data = torch.tensor([1 - prob, prob]).clamp(min=1e-30).log()


@pytest.fixture
def make_env(networks):
    """make_env(num, end=0.5): large random weights; an end has this probability, whatever happens."""

    def make(num: int = 3, end: float | None = None, limit: int = 1_000, **more) -> DreamEnv:
        net = networks(**more)
        for part in (net.world, net.tokenizer.quantizer, net.tokenizer.pre):
            for p in part.parameters():
                nn.init.normal_(p, std=0.4)
        if end is not None:
            ends(net.world, end)
        starts = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
        return DreamEnv(Imagination(net.tokenizer, net.world), starts, net.spaces, num, limit)

    return make


@pytest.mark.parametrize("spaces", [None, NUMBERS])
def test_observations_actions_and_types_are_as_declared(make_env, spaces):
    env = make_env(end=0.4, **({"spaces": spaces} if spaces else {}))
    assert env.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP and env.num_envs == 3
    single, batched = env.single_observation_space, env.observation_space
    assert single["image"].shape == (8, 8, 3) and batched["image"].shape == (3, 8, 8, 3)
    env.action_space.seed(0)
    obs, info = env.reset(seed=1)
    assert obs in batched and info["tokens"].shape == (3, 4)
    for _ in range(12):
        obs, rew, terminated, truncated, info = env.step(env.action_space.sample())
        assert obs in batched and info["tokens"].shape == (3, 4)
        assert rew.shape == terminated.shape == truncated.shape == (3,)
        assert rew.dtype == np.float64 and terminated.dtype == truncated.dtype == bool
        assert set(rew) <= {-1.0, 0.0, 1.0} and not (terminated & truncated).any()
        assert (env.render()[1] == obs["image"][1]).all()
    env.close()


def test_games_that_are_over_begin_anew_in_the_next_step(make_env):
    env = make_env(num=4, end=0.4)
    tokens = env.world.tokenizer.tokenize(to_frames(torch.from_numpy(env.starts))).tolist()
    env.reset(seed=0)
    over, seen = np.zeros(4, bool), 0
    for _ in range(25):
        _, rew, terminated, truncated, info = env.step(np.zeros(4, int))
        began = np.isnan(info["end_prob"])
        assert (began == over).all() and not truncated.any()
        assert not rew[began].any() and not terminated[began].any()
        assert all(info["tokens"][i].tolist() in tokens for i in np.flatnonzero(began))
        seen, over = seen + began.sum(), terminated
    assert 10 < seen < 60
    assert info["end_prob"][~began] == pytest.approx(0.4)


def test_the_others_go_on_from_their_newest_frame(make_env):
    env = make_env(num=2, end=0.0)
    env.reset(seed=0)
    env.step(np.zeros(2, int))
    env.is_over[0] = True
    *_, info = env.step(np.array([2, 1]))
    assert np.isnan(info["end_prob"][0]) and not np.isnan(info["end_prob"][1])
    assert (env.world.tokens.numpy() == info["tokens"]).all() and env.world.past.length == 4
    assert env.age.tolist() == [0, 2]


def test_a_limit_truncates(make_env):
    env = make_env(end=0.0, limit=3)
    env.reset(seed=0)
    cut = [env.step(np.zeros(3, int))[3].tolist() for _ in range(7)]
    no, yes = [False] * 3, [True] * 3
    assert cut == [no, no, yes, no, no, no, yes]
    env = make_env(end=1.0, limit=1)
    env.reset(seed=0)
    _, _, terminated, truncated, _ = env.step(np.zeros(3, int))
    assert terminated.all() and not truncated.any()  # an end at the limit is an end


def test_seeds(make_env):
    def play(env: DreamEnv, seed) -> np.ndarray:
        env.reset(seed=seed)
        return np.stack([env.step(np.zeros(3, int))[4]["tokens"] for _ in range(8)])

    env = make_env(end=0.3)
    first = play(env, 5)
    assert (play(env, 5) == first).all() and (play(make_env(end=0.3), 5) == first).all()
    assert (play(env, [5, 6, 7]) == first).all() and (play(env, 6) != first).any()
    assert (play(env, None) != play(env, None)).any()
    env.starts = env.starts[:1]  # not the beginnings alone differ
    assert (play(env, 5) != play(env, 6)).any() and (play(env, 5) == play(env, 5)).all()


def test_gymnasiums_wrappers_take_it(make_env):
    env = gym.wrappers.vector.RecordEpisodeStatistics(make_env(end=0.4))
    env.reset(seed=0)
    found = [env.step(np.zeros(3, int))[4] for _ in range(20)]
    assert any("episode" in info for info in found)


def test_rollouts_are_rows_of_a_replay(make_env):
    env = make_env(end=0.4, limit=2)
    rng = np.random.default_rng(0)
    rows = rollout(env, lambda obs: rng.integers(1, 3, 3), 15, seed=3)
    assert rows["image"].shape == (3, 16, 8, 8, 3) and rows["tokens"].shape == (3, 16, 4)
    first, last, terminal = rows["is_first"], rows["is_last"], rows["is_terminal"]
    assert first[:, 0].all() and last[:, -1].all() and (first[:, 1:] == last[:, :-1]).all()
    assert not rows["act"][last].any() and (rows["act"][~last] > 0).all()
    assert not rows["rew"][first].any() and rows["rew"][~first].any()
    assert (
        terminal[:, :-1].any() and (last[:, :-1] & ~terminal[:, :-1]).any() and not (terminal & ~last).any()
    )
    pictures = env.world.tokenizer.decode_tokens(torch.from_numpy(rows["tokens"]).flatten(0, 1))
    assert (np.abs(pictures.permute(0, 2, 3, 1).numpy() * 255 - rows["image"].reshape(-1, 8, 8, 3)) < 1).all()


@pytest.fixture
def make_agent(small):
    """An agent of toy_catch whose networks say something."""

    def make(spaces: Spaces | None = None, **more) -> IrisAgent:
        agent = IrisAgent(small(**more), CATCH, spaces or Spaces.of(CATCH.make()))
        for p in (*agent.world.parameters(), *agent.actor.parameters()):
            nn.init.normal_(p, std=0.4)
        spread(agent.tokenizer)
        return agent

    return make


@pytest.mark.parametrize("spaces", [None, NUMBERS])
def test_a_continuation_is_what_the_agent_dreams_under_the_same_actions(make_agent, spaces):
    agent, rng = make_agent(spaces), np.random.default_rng(0)
    image = rng.integers(256, size=(9, 8, 8, 3), dtype=np.uint8)
    act, first = agent.spaces.random(rng, 9), np.arange(9) == 0
    real = agent.tokenizer.tokenize(agent.frames(image))
    tokens, rew, end = dream_on(agent, real, act, 3, seed=5)
    context = {"image": image[None, :3], "act": act[None, :3], "is_first": first[None, :3]}
    noise = torch.Generator().manual_seed(5)
    dream = agent.dream(context, 6, actions=act[None, 3:], generator=noise)
    assert torch.equal(tokens[:3], real[:3]) and not torch.equal(tokens[3:], real[3:])
    assert (to_images(agent.tokenizer.decode_tokens(tokens)).numpy() == dream.obs["image"][0]).all()
    np.testing.assert_array_equal(rew, dream.rew[0])
    np.testing.assert_allclose(end, 1 - dream.cont[0], atol=1e-6)
    assert torch.equal(dream_on(agent, real, act, 3, seed=5)[0], tokens)
    assert not torch.equal(dream_on(agent, real, act, 3, seed=6)[0], tokens)


def test_games_are_counted_from_their_first_row_to_their_last():
    first = np.array([[1, 0, 0, 1, 0, 0], [1, 0, 0, 0, 0, 1]], bool)
    last = np.array([[0, 0, 1, 0, 0, 1], [0, 0, 0, 0, 1, 1]], bool)
    terminal = np.array([[0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 1, 0]], bool)
    rew = np.array([[0, 1, 1, 0, -1, 0], [0, 0, 0, 0, -1, 0]], float)
    found = games({"rew": rew, "is_first": first, "is_last": last, "is_terminal": terminal})
    assert found == {"ended": [(2, 2), (-1, 4)], "cut off": [(-1, 2)]}  # that of one row has no step


@pytest.mark.parametrize("trunk", ["cnn", "transformer"])
def test_the_player_is_the_agents_policy_over_what_was_dreamed(make_agent, make_env, trunk):
    """It forgets between games, and sees the dreamed tokens themselves, not what they would be encoded to."""
    agent, env = make_agent(**{"actor.trunk": trunk, "eval_temperature": 1e-9}), make_env(end=0.4)
    env.world.tokenizer = agent.tokenizer
    rows = rollout(env, player(agent, env), 12, seed=0)
    memory, first = agent.initial(3), torch.from_numpy(rows["is_first"])
    for t in range(13):
        memory = Memory(*(part * ~first[:, t, None] for part in memory))
        seen = agent.actor.view(agent.tokenizer, torch.from_numpy(rows["tokens"][:, t]))
        policy, _, memory = agent.actor(seen, memory)
        wanted = np.where(rows["is_last"][:, t], 0, policy.log.argmax(-1))
        assert (rows["act"][:, t] == wanted).all()
    assert first[:, 1:].any() and len(np.unique(rows["act"][~rows["is_last"]])) > 1
    agent = make_agent(**{"actor.trunk": trunk})
    one, two = (rollout(env, player(agent, env), 12, seed=0)["act"] for _ in range(2))
    assert (one == two).all()  # the seed of the games is that of the policy as well


def test_the_script_plays_and_writes_what_it_played(make_agent, tmp_path, capsys, monkeypatch):
    agent = make_agent()
    ends(agent.world, 0.2)
    agent.save(tmp_path / "model.pt")

    def run(*more: str) -> tuple[dict, str]:
        main(["--checkpoint", str(tmp_path), "--num", "5", "--steps", "20", "--threads", "1", *more])
        return dict(np.load(tmp_path / "dreams.npz")), capsys.readouterr().out

    rows, out = run()
    assert {name: value.shape for name, value in rows.items()} == {
        **{"image": (5, 21, 8, 8, 3), "tokens": (5, 21, 4), "act": (5, 21), "rew": (5, 21)},
        **dict.fromkeys(("is_first", "is_last", "is_terminal"), (5, 21)),
    }
    pictures = agent.tokenizer.decode_tokens(torch.from_numpy(rows["tokens"]).flatten(0, 1))
    assert (to_images(pictures).numpy() == rows["image"].reshape(-1, 8, 8, 3)).all()
    seed_everything(0)
    (real,) = evaluate(agent, CATCH, 1, 0, record=1).episodes
    begins = agent.tokenizer.tokenize(agent.frames(real.obs["image"][:-1])).tolist()
    first = rows["tokens"][rows["is_first"]].tolist()
    assert all(tokens in begins for tokens in first) and len(np.unique(first, axis=0)) == 3
    assert f"begun at 3 frames of a real episode, whose return was {real.rew.sum():g}" in out
    assert (tmp_path / "dreams.mp4").stat().st_size > 1_000
    for label, found in games(rows).items():
        line = re.search(rf"{label} +(\d+) games   return (\S+) .*length (\S+) \((\d+) \.\. (\d+)\)", out)
        returns, lengths = np.array(found).T
        assert int(line[1]) == len(found) and float(line[2]) == pytest.approx(returns.mean(), abs=0.006)
        assert float(line[3]) == pytest.approx(lengths.mean(), abs=0.006)
        assert [int(line[4]), int(line[5])] == [lengths.min(), lengths.max()]
    monkeypatch.setattr("paper5_iris.sample.write_video", lambda *_, **__: "no video")
    again, other = run()[0], run("--seed", "1")[0]
    likeliest = run("--temperature", "0")[0]
    assert (again["tokens"] == rows["tokens"]).all() and (again["act"] == rows["act"]).all()
    assert (other["tokens"] != rows["tokens"]).any() and (likeliest["tokens"] != rows["tokens"]).any()


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--num", "0"], "--num 0: must be at least 1"),
        (["--steps", "0"], "--steps 0"),
        (["--temperature", "-0.1"], "--temperature -0.1: must be at least 0"),
        (["--temperature", "nan"], "--temperature nan"),
        (["--seed", "-1"], "--seed -1"),
        (["--step", "3"], "did you mean --steps"),
        (["--checkpoint", "nowhere"], "no checkpoint at nowhere"),
    ],
)
def test_bad_input_is_one_line(words, match):
    with pytest.raises(UserError, match=match) as error:
        main(words)
    assert "\n" not in str(error.value)


def test_it_runs_from_its_folder(monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    monkeypatch.setattr(sys, "argv", ["sample.py", "--num", "0"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(FOLDER / "sample.py"), run_name="__main__")
    assert stop.value.code == 2 and capsys.readouterr().err == "error: --num 0: must be at least 1\n"
    assert sys.path[0] == str(FOLDER.parent)
