"""The recurrent state-space model of DreamerV3 ("Learning a world model"; HEAD: the authors' last code).

    h_t = BlockGRU(h_{t-1}, z_{t-1}, a_t)      prior p(z_t | h_t)      posterior q(z_t | h_t, tokens(o_t))

a_t is the action that led to row t, the house row's act[t-1] (common/replay_buffer.py).  Read it beside
paper3_dreamerv2/rssm.py: the GRU's matrices are block-diagonal, every layer is normalised, one percent of
every categorical is uniform, and h comes first.
Letters: B sequences, T rows, N states, D deter, S variables, C classes, Z = S * C, U hidden units, E tokens,
A action, G blocks, F = D + Z.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paper4_dreamerv3.config import RSSMConfig
from paper4_dreamerv3.networks import BlockLinear, Dense, RMSNorm, linear


class State(NamedTuple):
    """The latent state, with the logits that its stochastic half was drawn from."""

    deter: Tensor  # [..., D] h, the GRU's output
    stoch: Tensor  # [..., Z] z, a sample: one-hot vectors side by side
    logit: Tensor  # [..., Z]

    @property
    def feat(self) -> Tensor:
        """What all heads see.  [..., F]"""
        return torch.cat([self.deter, self.stoch], -1)


class Categorical:
    """S one-hot draws of C classes, a share of each distribution uniform; straight-through gradients."""

    def __init__(self, groups: int, classes: int, unimix: float):
        self.groups, self.classes, self.unimix = groups, classes, unimix

    def probs(self, logit: Tensor) -> Tensor:
        """Mixed probabilities, float32.  [..., Z] -> [..., S, C]"""
        probs = logit.float().unflatten(-1, (self.groups, self.classes)).softmax(-1)
        return probs if not self.unimix else probs * (1 - self.unimix) + self.unimix / self.classes

    def logs(self, logit: Tensor) -> Tensor:
        """Their logarithms; without a uniform share a probability can be 0, its logarithm never -inf."""
        if self.unimix:
            return self.probs(logit).log()
        return logit.float().unflatten(-1, (self.groups, self.classes)).log_softmax(-1)

    def noise(self, *lead: int, device: torch.device, generator: torch.Generator | None = None) -> Tensor:
        """Exponential noise for `sample`, for many rows at once.  [*lead, S, C]"""
        shape = *lead, self.groups, self.classes
        return torch.empty(shape, device=device).exponential_(generator=generator)

    def sample(self, logit: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """onehot + p - sg(p): exactly one-hot forward, the gradient of p backward.  [..., Z] -> [..., Z]

        The largest of p / noise is an exact draw from p (the Gumbel trick without its logarithms).
        """
        probs = self.probs(logit)
        weight = probs.detach()
        if temperature != 1:  # relative to the likeliest: cold powers of small numbers would all be 0
            weight = (weight / weight.amax(-1, keepdim=True)) ** (1 / temperature)
        onehot = torch.zeros_like(weight).scatter_(-1, (weight / noise).argmax(-1, keepdim=True), 1.0)
        if probs.requires_grad:
            onehot = onehot + (probs - probs.detach())
        return onehot.flatten(-2).to(logit.dtype)

    def kl(self, post: Tensor, prior: Tensor) -> Tensor:
        """KL(post || prior) in nats, summed over the variables.  [..., Z] twice -> [...]"""
        return (self.probs(post) * (self.logs(post) - self.logs(prior))).sum((-2, -1))

    def entropy(self, logit: Tensor) -> Tensor:
        """In nats, at most S ln C.  [..., Z] -> [...]"""
        return -(self.probs(logit) * self.logs(logit)).sum((-2, -1))


def block_gru(gates: Tensor, deter: Tensor) -> Tensor:
    """Gates [..., G, 3 D / G], inside each block reset, candidate, update; h [..., D] -> h' [..., D]

    The reset gate multiplies the candidate; the bias of -1 keeps 73 % of h where the network says zero.
    """
    reset, cand, update = (part.flatten(-2).to(deter.dtype) for part in gates.chunk(3, -1))
    return torch.lerp(deter, (reset.sigmoid() * cand).tanh(), (update - 1).sigmoid())


def cast(weight: Tensor) -> Tensor:
    """In autocast's precision, once: a part of a weight it would cast again at every use."""
    kind = weight.device.type
    is_on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return weight.to(torch.get_autocast_dtype(kind)) if is_on else weight


