"""The controller stage to go: what another machine needs to evolve C, in a folder of at most 8 MB.

    python train.py --resume RUN --carry FOLDER            here: config.json, model.pt, state/controller-II
    python train.py --resume FOLDER --stage controller     there; then state/controller-II goes back into RUN

V's decoder stays behind: C never looks at a reconstruction.  Where that is not enough (TakeCover as in the
paper), the weights of V and M are rounded to half precision and the covariance of CMA-ES to single; the
message says so, for such a run goes on from nearly the same numbers, others bit for bit.
"""

import json
import shutil
from pathlib import Path

import numpy as np

from common.atomic import writable, write_json
from common.checkpoint import RunState
from common.errors import UserError
from common.resources import human_size
from paper1_world_models.agent import WorldModelsAgent

LIMIT = 8_000_000  # bytes


def carry(run: Path, folder: Path) -> str:
    """Write the folder; returns a line that says how large it is and what to do with it."""
    if folder.exists():
        raise UserError(f"--carry {folder}: is there already; name a new folder")
    writable(folder.parent, "--carry")
    agent = WorldModelsAgent.load(run)
    if agent.stage not in ("rnn", "controller"):
        raise UserError(f"M is not trained yet in {run}: first python train.py --resume {run} --stage rnn")
    stage = f"controller-{agent.iteration:02d}"
    found = RunState(run / "state" / stage).load()
    if found is None and agent.cfg.evolve.basis == "pca":
        raise UserError(
            f"--evolve.basis pca looks at the collected frames: begin with python train.py --resume {run}; "
            "once the controller stage has begun, it can be stopped and carried"
        )
    agent.vae.forget_decoder()
    for rounded in (False, True):
        shutil.rmtree(folder, ignore_errors=True)
        write(run, folder, agent, stage, found, rounded)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        if size <= LIMIT:
            break
    how = "rounded to half precision to fit" if rounded else "the run goes on bit for bit"
    there = f"there: python train.py --resume {folder.name} --stage controller"
    return f"{folder}: {human_size(size)}, {how}; {there}; then copy its state/{stage} back into {run}/state"


def write(run: Path, folder: Path, agent: WorldModelsAgent, stage: str, found, rounded: bool) -> None:
    """One attempt."""
    config = json.loads((run / "config.json").read_text())
    folder.mkdir(parents=True)
    write_json(folder / "config.json", config | {"carried": "rounded" if rounded else "exact"})
    if rounded:
        for module in (agent.vae, agent.rnn):
            module.half()
    agent.save(folder / "model.pt")
    if found is not None:
        step, parts = found
        if rounded and parts["evolution"] is not None:
            covariance = np.asarray(parts["evolution"]["covariance"], np.float32)
            parts = parts | {"evolution": parts["evolution"] | {"covariance": covariance}}
        RunState(folder / "state" / stage).save(step, parts)
