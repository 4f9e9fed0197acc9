"""What every paper's eval.py and visualize.py do, over the Agent protocol alone.

    from common.scripts import eval_main, visualize_main
    run_main(lambda: eval_main(None, "paper1_world_models"))

Arguments are checked before torch is imported.  A paper adds flags with a subclass of EvalArgs or
VisualizeArgs, and what is peculiar to it with `report` and `prepare` (eval) or `extras` (visualize).
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from common.agent import AGENTS, Agent, load_agent
from common.atomic import writable
from common.cli import EvalArgs, VisualizeArgs, parse_eval, parse_visualize
from common.dreams import (
    Episode,
    OpenLoop,
    Window,
    head_accuracy,
    make_window,
    open_loop,
    open_loop_clip,
    open_loop_strip,
)
from common.env_wrapper import EnvSpec, scores, suite_of
from common.errors import UserError
from common.evaluate import Result, evaluate
from common.metrics import way_to_optimum

BASELINES = ("random", "blind", "optimum", "published")
KEPT = "frames policy_steps cpu_s wall_s label group preset".split()  # training's words in eval.json
VIDEO_EPISODES = 3
REAL_STEPS = 1000  # dreams start within so many steps of an episode


def eval_main(
    argv: Sequence[str] | None,
    paper: str,
    *,
    args: type[EvalArgs] = EvalArgs,
    description: str = "",
    report: Callable[[Agent, Result, Any], dict] | None = None,
    prepare: Callable[[Agent, Any], None] | None = None,
) -> Result:
    """Play, print the score beside the baselines, write eval.json and with --render a video.

    report(agent, result, args) -> further entries of eval.json, which are printed too.
    prepare(agent, args): what a paper's own flags change in the agent before it plays.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    options = parse_eval(given, description=description or f"Play episodes with a {paper} agent.", args=args)
    agent = _load(options, paper)
    if missing := untrained(agent):
        raise UserError(f"{options.checkpoint}: {missing} not trained yet; go on with train.py --resume")
    if prepare:
        prepare(agent, options)
    env = other_env(agent.env, options.env)
    folder = writable(options.out or Path(options.checkpoint).resolve().parent, "--out")
    other = "" if env.name == agent.env.name else re.sub(r"[^\w.-]", "_", f"-{env.name}")
    bar = _bar(options.episodes)
    result = evaluate(
        agent,
        env,
        options.episodes,
        options.seed,
        record=VIDEO_EPISODES if options.render else 0,
        progress=bar,
    )
    baselines = scores(env.name, env.options)
    entries = report(agent, result, options) if report else {}
    lines = score_lines(env, result, baselines) + entry_lines(entries)
    print("\n".join(lines))
    path = folder / f"eval{other}.json"
    command = shlex.join(["python", "eval.py", *given])  # whoever calls: experiments.py, make demo
    write_eval(path, result, env, baselines, paper=paper, command=command, **entries)
    print(f"wrote {path}")
    if options.render:
        from common.video import episodes_clip, write_video

        frames = episodes_clip(agent, result.episodes)
        print(f"wrote {write_video(folder / 'eval.mp4', frames, fps=20, notify=print)}")
    return result


def sizes(agent: Agent, result: Result, args: EvalArgs) -> dict:
    """Parameter counts and the size of the weights, for eval.json: the `report` of an agent with parts()."""
    from common.meters import model_size_mb, parameter_counts

    parts = agent.parts()
    return {
        "parameters": {name: parameter_counts(part)["total"] for name, part in parts.items()},
        "model_size_mb": sum(model_size_mb(part) for part in parts.values()),
    }


def other_env(spec: EnvSpec, name: str | None) -> EnvSpec:
    """The agent's env, or another one of its name with the options that still apply."""
    if name is None or name == spec.name:
        return spec
    if suite_of(name) == suite_of(spec.name) and suite_of(name) != "toy":
        return EnvSpec(name, spec.options)
    return EnvSpec(name, {key: spec.options[key] for key in ("obs", "native_actions") if key in spec.options})


