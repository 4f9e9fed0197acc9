"""What a command line says, as data: train.py's TrainCommand, and the flags of eval.py and visualize.py.

The docstrings below the fields are what `--help` prints.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.config import Device, Layer
from common.errors import UserError

MAX_DREAMS = 40  # a row of a video each; video encoders take no picture above 16,384 pixels


@dataclass(frozen=True)
class TrainCommand:
    """What the user asked of train.py."""

    config: Any
    """The resolved config: preset + suite + flags, or the resumed run's + flags."""
    preset: str
    """Name of the preset that it started from."""
    layers: list[Layer]
    """What each layer set, for the start block."""
    notices: list[str]
    """Lines to print first: which preset and why, a retired env id, what --resume overrode."""
    resume: Path | None
    """Run folder to go on with, or None."""
    dry_run: bool
    """Print the start block and exit 0."""
    given: frozenset[str]
    """Dotted names of the config fields that the command line set."""
    extra: Any = None
    """The paper's own flags that are no part of the config (the `extra` dataclass of parse_train)."""

    @property
    def env_given(self) -> bool:
        """Whether --env stood on the command line."""
        return "env" in self.given


@dataclass(frozen=True, kw_only=True)
class EvalArgs:
    """The flags of every eval.py; a paper adds its own in a subclass."""

    checkpoint: Path = Path("model.pt")
    """A model.pt, or the run folder that holds one."""
    episodes: int = 10
    """Episodes to play."""
    render: bool = False
    """Also write a video: observation, reconstruction, running return."""
    env: str | None = None
    """Another environment id than the one the agent was trained on."""
    seed: int = 0
    """Seed of the first episode; the others follow from it."""
    out: Path | None = None
    """Folder for eval.json and the video; None: the checkpoint's folder."""
    device: Device = "auto"
    """Where the networks run; auto: cuda, else mps, else cpu."""
    threads: int = 0
    """CPU threads that torch may use; 0: torch's own choice."""

    def check(self) -> None:
        """UserError for values that cannot be meant; a paper's subclass checks its own flags here."""


@dataclass(frozen=True, kw_only=True)
class VisualizeArgs:
    """The flags of every visualize.py; a paper adds its own in a subclass."""

    checkpoint: Path = Path("model.pt")
    """A model.pt, or the run folder that holds one."""
    num_dreams: int = 5
    """Dreams to draw, each from its own piece of a real episode."""
    horizon: int = 45
    """Steps to dream."""
    context: int = 5
    """Real frames that the model sees before it dreams."""
    out: Path | None = None
    """Folder for the videos and plots; None: videos/ beside the checkpoint."""
    seed: int = 0
    """Seed of the episodes and of the sampling."""
    device: Device = "auto"
    """Where the networks run; auto: cuda, else mps, else cpu."""
    threads: int = 0
    """CPU threads that torch may use; 0: torch's own choice."""

    def check(self) -> None:
        """UserError for values that cannot be meant; a paper's subclass calls this and checks its own."""
        if self.num_dreams > MAX_DREAMS:
            raise UserError(f"--num-dreams {self.num_dreams}: must be at most {MAX_DREAMS} to fit a video")
