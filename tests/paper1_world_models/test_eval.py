"""eval.py and visualize.py of paper 1: bad input is one line, and what the tables are made of."""

import json

import numpy as np
import pytest

from common import scripts
from common.config import override
from common.env_wrapper import EnvSpec
from common.errors import UserError
from paper1_world_models import eval as eval_script
from paper1_world_models import visualize
from paper1_world_models.agent import WorldModelsAgent
from paper1_world_models.controller import ActionCodec
from paper1_world_models.eval import gate_table
from paper1_world_models.presets import PRESETS

SMALL = {"vae.size": 16, "vae.latents": 4, "rnn.hidden": 8, "env_options": {"size": 16}}


@pytest.fixture
def checkpoint(tmp_path):
    """An agent of toy_dodge that says it is trained."""
    env = EnvSpec("toy_dodge", {"native_actions": True, "size": 16})
    agent = WorldModelsAgent(override(PRESETS["tiny"], SMALL), env, ActionCodec("thirds", 1))
    agent.stage = "controller"
    agent.save(tmp_path / "model.pt")
    return tmp_path / "model.pt"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--env CartPole-v1", "16 x 16 x 3, this env shows none"),
        ("--env toy_catch", "sees pictures of 16 x 16 x 3"),
        ("--episodes 0", "--episodes 0: must be at least 1"),
        ("--held-out --seed 7", "--seed 7: --held-out is --seed 0"),
        ("--episodes=5 --held-out", "--episodes 5: --held-out is --episodes 100"),
        ("--hel", "did you mean --help"),
        ("--held", "did you mean --held-out"),
    ],
)
def test_eval_refuses_in_one_line(checkpoint, line, words):
    with pytest.raises(UserError, match=words) as told:
        eval_script.main(["--checkpoint", str(checkpoint), "--device", "cpu", *line.split()])
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("stage", "words"), [("vae", "M and C are not trained yet"), ("rnn", "C is not trained yet")]
)
def test_who_was_never_trained_is_not_scored(checkpoint, stage, words):
    agent = WorldModelsAgent.load(checkpoint)
    agent.stage = stage
    agent.save(checkpoint)
    with pytest.raises(UserError, match=words):
        eval_script.main(["--checkpoint", str(checkpoint), "--episodes", "1"])
    assert not (checkpoint.parent / "eval.json").exists()


def test_a_place_that_cannot_be_written_is_told_before_anybody_plays(checkpoint, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(scripts, "evaluate", lambda *args, **kwargs: pytest.fail("it played"))
    for script in (eval_script, visualize):
        with pytest.raises(UserError, match="--out .*file/out: cannot be written"):
            script.main(["--checkpoint", str(checkpoint), "--out", str(tmp_path / "file" / "out")])


def test_the_score_in_another_env_does_not_replace_the_runs_own(checkpoint, monkeypatch):
    folder, plain = checkpoint.parent, scripts.evaluate
    line = ["--checkpoint", str(checkpoint), "--episodes", "1"]
    eval_script.main(line)
    own = (folder / "eval.json").read_bytes()
    monkeypatch.setattr(  # there is no other game that looks and is played like this one
        scripts, "evaluate", lambda agent, env, *args, **more: plain(agent, agent.env, *args, **more)
    )
    eval_script.main([*line, "--env", "toy_catch"])
    assert (folder / "eval.json").read_bytes() == own
    assert json.loads((folder / "eval-toy_catch.json").read_text())["env"]["name"] == "toy_catch"


def test_a_torn_eval_json_is_one_line(checkpoint):
    (checkpoint.parent / "eval.json").write_text('{"score": {"me')
    for call in (
        lambda: eval_script.main(["--checkpoint", str(checkpoint), "--episodes", "1"]),
        lambda: visualize.real_score(checkpoint),
    ):
        with pytest.raises(UserError, match="eval.json is damaged"):
            call()
    (checkpoint.parent / "eval.json").write_text('{"label": "begun"}')
    assert visualize.real_score(checkpoint) is None


def test_a_controller_of_another_size_is_refused_at_loading(checkpoint):
    agent = WorldModelsAgent.load(checkpoint)
    agent.params = agent.params[:-1]
    agent.save(checkpoint)
    with pytest.raises(UserError, match="weights"):
        WorldModelsAgent.load(checkpoint)


def test_an_env_with_other_actions_is_refused(checkpoint):
    agent = WorldModelsAgent.load(checkpoint)
    spec = agent.env.make()
    agent.check_env(spec.observation_space, spec.action_space)  # its own is fine
    agent.codec = ActionCodec("argmax", 5)
    with pytest.raises(UserError, match="argmax actions of size 5, this env takes Discrete"):
        agent.check_env(spec.observation_space, spec.action_space)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--temperatures -1", "--temperatures -1: must be above 0"),
        ("--temperatures", "--temperatures needs a value"),
        ("--latents 0", "--latents 0: must be at least 1"),
        ("--num-dreams 0", "--num-dreams 0: must be at least 1"),
        ("--num-dreams 200", "--num-dreams 200: must be at most 40"),
        ("--horizon 0", "--horizon 0: must be at least 1"),
    ],
)
def test_visualize_refuses_in_one_line(checkpoint, line, words):
    with pytest.raises(UserError, match=words):
        visualize.main(["--checkpoint", str(checkpoint), *line.split()])


def test_a_real_score_of_zero_has_no_ratio(tmp_path):
    row = {"step": 1, "gate/blind/real": 0.0, "gate/blind/dream": 3.0, "gate/best/real": 4.0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps({**row, "gate/best/dream": 3.0}) + "\n")
    ratios = {entry["check"]: entry["ratio"] for entry in gate_table(tmp_path / "metrics.jsonl")}
    assert ratios == {"blind": None, "best": 0.75}


def test_the_real_score_stands_beside_the_checkpoint(tmp_path):
    assert visualize.real_score(tmp_path / "model.pt") is None
    (tmp_path / "eval.json").write_text(json.dumps({"score": {"mean": np.pi}}))
    assert visualize.real_score(tmp_path / "model.pt") == pytest.approx(np.pi)
