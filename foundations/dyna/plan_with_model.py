"""Roll the world model out, see how far it can be trusted, and plan with it.

    python -m foundations.dyna.plan_with_model --out runs/dyna     rollouts of the trained model, its error
    python -m foundations.dyna.plan_with_model --learn --seeds 10   learn CartPole by planning (planner.py)

Needs checkpoints/world_model.pt and data/transitions.npz; writes plots/trajectory_comparison.png,
plots/compounding_error.png and plots/disagreement_vs_error.png.
Letters: S models, B rows, H steps, D entries of an observation, A of an action.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from common.cli import pick_device, run_main
from common.config import Device
from common.errors import UserError
from common.flags import parse
from foundations.commands import Args, check_args, report
from foundations.dyna import data_collection as data
from foundations.dyna.games import cartpole_step
from foundations.dyna.train_model import CHECKPOINT, load_model
from foundations.dyna.world_model import CopyLast, Ensemble, Prediction


class TrueCartPole(nn.Module):
    """The dynamics of CartPole-v1 themselves, with the methods of a model: what no learned one can beat."""

    def predict(self, obs: Tensor, act: Tensor) -> Prediction:
        """[..., 4], one-hot [..., 2] -> the next state, exact in the precision of `obs`"""
        after, lost = cartpole_step(obs.cpu().double().numpy(), act.argmax(-1).cpu().numpy())
        next_obs = torch.from_numpy(after).to(obs)
        return Prediction(next_obs, torch.ones_like(next_obs[..., 0]), torch.from_numpy(lost).to(obs))


class Rollout(NamedTuple):
    """H imagined steps from each start."""

    obs: Tensor  # [S, B, H + 1, D]; stands still once an episode is over
    rew: Tensor  # [S, B, H]; 0 once it is over
    alive: Tensor  # [S, B, H + 1] whether the episode still goes on
    disagreement: Tensor  # [S, B, H]; 0 for a model without members


def predict(
    model: nn.Module, obs: Tensor, act: Tensor, rng: torch.Generator | None = None
) -> tuple[Prediction, Tensor]:
    """One step of any model: an ensemble's mean or, with `rng`, a member for each row; disagreement."""
    if not isinstance(model, Ensemble):
        return model.predict(obs, act), obs.new_zeros(obs.shape[:2])
    mean, disagreement = model.predict(obs, act)
    if rng is None:
        return mean, disagreement
    each = model.each(obs, act)  # [S, E, B, ...]
    member = torch.randint(model.members, obs.shape[:2], generator=rng).to(obs.device)[:, None]  # [S, 1, B]
    rows = [
        x.gather(1, member.reshape(*member.shape, *[1] * (x.dim() - 3)).expand(-1, -1, -1, *x.shape[3:]))
        for x in each
    ]
    return Prediction(*(x[:, 0] for x in rows)), disagreement


@torch.no_grad()
def imagine_rollout(
    model: nn.Module, obs: Tensor, act: Tensor, rng: torch.Generator | None = None
) -> Rollout:
    """Follow the actions in the model alone.  obs [S, B, D], act [S, B, H, A] -> Rollout

    An episode is over once its end is more likely than not: the state then stays as it is, and pays nothing.
    """
    alive = torch.ones_like(obs[..., 0])  # [S, B]
    states, rewards, alives, spreads = [obs], [], [alive], []
    for t in range(act.shape[2]):
        step, spread = predict(model, obs, act[:, :, t], rng)
        obs = torch.where(alive[..., None] > 0, step.next_obs, obs)  # [S, B, D]
        rewards.append(step.rew * alive)
        spreads.append(spread * alive)
        alive = alive * (step.done <= 0.5)
        states.append(obs)
        alives.append(alive)
    return Rollout(*(torch.stack(x, 2) for x in (states, rewards, alives, spreads)))


