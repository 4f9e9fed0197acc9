"""The presets: `paper` is the authors', `tiny` learns in minutes on one CPU core.

`resolve(preset, env)` = PRESETS[preset] + SUITES[suite of env][preset] + SUITES[env][preset]; flags on the
command line win over all of them.
"""

from paper1_world_models.config import CollectConfig, Config, DreamConfig, EvolveConfig, RNNConfig, VAEConfig

PRESETS: dict[str, Config] = {
    "paper": Config(
        epochs=1,
        num_envs=64,
        collect=CollectConfig(policy="cauchy"),
        evolve=EvolveConfig(eval_episodes=1024),
    ),
    "gpu": Config(
        epochs=3,
        generations=200,
        num_envs=16,
        collect=CollectConfig(episodes=2000),
        vae=VAEConfig(lr=3e-4),
        rnn=RNNConfig(length=256),
        evolve=EvolveConfig(slots=1024),
        dream=DreamConfig(temperature=1.0, done="bernoulli"),
    ),
    "cpu": Config(
        num_envs=2,
        threads=1,
        eval_every=10,
        generations=100,
        collect=CollectConfig(episodes=100, max_steps=300),
        vae=VAEConfig(width=0.25, batch=64, lr=1e-3, lr_end=0.05, updates=3000),
        rnn=RNNConfig(batch=32, length=64, updates=1200, lr_end=0.05),
        evolve=EvolveConfig(population=32, rollouts=4),
        dream=DreamConfig(temperature=1.0, done="bernoulli"),
    ),
    "tiny": Config(
        threads=1,
        eval_every=5,
        generations=10,
        collect=CollectConfig(episodes=30, max_steps=200),
        vae=VAEConfig(width=0.25, batch=64, lr=1e-3, lr_end=0.05, updates=600),
        rnn=RNNConfig(hidden=128, batch=32, length=32, updates=400, lr_end=0.05),
        evolve=EvolveConfig(population=8, rollouts=2, max_steps=300, eval_episodes=8),
        dream=DreamConfig(temperature=1.0, done="bernoulli"),
    ),
}
PRESETS["tiny-dream"] = PRESETS["tiny"]
_SMALL = ("cpu", "tiny", "tiny-dream")  # whose V is the measured sheets'

_CAR = {
    "controller.actions": "car",
    "env_options": {"render": "fast", "size": 64, "crop": True},
    "vae.latents": 32,
    "collect.ignore_end": True,
}
_DOOM = {
    "train_in": "dream",
    "rnn.done_head": True,
    "rnn.carry": True,
    "rnn.score_end_frame": False,
    "controller.inputs": "zch",
}
_DOOM_TINY = _DOOM | {  # recipe B of the measured sheet
    "env_options": {"frame_skip": 4},
    "generations": 60,
    "collect.episodes": 800,
    "collect.max_steps": 525,
    "collect.holds": ((1, 2), (1, 2), (1, 2), (5, 49)),
    "collect.noop_prob": (1 / 3,),
    "vae.updates": 2000,
    "vae.recon_scale": 20.0,
    "vae.foreground": "fireball",
    "vae.foreground_weight": 8.0,
    "vae.latents": 32,
    "vae.gate": 0.75,
    "rnn.hidden": 256,
    "rnn.length": 32,
    "rnn.updates": 2000,
    "rnn.done_bias": -4.0,
    "controller.actions": "thirds",
    "evolve.population": 32,
    "evolve.rollouts": 16,
    "evolve.max_steps": 0,
    "eval_every": 20,
    "evolve.eval_episodes": 10,
    "evolve.slots": 8,
    "dream.max_steps": 522,
    "dream.step_reward": 4.0,
}
_GYM = {  # a user's own environment, or BipedalWalker-v3 from its rendered picture
    "rnn.done_head": True,
}
# Every episode has clouds of its own, which are most of what differs between pictures, and random play falls
# within about 100 steps: V needs many short episodes, or it learns the skies it saw by heart.  The walker is
# 200 pixels of 4,096: unweighed it stays a smudge (M).  Clouds do not count as moving; they may stay rough.
_WALKER = {"vae.foreground": "moving", "vae.foreground_weight": 20.0, "vae.gate": 0.6}
_WALKER_TINY = {"collect.episodes": 500, "collect.max_steps": 100, "vae.updates": 8000} | _WALKER
_WALKER_CPU = {"collect.episodes": 1000, "collect.max_steps": 200, "vae.updates": 20_000} | _WALKER
_TOY_TINY = {
    "generations": 100,
    "collect.episodes": 1100,
    "collect.holds": ((1, 1), (1, 3), (1, 6), (1, 12)),
    "collect.noop_prob": (0.34, 0.7),
    "vae.latents": 12,
    "vae.updates": 800,
    "vae.foreground": "moving",
    "vae.foreground_weight": 5.0,
    "vae.gate": 0.2,
    "rnn.done_head": True,
    "rnn.carry": True,
    "rnn.updates": 1200,
    "evolve.population": 32,
    "evolve.rollouts": 8,
    "evolve.sigma": 0.5,
    "evolve.max_steps": 0,
    "eval_every": 10,
    "evolve.eval_episodes": 32,
    "evolve.slots": 256,
    "dream.max_steps": 200,
}

