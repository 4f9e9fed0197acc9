"""What evaluation, videos and comparisons know of a paper: the `Agent` protocol, its `Dream`, `load_agent`.

Letters: N envs acting side by side, B dreamed sequences, C context rows, H dreamed rows, A action dims.
Rows follow common/replay_buffer.py: act[t] is chosen at obs[t], so dreamed row C is reached by act[C-1].
`load_agent` reads the paper's name out of the checkpoint and looks the class up in `AGENTS`, a table in this
file: a checkpoint can therefore never name the code that is to be imported.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from common.errors import UserError

if TYPE_CHECKING:
    from common.env_wrapper import EnvSpec

AGENTS = {  # checkpoint name -> where its class lives; imported on demand, so that no paper drags in another
    "paper1_world_models": "paper1_world_models.agent:WorldModelsAgent",
    "paper2_dreamerv1": "paper2_dreamerv1.agent:DreamerV1Agent",
    "paper3_dreamerv2": "paper3_dreamerv2.agent:DreamerV2Agent",
    "paper4_dreamerv3": "paper4_dreamerv3.agent:DreamerV3Agent",
    "paper5_iris": "paper5_iris.agent:IrisAgent",
}


@dataclass(frozen=True)
class Dream:
    """What a model decodes: rows 0..C-1 reconstruct the context, rows C..C+H-1 are dreamed, unseen.

    `rew`, `cont` and `val` are None where the paper predicts none; `cont` is the probability that the row
    is not terminal, with the discount divided out.  A row for which nothing was predicted holds nan.
    """

    obs: dict[str, np.ndarray]  # image* uint8 [B, C+H, h, w, c], vector* float32 [B, C+H, D]
    act: np.ndarray  # [B, C+H, A], or [B, C+H] for Discrete: chosen at each row
    context: int  # C
    rew: np.ndarray | None = None  # [B, C+H]: received on arriving at the row
    cont: np.ndarray | None = None  # [B, C+H]
    val: np.ndarray | None = None  # [B, C+H]

    @property
    def horizon(self) -> int:
        """H: the rows after the context."""
        return self.act.shape[1] - self.context

    def check(self) -> Dream:
        """Assert that all arrays agree on [B, C+H] and that images are uint8; returns itself."""
        lead = self.act.shape[:2]
        for key, value in {**self.obs, "rew": self.rew, "cont": self.cont, "val": self.val}.items():
            if value is None:
                continue
            assert value.shape[:2] == lead, (key, value.shape, lead)
            assert not key.startswith("image") or value.dtype == np.uint8, (key, value.dtype)
        assert 0 <= self.context <= lead[1], (self.context, lead)
        return self


@runtime_checkable
class Agent(Protocol):
    """A trained agent of any paper, with its world model."""

    paper: str  # a key of AGENTS
    env: EnvSpec  # what it was trained on

    def initial(self, batch: int) -> Any:
        """The recurrent state before the first observation, for N = batch games."""

    def act(self, obs: dict[str, np.ndarray], state: Any, *, explore: bool) -> tuple[np.ndarray, Any]:
        """obs values [N, ...], obs["is_first"] [N] bool (those rows start anew) -> act [N, ...], state.

        explore=False is the paper's evaluation mode.
        """

    def dream(
        self,
        context: dict[str, np.ndarray],
        horizon: int,
        *,
        actions: np.ndarray | None = None,
        temperature: float = 1.0,
        generator: Any = None,
    ) -> Dream:
        """Watch C context rows [B, C, ...] (obs keys, act, is_first), then imagine H rows open loop.

        actions[:, i] [B, H, ...] is chosen at row C+i; with None the policy acts inside the dream.
        `generator`: a torch.Generator for the model's samples.  horizon=0 gives reconstructions only.
        """

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> Agent:
        """Build the agent out of a checkpoint file (weights, config and env spec are all inside)."""


def agent_class(paper: str) -> type:
    """The agent class of a checkpoint's paper name; raises UserError where there is none here."""
    if paper not in AGENTS:
        known = ", ".join(AGENTS)
        raise UserError(f"unknown paper {paper!r} in the checkpoint; known are {known}: update with git pull")
    module, name = AGENTS[paper].split(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing in (module, module.split(".")[0]):
            raise UserError(f"{paper} is not in this copy of the repository: update with git pull") from error
        raise UserError(f"{paper} needs {missing}: pip install {missing}") from error


def load_agent(path: str | Path, device: str = "cpu") -> Agent:
    """Checkpoint file or run folder -> ready agent of the paper that wrote it; UserError on a bad file."""
    from common.checkpoint import find_checkpoint, load_file  # imports torch: only now

    file = find_checkpoint(path)
    paper = load_file(file).get("paper")
    if not isinstance(paper, str):
        raise UserError(f"{file} names no paper, so it is no agent; give a model.pt or its run folder")
    return agent_class(paper).load(file, device=device)
