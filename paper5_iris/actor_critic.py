"""Actor and critic (paper, section 2.3 and appendix A.3): a CNN and an LSTM that look at decoded frames.

One trunk, two linear heads; `trunk transformer`, which the paper has not, reads tokens and needs no picture.
Learned in imagination alone: REINFORCE with the critic as baseline, lambda-returns that stop at imagined
ends.  A dream has H steps; of the last only the value is used.
Letters: B dreams or games, N pictures, T frames, H steps of a dream, A actions or their numbers, C h w frame,
K tokens, V vocab.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from common.errors import UserError
from common.spaces import Spaces
from paper5_iris.config import ActorConfig, WorldConfig
from paper5_iris.tokenizer import Tokenizer
from paper5_iris.transformer import Transformer, init_


class Memory(NamedTuple):
    """The LSTM's state."""

    hidden: Tensor  # [B, hidden]
    cell: Tensor  # [B, hidden]


class Choice:
    """One of A actions.  logits [..., A]"""

    def __init__(self, logit: Tensor, temperature: float = 1.0):
        self.log = (logit.float() / temperature).log_softmax(-1)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """int64 [...]"""
        return draw(self.log, generator)

    def log_prob(self, act: Tensor) -> Tensor:
        """[...] -> [...]"""
        return self.log.gather(-1, act[..., None]).squeeze(-1)

    def entropy(self) -> Tensor:
        """Nats.  [...]"""
        return -(self.log.exp() * self.log).sum(-1)


class Numbers:
    """A normal around each of A numbers (the paper has discrete actions only).  out [..., 2 A]"""

    def __init__(self, out: Tensor, temperature: float = 1.0):
        mean, std = out.float().chunk(2, -1)
        std = temperature * (F.softplus(std - 0.5) + 0.1)
        # To look whether numbers are valid would wait for the device.
        normal = Normal(mean.tanh(), std, validate_args=False)
        self.normal = Independent(normal, 1, validate_args=False)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """[..., A], not clipped"""
        mean = self.normal.mean
        noise = torch.empty_like(mean).normal_(generator=generator)
        return (mean + self.normal.stddev * noise).detach()

    def log_prob(self, act: Tensor) -> Tensor:
        """[..., A] -> [...]"""
        return self.normal.log_prob(act)

    def entropy(self) -> Tensor:
        """[...]"""
        return self.normal.entropy()