class RSSM(nn.Module):
    """Deterministic path by a block GRU, stochastic path by categoricals."""

    def __init__(self, cfg: RSSMConfig, tokens: int, act: int):
        super().__init__()
        self.cfg, self.deter, self.stoch = cfg, cfg.deter, cfg.stoch * cfg.classes
        self.latent = Categorical(cfg.stoch, cfg.classes, cfg.unimix)
        D, Z, U, G = cfg.deter, self.stoch, cfg.hidden, cfg.blocks
        self.in_deter, self.in_stoch, self.in_act = Dense(D, U), Dense(Z, U), Dense(act, U)
        # The official layer gives every block its slice of h and a copy of all three inputs.  The same
        # without the copies: a block-diagonal matrix for h and a full one for the inputs.
        fan_in = D + G * 3 * U
        self.hidden_deter = BlockLinear(D, D, G, fan_in=fan_in, bias=False)
        self.hidden_in = linear(3 * U, D, fan_in=fan_in)
        self.hidden_norm = RMSNorm(D)
        self.gates = BlockLinear(D, 3 * D, G)
        self.prior_hidden = nn.Sequential(Dense(D, U), Dense(U, U))
        self.prior_logit = linear(U, Z)
        self.post_linear, self.post_norm = linear(D + tokens, U), RMSNorm(U)
        self.post_logit = linear(U, Z)

    @property
    def feature(self) -> int:
        """F"""
        return self.deter + self.stoch

    def initial(self, batch: int) -> State:
        """The zero state.  [N, ...]"""
        zeros = self.post_logit.weight.new_zeros
        return State(zeros(batch, self.deter), zeros(batch, self.stoch), zeros(batch, self.stoch))

    def observe(
        self,
        tokens: Tensor,
        prev_act: Tensor,
        is_first: Tensor,
        deter: Tensor,
        stoch: Tensor,
        generator: torch.Generator | None = None,
    ) -> State:
        """Run the posterior over real rows.  tokens [B, T, E], [B, T, A], [B, T], h, z before -> [B, T, ...]

        Rows with is_first start from zeros: carry and action are cut, gradients too.  Only what hangs on the
        carry is inside the loop: the action's layer, its and the tokens' share of the next ones and the noise
        are computed for all rows at once.
        """
        B, T = is_first.shape
        U, D = self.cfg.hidden, self.deter
        keep = (~is_first).to(tokens.dtype)[..., None]  # [B, T, 1]
        weight_carry, weight_act = cast(self.hidden_in.weight).split([2 * U, U], 1)
        from_act = F.linear(self.act_input(prev_act * keep), weight_act, self.hidden_in.bias).unbind(1)
        weight_h, weight_e = cast(self.post_linear.weight).split([D, tokens.shape[-1]], 1)
        from_tokens = F.linear(tokens, weight_e, self.post_linear.bias).unbind(1)  # T x [B, U]
        noise = self.latent.noise(B, T, device=tokens.device, generator=generator).unbind(1)
        steps, cut = [], is_first.any(0).tolist() if tokens.device.type == "cpu" else [True] * T
        for t in range(T):
            if cut[t]:
                deter, stoch = deter * keep[:, t], stoch * keep[:, t]
            args = from_act[t], from_tokens[t], noise[t], weight_carry, weight_h
            deter, stoch, logit = self.observe_step(deter, stoch, *args)
            steps.append((deter, stoch, logit))
        return State(*(torch.stack(parts, 1) for parts in zip(*steps, strict=True)))

    def observe_step(
        self,
        deter: Tensor,
        stoch: Tensor,
        from_act: Tensor,
        from_tokens: Tensor,
        noise: Tensor,
        weight_carry: Tensor,
        weight_h: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The carry: h and z of the row before -> h, z and z's logits of this row.  [B, ...]"""
        deter = self.core(deter, stoch, from_act, weight_carry)
        x = F.silu(self.post_norm(F.linear(deter, weight_h) + from_tokens))
        logit = self.post_logit(x)
        return deter, self.latent.sample(logit, noise), logit

    def act_input(self, act: Tensor) -> Tensor:
        """Actions, those beyond 1 brought back to 1 (the divisor has no gradient), through their layer."""
        return self.in_act(act / act.detach().abs().clamp(min=1))

    def core(self, deter: Tensor, stoch: Tensor, from_act: Tensor, weight_carry: Tensor) -> Tensor:
        """h' from h, z and the action's share of the hidden layer.  [N, ...] -> [N, D]"""
        carry = torch.cat([self.in_deter(deter), self.in_stoch(stoch)], -1)  # [N, 2 U]
        x = self.hidden_deter(deter).flatten(-2) + F.linear(carry, weight_carry) + from_act
        x = F.silu(self.hidden_norm(x))
        return block_gru(self.gates(x), deter)

    def imagine(
        self,
        state: State,
        act: Tensor,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> State:
        """One step of the prior: the state that an action leads to.  [N, ...], [N, A] -> [N, ...]"""
        weight_carry, weight_act = self.hidden_in.weight.split([2 * self.cfg.hidden, self.cfg.hidden], 1)
        from_act = F.linear(self.act_input(act), weight_act, self.hidden_in.bias)
        deter = self.core(state.deter, state.stoch, from_act, weight_carry)
        logit = self.prior(deter)
        noise = self.latent.noise(len(deter), device=deter.device, generator=generator)
        return State(deter, self.latent.sample(logit, noise, temperature), logit)

    def prior(self, deter: Tensor) -> Tensor:
        """Logits of z from h alone.  [..., D] -> [..., Z]"""
        return self.prior_logit(self.prior_hidden(deter))

    def compile_steps(self) -> None:
        """torch.compile what the loops over time call; small graphs, so that compiling takes seconds."""
        self.observe_step, self.imagine = torch.compile(self.observe_step), torch.compile(self.imagine)
