"""A learned world model whose states are codes: G categorical variables of C classes each.

    encode    what is seen -> probabilities of the code          decode    code -> every cell of the grid
    dynamics  (code, action) -> the next code                    reward, done    both of (code, action)
    prior     which codes there are at all, one variable after another

Reward and end depend on the action too: before the goal, only one of the actions reaches it.

Shapes: B rows, N cells of an observation, K symbols a cell may hold, G variables, C classes, A actions.
"""

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and the two things without which all codes become one."""

    groups: int = 8
    """Categorical variables (G)."""
    classes: int = 8
    """Classes of each (C)."""
    hidden: int = 128
    """Width of the two hidden layers of every network."""
    normalise: bool = True
    """Centre and scale every input feature, and every logit over the batch; off: the code collapses."""
    gain: float = 2.0
    """Spread of the normalised logits."""
    unimix: float = 0.01
    """Share of the uniform distribution in every class probability, so that no class ever dies."""


def parse_latent(text: str) -> tuple[int, int]:
    """ "8x8" -> 8 variables of 8 classes.  UserError for anything else."""
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdigit() and int(part) >= 1 for part in parts) or int(parts[1]) < 2:
        raise UserError(f"--latent {text}: must be VARIABLESxCLASSES with at least 2 classes, such as 8x8")
    return int(parts[0]), int(parts[1])


def straight_through(probs: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw a one-hot sample that passes gradients as if it were the probabilities.  [..., C] -> [..., C]

    Forward the value is the sample; backward the gradient is that of `probs` (Bengio et al. 2013).
    """
    flat = probs.detach().reshape(-1, probs.shape[-1])
    index = torch.multinomial(flat, 1, generator=generator).reshape(probs.shape[:-1])
    sample = F.one_hot(index, probs.shape[-1]).to(probs.dtype)
    return sample + probs - probs.detach()


def mlp(inputs: int, outputs: int, hidden: int) -> nn.Sequential:
    """Two hidden layers."""
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, outputs)
    )


