"""The transformer (paper, section 2.2 and table 4): a GPT with the norms first, and its cache for generation.

It knows nothing of frames or actions: rows of embeddings come in, rows come out, each having seen itself and
what was before it.  Generation keeps the keys and values of the past in buffers of fixed shape.
Letters: B sequences, T rows now, P rows at most, D width, h heads, d = D / h.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paper5_iris.config import WorldConfig


class KVCache:
    """Keys and values of all layers for up to P rows: [layers, B, h, P, d] each, written by position.

    `length` is known to the host without asking the device.  static: all P rows are attended to under a mask
    that the device makes from its own copy of the position, so that every step of a generation is the same
    work on the same addresses and can be captured as a CUDA graph.  Else a step reads the rows in use.
    """

    def __init__(
        self, cfg: WorldConfig, rows: int, batch: int, device, dtype=torch.float32, static: bool = False
    ):
        shape = (cfg.layers, batch, cfg.heads, rows, cfg.width // cfg.heads)
        self.keys, self.values = (torch.zeros(shape, device=device, dtype=dtype) for _ in range(2))
        self.rows, self.batch, self.static, self.length = rows, batch, static, 0
        self.place = torch.arange(rows, device=device)  # [P]
        self.start = torch.zeros(1, dtype=torch.long, device=device)  # the next position, on the device

    def reset(self) -> None:
        """Forget everything.  What lies in the buffers is never looked at again."""
        self.length = 0
        self.start.zero_()

    def room(self, rows: int) -> None:
        """IndexError where so many more rows do not fit."""
        if self.length + rows > self.rows:
            raise IndexError(f"row {self.length + rows} of a cache of {self.rows} rows")

    def positions(self, rows: int) -> Tensor:
        """Where the next rows are [T]."""
        if self.static:
            return self.start + self.place[:rows]
        return self.place[self.length : self.length + rows]

    def write(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Add rows [B, h, T, d] of a layer -> its keys, values [B, h, P or less, d], and a mask or None."""
        assert not torch.is_grad_enabled(), "a cache keeps no gradient: torch.no_grad()"
        T, place = key.shape[2], self.positions(key.shape[2])
        keys, values = self.keys[layer], self.values[layer]
        keys.index_copy_(2, place, key.to(keys.dtype))
        values.index_copy_(2, place, value.to(values.dtype))
        if self.static:
            return keys, values, self.place <= place[:, None]  # [T, P]
        end = self.length + T
        mask = None if T == 1 else self.place[:end] <= place[:, None]
        return keys[:, :, :end], values[:, :, :end], mask

    def advance(self, rows: int) -> None:
        """The rows that were written in all layers are now the past."""
        self.length += rows
        self.start += rows


class SelfAttention(nn.Module):
    """Causal attention.  [B, T, D] -> [B, T, D]"""

    def __init__(self, cfg: WorldConfig):
        super().__init__()
        self.heads, self.drop = cfg.heads, cfg.attention_dropout
        self.query, self.key, self.value, self.out = (nn.Linear(cfg.width, cfg.width) for _ in range(4))

    def split(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, h, T, d]"""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor, cache: KVCache | None = None, layer: int = 0) -> Tensor:
        q, k, v = (self.split(project(x)) for project in (self.query, self.key, self.value))
        if cache is None:
            drop = self.drop if self.training else 0.0
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=drop)
        else:
            k, v, mask = cache.write(layer, k, v)
            y = F.scaled_dot_product_attention(q.to(k.dtype), k, v, attn_mask=mask)
        return self.out(y.transpose(1, 2).flatten(2))

    def weights(self, x: Tensor) -> Tensor:
        """Who looks at whom, for pictures.  [B, T, D] -> [B, h, T, T], rows sum to 1"""
        q, k = self.split(self.query(x)), self.split(self.key(x))
        score = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        T = score.shape[-1]
        hidden = torch.ones(T, T, dtype=torch.bool, device=x.device).triu(1)
        return score.masked_fill(hidden, -torch.inf).softmax(-1)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).  [B, T, D] -> [B, T, D]"""

    def __init__(self, cfg: WorldConfig):
        super().__init__()
        D = cfg.width
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(D), SelfAttention(cfg), nn.LayerNorm(D)
        self.mlp = nn.Sequential(nn.Linear(D, 4 * D), nn.GELU(), nn.Linear(4 * D, D))
        self.drop = nn.Dropout(cfg.residual_dropout)

    def forward(self, x: Tensor, cache: KVCache | None = None, layer: int = 0) -> Tensor:
        x = x + self.drop(self.attention(self.norm1(x), cache, layer))
        return x + self.drop(self.mlp(self.norm2(x)))

    def remember(self, x: Tensor, cache: KVCache, layer: int) -> None:
        """Only write keys and values: of a row that nobody reads the last layer has nothing else to do."""
        h, attend = self.norm1(x), self.attention
        cache.write(layer, attend.split(attend.key(h)), attend.split(attend.value(h)))


