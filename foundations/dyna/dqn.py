"""Q-learning with a network (Mnih et al. 2015), double (van Hasselt et al. 2016), for S seeds side by side.

Letters: S seeds, B rows of a batch, D entries of an observation, A actions.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foundations.dyna.nets import StackedMLP


class QNetwork(nn.Module):
    """Values of all actions, of S networks."""

    def __init__(self, stack: int, obs_size: int, num_actions: int, hidden: int = 64):
        super().__init__()
        self.num_actions = num_actions
        self.net = StackedMLP(stack, [obs_size, hidden, hidden, num_actions], "relu")

    def forward(self, obs: Tensor) -> Tensor:
        """[S, B, D] -> [S, B, A]"""
        return self.net(obs)


@torch.no_grad()
def select_action(q: QNetwork, obs: Tensor, epsilon: float, rng: np.random.Generator) -> np.ndarray:
    """Greedy but for a share of `epsilon`, which is uniform.  [S, B, D] -> int [S, B]"""
    greedy = q(obs).argmax(-1).numpy()
    at_random = rng.random(greedy.shape) < epsilon
    return np.where(at_random, rng.integers(q.num_actions, size=greedy.shape), greedy)


def td_target(
    rew: Tensor, terminated: Tensor, slow_next: Tensor, next_q: Tensor | None = None, disc: float = 0.99
) -> Tensor:
    """r + disc * Q_slow(s', a'), a' the best of `next_q` (double) or of the slow values.  [..., A] -> [...]

    `terminated` alone cuts the future off: at a time limit the episode would have gone on.
    """
    best = (slow_next if next_q is None else next_q).argmax(-1, keepdim=True)  # [..., 1]
    return rew + disc * (1 - terminated) * slow_next.gather(-1, best).squeeze(-1)


def train_on_batch(
    q: QNetwork,
    slow: QNetwork,
    optim: torch.optim.Optimizer,
    batch: dict[str, Tensor],
    disc: float,
    polyak: float,
) -> Tensor:
    """One step of all S networks and their slow copies.  batch: obs, act, rew, next_obs, done.  -> loss [S]

    Any optimiser that works entry by entry keeps the seeds apart; a clip by the norm would not.
    """
    with torch.no_grad():
        target = td_target(batch["rew"], batch["done"], slow(batch["next_obs"]), q(batch["next_obs"]), disc)
    taken = q(batch["obs"]).gather(-1, batch["act"][..., None]).squeeze(-1)  # [S, B]
    loss = F.smooth_l1_loss(taken, target, reduction="none").mean(-1)  # [S]
    optim.zero_grad(set_to_none=True)
    loss.sum().backward()
    optim.step()
    with torch.no_grad():
        slow_weights = list(slow.parameters())
        torch._foreach_lerp_(slow_weights, list(q.parameters()), polyak)
    return loss.detach()


class Replay:
    """A ring of transitions for each of S seeds, filled in step."""

    def __init__(self, seeds: int, capacity: int, obs_size: int):
        shape = (seeds, capacity)
        self.columns = {
            "obs": torch.zeros(*shape, obs_size),
            "act": torch.zeros(shape, dtype=torch.int64),
            "rew": torch.zeros(shape),
            "next_obs": torch.zeros(*shape, obs_size),
            "done": torch.zeros(shape),
        }
        self.capacity = capacity
        self.added = torch.zeros(seeds, dtype=torch.int64)  # rows that each seed has ever got

    def add(self, mask: Tensor | None = None, **rows: Tensor) -> None:
        """Rows [S, B, ...]; of those where `mask` [S, B] is false nothing is kept."""
        seeds, count = rows["rew"].shape
        mask = torch.ones(seeds, count, dtype=torch.bool) if mask is None else mask
        place = (self.added[:, None] + mask.cumsum(1) - 1) % self.capacity  # [S, B]
        s, b = mask.nonzero(as_tuple=True)
        for name, column in self.columns.items():
            column[s, place[s, b]] = rows[name][s, b].to(column.dtype)
        self.added += mask.sum(1)

    @property
    def size(self) -> Tensor:
        """Rows that each seed holds.  [S]"""
        return self.added.clamp(max=self.capacity)

    def sample(self, batch: int, rng: torch.Generator) -> dict[str, Tensor]:
        """Uniform rows, each [S, B, ...]; every seed has to hold one."""
        index = (torch.rand(len(self.added), batch, generator=rng) * self.size[:, None]).long()  # [S, B]
        seeds = torch.arange(len(self.added))[:, None]
        return {name: column[seeds, index] for name, column in self.columns.items()}
