"""Planning in the learned model, with no value function and no policy: imagine sequences, take the best.

    python -m foundations.dyna.plan_with_model --learn --planner cem --variant ensemble --penalty 1 --seeds 10

The first 250 real steps are random; then a model is trained on everything so far, tested by playing with
it, and the planner plays the next 250 itself, with a tenth of random actions.  Replanned at every step
(Nagabandi et al. 2018; with an ensemble: PETS, Chua et al. 2018).
Letters: S seeds, B games, C candidate sequences, H steps ahead, D entries of an observation, A of an action.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F

from common.cli import pick_device
from common.errors import UserError
from common.seeding import seed_everything
from foundations.commands import report
from foundations.dyna import data_collection as data
from foundations.dyna import plots
from foundations.dyna.games import make_games
from foundations.dyna.plan_with_model import PlanArgs, predict
from foundations.dyna.train_model import MEMBERS, DataSets, fit
from foundations.dyna.world_model import DynamicsModel, Ensemble, ModelConfig

ROUND = 250  # real steps between two models
EXPLORE = 0.1  # share of random actions while collecting
UPDATES = 2_000  # of each model
CEM_ROUNDS, ELITES = 3, 0.1
Cost = Callable[[Tensor], Tensor]  # states [..., D] -> what standing there costs [...]


def cartpole_cost(obs: Tensor) -> Tensor:
    """How far from the middle and from upright: sequences that survive tie otherwise.  [..., 4] -> [...]

    This is knowledge of the task, which DQN has not: so `--cost` sets its weight, and the table names it.
    """
    return 0.05 * obs[..., 0].abs() + 0.3 * obs[..., 2].abs()


@dataclass(frozen=True)
class PlanConfig:
    """How to look ahead."""

    method: str = "shooting"
    """shooting, or cem: refit the distribution of the sequences to the best tenth, twice."""
    candidates: int = 300
    horizon: int = 20
    penalty: float = 0.0
    """Price of a unit of the ensemble's disagreement at each step."""
    cost: float = 1.0
    """Weight of the cost of a state, where the game has one."""


