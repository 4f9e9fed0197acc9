"""What surrounds the training loop of papers 2 to 5, which play while they learn: all but the learning.

`online_main` is their train.py's command line: parse, start block, run folder, resume.  `OnlineRun`
(online_run.py) owns envs, replay, log, curve and checkpoints.  The loop and the update are the paper's: a
function `train(run)` that plays by `run.collect()`, updates `run.updates_due()` times, and lets
`run.keep_up()` evaluate and save.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.cli import link_latest, new_run_dir, parse_train, run_main, save_config, start_block
from common.config import changes, fields_of, from_json
from common.errors import UserError
from common.flags import flag_of
from common.online_run import OnlineRun

__all__ = ["OnlineRun", "Paper", "online_main", "run_main"]
RESUMABLE = {
    *("steps", "eval_every", "eval_episodes", "checkpoint_every", "log_every"),
    *("threads", "device", "logdir"),
}


@dataclass(frozen=True)
class Paper:
    """What online_main has to know of a paper."""

    name: str  # its folder
    presets: Mapping[str, Any]
    suites: Mapping[str, Any]
    default_env: str
    make_agent: Callable[..., Any]  # (cfg, spec, spaces, device) -> an Agent with parts() and updates
    train: Callable[[OnlineRun], bool]  # the loop; False: it was stopped
    published: Callable[[Any, Any], Mapping[str, int] | None] = lambda cfg, spaces: None  # parameter counts
    variants: Mapping[str, Mapping[str, Any]] | None = None
    title: str = ""  # how common/envs/scores.json names it: DreamerV2
    # (cfg, policy steps, those of the prefill) -> updates until then; None: by prefill and train_every
    schedule: Callable[[Any, int, int], int] | None = None
    multi: bool = False  # takes MultiDiscrete actions
    run: type[OnlineRun] = OnlineRun
    disputed: Sequence[str] = ()  # fields on which the paper's versions differ: every run prints them


def online_main(paper: Paper, argv: list[str] | None, description: str) -> None:
    """The whole of a paper's train.py."""
    command = parse_train(
        argv,
        paper.presets,
        paper.suites,
        default_env=paper.default_env,
        description=description,
        variants=paper.variants,
        paper=paper.name,
    )
    from common.device import pick_device  # torch from here on

    cfg, home = command.config, Path(sys.modules[paper.train.__module__].__file__).resolve().parent
    device = pick_device(cfg.device, cfg.threads)
    if command.resume:
        check_resume(command)
    run = paper.run(paper, cfg, device, command.resume)
    try:
        if command.dry_run:
            print(describe(run, command), flush=True)
            return
        run.folder = folder = command.resume or new_run_dir(cfg.logdir, cfg.env, cfg.seed, home)
        print(describe(run, command), flush=True)
        kept = {}
        if command.resume:  # the command that began the run is what repeats it
            first = json.loads((folder / "config.json").read_text())["command"]
            kept = {"command": first, "resumed_with": sys.argv}
        save_config(folder, cfg, paper=paper.name, preset=command.preset, **kept)
        finished = run.train()
    finally:
        run.close()
    notice = link_latest(home, folder / "model.pt")
    if not finished:
        print(f"stopped; the state is saved: python train.py --resume {folder}", flush=True)
        raise SystemExit(130)
    print(notice or f"done: python eval.py --checkpoint {folder} --episodes 100 --render", flush=True)


def check_resume(command: Any) -> None:
    """Refuse flags that would make another run of it."""
    data = json.loads((command.resume / "config.json").read_text())["config"]
    stored = from_json(type(command.config), data)
    for name, value in changes(stored, command.config).items():
        if name not in RESUMABLE:
            kept = dict(fields_of(stored))[name]
            line = f"--{flag_of(name)} {value}: the run in {command.resume} has {kept} and keeps it"
            raise UserError(f"{line}; start a new run without --resume")


def forecasts(run: OnlineRun) -> list[str]:
    """What the replay will take of RAM and disk; too much is refused, but for a dry run."""
    from common.replay_storage import forecast

    where = run.folder or Path.cwd()
    flag = "--replay.capacity"
    try:
        latents = run.agent.replay_fields() if run.keeps_latents else {}
        lines = forecast(run.capacity, run.fields(), flag, where, run.cfg.replay.mapped, latents)
        return lines + run.more_forecasts(flag)
    except UserError as error:
        if run.is_resumed:
            told = str(error).rpartition(": ")[0]
            raise UserError(
                f"{told}: free some of it, for a resumed run keeps its --replay.capacity"
            ) from None
        if run.folder is not None:
            raise
        return [f"warning: {error}"]


def describe(run: OnlineRun, command: Any) -> str:
    """The start block."""
    from common.env_wrapper import scores
    from common.meters import parameter_counts

    counts = {name: parameter_counts(part)["total"] for name, part in run.agent.parts().items()}
    block = start_block(
        command,
        run_dir=run.folder,
        parameters=counts,
        # The networks of these two are smaller on purpose.
        published=None if command.preset in ("tiny", "cpu") else run.paper.published(run.cfg, run.spaces),
        frames=run.total,
        policy_steps=run.total // run.repeat,
        updates=run.updates_until(run.total),
        forecasts=forecasts(run),
        device=str(run.device),
    )
    known = scores(run.spec.name, run.spec.options)["published_all"] if run.paper.title else []
    known = [entry for entry in known if entry["protocol"].startswith(run.paper.title)]
    values = dict(fields_of(run.cfg))
    lines = [", ".join(f"{name}={values[name]}" for name in run.paper.disputed)]
    lines = [f"where versions of the paper differ: {line}" for line in lines if line]
    lines += [f"published: {entry['value']:g} ({entry['protocol']})" for entry in known]
    return "\n".join([block, *lines])
