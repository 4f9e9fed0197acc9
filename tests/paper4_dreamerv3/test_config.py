"""The presets against the tables of the sheet (0, 1.1, 2, 4.2), profiles, and settings that cannot work."""

import dataclasses

import pytest

from common.config import fields_of, override, resolve
from common.env_wrapper import EnvSpec
from common.errors import UserError
from common.spaces import Spaces
from paper4_dreamerv3.networks import image_shape
from paper4_dreamerv3.presets import PRESETS, PROFILES, SIZES, SUITES
from paper4_dreamerv3.world_model import WorldModel

EVERYWHERE = {  # one set of numbers for all tasks: that is the paper's claim
    "conv.mults": (2, 3, 4, 4),
    "conv.cnn": "pool",
    "conv.layers": 3,
    "rssm.stoch": 32,
    "rssm.blocks": 8,
    "rssm.unimix": 0.01,
    "rssm.free_nats": 1.0,
    "model.bins": 255,
    "model.symlog": True,
    "model.rew_layers": 1,
    "model.cont_layers": 1,
    "model.rec_scale": 1.0,
    "model.dyn_scale": 1.0,
    "model.rep_scale": 0.1,
    "model.contdisc": True,
    "actor.layers": 3,
    "actor.unimix": 0.01,
    "actor.entropy": 3e-4,
    "actor.min_std": 0.1,
    "actor.max_std": 1.0,
    "actor.eval_action": "sample",
    "behaviour.horizon": 15,
    "behaviour.imag_last": 0,
    "behaviour.discount_horizon": 333,
    "behaviour.lam": 0.95,
    "behaviour.critic_layers": 3,
    "behaviour.slow_rate": 0.02,
    "behaviour.slow_scale": 1.0,
    "behaviour.replay_scale": 0.3,
    "behaviour.root_cont": "pred",
    "behaviour.norm": True,
    "model.reward_scale": 1.0,
    "behaviour.norm_rate": 0.01,
    "replay.batch": 16,
    "replay.length": 64,
    "replay.online": True,
    "lr": 4e-5,
    "lr_warmup": 1_000,
    "agc": 0.3,
    "beta1": 0.9,
    "beta2": 0.999,
    "opt_eps": 1e-20,
    "prefill": 0,
}
PER_SUITE = {"steps", "num_envs", "train_ratio", "image_size", "env_options", "obs", "replay.capacity"}
WIDTHS = {"units", "rssm.hidden", "rssm.deter", "rssm.classes", "conv.depth"}
TASKS = [  # preset, env: hidden width, train ratio, envs, steps, frames per decision
    ("atari100k", "atari_pong", 256, 256, 1, 400_000, 4),
    ("paper", "atari_pong", 1024, 32, 16, 200_000_000, 4),
    ("dmc_proprio", "dmc_walker_walk", 64, 1024, 16, 1_000_000, 1),
    ("paper", "dmc_walker_walk", 256, 256, 16, 1_000_000, 1),
    ("paper", "crafter_reward", 1024, 512, 1, 1_000_000, 1),
    ("paper", "minecraft_diamond", 1024, 32, 16, 100_000_000, 1),
    ("paper", "CartPole-v1", 256, 512, 1, 1_000_000, 1),
]


def leaves(preset: str, env: str) -> dict:
    return dict(fields_of(resolve(PRESETS, SUITES, preset, env)[0]))