class Planner:
    """Chooses actions for [S, B] games of one kind."""

    def __init__(
        self, model: nn.Module, action_space: spaces.Space, cfg: PlanConfig, cost: Cost | None = None
    ):
        self.model, self.space, self.cfg, self.cost = model, action_space, cfg, cost
        self.num_actions = getattr(action_space, "n", None)

    def sequences(self, rows: tuple[int, int], rng: torch.Generator) -> Tensor:
        """Half of them new draws at every step (a coin of its own bias), half keep an action for a while.

        -> features [S, B, C, H, A]
        """
        shape = (*rows, self.cfg.candidates)
        fresh = self._draws(shape, rng)  # [S, B, C, H, A]
        rate = torch.rand(*shape, 1, generator=rng)
        rate[:, :, : self.cfg.candidates // 2] = 1.0
        switch = torch.rand(*shape, self.cfg.horizon, generator=rng) < rate
        switch[..., 0] = True
        steps = torch.arange(self.cfg.horizon).expand(switch.shape)
        since = torch.where(switch, steps, 0).cummax(-1).values  # the step at which the action was chosen
        return fresh.gather(3, since[..., None].expand_as(fresh))

    def _draws(self, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
        uniform = torch.rand(*shape, self.cfg.horizon, generator=rng)
        if self.num_actions is None:
            low, high = (torch.from_numpy(np.float32(x)) for x in (self.space.low, self.space.high))
            more = torch.rand(*uniform.shape, len(low), generator=rng)
            return low + (high - low) * more
        bias = -torch.rand(*shape, self.num_actions, generator=rng).clamp(min=1e-6).log()  # a uniform simplex
        edges = (bias / bias.sum(-1, keepdim=True)).cumsum(-1)[..., None, :-1]  # [S, B, C, 1, A - 1]
        return F.one_hot((uniform[..., None] > edges).sum(-1), self.num_actions).float()

    def score(self, obs: Tensor, sequences: Tensor) -> Tensor:
        """Expected reward while alive, less costs.  obs [S, B, D], sequences [S, B, C, H, A] -> [S, B, C]"""
        s, b, c, horizon, _ = sequences.shape
        state = obs[:, :, None].expand(s, b, c, -1).reshape(s, b * c, -1)
        act = sequences.reshape(s, b * c, horizon, -1)
        total, alive = torch.zeros(s, b * c), torch.ones(s, b * c)
        for t in range(horizon):
            step, disagreement = predict(self.model, state, act[:, :, t])
            reward = step.rew - (self.cfg.cost * self.cost(step.next_obs) if self.cost else 0.0)
            total += alive * (reward - self.cfg.penalty * disagreement)
            alive = alive * (1 - step.done)
            state = step.next_obs
        return total.view(s, b, c)

    @torch.no_grad()
    def act(self, obs: np.ndarray, rng: torch.Generator) -> np.ndarray:
        """First action of the best sequence.  [S, B, D] -> [S, B] or [S, B, A]"""
        seen = torch.from_numpy(obs)
        tried = self.sequences(obs.shape[:2], rng)
        score = self.score(seen, tried)
        for _ in range(CEM_ROUNDS - 1 if self.cfg.method == "cem" else 0):
            tried = self._refit(tried, score, rng)
            score = self.score(seen, tried)
        best = score.argmax(-1)[..., None, None]  # [S, B, 1, 1]
        first = tried[..., 0, :].gather(2, best.expand(-1, -1, 1, tried.shape[-1]))[:, :, 0]  # [S, B, A]
        return (first.argmax(-1) if self.num_actions else first).numpy()

    def _refit(self, tried: Tensor, score: Tensor, rng: torch.Generator) -> Tensor:
        """The elite itself, and new sequences drawn step by step from what it does."""
        keep = max(1, int(ELITES * self.cfg.candidates))
        index = score.topk(keep, -1).indices[..., None, None].expand(-1, -1, -1, *tried.shape[3:])
        elite = tried.gather(2, index)  # [S, B, K, H, A]
        mean = elite.mean(2, keepdim=True)  # [S, B, 1, H, A]
        shape = (*tried.shape[:2], self.cfg.candidates - keep, *tried.shape[3:])
        if self.num_actions is None:
            low, high = (torch.from_numpy(np.float32(x)) for x in (self.space.low, self.space.high))
            noise = torch.randn(shape, generator=rng) * elite.std(2, keepdim=True, correction=0)
            new = torch.minimum(torch.maximum(mean + noise, low), high)
        else:
            prob = 0.9 * mean + 0.1 / self.num_actions  # no action dies out
            uniform = torch.rand(*shape[:-1], 1, generator=rng)
            new = F.one_hot((uniform > prob.cumsum(-1)[..., :-1]).sum(-1), self.num_actions).float()
        return torch.cat([elite, new], 2)


def evaluate(
    planner: Planner, env: str, seeds: int, episodes: int, seed: int, rng: torch.Generator
) -> np.ndarray:
    """Mean return of each seed's episodes.  Only games that still go on are planned for.  [S]"""
    games = make_games(env, seeds * episodes, seed)
    ret, going = np.zeros((seeds, episodes)), np.ones((seeds, episodes), bool)
    while going.any():
        width = int(going.sum(1).max())
        rows = np.argsort(~going, axis=1, kind="stable")[:, :width]  # the going ones of each seed first
        obs = np.take_along_axis(games.obs.reshape(seeds, episodes, -1), rows[..., None], 1)
        chosen = planner.act(obs, rng)
        act = np.zeros((seeds, episodes, *chosen.shape[2:]), chosen.dtype)
        np.put_along_axis(act, rows if chosen.ndim == 2 else rows[..., None], chosen, 1)
        _, rew, terminated, truncated = games.step(act.reshape(-1, *chosen.shape[2:]))
        ret += rew.reshape(ret.shape) * going
        games.reset(terminated | truncated)
        going &= ~(terminated | truncated).reshape(going.shape)
    return ret.mean(1)


class Experience:
    """What the S games have shown so far, step by step."""

    def __init__(self, env: str, seeds: int, seed: int):
        self.games, self.rng = make_games(env, seeds, seed), np.random.default_rng(seed)
        self.steps: list[data.Transitions] = []  # each [S, ...]
        self._random = data.random_policy(self.games.action_space)

    def step(self, planned: np.ndarray | None) -> None:
        """One real step of each game; None: at random."""
        games, obs = self.games, self.games.obs.copy()
        act = [self._random(obs[0], self.rng) for _ in range(games.n)]
        if planned is not None:
            by_chance = self.rng.random(games.n) < EXPLORE
            act = [a if chance else p for a, p, chance in zip(act, planned, by_chance, strict=True)]
        act = np.array(act)
        next_obs, rew, terminated, truncated = games.step(act)
        features = data.as_features(act, games.num_actions)
        self.steps.append(data.Transitions(obs, features, rew, next_obs, terminated.astype(np.float32)))
        games.reset(terminated | truncated)

    def sets(self) -> DataSets:
        """A set for each seed."""
        columns = [np.stack(column, 1) for column in zip(*self.steps, strict=True)]  # [S, T, ...]
        return DataSets([data.Transitions(*(column[s] for column in columns)) for s in range(self.games.n)])


def learn(
    env: str, cfg: PlanConfig, args: PlanArgs, progress: Callable[[int, np.ndarray], None]
) -> dict[str, Any]:
    """Collect and train in turn; evaluated at 250, 500, 1,000 ... {"steps" [E], "returns" [S, E], "cpu_s"}"""
    start = time.process_time()
    seed_everything(args.seed)
    rng = torch.Generator().manual_seed(args.seed)
    found, planner = Experience(env, args.seeds, args.seed), None
    members = MEMBERS if args.variant == "ensemble" else 1
    steps, returns = [], []
    for step in range(1, args.steps + 1):
        planned = planner.act(found.games.obs[:, None], rng)[:, 0] if planner else None
        found.step(planned)
        rounds = step // ROUND
        if step % ROUND:
            continue
        sets = found.sets()
        size, actions = sets.columns[0].shape[-1], sets.columns[1].shape[-1]
        model = DynamicsModel(size, actions, ModelConfig(), args.seeds * members)
        fit(model, sets, members, epochs=max(1, UPDATES // max(1, step // 64)), seed=args.seed + step)
        whole = Ensemble(model, members) if members > 1 else model
        planner = Planner(
            whole, found.games.action_space, cfg, cartpole_cost if env == "CartPole-v1" else None
        )
        if rounds & (rounds - 1) == 0 or step + ROUND > args.steps:
            returns.append(evaluate(planner, env, args.seeds, args.episodes, args.seed * 7919 + step, rng))
            steps.append(step)
            progress(step, returns[-1])
    return {
        "steps": steps,
        "returns": np.stack(returns, 1).tolist(),
        "cpu_s": round(time.process_time() - start, 1),
    }


def learn_by_planning(args: PlanArgs) -> None:
    """`--learn`: the table of returns by real steps, planning.json and plots/planning.png."""
    if args.candidates < 10 and args.planner == "cem":
        raise UserError(f"--candidates {args.candidates}: the cross-entropy method needs at least 10")
    pick_device("cpu", args.threads)
    cfg = PlanConfig(args.planner, args.candidates, args.horizon or 20, args.penalty, args.cost)
    label = (
        f"{args.planner}, {args.variant}"
        + f", penalty {args.penalty:g}" * bool(args.penalty)
        + f", cost x {args.cost:g}"
    )
    print(f"{args.env}, {label}: {args.seeds} seeds, {cfg.candidates} sequences of {cfg.horizon} steps")

    def say(step: int, ret: np.ndarray) -> None:
        print(
            f"{step:>6,} real steps  return {ret.mean():7.1f}  from {ret.min():.1f} to {ret.max():.1f}",
            flush=True,
        )

    with report(args, "planning") as result:
        result |= {"label": label, **learn(args.env, cfg, args, say)}
    curve = {label: (np.array(result["steps"]), np.array(result["returns"]))}
    print(f"wrote {plots.learning(curve, args.out / 'plots' / 'planning.png', args.env)}")
