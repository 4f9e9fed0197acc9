"""DQN and Dyna-DQN (Sutton 1990): the same learner, fed by the real game alone or by a learned model as well.

    python -m foundations.dyna.agent --env CartPole-v1 --k 5 --horizon 5     one agent beside DQN
    python -m foundations.dyna.agent --compare --seeds 20                    the table of compare_agents.py

Every real step makes `updates` steps on real transitions and `k` on imagined ones.  Imagined ones begin at
visited states and follow the present policy in an ensemble, one member a step (Chua et al. 2018), for
`horizon` steps, or until the members disagree beyond a threshold (`cut`, as in MBPO, Janner et al. 2019).
Letters: S seeds, B rows, D entries of an observation.
"""

import copy
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.nn import functional as F

from common.cli import run_main
from common.errors import UserError
from common.flags import parse
from common.seeding import seed_everything
from foundations.commands import Args, check_args
from foundations.dyna import data_collection as data
from foundations.dyna.dqn import QNetwork, Replay, select_action, train_on_batch
from foundations.dyna.games import make_games
from foundations.dyna.plan_with_model import TrueCartPole, predict
from foundations.dyna.train_model import DataSets, fit
from foundations.dyna.world_model import DynamicsModel, Ensemble, ModelConfig


@dataclass(frozen=True)
class AgentConfig:
    """One learner; k = 0 is DQN."""

    env: str = "CartPole-v1"
    steps: int = 5000
    """Real steps."""
    k: int = 0
    """Updates on imagined transitions after each real step."""
    horizon: int = 1
    """Imagined steps from each visited state."""
    cut: float = 0.0
    """0: never. Else a rollout ends where disagreement passes this quantile of it on real transitions."""
    true_model: bool = False
    """Imagine with the game's own dynamics (CartPole-v1)."""
    updates: int = 1
    """Updates on real transitions after each real step."""
    hidden: int = 64
    batch: int = 64
    lr: float = 1e-3
    disc: float = 0.99
    polyak: float = 0.01
    """Share of the network that its slow copy takes over at each update."""
    epsilon_steps: int = 500
    """Real steps over which the share of random actions falls from 1 to `epsilon`."""
    epsilon: float = 0.05
    warmup: int = 100
    """Real steps before the first update."""
    imagined: int = 4_000
    """Imagined transitions that are kept, the newest."""
    imagine_every: int = 10
    """Real steps between two rounds of imagination."""
    per_update: int = 16
    """Imagined transitions for each update on them; a batch is drawn from the newest `imagined`."""
    members: int = 3
    model_from: int = 500
    """Real steps before the first imagination, with a learned model or with the true one."""
    model_every: int = 250
    """Real steps between two trainings of the model, on all data so far."""
    model_updates: tuple[int, int] = (1000, 250)
    """Updates of the first training, and of each one that goes on from there."""
    eval_every: int = 250
    eval_episodes: int = 10


def check_game(cfg: AgentConfig) -> None:
    """UserError for a game that this learner, or this model, cannot play."""
    if data.num_actions(cfg.env) is None:
        known = "CartPole-v1, MountainCar-v0 or Acrobot-v1"
        raise UserError(f"--env {cfg.env}: DQN takes discrete actions; try {known}")
    if cfg.true_model and cfg.env != "CartPole-v1":
        raise UserError(f"--model true: only CartPole-v1 has its dynamics here, not {cfg.env}")


