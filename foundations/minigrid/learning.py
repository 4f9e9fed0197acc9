"""What the commands with a neural network do: collect, train-model, dream, dyna-q.

With --seeds N both training commands repeat everything, experience included, and print a row for each seed.
"""

from typing import Any, NamedTuple

import numpy as np
import torch

from common.errors import UserError
from foundations.commands import report
from foundations.minigrid import clips
from foundations.minigrid.args import CollectArgs, DreamArgs, DynaArgs, TrainArgs
from foundations.minigrid.checkpoint import load_model, save_model
from foundations.minigrid.dyna_q import CodeAgent, learned_mdp, visited_codes
from foundations.minigrid.dyna_q import dyna_q as imagine_and_learn
from foundations.minigrid.envs import World, load_state, make_env
from foundations.minigrid.experience import (
    Rows,
    Transitions,
    as_transitions,
    collect,
    evaluate_agent,
    load_rows,
    save_rows,
)
from foundations.minigrid.mdp import extract_mdp
from foundations.minigrid.model_pictures import draw_model, draw_plan
from foundations.minigrid.solvers import value_iteration
from foundations.minigrid.tasks import distances, plain, print_table
from foundations.minigrid.train_model import Log, evaluate_model, preset_of, train
from foundations.minigrid.world_model import CategoricalWorldModel, ModelConfig, parse_latent

TEST_STEPS, TEST_SEED = 2_000, 500_000  # experience that no model is trained on


class Learned(NamedTuple):
    """One seed's model and what it was made of."""

    world: World
    data: Transitions
    model: CategoricalWorldModel
    log: Log
    told: dict[str, Any]  # numbers for the table


def world_of(args: CollectArgs) -> World:
    """The world as the flags have it.  A small view makes its steps cheap; the model sees the whole grid."""
    starts = {"preset": preset_of(args.env).random_start, "random": True, "layout": False}
    return make_env(args.env, args.layout, random_start=starts[args.start], view=3)


def collect_experience(args: CollectArgs) -> None:
    """experience.npz in stored rows."""
    world = world_of(args)
    with report(args, "collect") as result:
        rows = collect(world, args.steps or preset_of(args.env).steps, args.seed)
        save_rows(args.out / "experience.npz", rows, args.env, args.seed)
        seen = len(np.unique(rows.obs, axis=0))
        result |= {
            "steps": rows.steps,
            "episodes": int(rows.is_first.sum()),
            "goals": rows.goals,
            "observations": seen,
        }
    print_table(["steps", "episodes", "goals", "distinct observations"],
                [[result[key] for key in ("steps", "episodes", "goals", "observations")]])  # fmt: skip


def experience_of(args: TrainArgs, world: World, seed: int) -> Rows:
    """From --data, or collected now.  UserError for that of another world."""
    if args.data is None:
        return collect(world, args.steps or preset_of(args.env).steps, seed)
    rows, env = load_rows(args.data)
    if rows.obs.shape[1:] != world.observation_space.shape or rows.act.max() >= len(world.actions):
        raise UserError(f"--data {args.data} is of {env}: give --env {env}, or collect in {args.env}")
    return rows


