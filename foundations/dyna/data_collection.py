"""Real experience for the world model: play, keep the rows, split by episode, standardise.

    python -m foundations.dyna.data_collection --env CartPole-v1 --policy random --episodes 400

writes data/transitions.npz under --out, in the stored-row convention of common/replay_buffer.py: row t
holds obs[t], the rew[t] received on arriving there, is_first, is_last, is_terminal[t], and the act[t]
chosen there.
Letters: N rows, M transitions, D entries of an observation, A of an action (one-hot where it is discrete).
"""

import io
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from gymnasium import spaces

from common.atomic import atomic_write
from common.cli import run_main
from common.errors import UserError
from common.flags import parse
from foundations.commands import Args, check_args, report
from foundations.dyna.games import make_env

Policy = Callable[[np.ndarray, np.random.Generator], np.ndarray | int]  # obs [D], generator -> action
FILE = "data/transitions.npz"
MIX_EPISODES = 20  # of the controller, beside half as many random ones as asked for
CONTROLLER_NOISE = 0.3  # share of random actions


class Transitions(NamedTuple):
    """What a model learns from: s, a, and what came of them."""

    obs: np.ndarray  # [M, D]
    act: np.ndarray  # [M, A] float32: one-hot, or the action as it is
    rew: np.ndarray  # [M]
    next_obs: np.ndarray  # [M, D]
    done: np.ndarray  # [M] 1 where next_obs is terminal; a time limit is none


def random_policy(action_space: spaces.Space) -> Policy:
    """Uniform actions, drawn from the generator that it is given."""
    if isinstance(action_space, spaces.Discrete):
        return lambda obs, rng: int(rng.integers(action_space.n))
    low, high = action_space.low, action_space.high
    return lambda obs, rng: rng.uniform(low, high).astype(np.float32)


def controller(noise: float = CONTROLLER_NOISE) -> Policy:
    """CartPole by hand: push to where the pole will be in half a second; `noise` is left to chance."""

    def act(obs: np.ndarray, rng: np.random.Generator) -> int:
        return int(rng.integers(2)) if rng.random() < noise else int(obs[2] + 0.5 * obs[3] > 0)

    return act


def collect(env: str, policy: Policy, episodes: int, seed: int) -> dict[str, np.ndarray]:
    """Play; episode e begins with `reset(seed=seed * 100_000 + e)`.  Rows: {obs [N, D], act, rew, is_*}."""
    game, rng, rows = make_env(env), np.random.default_rng(seed), []
    nothing = np.zeros_like(game.action_space.sample())
    for episode in range(episodes):
        obs, _ = game.reset(seed=seed * 100_000 + episode)
        rew, terminated, truncated, is_first = 0.0, False, False, True
        while not (terminated or truncated):
            act = policy(obs, rng)
            rows.append((obs, act, rew, is_first, False, False))
            obs, rew, terminated, truncated, _ = game.step(act)
            is_first = False
        rows.append((obs, nothing, rew, False, True, terminated))
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    names = ("obs", "act", "rew", "is_first", "is_last", "is_terminal")
    data = dict(zip(names, columns, strict=True))
    return {**data, "obs": data["obs"].astype(np.float32), "rew": data["rew"].astype(np.float32)}


