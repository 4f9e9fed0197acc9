"""Variants of a finished run (experiments.py): other settings, the same frames and where it can be models.

A variant is a run folder of its own: frames and latents are linked, the states of the stages that it keeps
are copied, and train.py goes on from there.
"""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

from common.atomic import write_json
from common.cli import save_config
from common.config import from_json, override, to_json
from common.errors import UserError
from paper1_world_models.config import Config

PAPER = "paper1_world_models"
FULL = "z + h, trained LSTM"
Variants = dict[str, tuple[dict, tuple[str, ...]]]  # label -> overrides, stages of the base run that are kept


def variants(args, cfg: Config) -> Variants:
    """What an experiment (experiments.Args) trains, on a run with the settings `cfg`."""
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
        paper, config, preset = (stored[name] for name in ("paper", "config", "preset"))
    except (OSError, ValueError, KeyError, TypeError):
        paper = None
    if paper != PAPER:
        raise UserError(f"--base {folder}: not a run folder of {PAPER}; train one with train.py first")
    if not (folder / "state" / "rnn-00").is_dir():
        raise UserError(f"--base {folder}: M is not trained yet; finish it with train.py --resume {folder}")
    return from_json(Config, config, str(folder / "config.json")), preset


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
    for name in ("data", "latents"):
        if not (base / name).is_dir():
            raise UserError(f"--base {base}: its {name}/ is gone, and every variant learns from it")
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("data", "latents"):
        link = folder / name
        if link.is_symlink() and not link.exists():
            link.unlink()  # the base run was moved
        if not link.exists():
            os.symlink((base / name).resolve(), link)
    for stage in keep:
        target, part = folder / "state" / stage, folder / f"{stage}.part"
        if not target.exists():
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(base / "state" / stage, part)
            target.parent.mkdir(exist_ok=True)
            part.rename(target)  # all of it or nothing
    save_config(folder, cfg, paper=PAPER, preset=preset)


def variant_of(args, label: str, overrides: dict) -> tuple[Config, str, Path]:
    """Config, preset and folder of a variant."""
    base, preset = load_base(args.base)
    name = "".join(c if c.isalnum() or c == "." else "_" for c in label)
    folder = args.base.parent / f"{args.base.name}-{args.name}" / name
    return replace(override(base, overrides), logdir=str(folder)), preset, folder


def run_variant(args, label: str, overrides: dict, keep: tuple[str, ...]) -> dict:
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
