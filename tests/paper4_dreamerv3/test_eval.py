"""eval.py --eval-mode: a trained agent plays draws or the likeliest actions, whatever its run was told."""

import json

import numpy as np
import pytest
import torch

from common.env_wrapper import EnvSpec
from common.errors import UserError
from common.spaces import Spaces
from paper4_dreamerv3.agent import DreamerV3Agent
from paper4_dreamerv3.eval import main


@pytest.fixture
def play(small, tmp_path, monkeypatch, capsys):
    """play("mode", "--eval-mode", "sample"), the run was told mode -> eval.json, actions, and output."""
    act, played = DreamerV3Agent.act, []

    def noted(self, *args, **more):
        played.append(act(self, *args, **more))
        return played[-1]

    monkeypatch.setattr(DreamerV3Agent, "act", noted)

    def run(own: str, *flags: str) -> tuple[dict, np.ndarray, str]:
        played.clear()
        spaces = Spaces({"image": (32, 32, 1)}, 3, True)
        cfg = small(**{"actor.eval_action": own})
        agent = DreamerV3Agent(cfg, EnvSpec("toy_catch", {"gray": True, "size": 32}), spaces)
        last = [part for part in agent.actor.modules() if isinstance(part, torch.nn.Linear)][-1]
        torch.nn.init.zeros_(last.weight)
        last.bias.data = torch.tensor([0.0, 0.5, 0.0])
        agent.save(tmp_path / "model.pt")
        main(["--checkpoint", str(tmp_path), "--episodes", "4", *flags])
        found = json.loads((tmp_path / "eval.json").read_text())
        return found, np.concatenate([a for a, _ in played]), capsys.readouterr().out

    return run


@pytest.mark.parametrize(
    "own, flags, mode",
    [
        ("sample", [], "sample"),
        ("sample", ["--eval-mode", "mode"], "mode"),
        ("mode", [], "mode"),
        ("mode", ["--eval-mode", "sample"], "sample"),
    ],
)
def test_the_flag_wins_over_the_run_and_is_written_down(play, own, flags, mode):
    found, actions, printed = play(own, *flags)
    assert found["eval_mode"] == mode and f"eval_mode  {mode}" in printed
    assert {*actions.tolist()} == ({1} if mode == "mode" else {0, 1, 2})
    assert found["parameters"]["actor"] > 0


def test_another_mode_is_one_line():
    with pytest.raises(UserError, match="--eval-mode best: must be one of .*sample"):
        main(["--eval-mode", "best"])
