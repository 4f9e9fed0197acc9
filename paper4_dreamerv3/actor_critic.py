"""Behaviour learned by latent imagination (paper, "Critic learning" and "Actor learning").

Imagined states s_0 .. s_H include the start, which is a replayed row; act[i] is chosen at s_i.  Return R_i
begins with the reward of s_{i+1}, the first that an action of the dream can change.  Every actor, discrete or
continuous, learns by REINFORCE, its advantages divided by the range of returns.
Letters: N start states, H horizon, A action, F feature, B sequences, K rows of one that start dreams.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.spaces import Spaces
from paper4_dreamerv3.config import Config
from paper4_dreamerv3.networks import MLP
from paper4_dreamerv3.rssm import State
from paper4_dreamerv3.symlog import TwoHot
from paper4_dreamerv3.world_model import WorldModel

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


class Normal:
    """A plain normal, not squashed: draws may lie beyond 1 and are cut by whoever uses them.  [..., A]"""

    def __init__(self, mean: Tensor, std: Tensor):
        self.mean, self.std = mean.float(), std.float()

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """[..., A]"""
        noise = torch.randn(self.mean.shape, device=self.mean.device, generator=generator)
        return (self.mean + self.std * noise).detach()

    def mode(self) -> Tensor:
        """[..., A]"""
        return self.mean

    def log_prob(self, act: Tensor) -> Tensor:
        """[..., A] -> [...]"""
        return (-0.5 * ((act - self.mean) / self.std) ** 2 - self.std.log() - LOG_SQRT_2PI).sum(-1)

    def entropy(self) -> Tensor:
        """[...]"""
        return (self.std.log() + LOG_SQRT_2PI + 0.5).sum(-1)


class OneHots:
    """One or several choices as one-hot vectors side by side, a share of each uniform.  [..., A]"""

    def __init__(self, logit: Tensor, choices: tuple[int, ...], unimix: float):
        self.choices = choices
        parts = logit.float().split(choices, -1)
        self.probs = [p.softmax(-1) * (1 - unimix) + unimix / p.shape[-1] for p in parts]
        # Without a uniform share a probability can be 0, and 0 ln 0 not a number.
        self.logs = [p.log() for p in self.probs] if unimix else [p.log_softmax(-1) for p in parts]

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """[..., A]"""
        draws = []
        for probs in self.probs:
            noise = torch.empty_like(probs).exponential_(generator=generator)
            draws.append(torch.zeros_like(probs).scatter_(-1, (probs / noise).argmax(-1, keepdim=True), 1.0))
        return torch.cat(draws, -1)

    def mode(self) -> Tensor:
        """[..., A]"""
        return torch.cat([F.one_hot(p.argmax(-1), p.shape[-1]) for p in self.probs], -1).to(
            self.probs[0].dtype
        )

    def log_prob(self, act: Tensor) -> Tensor:
        """One-hot [..., A] -> [...]"""
        parts = zip(self.logs, act.split(self.choices, -1), strict=True)
        return sum((log * part).sum(-1) for log, part in parts)

    def entropy(self) -> Tensor:
        """In nats, summed over the choices.  [...]"""
        return -sum((probs * log).sum(-1) for probs, log in zip(self.probs, self.logs, strict=True))


class Actor(nn.Module):
    """pi(a | f): features -> a distribution over actions.  [..., F] -> Normal or OneHots"""

    def __init__(self, cfg: Config, feature: int, spaces: Spaces):
        super().__init__()
        self.cfg, self.choices = cfg.actor, spaces.choices
        outputs = spaces.act if spaces.discrete else 2 * spaces.act
        self.net = MLP(feature, cfg.actor.layers, cfg.units, outputs, out_scale=0.01)

    def forward(self, feat: Tensor) -> Normal | OneHots:
        out = self.net(feat).float()
        if self.choices:
            return OneHots(out, self.choices, self.cfg.unimix)
        mean, std = out.chunk(2, -1)
        low, high = self.cfg.min_std, self.cfg.max_std
        return Normal(mean.tanh(), (high - low) * (std + 2).sigmoid() + low)  # 0.8927 at first


class Imagined(NamedTuple):
    """A dream, time first."""

    feat: Tensor  # [H + 1, N, F]
    act: Tensor  # [H, N, A] act[i] chosen at s_i


@torch.no_grad()
def imagine(model: WorldModel, actor: Actor, start: State, horizon: int) -> Imagined:
    """Dream with the prior and the actor's draws.  [N, ...] -> features [H + 1, N, F], actions [H, N, A]"""
    state, feats, acts = start, [start.feat], []
    for _ in range(horizon):
        act = actor(state.feat).sample()  # [N, A]
        state = model.rssm.imagine(state, act)
        feats.append(state.feat)
        acts.append(act)
    return Imagined(torch.stack(feats), torch.stack(acts))


