"""Scores every toy without learning: random, best blind policy, optimum -> common/envs/toy_scores.json.

The blind policy is chosen on one set of seeds and scored on another, else the best of a hundred noisy means
would flatter itself. Nothing is drawn, so all of it takes about a minute: python -m
benchmarks.toy_baselines
"""

import json
from typing import Any

import numpy as np

from common.envs.toy_policies import Policy, held_random, rollout
from common.envs.toys import SCORES_FILE, ToyCore, make_core, toy_core

CHOOSE, SCORE = 1_000, 4_000  # episodes per policy
CHOOSE_SEED, SCORE_SEED = 100_000, 200_000  # first env seed of each set; training and tests use small seeds

TOYS: list[tuple[str, dict[str, Any]]] = [  # options that change the score; size and gray do not
    ("toy_catch", {"grid": 5, "drops": 16}),
    ("toy_catch", {"grid": 8, "drops": 1}),
    ("toy_catch", {"grid": 4, "drops": 1}),
    ("toy_catch", {"grid": 5, "drops": 1}),
    ("toy_dodge", {"gap": 28.0}),
    ("toy_dodge", {"gap": 24.0}),
    ("toy_point", {"actions": "continuous"}),
    ("toy_point", {"actions": "discrete"}),
    ("toy_simple_world", {"actions": "continuous", "terminal": False, "threat_penalty": 1.0, "grid": 4}),
    ("toy_simple_world", {"actions": "continuous", "terminal": False, "threat_penalty": 100.0, "grid": 4}),
    ("toy_simple_world", {"actions": "discrete", "terminal": False, "threat_penalty": 1.0, "grid": 4}),
    ("toy_simple_world", {"actions": "discrete", "terminal": True, "threat_penalty": 1.0, "grid": 4}),
]
OPTIMUM = {  # how sure we are that it is one
    "toy_catch": "goes under the ball: catches every one",
    "toy_dodge": "PD rule on the true state; 200 is the time limit",
    "toy_point continuous": "full speed to the centre",
    "toy_point discrete": "greedy: the move that ends nearest to the centre (believed optimal, not proved)",
    "toy_simple_world": "shortest way round the threat by breadth-first search, then stay",
}
# A blind plan made for one game can beat every constant and sweep: push into a corner, then go the known way
# to the centre.  Noted beside the blind score, so that nobody takes that score for the limit of blindness.
PLANS = {
    "toy_point continuous": [((-1, -1), 14), ((1, 1), 6), ((2 / 3, 2 / 3), 1), ((0, 0), 64)],
    "toy_point discrete": [(1, 14), (2, 7), (3, 14), (4, 7), (0, 64)],
}


def plan_policy(plan: list) -> Policy:
    """Play the steps of a plan [(action, for how many steps), ...] whatever happens."""
    steps = np.repeat(np.array([action for action, _ in plan]), [times for _, times in plan], axis=0)
    return lambda n, rng: lambda t: np.repeat(steps[t][None], n, axis=0)


def returns(core: ToyCore, policy: Policy | None, episodes: int, seed: int) -> np.ndarray:
    """Returns of one policy (None: the optimal one) on games seed, seed + 1, ...: [episodes]."""
    actor = None if policy is None else policy(episodes, np.random.default_rng(seed))
    return rollout(core, actor, seed=seed)[0]


def score(core: ToyCore, policy: Policy | None, protocol: str) -> dict[str, Any]:
    """Mean over the scoring seeds, as a score entry."""
    ret = returns(core, policy, SCORE, SCORE_SEED)
    return {
        "value": round(float(ret.mean()), 3),
        "sd": round(float(ret.std()), 3),
        "protocol": f"{protocol}; mean return of {SCORE} episodes, seeds {SCORE_SEED} on",
        "source": "benchmarks/toy_baselines.py",
    }


def baselines(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """All scores of one toy under one set of options."""
    core, chooser = (make_core(toy_core(name), n, **options) for n in (SCORE, CHOOSE))
    blind = core.blind_policies()
    means = {key: returns(chooser, policy, CHOOSE, CHOOSE_SEED).mean() for key, policy in blind.items()}
    best = max(means, key=means.get)
    kind = name if name in OPTIMUM else f"{name} {options['actions']}"
    entry = {
        "options": options,
        "random": score(core, held_random(core.action_space, 1, 1), "uniform actions, new at each step"),
        "blind": score(
            core, blind[best], f"{best}: best of {len(blind)} policies on {CHOOSE} other episodes"
        ),
        "optimum": score(core, None, OPTIMUM[kind]),
        "published": None,
    }
    if kind in PLANS:
        value = returns(core, plan_policy(PLANS[kind]), SCORE, SCORE_SEED).mean()
        entry["blind"]["note"] = f"a blind plan (to a corner, then to the centre) gets {value:.1f}"
    return entry


def main() -> None:
    table: dict[str, list] = {}
    for name, options in TOYS:
        entry = baselines(name, options)
        table.setdefault(name, []).append(entry)
        values = " ".join(f"{key} {entry[key]['value']:8.2f}" for key in ("random", "blind", "optimum"))
        note = entry["blind"].get("note", "")
        print(f"{name:17} {values}  blind: {entry['blind']['protocol'].split(':')[0]}  {options} {note}")
    text = "scores of the toys, written by benchmarks/toy_baselines.py; an entry holds where its options hold"
    SCORES_FILE.write_text(json.dumps({"about": text, "toys": table}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
