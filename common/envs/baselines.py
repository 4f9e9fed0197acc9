"""What a score means: random, blind, optimal and published returns of an env, as data (scores.json).

"Blind" is the best policy that never looks at the observation; progress counts from max(random, blind).
Atari's 26 games of the 100k protocol come from common/atari_scores.json, the toys' scores from
toy_scores.json (benchmarks/toy_baselines.py measures them).  To measure another env:
    python -m common.envs.baselines ENV --episodes 30
"""

import argparse
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from common.envs.toys import toy_scores
from common.errors import UserError
from common.scores import atari_game, atari_scores

KINDS = ("random", "blind", "optimum", "published", "human")


@cache
def _tables() -> list[dict]:
    return json.loads(Path(__file__).with_name("scores.json").read_text(encoding="utf-8"))["tables"]


def lookup(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Each of KINDS -> {"value", "protocol", "source", perhaps "sd", "n"} or None; `published_all`: a list.

    `options` must hold the defaults too: a table counts only if every option that it names has its value.
    """
    if name.startswith("toy_"):
        return dict.fromkeys(KINDS) | toy_scores(name, options) | {"published_all": []}
    found: dict[str, list[dict]] = {kind: [] for kind in KINDS}
    for kind, entry in _atari_100k(name) if name.startswith("atari_") else []:
        found[kind].append(entry)
    for table in _tables():
        fits = all(options.get(key, value) == value for key, value in table["options"].items())
        if fits and name in table["values"]:
            entry = {**table["values"][name], "protocol": table["protocol"], "source": table["source"]}
            own = table["options"] and table["kind"] != "published"  # measured under this very protocol
            found[table["kind"]].insert(0 if own else len(found[table["kind"]]), entry)
    first = {kind: entries[0] if entries else None for kind, entries in found.items()}
    return first | {"published_all": found["published"]}


def _atari_100k(name: str) -> list[tuple[str, dict]]:
    """The rows of common/atari_scores.json for one game, if it is one of the 26."""
    data = atari_scores()
    games = {game.lower() for game in data["games"]}
    if name.removeprefix("atari_").replace("_", "") not in games:
        return []
    rows = []
    for column, value in data["games"][atari_game(name)].items():
        if isinstance(value, int | float):  # per-seed lists are for the metrics
            kind = column if column in KINDS else "published"
            source = next((text for key, text in data["sources"].items() if column in key), "")
            protocol = "Atari 100k: 400k frames, no sticky actions" + (
                f", {column}" if kind == "published" else ""
            )
            rows.append((kind, {"value": value, "protocol": protocol, "source": source}))
    return rows


def play(env, actor, episodes: int, seed: int) -> np.ndarray:
    """Returns of `episodes` episodes, seeds seed, seed + 1, ...; actor(t) -> action.  [episodes]"""
    returns = np.zeros(episodes)
    for i in range(episodes):
        env.reset(seed=seed + i)
        t, done = 0, False
        while not done:
            _, rew, terminated, truncated, _ = env.step(actor(t))
            returns[i] += rew
            t, done = t + 1, terminated or truncated
    return returns


def options_of(text: str) -> dict[str, Any]:
    """'{"frame_skip": 4}' -> that dict"""
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError):
        raise UserError(f"--options {text}: must be JSON such as '{{\"frame_skip\": 4}}'") from None


def main() -> None:
    """Print the random score and the best blind ones (chosen on other seeds than they are scored on)."""
    from common.env_wrapper import make_env
    from common.envs.toy_policies import blind_policies, held_random

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("env")
    parser.add_argument("--episodes", type=int, default=30)
    parser.add_argument("--options", type=options_of, default={}, help="as JSON: '{\"frame_skip\": 4}'")
    args = parser.parse_args()
    if args.episodes < 2:
        raise UserError(f"--episodes {args.episodes}: must be at least 2, for a spread")
    env = make_env(args.env, "eval", **args.options)
    rng = np.random.default_rng(0)

    def score(policy, episodes: int, seed: int) -> np.ndarray:
        actor = policy(1, rng)
        return play(env, lambda t: actor(t)[0], episodes, seed)

    policies = blind_policies(env.action_space)
    trial = {name: score(policy, 3, 0).mean() for name, policy in policies.items()}
    best = sorted(trial, key=trial.get)[::-1][:3]
    candidates = {"random": held_random(env.action_space, 1, 1), **{name: policies[name] for name in best}}
    for name, policy in candidates.items():
        returns = score(policy, args.episodes, 50_000)
        print(f"{name:40s} {returns.mean():9.2f} +- {returns.std(ddof=1):.2f}  ({args.episodes} episodes)")


if __name__ == "__main__":
    from common.cli import run_main

    run_main(main)
