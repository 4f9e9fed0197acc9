"""The presets against the tables of the sheet (sections 0 and 5), and settings that cannot work."""

import dataclasses

import pytest

from common.config import fields_of, override, resolve
from common.env_wrapper import EnvSpec
from common.errors import UserError
from paper3_dreamerv2.presets import PRESETS, SUITES

EVERYWHERE = {  # what paper and code agree about
    "steps": 200_000_000,
    "conv.depth": 48,
    "rssm.deter": 600,
    "rssm.hidden": 600,
    "rssm.latent": "categorical",
    "rssm.stoch": 32,
    "rssm.classes": 32,
    "rssm.layer_norm": True,
    "model.layers": 4,
    "model.units": 400,
    "model.cont": "auto",
    "model.cont_scale": 5.0,
    "model.grad_rew": True,
    "model.grad_image": True,
    "model.lr": 2e-4,
    "model.kl_scale": 0.1,
    "model.kl_balance": 0.8,
    "model.free_nats": 0.0,
    "model.reward_transform": "tanh",
    "actor.layers": 4,
    "actor.units": 400,
    "actor.lr": 4e-5,
    "actor.rho": None,  # 1 for discrete actions
    "actor.rho_start": None,
    "actor.entropy": 1e-3,
    "actor.entropy_start": None,
    "actor.schedule_steps": 2_500_000,
    "behaviour.horizon": 15,
    "behaviour.discount": 0.999,
    "behaviour.lam": 0.95,
    "behaviour.critic_layers": 4,
    "behaviour.critic_units": 400,
    "behaviour.critic_lr": 1e-4,
    "behaviour.slow_every": 100,
    "behaviour.warmup": 0,
    "replay.capacity": 2_000_000,
    "replay.length": 50,
    "replay.prioritize_ends": True,
    "adam_eps": 1e-5,
    "clip": 100.0,
    "weight_decay": 1e-6,
    "prefill": 200_000,  # 50,000 policy steps
    "train_updates": 1,
    "pretrain": 1,
    "eval_every": 1_000_000,
    "eval_episodes": 1,
}
SAYS = {  # what they do not: (paper, the authors' last code)
    "replay.batch": (50, 16),
    "train_every": (16, 64),  # 4 and 16 policy steps of 4 frames
    "actor.advantage": ("eq6", "head"),
    "actor.mask_terminal_start": (True, False),
}
CONTROL = {  # their code for DeepMind Control, where it differs from EVERYWHERE
    "steps": 2_000_000,
    "eval_every": 10_000,
    "rssm.deter": 200,
    "rssm.hidden": 200,
    "model.lr": 3e-4,
    "model.kl_scale": 1.0,
    "model.free_nats": 1.0,
    "model.reward_transform": "none",
    "actor.lr": 8e-5,
    "actor.entropy": 1e-4,
    "actor.advantage": "head",
    "behaviour.critic_lr": 8e-5,
    "behaviour.discount": 0.99,
    "replay.batch": 16,
    "replay.prioritize_ends": False,
    "prefill": 2_000,  # 1,000 policy steps of 2 frames
    "train_every": 10,  # 5 policy steps
    "pretrain": 100,
}


def leaves(preset: str, env: str) -> dict:
    return dict(fields_of(resolve(PRESETS, SUITES, preset, env)[0]))


def differences(found: dict, wanted: dict) -> dict:
    return {name: (found[name], value) for name, value in wanted.items() if found[name] != value}


@pytest.mark.parametrize("column, preset", [(0, "paper"), (1, "atari_head")])
def test_the_atari_presets(column, preset):
    found = leaves(preset, "atari_pong")
    wanted = EVERYWHERE | {name: values[column] for name, values in SAYS.items()}
    assert not differences(found, wanted)
    assert EnvSpec("atari_pong", found["env_options"]).frames_per_step == 4
    full = {"gray": True, "sticky": 0.25, "noop_max": 30, "full_actions": True}
    assert found["env_options"] == (full if preset == "paper" else {k: full[k] for k in list(full)[:3]})


def test_every_setting_of_the_atari_presets_is_in_the_table():
    """A new field must be compared with the sources, or be one of the run's own settings."""
    own = {"env", "seed", "device", "logdir", "num_envs", "threads", "obs", "env_options", "image_size"}
    own |= {"conv.layers", "conv.units", "rssm.min_std", "replay.mapped", "checkpoint_every", "log_every"}
    own |= {"precision", "compile"}
    assert leaves("paper", "atari_pong").keys() - own == EVERYWHERE.keys() | SAYS.keys()


def test_dmc_vision():
    wanted = EVERYWHERE | CONTROL
    assert not differences(leaves("dmc_vision", "dmc_walker_walk"), wanted)
    paper = leaves("paper", "dmc_walker_walk")  # the paper has no other numbers for these tasks
    assert not differences(paper, wanted)
    assert EnvSpec("dmc_walker_walk", paper["env_options"]).frames_per_step == 2


def test_presets_differ_only_where_the_table_says():
    paper, head = leaves("paper", "atari_pong"), leaves("atari_head", "atari_pong")
    assert {name for name in paper if paper[name] != head[name]} == {*SAYS, "env_options"}


@pytest.mark.parametrize(
    "field, value",
    [
        ("behaviour.horizon", 1),
        ("replay.batch", 0),
        ("replay.length", 1),
        ("prefill", 0),
        ("train_every", 0),
        ("train_updates", 0),
        ("eval_episodes", 0),
        ("checkpoint_every", 0),
        ("log_every", 0),
        ("conv.depth", 0),
        ("rssm.deter", -5),
        ("rssm.stoch", 0),
        ("actor.layers", -1),
        ("model.lr", -1e-3),
        ("adam_eps", 0.0),
        ("clip", 0.0),
        ("behaviour.discount", 2.0),
        ("model.kl_balance", 3.0),
        ("behaviour.slow_every", 0),
        ("weight_decay", -1.0),
        ("actor.rho", float("nan")),
        ("steps", 1_024),
    ],
)
def test_impossible_settings(field, value):
    with pytest.raises(UserError, match=f"--{field.replace('_', '-')} {value}: must be"):
        override(PRESETS["tiny"], {field: value}).check()


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("env", ["toy_catch", "toy_point", "atari_pong", "dmc_walker_walk", "CartPole-v1"])
def test_every_preset_is_possible_everywhere(preset, env):
    resolve(PRESETS, SUITES, preset, env)[0].check()


def test_suites_name_presets_and_fields_that_exist():
    for suite, presets in SUITES.items():
        for preset, values in presets.items():
            assert preset in PRESETS, (suite, preset)
            assert dataclasses.is_dataclass(override(PRESETS[preset], values))
