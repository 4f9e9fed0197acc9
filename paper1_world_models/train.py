"""Paper 1, the whole procedure: collect -> V -> M -> C, and again for `--iterations` passes.

python train.py --preset tiny                                toy_dodge in minutes on one core
python train.py --preset tiny --train-in dream --iterations 3
python train.py --env CarRacing-v3 --preset cpu
python train.py --resume runs/toy_dodge/...                  goes on where it was; --stage runs one stage only
"""

if not __package__:  # run as a script: the repository root, not this folder, goes on the path
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when numpy is imported: a second thread only spins

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.cli import link_latest, new_run_dir, parse_train, run_main, save_config
from common.config import changes, fields_of, from_json
from common.errors import UserError
from common.flags import flag_of
from paper1_world_models.config import STAGES, Config
from paper1_world_models.presets import PRESETS, SUITES

HERE = Path(__file__).resolve().parent
PAPER = "paper1_world_models"
RESUMABLE = {  # what a resumed run may change: nothing that finished stages depend on
    *("generations", "iterations", "eval_every", "checkpoint_every", "num_envs", "threads", "device"),
    *("logdir", "gates", "vae.gate", "vae.half_gate", "vae.lr", "rnn.lr"),
    *("evolve.eval_episodes", "evolve.slots"),
}
LONGER = {"vae.updates": "latents/00.npy", "rnn.updates": "state/controller-00"}  # until this is there


@dataclass(frozen=True)
class Extra:
    """Flags that are not settings of the run."""

    stage: Literal["all", "collect", "vae", "rnn", "controller"] = "all"
    """Stop after this stage; with --resume its predecessors are taken from the run folder."""
    carry: str = ""
    """With --resume: write what the controller stage needs into this new folder (at most 8 MB), and exit."""


def main(argv: list[str] | None = None) -> None:
    """Parse, print what is to come, run the stages."""
    command = parse_train(
        argv, PRESETS, SUITES, default_env="toy_dodge", description=__doc__.split("\n")[0], extra=Extra
    )
    from common.device import pick_device  # torch from here on
    from paper1_world_models.carry import carry
    from paper1_world_models.forecast import describe
    from paper1_world_models.rollout_games import env_spec

    device = pick_device(command.config.device, command.config.threads)
    if command.resume:
        check_resume(command)
    elif command.extra.stage == "controller":
        raise UserError("--stage controller: of which run?  Add --resume RUN_FOLDER")
    elif command.extra.carry:
        raise UserError(f"--carry {command.extra.carry}: of which run?  Add --resume RUN_FOLDER")
    agent = new_agent(command.config, env_spec(command.config), device)
    if command.dry_run:
        print(describe(command, None, agent))
        return
    if command.extra.carry:
        print(carry(command.resume, Path(command.extra.carry)))
        return
    folder = command.resume or new_run_dir(
        command.config.logdir, command.config.env, command.config.seed, HERE
    )
    print(describe(command, folder, agent), flush=True)
    kept = {}
    if command.resume:  # the command that began the run is what repeats it
        stored = json.loads((folder / "config.json").read_text())
        kept = {name: stored[name] for name in ("command", "carried") if name in stored}
        kept["resumed_with"] = sys.argv
    save_config(folder, command.config, paper=PAPER, preset=command.preset, **kept)
    finished = train(command.config, folder, device, command.extra.stage)
    has_model = (folder / "model.pt").exists()
    notice = link_latest(HERE, folder / "model.pt") if has_model else None
    if not finished:
        raise SystemExit(130)
    done = f"done: python eval.py --checkpoint {folder} --render"
    early = command.extra.stage not in ("all", "controller")
    go_on = f"stage {command.extra.stage} ended: python train.py --resume {folder} goes on"
    print(go_on if early else notice or done, flush=True)


def check_resume(command) -> None:
    """Refuse flags that would not fit what the run has already made."""
    folder = command.resume
    told = json.loads((folder / "config.json").read_text())
    if told.get("carried") and command.extra.stage != "controller":  # neither frames nor optimisers are there
        raise UserError(f"{folder} was carried here for its controller alone: add --stage controller")
    stored = from_json(Config, told["config"])
    for name, value in changes(stored, command.config).items():
        if name in RESUMABLE or (name in LONGER and not (folder / LONGER[name]).exists()):
            continue
        kept = dict(fields_of(stored))[name]
        raise UserError(
            f"--{flag_of(name)} {value}: the run in {folder} has {kept} and keeps it; "
            "start a new run without --resume"
        )