class Prior(nn.Module):
    """p(z) = prod_g p(z_g | z_1 .. z_g-1) by masked layers (MADE, Germain et al. 2015).

    With `connected=False` the variables are independent, which can only mix up rooms that exist.
    """

    def __init__(self, groups: int, classes: int, width: int = 32, connected: bool = True):
        super().__init__()
        self.shape = (groups, classes)
        self.first, self.second = (
            nn.Linear(groups * classes, groups * width),
            nn.Linear(groups * width, groups * classes),
        )
        order = torch.arange(groups)
        before = (order[:, None] > order).float() * connected  # [G, G]: row g may see the columns before it
        upto = (order[:, None] >= order).float()
        self.register_buffer("mask_first", before.repeat_interleave(width, 0).repeat_interleave(classes, 1))
        self.register_buffer("mask_second", upto.repeat_interleave(classes, 0).repeat_interleave(width, 1))

    def forward(self, z: Tensor) -> Tensor:
        """[B, G, C] -> logits [B, G, C]"""
        x = F.silu(F.linear(z.flatten(1), self.first.weight * self.mask_first, self.first.bias))
        x = F.linear(x, self.second.weight * self.mask_second, self.second.bias)
        return x.unflatten(1, self.shape)

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw codes, variable by variable.  -> int [n, G]"""
        z = torch.zeros(n, *self.shape)
        for g in range(self.shape[0]):
            z[:, g] = straight_through(self(z)[:, g].softmax(-1), generator)
        return z.argmax(-1)


class CategoricalWorldModel(nn.Module):
    """Observations int [B, N] <-> codes one-hot [B, G, C], and what actions do to codes."""

    def __init__(self, cells: int, symbols: int, actions: int, cfg: ModelConfig):
        super().__init__()
        self.sizes = {"cells": cells, "symbols": symbols, "actions": actions}
        self.cfg, self.shape = cfg, (cfg.groups, cfg.classes)
        code = cfg.groups * cfg.classes
        self.register_buffer("mean", torch.zeros(cells * symbols))
        self.register_buffer("std", torch.ones(cells * symbols))
        self.encoder = mlp(cells * symbols, code, cfg.hidden)
        # No learned scale or shift: with them the logits could still drift to one class for everything.
        self.norm = nn.BatchNorm1d(code, affine=False) if cfg.normalise else nn.Identity()
        self.decoder = mlp(code, cells * symbols, cfg.hidden)
        self.transition = mlp(code + actions, code, cfg.hidden)
        self.reward_head = mlp(code + actions, 1, cfg.hidden)
        self.done_head = mlp(code + actions, 1, cfg.hidden)
        self.prior = Prior(cfg.groups, cfg.classes)
        self.independent_prior = Prior(cfg.groups, cfg.classes, connected=False)

    def set_scale(self, obs: Tensor) -> None:
        """Take mean and spread of every input feature from the data.  obs: int [M, N]"""
        if self.cfg.normalise:
            x = F.one_hot(obs.long(), self.sizes["symbols"]).flatten(1).float()  # [M, N * K]
            std = x.std(0, correction=0)
            self.mean.copy_(x.mean(0))
            self.std.copy_(torch.where(std > 0, std, torch.ones_like(std)))  # walls never change

    def encode(self, obs: Tensor) -> Tensor:
        """Class probabilities of the code.  int [B, N] -> [B, G, C]"""
        x = F.one_hot(obs.long(), self.sizes["symbols"]).flatten(1).float()
        logits = self.norm(self.encoder((x - self.mean) / self.std))
        logits = (self.cfg.gain if self.cfg.normalise else 1.0) * logits.unflatten(1, self.shape)
        return (1 - self.cfg.unimix) * logits.softmax(-1) + self.cfg.unimix / self.cfg.classes

    def code(self, obs: Tensor) -> Tensor:
        """The most probable code.  int [B, N] -> int [B, G]"""
        return self.encode(obs).argmax(-1)

    def one_hot(self, code: Tensor) -> Tensor:
        """int [B, G] -> [B, G, C]"""
        return F.one_hot(code.long(), self.cfg.classes).float()

    def decode(self, z: Tensor) -> Tensor:
        """Logits of what every cell holds.  [B, G, C] -> [B, N, K]"""
        return self.decoder(z.flatten(1)).unflatten(1, (self.sizes["cells"], self.sizes["symbols"]))

    @torch.no_grad()
    def frames(self, code: Tensor) -> Tensor:
        """The most probable content of every cell.  int [..., G] -> int [..., N]"""
        flat = self.decode(self.one_hot(code.reshape(-1, code.shape[-1]))).argmax(-1)  # [n, N]
        return flat.reshape(*code.shape[:-1], -1)

    def _with_action(self, z: Tensor, act: Tensor) -> Tensor:
        return torch.cat([z.flatten(1), F.one_hot(act.long(), self.sizes["actions"]).float()], 1)

    def dynamics(self, z: Tensor, act: Tensor) -> Tensor:
        """Logits of the next code.  [B, G, C], int [B] -> [B, G, C]"""
        return self.transition(self._with_action(z, act)).unflatten(1, self.shape)

    def reward(self, z: Tensor, act: Tensor) -> Tensor:
        """[B, G, C], int [B] -> [B]"""
        return self.reward_head(self._with_action(z, act)).squeeze(1)

    def done(self, z: Tensor, act: Tensor) -> Tensor:
        """Logit of "the episode ends with this step".  [B, G, C], int [B] -> [B]"""
        return self.done_head(self._with_action(z, act)).squeeze(1)

    def view_loss(self, obs: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Phase 1.  int [B, N] -> {"recon": [B]}, summed over cells: a mean would forgive a lost agent."""
        z = straight_through(self.encode(obs), generator)
        logits = self.decode(z)  # [B, N, K]
        return {"recon": F.cross_entropy(logits.mT, obs.long(), reduction="none").sum(1)}

    def step_loss(
        self, code: Tensor, act: Tensor, rew: Tensor, next_code: Tensor, terminal: Tensor
    ) -> dict[str, Tensor]:
        """Phase 2, codes given.  int [B, G], int [B], [B], int [B, G], bool [B] -> three of [B]"""
        z = self.one_hot(code)
        dyn = F.cross_entropy(self.dynamics(z, act).mT, next_code, reduction="none").sum(1)
        return {
            # Nothing follows the end: a next code there would only cost capacity.
            "dyn": dyn * ~terminal,
            "rew": (self.reward(z, act) - rew).square(),
            "done": F.binary_cross_entropy_with_logits(self.done(z, act), terminal.float(), reduction="none"),
        }

    def prior_loss(self, code: Tensor) -> dict[str, Tensor]:
        """Negative log likelihood of codes under both priors.  int [B, G] -> two [B]"""
        z, nets = self.one_hot(code), {"prior": self.prior, "independent": self.independent_prior}
        return {n: F.cross_entropy(net(z).mT, code, reduction="none").sum(1) for n, net in nets.items()}

    @torch.no_grad()
    def imagine(self, code: Tensor, acts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Follow actions in codes alone, taking the most probable class each time.

        code: int [B, G]; acts: int [B, H] -> codes [B, H + 1, G], rewards [B, H], chance of an end [B, H]
        """
        codes, rews, ends = [code], [], []
        for act in acts.T:
            z = self.one_hot(codes[-1])
            rews.append(self.reward(z, act))
            ends.append(self.done(z, act).sigmoid())
            codes.append(self.dynamics(z, act).argmax(-1))
        return torch.stack(codes, 1), torch.stack(rews, 1), torch.stack(ends, 1)

    def tree(self) -> dict:
        """All that `from_tree` needs."""
        return {"sizes": self.sizes, "model": asdict(self.cfg), "weights": self.state_dict()}

    @classmethod
    def from_tree(cls, tree: dict) -> "CategoricalWorldModel":
        """A model out of a checkpoint's tree, ready to be asked."""
        model = cls(**tree["sizes"], cfg=ModelConfig(**tree["model"]))
        model.load_state_dict(tree["weights"])
        return model.eval()
