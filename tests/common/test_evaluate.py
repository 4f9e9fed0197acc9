"""Evaluation: every seed once, whoever is short; recorded rows aligned; the scripts from flags to files."""

import json

import numpy as np
import pytest

from common.cli import EvalArgs
from common.envs.toy_dodge import ToyDodge
from common.envs.toys import ToyEnv, ToyVectorEnv
from common.errors import UserError
from common.evaluate import evaluate, play, resets_one_by_one
from common.scripts import eval_main, other_env, visualize_main
from common.testing import (
    CountingEnv,
    EnvSpec,
    FakeAgent,
    VectorCountingEnv,
    counting_envs,
    length_of,
)


class InRounds:
    """A vector env that can only reset all of its envs at once."""

    def __init__(self, envs):
        self.envs, self.num_envs, self.unwrapped = envs, envs.num_envs, self
        self.render_mode = None

    def reset(self, *, seed, options=None):
        assert options is None
        return self.envs.reset(seed=seed)

    def step(self, actions):
        return self.envs.step(actions)


@pytest.mark.parametrize("wrap", [lambda envs: envs, InRounds])
@pytest.mark.parametrize("num", [1, 2, 5, 16])
def test_every_seed_is_played_once_to_its_end(num, wrap):
    agent, envs = FakeAgent(), wrap(counting_envs(num))
    assert resets_one_by_one(envs) == (wrap is not InRounds)
    result = play(agent, envs, episodes=13, seed=40)
    lengths = np.array([length_of(40 + k) for k in range(13)])
    np.testing.assert_array_equal(result.lengths, lengths)
    np.testing.assert_array_equal(result.returns, lengths * (lengths + 1) / 2)  # 1 + 2 + ... + length
    np.testing.assert_array_equal(result.infos["lap"], 2 * lengths)


@pytest.mark.parametrize("wrap", [lambda envs: envs, InRounds])
def test_is_first_marks_exactly_the_first_observations(wrap):
    agent = FakeAgent()
    play(agent, wrap(counting_envs(4)), episodes=11)
    for step in agent.seen:  # also in games that are not counted
        t = step["obs"]["image"][:, 0, 0, 0]
        np.testing.assert_array_equal(step["obs"]["is_first"], t == 0)
        np.testing.assert_array_equal(step["state"], t)


def test_toys_in_lockstep_score_as_one_by_one():
    agent = FakeAgent()
    result = play(agent, ToyVectorEnv(ToyDodge, 6), episodes=10, seed=7, record=2)
    for k in range(10):
        env, total, over, state = ToyEnv(ToyDodge), 0.0, False, 100
        obs, _ = env.reset(seed=7 + k)
        first = obs["image"]
        while not over:
            state = 0 if obs["image"] is first else state + 1
            obs, rew, terminated, truncated, _ = env.step(state % 3)
            total, over = total + rew, terminated or truncated
        assert result.returns[k] == total, k
        if k < 2:
            np.testing.assert_array_equal(result.episodes[k].obs["image"][0], first)
            np.testing.assert_array_equal(result.episodes[k].obs["image"][-1], obs["image"])


def test_recorded_rows_follow_the_convention():
    result = play(FakeAgent(), counting_envs(3), episodes=5, seed=2, record=4)
    assert len(result.episodes) == 4
    for k, episode in enumerate(result.episodes):
        rows = length_of(2 + k) + 1
        assert len(episode) == rows and episode.seed == 2 + k
        t, last_act = episode.obs["image"][:, 0, 0, 0], episode.obs["image"][:, 0, 0, 1]
        np.testing.assert_array_equal(t, np.arange(rows))
        np.testing.assert_array_equal(episode.act[:-1], last_act[1:])  # act[t] leads to row t + 1
        assert episode.act[-1] == 0
        np.testing.assert_array_equal(episode.rew, np.arange(rows))  # received on arriving, 0 at the first
        np.testing.assert_array_equal(episode.is_first, np.arange(rows) == 0)
        np.testing.assert_array_equal(episode.is_last, np.arange(rows) == rows - 1)
        assert episode.is_terminal[-1] == (k % 2 == 0) and not episode.is_terminal[:-1].any()


def test_max_steps_cuts_without_a_terminal():
    result = play(FakeAgent(), counting_envs(2), episodes=6, record=6, max_steps=4)
    assert result.lengths.max() == 4 and max(map(len, result.episodes)) == 5
    cut = [episode for k, episode in enumerate(result.episodes) if length_of(k) > 4]
    assert cut and not any(episode.is_terminal.any() for episode in cut)
    assert all(episode.is_last[-1] for episode in cut)


