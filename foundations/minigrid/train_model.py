"""Learning the world model from random experience, in two phases.

1. The autoencoder alone, on the *distinct* observations: a code for everything that was ever seen.
2. Codes frozen: what actions do to them, reward and end.  Half of each batch is drawn as it happened; the
   other half once from each distinct transition, with an eighth of the batch from rewarded ones.  A random
   agent seldom gets behind the door of DoorKey, and what it saw there must not drown.  The prior over codes
   is fitted beside it, on codes as often as they were seen.

Joint training works too but moves the codes under the dynamics' feet; it needs more than twice the time.

Shapes: M transitions, D distinct observations, N cells, G variables of the code.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from foundations.minigrid.envs import SYMBOLS, World
from foundations.minigrid.experience import Transitions
from foundations.minigrid.world_model import CategoricalWorldModel, ModelConfig

BATCH, LEARNING_RATE = 128, 2e-3
RARE, REWARDED = BATCH // 2, BATCH // 8  # rows of a batch from distinct transitions, and from rewarded ones


@dataclass(frozen=True)
class Preset:
    """What a world needs to be learned."""

    steps: int
    """Random steps of experience."""
    updates: tuple[int, int]
    """Updates of phase 1 and of phase 2."""
    latent: str = "8x8"
    """Variables x classes of the code."""
    random_start: bool = True
    """Do episodes begin anywhere?  From one corner a large world is never seen."""


PRESETS = {
    "Empty-5x5": Preset(3_000, (1_000, 1_000)),
    "Empty-6x6": Preset(5_000, (1_500, 1_500)),
    "Empty-8x8": Preset(15_000, (3_000, 3_000)),
    "DoorKey-5x5": Preset(30_000, (2_000, 2_500), random_start=False),
    "FourRooms": Preset(30_000, (6_600, 15_400), latent="16x8"),
    "TwoRooms": Preset(10_000, (2_000, 2_500)),
}
OTHER = Preset(20_000, (3_000, 4_000))


class Log(NamedTuple):
    """Losses of both phases, a number per update and name."""

    view: dict[str, np.ndarray]
    step: dict[str, np.ndarray]


def preset_of(env: str) -> Preset:
    """The preset of a world by either of its names."""
    return PRESETS.get(env.removeprefix("MiniGrid-").removesuffix("-v0"), OTHER)


def train(
    world: World, data: Transitions, updates: tuple[int, int], cfg: ModelConfig, seed: int
) -> tuple[CategoricalWorldModel, Log]:
    """Both phases.  -> the model, ready to be asked, and its losses"""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = CategoricalWorldModel(data.obs.shape[1], len(SYMBOLS), int(world.action_space.n), cfg)
    view = train_views(model, distinct(data), updates[0], generator)
    step = train_steps(model, data, updates[1], generator)
    return model.eval(), Log(view, step)


def distinct(data: Transitions) -> Tensor:
    """Every observation once, also those that only an end was reached in.  -> uint8 [D, N]"""
    return torch.from_numpy(np.unique(np.concatenate([data.obs, data.next_obs]), axis=0))


def distinct_rows(data: Transitions) -> np.ndarray:
    """A row of every (obs, action, next obs) that happened.  -> int [at most M]"""
    table = np.concatenate([data.obs, data.act[:, None].astype(np.uint8), data.next_obs], axis=1)
    return np.unique(table, axis=0, return_index=True)[1]


def train_views(
    model: CategoricalWorldModel, obs: Tensor, updates: int, generator: torch.Generator
) -> dict[str, np.ndarray]:
    """Phase 1.  obs: uint8 [D, N]"""
    model.train()
    model.set_scale(obs)
    params = [*model.encoder.parameters(), *model.decoder.parameters()]

    def losses() -> dict[str, Tensor]:
        return model.view_loss(obs[torch.randint(len(obs), (BATCH,), generator=generator)], generator)

    return _descend(params, losses, updates)


def train_steps(
    model: CategoricalWorldModel, data: Transitions, updates: int, generator: torch.Generator
) -> dict[str, np.ndarray]:
    """Phase 2: codes are computed once and do not change any more."""
    model.eval()
    code, next_code = codes_of(model, data.obs), codes_of(model, data.next_obs)  # [M, G]
    act, rew, over = map(torch.from_numpy, (data.act, data.rew, data.terminal))
    once = torch.from_numpy(distinct_rows(data))
    goals = torch.from_numpy(np.flatnonzero(data.rew > 0))
    params = [p for n, p in model.named_parameters() if not n.startswith(("encoder", "decoder"))]

    def losses() -> dict[str, Tensor]:
        seen = torch.randint(len(code), (BATCH - RARE,), generator=generator)
        rare = once[torch.randint(len(once), (RARE,), generator=generator)]
        if len(goals):
            rare[:REWARDED] = goals[torch.randint(len(goals), (REWARDED,), generator=generator)]
        rows = torch.cat([seen, rare])
        step = model.step_loss(code[rows], act[rows], rew[rows], next_code[rows], over[rows])
        return {**step, **model.prior_loss(code[seen])}

    return _descend(params, losses, updates)


def _descend(params: list, losses: Callable[[], dict[str, Tensor]], updates: int) -> dict[str, np.ndarray]:
    """Adam whose learning rate falls to a tenth; each named loss is averaged over its rows and added up."""
    optim = torch.optim.Adam(params, LEARNING_RATE, fused=True)
    schedule = torch.optim.lr_scheduler.LinearLR(optim, 1.0, 0.1, max(updates, 1))
    history: list[Tensor] = []
    names: list[str] = []
    for _ in range(updates):
        means = {name: loss.mean() for name, loss in losses().items()}
        optim.zero_grad()
        sum(means.values()).backward()
        optim.step()
        schedule.step()
        names = list(means)
        history.append(torch.stack([*means.values()]).detach())
    values = torch.stack(history).numpy() if history else np.empty((0, 0))  # [updates, names]
    return {name: values[:, i] for i, name in enumerate(names)}


@torch.no_grad()
def codes_of(model: CategoricalWorldModel, obs: np.ndarray) -> Tensor:
    """Codes of many observations; each distinct one is encoded once.  uint8 [M, N] -> int64 [M, G]"""
    unique, where = np.unique(obs, axis=0, return_inverse=True)
    return model.code(torch.from_numpy(unique))[torch.from_numpy(where.reshape(-1))]


@torch.no_grad()
def evaluate_model(
    model: CategoricalWorldModel, train_data: Transitions, test: Transitions
) -> dict[str, float]:
    """Codes in use, and how often whole frames are right: of what was seen, and one step ahead in new data.

    Next-code accuracy is told to show that it cannot be trusted: a collapsed code predicts itself.
    """
    obs = distinct(train_data)
    codes = model.code(obs)
    rebuilt = model.decode(model.one_hot(codes)).argmax(-1)  # [D, N]
    goes_on = ~test.terminal
    code, next_code = codes_of(model, test.obs[goes_on]), codes_of(model, test.next_obs[goes_on])
    predicted = model.dynamics(model.one_hot(code), torch.from_numpy(test.act[goes_on])).argmax(-1)
    frames = model.decode(model.one_hot(predicted)).argmax(-1).numpy()  # [M, N]
    return {
        "observations": len(obs),
        "codes": len(torch.unique(codes, dim=0)),
        "exact_frame": float((rebuilt == obs).all(1).float().mean()),
        "next_code": float((predicted == next_code).all(1).float().mean()),
        "exact_next_frame": float((frames == test.next_obs[goes_on]).all(1).mean()),
    }
