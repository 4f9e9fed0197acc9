"""The article's comparisons as ready-made experiments, on the data and models of a finished run.

    python experiments.py ablation     --base RUN    C on z, with a hidden layer, or with a random LSTM
    python experiments.py temperature  --base RUN    evolve in dreams at several tau, play in reality
    python experiments.py cheat        --base RUN    a dream that is easy to fool: hard cut-off, one pass
    python experiments.py undertrained --base RUN    a dream of a model that knows too little
    python experiments.py sweep        --base RUN    blind sweeps in the dream and in reality, by half-period
    python experiments.py eyes-closed  --base RUN    z from M's own dream after the first frame: does C look?

Every variant is a run folder of its own beside the base run (it shares the collected frames and whatever
models the variant does not change), so eval.py and visualize.py work on it; 100 held-out episodes each.
The same command again goes on with stopped variants; with other settings it asks to remove their folders.
"""

if not __package__:  # run as a script: the repository root, not this folder, goes on the path
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

import json
import os
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import tyro

from common.atomic import write_json
from common.cli import run_main, save_config
from common.config import from_json, override, to_json
from common.errors import UserError
from common.flags import flag_of, parse
from paper1_world_models.config import Config

PAPER = "paper1_world_models"
FULL = "z + h, trained LSTM"


@dataclass(frozen=True, kw_only=True)
class Args:
    """Which experiment, on which run."""

    name: tyro.conf.Positional[
        Literal["ablation", "temperature", "cheat", "undertrained", "sweep", "eyes-closed"]
    ]
    """The experiment."""
    base: Path
    """Run folder whose data, V and M are used."""
    episodes: int = 100
    """Held-out episodes per variant."""
    seed: int = 0
    """Seed of the first held-out episode."""
    taus: tuple[float, ...] = (0.1, 0.5, 1.0, 1.15, 1.3)
    """Temperatures of the sweep."""
    generations: int = 0
    """Generations per variant; 0: as many as the base run."""
    rnn_updates: int = 0
    """undertrained: gradient steps of M; 0: a third of the base run's."""


def variants(args: Args, cfg: Config) -> dict[str, tuple[dict, tuple[str, ...]]]:
    """Label -> (overrides, stages of the base run that are kept)."""
    frozen, one_pass = ("vae-00", "rnn-00"), {"iterations": 1, "first_generations": 0}
    if args.generations:
        one_pass["generations"] = args.generations
    dream = {**one_pass, "train_in": "dream", "gates": "warn"}
    real = {**one_pass, "train_in": "real"}
    if args.name == "ablation":
        real["evolve.basis"] = "plain"
        seeing = {**real, "controller.inputs": "z"}
        full = {**real, "controller.inputs": "zh" if cfg.controller.inputs == "z" else cfg.controller.inputs}
        rows = {
            "z only": (seeing, frozen),
            "z + hidden layer": ({**seeing, "controller.hidden": 40}, frozen),
            "untrained LSTM": ({**full, "rnn.train": False}, ("vae-00",)),
        }
        if override(cfg, {**full, "rnn.train": True}) != cfg:
            rows[FULL] = (full, frozen)
        return rows  # else the base run itself is {z + h, trained LSTM}
    if args.name == "temperature":
        return {f"tau {tau:g}": ({**dream, "dream.temperature": tau}, frozen) for tau in args.taus}
    if args.name == "cheat":
        return {
            "cheating: hard cut-off": ({**dream, "dream.done": "cutoff"}, frozen),
            "one pass, drawn ends": ({**dream, "dream.done": "bernoulli"}, frozen),
        }
    updates = args.rnn_updates or cfg.rnn.updates // 3
    return {"under-trained model": ({**dream, "rnn.updates": updates}, ("vae-00",))}


def load_base(folder: Path) -> tuple[Config, str]:
    """The base run's config and preset; UserError where it is no finished run of this paper."""
    try:
        stored = json.loads((folder / "config.json").read_text())
        assert stored["paper"] == PAPER
    except (OSError, ValueError, KeyError, AssertionError) as error:
        raise UserError(
            f"--base {folder}: not a run folder of {PAPER}; train one with train.py first"
        ) from error
    if not (folder / "state" / "rnn-00").is_dir():
        raise UserError(f"--base {folder}: M is not trained yet; finish it with train.py --resume {folder}")
    return from_json(Config, stored["config"], str(folder / "config.json")), stored["preset"]


def settings(config: dict) -> dict:
    """A stored config without what the result does not depend on."""
    return {name: v for name, v in config.items() if name not in ("logdir", "num_envs", "threads", "device")}


