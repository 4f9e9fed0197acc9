"""The world model: (s, a) -> change of the state, reward, end of the episode.

    python -m foundations.dyna.world_model --env CartPole-v1      shapes and parameter counts

`DynamicsModel` is a stack of N networks that learn side by side; `Ensemble` reads the members of a stack as
one model, whose disagreement tells where it guesses.  `CopyLast` and `LeastSquares` are the rivals that
need no network.  All of them have `predict`.
Letters: N networks, S seeds, E members, B rows, D entries of an observation, A of an action.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.cli import run_main
from common.errors import UserError
from common.flags import parse
from foundations.commands import Args, check_args
from foundations.dyna.nets import StackedMLP


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and targets of one network; the defaults work, `PLAIN` is what is often written first."""

    hidden: tuple[int, ...] = (64, 64)
    """Sizes of the hidden layers."""
    activation: str = "silu"
    """silu or relu."""
    dropout: float = 0.0
    """Share of hidden units that are dropped while training."""
    delta: bool = True
    """Predict the change of the state; False: the next state itself."""
    standardise: bool = True
    """Inputs and targets with mean 0 and deviation 1 over the training data."""
    one_hot: bool = True
    """A discrete action as one-hot; False: as its number, one input."""
    heads: bool = True
    """Also predict reward and end."""
    done_weight: float = 3.0
    """Weight of the rare rows that end an episode, in their cross-entropy."""


PLAIN = ModelConfig((64, 32), "relu", delta=False, standardise=False, one_hot=False, heads=False)


class Prediction(NamedTuple):
    """One step ahead."""

    next_obs: Tensor  # [..., D]
    rew: Tensor  # [...]
    done: Tensor  # [...] probability that next_obs is terminal


