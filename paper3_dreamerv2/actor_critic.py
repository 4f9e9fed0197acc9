"""Behaviour learned by latent imagination (paper, section 2.2, equations 3 to 6; appendix D for the actors).

Imagined states s_0 .. s_H include the start; act[t] is chosen at s_t.  The reward of s_t was collected on
entering it, so V_0 is defined, and the critic of a terminal state learns exactly its reward.  Targets V_0 ..
V_{H-1} come from the slow critic; the actor's loss has the K = H - 1 terms t = 0 .. H - 2. Letters: N start
states, H horizon, A action, F feature.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paper3_dreamerv2.config import ActorConfig, Config
from paper3_dreamerv2.networks import MLP, init_keras_
from paper3_dreamerv2.rssm import State
from paper3_dreamerv2.world_model import WorldModel

INSIDE = 1 - 1e-6  # samples are clipped to this, their gradient is not
LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


class TruncatedNormal:
    """A normal cut off at -1 and 1: actions that start near-uniform and never saturate.  [..., A]"""

    def __init__(self, mean: Tensor, std: Tensor):
        self.mean, self.std = mean.float(), std.float()
        self.low, self.high = (-1 - self.mean) / self.std, (1 - self.mean) / self.std
        self.cdf_low = torch.special.ndtr(self.low)
        self.mass = (torch.special.ndtr(self.high) - self.cdf_low).clamp(min=1e-6)  # inside [-1, 1]

    def rsample(self, generator: torch.Generator | None = None) -> Tensor:
        """A draw by the inverse of the distribution function; clipped, with the gradient straight through."""
        uniform = torch.rand(self.mean.shape, device=self.mean.device, generator=generator)
        share = (self.cdf_low + uniform * self.mass).clamp(1e-6, 1 - 1e-6)
        act = self.mean + self.std * torch.special.ndtri(share)
        return act + (act.clamp(-INSIDE, INSIDE) - act).detach()

    def mode(self) -> Tensor:
        """The mean: it lies inside."""
        return self.mean.clamp(-INSIDE, INSIDE)

    def log_prob(self, act: Tensor) -> Tensor:
        """[..., A] -> [...]"""
        scaled = (act - self.mean) / self.std
        return (-0.5 * scaled**2 - LOG_SQRT_2PI - self.std.log() - self.mass.log()).sum(-1)

    def entropy(self) -> Tensor:
        """Differential entropy in nats, in closed form (uniform: ln 2 for each number).  [...]"""
        density = [(-0.5 * edge**2 - LOG_SQRT_2PI).exp() for edge in (self.low, self.high)]
        bend = (self.low * density[0] - self.high * density[1]) / (2 * self.mass)
        return (0.5 + LOG_SQRT_2PI + self.std.log() + self.mass.log() + bend).sum(-1)


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

    def mode(self) -> Tensor:
        """The likeliest class."""
        return F.one_hot(self.logit.argmax(-1), self.logit.shape[-1]).to(self.logit.dtype)

    def log_prob(self, act: Tensor) -> Tensor:
        """One-hot [..., A] -> [...]"""
        return (self.logit.log_softmax(-1) * act).sum(-1)

    def entropy(self) -> Tensor:
        """In nats.  [...]"""
        log_prob = self.logit.log_softmax(-1)
        return -(log_prob.exp() * log_prob).sum(-1)


class Actor(nn.Module):
    """pi(a | f): features -> a distribution over actions.  [..., F] -> TruncatedNormal or OneHot"""

    def __init__(self, cfg: ActorConfig, feature: int, act: int, discrete: bool):
        super().__init__()
        self.discrete = discrete
        self.net = MLP(feature, cfg.layers, cfg.units, act if discrete else 2 * act)
        init_keras_(self)
        if not discrete:  # two layers of A outputs each, as in the authors' code, stored as one
            for half in self.net.out.weight.chunk(2):
                nn.init.xavier_uniform_(half)

    def forward(self, feat: Tensor) -> TruncatedNormal | OneHot:
        out = self.net(feat).float()
        if self.discrete:
            return OneHot(out)
        mean, std = out.chunk(2, -1)
        return TruncatedNormal(mean.tanh(), 2 * (std / 2).sigmoid() + 0.1)  # std in (0.1, 2.1), 1.1 at first


class Critic(nn.Module):
    """v(f): mean of a unit-variance Gaussian.  [..., F] -> [...]"""

    def __init__(self, cfg: Config, feature: int):
        super().__init__()
        self.net = MLP(feature, cfg.behaviour.critic_layers, cfg.behaviour.critic_units, 1)
        init_keras_(self)

    def forward(self, feat: Tensor) -> Tensor:
        return self.net(feat).squeeze(-1).float()


class Imagined(NamedTuple):
    """A dream, time first."""

    feat: Tensor  # [H + 1, N, F]
    act: Tensor  # [H, N, A] act[t] chosen at s_t


def imagine(model: WorldModel, actor: Actor, start: State, horizon: int, with_graph: bool) -> Imagined:
    """Dream with the prior and the actor's draws.  [N, ...] -> features [H + 1, N, F], actions [H, N, A]

    with_graph: keep what back-propagation through the dynamics needs (rho < 1); REINFORCE does not, and the
    policy is evaluated again on all features at once.  The actor's input is detached at every step.
    """
    state, feats, acts = start, [start.feat], []
    with torch.set_grad_enabled(with_graph and torch.is_grad_enabled()):
        for _ in range(horizon):
            act = actor(state.feat.detach()).rsample()  # [N, A]
            state = model.rssm.imagine(state, act)
            feats.append(state.feat)
            acts.append(act)
    return Imagined(torch.stack(feats), torch.stack(acts))


def lambda_target(rew: Tensor, val: Tensor, disc: Tensor, lam: float) -> Tensor:
    """V_t = r_t + d_t ((1 - lam) v'_{t+1} + lam V_{t+1}), V_H = v'_H (eq. 4).  [H + 1, N] thrice -> [H, N]"""
    ret, rets = val[-1], []
    for t in reversed(range(len(rew) - 1)):
        ret = rew[t] + disc[t] * ((1 - lam) * val[t + 1] + lam * ret)
        rets.append(ret)
    return torch.stack(rets[::-1])


def weights(disc: Tensor) -> Tensor:
    """w_0 = 1, w_t = product of the discounts before t: is the step still alive?  [H + 1, N] -> [H, N]"""
    ones = torch.ones_like(disc[:1])
    return torch.cat([ones, disc[:-2]]).cumprod(0).detach()


def actor_loss(
    policy: TruncatedNormal | OneHot,
    act: Tensor,
    target: Tensor,
    baseline: Tensor,
    weight: Tensor,
    *,
    rho: float,
    entropy: float,
    advantage: str,
) -> Tensor:
    """Equation 6: rho times REINFORCE, 1 - rho times the dynamics' gradient, and the entropy bonus.  -> []

    policy and act of t = 0 .. K - 1, target [H, N], baseline and weight [K, N] (or longer).  advantage eq6:
    V_t - v_t; head: V_{t+1} - v_t, which drops the reward of s_t that no action of now can change.
    """
    K = len(target) - 1
    goal = target[1:] if advantage == "head" else target[:-1]  # [K, N]
    objective = entropy * policy.entropy()
    if rho > 0:
        gain = (goal - baseline[:K]).detach()
        objective = objective + rho * policy.log_prob(act[:K].detach()) * gain
    if rho < 1:
        objective = objective + (1 - rho) * goal
    return -(weight[:K] * objective).mean()


def critic_loss(val: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """mean w_t (v(s_t) - sg V_t)^2 / 2 (equation 5).  [H, N] thrice -> []"""
    return (weight * 0.5 * (val - target.detach()) ** 2).mean()
