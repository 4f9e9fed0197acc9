"""Gates: a stage that is worse than its simple baselines does not hand over to the next one.

V against the mean image; M against N(0, 1) and copy-the-last-frame; the dream against reality, by how long
simple policies survive in both.  The last one matters most: loss and cross entropy do not reveal a dream
that can be cheated (measured sheet of TakeCover, section 3).

Shapes: N episodes, T steps, A action numbers, P controllers.
"""

import numpy as np
import torch

from common.errors import UserError
from common.seeding import derive
from paper1_world_models.agent import WorldModelsAgent
from paper1_world_models.controller import ActionCodec
from paper1_world_models.dream import Dreams, dream_returns, evolved_policy
from paper1_world_models.evolve import training_seed
from paper1_world_models.policies import Held, noop, random_action
from paper1_world_models.rollout import Episode, Noise, Player, play
from paper1_world_models.run import Run

FOREGROUND = 0.125  # share of the mean image's error on the pixels that vae.foreground weighs
REAL, DREAMT, LINEAR = 60, 200, 32  # episodes in reality and in the dream, random linear controllers


def judge(run: Run, name: str, failures: list[str]) -> None:
    """Stop or warn, as the user asked."""
    if not failures:
        return
    line = f"gate of {name} failed: {'; '.join(failures)}"
    if run.cfg.gates == "stop":
        raise UserError(
            f"{line}. Train it longer or on other data, or go on with --gates warn --resume {run.folder}"
        )
    run.log.note(f"warning: {line}")


def vae_failures(error: dict[str, float], share: float) -> list[str]:
    """`error` is vae.reconstruction_error's.  A weighted foreground has a bound of its own: V may be fine on
    the whole picture and lose what is small and matters (on TakeCover's fireballs: 0.1, mean image 0.8)."""
    bounds = {"recon": ("mean_image", share), "foreground": ("foreground_mean_image", FOREGROUND)}
    return [
        f"{name} error {error[name]:.3g} is not below {part:g} x {error[baseline]:.3g} of the mean image"
        for name, (baseline, part) in bounds.items()
        if name in error and not error[name] < part * error[baseline]
    ]


def rnn_failures(scores: dict[str, float]) -> list[str]:
    """`scores` are train_rnn.evaluate's, all in nats per dimension on held-out sequences."""
    baselines = {"N(0, 1)": scores["nll_standard_normal"], "copy-the-last-frame": scores["nll_copy_last"]}
    return [
        f"NLL {scores['nll']:.3f} is not below {b:.3f} of {name}"
        for name, b in baselines.items()
        if scores["nll"] >= b
    ]


class Table:
    """A player that never looks: row i of an action table [N, T, A].  Stands where `Player` stands in
    `play`."""

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
    if codec.kind == "thirds":
        for name, value in (("left for ever", -1.0), ("right for ever", 1.0)):
            tables[name] = np.full((episodes, steps, 1), value, np.float32)
    return tables


def dream_table(run: Run, agent: WorldModelsAgent, games) -> dict[str, dict[str, float]]:
    """Mean score of simple policies in reality and in the dream: name -> {"real", "dream"}."""
    cfg, seed = run.cfg, derive(run.cfg.seed, "gate")
    steps, out = cfg.dream.max_steps, {}
    generator = torch.Generator(agent.device).manual_seed(seed)
    dreams = Dreams(agent.rnn, agent.starts, cfg.dream, generator)
    starts = agent.starts.pick(DREAMT, generator)
    for name, table in blind_tables(agent, DREAMT, steps, seed).items():
        episodes = [Episode(i, 0, training_seed(seed, i)) for i in range(REAL)]
        vectors = np.arange(REAL, dtype=np.float32)[:, None]
        real = play(
            games,
            Table(table, agent.codec, games.slots),
            vectors,
            episodes,
            Noise(None),
            max_steps=steps,
            each_step=run.leave_if_asked,
        )
        actions = torch.from_numpy(np.ascontiguousarray(table)).to(agent.device)
        dreamt = dream_returns(dreams, lambda rows, d, t, a=actions: a[rows, t], starts)
        out[name] = summary(real, dreamt)
    weights = (
        np.random.default_rng(seed).standard_normal((LINEAR, agent.controller.size)).astype(np.float32) * 0.1
    )
    out["random linear"] = both_worlds(run, agent, games, dreams, weights, 4, seed)
    if np.any(agent.params):  # a controller from an earlier pass: the competent policy
        out["controller"] = both_worlds(run, agent, games, dreams, agent.params[None], 60, seed)
    return out


def both_worlds(
    run: Run, agent, games, dreams: Dreams, params: np.ndarray, each: int, seed: int
) -> dict[str, float]:
    """Controllers [P, n] played `each` times in reality and in the dream: means, and their correlation over
    P."""
    cfg, P = run.cfg, len(params)
    noise = Noise.draw(seed, each, cfg.dream.max_steps, cfg.vae.latents, cfg.controller.z)
    episodes = [Episode(p, r, training_seed(seed, "linear", r)) for p in range(P) for r in range(each)]
    player = Player(agent.vae, agent.rnn, agent.controller, games.slots)
    real = play(
        games, player, params, episodes, noise, max_steps=cfg.dream.max_steps, each_step=run.leave_if_asked
    )
    candidate = torch.arange(P, device=agent.device).repeat_interleave(each)
    policy = evolved_policy(agent.controller, torch.from_numpy(params).to(agent.device), candidate)
    dreamt = dream_returns(dreams, policy, agent.starts.pick(P * each, dreams.generator))
    means = [returns.reshape(P, each).mean(1) for returns in (real, dreamt)]
    out = summary(real, dreamt)
    if P > 2 and min(mean.std() for mean in means) > 0:
        out["correlation"] = np.corrcoef(*means)[0, 1].item()
    return out


def summary(real: np.ndarray, dreamt: np.ndarray) -> dict[str, float]:
    """Means in both worlds, and twice the standard error of the real one, an average of few episodes."""
    error = 2 * real.std() / len(real) ** 0.5
    return {"real": real.mean().item(), "dream": dreamt.mean().item(), "real_error": error.item()}


def dream_failures(table: dict[str, dict[str, float]]) -> list[str]:
    """Thresholds of the measured sheet: blind policies within 30 %, a wall-hugger at most 2 x, random
    controllers at most 1.5 x, a competent controller at least half as long as in reality."""
    bounds = {
        "no-op": (0.7, 1.3),
        "uniform": (0.7, 1.3),
        "held": (0.7, 1.3),
        "random linear": (0, 1.5),
        "controller": (0.5, 2),
    }
    out = []
    for name, scores in table.items():
        low, high = bounds.get(name, (0, 2))
        real, size, error = scores["real"], abs(scores["real"]), scores["real_error"]  # may be negative
        if not real - (1 - low) * size - error <= scores["dream"] <= real + (high - 1) * size + error:
            out.append(
                f"{name} scores {scores['dream']:.0f} in the dream and {scores['real']:.0f} in reality"
            )
    return out
