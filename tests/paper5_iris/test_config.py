"""Settings: the paper's numbers, the schedule, suites and protocols, impossible values."""

import dataclasses

import pytest

from common.config import fields_of, from_json, override, resolve, to_json
from common.env_wrapper import EnvSpec, make_env
from common.errors import UserError
from paper5_iris.config import Config, LearnConfig, lr_in, updates_in
from paper5_iris.presets import PRESETS, SUITES

PAPER = {
    **{"tokenizer.vocab": 512, "tokenizer.code": 512, "tokenizer.latents": 512, "tokenizer.channels": 64},
    **{"tokenizer.mults": (1, 1, 1, 1, 1), "tokenizer.encoder_blocks": 2, "tokenizer.decoder_blocks": 3},
    **{"tokenizer.mid": True, "tokenizer.attention": (16, 8), "tokenizer.groups": 32},
    **{"tokenizer.pixel_loss": "auto", "tokenizer.beta": 1.0, "tokenizer.codebook": "gradient"},
    **{"tokenizer.ema_decay": 0.99, "tokenizer.revive_every": 0, "tokenizer.revive_until": None},
    **{"tokenizer.lpips_dropout": False, "perceptual": "auto", "perceptual_weights": None},
    **{"actor.trunk": "cnn", "actor.layers": 2, "actor.heads": 4, "actor.width": 128},
    **{"world.layers": 10, "world.heads": 4, "world.width": 256, "world.steps": 20},
    **{"world.embed_dropout": 0.1, "world.residual_dropout": 0.1, "world.attention_dropout": 0.1},
    "world.reward_head": "sign_ce",
    **{"actor.channels": (32, 32, 64, 64), "actor.hidden": 512, "actor.horizon": 20, "actor.burn_in": 20},
    **{"actor.gamma": 0.995, "actor.lam": 0.95, "actor.entropy": 0.001, "actor.value_scale": 1.0},
    "actor.mask_after_end": False,
    **{"collect.steps": 200, "collect.epsilon": 0.01, "collect.temperature": 1.0},
    "collect.timeout_is_end": True,
    **{"collect.extra_epochs": 100, "eval_episodes": 16, "eval_temperature": 0.5, "image_size": 64},
    **{"num_envs": 1, "steps": 400_000, "eval_every": 4_000},
}
LEARN = {
    "tokenizer": {"start": 5, "batch": 256, "decay": 0.0},
    "world": {"start": 25, "batch": 64, "decay": 0.01},
    "actor": {"start": 50, "batch": 64, "decay": 0.0},
}
SHARED = {"stop": None, "updates": 200, "accumulate": 1, "lr": 1e-4, "lr_end": None, "clip": 10.0}


def leaves(preset: str, env: str) -> dict:
    return dict(fields_of(resolve(PRESETS, SUITES, preset, env)[0]))


def test_the_paper_preset_is_the_paper():
    found = leaves("paper", "atari_breakout")
    expected = PAPER | {
        f"{name}.learn.{field}": value
        for name, own in LEARN.items()
        for field, value in (SHARED | own).items()
    }
    assert {name: found[name] for name in expected} == expected
    own = {"env", "seed", "device", "logdir", "threads", "obs", "checkpoint_every", "log_every"}
    own |= {"precision", "compile", "replay.mapped", "replay.capacity", "env_options"}
    assert found.keys() - own == expected.keys()  # a new field is compared with the sources, or a run's own
    assert found["replay.capacity"] is None  # all of the run, however long


def test_the_small_gpu_preset_has_the_papers_batches_and_networks():
    paper, small = PRESETS["paper"], PRESETS["small_gpu"]
    for name, learn in small.learners().items():
        assert learn.batch * learn.accumulate == paper.learners()[name].batch
    same = {f"{name}.learn.{field}" for name in LEARN for field in ("batch", "accumulate")} | {"precision"}
    before, after = dict(fields_of(paper)), dict(fields_of(small))
    assert {name for name in before if before[name] != after[name]} == same


# --- the schedule


def test_gradient_steps_of_a_run():
    cfg = PRESETS["paper"]
    assert cfg.epochs(cfg.steps, 4) == (500, 600)
    total = {name: sum(updates_in(learn, e) for e in range(1, 601)) for name, learn in cfg.learners().items()}
    assert total == {"tokenizer": 119_000, "world": 115_000, "actor": 110_000}
    assert list(total) == ["tokenizer", "world", "actor"]  # the order inside an epoch
    first = {name: learn.start + 1 for name, learn in cfg.learners().items()}
    assert first == {"tokenizer": 6, "world": 26, "actor": 51}
    assert cfg.epochs(1_000_000, 4) == (1_250, 1_350)
    assert cfg.epochs(1, 4) == (1, 101)
    assert PRESETS["tiny"].epochs(7_200, 1) == (36, 36)


def test_a_network_may_stop_and_its_learning_rate_may_fall():
    learn = LearnConfig(start=1, stop=9, updates=50)
    assert [updates_in(learn, epoch) for epoch in (1, 2, 9, 10)] == [0, 50, 50, 0]
    falls = LearnConfig(start=9, lr=2e-3, lr_end=5e-4)
    assert [lr_in(falls, epoch, 40) for epoch in (10, 25, 40)] == pytest.approx([2e-3, 1.25e-3, 5e-4])
    assert lr_in(falls, 50, 40) == pytest.approx(5e-4) and lr_in(learn, 3, 40) == 1e-4
    ends = LearnConfig(stop=11, lr=1.0, lr_end=0.0)
    assert [lr_in(ends, epoch, 40) for epoch in (1, 6, 11, 20)] == pytest.approx([1.0, 0.5, 0.0, 0.0])
    assert lr_in(LearnConfig(start=3, lr=1.0, lr_end=0.5), 4, 4) == 1.0