def score_lines(env: EnvSpec, result: Result, baselines: dict) -> list[str]:
    """The printed report: the score with its interval, the baselines with their protocols, the way to go."""
    score = result.score()
    episodes, seed = score["episodes"], result.seed
    interval = "" if score["ci95"] is None else "  95 % CI {:.1f} .. {:.1f}".format(*score["ci95"])
    lines = [
        f"{env.name}: {episodes} episodes, seeds {seed}..{seed + episodes - 1}, {result.wall_s:.1f} s",
        f"{'return':<10}{score['mean']:.1f}{interval}  sd {score['sd']:.1f}  IQM {score['iqm']:.1f}"
        f"  min {score['min']:.1f}  max {score['max']:.1f}",
        f"{'length':<10}{score['length']:.1f} policy steps",
    ]
    for name in BASELINES:
        rows = baselines.get(f"{name}_all") or [baselines.get(name)]  # several papers may have published one
        lines += [f"{name:<10}" + (f"{r['value']:.1f}  ({r['protocol']})" if r else "-") for r in rows]
    if (way := _way(score["mean"], baselines)) is not None:
        lines.append(f"{'way':<10}{100 * way:.0f} % from max(random, blind) to the optimum")
    return lines


def entry_lines(entries: dict) -> list[str]:
    """A paper's own entries, as far as they fit on a line: numbers, and {"mean", "sd"}."""
    lines = []
    for name, value in entries.items():
        if isinstance(value, dict) and {"mean", "sd"} <= value.keys():
            lines.append(f"{name:<10} {value['mean']:.1f}  sd {value['sd']:.1f}")
        elif isinstance(value, int | float | str):
            lines.append(f"{name:<10} {value:.3g}" if isinstance(value, float) else f"{name:<10} {value}")
    return lines


def _way(mean: float, baselines: dict) -> float | None:
    values = {name: (baselines.get(name) or {}).get("value") for name in ("random", "blind", "optimum")}
    return way_to_optimum(mean, **values)


def write_eval(path: Path, result: Result, env: EnvSpec, baselines: dict, **entries: Any) -> None:
    """eval.json (DESIGN section 10); what the training wrote into it (frames, cpu_s, label ...) stays."""
    from common.atomic import write_json

    kept = {}
    if path.exists():
        old = read_eval(path)
        kept = {name: old[name] for name in KEPT if name in old}
    data = {
        "score": result.score(),
        **{name: baselines.get(name) for name in BASELINES},
        "way": _way(result.score()["mean"], baselines),
        "env": asdict(env),
        "seed": result.seed,
        "returns": result.returns.tolist(),
        "lengths": result.lengths.tolist(),
        "infos": {
            name: [None if np.isnan(x) else x for x in row.tolist()] for name, row in result.infos.items()
        },
        "eval_cpu_s": round(result.cpu_s, 2),
        "eval_wall_s": round(result.wall_s, 2),
        **kept,
        **entries,
    }
    write_json(path, data)


