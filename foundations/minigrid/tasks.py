"""What the commands without a neural network do: show, mdp, pomdp, limits.

Each prints a table and leaves its numbers in NAME.json beside its pictures.
"""

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np

from foundations.commands import report
from foundations.minigrid import clips, visualize
from foundations.minigrid.args import LimitsArgs, MdpArgs, PomdpArgs, ShowArgs
from foundations.minigrid.envs import World, make_env
from foundations.minigrid.experience import Score, evaluate_agent
from foundations.minigrid.limits import sweep
from foundations.minigrid.mdp import TabularMDP, extract_mdp, with_slip
from foundations.minigrid.pomdp import (
    KINDS,
    Filter,
    agents,
    observation_model,
    play,
    qmdp_action,
    view_of_states,
)
from foundations.minigrid.solvers import (
    Outcome,
    evaluate_policy,
    greedy_policy,
    path_length,
    policy_iteration,
    q_learning,
    value_iteration,
)


def print_table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Columns as wide as they need to be; numbers to the right."""
    cells = [list(head), *[[shown(value) for value in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    texts = [isinstance(value, str) for value in rows[0]] if rows else [True] * len(head)
    for n, row in enumerate(cells):
        parts = (c.ljust(w) if text else c.rjust(w) for c, w, text in zip(row, widths, texts, strict=True))
        print("  ".join(parts).rstrip())
        if n == 0:
            print("  ".join("-" * width for width in widths))


def shown(value: Any) -> str:
    """A number as a table shows it."""
    if isinstance(value, float):
        return "-" if np.isnan(value) else f"{value:.1e}" if 0 < abs(value) < 0.001 else f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def plain(score: Outcome | Score) -> dict[str, float | None]:
    """Numbers for a JSON file, which knows no nan."""
    return {name: None if np.isnan(value) else value for name, value in score._asdict().items()}


def distances(mdp: TabularMDP) -> np.ndarray:
    """Steps to the goal from every state, without chance.  -> [S]"""
    return path_length(value_iteration(mdp).values, 0.99)


def show(args: ShowArgs) -> None:
    """Picture, text map, actions, and the random agent."""
    world = make_env(args.env, args.layout, view=args.view)
    with report(args, "show") as result:
        visualize.show_env(world.grid, args.view, args.out / "env.png")
        print(world.grid.pprint_grid())
        mdp = extract_mdp(world.grid, world.actions)
        rng = np.random.default_rng(args.seed)
        distance = dict(zip(mdp.states, distances(mdp), strict=True))
        act = lambda obs: int(rng.integers(len(world.actions)))  # noqa: E731
        score = evaluate_agent(world, act, distance, episodes=args.episodes, seed=args.seed)
        names = [world.grid.actions(action).name for action in world.actions]
        result |= {"actions": names, "states": mdp.num_states, "shortest": round(distance[mdp.states[0]]),
                   "random": plain(score), "max_steps": world.grid.max_steps}  # fmt: skip
    print(f"\nactions: {', '.join(names)}; an episode ends after {world.grid.max_steps} steps")
    print_table(
        ["states", "shortest path", "random agent: success", "mean steps"],
        [[mdp.num_states, result["shortest"], score.success, score.steps]],
    )


def mdp(args: MdpArgs) -> None:
    """The table, both planners, and Q-learning from the layout's own start and from anywhere."""
    world = make_env(args.env, args.layout, drop=args.drop, view=3)
    with report(args, "mdp") as result:
        table = with_slip(extract_mdp(world.grid, world.actions), args.slip)
        vi, pi = value_iteration(table, args.gamma), policy_iteration(table, args.gamma)
        rng = np.random.default_rng(args.seed)
        played = {"starts": np.array([0]), "max_steps": args.max_steps}
        q, steps = q_learning(table, rng, episodes=args.episodes, gamma=args.gamma, **played)
        uniform = np.full((table.num_states, table.num_actions), 1 / table.num_actions)
        policies = {"value iteration": greedy_policy(vi.q), "Q-learning": greedy_policy(q), "random": uniform}
        scores = {name: evaluate_policy(table, policy, rng, **played) for name, policy in policies.items()}
        title = f"{args.env}: V* (discount {args.gamma:g}, slip {args.slip:g})"
        visualize.plot_values(table, vi.values, world.grid, args.out / "values.png", title)
        best = scores["value iteration"].steps
        visualize.plot_learning({"Q-learning": steps}, best, args.out / "q_learning.png")
        result |= {
            "states": table.num_states,
            "terminal_pairs": int(table.terminal.sum()),
            "value_of_start": float(vi.values[0]),
            "mean_value": float(vi.values.mean()),
            "sweeps": vi.rounds,
            "rounds": pi.rounds,
            "largest_difference": float(np.abs(vi.values - pi.values).max()),
            "q_learning_first_100": float((steps[:100] > 0).mean()),
            "q_learning_last_100": float((steps[-100:] > 0).mean()),
            "scores": {name: plain(score) for name, score in scores.items()},
        }
    print_table(
        ["states", "V*(start)", "mean V*", "sweeps (VI)", "rounds (PI)", "largest |VI - PI|"],
        [[table.num_states, vi.values[0], vi.values.mean(), vi.rounds, pi.rounds,
          f"{result['largest_difference']:.1e}"]],
    )  # fmt: skip
    print()
    print_table(["agent", "success", "mean steps"], [[n, s.success, s.steps] for n, s in scores.items()])


