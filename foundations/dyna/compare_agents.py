"""Does a learned model help Q-learning on CartPole?  DQN, with more updates, Dyna-DQN, the true dynamics.

    python -m foundations.dyna.agent --gate       tune the learners, Dyna's on the true model, on other seeds
    python -m foundations.dyna.agent --compare    the table, with what came out of the gate

A gain is claimed only where the paired 95 % intervals against DQN and against DQN with as many updates both
exclude 0.  Area: mean greedy return over the real steps.  Stable: real steps to the first of three
evaluations in a row of at least 475.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from common.atomic import write_json
from common.scores import bootstrap_ci
from foundations.commands import report
from foundations.dyna import plots
from foundations.dyna.agent import AgentArgs, AgentConfig, check_game, train_dqn, train_dyna_agent

SOLVED, IN_A_ROW = 475.0, 3
GATE_SEED = 1_000  # seeds that no reported run uses
DQN = AgentConfig(polyak=0.005)  # what came out of the gate: `python -m foundations.dyna.agent --gate`
DYNA = AgentConfig(polyak=0.002, lr=5e-4, imagined=32_000)


def run(args: AgentArgs) -> None:
    """One agent beside DQN, the gate, or the comparison."""
    (gate if args.gate else compare if args.compare else one_agent)(args)


def stable_at(steps: np.ndarray, returns: np.ndarray) -> list[int | None]:
    """Real steps to the first of three evaluations in a row that solve the game; None where there is none."""
    solved = returns >= SOLVED  # [S, E]
    runs = np.stack([solved[:, i : solved.shape[1] - IN_A_ROW + 1 + i] for i in range(IN_A_ROW)]).all(0)
    return [int(steps[row.argmax()]) if row.any() else None for row in runs]


def summary(label: str, cfg: AgentConfig, found: dict[str, Any]) -> dict[str, Any]:
    """A row of the table, with everything that later statistics need."""
    area = found["returns"].mean(1)  # [S]
    low, high = bootstrap_ci(area)
    stable = stable_at(found["steps"], found["returns"])
    return {
        "label": label,
        "k": cfg.k,
        "horizon": cfg.horizon,
        "cut": cfg.cut,
        "updates": cfg.updates,
        "true_model": cfg.true_model,
        "area": float(area.mean()),
        "low": low,
        "high": high,
        "areas": area.tolist(),
        "stable": stable,
        "stable_share": float(np.mean([s is not None for s in stable])),
        "kept": found["kept"],
        "steps": found["steps"].tolist(),
        "returns": found["returns"].round(1).tolist(),
        "cpu_s": found["cpu_s"],
    }


def line(row: dict[str, Any]) -> str:
    """The row as text."""
    solved = sorted(s for s in row["stable"] if s is not None)
    when = f"{solved[len(solved) // 2]:,}" if len(solved) * 2 > len(row["stable"]) else "-"  # the median seed
    kept = f"{row['kept']:.0%}" if row["kept"] is not None else ""
    cells = f"{row['label']:<26}{row['area']:>5.0f} [{row['low']:.0f} {row['high']:.0f}]".ljust(44)
    return cells + f"{row['stable_share']:>7.0%}{when:>9}{kept:>7}{row['cpu_s']:>8.0f}"


HEAD = f"{'':<26}{'area [95 %]':<18}{'stable':>7}{'at step':>9}{'kept':>7}{'CPU-s':>8}"


def train(label: str, cfg: AgentConfig, args: AgentArgs, seed: int) -> dict[str, Any]:
    """Train and print one row; OUT/rows/ keeps it, so that a comparison that was stopped goes on."""
    path = args.out / "rows" / (re.sub(r"\W+", "-", label) + ".json")
    asked = {
        "label": label,
        "cfg": {**asdict(cfg), "model_updates": list(cfg.model_updates)},
        "seed": seed,
        "seeds": args.seeds,
    }
    kept = json.loads(path.read_text()) if path.is_file() else {}
    row = kept["row"] if kept.get("asked") == asked else None
    if row is None:
        row = summary(label, cfg, (train_dyna_agent if cfg.k else train_dqn)(cfg, args.seeds, seed))
        write_json(path, {"asked": asked, "row": row})
    print(line(row), flush=True)
    return row


def gate(args: AgentArgs) -> None:
    """Tune both learners on seeds of their own, before any learned model is looked at."""
    print(HEAD)
    with report(args, "gate") as result:
        rows = []
        for polyak in (0.01, 0.005):
            for lr in (1e-3, 5e-4):
                cfg = AgentConfig(steps=args.steps, polyak=polyak, lr=lr)
                rows.append(train(f"DQN {polyak:g} {lr:g}", cfg, args, GATE_SEED))
        for horizon in (5, 50):
            for polyak, lr, imagined in (
                (0.01, 1e-3, 4_000),
                (0.002, 1e-3, 4_000),
                (0.002, 1e-3, 32_000),
                (0.005, 5e-4, 32_000),
                (0.002, 5e-4, 32_000),
            ):
                cfg = AgentConfig(
                    steps=args.steps,
                    k=args.k,
                    horizon=horizon,
                    true_model=True,
                    polyak=polyak,
                    lr=lr,
                    imagined=imagined,
                )
                rows.append(
                    train(f"true h{horizon} {polyak:g} {lr:g} {imagined // 1000}k", cfg, args, GATE_SEED)
                )
        result["rows"] = rows


def compare(args: AgentArgs) -> None:
    """The whole table, dyna.json, plots/dqn_vs_dyna.png and plots/k_horizon_table.png."""
    print(HEAD)
    dqn, dyna = (replace(cfg, steps=args.steps, env=args.env, hidden=args.hidden) for cfg in (DQN, DYNA))
    with report(args, "dqn_vs_dyna") as result:
        rows = [train("DQN", dqn, args, args.seed)]
        for k in (1, 5, 10):
            rows.append(train(f"DQN, {1 + k} updates a step", replace(dyna, updates=1 + k), args, args.seed))
            for horizon in (1, 5, 50):
                cfg = replace(dyna, k=k, horizon=horizon)
                rows.append(train(f"Dyna K {k} h {horizon}", cfg, args, args.seed))
        for horizon in (1, 5, 50):
            cfg = replace(dyna, k=5, horizon=horizon)
            rows.append(train(f"Dyna K 5 h {horizon}, cut", replace(cfg, cut=0.95), args, args.seed))
            rows.append(
                train(f"true dynamics K 5 h {horizon}", replace(cfg, true_model=True), args, args.seed)
            )
        result["rows"], result["paired"] = rows, paired(rows)
    for verdict in result["paired"]:
        print(
            "{label:<26} against DQN {dqn[0]:+.0f} [{dqn[1]:+.0f} {dqn[2]:+.0f}], with as many updates "
            "{equal[0]:+.0f} [{equal[1]:+.0f} {equal[2]:+.0f}]  {verdict}".format(**verdict)
        )
    folder = args.out / "plots"
    shown = [row for row in rows if row["k"] in (0, 5) and not row["cut"] and row["updates"] in (1, 6)]
    print(f"wrote {plots.learning(curves(shown), folder / 'dqn_vs_dyna.png')}")
    learned = [row for row in rows if row["k"] and not row["cut"] and not row["true_model"]]
    print(f"wrote {plots.k_horizon_table(learned, folder / 'k_horizon_table.png')}")


def paired(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Differences in area, seed by seed, with 95 % intervals, and what they allow to say."""
    by_updates = {row["updates"]: np.array(row["areas"]) for row in rows if not row["k"]}
    found = []
    for row in rows:
        if not row["k"]:
            continue
        told = {"label": row["label"]}
        for name, other in {"dqn": by_updates[1], "equal": by_updates[1 + row["k"]]}.items():
            difference = np.array(row["areas"]) - other
            told[name] = [float(difference.mean()), *bootstrap_ci(difference)]
        lows, highs = ([told[name][i] for name in ("dqn", "equal")] for i in (1, 2))
        told["verdict"] = "gain" if min(lows) > 0 else "loss" if max(highs) < 0 else "no gain shown"
        found.append(told)
    return found


def curves(rows: Sequence[dict[str, Any]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{label: (steps [E], returns [S, E])}"""
    return {row["label"]: (np.array(row["steps"]), np.array(row["returns"])) for row in rows}


def one_agent(args: AgentArgs) -> None:
    """One Dyna-DQN beside DQN on the same seeds; agent.json and plots/dqn_vs_dyna.png."""
    base = {"env": args.env, "steps": args.steps, "hidden": args.hidden}
    cfg = replace(DYNA, **base, k=args.k, horizon=args.horizon, cut=args.cut, true_model=args.model == "true")
    check_game(cfg)  # before DQN's minutes, not behind them
    print(HEAD)
    with report(args, "agent") as result:
        rows = [train("DQN", replace(DQN, **base), args, args.seed)]
        if args.k:
            label = (
                f"{'true dynamics' if cfg.true_model else 'Dyna'} K {args.k} h {args.horizon}"
                + ", cut" * bool(args.cut)
            )
            rows.append(train(label, cfg, args, args.seed))
        result["rows"] = rows
    print(f"wrote {plots.learning(curves(rows), args.out / 'plots' / 'dqn_vs_dyna.png', args.env)}")