# The same on networks of full width: what the authors did on big tasks fails on a toy.
_TOY_FULL = _TOY_TINY | {
    "num_envs": 1,
    "epochs": 0,
    "collect.policy": "held",
    "collect.max_steps": 200,
    "vae.batch": 64,
    "vae.lr": 1e-3,
    "vae.lr_end": 0.05,
    "rnn.batch": 32,
    "rnn.length": 32,
    "rnn.lr_end": 0.05,
    "dream.temperature": 1.0,
    "dream.done": "bernoulli",
}

_IN_DREAMS = {  # collect, train M, evolve in the dream; three times over
    "train_in": "dream",
    "iterations": 3,
    "first_generations": 40,
    "generations": 60,
    "evolve.basis": "pca",
    "evolve.rollouts": 16,
}

_DREAMT_REWARD = {
    "train_in": "dream",
    "rnn.reward_head": True,
    "dream.reward": "head",
    "dream.max_steps": 200,
}

# Suite of the environment, or its id -> preset -> dotted field -> value.
SUITES: dict[str, dict[str, dict]] = {
    "toy": {
        "paper": _TOY_FULL,
        "gpu": _TOY_FULL,
        "cpu": _TOY_TINY | {"generations": 200},
        "tiny": _TOY_TINY,
        "tiny-dream": _TOY_TINY | _IN_DREAMS,
    },
    "crafter": {preset: {"controller.inputs": "z"} for preset in PRESETS},  # 17 actions: [z, h] is too much
    **{toy: {"tiny-dream": _DREAMT_REWARD} for toy in ("toy_catch", "toy_point", "toy_simple_world")},
    "toy_dodge": {
        preset: {"controller.actions": "thirds"} | ({"vae.half_gate": 1 / 3} if preset in _SMALL else {})
        for preset in PRESETS
    },
    "doom": {
        "paper": _DOOM
        | {
            "env_options": {"continuous": True, "crop": "paper"},
            "collect.policy": "held",
            "collect.max_steps": 2100,
            "collect.min_length": 100,
            "vae.latents": 64,
            "rnn.hidden": 512,
            "rnn.length": 500,
            "rnn.updates": 24_400,
            "rnn.lr_decay": 0.99999,
            "rnn.done_weight": 10.0,
            "rnn.done_bias": 0.0,
            "rnn.restart_input": True,
            "controller.bias": False,
            "controller.actions": "tanh",
        },
        "gpu": _DOOM_TINY
        | {
            "epochs": 0,
            "collect.episodes": 2000,
            "vae.updates": 8000,
            "rnn.updates": 6000,
            "evolve.slots": 32,
        },
        "cpu": _DOOM_TINY | {"collect.episodes": 2000, "vae.updates": 4000, "rnn.updates": 3000},
        "tiny": _DOOM_TINY,
        "tiny-dream": _DOOM_TINY,
    },
    "gym": {"paper": _GYM, "gpu": _GYM, "cpu": _GYM, "tiny": _GYM, "tiny-dream": _GYM | _DREAMT_REWARD},
    "BipedalWalker-v3": {"cpu": _WALKER_CPU, "tiny": _WALKER_TINY, "tiny-dream": _WALKER_TINY},
    "box2d_car": {
        "paper": _CAR | {"env_options": {"render": "stock", "size": 64, "crop": True}},
        "gpu": _CAR | {"collect.env_options": {"start": "random"}},
        "cpu": _CAR
        | {"collect.env_options": {"start": "random"}, "evolve.max_steps": 1000, "evolve.patience": 100},
        "tiny": _CAR | {"collect.env_options": {"start": "random"}},
        "tiny-dream": _CAR | {"collect.env_options": {"start": "random"}} | _DREAMT_REWARD,
    },
}