def learn(args: TrainArgs, seed: int) -> Learned:
    """Experience and model of one seed."""
    preset, world = preset_of(args.env), world_of(args)
    groups, classes = parse_latent(args.latent or preset.latent)
    rows = experience_of(args, world, seed)
    data = as_transitions(rows)
    if not len(data.act):
        raise UserError(f"--steps {args.steps}: no experience to learn from; use 1000 or more")
    updates = (args.updates // 2, args.updates - args.updates // 2) if args.updates else preset.updates
    cfg = ModelConfig(groups, classes, normalise=args.normalise)
    model, log = train(world, data, updates, cfg, seed)
    test = as_transitions(collect(world, TEST_STEPS, TEST_SEED + seed))
    told = {"seed": seed, "steps": rows.steps, "goals": rows.goals, **evaluate_model(model, data, test)}
    return Learned(world, data, model, log, told)


def threads(count: int) -> None:
    """Tell torch."""
    if count:
        torch.set_num_threads(count)


HEAD = {
    "seed": "seed",
    "goals": "goals seen",
    "observations": "observations",
    "codes": "codes",
    "exact_frame": "exact frame",
    "next_code": "next code",
    "exact_next_frame": "exact next frame",
}


def train_model(args: TrainArgs) -> None:
    """Models of --seeds seeds; the first is kept and drawn."""
    threads(args.threads)
    with report(args, "train-model") as result:
        rows = result["rows"] = []
        for seed in range(args.seed, args.seed + args.seeds):
            learned = learn(args, seed)
            final = {**learned.log.view, **learned.log.step}
            losses = {name: float(values[-50:].mean()) for name, values in final.items()}
            rows.append({**learned.told, "losses": losses})
            if seed == args.seed:
                save_model(args.out / "world_model.pt", learned.model, args.env, learned.world, seed)
                draw_model(learned.world, learned.data, learned.model, args.out, seed)
    print_table([*HEAD.values()], [[row[key] for key in HEAD] for row in rows])


def dream(args: DreamArgs) -> None:
    """Random actions in the world and in the dream: how long do whole frames stay right?"""
    threads(args.threads)
    model, world = load_model(args.checkpoint or args.out / "world_model.pt")
    with report(args, "dream") as result:
        obs, acts, length = play_random(world, args.dreams, args.horizon, args.seed)
        codes, rews, ends = model.imagine(model.code(torch.from_numpy(obs[:, 0])), torch.from_numpy(acts))
        frames = model.frames(codes).numpy()  # [dreams, H + 1, N]
        right = (frames == obs).all(-1)  # [dreams, H + 1]
        there = np.arange(args.horizon + 1) < length[:, None]
        marks = sorted({h for h in (0, 1, 5, 10, 20, args.horizon) if h <= args.horizon})
        rate = {h: float(right[there[:, h], h].mean()) if there[:, h].any() else float("nan") for h in marks}
        result |= {"exact_frame": {str(h): r for h, r in rate.items()},
                   "starts_left": {str(h): int(there[:, h].sum()) for h in marks}}  # fmt: skip
        names, n = [world.grid.actions(a).name for a in world.actions], int(length[0])
        lines = ["start"] + [
            f"step {t + 1}: {names[acts[0, t]]}, imagined reward {rews[0, t]:z.2f}, end {ends[0, t]:.2f}"
            for t in range(n - 1)
        ]
        clips.dream_clip(world.shape, obs[0, :n], frames[0, :n], lines, args.out / "dream.gif")
    print_table(["after steps", "dreams left", "exact frame"],
                [[str(h), int(there[:, h].sum()), rate[h]] for h in marks])  # fmt: skip


def play_random(
    world: World, episodes: int, horizon: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random play.  -> obs uint8 [E, H + 1, N], act [E, H], rows before the end [E], the goal not counted"""
    rng = np.random.default_rng(seed)
    acts = rng.integers(len(world.actions), size=(episodes, horizon))
    obs = np.zeros((episodes, horizon + 1, *world.observation_space.shape), np.uint8)
    length = np.zeros(episodes, np.int64)
    for e in range(episodes):
        obs[e, 0], _ = world.reset(seed=seed if e == 0 else None)
        for t in range(horizon):
            length[e] = t + 1
            obs[e, t + 1], _, terminated, truncated, _ = world.step(acts[e, t])
            if terminated or truncated:
                break
        else:
            length[e] = horizon + 1
    return obs, acts, length


def dyna_q(args: DynaArgs) -> None:
    """Model, imagined rollouts and the real world for every seed; value iteration in the same table too."""
    threads(args.threads)
    with report(args, "dyna-q") as result:
        rows = result["rows"] = []
        for seed in range(args.seed, args.seed + args.seeds):
            learned = learn(args, seed)
            rows.append(plan(args, learned, seed, draw=seed == args.seed))
            result["summary"] = summary(rows)
    columns = {
        "seed": lambda r: r["seed"],
        "goals seen": lambda r: r["goals"],
        "observations": lambda r: r["observations"],
        "codes": lambda r: r["codes"],
        "exact next frame": lambda r: r["exact_next_frame"],
        "states, goal pairs": lambda r: f"{r['states']}, {r['goal_pairs']}",
        "snapped": lambda r: r["snapped"],
        "Dyna-Q": lambda r: r["dyna_q"]["success"],
        "path / optimum": lambda r: r["dyna_q"]["ratio"] or float("nan"),
        "VI in model": lambda r: r["vi_in_model"]["success"],
        "random": lambda r: r["random"]["success"],
    }
    print_table([*columns], [[value(row) for value in columns.values()] for row in rows])


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds, and the longest detour."""
    agents = ("dyna_q", "vi_in_model", "random")
    means = {agent: float(np.mean([row[agent]["success"] for row in rows])) for agent in agents}
    ratios = [row["dyna_q"]["ratio"] for row in rows]
    return {"seeds": len(rows), "mean_success": means, "worst_ratio": None if None in ratios else max(ratios)}


def plan(args: DynaArgs, learned: Learned, seed: int, draw: bool) -> dict[str, Any]:
    """Learn in imagination, play in the world.  -> the seed's row"""
    world, model = learned.world, learned.model
    codes = visited_codes(model, learned.data)
    table, snapped = learned_mdp(model, codes)
    rng = np.random.default_rng(seed)
    found = imagine_and_learn(table, rng, transitions=args.transitions, gamma=args.gamma, snapshots=16)
    exact = value_iteration(table, args.gamma, tol=1e-6)
    load_state(world.grid, world.start)
    true = extract_mdp(world.grid, world.actions)
    distance = dict(zip(true.states, distances(true), strict=True))
    agents = {
        "dyna_q": CodeAgent(model, codes, found.q),
        "vi_in_model": CodeAgent(model, codes, exact.q),
        "random": lambda obs: int(rng.integers(len(world.actions))),
    }
    played = {
        name: evaluate_agent(world, act, distance, episodes=args.episodes) for name, act in agents.items()
    }
    if draw:
        draw_plan(world, model, codes, found, agents["dyna_q"], args.out / "dyna_q.gif")
    return {
        **learned.told,
        "states": table.num_states,
        "true_states": true.num_states,
        "goal_pairs": int(table.terminal.sum()),
        "snapped": snapped,
        **{name: plain(score) for name, score in played.items()},
    }