def train(cfg: Config, folder: Path, device, last_stage: str) -> bool:
    """The procedure of the article; every stage goes on where its state says it was.  False: stopped."""
    from common.faults import SignalGuard
    from common.logger import Logger
    from common.seeding import derive, seed_everything
    from paper1_world_models.agent import WorldModelsAgent
    from paper1_world_models.collect import collect
    from paper1_world_models.dataset import encode_shards
    from paper1_world_models.pictures import draw_open_loop
    from paper1_world_models.rollout_games import env_spec
    from paper1_world_models.run import Run, Stopped
    from paper1_world_models.train_controller import train_controller
    from paper1_world_models.train_rnn import train_rnn
    from paper1_world_models.train_vae import train_vae

    spec = env_spec(cfg)
    seed_everything(derive(cfg.seed, "weights"))
    agent = new_agent(cfg, spec, device)
    with SignalGuard() as guard, Logger(folder, resume_step=saved_steps(cfg, folder)) as log:
        run = Run(cfg, spec, folder, log, guard)
        try:
            if last_stage == "controller" and not (folder / "data").exists():
                agent = WorldModelsAgent.load(folder, str(device))  # V, M and the CMA state were carried here
                train_controller(run, agent, None, agent.iteration)
                publish(agent, folder, agent.iteration, "controller")
                return True
            for iteration in range(cfg.iterations):
                model = folder / "model.pt" if iteration else None
                run.frames += collect_stage(run, collect, iteration, model)
                if last_stage == "collect":
                    break  # later passes are played by the controller of the one before
                shards = open_data(folder, iteration)
                if len(shards.episodes) < 2:  # one to learn from, one held out
                    raise UserError(
                        f"{folder} holds {len(shards.episodes)} episodes and V and M need 2: "
                        "raise --collect.episodes or --steps, or lower --collect.min-length"
                    )
                if iteration == 0:
                    train_vae(run, agent, shards)  # V is frozen afterwards
                    publish(agent, folder, iteration, "vae")
                if last_stage == "vae":
                    break
                data = encode_shards(agent.vae, shards, folder / "latents", iteration)
                train_rnn(run, agent, data, iteration)
                if run.is_busy:
                    draw_open_loop(run, agent, shards)
                publish(agent, folder, iteration, "rnn")
                if last_stage == "rnn":
                    break
                train_controller(run, agent, data, iteration)
                publish(agent, folder, iteration, "controller")
        except Stopped:
            print(f"stopped; the state is saved: python train.py --resume {folder}", flush=True)
            return False
    return True


def publish(agent, folder: Path, iteration: int, stage: str) -> None:
    """Write model.pt, unless a resumed run has not yet come to where its model.pt already was."""
    from common.checkpoint import load_file

    agent.stage, agent.iteration = stage, iteration
    path = folder / "model.pt"
    if path.exists():
        try:
            there = load_file(path, paper=PAPER)["extra"]
        except UserError as error:
            print(f"written anew: {error}", flush=True)
            there = {"stage": STAGES[0]}
        if (there.get("iteration", 0), STAGES.index(there["stage"])) > (iteration, STAGES.index(stage)):
            return
    agent.save(path)


def collect_stage(run, collect, iteration: int, model: Path | None) -> int:
    """Collect one pass of episodes.  Returns the environment frames that it took."""
    from paper1_world_models.run import Stopped

    def report(frames: int) -> bool:
        run.log.progress(frames)
        return run.guard.stop_requested

    run.log.stage(f"collect-{iteration:02d}", unit="frames")
    collect(run.cfg, run.spec, run.folder / "data", iteration, model, report)
    if run.guard.stop_requested:
        raise Stopped

    def steps(upto: int) -> int:  # an episode of T rows took T - 1 steps
        shards = open_data(run.folder, upto)
        return shards.total - len(shards.episodes)

    taken = (steps(iteration) - (steps(iteration - 1) if iteration else 0)) * run.spec.frames_per_step
    if iteration and not taken:
        run.log.note(
            f"pass {iteration + 1}: --steps {run.cfg.steps} is used up; M and C go on without new frames"
        )
    return taken


def saved_steps(cfg: Config, folder: Path) -> dict[str, int]:
    """Stage -> the step its saved state is at, -1 where there is none: what was logged after it is
    dropped."""
    from common.checkpoint import RunState

    stages = ["vae-00"] + [
        f"{stage}-{i:02d}" for i in range(cfg.iterations) for stage in ("rnn", "controller")
    ]
    found = {stage: RunState(folder / "state" / stage).load() for stage in stages}
    return {stage: state[0] if state else -1 for stage, state in found.items()}


def open_data(folder: Path, iteration: int):
    """The frames of the first `iteration` + 1 passes; a resumed run may hold later ones already."""
    from common.shards import Shards, open_shards

    folders = [shard for shard in open_shards(folder / "data").folders if int(shard.name[:2]) <= iteration]
    return Shards(folders)


def new_agent(cfg: Config, spec, device):
    """Fresh networks for an environment."""
    from paper1_world_models.agent import WorldModelsAgent
    from paper1_world_models.controller import make_codec
    from paper1_world_models.rollout_games import make_pixels

    env = make_pixels(spec)
    shape = env.observation_space["image"].shape
    codec = make_codec(env.action_space, cfg.controller.actions)
    env.close()
    if shape != (cfg.vae.size, cfg.vae.size, cfg.vae.channels):
        raise UserError(
            f"{spec.name} gives pictures {shape} and V takes {cfg.vae.size}: set --vae.size 64 or 16"
        )
    return WorldModelsAgent(cfg, spec, codec, device=device)


if __name__ == "__main__":
    run_main(main)