def test_an_episode_whose_worker_died_is_played_again():
    class Crashing(InRounds):
        steps = 0

        def step(self, actions):
            obs, rew, terminated, truncated, info = self.envs.step(actions)
            self.steps += 1
            if self.steps == 2:
                truncated = truncated | np.array([True, False])
                info["worker_restarted"] = np.array([True, False])
            return obs, rew, terminated, truncated, info

    result = play(FakeAgent(), Crashing(counting_envs(2)), episodes=5, record=5)
    np.testing.assert_array_equal(result.lengths, [length_of(k) for k in range(5)])
    assert [len(episode) for episode in result.episodes] == [length_of(k) + 1 for k in range(5)]


def test_evaluate_builds_the_agents_env_and_repeats():
    agent = FakeAgent("toy_dodge")
    first = evaluate(agent, episodes=4, seed=3)
    again = evaluate(agent, episodes=4, seed=3, num_envs=1, backend="sync")
    np.testing.assert_array_equal(first.returns, again.returns)
    assert first.score()["episodes"] == 4 and first.wall_s > 0 and first.cpu_s > 0


def test_vector_envs_are_recorded_with_pictures():
    result = play(FakeAgent(), counting_envs(2, VectorCountingEnv), episodes=2, record=1)
    assert result.episodes[0].obs["vector"].shape == (21, 3)
    frames = result.episodes[0].frames
    assert len(frames) == 21 and [int(frame[0, 0, 0]) for frame in frames] == [10 * t for t in range(21)]


def test_another_env_keeps_the_options_that_apply():
    spec = EnvSpec("CarRacing-v3", {"native_actions": True, "fast_render": True})
    assert other_env(spec, None) is spec
    assert other_env(spec, "BipedalWalker-v3").options == {"native_actions": True}


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr("common.scripts.load_agent", lambda path, device: FakeAgent("toy_dodge"))
    (tmp_path / "model.pt").write_bytes(b"stands for a checkpoint")
    return tmp_path / "model.pt"


def test_eval_script_from_flags_to_files(checkpoint, capsys):
    (checkpoint.parent / "eval.json").write_text(json.dumps({"frames": 30000, "label": "z only", "score": 0}))
    flags = ["--checkpoint", str(checkpoint), "--episodes", "5", "--seed", "3", "--render"]
    report = lambda agent, result, args: {"laps": int(result.lengths.max())}  # noqa: E731
    eval_main(flags, "paper1_world_models", report=report)
    data = json.loads((checkpoint.parent / "eval.json").read_text())
    assert data["score"]["episodes"] == 5 and len(data["returns"]) == 5
    assert data["seed"] == 3 and "--seed 3" in data["command"]
    assert (data["frames"], data["label"]) == (30000, "z only")  # the training's words stay
    assert data["optimum"]["value"] == 200 and data["way"] < 1 and data["laps"] > 0
    assert (checkpoint.parent / "eval.mp4").stat().st_size > 1000
    printed = capsys.readouterr().out
    for word in ("95 % CI", "min", "max", "length", "random", "blind", "published", "eval.json", "eval.mp4"):
        assert word in printed, word


def test_visualize_script_from_flags_to_files(checkpoint, capsys):
    def extras(agent, window, folder, args):
        (folder / "own.txt").write_text(f"{window.context}")
        return [folder / "own.txt"]

    out = checkpoint.parent / "pictures"
    flags = ["--checkpoint", str(checkpoint), "--num-dreams", "3", "--horizon", "40", "--out", str(out)]
    loop = visualize_main(flags, "paper1_world_models", extras=extras)
    names = {
        "open_loop.mp4",
        "open_loop.png",
        "free_dreams.mp4",
        "rollout_error.png",
        "heads.png",
        "reconstruction.png",
        "own.txt",
    }
    assert {file.name for file in out.iterdir()} == names
    assert loop.window.context == 5 and loop.window.horizon <= 40
    printed = capsys.readouterr().out
    assert "context 5, horizon" in printed and "copy last frame" in printed and "own.txt" in printed


def test_a_checkpoint_of_another_paper_is_refused(checkpoint):
    with pytest.raises(UserError, match="written by paper1_world_models, not paper5_iris"):
        eval_main(["--checkpoint", str(checkpoint)], "paper5_iris", args=EvalArgs)


def test_counting_env_says_which_seed_it_plays():
    env = CountingEnv()
    assert env.reset(seed=9)[0]["image"][0, 0, 2] == 9
