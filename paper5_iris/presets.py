"""Presets and suites of paper 5: `paper` is the authors', `tiny` learns in minutes on one CPU core.

`resolve(preset, env)` = PRESETS[preset] + SUITES[suite of env][preset] + SUITES[env][preset] + flags.
Sources as in config.py.
"""

from common.config import override
from paper5_iris.config import (
    ActorConfig,
    CollectConfig,
    Config,
    LearnConfig,
    ReplayConfig,
    TokenizerConfig,
    WorldConfig,
)

PAPER = Config(steps=400_000, eval_every=4_000)  # 100k decisions, an evaluation every 5 epochs

SMALL_GPU = override(  # the paper's networks and batches in passes that fit 8 GB
    PAPER,
    {
        **{"tokenizer.learn.batch": 128, "tokenizer.learn.accumulate": 2},
        **{"world.learn.batch": 32, "world.learn.accumulate": 2},
        **{"actor.learn.batch": 32, "actor.learn.accumulate": 2},
        "precision": "bf16",
    },
)

CPU = Config(  # hours on two cores
    steps=100_000,
    threads=2,
    eval_every=8_000,
    eval_episodes=4,
    tokenizer=TokenizerConfig(
        vocab=128,
        code=64,
        latents=64,
        channels=16,
        mults=(1, 1, 2, 2, 4),
        encoder_blocks=1,
        decoder_blocks=1,
        mid=False,
        attention=(),
        groups=4,
        pixel_loss="l1+l2",
        revive_every=10,
        learn=LearnConfig(start=5, updates=100, batch=32, lr=1e-3, lr_end=2e-4),
    ),
    world=WorldConfig(
        layers=3,
        width=128,
        steps=10,
        learn=LearnConfig(start=10, updates=50, batch=16, lr=1e-3, lr_end=2e-4, decay=0.01),
    ),
    actor=ActorConfig(
        channels=(8, 16, 32, 32),
        hidden=128,
        horizon=10,
        burn_in=5,
        learn=LearnConfig(start=20, updates=20, batch=32, lr=3e-4),
    ),
    collect=CollectConfig(extra_epochs=10),
    replay=ReplayConfig(capacity=60_000),
    perceptual="off",
)

TINY = Config(  # M, sheet 11.2
    steps=7_200,
    threads=1,
    eval_every=1_200,
    image_size=16,
    tokenizer=TokenizerConfig(
        vocab=6,
        code=16,
        latents=16,
        channels=16,
        mults=(1, 1, 1),
        encoder_blocks=1,
        decoder_blocks=1,
        mid=False,
        attention=(),
        groups=4,
        pixel_loss="l2",  # the minimiser of l1 for a few cells on a plain ground is the ground alone
        revive_every=10,
        revive_until=5,
        # The transformer learns a language that must not change any more.
        learn=LearnConfig(start=1, stop=9, updates=50, batch=32, lr=3e-3),
    ),
    world=WorldConfig(
        layers=2,
        width=64,
        steps=4,
        embed_dropout=0.0,
        residual_dropout=0.0,
        attention_dropout=0.0,
        learn=LearnConfig(start=9, updates=60, batch=24, lr=2e-3, lr_end=5e-4, decay=0.01),
    ),
    actor=ActorConfig(
        channels=(8, 8, 16),
        hidden=64,
        horizon=4,
        burn_in=2,
        entropy=1e-2,
        learn=LearnConfig(start=15, updates=30, lr=1e-3),
    ),
    collect=CollectConfig(extra_epochs=0),
    replay=ReplayConfig(capacity=20_000),
    eval_episodes=50,
    checkpoint_every=2_400,
    perceptual="off",
)

PRESETS = {"tiny": TINY, "cpu": CPU, "small_gpu": SMALL_GPU, "paper": PAPER}

# Atari 100k as IRIS plays it: in training a lost life ends the episode and 20,000 raw frames end it for good.
_ATARI = {
    "env_options": {
        **{"sticky": 0.0, "frame_skip": 4, "resize": "bilinear", "resize_first": True},
        "life_loss": {"train": True, "eval": False},
        "noop_max": {"train": 30, "eval": 1},
        "limit": {"train": 20_000, "eval": 108_000},
    }
}
_FREEWAY = {"collect.temperature": 0.01}  # P appendix H: what crosses the road keeps going
_CATCH = {"env_options": {"grid": 4, "drops": 1}}  # one cell per token
_WORLD = {
    "env_options": {"actions": "discrete", "terminal": True},
    **{"world.steps": 9, "actor.horizon": 9},
}

SUITES = {
    "atari": dict.fromkeys(PRESETS, _ATARI),
    "atari_freeway": dict.fromkeys(("small_gpu", "paper"), _FREEWAY),
    "ALE/Freeway-v5": dict.fromkeys(("small_gpu", "paper"), _FREEWAY),
    "toy_catch": {"tiny": _CATCH},
    "toy_simple_world": {"tiny": _WORLD},
}
