"""Sets of paper 2's numbers: `paper` is the authors', `tiny` learns in minutes on one CPU core.

`resolve(preset, env)` = PRESETS[preset] + SUITES[suite of env][preset]; flags on the command line win over
both. P: the paper (arXiv 1912.01603 v3), M: measured here.
"""

from paper2_dreamerv1.config import (
    ActorConfig,
    BehaviourConfig,
    Config,
    ConvConfig,
    ModelConfig,
    ReplayConfig,
    RSSMConfig,
)

TINY = Config(
    steps=4_000,
    threads=1,
    eval_every=500,
    eval_episodes=16,
    image_size=32,
    conv=ConvConfig(depth=8, units=64),
    rssm=RSSMConfig(deter=64, hidden=64, stoch=16),
    model=ModelConfig(units=64, cont_layers=2, lr=1e-3),
    # A standard deviation of 5 is near bang-bang, which is bad in tasks of 64 steps (M).
    actor=ActorConfig(layers=2, units=64, lr=3e-4, init_std=1.0, epsilon=(0.2, 0.2)),
    behaviour=BehaviourConfig(
        horizon=10, discount=0.95, value_layers=2, value_units=64, value_lr=3e-4, warmup=300
    ),
    replay=ReplayConfig(capacity=100_000, batch=16, length=16),
    adam_eps=1e-5,
    prefill=1_024,
    train_every=2,
    train_updates=1,
    pretrain=0,
    checkpoint_every=2_000,
)

CPU = Config(  # hours on two cores
    steps=200_000,
    threads=2,
    eval_every=10_000,
    eval_episodes=4,
    conv=ConvConfig(depth=16, units=200),
    rssm=RSSMConfig(deter=128, hidden=128, stoch=20),
    model=ModelConfig(units=200, lr=6e-4),
    # With lr 2e-4, a first std of 1 and no head start of the model cartpole_swingup's policy was one push
    # for ever after 200 updates (entropy -8 nats, gradient 0.01; M).
    actor=ActorConfig(layers=3, units=200, lr=8e-5),
    behaviour=BehaviourConfig(horizon=12, value_layers=3, value_units=200, value_lr=8e-5, warmup=300),
    replay=ReplayConfig(capacity=120_000, batch=16, length=32),
    adam_eps=1e-5,
    prefill=5_000,
    train_every=10,
    train_updates=1,
    checkpoint_every=20_000,
)

PRESETS = {"tiny": TINY, "cpu": CPU, "paper": Config(steps=5_000_000, eval_every=10_000)}

_DISCRETE = {"behaviour.horizon": 10, "model.kl_scale": 0.1}  # P: appendix A, discrete actions
_ATARI = _DISCRETE | {"model.reward_transform": "tanh", "model.cont": "on"}
_ATARI_ENV = {
    "env_options": {"sticky": 0.25, "noop_max": 30, "life_loss": True, "resize": "bilinear"}
}  # TF2's wrappers; a lost life ends the episode
SUITES = {
    "toy_catch": {"tiny": {"env_options": {"gray": True}, "model.kl_scale": 0.1}},
    "dmc": {
        "tiny": {"env_options": {"render_quality": "fast"}},
        "cpu": {"env_options": {"render_quality": "fast"}},
    },
    "atari": {
        "tiny": _ATARI | _ATARI_ENV,
        "cpu": _ATARI | _ATARI_ENV,
        "paper": _ATARI | _ATARI_ENV,
    },
}
