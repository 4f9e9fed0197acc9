"""Actor and critic, which learn in dreams: by gradients through the dynamics, or by REINFORCE.

value      the gradient of lambda-returns through rewards, slow critic, latents and actions into the actor
reward     the gradient of the dream's plain sum of rewards, without a critic (the starting project's script)
reinforce  the control: log-probabilities weighted by normalised advantages, in the same dreams

The model stays as it is.  The actor's input is detached: a gradient reaches an action through what the action
does, and not through what the actor would do elsewhere.
Shapes: H steps, B dreams, K latents, C classes, A actions.
"""

import copy
import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundations.tssm.config import AgentConfig
from foundations.tssm.dynamics import Dream, Dynamics

Objective = Literal["value", "reward", "reinforce"]


class TanhNormal:
    """tanh(mean + std * noise).  [..., A]"""

    def __init__(self, mean: Tensor, std: Tensor):
        self.mean, self.std = mean, std

    @property
    def mode(self) -> Tensor:
        """What evaluation plays: tanh(mean)."""
        return self.mean.tanh()

    def rsample(self) -> tuple[Tensor, Tensor]:
        """(raw, tanh(raw)) with gradients to mean and std."""
        raw = self.mean + self.std * torch.randn_like(self.mean)
        return raw, raw.tanh()

    def log_prob(self, raw: Tensor) -> Tensor:
        """log p(tanh(raw)), of the value before the tanh.  [..., A] -> [...]"""
        normal = -0.5 * ((raw - self.mean) / self.std) ** 2 - self.std.log() - 0.5 * math.log(2 * math.pi)
        log_slope = 2 * (math.log(2) - raw - F.softplus(-2 * raw))  # ln(1 - tanh(raw)^2)
        return (normal - log_slope).sum(-1)


class Actor(nn.Module):
    """Latents -> distribution of actions.  [..., K, C] -> TanhNormal [..., A]"""

    def __init__(self, cfg: AgentConfig, code: int, act_size: int):
        super().__init__()
        self.cfg, self.net = cfg, _mlp(code, cfg.units, 2 * act_size)

    def forward(self, stoch: Tensor) -> TanhNormal:
        mean, std = self.net(stoch.flatten(-2)).chunk(2, -1)  # [..., A] each
        bound = self.cfg.mean_bound
        std = (math.log(0.5) + 2 * (std / 2).tanh()).exp().clamp(self.cfg.min_std, self.cfg.max_std)
        return TanhNormal(bound * (mean / bound).tanh(), std)


class Critic(nn.Module):
    """Latents -> return.  [..., K, C] -> [...]  The network gives (1 - disc) * return, a mean reward."""

    def __init__(self, cfg: AgentConfig, code: int):
        super().__init__()
        self.disc, self.net = cfg.disc, _mlp(code, cfg.units, 1)

    def forward(self, stoch: Tensor) -> Tensor:
        return self.net(stoch.flatten(-2)).squeeze(-1) / (1 - self.disc)


def lambda_return(rew: Tensor, val: Tensor, disc: Tensor, lam: float) -> Tensor:
    """G_t = r_{t+1} + d_t ((1 - lam) v_{t+1} + lam G_{t+1}), G_H = v_H.

    rew, disc [H, B] (of arriving in row t + 1), val [H + 1, B] -> [H, B].  The weights of the n-step returns
    are (1 - lam) lam^(n - 1) and lam^(H - 1) for the last: they sum to 1, which mauicv/world-model-rl misses.
    """
    ret, rets = val[-1], []
    for t in reversed(range(len(rew))):
        ret = rew[t] + disc[t] * ((1 - lam) * val[t + 1] + lam * ret)
        rets.append(ret)
    return torch.stack(rets[::-1])


class Agent(nn.Module):
    """Actor, critic and its slow copy, with their losses in dreams."""

    def __init__(self, cfg: AgentConfig, latents: int, classes: int, act_size: int):
        super().__init__()
        self.cfg = cfg
        self.actor = Actor(cfg, latents * classes, act_size)
        self.critic = Critic(cfg, latents * classes)
        self.slow_critic = copy.deepcopy(self.critic)

    def act(self, stoch: Tensor) -> Tensor:
        """The mean action.  [B, K, C] -> [B, A]"""
        return self.actor(stoch).mode

    def dream(self, model: Dynamics, stoch: Tensor, rew: Tensor) -> tuple[Dream, Tensor, Tensor]:
        """Dream with drawn actions: the dream, their raw values [H, B, A] and log-probabilities [H, B]."""
        raws, logps = [], []

        def policy(stoch: Tensor) -> Tensor:
            dist = self.actor(stoch.detach())
            raw, act = dist.rsample()
            raws.append(raw), logps.append(dist.log_prob(raw))
            return act

        cfg = self.cfg
        dream = model.imagine(
            stoch, rew, policy, cfg.horizon, context=cfg.context, temperature=cfg.temperature
        )
        return dream, torch.stack(raws), torch.stack(logps)

    def returns(self, dream: Dream) -> tuple[Tensor, Tensor]:
        """Lambda-returns by the slow critic, and how likely each row is still played: [H, B] twice."""
        disc = self.cfg.disc * dream.alive
        ret = lambda_return(dream.rew, self.slow_critic(dream.stoch), disc, self.cfg.lam)
        weight = torch.cat([torch.ones_like(dream.alive[:1]), dream.alive[:-1]]).cumprod(0).detach()
        return ret, weight

    def losses(
        self, model: Dynamics, stoch: Tensor, rew: Tensor, objective: Objective, entropy: float
    ) -> dict[str, Tensor]:
        """Actor and critic losses from start rows [B, K, C], [B] -> {"actor": [H, B], "critic": [H, B]}"""
        with torch.set_grad_enabled(objective != "reinforce"):
            dream, raw, logp = self.dream(model, stoch, rew)
            ret, weight = self.returns(dream)
        before = dream.stoch[:-1].detach()  # the rows in which actions were chosen  [H, B, K, C]
        val = self.critic(before)  # [H, B]
        if objective == "value":
            gain = ret
        elif objective == "reward":
            gain = dream.rew * len(dream.rew)  # so that the mean over rows is the sum over the dream
        else:
            dist = self.actor(before)
            gain = dist.log_prob(raw) * normalised(ret - val).detach()
            logp = dist.log_prob(dist.rsample()[0])  # of fresh draws: at fixed ones its mean gradient is 0
        scale = 1 - self.cfg.disc  # the critic learns mean rewards: errors of order 1
        return {
            "actor": -weight * (gain - entropy * logp),
            "critic": weight * (scale * (val - ret.detach())) ** 2,
        }

    @torch.no_grad()
    def update_slow(self) -> None:
        """Move the slow critic a step of target_rate towards the critic."""
        for slow, fast in zip(self.slow_critic.parameters(), self.critic.parameters(), strict=True):
            slow.lerp_(fast, self.cfg.target_rate)


def normalised(adv: Tensor) -> Tensor:
    """Mean 0, deviation 1 over all rows of all dreams."""
    return (adv - adv.mean()) / (adv.std() + 1e-8)


def _mlp(inputs: int, units: int, outputs: int) -> nn.Sequential:
    hidden = [
        layer for size in (inputs, units) for layer in (nn.Linear(size, units), nn.LayerNorm(units), nn.ELU())
    ]
    last = nn.Linear(units, outputs)
    with torch.no_grad():
        last.weight.mul_(0.1)  # the first actions, and the first values, are near 0 everywhere
    return nn.Sequential(*hidden, last)
