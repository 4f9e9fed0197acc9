"""Behaviour learned by latent imagination (paper, section 3, equations 3 to 8; appendix A for the actor).

Imagined features f_1 .. f_H do not include the start.  Reward i pairs with discount i and value i + 1, so
there are H - 1 targets; r_H is never used, v_H is the bootstrap.  V1 has no target network and no entropy
bonus. Letters: N start states, H horizon, A action, F feature, K = H - 1 targets.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paper2_dreamerv1.config import ActorConfig, Config
from paper2_dreamerv1.networks import MLP, init_keras_
from paper2_dreamerv1.rssm import State
from paper2_dreamerv1.world_model import WorldModel

BELOW_ONE = 1 - 2**-24  # the largest float32 below 1: tanh saturates to 1 from 9 on


class TanhNormal:
    """tanh(mean + std * noise): continuous actions in (-1, 1).  [..., A]"""

    def __init__(self, mean: Tensor, std: Tensor):
        self.mean, self.std = mean.float(), std.float()

    def rsample(self, generator: torch.Generator | None = None) -> Tensor:
        """A draw that carries the gradient to mean and std."""
        noise = torch.randn(self.mean.shape, device=self.mean.device, generator=generator)
        return (self.mean + self.std * noise).tanh().clamp(-BELOW_ONE, BELOW_ONE)

    def log_prob_of(self, raw: Tensor) -> Tensor:
        """log p(tanh(raw)), of the value before the tanh: inverting it is unstable.  [..., A] -> [...]"""
        normal = -0.5 * ((raw - self.mean) / self.std) ** 2 - self.std.log() - 0.5 * math.log(2 * math.pi)
        log_slope = 2 * (math.log(2) - raw - F.softplus(-2 * raw))  # log(1 - tanh(raw)^2)
        return (normal - log_slope).sum(-1)

    def mode(self, draws: int = 100, generator: torch.Generator | None = None) -> Tensor:
        """The likeliest of 100 draws, each row its own (TF2: the first row's for all); 0: tanh(mean)."""
        if not draws:
            return self.mean.tanh()
        noise = torch.randn(draws, *self.mean.shape, device=self.mean.device, generator=generator)
        raw = self.mean + self.std * noise  # [draws, ..., A]
        best = self.log_prob_of(raw).argmax(0)  # [...]
        return raw.take_along_dim(best[None, ..., None], 0)[0].tanh().clamp(-BELOW_ONE, BELOW_ONE)

    def entropy(self) -> Tensor:
        """One-sample estimate in nats, after the tanh (no closed form).  [...]"""
        raw = (self.mean + self.std * torch.randn_like(self.mean)).detach()
        return -self.log_prob_of(raw)


class OneHot:
    """Discrete actions as one-hot vectors; the straight-through draw lets gradients pass.  [..., A]"""

    def __init__(self, logit: Tensor):
        self.logit = logit.float()

    def rsample(self, generator: torch.Generator | None = None) -> Tensor:
        """onehot + p - sg(p): exactly one-hot forward, the gradient of p backward."""
        probs = self.logit.softmax(-1)
        draw = torch.multinomial(probs.detach().flatten(0, -2), 1, generator=generator).squeeze(-1)
        onehot = F.one_hot(draw, probs.shape[-1]).to(probs.dtype).reshape(probs.shape)
        return onehot + (probs - probs.detach())

    def mode(self, draws: int = 0, generator: torch.Generator | None = None) -> Tensor:
        """The likeliest class."""
        return F.one_hot(self.logit.argmax(-1), self.logit.shape[-1]).to(self.logit.dtype)

    def entropy(self) -> Tensor:
        """In nats.  [...]"""
        log_prob = self.logit.log_softmax(-1)
        return -(log_prob.exp() * log_prob).sum(-1)


class Actor(nn.Module):
    """pi(a | f): features -> a distribution over actions.  [..., F] -> TanhNormal or OneHot"""

    def __init__(self, cfg: ActorConfig, feature: int, act: int, discrete: bool):
        super().__init__()
        self.cfg, self.discrete = cfg, discrete
        self.net = MLP(feature, cfg.layers, cfg.units, act if discrete else 2 * act)
        # softplus(raw_init) = init_std.  TF2: rho_0 = ln(e^5 - 1) = 4.993
        self.raw_init = math.log(math.expm1(cfg.init_std))
        init_keras_(self)

    def forward(self, feat: Tensor) -> TanhNormal | OneHot:
        out = self.net(feat).float()
        if self.discrete:
            return OneHot(out)
        mean, std = out.chunk(2, -1)
        mean = self.cfg.mean_scale * (mean / self.cfg.mean_scale).tanh()
        return TanhNormal(mean, F.softplus(std + self.raw_init) + self.cfg.min_std)


class Value(nn.Module):
    """v(f): mean of a unit-variance Gaussian.  [..., F] -> [...]"""

    def __init__(self, cfg: Config, feature: int):
        super().__init__()
        self.net = MLP(feature, cfg.behaviour.value_layers, cfg.behaviour.value_units, 1)
        init_keras_(self)

    def forward(self, feat: Tensor) -> Tensor:
        return self.net(feat).squeeze(-1).float()


def imagine(model: WorldModel, actor: Actor, start: State, horizon: int) -> Tensor:
    """Dream with the prior and the actor's draws.  [N, ...] -> features f_1 .. f_H, [H, N, F]

    The gradient runs from every feature back through the dynamics and the actions into the actor; its input
    is detached, so that the actor is not pulled towards states on which it acts more predictably.
    """
    state, feats = start, []
    for _ in range(horizon):
        act = actor(state.feat.detach()).rsample()  # [N, A]
        state = model.rssm.imagine(state, act)
        feats.append(state.feat)
    return torch.stack(feats)


def lambda_return(rew: Tensor, val: Tensor, disc: Tensor, lam: float) -> Tensor:
    """G_i = r_i + g_i ((1 - lam) v_{i+1} + lam G_{i+1}), G_H = v_H (eq. 6).  [H, N] thrice -> [H - 1, N]"""
    ret, rets = val[-1], []
    for i in reversed(range(len(rew) - 1)):
        ret = rew[i] + disc[i] * ((1 - lam) * val[i + 1] + lam * ret)
        rets.append(ret)
    return torch.stack(rets[::-1])


def weights(disc: Tensor) -> Tensor:
    """w_1 = 1, w_i = product of the discounts before i: is the step still alive?  [H, N] -> [K, N]"""
    ones = torch.ones_like(disc[:1])
    return torch.cat([ones, disc[:-2]]).cumprod(0).detach()


def actor_loss(ret: Tensor, weight: Tensor) -> Tensor:
    """-mean w_i G_i (equation 7): climb the imagined return by its own gradient.  [K, N] twice -> []"""
    return -(weight * ret).mean()


def value_loss(val: Tensor, ret: Tensor, weight: Tensor) -> Tensor:
    """mean w_i (v - sg G_i)^2 / 2 (equation 8).  [K, N] thrice -> []"""
    return (weight * 0.5 * (val - ret.detach()) ** 2).mean()
