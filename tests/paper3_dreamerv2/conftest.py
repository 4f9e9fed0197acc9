"""Small settings of paper 3 that run in seconds, random batches."""

from collections.abc import Callable

import pytest
import torch

from common.config import override
from common.env_wrapper import EnvSpec
from common.faults import NonFiniteGuard
from common.seeding import seed_everything
from common.spaces import Spaces
from paper3_dreamerv2.agent import DreamerV2Agent
from paper3_dreamerv2.config import Config
from paper3_dreamerv2.presets import PRESETS
from paper3_dreamerv2.train import Learner

SMALL = {
    "env": "toy_catch",
    "conv.depth": 2,
    "conv.layers": 1,
    "conv.units": 8,
    "rssm.deter": 12,
    "rssm.hidden": 10,
    "rssm.stoch": 3,
    "rssm.classes": 4,
    "model.layers": 1,
    "model.units": 8,
    "model.free_nats": 0.0,
    "actor.layers": 1,
    "actor.units": 8,
    "behaviour.critic_layers": 1,
    "behaviour.critic_units": 8,
    "behaviour.horizon": 4,
    "behaviour.warmup": 0,
    "replay.batch": 3,
    "replay.length": 6,
}
VECTOR = Spaces({"vector": (5,)}, 3, True)  # no pictures: an update in milliseconds
CONTINUOUS = Spaces({"vector": (5,)}, 2, False)


@pytest.fixture(scope="session")
def small() -> Callable[..., Config]:
    """The tiny preset, smaller: small(**{"model.units": 4})."""
    return lambda **more: override(PRESETS["tiny"], {**SMALL, **more})


@pytest.fixture(scope="session")
def learner(small) -> Callable[..., Learner]:
    """A fresh agent and its optimisers: learner({"actor.rho": 0.5}, discrete=False, seed=3)."""

    def make(more: dict | None = None, *, spaces=None, discrete=True, cont=True, seed=0) -> Learner:
        seed_everything(seed)
        spaces = spaces or (VECTOR if discrete else CONTINUOUS)
        cfg = small(**(more or {}))
        return Learner(DreamerV2Agent(cfg, EnvSpec(cfg.env, {}), spaces, cont), NonFiniteGuard())

    return make


@pytest.fixture(scope="session")
def random_batch() -> Callable[..., dict[str, torch.Tensor]]:
    """What utils.sample gives, out of thin air; the last row of the first sequence is terminal."""

    def make(spaces: Spaces = VECTOR, B: int = 3, T: int = 6, seed: int = 0) -> dict[str, torch.Tensor]:
        rng = torch.Generator().manual_seed(seed)
        batch = {
            key: torch.randint(256, (B, T, *shape), dtype=torch.uint8, generator=rng)
            if key in spaces.images
            else torch.randn(B, T, *shape, generator=rng)
            for key, shape in spaces.obs.items()
        }
        act = torch.rand(B, T, spaces.act, generator=rng) * 2 - 1
        if spaces.discrete:
            act = torch.nn.functional.one_hot(act.argmax(-1), spaces.act).float()
        act[:, 0] = 0
        flags = {name: torch.zeros(B, T, dtype=torch.bool) for name in ("is_first", "is_terminal")}
        flags["is_first"][:, 0] = True
        flags["is_terminal"][0, -1] = True
        return batch | {"prev_act": act, "rew": torch.randn(B, T, generator=rng), **flags}

    return make


@pytest.fixture(autouse=True)
def seeded():
    """The same random numbers in every session."""
    seed_everything(0)