@pytest.mark.parametrize("preset, env, width, ratio, envs, steps, repeat", TASKS)
def test_the_presets_of_the_paper(preset, env, width, ratio, envs, steps, repeat):
    found = leaves(preset, env)
    assert {name: found[name] for name in EVERYWHERE} == EVERYWHERE
    sizes = {"units": width, "rssm.hidden": width, "rssm.deter": 8 * width}
    sizes |= {"rssm.classes": width // 16, "conv.depth": width // 16}
    assert {name: found[name] for name in sizes} == sizes
    run = {"train_ratio": ratio, "num_envs": envs, "steps": steps}
    assert {name: found[name] for name in run} == run
    assert EnvSpec(env, found["env_options"]).frames_per_step == repeat


def test_every_setting_of_the_paper_preset_is_in_a_table():
    """A new field must be compared with the sources, or be one of the run's own settings."""
    own = {"env", "seed", "device", "logdir", "threads", "eval_every", "eval_episodes", "checkpoint_every"}
    own |= {"log_every", "precision", "compile", "replay.mapped"}
    assert leaves("paper", "CartPole-v1").keys() - own == EVERYWHERE.keys() | PER_SUITE | WIDTHS


@pytest.mark.parametrize(
    "preset, env", [("paper", "atari_pong"), ("paper", "dmc_walker_walk"), ("dmc_proprio", "dmc_walker_walk")]
)
def test_checkpoints_come_seldom_enough_for_episodes_to_end(preset, env):
    """A checkpoint ends the open episode of each environment; evaluations take less than training."""
    cfg = resolve(PRESETS, SUITES, preset, env)[0]
    longest = {"atari_pong": 108_000, "dmc_walker_walk": 1_000}[env]  # frames
    assert cfg.checkpoint_every / cfg.num_envs >= 2.5 * longest
    assert cfg.steps / cfg.eval_every * cfg.eval_episodes * longest <= cfg.steps / 2


def test_suites_see_what_their_protocols_say():
    pong = leaves("paper", "atari_pong")
    options = {"gray": True, "sticky": 0.25, "noop_max": 30, "full_actions": True}
    assert pong["env_options"] == options and pong["image_size"] == 96
    pong = leaves("atari100k", "atari_pong")
    assert pong["env_options"] == {"sticky": 0.0, "noop_max": 30, "resize": "bilinear"}
    assert pong["image_size"] == 64 and pong["replay.capacity"] == 110_000
    assert leaves("dmc_proprio", "dmc_walker_walk")["obs"] == "vector"


def test_gamma():
    assert PRESETS["paper"].gamma == pytest.approx(0.996997, abs=1e-6)


def told(profile: str, env: str, preset: str) -> dict:
    """What a profile sets."""
    values = PROFILES[profile]
    return values(env, preset) if callable(values) else values


@pytest.mark.parametrize(
    "profile, env, preset, values",
    [
        ("ours", "atari_pong", "atari100k", (256, 256, None)),
        ("head", "atari_pong", "atari100k", (256, 256, None)),
        ("nature", "atari_pong", "atari100k", (256, 128, None)),
        ("paper_v2", "atari_pong", "atari100k", (256, 128, None)),
        ("ours", "dmc_walker_walk", "dmc_proprio", (64, 1024, 1)),
        ("head", "dmc_walker_walk", "dmc_proprio", (64, 1024, 1)),
        ("nature", "dmc_walker_walk", "dmc_proprio", (64, 1024, 1)),
        ("paper_v2", "dmc_walker_walk", "dmc_proprio", (256, 512, 2)),
        ("ours", "dmc_walker_walk", "paper", (256, 256, 1)),
        ("head", "dmc_walker_walk", "paper", (1024, 256, 1)),
        ("nature", "dmc_walker_walk", "paper", (1024, 256, 1)),
        ("paper_v2", "dmc_walker_walk", "paper", (256, 512, 2)),
    ],
)
def test_profiles_own_size_ratio_and_repeat_where_the_papers_disagree(profile, env, preset, values):
    """The last three rows of the sheet's table: hidden width, rows per step, action repeat."""
    cfg = override(resolve(PRESETS, SUITES, preset, env)[0], told(profile, env, preset))
    assert (cfg.units, cfg.train_ratio, cfg.env_options.get("action_repeat")) == values


@pytest.mark.parametrize(
    "profile, cnn, unimix, contdisc, beta2",
    [
        ("ours", "pool", 0.01, True, 0.999),
        ("head", "pool", 0.0, True, 0.999),
        ("nature", "strided", 0.01, True, 0.99),
        ("paper_v2", "strided", 0.01, False, 0.99),
    ],
)
def test_profiles(profile, cnn, unimix, contdisc, beta2):
    cfg = override(PRESETS["paper"], told(profile, "crafter_reward", "paper"))
    cfg.check()
    assert cfg.behaviour.root_cont == "pred"
    found = cfg.conv.cnn, cfg.actor.unimix, cfg.model.contdisc, cfg.beta2
    assert found == (cnn, unimix, contdisc, beta2)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_size_goes_with_every_preset(preset, size):
    override(PRESETS[preset], SIZES[size]).check()
    assert SIZES[size].keys() == WIDTHS | {"rssm.stoch"} and SIZES[size]["rssm.stoch"] == 32


@pytest.mark.parametrize(
    "field, value",
    [
        ("behaviour.horizon", 1),
        ("behaviour.discount_horizon", 1),
        ("behaviour.imag_last", 1),
        ("behaviour.imag_last", -1),
        ("behaviour.lam", 1.5),
        ("behaviour.slow_rate", -0.1),
        ("behaviour.norm_rate", 2.0),
        ("behaviour.replay_scale", -1.0),
        ("replay.batch", 0),
        ("replay.length", 1),
        ("replay.capacity", 0),
        ("eval_episodes", 0),
        ("checkpoint_every", 0),
        ("log_every", 0),
        ("train_ratio", 0.0),
        ("prefill", -1),
        ("units", 0),
        ("conv.depth", 0),
        ("conv.layers", 0),
        ("rssm.deter", -8),
        ("rssm.deter", 100),  # not a multiple of 8 blocks
        ("rssm.stoch", 0),
        ("rssm.classes", 256),
        ("rssm.blocks", 0),
        ("rssm.unimix", 1.5),
        ("rssm.free_nats", -1.0),
        ("model.bins", 2),
        ("actor.layers", -1),
        ("actor.unimix", -0.1),
        ("actor.min_std", 0.0),
        ("actor.min_std", 1.5),  # above max_std
        ("lr", -1e-3),
        ("lr", float("nan")),
        ("lr_warmup", -1),
        ("agc", 0.0),
        ("beta1", 1),
        ("beta2", 1.1),
        ("opt_eps", 0.0),
    ],
)
def test_impossible_settings(field, value):
    with pytest.raises(UserError, match=f"--{field.replace('_', '-')} {value}: must be") as error:
        override(PRESETS["tiny"], {field: value}).check()
    assert "\n" not in str(error.value)


def test_channels_must_go_into_the_blocks():
    with pytest.raises(UserError, match="must be a multiple of --rssm.blocks 8"):
        override(PRESETS["tiny"], {"conv.depth": 3}).check()
    with pytest.raises(UserError, match="must be a multiple of --rssm.blocks 8"):
        override(PRESETS["tiny"], {"conv.depth": 4, "conv.mults": (2, 3, 5)}).check()
    fits = override(PRESETS["tiny"], {"conv.depth": 2, "conv.mults": (1, 2, 8), "units": 8})
    fits.check()
    WorldModel(fits, Spaces({"image": (32, 32, 1)}, 3, True))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("env", ["toy_catch", "toy_point", "atari_pong", "dmc_walker_walk", "CartPole-v1"])
def test_every_preset_is_possible_everywhere(preset, env):
    cfg = resolve(PRESETS, SUITES, preset, env)[0]
    cfg.check()
    edge, _ = image_shape(cfg.conv, Spaces({"image": (cfg.image_size, cfg.image_size, 3)}, 3, True))
    assert edge in (4, 6)


def test_suites_name_presets_and_fields_that_exist():
    for suite, presets in SUITES.items():
        for preset, values in presets.items():
            assert preset in PRESETS, (suite, preset)
            assert dataclasses.is_dataclass(override(PRESETS[preset], values))