def pomdp(args: PomdpArgs) -> None:
    """Every view, sensor error and slip; a belief in pictures."""
    worlds = {view: make_env(args.env, args.layout, view=view) for view in args.views}
    with report(args, "pomdp") as result:
        table = extract_mdp(worlds[args.views[0]].grid, worlds[args.views[0]].actions)
        rows = []
        for view, error, slip in product(args.views, args.errors, args.slips):
            view_of, views = view_of_states(worlds[view].grid, table, view)
            slippery, rng = with_slip(table, slip), np.random.default_rng(args.seed)
            observation = observation_model(view_of, error)
            q = value_iteration(slippery, args.gamma).q
            row = {"view": view, "error": error, "slip": slip, "states": table.num_states,
                   "views": len(views), "largest_class": int(np.bincount(view_of).max())}  # fmt: skip
            for kind, act in agents(slippery, q, observation, rng).items():
                keeps = kind in ("QMDP", "most likely state")
                row[kind] = play(slippery, act, observation, rng, episodes=args.episodes, filtered=keeps)
            rows.append(row)
        result["rows"] = [{k: plain(v) if k in KINDS else v for k, v in row.items()} for row in rows]
        draw_belief(args, worlds[min(args.views)], table)
    print(f"success (mean steps of the successful ones), {args.episodes} episodes each")
    print_table(
        ["view", "views of states", "error", "slip", *KINDS],
        [
            [
                f"{r['view']} x {r['view']}",
                f"{r['views']} of {r['states']}",
                f"{r['error']:g}",
                f"{r['slip']:g}",
            ]
            + [f"{r[kind].success:.3f} ({shown(r[kind].steps)[:4]})" for kind in KINDS]
            for r in rows
        ],
    )


def draw_belief(args: PomdpArgs, world: World, table: TabularMDP, max_steps: int = 60) -> None:
    """belief.gif: QMDP and the smallest view, from the farthest of the states that look most alike."""
    view_of, views = view_of_states(world.grid, table, min(args.views))
    slippery, rng = with_slip(table, max(args.slips)), np.random.default_rng(args.seed)
    observation = observation_model(view_of, min(args.errors))
    q = value_iteration(slippery, args.gamma).q
    seen = observation.cumsum(1)
    alike = np.flatnonzero(view_of == np.bincount(view_of).argmax())
    state = int(alike[q[alike].max(1).argmin()])  # the one with the longest way to go
    belief_filter = Filter(slippery.transition(), observation)
    view = int((rng.random() > seen[state]).sum())
    trace = [(state, views[view], belief_filter.reset(view))]
    for _ in range(max_steps):
        action, _ = qmdp_action(belief_filter.belief, q)
        state, _, terminal = slippery.step(state, action, rng)
        if terminal:
            break
        view = int((rng.random() > seen[state]).sum())
        trace.append((state, views[view], belief_filter.update(action, view)))
    clips.belief_clip(world.grid, table, trace, args.out / "belief.gif")


def limits(args: LimitsArgs) -> None:
    """The same task on growing grids."""
    with report(args, "limits") as result:
        rows = result["rows"] = list(sweep(args.sizes, args.drop_up_to, dense_states=args.dense_states))
        visualize.plot_limits(rows, args.out / "limits.png")
    empty = {row["n"]: row["states"] for row in rows if row["world"] == "Empty"}
    columns = {
        "world": lambda r: r["world"],
        "n": lambda r: r["n"],
        "states": lambda r: r["states"],
        "x Empty": lambda r: f"{r['states'] / empty[r['n']]:.1f}",
        "dense table": lambda r: in_bytes(r["dense_bytes"]),
        "sweeps": lambda r: r["sweeps"],
        "build s": lambda r: r["build_s"],
        "VI s": lambda r: r["solve_s"],
        "dense VI s": lambda r: r.get("dense_s", float("nan")),
        "by playing s": lambda r: r.get("play_s", float("nan")),
    }
    print_table([*columns], [[value(row) for value in columns.values()] for row in rows])


def in_bytes(count: float) -> str:
    """1536 -> 1.5 kB, in steps of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
