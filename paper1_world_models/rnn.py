"""M, the memory model: an LSTM with a mixture-density head (paper 1, section "MDN-RNN (M) Model"; appendix
A.2).

M reads (z_t, a_t) and predicts the distribution of z_{t+1}: for every latent dimension on its own a mixture
of K Gaussians.  For tasks that can end it also predicts the end, and for learning inside the dream, the
reward.  With 32 latents, 3 actions and 256 units this is the published 422,368 parameters.

Shapes: B sequences, T steps, Z latents, A action numbers, D hidden units, K mixture components.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paper1_world_models.config import RNNConfig

# Without a floor one component can collapse on a point and the loss goes to NaN.
LOGSIGMA_MIN, LOGSIGMA_MAX = -7.0, 5.0
State = tuple[Tensor, Tensor]  # (h, c), each [B, D]


@dataclass
class Prediction:
    """What M says of the next step: mixture [..., Z, K] three times; reward and done logit [...] or None."""

    logpi: Tensor
    mu: Tensor
    logsigma: Tensor
    rew: Tensor | None
    done: Tensor | None


class MDNRNN(nn.Module):
    """(z_t, a_t, state) -> distribution of z_{t+1}, state."""

    def __init__(self, cfg: RNNConfig, latents: int, actions: int):
        super().__init__()
        self.cfg, self.latents, self.actions = cfg, latents, actions
        self.lstm = nn.LSTM(latents + actions + cfg.restart_input, cfg.hidden, batch_first=True)
        self.mixture_sizes = (
            [cfg.mixtures, cfg.mixtures * latents, cfg.mixtures * latents]
            if cfg.shared_pi  # one set of K weights for the whole vector; the authors have Z sets
            else [cfg.mixtures * latents] * 3
        )
        self.head = nn.Linear(cfg.hidden, sum(self.mixture_sizes) + cfg.reward_head + cfg.done_head)
        with torch.no_grad():
            # The authors' cell has one bias vector; torch has two, so one is frozen at zero and not counted.
            self.lstm.bias_hh_l0.zero_().requires_grad_(False)
            self.lstm.bias_ih_l0.zero_()
            # Gates are ordered i, f, g, o.
            self.lstm.bias_ih_l0[cfg.hidden : 2 * cfg.hidden] = cfg.forget_bias
            if cfg.done_head:
                self.head.bias[-1] = cfg.done_bias

    def initial(self, batch: int) -> State:
        """The zero state.  -> h, c: [B, D]"""
        weight = self.head.weight
        return weight.new_zeros(batch, self.cfg.hidden), weight.new_zeros(batch, self.cfg.hidden)

    def inputs(self, z: Tensor, act: Tensor, restart: Tensor) -> Tensor:
        """What the LSTM reads.  [..., Z], [..., A], bool [...] -> [..., Z + A (+ 1)]"""
        parts = [z, act] + ([restart[..., None].to(z.dtype)] if self.cfg.restart_input else [])
        return torch.cat(parts, -1)

    def forward(self, z: Tensor, act: Tensor, restart: Tensor, state: State) -> tuple[Tensor, State]:
        """Read whole sequences.  [B, T, Z], [B, T, A], bool [B, T], state -> hidden [B, T, D], last state

        `restart` marks first rows of episodes: the state is zeroed before they are read.
        """
        x = self.inputs(z, act, restart)  # [B, T, Z + A]
        if not restart[:, 1:].any():  # one episode per row: the fused kernel
            keep = (~restart[:, :1]).to(x.dtype)  # [B, 1]
            out, (h, c) = self.lstm(x, ((state[0] * keep)[None], (state[1] * keep)[None]))
            return out, (h[0], c[0])
        lstm, (h, c), hidden = self.lstm, state, []
        from_input = F.linear(
            x, lstm.weight_ih_l0, lstm.bias_ih_l0
        )  # [B, T, 4D]; no need to wait for the state
        keep = (~restart).to(x.dtype)[:, :, None]  # [B, T, 1]
        for t in range(x.shape[1]):
            h, c = cell(from_input[:, t], h * keep[:, t], c * keep[:, t], lstm.weight_hh_l0)
            hidden.append(h)
        return torch.stack(hidden, 1), (h, c)

    def step(self, z: Tensor, act: Tensor, restart: Tensor, state: State) -> State:
        """Read one step; nothing is zeroed here.  [B, Z], [B, A], bool [B], state -> state"""
        from_input = F.linear(self.inputs(z, act, restart), self.lstm.weight_ih_l0, self.lstm.bias_ih_l0)
        return cell(from_input, *state, self.lstm.weight_hh_l0)

    def predict(self, hidden: Tensor) -> Prediction:
        """The distribution of the next step.  [..., D] -> Prediction"""
        out = self.head(hidden).float()  # in float32, whatever the weights are carried in
        *mixture, extra = out.split([*self.mixture_sizes, self.cfg.reward_head + self.cfg.done_head], -1)
        shape = (*hidden.shape[:-1], self.latents, self.cfg.mixtures)
        logits, mu, logsigma = (m.unflatten(-1, (-1, self.cfg.mixtures)) for m in mixture)  # [..., Z or 1, K]
        return Prediction(
            logpi=logits.log_softmax(-1).expand(shape),  # over the K components, never over dimensions
            mu=mu,
            logsigma=logsigma.clamp(LOGSIGMA_MIN, LOGSIGMA_MAX),
            rew=extra[..., 0] if self.cfg.reward_head else None,
            done=extra[..., -1] if self.cfg.done_head else None,
        )


def cell(from_input: Tensor, h: Tensor, c: Tensor, weight_hh: Tensor) -> State:
    """One LSTM step from the ready input projection.  [B, 4D], [B, D], [B, D], [4D, D] -> h, c"""
    i, f, g, o = (from_input + h @ weight_hh.T).chunk(4, -1)  # [B, D] each
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def mdn_nll(pred: Prediction, target: Tensor, shared_pi: bool = False) -> Tensor:
    """Negative log likelihood of the next latent, in nats per dimension.  [..., Z, K] and [..., Z] -> [...]

    log p(z_d) = logsumexp_k [log pi_dk - ((z_d - mu_dk) / sigma_dk)^2 / 2 - log sigma_dk - log(2 pi) / 2],
    appendix A.2. An unpredictable N(0, 1) dimension costs 1.4189; the authors' curves end near 1.0.
    """
    scaled = (target[..., None] - pred.mu) * (-pred.logsigma).exp()  # [..., Z, K]
    logprob = -0.5 * scaled.square() - pred.logsigma - 0.5 * math.log(2 * math.pi)
    if shared_pi:  # one joint mixture: a component speaks for all dimensions at once
        return -(pred.logpi[..., 0, :] + logprob.sum(-2)).logsumexp(-1) / target.shape[-1]
    return -(pred.logpi + logprob).logsumexp(-1).mean(-1)  # mean over dimensions, as in the authors' logs


def done_loss(logit: Tensor, done: Tensor, weight: float) -> Tensor:
    """Binary cross entropy of the end, positives weighted.  two [...] -> [...]"""
    return F.binary_cross_entropy_with_logits(
        logit, done.float(), pos_weight=logit.new_tensor(weight), reduction="none"
    )


def sample_next(
    pred: Prediction, temperature: float, generator: torch.Generator | None = None, shared_pi: bool = False
) -> Tensor:
    """Draw z_{t+1} at a temperature: pi' = softmax(log pi / tau), sigma' = sigma sqrt(tau).  [..., Z, K] ->
    [..., Z]

    tau -> 0 gives the mean of the likeliest component.  (Paper: "Doom Experiment", temperature.)
    """
    logits = pred.logpi / max(temperature, 1e-6)
    uniform = noise(
        torch.rand, logits[..., :1, :].shape if shared_pi else logits.shape, generator, logits.device
    )
    gumbel = -(
        -uniform.clamp_min(1e-20).log()
    ).log()  # Gumbel-max: exact categorical draws without a host sync
    k = (logits + gumbel).argmax(-1, keepdim=True)  # [..., Z, 1]
    mu, logsigma = pred.mu.gather(-1, k)[..., 0], pred.logsigma.gather(-1, k)[..., 0]
    eps = noise(torch.randn, mu.shape, generator, mu.device)
    return mu + logsigma.exp() * math.sqrt(temperature) * eps


def noise(kind, shape, generator: torch.Generator | None, device) -> Tensor:
    """`torch.rand` or `torch.randn` on a device, also where the generator lives on another one.  -> shape"""
    return kind(shape, generator=generator, device=generator.device if generator else device).to(device)