class Transformer(nn.Module):
    """Positions, blocks, a last norm."""

    def __init__(self, cfg: WorldConfig, rows: int):
        """rows: P, the longest sequence."""
        super().__init__()
        self.cfg, self.rows = cfg, rows
        self.position = nn.Embedding(rows, cfg.width)
        self.drop = nn.Dropout(cfg.embed_dropout)
        self.blocks = nn.ModuleList(Block(cfg) for _ in range(cfg.layers))
        self.norm = nn.LayerNorm(cfg.width)

    def forward(self, x: Tensor, cache: KVCache | None = None) -> Tensor:
        """Embeddings [B, T, D] -> [B, T, D]; with a cache they follow what it holds, and are added to it."""
        x = self.embed(x, cache)
        for layer, block in enumerate(self.blocks):
            x = block(x, cache, layer)
        if cache is not None:
            cache.advance(x.shape[1])
        return self.norm(x)

    def embed(self, x: Tensor, cache: KVCache | None = None) -> Tensor:
        """Add the positions.  IndexError where the cache is full."""
        if cache is None:
            return self.drop(x + self.position.weight[: x.shape[1]])
        cache.room(x.shape[1])
        return self.drop(x + F.embedding(cache.positions(x.shape[1]), self.position.weight))

    def remember(self, x: Tensor, cache: KVCache) -> None:
        """Add rows to the cache whose outputs nobody reads.  [B, T, D]"""
        x = self.embed(x, cache)
        *blocks, last = self.blocks
        for layer, block in enumerate(blocks):
            x = block(x, cache, layer)
        last.remember(x, cache, len(blocks))
        cache.advance(x.shape[1])

    @torch.no_grad()
    def attention(self, x: Tensor) -> Tensor:
        """Attention weights of all layers over a sequence [B, T, D] -> [layers, B, h, T, T]"""
        x, found = self.embed(x), []
        for block in self.blocks:
            found.append(block.attention.weights(block.norm1(x)))
            x = block(x)
        return torch.stack(found)

    def new_cache(self, batch: int, static: bool | None = None) -> KVCache:
        """An empty cache, in the type that autocast would compute with; static by default on CUDA."""
        device = self.position.weight.device
        is_low = torch.is_autocast_enabled(device.type)
        dtype = torch.get_autocast_dtype(device.type) if is_low else self.position.weight.dtype
        static = device.type == "cuda" if static is None else static
        return KVCache(self.cfg, self.rows, batch, device, dtype, static)


def init_(module: nn.Module) -> None:
    """N(0, 0.02) for the weights of linear layers and embeddings, zeros for biases, norms at 1 and 0 (C)."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, 0.0, 0.02)
        if isinstance(part, nn.Linear | nn.LayerNorm) and part.bias is not None:
            nn.init.zeros_(part.bias)
        if isinstance(part, nn.LayerNorm):
            nn.init.ones_(part.weight)
