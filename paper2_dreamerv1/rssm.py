"""The recurrent state-space model of DreamerV1 (paper, section 3 and appendix A; PlaNet).

    h_t = GRU(h_{t-1}, W [z_{t-1}; a_t])      prior p(z_t | h_t)      posterior q(z_t | h_t, e(o_t))

a_t is the action that led to row t, the house row's act[t-1] (common/replay_buffer.py); the sampler shifts
it. Read it beside paper3_dreamerv2/rssm.py: the difference is the second paper. Letters: B sequences, T rows,
N states, D deter, Z stoch, U hidden units, E embedding, A action, F = Z + D.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paper2_dreamerv1.config import RSSMConfig


class State(NamedTuple):
    """The latent state, with the distribution that its stochastic half was drawn from."""

    deter: Tensor  # [..., D] h, the GRU's output
    stoch: Tensor  # [..., Z] z, a sample
    stats: Tensor  # [..., 2 Z] mean and standard deviation

    @property
    def feat(self) -> Tensor:
        """What all heads see.  [..., F]"""
        return torch.cat([self.stoch, self.deter], -1)

    def flat(self) -> "State":
        """All leading dims as one, detached: where dreams start.  [B, T, ...] -> [N, ...]"""
        return State(*(part.detach().flatten(0, 1) for part in self))


class GaussianLatent:
    """z ~ N(mean, std), diagonal, std = softplus(raw) + 0.1; gradients pass mean + std * noise."""

    def __init__(self, cfg: RSSMConfig):
        self.size = cfg.stoch  # of z
        self.inputs = 2 * cfg.stoch  # what a layer must output
        self.min_std = cfg.min_std

    def stats(self, raw: Tensor) -> Tensor:
        """Output of a layer -> mean and std.  [..., 2 Z] -> [..., 2 Z]"""
        mean, raw_std = raw.chunk(2, -1)
        return torch.cat([mean, F.softplus(raw_std) + self.min_std], -1)

    def noise(self, *lead: int, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """What `sample` needs, for many rows at once.  [*lead, Z]"""
        return torch.randn(*lead, self.size, dtype=like.dtype, device=like.device, generator=generator)

    def sample(self, stats: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """Reparameterised draw.  [..., 2 Z], [..., Z] -> [..., Z]"""
        mean, std = stats.chunk(2, -1)
        return mean + temperature * std * noise

    def kl(self, post: Tensor, prior: Tensor) -> Tensor:
        """KL(post || prior) in nats, summed over the dimensions.  [..., 2 Z] twice -> [...]"""
        (mean, std), (prior_mean, prior_std) = post.float().chunk(2, -1), prior.float().chunk(2, -1)
        ratio = (std / prior_std) ** 2
        return 0.5 * (ratio + ((mean - prior_mean) / prior_std) ** 2 - 1 - ratio.log()).sum(-1)

    def entropy(self, stats: Tensor) -> Tensor:
        """Differential entropy in nats.  [..., 2 Z] -> [...]"""
        return (stats.float().chunk(2, -1)[1].log() + 1.4189385).sum(-1)  # log(2 pi e) / 2


class RSSM(nn.Module):
    """Deterministic path by a GRU, stochastic path by Gaussians."""

    def __init__(self, cfg: RSSMConfig, embed: int, act: int):
        super().__init__()
        self.latent = GaussianLatent(cfg)
        self.deter, self.sizes = cfg.deter, (self.latent.size, act, cfg.deter, embed)
        self.inputs = nn.Linear(self.latent.size + act, cfg.hidden)
        self.cell = nn.GRUCell(cfg.hidden, cfg.deter)  # Keras' GRU with reset_after: the same algebra
        self.prior_hidden = nn.Linear(cfg.deter, cfg.hidden)
        self.prior_stats = nn.Linear(cfg.hidden, self.latent.inputs)
        self.post_hidden = nn.Linear(cfg.deter + embed, cfg.hidden)
        self.post_stats = nn.Linear(cfg.hidden, self.latent.inputs)

    @property
    def feature(self) -> int:
        """F"""
        return self.latent.size + self.deter

    def initial(self, batch: int) -> State:
        """The zero state.  [N, ...]"""
        zeros = self.inputs.weight.new_zeros
        return State(
            zeros(batch, self.deter), zeros(batch, self.latent.size), zeros(batch, self.latent.inputs)
        )

    def observe(
        self,
        embed: Tensor,
        prev_act: Tensor,
        is_first: Tensor,
        state: State | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[State, State]:
        """Run the posterior over real rows.  [B, T, E], [B, T, A], [B, T] bool -> post, prior [B, T, ...]

        Rows with is_first start from the zero state: nothing, no gradient either, crosses an episode's start.
        Only what hangs on the carry is inside the loop: the action's and the embedding's share of their
        layers, the noise and the prior are computed for all rows at once.
        """
        B, T = is_first.shape
        state = self.initial(B) if state is None else state
        Z, A, D, E = self.sizes
        weight_z, weight_a = self.inputs.weight.split([Z, A], 1)
        weight_h, weight_e = self.post_hidden.weight.split([D, E], 1)
        from_act = F.linear(prev_act, weight_a, self.inputs.bias).unbind(1)  # T x [B, U]
        from_embed = F.linear(embed, weight_e, self.post_hidden.bias).unbind(1)  # T x [B, U]
        noise = self.latent.noise(B, T, like=state.deter, generator=generator).unbind(1)
        keep = (~is_first).to(state.deter.dtype)[..., None].unbind(1)  # T x [B, 1]
        deter, stoch, steps = state.deter, state.stoch, []
        for t in range(T):
            args = from_act[t], from_embed[t], noise[t], weight_z, weight_h
            deter, stoch, stats = self.observe_step(deter * keep[t], stoch * keep[t], *args)
            steps.append((deter, stoch, stats))
        post = State(*(torch.stack(parts, 1) for parts in zip(*steps, strict=True)))
        stats = self.prior(post.deter)
        return post, State(post.deter, post.stoch, stats)  # of the prior no sample is needed

    def observe_step(
        self,
        deter: Tensor,
        stoch: Tensor,
        from_act: Tensor,
        from_embed: Tensor,
        noise: Tensor,
        weight_z: Tensor,
        weight_h: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The carry: h and z of the row before -> h, z and z's distribution of this row.  [B, ...]"""
        x = F.elu(F.linear(stoch, weight_z) + from_act)
        deter = self.cell(x, deter)  # [B, D]
        x = F.elu(F.linear(deter, weight_h) + from_embed)
        stats = self.latent.stats(self.post_stats(x))
        return deter, self.latent.sample(stats, noise), stats

    def imagine(
        self,
        state: State,
        act: Tensor,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> State:
        """One step of the prior: the state that an action leads to.  [N, ...], [N, A] -> [N, ...]"""
        x = F.elu(self.inputs(torch.cat([state.stoch, act], -1)))
        deter = self.cell(x, state.deter)
        stats = self.prior(deter)
        noise = self.latent.noise(len(deter), like=deter, generator=generator)
        return State(deter, self.latent.sample(stats, noise, temperature), stats)

    def prior(self, deter: Tensor) -> Tensor:
        """Distribution of z from h alone.  [..., D] -> [..., 2 Z]"""
        return self.latent.stats(self.prior_stats(F.elu(self.prior_hidden(deter))))

    def compile_steps(self) -> None:
        """torch.compile what the loops over time call; small graphs, so that compiling takes seconds."""
        self.observe_step, self.imagine = torch.compile(self.observe_step), torch.compile(self.imagine)