class DynamicsModel(nn.Module):
    """A stack of `stack` networks of one shape, each with its own statistics of the data."""

    def __init__(self, obs_size: int, act_size: int, cfg: ModelConfig | None = None, stack: int = 1):
        super().__init__()
        self.cfg, self.stack, self.obs_size = cfg or ModelConfig(), stack, obs_size
        self.act_size = act_size if self.cfg.one_hot else 1
        inputs, last = obs_size + self.act_size, self.cfg.hidden[-1]
        sizes = [inputs, *self.cfg.hidden, obs_size]
        self.net = StackedMLP(stack, sizes, self.cfg.activation, self.cfg.dropout)
        if self.cfg.heads:  # reward and end, out of (s, a) and the predicted s'
            self.heads = StackedMLP(stack, [inputs + obs_size, last, 2], self.cfg.activation)
        for name, size in {"in": obs_size + self.act_size, "out": obs_size}.items():
            self.register_buffer(f"{name}_mean", torch.zeros(stack, 1, size))
            self.register_buffer(f"{name}_std", torch.ones(stack, 1, size))

    def inputs(self, obs: Tensor, act: Tensor) -> Tensor:
        """[N, B, D], one-hot or Box [N, B, A] -> [N, B, D + A]"""
        if not self.cfg.one_hot:
            act = act.argmax(-1, keepdim=True).float()  # [N, B, 1]
        return torch.cat([obs, act], -1)

    def target(self, obs: Tensor, next_obs: Tensor) -> Tensor:
        """What the network is asked for, in raw units.  [N, B, D]"""
        return next_obs - obs if self.cfg.delta else next_obs

    def set_statistics(self, n: int, obs: Tensor, act: Tensor, next_obs: Tensor) -> None:
        """Means and deviations of network n's training data [M, D], [M, A], [M, D]."""
        if self.cfg.standardise:
            columns = {"in": self.inputs(obs[None], act[None])[0], "out": self.target(obs, next_obs)}
            for name, x in columns.items():
                getattr(self, f"{name}_mean")[n] = x.mean(0)
                getattr(self, f"{name}_std")[n] = x.std(0).clamp(min=1e-4)  # a constant column stays as it is

    def forward(self, obs: Tensor, act: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[N, B, D], [N, B, A] -> standardised target [N, B, D], reward [N, B], logit of the end [N, B]"""
        seen = (self.inputs(obs, act) - self.in_mean) / self.in_std  # [N, B, D + A]
        out = self.net(seen)  # [N, B, D]
        if not self.cfg.heads:
            none = out.new_zeros(out.shape[:2])
            return out, none, none - 20
        # Detached: the cross entropy of a rare end is noise to a state that is known to five digits.
        rew, done = self.heads(torch.cat([seen, out.detach()], -1)).unbind(-1)
        return out, rew, done

    def loss(
        self, obs: Tensor, act: Tensor, rew: Tensor, next_obs: Tensor, done: Tensor
    ) -> dict[str, Tensor]:
        """Named unreduced losses of a batch, each [N, B]; ends that happen weigh `done_weight`."""
        out, rew_out, done_logit = self(obs, act)
        target = (self.target(obs, next_obs) - self.out_mean) / self.out_std  # [N, B, D]
        losses = {"obs": (out - target).square().mean(-1)}
        if self.cfg.heads:
            weight = torch.tensor(self.cfg.done_weight, device=done.device)
            losses["rew"] = (rew_out - rew).square()
            losses["done"] = F.binary_cross_entropy_with_logits(
                done_logit, done, pos_weight=weight, reduction="none"
            )
        return losses

    def predict(self, obs: Tensor, act: Tensor) -> Prediction:
        """[N, B, D], [N, B, A] -> a prediction by each network, in raw units"""
        out, rew, done = self(obs, act)
        change = out * self.out_std + self.out_mean  # [N, B, D]
        return Prediction(obs + change if self.cfg.delta else change, rew, done.sigmoid())


class Ensemble(nn.Module):
    """A stack of S x E networks as S models of E members each."""

    def __init__(self, model: DynamicsModel, members: int):
        super().__init__()
        self.model, self.members = model, members

    @property
    def obs_size(self) -> int:
        """Entries of an observation."""
        return self.model.obs_size

    def each(self, obs: Tensor, act: Tensor) -> Prediction:
        """What every member says.  [S, B, D], [S, B, A] -> [S, E, B, ...]"""
        rows = [x.repeat_interleave(self.members, 0) for x in (obs, act)]  # [S * E, B, ...]
        return Prediction(*(x.unflatten(0, (-1, self.members)) for x in self.model.predict(*rows)))

    def predict(self, obs: Tensor, act: Tensor) -> tuple[Prediction, Tensor]:
        """[S, B, D], [S, B, A] -> mean of the members [S, B, ...], their disagreement [S, B].

        Disagreement: deviation of the members (of the population, not of a sample) over the deviation of the
        target, mean over the entries of the state.
        """
        each = self.each(obs, act)
        scale = self.model.out_std.unflatten(0, (-1, self.members))[:, 0]  # [S, 1, D]
        spread = each.next_obs.std(1, correction=0) / scale  # [S, B, D]
        return Prediction(*(x.mean(1) for x in each)), spread.mean(-1)


class CopyLast(nn.Module):
    """Nothing changes: the rival that every model has to beat."""

    def predict(self, obs: Tensor, act: Tensor) -> Prediction:
        """[N, B, D], [N, B, A] -> the same state"""
        none = obs.new_zeros(obs.shape[:2])
        return Prediction(obs, none, none)


class LeastSquares(nn.Module):
    """The change and the reward as linear functions of (s, a, 1), solved at once; it foresees no end."""

    def __init__(self, obs_size: int, act_size: int, stack: int = 1):
        super().__init__()
        self.register_buffer("weight", torch.zeros(stack, obs_size + act_size + 1, obs_size + 1))

    def fit(self, n: int, obs: Tensor, act: Tensor, rew: Tensor, next_obs: Tensor) -> None:
        """Solve for network n.  [M, D], [M, A], [M], [M, D]"""
        x = torch.cat([obs, act, torch.ones_like(obs[:, :1])], -1).double()
        y = torch.cat([next_obs - obs, rew[:, None]], -1).double()
        self.weight[n] = torch.linalg.lstsq(
            x, y, driver="gelsd"
        ).solution.float()  # one-hots and 1: rank lost

    def predict(self, obs: Tensor, act: Tensor) -> Prediction:
        """[N, B, D], [N, B, A] -> a prediction by each"""
        out = torch.cat([obs, act, torch.ones_like(obs[..., :1])], -1) @ self.weight  # [N, B, D + 1]
        return Prediction(obs + out[..., :-1], out[..., -1], torch.zeros_like(out[..., -1]))


def count_parameters(model: nn.Module, stack: int = 1) -> int:
    """Trainable numbers of one network of the stack."""
    return sum(p.numel() for p in model.parameters()) // stack


@dataclass(frozen=True, kw_only=True)
class ShapeArgs(Args):
    """What to look at."""

    out: Path = Path("runs/dyna")
    """Nothing is written there by this command."""
    env: str = "CartPole-v1"
    """A Gymnasium id with vectors."""
    hidden: int = 64
    """Units of the hidden layers."""

    def check(self) -> None:
        """UserError for what cannot be."""
        if self.hidden < 2:
            raise UserError(f"--hidden {self.hidden}: must be at least 2")


def main(argv: Sequence[str] | None = None) -> None:
    """Shapes and parameter counts of the world models of this chapter."""
    from foundations.dyna.games import make_env

    args = parse(ShapeArgs, list(sys.argv[1:] if argv is None else argv), main.__doc__)
    check_args(args)
    env = make_env(args.env)
    size, actions = env.observation_space.shape[0], getattr(env.action_space, "n", None)
    act_size = actions or env.action_space.shape[0]
    model = DynamicsModel(size, act_size, ModelConfig((args.hidden, args.hidden)))
    obs, act = torch.zeros(1, 8, size), torch.zeros(1, 8, act_size)
    act[..., 0] = 1.0
    with torch.no_grad():
        found = model.predict(obs, act)
    kind = f"{actions} actions as one-hot" if actions else f"{act_size} numbers as action"
    print(f"{args.env}: states of {size} numbers, {kind}")
    print(
        f"in {[*obs.shape]}, {[*act.shape]} -> next_obs {[*found.next_obs.shape]}, rew {[*found.rew.shape]},",
        end="",
    )
    print(f" done {[*found.done.shape]}   (networks, rows, entries)")
    print(f"network {size + act_size} -> {args.hidden} -> {args.hidden} -> {size}, with two heads: ", end="")
    print(f"{count_parameters(model):,} parameters, an ensemble of 5: {5 * count_parameters(model):,}")
    if actions:
        for hidden in ((64, 32), (128, 32)):
            plain = ModelConfig(hidden, "relu", delta=False, standardise=False, one_hot=False, heads=False)
            count = count_parameters(DynamicsModel(size, act_size, plain))
            print(f"the plain one, {size + 1} -> {hidden[0]} -> {hidden[1]} -> {size}: {count:,} parameters")


if __name__ == "__main__":
    run_main(main)
