"""Why paper 2 does not learn toy_catch: what its dreams know, and what the gradient makes of it.

python -m benchmarks.straight_through --runs RUN [RUN ...] asks trained models of paper 2 with discrete
actions, at real states of random play: how do dreams end that begin with each of the actions, and what does
the straight-through gradient say of them?  Both as gradients of the policy's logits, under a policy that
knows nothing and under the agent's own.  Numbers and figure go to benchmarks/figures/; without --runs the
figure is drawn anew.
"""

import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.results import ROOT
from common.atomic import atomic_write
from common.cli import run_main
from common.errors import UserError
from common.flags import parse
from common.logger import read_metrics
from common.plots import COLORS, GRAY, new_figure, save_figure
from paper2_dreamerv1.actor_critic import OneHot, lambda_return
from paper2_dreamerv1.agent import DreamerV1Agent
from paper2_dreamerv1.rssm import State

OUT = ROOT / "benchmarks" / "figures" / "paper2-straight-through.json"


@dataclass(frozen=True, kw_only=True)
class Args:
    """Which models are asked, and how thoroughly."""

    runs: tuple[Path, ...] = field(default=())
    """Run folders of paper 2 with discrete actions."""
    states: int = 256
    """Real states asked about."""
    draws: int = 128
    """Dreams per state and first action."""
    out: Path = OUT
    """Where the numbers go; the figure lies beside it."""


def real_states(agent: DreamerV1Agent, count: int, seed: int = 7) -> tuple[State, np.ndarray]:
    """Posteriors at rows of random play, and the best move there.  [count, ...], [count]"""
    games, rows, skip, rng = 32, 40, 8, np.random.default_rng(seed)
    envs = agent.env.make_vector(games, "eval")
    core = envs.unwrapped.core
    obs, _ = envs.reset(seed=500_000)
    seen, acts, best = [], [], []
    for _ in range(rows):
        act = rng.integers(envs.single_action_space.n, size=games)
        seen.append(obs)
        acts.append(act)
        best.append(core.optimal_policy(np.arange(games)))
        obs = envs.step(act)[0]
    envs.close()
    batch = {key: np.stack([row[key] for row in seen], 1) for key in agent.spaces.obs}
    batch |= {"act": np.stack(acts, 1), "is_first": np.arange(rows) == np.zeros((games, 1))}
    post, _ = agent.watch(batch, torch.Generator().manual_seed(seed))
    chosen = rng.choice(games * (rows - skip), count, replace=False)
    states = State(*(part[:, skip:].flatten(0, 1)[torch.from_numpy(chosen)] for part in post))
    return states, np.stack(best, 1)[:, skip:].ravel()[chosen]


def returns(agent: DreamerV1Agent, start: State, first: Tensor, own: bool) -> Tensor:
    """Imagined return of `first` [N, A] at the start, then the policy's actions, or random ones.  [N]"""
    cfg, model, state, act, feats = agent.cfg.behaviour, agent.model, start, first, []
    for _ in range(cfg.horizon):
        state = model.rssm.imagine(state, act)
        feats.append(state.feat)
        with torch.no_grad():
            logit = agent.actor(state.feat).logit
            act = OneHot(logit if own else torch.zeros_like(logit)).rsample()
    feat = torch.stack(feats)
    return lambda_return(model.reward(feat), agent.value(feat), model.discount(feat), cfg.lam)[0]


