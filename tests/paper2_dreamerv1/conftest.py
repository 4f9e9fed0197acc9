"""Small settings of paper 2 that run in seconds, random batches."""

from collections.abc import Callable

import pytest
import torch

from common.config import override
from common.spaces import Spaces
from paper2_dreamerv1.config import Config
from paper2_dreamerv1.presets import PRESETS

SMALL = {
    "env": "toy_point",
    "conv.depth": 2,
    "conv.units": 8,
    "rssm.deter": 12,
    "rssm.hidden": 10,
    "rssm.stoch": 5,
    "model.units": 8,
    "model.cont_layers": 1,
    "actor.units": 8,
    "behaviour.value_units": 8,
    "behaviour.horizon": 4,
    "behaviour.warmup": 0,
    "replay.batch": 3,
    "replay.length": 6,
}


@pytest.fixture(scope="session")
def small() -> Callable[..., Config]:
    """The tiny preset, smaller: small(**{"model.units": 4})."""
    return lambda **more: override(PRESETS["tiny"], {**SMALL, **more})


@pytest.fixture(scope="session")
def random_batch() -> Callable[..., dict[str, torch.Tensor]]:
    """What buffer.sample gives, out of thin air: rows of one episode from its second row on."""

    def make(spaces: Spaces, B: int = 3, T: int = 6, seed: int = 0) -> dict[str, torch.Tensor]:
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
        flags = {name: torch.zeros(B, T, dtype=torch.bool) for name in ("is_first", "is_terminal")}
        flags["is_first"][:, 0] = True
        return batch | {"prev_act": act, "rew": torch.randn(B, T, generator=rng), **flags}

    return make