class Learner:
    """S seeds of one AgentConfig in step."""

    def __init__(self, cfg: AgentConfig, seeds: int, seed: int):
        self.cfg, self.seeds = cfg, seeds
        check_game(cfg)
        self.games = make_games(cfg.env, seeds, seed)
        seed_everything(seed)
        self.rng, self.torch_rng = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
        size = self.games.obs.shape[1]
        self.q = QNetwork(seeds, size, self.games.num_actions, cfg.hidden)
        self.slow = copy.deepcopy(self.q)
        self.optim = torch.optim.Adam(self.q.parameters(), cfg.lr, foreach=True)
        self.real = Replay(seeds, cfg.steps, size)
        self.imagined = Replay(seeds, cfg.imagined, size) if cfg.k else None
        self.model: Any = TrueCartPole() if cfg.true_model else None
        self.threshold = torch.full((seeds, 1), torch.inf)
        self.kept = [0, 0]  # imagined steps that were kept, and all

    def epsilon(self, step: int) -> float:
        """Share of random actions at a real step."""
        return max(self.cfg.epsilon, 1 - (1 - self.cfg.epsilon) * step / max(1, self.cfg.epsilon_steps))

    def play(self, step: int) -> None:
        """One real step of every seed's game."""
        obs = self.games.obs
        act = select_action(self.q, torch.from_numpy(obs)[:, None], self.epsilon(step), self.rng)[:, 0]  # [S]
        next_obs, rew, terminated, truncated = self.games.step(act)
        columns = {"obs": obs, "act": act, "rew": rew, "next_obs": next_obs, "done": terminated}
        self.real.add(**{name: torch.from_numpy(np.asarray(x))[:, None] for name, x in columns.items()})
        self.games.reset(terminated | truncated)

    def train_model(self) -> None:
        """Train the ensemble of each seed on its real transitions so far, and set the threshold of `cut`."""
        cfg, count = self.cfg, int(self.real.size.min())
        real = {name: column[:, :count].numpy() for name, column in self.real.columns.items()}
        act = data.as_features(real["act"], self.games.num_actions)
        sets = DataSets(
            [
                data.Transitions(real["obs"][s], act[s], real["rew"][s], real["next_obs"][s], real["done"][s])
                for s in range(self.seeds)
            ]
        )
        first = self.model is None
        if first:
            sizes = self.games.obs.shape[1], self.games.num_actions
            model = DynamicsModel(*sizes, ModelConfig(), self.seeds * cfg.members)
            self.model = Ensemble(model, cfg.members)
        epochs = max(1, cfg.model_updates[not first] // max(1, count // 64))
        fit(self.model.model, sets, cfg.members, epochs=epochs, seed=int(self.rng.integers(2**31)))
        if cfg.cut:
            with torch.no_grad():
                disagreement = self.model.predict(self.real.columns["obs"][:, :count], torch.from_numpy(act))[
                    1
                ]
            self.threshold = disagreement.quantile(cfg.cut, dim=1, keepdim=True)  # [S, 1]

    @torch.no_grad()
    def imagine(self, step: int) -> None:
        """Roll out from visited states under the present policy, and keep what the model is sure of."""
        cfg = self.cfg
        starts = max(1, cfg.per_update * cfg.k * cfg.imagine_every // cfg.horizon)
        obs = self.real.sample(starts, self.torch_rng)["obs"]  # [S, B, D]
        going = torch.ones(obs.shape[:2], dtype=torch.bool)
        for _ in range(cfg.horizon):
            act = torch.from_numpy(select_action(self.q, obs, self.epsilon(step), self.rng))  # [S, B]
            features = F.one_hot(act, self.games.num_actions).float()
            found, disagreement = predict(self.model, obs, features, self.torch_rng)
            sure = going & (disagreement <= self.threshold)
            self.kept[0] += int(sure.sum())
            self.kept[1] += int(going.sum())
            done = found.done > 0.5
            columns = {"obs": obs, "act": act, "rew": found.rew, "next_obs": found.next_obs, "done": done}
            self.imagined.add(sure, **columns)
            going = sure & ~done
            obs = found.next_obs
            if not going.any():
                break

    def _train_on_simulated_data(self) -> None:
        """`k` updates on imagined transitions."""
        if self.imagined is not None and bool((self.imagined.added > 0).all()):
            for _ in range(self.cfg.k):
                batch = self.imagined.sample(self.cfg.batch, self.torch_rng)
                train_on_batch(self.q, self.slow, self.optim, batch, self.cfg.disc, self.cfg.polyak)

    def learn(self, step: int) -> None:
        """What follows a real step."""
        cfg = self.cfg
        if step < cfg.warmup:
            return
        for _ in range(cfg.updates):
            batch = self.real.sample(cfg.batch, self.torch_rng)
            train_on_batch(self.q, self.slow, self.optim, batch, cfg.disc, cfg.polyak)
        if not cfg.k or step < cfg.model_from:
            return
        is_due = self.model is None or (step - cfg.model_from) % cfg.model_every == 0
        if is_due and not cfg.true_model:
            self.train_model()
        if step % cfg.imagine_every == 0:
            self.imagine(step)
        self._train_on_simulated_data()

    def evaluate(self, seed: int) -> np.ndarray:
        """Greedy return, mean of the episodes, of each seed.  [S]"""
        games = make_games(self.cfg.env, self.seeds * self.cfg.eval_episodes, seed)
        return greedy_returns(games, lambda obs: select_action(self.q, obs, 0.0, self.rng), self.seeds)


def greedy_returns(games: Any, policy: Any, seeds: int) -> np.ndarray:
    """Mean return of each seed's games; policy: [S, B, D] -> [S, B].  [S]"""
    ret, going = np.zeros(games.n), np.ones(games.n, bool)
    while going.any():
        act = policy(torch.from_numpy(games.obs).unflatten(0, (seeds, -1))).reshape(-1)
        _, rew, terminated, truncated = games.step(act)
        ret += rew * going
        ended = going & (terminated | truncated)
        going &= ~ended
        games.reset(terminated | truncated)
    return ret.reshape(seeds, -1).mean(1)


def train_dyna_agent(cfg: AgentConfig, seeds: int = 1, seed: int = 0, progress: Any = None) -> dict[str, Any]:
    """Train S seeds.  {"steps" [E], "returns" [S, E] greedy, "kept" share, "cpu_s", "agent"}"""
    start = time.process_time()
    agent, returns, steps = Learner(cfg, seeds, seed), [], []
    for step in range(1, cfg.steps + 1):
        agent.play(step - 1)
        agent.learn(step)
        if step % cfg.eval_every == 0:
            returns.append(agent.evaluate(seed * 7919 + step))
            steps.append(step)
            if progress is not None:
                progress(step, returns[-1])
    kept = agent.kept[0] / agent.kept[1] if agent.kept[1] else None
    cpu = round(time.process_time() - start, 1)
    return {
        "steps": np.array(steps),
        "returns": np.stack(returns, 1),
        "kept": kept,
        "cpu_s": cpu,
        "agent": agent,
    }


def train_dqn(cfg: AgentConfig, seeds: int = 1, seed: int = 0, **more: Any) -> dict[str, Any]:
    """The same without imagination."""
    return train_dyna_agent(replace(cfg, k=0, true_model=False), seeds, seed, **more)


@dataclass(frozen=True, kw_only=True)
class AgentArgs(Args):
    """Which agent, on what."""

    out: Path = Path("runs/dyna")
    """Folder; plots/ is written there."""
    env: str = "CartPole-v1"
    """A Gymnasium id with vectors and discrete actions."""
    steps: int = 5000
    """Real steps."""
    k: int = 5
    """Imagined updates after each real step."""
    horizon: int = 5
    """Imagined steps from each visited state."""
    cut: float = 0.0
    """End a rollout where the ensemble disagrees beyond this quantile (such as 0.95); 0: never."""
    model: Literal["learned", "true"] = "learned"
    """What imagines: the ensemble, or the game's own dynamics (CartPole-v1)."""
    hidden: int = 64
    """Units of the hidden layers of the Q-network."""
    seeds: int = 5
    """Seeds, side by side in one process."""
    compare: bool = False
    """Instead: DQN, DQN with as many updates, K x horizon with and without the cut, and the true model."""
    gate: bool = False
    """Instead: tune the learner of DQN, and of Dyna on the true model; --compare takes what came out."""

    def check(self) -> None:
        """UserError for what cannot be."""
        for name, least in {"steps": 250, "k": 0, "horizon": 1, "hidden": 1, "seeds": 1}.items():
            if getattr(self, name) < least:
                raise UserError(f"--{name} {getattr(self, name)}: must be at least {least}")
        if not 0 <= self.cut < 1:
            raise UserError(f"--cut {self.cut:g}: must be a quantile, at least 0 and below 1")


def main(argv: Sequence[str] | None = None) -> None:
    """Train Dyna-DQN beside DQN, or the whole comparison."""
    args = parse(AgentArgs, list(sys.argv[1:] if argv is None else argv), main.__doc__)
    check_args(args)
    from foundations.dyna import compare_agents

    torch.set_num_threads(max(1, args.threads))
    compare_agents.run(args)


if __name__ == "__main__":
    run_main(main)