def read_eval(path: Path) -> dict:
    """What eval.py wrote; UserError where the file is torn."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): remove it and run eval.py again") from None


def untrained(agent: Agent) -> str:
    """What of the agent is not trained yet, with its verb; empty where all is."""
    missing = agent.untrained() if hasattr(agent, "untrained") else ""
    return missing and f"{missing} {'are' if ' ' in missing else 'is'}"


def visualize_main(
    argv: Sequence[str] | None,
    paper: str,
    *,
    args: type[VisualizeArgs] = VisualizeArgs,
    description: str = "",
    extras: Callable[[Agent, Window, Path, Any], Sequence[Path]] | None = None,
) -> OpenLoop:
    """Truth / dream / difference, free dreams, predicted rewards, error by horizon; then the paper's extras.

    extras(agent, window, folder, args) -> files it wrote.
    """
    description = description or f"Draw what a {paper} model dreams."
    options = parse_visualize(argv, description=description, args=args)
    agent = _load(options, paper)
    from PIL import Image

    from common.plots import plot_errors, plot_heads
    from common.video import visualize_imagination, visualize_vae, write_video

    folder = writable(options.out or Path(options.checkpoint).resolve().parent / "videos", "--out")
    if missing := untrained(agent):
        print(f"{missing} not trained yet: what they dream and do means nothing")
    real = evaluate(agent, None, min(options.num_dreams, 5), options.seed, record=5, max_steps=REAL_STEPS)
    window = make_window(real.episodes, options.num_dreams, options.context, options.horizon, options.seed)
    print(
        f"{agent.env.name}: {options.num_dreams} dreams, context {window.context}, horizon {window.horizon}"
    )
    if (window.context, window.horizon) != (options.context, options.horizon):
        print(f"cut to the episodes ({max(map(len, real.episodes))} rows at most)")
    mean = np.mean([episode_mean(episode) for episode in real.episodes], axis=0)
    loop = open_loop(agent, window, mean=mean)
    files = [write_video(folder / "open_loop.mp4", open_loop_clip(loop), fps=10, notify=print)]
    frames = visualize_imagination(agent, window, options.horizon)
    files.append(write_video(folder / "free_dreams.mp4", frames, fps=10, notify=print))
    plot_errors(loop.errors, window.context, title=agent.env.name, path=folder / "rollout_error.png")
    plot_heads(loop.dream, window.rew, ~window.is_terminal, window.mask, path=folder / "heads.png")
    files += [folder / "rollout_error.png", folder / "heads.png"]
    if any(key.startswith("image") for key in window.obs):
        visualize_vae(agent, window, path=folder / "reconstruction.png")
        Image.fromarray(open_loop_strip(loop)).save(folder / "open_loop.png")
        files += [folder / "reconstruction.png", folder / "open_loop.png"]
    files += list(extras(agent, window, folder, options)) if extras else []
    print("\n".join(error_lines(loop)))
    print("\n".join(f"wrote {file}" for file in files))
    return loop


def episode_mean(episode: Episode) -> np.ndarray:
    """Mean observation of an episode, for the `mean` baseline."""
    from common.dreams import target

    return target({key: value[None] for key, value in episode.obs.items()})[0].mean(0)


def error_lines(loop: OpenLoop) -> list[str]:
    """Errors at a few horizons as a small table, then how well the heads predict."""
    horizon = loop.window.horizon
    steps = [h for h in (1, 5, 15, 45) if h < horizon] + [horizon]
    lines = ["mean squared error  " + "".join(f"{f'+{h}':>10}" for h in steps)]
    for name, error in loop.errors.items():
        lines.append(f"{name:<20}" + "".join(f"{error[h - 1]:>10.5f}" for h in steps))
    for name, numbers in head_accuracy(loop).items():
        lines.append(f"{name:<6}" + "  ".join(f"{key} {value:.3f}" for key, value in numbers.items()))
    return lines


def _load(options: EvalArgs | VisualizeArgs, paper: str) -> Agent:
    """The agent on its device, generators seeded; UserError if another paper wrote the checkpoint."""
    from common.device import pick_device
    from common.seeding import seed_everything

    device = pick_device(options.device, options.threads)
    seed_everything(options.seed)
    agent = load_agent(options.checkpoint, str(device))
    if agent.paper != paper:
        folder = agent.paper if agent.paper in AGENTS else "its paper's folder"
        raise UserError(
            f"{options.checkpoint} was written by {agent.paper}, not {paper}: use {folder}'s scripts"
        )
    return agent


def _bar(total: int) -> Callable[[int], None] | None:
    """A progress bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        return None
    from tqdm import tqdm

    bar = tqdm(total=total, unit="episode", leave=False)
    return lambda ended: bar.update(ended - bar.n)