def join(*parts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rows of several collections, one after the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def collect_named(env: str, name: str, episodes: int, seed: int) -> dict[str, np.ndarray]:
    """`random`, `controller` (CartPole only), or `mix`: half of the episodes random, 20 of the controller."""
    if name != "random" and env != "CartPole-v1":
        raise UserError(f"--policy {name}: there is a controller for CartPole-v1 only; take --policy random")
    if name == "mix":
        parts = (("random", max(1, episodes // 2)), ("controller", MIX_EPISODES))
        return join(*(collect_named(env, part, count, seed) for part, count in parts))
    policy = controller() if name == "controller" else random_policy(make_env(env).action_space)
    return collect(env, policy, episodes, seed)


def episode_ends(rows: dict[str, np.ndarray]) -> np.ndarray:
    """Row number of the last row of each episode.  [E]"""
    return np.flatnonzero(rows["is_last"])


def episode_returns(rows: dict[str, np.ndarray]) -> np.ndarray:
    """Return of each episode.  [E]"""
    return np.add.reduceat(rows["rew"], np.flatnonzero(rows["is_first"]))


def split_by_episode(
    rows: dict[str, np.ndarray], share: float, rng: np.random.Generator
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(training, held-out) rows; whole episodes, since neighbouring transitions would leak into the test."""
    episode = np.cumsum(rows["is_first"]) - 1  # [N]
    count = int(episode[-1]) + 1
    held_out = np.zeros(count, bool)
    held_out[rng.permutation(count)[: max(1, round(share * count))]] = True
    is_test = held_out[episode]
    return tuple({name: column[mask] for name, column in rows.items()} for mask in (~is_test, is_test))


def num_actions(env: str) -> int | None:
    """How many actions there are; None where an action is a vector."""
    return getattr(make_env(env).action_space, "n", None)


def as_features(act: np.ndarray, num_actions: int | None) -> np.ndarray:
    """Actions as the networks see them: one-hot where discrete.  [...] or [..., A] -> float32 [..., A]"""
    return np.eye(num_actions, dtype=np.float32)[act] if num_actions else np.asarray(act, np.float32)


def as_transitions(rows: dict[str, np.ndarray], num_actions: int | None) -> Transitions:
    """The one place where rows are shifted: what act[t] did stands in row t + 1."""
    t = np.flatnonzero(~rows["is_last"])
    act = as_features(rows["act"][t], num_actions)
    done = rows["is_terminal"][t + 1].astype(np.float32)
    return Transitions(rows["obs"][t], act, rows["rew"][t + 1], rows["obs"][t + 1], done)


def pieces(rows: dict[str, np.ndarray], horizon: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Row numbers [K, horizon + 1] of `count` pieces (or as many as there are) that cross no end."""
    last = np.repeat(
        episode_ends(rows), np.diff(np.append(np.flatnonzero(rows["is_first"]), len(rows["rew"])))
    )
    starts = np.flatnonzero(np.arange(len(last)) + horizon <= last)
    if not len(starts):
        raise UserError(f"no episode lasts {horizon} steps: collect longer ones (--policy controller)")
    chosen = rng.choice(starts, min(count, len(starts)), replace=False)
    return chosen[:, None] + np.arange(horizon + 1)


def save(path: Path, rows: dict[str, np.ndarray], **told: str | int) -> None:
    """Write rows and `told` (env, policy, seed) as npz."""
    packed = io.BytesIO()
    np.savez_compressed(packed, **rows, **told)
    with atomic_write(path) as file:
        file.write(packed.getvalue())


def load(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """(rows, {env, policy, seed}); UserError where there is none."""
    try:
        with np.load(path, allow_pickle=False) as file:
            tree = {name: file[name] for name in file.files}
        told = {name: str(tree.pop(name)) for name in ("env", "policy", "seed")}
    except FileNotFoundError:
        raise UserError(f"no {path}: first python -m foundations.dyna.data_collection --out DIR") from None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} holds no transitions ({error}): collect them anew") from None
    return tree, told


@dataclass(frozen=True, kw_only=True)
class CollectArgs(Args):
    """What to play."""

    out: Path = Path("runs/dyna")
    """Folder for data/, checkpoints/ and plots/."""
    env: str = "CartPole-v1"
    """A Gymnasium id with vectors: CartPole-v1, MountainCar-v0, Acrobot-v1, Pendulum-v1, ..."""
    policy: Literal["random", "controller", "mix"] = "random"
    """Who plays: chance, a controller by hand (CartPole, 30 % chance), or half chance and 20 of it."""
    episodes: int = 400
    """Episodes to play."""

    def check(self) -> None:
        """UserError for what cannot be."""
        if self.episodes < 2:
            raise UserError(
                f"--episodes {self.episodes}: must be at least 2, one to train on and one to test"
            )


def main(argv: Sequence[str] | None = None) -> None:
    """Play and keep every step."""
    args = parse(CollectArgs, list(sys.argv[1:] if argv is None else argv), main.__doc__)
    check_args(args)
    with report(args, "data_collection") as result:
        rows = collect_named(args.env, args.policy, args.episodes, args.seed)
        save(args.out / FILE, rows, env=args.env, policy=args.policy, seed=args.seed)
        returns, ends = episode_returns(rows), episode_ends(rows)
        result |= {
            "episodes": len(ends),
            "transitions": int((~rows["is_last"]).sum()),
            "return_mean": float(returns.mean()),
            "return_min": float(returns.min()),
            "return_max": float(returns.max()),
            "terminal_share": float(rows["is_terminal"].sum() / (~rows["is_last"]).sum()),
        }
    print(f"{args.env}, {args.policy}: {result['episodes']} episodes, {result['transitions']:,} transitions")
    print("return {return_mean:.1f} (from {return_min:g} to {return_max:g})".format(**result))
    print(f"{result['terminal_share']:.1%} of the transitions end an episode")
    print(f"wrote {args.out / FILE}")


if __name__ == "__main__":
    run_main(main)