def ask(agent: DreamerV1Agent, states: int, draws: int, own: bool) -> dict:
    """Both gradients of the logits at every state, under the agent's own policy or under a uniform one."""
    torch.manual_seed(0)
    actions = torch.eye(agent.spaces.act)
    start, best = real_states(agent, states)
    with torch.no_grad():
        logit = agent.actor(start.feat).logit
        policy = (logit if own else torch.zeros_like(logit)).softmax(-1)  # [states, A]
    truth, slope = torch.zeros(2, states, len(actions))
    for i in range(states):
        many = State(*(part[i : i + 1].expand(draws, -1) for part in start))
        for a, action in enumerate(actions):
            first = action.expand(draws, -1).clone().requires_grad_()
            ret = returns(agent, many, first, own)
            truth[i, a] = ret.detach().mean()
            slope[i] += policy[i, a] * torch.autograd.grad(ret.sum(), first)[0].mean(0)
    # d/d logit of sum_a policy_a x_a: with the returns the policy gradient, with the slopes straight-through
    exact, through = (policy * (x - (policy * x).sum(1, keepdim=True)) for x in (truth, slope))
    return {
        "cosine": round(float(torch.cosine_similarity(exact, through, dim=1).median()), 3),
        "dream_is_right": round(float(np.mean(truth.argmax(1).numpy() == best)), 3),
        "gradient_is_right": round(float(np.mean(slope.argmax(1).numpy() == best)), 3),
        "entropy": round(float(-(policy * policy.clamp(min=1e-9).log()).sum(1).mean()), 4),
        "exact_norm": float(f"{exact.norm(dim=1).mean():.3g}"),
        "through_norm": float(f"{through.norm(dim=1).mean():.3g}"),
        # the slope of the imagined return along the direction in which the actor is pushed
        "gain": float(f"{(exact * through).sum() / through.norm():.3g}"),
    }


def look(run: Path, args: Args) -> dict:
    """A run's curves and what its model says."""
    agent = DreamerV1Agent.load(run)
    if not agent.spaces.discrete:
        raise UserError(f"{run}: actions are continuous; give a run with discrete ones")
    rows = [row for row in read_metrics(run / "metrics.jsonl") if "policy_entropy" in row]
    with open(run / "curve.csv", encoding="utf-8") as file:
        curve = [(int(row["updates"]), float(row["ret_mean"])) for row in csv.DictReader(file)]
    keys = "updates", "policy_entropy", "imag/return", "grad_norm/actor"
    return {
        "run": run.name,
        "env": agent.env.name,
        "chance": round(1 / agent.spaces.act, 3),
        "updates": agent.updates,
        "returns": curve,
        "metrics": [[float(f"{row[key]:.4g}") for key in keys] for row in rows],
        "uniform": ask(agent, args.states, args.draws, own=False),
        "own": ask(agent, args.states, args.draws, own=True),
    }


def draw(looked: list[dict], path: Path) -> None:
    """Returns, the policies' entropies, and how often dreams and gradient are right about the best move."""
    figure, axes = new_figure(1, 3, width=11, height=3.4)
    for color, one in zip(COLORS, looked, strict=False):
        axes[0, 0].plot(*np.transpose(one["returns"]), color=color, label=one["run"])
        metrics = np.transpose(one["metrics"])
        axes[0, 1].semilogy(metrics[0], metrics[1], color=color)
    axes[0, 0].set(xlabel="updates", ylabel="return")
    axes[0, 0].legend(fontsize=7)
    axes[0, 1].set(xlabel="updates", ylabel="entropy of the policy, nats")
    place, bars = np.arange(len(looked)), axes[0, 2]
    for shift, key, color in ((-0.2, "dream_is_right", COLORS[0]), (0.2, "gradient_is_right", COLORS[1])):
        height = [one["uniform"][key] for one in looked]
        bars.bar(place + shift, height, 0.4, color=color, label=key.split("_")[0])
    bars.plot(place, [one["chance"] for one in looked], "_", color=GRAY, ms=30, label="chance")
    bars.set_xticks(place, [one["run"] for one in looked], rotation=20, ha="right", fontsize=7)
    bars.set(ylabel="right about the best move", ylim=(0, 1))
    bars.legend(fontsize=7)
    save_figure(figure, path)


def main(argv: Sequence[str] | None = None) -> None:
    """Ask, write, draw."""
    args = parse(Args, list(sys.argv[1:] if argv is None else argv), __doc__.split("\n\n")[0])
    if args.runs:
        looked = [look(run, args) for run in args.runs]
        with atomic_write(args.out) as file:
            file.write((json.dumps(looked) + "\n").encode())
    if not args.out.is_file():
        raise UserError(f"no {args.out}: give --runs")
    looked = json.loads(args.out.read_text(encoding="utf-8"))
    draw(looked, args.out.with_suffix(".png"))
    for one in looked:
        for policy in ("uniform", "own"):
            print(f"{one['run']}, update {one['updates']}, {policy} policy: {one[policy]}")


if __name__ == "__main__":
    run_main(main)
