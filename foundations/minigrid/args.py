"""The flags of every command.  Nothing heavy is imported here, so that --help answers at once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.errors import UserError
from foundations.commands import Args


def need(flag: str, value: float, low: float, high: float = float("inf")) -> None:
    """UserError unless low <= value <= high."""
    if not low <= value <= high:
        span = f"at least {low:g}" if high == float("inf") else f"from {low:g} to {high:g}"
        raise UserError(f"--{flag} {value:g}: must be {span}")


@dataclass(frozen=True, kw_only=True)
class WorldArgs(Args):
    """Which world."""

    out: Path = Path("runs/foundations/minigrid")
    """Folder for what the command writes."""
    env: str = "TwoRooms"
    """TwoRooms, or a MiniGrid world by its short name (Empty-6x6, DoorKey-5x5, FourRooms) or its id."""
    layout: int = 0
    """Seed of the map, for worlds that draw theirs."""

    def check(self) -> None:
        """What the values must be."""
        need("layout", self.layout, 0)


@dataclass(frozen=True, kw_only=True)
class ShowArgs(WorldArgs):
    """What there is to see."""

    view: int = 5
    """Side of the agent's square view: odd, at least 3."""
    episodes: int = 100
    """Episodes of the random agent."""

    def check(self) -> None:
        """What the values must be."""
        super().check()
        need("episodes", self.episodes, 1)


@dataclass(frozen=True, kw_only=True)
class MdpArgs(WorldArgs):
    """Table and solvers."""

    gamma: float = 0.99
    """Discount of a step."""
    slip: float = 0.0
    """Probability of each other action to happen instead; with 3 actions .1 leaves .8 as meant."""
    drop: bool = False
    """May a key be dropped again?  (It can then lie anywhere: many more states.)"""
    episodes: int = 600
    """Episodes of Q-learning."""
    max_steps: int = 100
    """Length at which those end."""

    def check(self) -> None:
        """What the values must be."""
        super().check()
        need("gamma", self.gamma, 0, 0.9999)
        need("slip", self.slip, 0, 0.2)
        need("episodes", self.episodes, 1)
        need("max-steps", self.max_steps, 1)


@dataclass(frozen=True, kw_only=True)
class PomdpArgs(WorldArgs):
    """Acting on what can be seen."""

    views: tuple[int, ...] = (3, 5)
    """Sides of the agent's view."""
    errors: tuple[float, ...] = (0.0, 0.1)
    """Probabilities of a wrong view."""
    slips: tuple[float, ...] = (0.0, 0.1)
    """Probabilities of each other action."""
    gamma: float = 0.97
    """Discount of a step."""
    episodes: int = 400
    """Episodes of each agent."""

    def check(self) -> None:
        """What the values must be."""
        super().check()
        need("gamma", self.gamma, 0, 0.9999)
        need("episodes", self.episodes, 1)
        for name, values, high in (("errors", self.errors, 0.9), ("slips", self.slips, 0.2)):
            if not values:
                raise UserError(f"--{name}: give at least one number")
            for value in values:
                need(name, value, 0, high)
        if not self.views:
            raise UserError("--views: give at least one, such as 5")


@dataclass(frozen=True, kw_only=True)
class CollectArgs(WorldArgs):
    """Random experience."""

    env: str = "Empty-6x6"
    """TwoRooms, or a MiniGrid world by its short name (Empty-6x6, DoorKey-5x5, FourRooms) or its id."""
    steps: int = 0
    """Random steps; 0: the world's preset."""
    start: Literal["preset", "random", "layout"] = "preset"
    """Where episodes begin: on any empty cell, or where the layout has it."""

    def check(self) -> None:
        """What the values must be."""
        super().check()
        need("steps", self.steps, 0)


@dataclass(frozen=True, kw_only=True)
class TrainArgs(CollectArgs):
    """The world model and its training."""

    seeds: int = 1
    """Repeat with this many seeds, from --seed on; the files are of the first."""
    data: Path | None = None
    """An experience.npz of collect, for all seeds; none: every seed collects its own."""
    updates: int = 0
    """Updates of both phases together, half each; 0: the world's preset."""
    latent: str = ""
    """Variables x classes of the code, such as 8x8; empty: the world's preset."""
    normalise: bool = True
    """Centre and scale inputs and logits; --no-normalise shows the collapse."""

    def check(self) -> None:
        """What the values must be."""
        super().check()
        need("seeds", self.seeds, 1)
        need("updates", self.updates, 0)


@dataclass(frozen=True, kw_only=True)
class DreamArgs(Args):
    """Dreams of a trained model."""

    out: Path = Path("runs/foundations/minigrid")
    """Folder for what the command writes."""
    checkpoint: Path | None = None
    """A world_model.pt of train-model; none: the one in --out."""
    horizon: int = 40
    """Steps of a dream."""
    dreams: int = 100
    """Dreams that are compared with the world; the first one is drawn."""

    def check(self) -> None:
        """What the values must be."""
        need("horizon", self.horizon, 1)
        need("dreams", self.dreams, 1)


@dataclass(frozen=True, kw_only=True)
class DynaArgs(TrainArgs):
    """Planning in the model."""

    transitions: int = 200_000
    """Imagined steps."""
    gamma: float = 0.97
    """Discount of a step."""
    episodes: int = 100
    """Episodes in the real world that are scored."""

    def check(self) -> None:
        """What the values must be."""
        super().check()
        need("transitions", self.transitions, 1)
        need("gamma", self.gamma, 0, 0.9999)
        need("episodes", self.episodes, 1)


@dataclass(frozen=True, kw_only=True)
class LimitsArgs(Args):
    """Growing grids."""

    out: Path = Path("runs/foundations/minigrid")
    """Folder for what the command writes."""
    sizes: tuple[int, ...] = (5, 8, 16, 32, 64)
    """Sides of the grids."""
    drop_up_to: int = 16
    """Largest side where a key may be dropped (16: 357,680 states)."""
    dense_states: int = 1_000
    """Largest number of states for which the dense table is built too."""

    def check(self) -> None:
        """What the values must be."""
        if not self.sizes:
            raise UserError("--sizes: give at least one, such as 8")
        for size in self.sizes:
            need("sizes", size, 5, 128)


@dataclass(frozen=True, kw_only=True)
class DemoArgs(Args):
    """Everything once, small."""

    out: Path = Path("runs/foundations/minigrid-demo")
    """Folder for what the command writes."""
    quick: bool = False
    """Budgets that only show that it runs."""
