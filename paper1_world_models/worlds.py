"""Simple policies in reality and in the dream: do both worlds agree on how long they live?  gates.py judges.

Blind ones, random controllers, the controller of an earlier pass, and a competent player where one is known:
TakeCover's blind sweep, or a linear imitation of a toy's optimal policy.  Only the last two show that a dream
of random data ends too early for whoever plays well.

Shapes: N episodes, T steps, k rows of a call, P controllers of n numbers, A action numbers, F features.
"""

from dataclasses import replace

import numpy as np
import torch

from common.env_wrapper import scores, suite_of
from common.metrics import way_to_optimum
from common.seeding import derive
from paper1_world_models.agent import WorldModelsAgent
from paper1_world_models.controller import ActionCodec, Controller
from paper1_world_models.dream import Dreams, dream_returns, evolved_policy
from paper1_world_models.evolve import training_seed
from paper1_world_models.imitation import imitate_optimum
from paper1_world_models.policies import Held, noop, random_action
from paper1_world_models.rollout import Episode, Noise, Player, play
from paper1_world_models.run import Run

REAL, DREAMT, LINEAR = 60, 200, 32  # episodes in reality and in the dream, random linear controllers
SWEEP = 100  # tics to each side: the best blind policy of TakeCover (common/envs/scores.json)
Table = dict[str, dict[str, float]]  # policy -> {"real", "dream", "real_error", ...}


class TablePlayer:
    """A player that never looks: row i of an action table [N, T, A].  `play` takes it as a `Player`."""

    def __init__(self, table: np.ndarray, codec: ActionCodec, slots: int):
        self.table, self.codec, self.t = table, codec, np.zeros(slots, np.int64)

    def reset(self, rows: np.ndarray) -> None:
        """A new episode begins in `rows`."""
        self.t[rows] = 0

    def act(self, rows, frames, params, eps, first):
        """params [k, 1] holds the row of the table."""
        act = self.table[params[:, 0].long().numpy(), np.minimum(self.t[rows], self.table.shape[1] - 1)]
        self.t[rows] += 1
        return self.codec.to_env(act), act, None


def ends_of(codec: ActionCodec) -> tuple[float, float] | None:
    """Far left and far right, where an action is one turn."""
    if codec.kind == "thirds":
        return -1.0, 1.0
    return (codec.low[0], codec.high[0]) if codec.kind == "tanh" and codec.size == 1 else None


def extremes_of(codec: ActionCodec) -> dict[str, np.ndarray]:
    """Constant actions [A] that data of short holds lacks: to one side for ever, or a Box's bounds.

    Discrete actions have none.
    """
    if ends := ends_of(codec):
        return {"left for ever": np.float32(ends[:1]), "right for ever": np.float32(ends[1:])}
    return (
        {"low for ever": np.float32(codec.low), "high for ever": np.float32(codec.high)} if codec.low else {}
    )


