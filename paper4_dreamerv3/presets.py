"""Sizes, presets, suites and profiles of paper 4: `paper` is the authors', `tiny` learns in minutes.

`resolve(preset, env)` = PRESETS[preset] + SUITES[suite of env][preset] + --profile + --size; flags win over
all.  Suites own size, train ratio, environments, picture and action repeat, because the papers' do.  Sources
as in config.py.
"""

from common.config import override
from common.env_wrapper import suite_of
from paper4_dreamerv3.config import ActorConfig, BehaviourConfig, Config, ConvConfig, ReplayConfig, RSSMConfig


def size(hidden: int) -> dict[str, int]:
    """The one dial: everything follows from the hidden width (HEAD; N: extended data table 4)."""
    return {
        "units": hidden,
        "rssm.hidden": hidden,
        "rssm.deter": 8 * hidden,
        "rssm.stoch": 32,
        "rssm.classes": hidden // 16,
        "conv.depth": hidden // 16,
    }


SIZES = {
    name: size(hidden)
    for name, hidden in (
        *(("1M", 64), ("12M", 256), ("25M", 384), ("50M", 512)),
        *(("100M", 768), ("200M", 1024), ("400M", 1536)),
    )
}

TINY = Config(
    steps=8_000,
    threads=1,
    eval_every=1_000,
    eval_episodes=16,
    image_size=32,
    units=64,
    conv=ConvConfig(depth=8, mults=(2, 3, 4), cnn="strided"),
    rssm=RSSMConfig(deter=128, hidden=64, stoch=8, classes=8),
    actor=ActorConfig(entropy=3e-3),
    behaviour=BehaviourConfig(imag_last=8),
    replay=ReplayConfig(capacity=100_000, batch=8, length=16),
    # At 4e-5 with a warm-up of 1,000 a weight moves by 0.02 in the first 1,000 updates: too slow for minutes.
    lr=1e-3,
    lr_warmup=100,
    train_ratio=64,
    prefill=500,
    checkpoint_every=4_000,
)

CPU = override(  # hours on two cores
    Config(
        steps=200_000,
        threads=2,
        eval_every=10_000,
        conv=ConvConfig(cnn="strided"),
        behaviour=BehaviourConfig(imag_last=16),
        replay=ReplayConfig(capacity=120_000, batch=8, length=32),
        lr=3e-4,
        lr_warmup=500,
        train_ratio=128,
        prefill=1_000,
        checkpoint_every=20_000,
    ),
    SIZES["1M"],
)

PAPER = Config(steps=1_000_000, eval_every=25_000)  # 12M parameters, one environment

_ATARI100K = {"env_options": {"sticky": 0.0, "noop_max": 30, "resize": "bilinear"}}  # RGB, minimal actions
_ATARI57 = {
    **{"env_options": {"gray": True, "sticky": 0.25, "noop_max": 30, "full_actions": True}},
    **{"image_size": 96, "num_envs": 16, "train_ratio": 32, "steps": 200_000_000},
    **{"eval_every": 5_000_000, "checkpoint_every": 5_000_000},  # a checkpoint ends 16 open games
    **SIZES["200M"],
}
_MINECRAFT = {  # an episode is 36,000 frames, and a checkpoint ends 16 of them
    **{"num_envs": 16, "train_ratio": 32, "steps": 100_000_000},
    **{"eval_every": 5_000_000, "checkpoint_every": 5_000_000},
    **SIZES["200M"],
}
_PROPRIO = {
    "obs": "vector",
    "num_envs": 16,
    "train_ratio": 1024,
    "checkpoint_every": 250_000,
    "env_options": {"action_repeat": 1},
    **SIZES["1M"],
}

PRESETS = {
    "tiny": TINY,
    "cpu": CPU,
    "paper": PAPER,
    "atari100k": override(PAPER, {"steps": 400_000, "train_ratio": 256, "replay.capacity": 110_000}),
    "dmc_proprio": override(PAPER, {"steps": 1_000_000, **_PROPRIO}),
}

SUITES = {
    "dmc": {
        "tiny": {"env_options": {"render_quality": "fast"}},
        "cpu": {"env_options": {"render_quality": "fast"}},
        "paper": {
            **{"num_envs": 16, "train_ratio": 256, "checkpoint_every": 250_000},
            "env_options": {"action_repeat": 1},
        },
    },
    "atari": {"cpu": _ATARI100K, "tiny": _ATARI100K, "paper": _ATARI57, "atari100k": _ATARI100K},
    "crafter": {"paper": {"train_ratio": 512, **SIZES["200M"]}},
    "minecraft": {"paper": _MINECRAFT},
    "toy_catch": {"tiny": {"env_options": {"gray": True}}},
}


def head(env: str, preset: str) -> dict:
    """The authors' last code."""
    vision = SIZES["200M"] if (suite_of(env), preset) == ("dmc", "paper") else {}
    return {"actor.unimix": 0.0} | vision


def nature(env: str, preset: str) -> dict:
    """The article in Nature, as far as its tables say."""
    ratio = {"train_ratio": 128.0} if preset == "atari100k" else {}
    return head(env, preset) | {"actor.unimix": 0.01, "conv.cnn": "strided", "beta2": 0.99} | ratio


def paper_v2(env: str, preset: str) -> dict:
    """The second version on arXiv."""
    values = {"conv.cnn": "strided", "beta2": 0.99, "model.contdisc": False}
    if preset == "atari100k":
        values["train_ratio"] = 128.0
    if preset == "dmc_proprio" or (suite_of(env), preset) == ("dmc", "paper"):
        values |= {"train_ratio": 512.0, "env_options": {"action_repeat": 2}, **SIZES["12M"]}
    return values


PROFILES = {"ours": {}, "head": head, "nature": nature, "paper_v2": paper_v2}
