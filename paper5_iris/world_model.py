"""The world model (paper, section 2.2): what is said in each position, which head listens there, the losses.

A time step is K tokens of a frame and one action, K + 1 positions.  The output at a position has read all up
to it, so position k < K - 1 tells token k + 1 of the same frame, and the action's position tells reward, end,
and token 0 of the next frame.  The last token's output is read by nobody.

    position   0    1   ...  K-2   K-1    K    |  K+1 ...
    input     z_0  z_1  ... z_K-2 z_K-1   a    |  z'_0 ...
    tells     z_1  z_2  ... z_K-1   -   r,e,z'_0  z'_1

Rows here are transitions: step t holds the frame, the action chosen there, and the reward and end that the
action led to (sampler.py shifts them out of the replay's rows).
Letters: B sequences, T steps, K tokens, L = T (K + 1) positions, V vocab, A action, D width.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.spaces import Spaces
from paper5_iris.config import WorldConfig
from paper5_iris.transformer import KVCache, Transformer, init_

IGNORE = -100  # label of what is not learned: padding
Batch = dict[str, Tensor]


class Output(NamedTuple):
    """What the heads say of whole sequences."""

    obs: Tensor  # [B, T K, V] logits; row i is of token i + 1, and the last one of the frame after the end
    rew: Tensor  # [B, T, 3] logits of -1, 0, 1, or [B, T, 1] the number
    end: Tensor  # [B, T, 2] logits


class Head(nn.Sequential):
    """Linear, ReLU, Linear.  [..., D] -> [..., outputs]"""

    def __init__(self, width: int, outputs: int):
        super().__init__(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs))


class WorldModel(nn.Module):
    """Embeddings, transformer, heads.  The tokenizer is not part of it."""

    def __init__(self, cfg: WorldConfig, vocab: int, tokens: int, spaces: Spaces):
        """vocab: V; tokens: K per frame; spaces: of the environment, for the actions."""
        super().__init__()
        self.cfg, self.tokens, self.block = cfg, tokens, tokens + 1
        self.token = nn.Embedding(vocab, cfg.width)  # of its own: codewords as inputs gain nothing (C)
        self.is_discrete = spaces.discrete
        # Actions are never predicted, so numbers need no vocabulary: a linear layer embeds them.
        self.act = (nn.Embedding if self.is_discrete else nn.Linear)(spaces.act, cfg.width)
        self.transformer = Transformer(cfg, cfg.steps * self.block)
        self.obs_head, self.end_head = Head(cfg.width, vocab), Head(cfg.width, 2)
        self.rew_head = Head(cfg.width, 3 if cfg.reward_head == "sign_ce" else 1)
        init_(self)

    def embed(self, tokens: Tensor, act: Tensor) -> Tensor:
        """Tokens [B, T, K] and actions [B, T] or [B, T, A] in turns -> [B, L, D]"""
        assert tokens.shape[-1] == self.tokens, (tokens.shape, self.tokens)
        said = F.embedding(tokens.long(), self.token.weight)  # [B, T, K, D]
        return torch.cat([said, self.embed_act(act)[:, :, None]], 2).flatten(1, 2)

    def embed_act(self, act: Tensor) -> Tensor:
        """[...] or [..., A] -> [..., D]"""
        return self.act(act.long() if self.is_discrete else act.float())

    def forward(self, tokens: Tensor, act: Tensor) -> Output:
        """Teacher forcing: every position at once.  [B, T, K], [B, T] or [B, T, A] -> the heads' outputs"""
        hidden = self.transformer(self.embed(tokens, act))  # [B, L, D]
        at_obs, at_act = self.read(hidden)
        return Output(self.obs_head(at_obs), self.rew_head(at_act), self.end_head(at_act))

    def read(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """What the heads hear.  [B, L, D] -> the observation head [B, T K, D], the other two [B, T, D]"""
        blocks = hidden.unflatten(1, (-1, self.block))  # [B, T, K + 1, D]
        return torch.cat([blocks[:, :, :-2], blocks[:, :, -1:]], 2).flatten(1, 2), blocks[:, :, -1]

    def loss(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Named losses [], each a mean over what is not padding (paper: their sum, unweighted), and metrics.

        batch: tokens [B, T, K], act [B, T] or [B, T, A], rew [B, T], end [B, T] bool, mask [B, T] bool.
        """
        out = self(batch["tokens"], batch["act"])
        obs, rew, end = self.labels(batch)
        losses = {"obs": cross_entropy(out.obs[:, :-1], obs), "end": cross_entropy(out.end, end)}  # eq. 2
        metrics = {"world/token_accuracy": accuracy(out.obs[:, :-1], obs)}
        if self.cfg.reward_head == "sign_ce":
            losses["rew"] = cross_entropy(out.rew, rew)
            metrics["world/rew_accuracy"] = accuracy(out.rew, rew)
        else:
            error = (out.rew.squeeze(-1).float() - batch["rew"]).square()
            losses["rew"] = error.mul(batch["mask"]).sum() / batch["mask"].sum()
        return losses, metrics

    def labels(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """int64 [B, T K - 1], [B, T], [B, T]: the next tokens, the reward's class, the end; or IGNORE.

        Token 0 of the first frame is told by nobody, hence one less.  The frame that an episode's last action
        leads to is not in its rows, so nothing is learned about it.
        """
        pad = ~batch["mask"]  # [B, T]
        obs = batch["tokens"].long().masked_fill(pad[..., None], IGNORE).flatten(1)[:, 1:]
        rew = (batch["rew"].sign() + 1).long().masked_fill(pad, IGNORE)
        return obs, rew, batch["end"].long().masked_fill(pad, IGNORE)

    # --- generation, one position after the other

    @torch.no_grad()
    def start(self, tokens: Tensor, past: KVCache) -> None:
        """Begin anew with one frame [B, K]."""
        past.reset()
        self.transformer.remember(F.embedding(tokens.long(), self.token.weight), past)

    @torch.no_grad()
    def step_act(self, act: Tensor, past: KVCache) -> Output:
        """Say an action [B] or [B, A] -> logits of its reward, its end and token 0 of what comes [B, .]"""
        hidden = self.transformer(self.embed_act(act)[:, None], past)[:, 0]  # [B, D]
        return Output(self.obs_head(hidden), self.rew_head(hidden), self.end_head(hidden))

    @torch.no_grad()
    def step_token(self, token: Tensor, past: KVCache) -> Tensor:
        """Say token k < K - 1 of a frame [B] -> logits of token k + 1 [B, V]"""
        return self.obs_head(self.transformer(self.token(token)[:, None], past)[:, 0])

    @torch.no_grad()
    def step_last(self, token: Tensor, past: KVCache) -> None:
        """Say token K - 1 [B]; nobody listens."""
        self.transformer.remember(self.token(token)[:, None], past)

    # --- optimisation

    def decay_groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """The weights of linear layers, which decay, and all other parameters, which do not."""
        parts = [part for part in self.modules() if isinstance(part, nn.Linear) and part is not self.act]
        linear = {id(part.weight) for part in parts}
        decayed = [p for p in self.parameters() if id(p) in linear]
        return decayed, [p for p in self.parameters() if id(p) not in linear]


def cross_entropy(logit: Tensor, label: Tensor) -> Tensor:
    """Mean over the labels that are not IGNORE, in float32.  [B, T, C], [B, T] -> []"""
    return F.cross_entropy(logit.float().flatten(0, 1), label.flatten(), ignore_index=IGNORE)


@torch.no_grad()
def accuracy(logit: Tensor, label: Tensor) -> Tensor:
    """Share of the labels that are not IGNORE whose class is the likeliest.  [B, T, C], [B, T] -> []"""
    counts = label != IGNORE
    return ((logit.argmax(-1) == label) & counts).sum() / counts.sum()
