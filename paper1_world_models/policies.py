"""Who plays while data is collected: random policies, and the networks of the paper.

No random policy sees more than about 12 % of a CarRacing track (sheet, section 5.4), which is what the
further iterations of the article are for.  An action is what M reads (controller.ActionCodec).

Shapes: H W C picture, A action numbers, n controller parameters.
"""

import math

import numpy as np

from common.errors import UserError
from paper1_world_models.config import CollectConfig, Config
from paper1_world_models.controller import ActionCodec


class Held:
    """An action drawn at random and held for a random time (the authors' TakeCover policy, and its
    relatives)."""

    def __init__(self, cfg: CollectConfig, codec: ActionCodec, index: int, rng: np.random.Generator):
        self.codec, self.rng, self.left, self.extremes = codec, rng, 0, cfg.extremes
        self.low, self.high = cfg.holds[index % len(cfg.holds)]
        self.noop_prob = cfg.noop_prob[rng.integers(len(cfg.noop_prob))]
        self.action: np.ndarray | None = None

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """-> the action as M reads it [A]"""
        if self.left == 0:
            self.left = int(self.rng.integers(self.low, self.high + 1))
            idle = self.rng.random() < self.noop_prob
            self.action = noop(self.codec) if idle else random_action(self.codec, self.rng, self.extremes)
        self.left -= 1
        return self.action


class Brownian:
    """A random walk in action space, a += sqrt(dt) N(0, 1), clipped to the bounds (a known port's
    default)."""

    def __init__(self, codec: ActionCodec, rng: np.random.Generator):
        if codec.kind not in ("car", "tanh"):
            raise UserError("--collect.policy brownian needs a Box action space; use held")
        self.codec, self.rng = codec, rng
        self.action = noop(codec)

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """-> the action as M reads it [A]"""
        step = math.sqrt(1 / 50) * self.rng.standard_normal(self.codec.size)
        self.action = np.clip(self.action + step, self.codec.low, self.codec.high).astype(np.float32)
        return self.action


class Networks:
    """V, M and C drive; for the authors' CarRacing data all three have random Cauchy weights."""

    def __init__(
        self, player, params: np.ndarray, latents: int, rng: np.random.Generator, held: Held | None, noise
    ):
        self.player, self.params, self.latents, self.rng = player, params, latents, rng
        self.held, self.noise, self.first = held, noise, True
        self.codec = player.controller.codec
        player.reset(np.zeros(1, np.int64))

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """uint8 [H, W, C] -> the action as M reads it [A]; now and then a random hold takes over"""
        import torch

        eps = torch.from_numpy(self.rng.standard_normal((1, self.latents), np.float32))
        row, first = np.zeros(1, np.int64), np.array([self.first])
        _, act, _ = self.player.act(row, frame[None], torch.from_numpy(self.params), eps, first)
        self.first = False
        if self.held is not None and (self.held.left > 0 or self.rng.random() < self.noise):
            return self.held(frame)
        return act[0]


def noop(codec: ActionCodec) -> np.ndarray:
    """The action that does nothing, as M reads it: zeros within the bounds, or the first of Discrete.  [A]"""
    if codec.kind == "argmax":
        return np.eye(codec.size, dtype=np.float32)[0]
    if codec.kind == "thirds":
        return np.zeros(1, np.float32)
    return np.clip(np.zeros(codec.size, np.float32), codec.low, codec.high).astype(np.float32)


def random_action(codec: ActionCodec, rng: np.random.Generator, extremes: bool = False) -> np.ndarray:
    """A random action other than the no-op of `thirds`, as M reads it.  [A]"""
    if codec.kind == "argmax":
        return np.eye(codec.size, dtype=np.float32)[rng.integers(codec.size)]
    if codec.kind == "thirds":
        return rng.choice(np.float32([-1, 1]), 1)
    if extremes:
        middle = (np.array(codec.low) + codec.high) / 2
        return np.stack([codec.low, middle, codec.high])[
            rng.integers(3, size=codec.size), range(codec.size)
        ].astype(np.float32)
    act = rng.uniform(codec.low, codec.high).astype(np.float32)
    if codec.kind == "car":
        act[2] *= 0.1  # differs: a uniformly random brake keeps the car where it is
    return act


def random_networks(cfg: Config, codec: ActionCodec, rng: np.random.Generator):
    """V, M and C with every weight from Cauchy(0, s), one s ~ U(0, 0.01) per episode (H: extract.py).

    -> player, params [1, n]
    """
    import torch

    from paper1_world_models.controller import Controller
    from paper1_world_models.rnn import MDNRNN
    from paper1_world_models.rollout import Player
    from paper1_world_models.vae import VAE

    vae, rnn = VAE(cfg.vae), MDNRNN(cfg.rnn, cfg.vae.latents, codec.size)
    controller = Controller(cfg.controller, cfg.vae.latents, cfg.rnn.hidden, codec)
    scale = rng.uniform(0, 0.01)
    with torch.no_grad():
        for weight in [*vae.parameters(), *rnn.parameters()]:
            weight.copy_(torch.from_numpy(np.float32(scale * rng.standard_cauchy(tuple(weight.shape)))))
    params = scale * rng.standard_cauchy((1, controller.size))
    return Player(vae, rnn, controller, 1), np.float32(params)