def check_folder(base: Path, folder: Path, cfg: Config, keep: tuple[str, ...]) -> None:
    """Refuse what a call with other settings, or on an earlier state of the base run, left behind."""
    config = folder / "config.json"
    if config.exists() and settings(json.loads(config.read_text())["config"]) != settings(to_json(cfg)):
        raise UserError(f"{folder} was made with other settings: remove that folder, or repeat its settings")
    for stage in keep:
        copied, ours = folder / "state" / stage / "manifest.json", base / "state" / stage / "manifest.json"
        if copied.exists() and copied.read_bytes() != ours.read_bytes():
            raise UserError(f"{folder} was made before {base} was trained further: remove that folder")


def derive_run(base: Path, folder: Path, cfg: Config, preset: str, keep: tuple[str, ...]) -> None:
    """A run folder that starts behind the kept stages; frames and latents are linked, not copied."""
    check_folder(base, folder, cfg, keep)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("data", "latents"):
        if not (folder / name).exists():
            os.symlink((base / name).resolve(), folder / name)
    for stage in keep:
        target, part = folder / "state" / stage, folder / f"{stage}.part"
        if not target.exists():
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(base / "state" / stage, part)
            target.parent.mkdir(exist_ok=True)
            part.rename(target)  # all of it or nothing
    save_config(folder, cfg, paper=PAPER, preset=preset)


def variant_of(args: Args, label: str, overrides: dict) -> tuple[Config, str, Path]:
    """Config, preset and folder of a variant."""
    base, preset = load_base(args.base)
    name = "".join(c if c.isalnum() or c == "." else "_" for c in label)
    folder = args.base.parent / f"{args.base.name}-{args.name}" / name
    return replace(override(base, overrides), logdir=str(folder)), preset, folder


def run_variant(args: Args, label: str, overrides: dict, keep: tuple[str, ...]) -> dict:
    """Train (or go on with) one variant, then play it; its eval.json is the row."""
    from common.device import pick_device
    from paper1_world_models.eval import main as play
    from paper1_world_models.train import train

    cfg, preset, folder = variant_of(args, label, overrides)
    derive_run(args.base, folder, cfg, preset, keep)
    if not train(cfg, folder, pick_device(cfg.device, cfg.threads), "all"):
        print(f"{args.name} was stopped in '{label}': the same command goes on where it was", flush=True)
        raise SystemExit(130)
    group = f"{cfg.env} temperature" if args.name == "temperature" else cfg.env
    write_json(folder / "eval.json", {"label": label, "group": group})
    play(["--checkpoint", str(folder), "--episodes", str(args.episodes), "--seed", str(args.seed)])
    result = json.loads((folder / "eval.json").read_text())
    return {"label": label, "real": result["score"]} | (
        {"dream": result["dream"]} if "dream" in result else {}
    )


def eyes_closed(args: Args) -> list[dict]:
    """The base run's controller in reality, sighted, and with z dreamed by M after the first frame."""
    import numpy as np
    import torch

    from paper1_world_models.agent import WorldModelsAgent
    from paper1_world_models.rnn import sample_next
    from paper1_world_models.rollout import Episode, Noise, Player, make_games, play

    class EyesClosed(Player):
        """V sees the first frame; afterwards z comes from M's own prediction."""

        @torch.inference_mode()
        def act(self, rows, frames, params, eps, first):
            at = torch.as_tensor(rows)
            seen, _ = self.vae.encode(torch.from_numpy(frames))
            guess = sample_next(self.rnn.predict(self.h[at]), agent.cfg.dream.temperature, generator)
            z = torch.where(torch.from_numpy(first)[:, None], seen, guess)
            h, c = self.h[at], self.c[at]
            act = self.controller.act_many(params, self.controller.feature(z, h, c))
            self.h[at], self.c[at] = self.rnn.step(z, act, torch.from_numpy(first), (h, c))
            return self.controller.codec.to_env(act.numpy()), act.numpy(), z

    agent, rows = WorldModelsAgent.load(args.base), []
    cfg = agent.cfg
    games = make_games(agent.env, min(cfg.evolve.slots, args.episodes), 1, (cfg.vae.size,) * 2 + (3,))
    for label, kind in (("eyes open", Player), ("eyes closed", EyesClosed)):
        generator = torch.Generator().manual_seed(args.seed)
        player = kind(agent.vae, agent.rnn, agent.controller, games.slots)
        episodes = [Episode(0, i, args.seed + i) for i in range(args.episodes)]
        noise = Noise.draw(args.seed, args.episodes, 1024, cfg.vae.latents, cfg.controller.z)
        real = play(games, player, agent.params[None], episodes, noise)
        rows.append({"label": label, "real": {"mean": float(real.mean()), "sd": float(np.std(real, ddof=1))}})
    games.close()
    return rows