def draw(logit: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Sample classes without asking the host: argmax of p / e with e exponential.  [..., C] -> int64 [...]

    The smallest of exponentials of rates p_i is number i with probability p_i.
    """
    noise = torch.empty_like(logit, dtype=torch.float32).exponential_(generator=generator)
    return (logit.detach().float() - noise.log()).argmax(-1)


class FrameTrunk(nn.Module):
    """Convolutions over a decoded frame (appendix A.3).  [N, C, h, w] in [0, 1] -> [N, F]"""

    sees_tokens = False

    def __init__(self, cfg: ActorConfig, image: tuple[int, int, int]):
        """image: (H, W, C); UserError where the convolutions leave nothing of it."""
        super().__init__()
        side, channels = image[0] >> len(cfg.channels), (image[2], *cfg.channels)
        if side < 1:
            raise UserError(
                f"pictures of {image[0]} pixels: too small for {len(cfg.channels)} --actor.channels"
            )
        pairs = zip(channels[:-1], channels[1:], strict=True)
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairs)
        self.feature = side * side * channels[-1]
        self.to(memory_format=torch.channels_last)

    def forward(self, frame: Tensor) -> Tensor:
        x = 2 * frame - 1
        for conv in self.convs:
            x = F.relu(F.max_pool2d(conv(x), 2))
        return x.flatten(1)


class TokenTrunk(nn.Module):
    """A small transformer over a frame's tokens, whose last row has read them all.  int [N, K] -> [N, F]"""

    sees_tokens = True

    def __init__(self, cfg: ActorConfig, vocab: int, tokens: int):
        super().__init__()
        sizes = WorldConfig(layers=cfg.layers, heads=cfg.heads, width=cfg.width)
        sizes = replace(sizes, embed_dropout=0.0, residual_dropout=0.0, attention_dropout=0.0)
        self.token, self.transformer = nn.Embedding(vocab, cfg.width), Transformer(sizes, tokens)
        self.feature = cfg.width
        init_(self)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.transformer(self.token(tokens))[:, -1]


class ActorCritic(nn.Module):
    """What is seen (a decoded frame, or its tokens) and memory -> policy, value, memory."""

    def __init__(
        self,
        cfg: ActorConfig,
        image: tuple[int, int, int],
        spaces: Spaces,
        vocab: int | None = None,
        tokens: int | None = None,
    ):
        """image: (H, W, C); vocab and tokens: V and K, for the trunk that reads tokens."""
        super().__init__()
        self.cfg, self.kind = cfg, Choice if spaces.discrete else Numbers
        is_cnn = cfg.trunk == "cnn"
        self.trunk = FrameTrunk(cfg, image) if is_cnn else TokenTrunk(cfg, vocab, tokens)
        self.lstm = nn.LSTMCell(self.trunk.feature, cfg.hidden)
        self.critic = nn.Linear(cfg.hidden, 1)
        self.actor = nn.Linear(cfg.hidden, spaces.act if spaces.discrete else 2 * spaces.act)

    def view(self, tokenizer: Tokenizer, tokens: Tensor) -> Tensor:
        """What it sees of a frame of these tokens [N, K]: the tokens, or the decoded frame [N, C, h, w]."""
        return tokens if self.trunk.sees_tokens else tokenizer.decode_tokens(tokens)

    def initial(self, batch: int) -> Memory:
        """Zeros."""
        zeros = self.critic.weight.new_zeros(batch, self.cfg.hidden)
        return Memory(zeros, zeros)

    def forward(
        self, seen: Tensor, memory: Memory, temperature: float = 1.0
    ) -> tuple[Choice | Numbers, Tensor, Memory]:
        """What `view` gives [B, ...] -> policy over [B], value [B], memory"""
        memory = self.remember(self.trunk(seen), memory)
        out, val = self.actor(memory.hidden), self.critic(memory.hidden).squeeze(-1).float()
        return self.kind(out, temperature), val, memory

    def remember(self, feature: Tensor, memory: Memory) -> Memory:
        """One step of the LSTM.  [B, F] -> memory"""
        hidden, cell = self.lstm(feature, memory)
        return Memory(hidden.float(), cell.float())

    @torch.no_grad()
    def burn_in(self, seen: Tensor, mask: Tensor) -> Memory:
        """Memory of the real past, views [B, T, ...] with mask [B, T]; no gradient.

        Padding lies on the left: there the memory stays at zero.
        """
        B, T = mask.shape
        memory = self.initial(B)
        if T == 0:
            return memory
        features = self.trunk(seen.flatten(0, 1)).unflatten(0, (B, T))  # at once: only the LSTM has order
        for t in range(T):
            new, is_real = self.remember(features[:, t], memory), mask[:, t, None]
            memory = Memory(*(torch.where(is_real, a, b) for a, b in zip(new, memory, strict=True)))
        return memory


def lambda_returns(rew: Tensor, val: Tensor, end: Tensor, gamma: float, lam: float) -> Tensor:
    """G_t = r_t + gamma (1 - e_t) ((1 - lam) V_t+1 + lam G_t+1), G_H-1 = V_H-1 (eq. 4).

    [B, H] each -> [B, H].  r_t and e_t are what the action at t led to; those of the last step are not used.
    """
    going = gamma * (~end.bool()).float()  # [B, H]
    ret = val[:, -1]
    rets = [ret]
    for t in reversed(range(rew.shape[1] - 1)):
        ret = rew[:, t] + going[:, t] * ((1 - lam) * val[:, t + 1] + lam * ret)
        rets.append(ret)
    return torch.stack(rets[::-1], 1)


class Dream(NamedTuple):
    """A batch of dreams under the policy, with its gradient."""

    log_prob: Tensor  # [B, H] of the actions taken
    entropy: Tensor  # [B, H]
    val: Tensor  # [B, H]
    rew: Tensor  # [B, H] no gradient, nor in end
    end: Tensor  # [B, H] bool


def losses(cfg: ActorConfig, dream: Dream) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Named losses [B, H - 1] and metrics []; the mean of the losses, weighed by `scales`, is minimised."""
    val = dream.val.detach()
    ret = lambda_returns(dream.rew, val, dream.end, cfg.gamma, cfg.lam)[:, :-1]
    adv = ret - val[:, :-1]  # detached: the policy must not move the value, nor the value its own target
    found = {
        "policy": -dream.log_prob[:, :-1] * adv,
        "value": (dream.val[:, :-1] - ret).square(),
        "entropy": -dream.entropy[:, :-1],
    }
    if cfg.mask_after_end:  # differs, where asked for: the authors learn from what follows an end as well
        before = F.pad(dream.end[:, :-2], (1, 0))  # [B, H - 1] did the step before end it?
        alive = (~before).float().cumprod(1)
        found = {name: loss * alive / alive.mean() for name, loss in found.items()}
    metrics = {
        "imag/reward": dream.rew.mean(),
        "imag/return": ret.mean(),
        "imag/value": val.mean(),
        "imag/ends": dream.end.any(1).float().mean(),
        "imag/advantage_std": adv.std(correction=0),
        "policy_entropy": dream.entropy.detach().mean(),
    }
    return found, metrics


def scales(cfg: ActorConfig) -> dict[str, float]:
    """Weights of the losses (paper, table 6)."""
    return {"policy": 1.0, "value": cfg.value_scale, "entropy": cfg.entropy}