def evaluate_model_accuracy(
    model: nn.Module,
    rows: dict[str, np.ndarray],
    num_actions: int | None,
    horizon: int,
    count: int = 2000,
    seed: int = 0,
    scale: np.ndarray | None = None,
) -> dict[str, Any]:
    """Open-loop error by horizon: model `s` of a stack on the same `count` pieces of real episodes.

    Returns {"mse": [S, H] mean over starts and entries in raw units, "low", "high": [S, H] the middle 80 % of
    the starts, "disagreement": [S, H], "copy": [H] of copying the first state, "starts": how many}.  `scale`
    [D]: divide the entries first, since the speeds are large beside the rest.
    """
    index = data.pieces(rows, horizon, count, np.random.default_rng(seed))  # [B, H + 1]
    truth = torch.from_numpy(rows["obs"][index])  # [B, H + 1, D]
    act = torch.from_numpy(data.as_features(rows["act"][index[:, :-1]], num_actions))  # [B, H, A]
    stack = _stack(model)
    at = next((x.device for x in model.buffers()), "cpu")
    start, act = (x.expand(stack, *x.shape).to(at) for x in (truth[:, 0], act))
    obs, disagreement = without_end(model, start, act)
    unit = torch.ones(truth.shape[-1]) if scale is None else torch.from_numpy(scale)
    error = ((obs.cpu() - truth) / unit).square().mean(-1)[..., 1:]  # [S, B, H]
    copy = ((truth[:, :1] - truth[:, 1:]) / unit).square().mean(-1)  # [B, H]
    low, high = (error.quantile(q, dim=1).numpy() for q in (0.1, 0.9))
    return {
        "mse": error.mean(1).numpy(),
        "low": low,
        "high": high,
        "disagreement": disagreement.cpu().numpy(),  # [S, B, H]
        "error": error.numpy(),  # [S, B, H]
        "copy": copy.mean(0).numpy(),
        "starts": len(index),
    }


@torch.no_grad()
def without_end(model: nn.Module, obs: Tensor, act: Tensor) -> tuple[Tensor, Tensor]:
    """Open-loop states and disagreement whatever the model says of ends: the real episodes went on."""
    states, spreads = [obs], []
    for t in range(act.shape[2]):
        step, spread = predict(model, obs, act[:, :, t])
        obs = step.next_obs
        states.append(obs)
        spreads.append(spread)
    return torch.stack(states, 2), torch.stack(spreads, 2)


def _stack(model: nn.Module) -> int:
    """How many models a stack holds."""
    if isinstance(model, Ensemble):
        return model.model.stack // model.members
    if isinstance(model, CopyLast | TrueCartPole):
        return 1
    return model.stack if hasattr(model, "stack") else len(model.weight)


@dataclass(frozen=True, kw_only=True)
class PlanArgs(Args):
    """What to look at, or how to plan."""

    out: Path = Path("runs/dyna")
    """Folder with data/ and checkpoints/; plots/ is written there."""
    horizon: int = 0
    """Steps to roll out, or to plan ahead; 0: 50, and 20 for planning."""
    starts: int = 2000
    """Starting states of the error curves."""
    device: Device = "auto"
    """Where the networks run; auto: cuda, else mps, else cpu."""
    learn: bool = False
    """Instead: learn a game by planning in a model that is trained on what the planner meets."""
    env: str = "CartPole-v1"
    """With --learn: a Gymnasium id with vectors."""
    planner: Literal["shooting", "cem"] = "shooting"
    """With --learn: the best of random sequences, or the cross-entropy method."""
    variant: Literal["simple", "ensemble"] = "simple"
    """With --learn: one network, or five."""
    penalty: float = 0.0
    """With --learn: what a unit of the ensemble's disagreement costs, in reward."""
    cost: float = 10.0
    """With --learn: weight of CartPole's cost of a state, 0.05 |x| + 0.3 |angle|, beside the reward of 1."""
    candidates: int = 300
    """With --learn: action sequences for each decision."""
    steps: int = 1000
    """With --learn: real steps in all; the model is trained anew after every 250."""
    seeds: int = 3
    """With --learn: seeds, side by side."""
    episodes: int = 5
    """With --learn: episodes of each evaluation."""

    def check(self) -> None:
        """UserError for what cannot be."""
        least = {
            "horizon": 0,
            "starts": 1,
            "candidates": 2,
            "steps": 250,
            "seeds": 1,
            "episodes": 1,
            "penalty": 0,
            "cost": 0,
        }
        for name, bound in least.items():
            if not getattr(self, name) >= bound:
                raise UserError(f"--{name} {getattr(self, name):g}: must be at least {bound}")
        if self.penalty and self.variant != "ensemble":
            raise UserError("--penalty: one network cannot disagree with itself; add --variant ensemble")