def test_the_tiny_preset_is_the_sheets():
    tiny = PRESETS["tiny"]
    per_epoch = [[updates_in(learn, e) for learn in tiny.learners().values()] for e in (1, 2, 9, 10, 15, 16)]
    assert per_epoch == [[0, 0, 0], [50, 0, 0], [50, 0, 0], [0, 60, 0], [0, 60, 0], [0, 60, 30]]
    assert [learn.batch for learn in tiny.learners().values()] == [32, 24, 64]
    assert (tiny.tokenizer.revive_every, tiny.tokenizer.revive_until) == (10, 5)
    assert (tiny.actor.burn_in, tiny.actor.horizon, tiny.actor.entropy) == (2, 4, 0.01)
    world = resolve(PRESETS, SUITES, "tiny", "toy_simple_world")[0]
    assert world.world.steps == world.actor.horizon == 9


# --- suites


def test_atari_is_played_as_in_atari_100k():
    for preset in PRESETS:
        cfg = resolve(PRESETS, SUITES, preset, "atari_pong")[0]
        spec = EnvSpec("atari_pong", {"size": 64, **cfg.env_options})
        assert spec.frames_per_step == 4
    found = {}
    for mode in ("train", "eval"):
        env = spec.make(mode)
        assert env.observation_space["image"].shape == (64, 64, 3) and env.action_space.n == 6
        assert env.unwrapped.resize_first and env.unwrapped.how == "bilinear"
        ale = env.unwrapped.ale
        assert ale.getFloat("repeat_action_probability") == 0
        found[mode] = (
            *(env.unwrapped.life_loss, env.unwrapped.noop_max),
            ale.getInt("max_num_frames_per_episode"),
        )
        env.close()
    assert found == {"train": (True, 30, 20_000), "eval": (False, 1, 108_000)}
    assert cfg.collect.timeout_is_end


def test_freeway_is_played_with_a_cold_policy():
    for env in ("atari_freeway", "ALE/Freeway-v5"):
        assert resolve(PRESETS, SUITES, "paper", env)[0].collect.temperature == 0.01
    assert resolve(PRESETS, SUITES, "paper", "atari_pong")[0].collect.temperature == 1.0


def test_toys_have_one_cell_per_token():
    cfg = resolve(PRESETS, SUITES, "tiny", "toy_catch")[0]
    env = make_env("toy_catch", size=cfg.image_size, **cfg.env_options)
    assert env.observation_space["image"].shape == (16, 16, 3) and env.unwrapped.core.grid == 4
    cfg = resolve(PRESETS, SUITES, "tiny", "toy_simple_world")[0]
    env = make_env("toy_simple_world", size=cfg.image_size, **cfg.env_options)
    assert env.action_space.n == 5 and env.unwrapped.core.terminal


def test_suites_name_presets_and_fields_that_exist():
    for suite, presets in SUITES.items():
        for preset, values in presets.items():
            assert preset in PRESETS, (suite, preset)
            assert dataclasses.is_dataclass(override(PRESETS[preset], values))


# --- values


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("env", ["toy_catch", "toy_simple_world", "atari_pong", "atari_freeway"])
def test_every_preset_is_possible_and_survives_json(preset, env):
    cfg = resolve(PRESETS, SUITES, preset, env)[0]
    cfg.check()
    assert from_json(Config, to_json(cfg)) == cfg


@pytest.mark.parametrize(
    "field, value",
    [
        *[(f"{name}.learn.start", -1) for name in LEARN],
        *[(f"{name}.learn.updates", -1) for name in LEARN],
        *[(f"{name}.learn.batch", 0) for name in LEARN],
        *[(f"{name}.learn.accumulate", 0) for name in LEARN],
        *[(f"{name}.learn.lr", 0.0) for name in LEARN],
        *[(f"{name}.learn.lr_end", -1.0) for name in LEARN],
        *[(f"{name}.learn.clip", 0.0) for name in LEARN],
        *[(f"{name}.learn.decay", -0.1) for name in LEARN],
        *[(f"tokenizer.{name}", 0) for name in ("code", "latents", "channels", "encoder_blocks", "groups")],
        ("tokenizer.decoder_blocks", 0),
        ("tokenizer.vocab", 1),
        ("tokenizer.beta", -0.1),
        ("tokenizer.ema_decay", 1.5),
        ("tokenizer.revive_every", -1),
        ("tokenizer.channels", 6),  # not a multiple of 4 groups
        ("world.layers", 0),
        ("world.heads", 0),
        ("world.width", 66),  # not a multiple of 4 heads
        ("world.steps", 1),
        ("world.embed_dropout", 1.5),
        ("actor.horizon", 1),
        ("actor.burn_in", -1),
        ("actor.hidden", 0),
        ("actor.gamma", 1.1),
        ("actor.lam", -0.1),
        ("actor.entropy", float("nan")),
        ("collect.steps", 0),
        ("collect.epsilon", 2.0),
        ("collect.temperature", 0.0),
        ("collect.extra_epochs", -1),
        ("eval_temperature", 0.0),
        ("eval_episodes", 0),
        ("replay.capacity", 0),
        ("num_envs", 201),
    ],
)
def test_impossible_settings(field, value):
    flag = field.replace("_", "-")
    with pytest.raises(UserError, match=f"--{flag} {value}: must be") as error:
        override(PRESETS["tiny"], {field: value}).check()
    assert "\n" not in str(error.value)


def test_weights_for_a_loss_that_is_off():
    with pytest.raises(UserError, match="--perceptual-weights: goes with --perceptual on or auto"):
        override(PRESETS["tiny"], {"perceptual_weights": "x.pth"}).check()
