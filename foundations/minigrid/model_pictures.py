"""Pictures of a trained model: what its codes stand for, what its priors imagine, what its plan does.

Shapes: G variables of a code, N entries of an observation.
"""

from pathlib import Path

import numpy as np
import torch

from foundations.minigrid import clips
from foundations.minigrid.dyna_q import CodeAgent, Plan
from foundations.minigrid.envs import World, full_view, load_state
from foundations.minigrid.experience import Transitions
from foundations.minigrid.world_model import CategoricalWorldModel


@torch.no_grad()
def draw_model(
    world: World, data: Transitions, model: CategoricalWorldModel, out: Path, seed: int, count: int = 8
) -> None:
    """reconstruction.png, and rooms imagined from three priors, each with what `forward` makes of them."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    known = np.unique(data.obs, axis=0)
    some = known[np.sort(rng.choice(len(known), min(count, len(known)), replace=False))]
    rebuilt = model.frames(model.code(torch.from_numpy(some))).numpy()
    clips.reconstruction(world.shape, some, rebuilt, out / "reconstruction.png")
    forward = torch.full((count, 1), world.actions.index(2))

    def imagined(name: str, code: torch.Tensor) -> dict[str, np.ndarray]:
        after = model.imagine(code, forward)[0][:, 1]
        return {name: model.frames(code).numpy(), "one imagined step forward": model.frames(after).numpy()}

    uniform = torch.randint(model.cfg.classes, (count, model.cfg.groups), generator=generator)
    clips.imagined(world.shape, imagined("codes drawn uniformly", uniform), out / "uniform_prior.png")
    blind, full = (prior.sample(count, generator) for prior in (model.independent_prior, model.prior))
    rows = {
        **{f"independent variables: {k}": v for k, v in imagined("drawn", blind).items()},
        **{f"one variable after another: {k}": v for k, v in imagined("drawn", full).items()},
    }
    clips.imagined(world.shape, rows, out / "learned_prior.png")


def draw_plan(
    world: World, model: CategoricalWorldModel, codes: torch.Tensor, plan: Plan, act: CodeAgent, path: Path
) -> None:
    """dyna_q.gif: values spread while the agent dreams; then it walks, from the layout's own start."""
    world.reset(seed=0)
    load_state(world.grid, world.start)
    walk, lines, over = [full_view(world.grid)], ["start"], False
    while not over and len(walk) < 60:
        action = act(walk[-1])
        obs, rew, terminated, truncated, _ = world.step(action)
        walk.append(obs)
        lines.append(f"step {len(walk) - 1}: {world.grid.actions(world.actions[action]).name}")
        over = terminated or truncated
    if terminated and rew > 0:
        lines[-1] += ", the goal"
    clips.plan_clip(world.shape, model.frames(codes).numpy(), plan.snapshots, np.stack(walk), lines, path)
