"""A world model in a file, with the world that it belongs to."""

from pathlib import Path

from common.checkpoint import fitting, load_file, save_file
from common.errors import UserError
from foundations.minigrid.envs import World, make_env
from foundations.minigrid.world_model import CategoricalWorldModel

PART = "foundations.minigrid"


def save_model(path: Path, model: CategoricalWorldModel, env: str, world: World, seed: int) -> None:
    """Weights, sizes, and what `make_env` needs."""
    made_by = {"env": env, "layout": world.layout, "random_start": world.random_start}
    save_file(path, {"paper": PART, "world": made_by, "seed": seed, **model.tree()})


def load_model(path: Path) -> tuple[CategoricalWorldModel, World]:
    """What `save_model` wrote.  UserError where it is missing, damaged, or something else."""
    if not path.is_file():
        raise UserError(f"no model at {path}: python -m {PART} train-model --out {path.parent}")
    tree = load_file(path, paper=PART)
    with fitting(path, PART):
        world = tree["world"]
        model = CategoricalWorldModel.from_tree(tree)
        return model, make_env(world["env"], world["layout"], random_start=world["random_start"], view=3)
