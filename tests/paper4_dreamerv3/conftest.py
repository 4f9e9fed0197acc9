"""Small settings of paper 4 for tests in milliseconds, random batches."""

from collections.abc import Callable

import pytest
import torch

from common.config import override
from common.env_wrapper import EnvSpec
from common.faults import NonFiniteGuard
from common.seeding import seed_everything
from common.spaces import Spaces
from paper4_dreamerv3.agent import DreamerV3Agent
from paper4_dreamerv3.config import Config
from paper4_dreamerv3.presets import PRESETS
from paper4_dreamerv3.train import Learner

SMALL = {
    "env": "toy_catch",
    "units": 8,
    "conv.depth": 2,
    "conv.layers": 1,
    "rssm.deter": 16,
    "rssm.hidden": 8,
    "rssm.stoch": 3,
    "rssm.classes": 4,
    "rssm.free_nats": 0.0,
    "actor.layers": 1,
    "behaviour.critic_layers": 1,
    "behaviour.horizon": 4,
    "behaviour.imag_last": 0,
    "replay.batch": 3,
    "replay.length": 6,
    "lr_warmup": 0,
}
VECTOR = Spaces({"vector": (5,)}, 3, True)  # no pictures: an update in milliseconds


@pytest.fixture(scope="session")
def small() -> Callable[..., Config]:
    """The tiny preset, smaller: small(**{"rssm.deter": 32})."""
    return lambda **more: override(PRESETS["tiny"], {**SMALL, **more})


@pytest.fixture(scope="session")
def learner(small) -> Callable[..., Learner]:
    """A fresh agent and its optimiser: learner({"behaviour.lam": 0.5}, spaces, seed=3).

    awake: all weights random, for heads that begin at zero pass no gradient on.
    """

    def make(more: dict | None = None, spaces: Spaces = VECTOR, *, seed: int = 0, awake=False) -> Learner:
        seed_everything(seed)
        cfg = small(**(more or {}))
        agent = DreamerV3Agent(cfg, EnvSpec(cfg.env, {}), spaces)
        if awake:
            for part in (*agent.parts().values(), agent.slow):
                for p in part.parameters():
                    torch.nn.init.normal_(p, std=0.3)
        return Learner(agent, NonFiniteGuard())

    return make


@pytest.fixture(scope="session")
def random_batch() -> Callable[..., dict[str, torch.Tensor]]:
    """What sampler.sample gives, out of thin air, for the small settings.

    The first sequence ends for good in row 2, the second is cut by a time limit in row 3.
    """

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
            parts = act.split(spaces.choices, -1)
            onehot = torch.nn.functional.one_hot
            act = torch.cat([onehot(part.argmax(-1), part.shape[-1]) for part in parts], -1).float()
        flags = {name: torch.zeros(B, T, dtype=torch.bool) for name in ("is_first", "is_last", "is_terminal")}
        for row, t in enumerate((2, 3)):
            if row < B and t + 1 < T:
                flags["is_last"][row, t] = flags["is_first"][row, t + 1] = True
                flags["is_terminal"][row, t] = row == 0
        act = act * (~flags["is_first"])[..., None]
        deter = torch.rand(B, 16, generator=rng) * 2 - 1
        index = torch.randint(4, (B, 3), generator=rng)
        stoch = torch.nn.functional.one_hot(index, 4).flatten(1).float()
        rew = torch.randn(B, T, generator=rng)
        return batch | {"prev_act": act, "rew": rew, "deter": deter, "stoch": stoch, **flags}

    return make


@pytest.fixture(autouse=True)
def seeded():
    """The same random numbers in every session."""
    seed_everything(0)