def sweep_curve(args: Args) -> list[dict]:
    """Blind sweeps, wall to wall: score in the dream and in reality by half-period in frames.  A test of M
    off its data, and a reminder of what can be had without looking."""
    import numpy as np
    import torch

    from paper1_world_models.agent import WorldModelsAgent
    from paper1_world_models.dream import Dreams, dream_returns
    from paper1_world_models.gates import Table
    from paper1_world_models.rollout import Episode, Noise, make_games, play

    agent = WorldModelsAgent.load(args.base)
    cfg, repeat = agent.cfg, agent.env.frames_per_step
    if agent.codec.kind != "thirds":
        raise UserError(
            f"a sweep needs left, stay and right; {agent.env.name} has actions {agent.codec.kind}"
        )
    games = make_games(agent.env, min(cfg.evolve.slots, args.episodes), 1, (cfg.vae.size,) * 2 + (3,))
    rows = []
    for half in (2, 3, 5, 10, 15, 20, 25, 30, 40, 50, 75):  # in policy steps
        t = np.arange(cfg.dream.max_steps)
        line = np.where(t // half % 2 == 0, 1.0, -1.0).astype(np.float32)
        table = np.broadcast_to(line[None, :, None], (args.episodes, len(t), 1))
        episodes = [Episode(i, 0, args.seed + i) for i in range(args.episodes)]
        vectors = np.arange(args.episodes, dtype=np.float32)[:, None]
        real = play(games, Table(table, agent.codec, games.slots), vectors, episodes, Noise(None))
        generator = torch.Generator().manual_seed(args.seed)
        world = Dreams(agent.rnn, agent.starts, cfg.dream, generator)
        starts = agent.starts.pick(200, generator)
        dreamt = dream_returns(
            world, lambda r, d, step, v=line: torch.full((len(r), 1), float(v[step])), starts
        )
        rows.append(
            {
                "label": f"half-period {half * repeat}",
                "half_period": half * repeat,
                "real": {"mean": float(real.mean()), "sd": float(real.std())},
                "dream": {"mean": float(dreamt.mean()), "sd": float(dreamt.std())},
            }
        )
    games.close()
    return rows


def draw(rows: list[dict], x: str, path: Path) -> None:
    """Dream and reality side by side."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 3.5))
    at = [row.get("half_period", i) for i, row in enumerate(rows)]
    for world in ("real", "dream"):
        if all(world in row for row in rows):
            axis.errorbar(
                at,
                [r[world]["mean"] for r in rows],
                [r[world]["sd"] for r in rows],
                marker="o",
                capsize=3,
                label=world,
            )
    if "half_period" not in rows[0]:
        axis.set_xticks(at, [row["label"] for row in rows], rotation=20)
    axis.set_xlabel(x)
    axis.set_ylabel("score (mean, sd)")
    axis.legend()
    figure.savefig(path, dpi=90, bbox_inches="tight")
    plt.close(figure)


def base_row(base: Path) -> list[dict]:
    """The base run's own score as the ablation's last row, where eval.py has played it."""
    try:
        return [{"label": FULL, "real": json.loads((base / "eval.json").read_text())["score"]}]
    except (OSError, ValueError, KeyError):
        print(f"no row '{FULL}': first python eval.py --checkpoint {base} --held-out")
        return []


def check_args(args: Args) -> None:
    """Refuse impossible values before anything is trained."""
    least = {"episodes": 1, "seed": 0, "generations": 0, "rnn_updates": 0}
    for name, value in least.items():
        if getattr(args, name) < value:
            raise UserError(f"--{flag_of(name)} {getattr(args, name)}: must be at least {value}")
    if not args.taus or min(args.taus) <= 0:
        raise UserError(f"--taus {' '.join(map(str, args.taus))}: must be above 0, such as 0.5 1.15")


def main(argv: list[str] | None = None) -> None:
    """Run the experiment, print its table, write experiment-NAME.json and .png into the base run."""
    args = parse(Args, sys.argv[1:] if argv is None else argv, __doc__.split("\n")[0])
    check_args(args)
    cfg, _ = load_base(args.base)
    if args.name in ("sweep", "eyes-closed"):
        rows = sweep_curve(args) if args.name == "sweep" else eyes_closed(args)
    else:
        planned = variants(args, cfg)
        for label, (overrides, keep) in planned.items():  # all of them before the first is trained
            variant, _, folder = variant_of(args, label, overrides)
            check_folder(args.base, folder, variant, keep)
        rows = [run_variant(args, label, *what) for label, what in planned.items()]
        if args.name == "ablation" and FULL not in planned:
            rows += base_row(args.base)
    for row in rows:
        dream = f"   dream {row['dream']['mean']:7.1f} +- {row['dream']['sd']:6.1f}" if "dream" in row else ""
        print(f"{row['label']:<22} real {row['real']['mean']:7.1f} +- {row['real']['sd']:6.1f}{dream}")
    path = args.base / f"experiment-{args.name}.json"
    path.write_text(
        json.dumps({"experiment": args.name, "seed": cfg.seed, "env": cfg.env, "rows": rows}, indent=1)
    )
    draw(
        rows,
        "half-period of the sweep, frames" if args.name == "sweep" else "variant",
        path.with_suffix(".png"),
    )
    print(f"wrote {path} and {path.with_suffix('.png').name}")


if __name__ == "__main__":
    run_main(main)