def sweep(codec: ActionCodec, half: int, steps: int) -> np.ndarray:
    """`half` steps right, as many left, and so on.  -> [T, 1]"""
    left, right = ends_of(codec)
    return np.where(np.arange(steps) // half % 2 == 0, right, left).astype(np.float32)[:, None]


def blind_tables(agent: WorldModelsAgent, episodes: int, steps: int, seed: int) -> dict[str, np.ndarray]:
    """Policies that do not look, as action tables: name -> [N, T, A]."""
    rng, codec = np.random.default_rng(seed), agent.codec

    def fill(policy_of_episode) -> np.ndarray:
        policies = [policy_of_episode(i) for i in range(episodes)]
        return np.stack([np.stack([policy(None) for _ in range(steps)]) for policy in policies])

    uniform_prob = 1 / 3 if codec.kind == "thirds" else 0.0
    tables = {
        "no-op": np.broadcast_to(noop(codec), (episodes, steps, codec.size)),
        "uniform": fill(
            lambda i: lambda frame: noop(codec) if rng.random() < uniform_prob else random_action(codec, rng)
        ),
        "held": fill(lambda i: Held(agent.cfg.collect, codec, i, rng)),
    }
    for name, action in extremes_of(codec).items():
        tables[name] = np.broadcast_to(action, (episodes, steps, codec.size))
    if suite_of(agent.env.name) == "doom" and ends_of(codec):
        line = sweep(codec, max(1, SWEEP // agent.env.frames_per_step), steps)
        tables["competent"] = np.broadcast_to(line, (episodes, steps, 1))
    return tables


def dream_table(run: Run, agent: WorldModelsAgent, games) -> Table:
    """Mean score of simple policies in reality and in the dream."""
    cfg, seed = run.cfg, derive(run.cfg.seed, "gate")
    steps, out = cfg.dream.max_steps, {}
    generator = torch.Generator(agent.device).manual_seed(seed)
    dreams = Dreams(agent.rnn, agent.starts, cfg.dream, generator)
    starts = agent.starts.pick(DREAMT, generator)
    leave = run.leave_if_asked
    for name, table in blind_tables(agent, DREAMT, steps, seed).items():
        episodes = [Episode(i, 0, training_seed(seed, i)) for i in range(REAL)]
        vectors = np.arange(REAL, dtype=np.float32)[:, None]
        player = TablePlayer(table, agent.codec, games.slots)
        real = play(games, player, vectors, episodes, Noise(None), max_steps=steps, each_step=leave)
        actions = torch.from_numpy(np.ascontiguousarray(table)).to(agent.device)
        dreamt = dream_returns(dreams, lambda rows, d, t, a=actions: a[rows, t], starts)
        out[name] = summary(real, dreamt)
    size = (LINEAR, agent.controller.size)
    weights = np.random.default_rng(seed).standard_normal(size).astype(np.float32) * 0.1
    out["random linear"] = both_worlds(run, agent, agent.controller, games, dreams, weights, 4, seed)
    if np.any(agent.params):  # a controller from an earlier pass
        params = agent.params[None]
        out["controller"] = both_worlds(run, agent, agent.controller, games, dreams, params, REAL, seed)
    if suite_of(agent.env.name) == "toy":
        out["competent"] = imitated(run, agent, games, dreams, seed)
    return out


def both_worlds(
    run: Run, agent, controller: Controller, games, dreams: Dreams, params: np.ndarray, each: int, seed: int
) -> dict[str, float]:
    """Controllers [P, n] played `each` times in reality and in the dream: means, and their correlation over
    P."""
    cfg, P = run.cfg, len(params)
    noise = Noise.draw(seed, each, cfg.dream.max_steps, cfg.vae.latents, cfg.controller.z)
    episodes = [Episode(p, r, training_seed(seed, "linear", r)) for p in range(P) for r in range(each)]
    player = Player(agent.vae, agent.rnn, controller, games.slots)
    real = play(
        games, player, params, episodes, noise, max_steps=cfg.dream.max_steps, each_step=run.leave_if_asked
    )
    candidate = torch.arange(P, device=agent.device).repeat_interleave(each)
    policy = evolved_policy(controller, torch.from_numpy(params).to(agent.device), candidate)
    dreamt = dream_returns(dreams, policy, agent.starts.pick(P * each, dreams.generator))
    means = [returns.reshape(P, each).mean(1) for returns in (real, dreamt)]
    out = summary(real, dreamt)
    if P > 2 and min(mean.std() for mean in means) > 0:
        out["correlation"] = np.corrcoef(*means)[0, 1].item()
    return out


def imitated(run: Run, agent: WorldModelsAgent, games, dreams: Dreams, seed: int) -> dict[str, float]:
    """A toy's optimal policy sees the true state, which a dream has not; so a linear C on [z, h] learns to do
    the same in reality and is then played in both.  "way": how far it comes from blind to optimal, in
    reality."""
    shape = replace(agent.cfg.controller, inputs="zh", hidden=0, bias=True)
    controller = Controller(shape, agent.cfg.vae.latents, agent.cfg.rnn.hidden, agent.codec)
    params = imitate_optimum(run, agent, controller, games, seed)
    row = both_worlds(run, agent, controller, games, dreams, params[None], REAL, seed)
    known = scores(agent.env.name, agent.env.options)
    levels = {name: (known[name] or {}).get("value") for name in ("random", "blind", "optimum")}
    way = way_to_optimum(row["real"], **levels)
    return row | {"way": 0.0 if way is None else way}


def summary(real: np.ndarray, dreamt: np.ndarray) -> dict[str, float]:
    """Means in both worlds, and twice the standard error of the real one, an average of few episodes."""
    error = 2 * real.std() / len(real) ** 0.5
    return {"real": real.mean().item(), "dream": dreamt.mean().item(), "real_error": error.item()}