def lambda_return(rew: Tensor, val: Tensor, disc: Tensor, lam: float) -> Tensor:
    """R_i = r_{i+1} + d_{i+1} ((1 - lam) v_{i+1} + lam R_{i+1}), R_H = v_H.  [H + 1, N] thrice -> [H, N]"""
    ret, rets = val[-1], []
    for i in reversed(range(len(rew) - 1)):
        ret = rew[i + 1] + disc[i + 1] * ((1 - lam) * val[i + 1] + lam * ret)
        rets.append(ret)
    return torch.stack(rets[::-1])


def replay_return(
    rew: Tensor, boot: Tensor, is_last: Tensor, is_terminal: Tensor, gamma: float, lam: float
) -> Tensor:
    """Lambda-returns along replayed rows, bootstrapped from the dreams' returns at each of them.

    boot[t] is R_0 of the dream that begins at row t.  Where an episode ends but is not over (a time limit),
    the recursion is cut and the bootstrap stays.  [B, K] four times -> [B, K - 1]
    """
    live, more = (~is_terminal).float() * gamma, (~is_last).float() * lam
    ret, rets = boot[:, -1], []
    for t in reversed(range(rew.shape[1] - 1)):
        ret = rew[:, t + 1] + live[:, t + 1] * ((1 - more[:, t + 1]) * boot[:, t + 1] + more[:, t + 1] * ret)
        rets.append(ret)
    return torch.stack(rets[::-1], 1)


def actor_loss(
    policy: Normal | OneHots, act: Tensor, advantage: Tensor, weight: Tensor, entropy: float
) -> Tensor:
    """w_i (-A_i log pi(a_i) - eta H): REINFORCE with a bonus.  [H, N] each -> [H, N]"""
    return -weight * (policy.log_prob(act) * advantage.detach() + entropy * policy.entropy())


def critic_loss(critic: TwoHot, ret: Tensor, slow: Tensor, weight: Tensor, slow_scale: float) -> Tensor:
    """Cross entropy with the returns, and with the slow critic's means.  [...] each -> [...]"""
    return weight * (critic.loss(ret) + slow_scale * critic.loss(slow))


class ReturnRange(nn.Module):
    """The range from the 5th to the 95th percentile of returns, as moving averages that begin at 0."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    @torch.no_grad()
    def update(self, ret: Tensor) -> Tensor:
        """Take in a batch of returns -> S, at least 1: small returns are never scaled up.  [...] -> []"""
        # Filled on the device; torch.tensor would copy them from the host, and wait.
        edges = torch.stack([torch.full((), share, device=ret.device) for share in [0.05, 0.95]])
        low, high = torch.quantile(ret.float().flatten(), edges)
        is_good = (high - low).isfinite()  # an update that will be skipped leaves no trace here either
        self.low.copy_(torch.where(is_good, self.low.lerp(low, self.rate), self.low))
        self.high.copy_(torch.where(is_good, self.high.lerp(high, self.rate), self.high))
        return (self.high - self.low).clamp(min=1)


def alive(cont: Tensor, gamma: float, contdisc: bool) -> tuple[Tensor, Tensor]:
    """Predicted continues -> discounts for returns and weights of the states.  [H + 1, N] -> twice the same

    contdisc: gamma is inside the predictions, that of the root included (HEAD).
    """
    if contdisc:
        return cont, cont.cumprod(0)
    disc = cont * gamma
    return disc, disc.cumprod(0) / gamma
