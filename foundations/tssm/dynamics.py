"""The transformer: latents, action and reward of a step are one token; its output tells the next step.

(z_t, a_t, r_t) -> z_{t+1}, r_{t+1}, done_{t+1}, causal attention over the steps before.  The reward is an
input because the frame alone is not Markov: an actor on the threat hides it.  mauicv/world-model-rl masks the
future in training and not in imagination; here both take the same path.
Shapes: B sequences, T steps, K latents, C classes, A actions, D width, H dreamed steps.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundations.tssm.autoencoder import straight_through
from foundations.tssm.config import DynamicsConfig

PARAMETERS = 566_529  # of the tiny preset


@dataclass
class Prediction:
    """What the heads say of the next step."""

    logits: Tensor  # [..., K, C]
    rew: Tensor  # [...]
    done: Tensor | None  # logits [...]; None without that head


@dataclass
class Dream:
    """A rollout in the model; row 0 is the real start."""

    stoch: Tensor  # one-hot [H + 1, B, K, C]
    rew: Tensor  # received on arriving in row t + 1  [H, B]
    act: Tensor  # chosen in row t  [H, B, A]
    alive: Tensor  # probability that row t + 1 does not end the game  [H, B]


class Block(nn.Module):
    """Causal self-attention and an MLP, each on normalised input (pre-LN).  [B, T, D] -> [B, T, D]"""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        batch, time, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, time, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # [B, heads, T, D / heads] each
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.proj(mixed.transpose(1, 2).reshape(batch, time, width))
        return x + self.mlp(self.norm2(x))


class Dynamics(nn.Module):
    """Token MLP, blocks, heads."""

    def __init__(self, cfg: DynamicsConfig, latents: int, classes: int, act_size: int):
        super().__init__()
        self.cfg, self.latents, self.classes = cfg, latents, classes
        width, code, units = cfg.width, latents * classes, cfg.act_units
        self.act_mlp = nn.Sequential(nn.Linear(act_size, units), nn.SiLU(), nn.Linear(units, units))
        self.token_mlp = _mlp(code + units + 1, cfg.token_units, width, nn.SiLU)
        self.position = nn.Parameter(0.02 * torch.randn(cfg.context, width))
        self.blocks = nn.Sequential(*(Block(width, cfg.heads) for _ in range(cfg.layers)))
        self.norm = nn.LayerNorm(width)
        self.stoch_head = _mlp(width, cfg.token_units, code, nn.ELU)
        self.rew_head = _mlp(width, width, 1, nn.ELU)
        self.done_head = _mlp(width, width, 1, nn.ELU) if cfg.predict_done else None

    def embed(self, stoch: Tensor, act: Tensor, rew: Tensor) -> Tensor:
        """Steps -> tokens without position.  [..., K, C], [..., A], [...] -> [..., D]"""
        parts = [stoch.flatten(-2), self.act_mlp(2 * act), rew[..., None]]
        return self.token_mlp(torch.cat(parts, -1))

    def predict(self, tokens: Tensor) -> Prediction:
        """The step after each token.  [B, T, D] -> [B, T, ...]"""
        x = self.norm(self.blocks(tokens + self.position[: tokens.shape[1]]))  # [B, T, D]
        logits = self.stoch_head(x).unflatten(-1, (self.latents, self.classes))
        done = self.done_head(x).squeeze(-1) if self.done_head is not None else None
        return Prediction(logits, self.rew_head(x).squeeze(-1), done)

    def forward(self, stoch: Tensor, act: Tensor, rew: Tensor) -> Prediction:
        """[B, T, K, C], [B, T, A], [B, T] -> [B, T, ...]"""
        return self.predict(self.embed(stoch, act, rew))

    def loss(self, codes: Tensor, act: Tensor, rew: Tensor, done: Tensor) -> dict[str, Tensor]:
        """Each row's prediction against the next row.  [B, T + 1, ...] -> unreduced losses [B, T]"""
        stoch = F.one_hot(codes, self.classes).float()  # [B, T + 1, K, C]
        pred = self(stoch[:, :-1], act[:, :-1], rew[:, :-1])
        losses = {
            "stoch": F.cross_entropy(pred.logits.movedim(-1, 1), codes[:, 1:], reduction="none").sum(-1),
            "rew": self.cfg.rew_weight * (pred.rew - rew[:, 1:]) ** 2,
        }
        if pred.done is not None:
            error = F.binary_cross_entropy_with_logits(pred.done, done[:, 1:].float(), reduction="none")
            losses["done"] = self.cfg.done_weight * error
        return losses

    def step(self, tokens: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
        """The step after the last token: one-hot latents that carry a gradient, reward, alive.

        [B, T, D] -> [B, K, C], [B], [B].  Forward the likeliest class, backward softmax(logits / temperature)
        as the gradient at temperature 1 all but vanishes where the model is sure.
        """
        pred = self.predict(tokens)
        logits = pred.logits[:, -1]  # [B, K, C]
        hard = F.one_hot(logits.argmax(-1), self.classes).to(logits.dtype)
        alive = 1 - pred.done[:, -1].sigmoid() if pred.done is not None else torch.ones_like(pred.rew[:, -1])
        return straight_through(hard, (logits / temperature).softmax(-1)), pred.rew[:, -1], alive

    def imagine(
        self,
        stoch: Tensor,
        rew: Tensor,
        policy: Callable[[Tensor], Tensor],
        horizon: int,
        *,
        context: int = 1,
        temperature: float = 1.0,
    ) -> Dream:
        """Dream from single rows under a policy of the latents.  [B, K, C], [B] -> Dream

        The policy decides whether its input keeps the gradient; along the dynamics it flows.
        """
        assert 1 <= context <= self.cfg.context, (context, self.cfg.context)
        stochs, rews, acts, alives, tokens = [stoch], [rew], [], [], []
        for _ in range(horizon):
            acts.append(policy(stochs[-1]))  # [B, A]
            tokens = [*tokens, self.embed(stochs[-1], acts[-1], rews[-1])][-context:]
            stoch, rew, alive = self.step(torch.stack(tokens, 1), temperature)
            stochs.append(stoch), rews.append(rew), alives.append(alive)
        return Dream(torch.stack(stochs), torch.stack(rews[1:]), torch.stack(acts), torch.stack(alives))


def count_parameters(module: nn.Module) -> int:
    """Numbers that training changes."""
    return sum(p.numel() for p in module.parameters())


def _mlp(inputs: int, hidden: int, outputs: int, activation: type[nn.Module]) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), activation(), nn.Linear(hidden, outputs))
