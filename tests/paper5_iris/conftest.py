"""Small networks of paper 5 for tests in milliseconds, random batches, a stream of toy frames."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch

from common.config import override
from common.seeding import seed_everything
from common.spaces import Spaces
from paper5_iris.actor_critic import ActorCritic
from paper5_iris.config import Config
from paper5_iris.presets import PRESETS
from paper5_iris.tokenizer import Tokenizer
from paper5_iris.world_model import WorldModel

SMALL = {
    "env": "toy_catch",
    "image_size": 8,
    "tokenizer.vocab": 8,
    "tokenizer.code": 6,
    "tokenizer.latents": 5,
    "tokenizer.channels": 4,
    "tokenizer.groups": 2,
    "tokenizer.mid": True,
    "tokenizer.attention": (4,),
    "world.width": 16,
    "world.steps": 3,
    "actor.channels": (4, 4),
    "actor.hidden": 8,
    **{"actor.layers": 1, "actor.heads": 2, "actor.width": 8},
    "actor.horizon": 3,
}
IMAGE = Spaces({"image": (8, 8, 3)}, 3, True)  # 2 x 2 tokens
NUMBERS = Spaces({"image": (8, 8, 3)}, 2, False)


@torch.no_grad()
def spread(tokenizer: Tokenizer, seed: int = 0) -> Tokenizer:
    """Put the codewords where the latents of random frames are, so that frames have different tokens."""
    side, _, channels = tokenizer.image
    frames = torch.rand(8, channels, side, side, generator=torch.Generator().manual_seed(seed))
    z = tokenizer.encode(frames).z.permute(0, 2, 3, 1).flatten(0, 2)  # [R, D]
    tokenizer.quantizer.codebook.copy_(z[: tokenizer.cfg.vocab])
    return tokenizer


class Networks(NamedTuple):
    """All three, with what they were made of."""

    cfg: Config
    spaces: Spaces
    tokenizer: Tokenizer
    world: WorldModel
    actor: ActorCritic


@pytest.fixture(scope="session")
def small() -> Callable[..., Config]:
    """The tiny preset, smaller: small(**{"world.width": 32})."""
    return lambda **more: override(PRESETS["tiny"], {**SMALL, **more})


@pytest.fixture(scope="session")
def networks(small) -> Callable[..., Networks]:
    """Fresh networks in eval mode: networks(spaces, seed=1, **{"world.layers": 3})."""

    def make(spaces: Spaces = IMAGE, seed: int = 0, device: str = "cpu", **more) -> Networks:
        seed_everything(seed)
        cfg, image = small(**more), spaces.obs["image"]
        with torch.device(device):
            tokenizer = Tokenizer(cfg.tokenizer, image).eval()
            world = WorldModel(cfg.world, cfg.tokenizer.vocab, tokenizer.tokens, spaces).eval()
            actor = ActorCritic(cfg.actor, image, spaces, cfg.tokenizer.vocab, tokenizer.tokens)
            return Networks(cfg, spaces, tokenizer, world, actor.eval())

    return make


@pytest.fixture(scope="session")
def random_batch() -> Callable[..., dict[str, torch.Tensor]]:
    """What the world model learns from, out of thin air: row 0 ends in its step `end`, padding after it."""

    def make(spaces=IMAGE, B=2, T=3, K=4, V=8, end: int | None = 1, seed=0) -> dict[str, torch.Tensor]:
        rng = torch.Generator().manual_seed(seed)
        act = torch.randint(spaces.act, (B, T), generator=rng)
        if not spaces.discrete:
            act = torch.rand(B, T, spaces.act, generator=rng) * 2 - 1
        batch = {
            "tokens": torch.randint(V, (B, T, K), generator=rng),
            "act": act,
            "rew": torch.randn(B, T, generator=rng),
            "end": torch.zeros(B, T, dtype=torch.bool),
            "mask": torch.ones(B, T, dtype=torch.bool),
        }
        if end is not None:
            batch["end"][0, end], batch["mask"][0, end + 1 :] = True, False
        return batch

    return make


@pytest.fixture(autouse=True)
def seeded():
    """The same random numbers in every session."""
    seed_everything(0)