def main(argv: Sequence[str] | None = None) -> None:
    """Roll the trained model out against real episodes, or learn a game by planning."""
    args = parse(PlanArgs, list(sys.argv[1:] if argv is None else argv), main.__doc__)
    check_args(args)
    if args.learn:
        from foundations.dyna.planner import learn_by_planning

        return learn_by_planning(args)
    show_accuracy(args)


def show_accuracy(args: PlanArgs) -> None:
    """The three plots of a trained model, on fresh episodes of the policies that there are."""
    from foundations.dyna import plots

    device = pick_device(args.device, args.threads)
    model, told = load_model(args.out / CHECKPOINT)
    model = model.to(device)
    _, collected = data.load(args.out / data.FILE)
    env, policy = collected["env"], collected["policy"]
    if env != told["env"]:
        raise UserError(f"{args.out}: model of {told['env']}, data of {env}: run train_model again")
    actions, horizon = data.num_actions(env), args.horizon or 50
    fresh = int(collected["seed"]) + 1_000  # episodes that no training has seen
    names = ["random"] + ["controller"] * (env == "CartPole-v1")
    curves, found = {}, {}
    with report(args, "plan_with_model") as result:
        for name in names:
            episodes = 300 if name == "random" else 30
            rows = data.collect_named(env, name, episodes, fresh)
            longest = int((np.diff(np.append(np.flatnonzero(rows["is_first"]), len(rows["rew"]))) - 1).max())
            steps = min(horizon, longest)
            found[name] = evaluate_model_accuracy(model, rows, actions, steps, args.starts, args.seed)
            curves[name] = {
                k: v for k, v in found[name].items() if k in ("mse", "low", "high", "copy", "starts")
            }
        last = rows  # of the best policy that there is
        result["policy"], result["variant"] = policy, told["variant"]
        result["curves"] = {
            name: {key: np.asarray(value).squeeze().tolist() for key, value in curve.items()}
            for name, curve in curves.items()
        }
    folder = args.out / "plots"
    for name, curve in curves.items():
        at = [h for h in (1, 5, 10, 20, 50) if h <= curve["mse"].shape[1]]
        line = "  ".join(f"{h}: {curve['mse'][0, h - 1]:.1e} (copy {curve['copy'][h - 1]:.1e})" for h in at)
        print(f"{name} episodes, {curve['starts']} starts, error after h steps  {line}")
    piece = data.pieces(
        last, min(horizon, curves[names[-1]]["mse"].shape[1]), 1, np.random.default_rng(args.seed)
    )[0]
    dream = plots.open_loop(model, last, piece, actions)
    print(f"wrote {plots.trajectory(last['obs'][piece], dream, env, folder / 'trajectory_comparison.png')}")
    print(f"wrote {plots.compounding_error(curves, policy, folder / 'compounding_error.png')}")
    if isinstance(model, Ensemble):
        print(f"wrote {plots.disagreement(found, policy, folder / 'disagreement_vs_error.png')}")


if __name__ == "__main__":
    run_main(main)
