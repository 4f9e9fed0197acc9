"""The stages of a run and their files: what each needs, trains, writes and reports.

OUT/data/replay.npz               random games                      train-obs
OUT/checkpoints/observation.pt    autoencoder, config, preset       train-obs
OUT/checkpoints/dynamics.pt       transformer                       train-wm
OUT/checkpoints/agent-OBJECTIVE.pt                                  train-agent
"""

import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

from common.checkpoint import fitting, load_file, save_file
from common.errors import UserError
from foundations.tssm.agent import Agent, Objective
from foundations.tssm.autoencoder import Autoencoder
from foundations.tssm.config import Config, from_json, to_json
from foundations.tssm.data import Replay, collect, load_replay, save_replay
from foundations.tssm.dynamics import Dynamics, count_parameters
from foundations.tssm.evaluate import baselines, evaluate, policy_of
from foundations.tssm.train import Windows, encode_replay, fit_agent, fit_autoencoder, fit_dynamics

KIND = "foundations/tssm"
COMMANDS = {"observation": "train-obs", "dynamics": "train-wm", "agent": "train-agent"}  # what writes a part


class Stored(NamedTuple):
    """A part of a run, as its file has it."""

    config: Config
    preset: str
    tree: dict[str, Any]


def checkpoint(out: Path, part: str) -> Path:
    """The file of a part."""
    return out / "checkpoints" / f"{part}.pt"


def save_part(
    out: Path, part: str, module: torch.nn.Module, config: Config, preset: str, **told: Any
) -> None:
    """Write a part with the config that built it."""
    told = {"config": to_json(config), "preset": preset, "act_size": 0, **told}
    save_file(checkpoint(out, part), {"paper": KIND, "weights": module.state_dict(), **told})


def load_part(out: Path, part: str) -> Stored:
    """Read a part; UserError naming the command that makes it."""
    path = checkpoint(out, part)
    if not path.is_file():
        name, _, objective = part.partition("-")
        more = f" --objective {objective}" if objective else ""
        raise UserError(f"no {path}: first python -m foundations.tssm {COMMANDS[name]}{more} --out {out}")
    tree = load_file(path, paper=KIND)
    return Stored(from_json(Config, tree["config"], str(path)), tree["preset"], tree)


def load_observation(out: Path, device: torch.device) -> tuple[Stored, Autoencoder]:
    """The autoencoder of a run."""
    stored = load_part(out, "observation")
    return stored, _restore(Autoencoder(stored.config.code), stored, out, "observation", device)


def load_dynamics(out: Path, device: torch.device) -> tuple[Stored, Dynamics]:
    """The transformer of a run."""
    stored = load_part(out, "dynamics")
    code = stored.config.code
    model = Dynamics(stored.config.dynamics, code.latents, code.classes, stored.tree["act_size"])
    return stored, _restore(model, stored, out, "dynamics", device)


def load_agent(out: Path, objective: Objective, device: torch.device) -> tuple[Stored, Agent]:
    """An agent of a run."""
    stored = load_part(out, f"agent-{objective}")
    code = stored.config.code
    agent = Agent(stored.config.agent, code.latents, code.classes, stored.tree["act_size"])
    return stored, _restore(agent, stored, out, f"agent-{objective}", device)


def _restore(module, stored: Stored, out: Path, part: str, device: torch.device):
    with fitting(checkpoint(out, part), KIND):
        module.load_state_dict(stored.tree["weights"])
    return module.to(device).eval()


def run_observation(
    out: Path, config: Config, preset: str, seed: int, device: torch.device
) -> dict[str, Any]:
    """Collect random games, train the autoencoder to its gate, write both."""
    started = time.process_time()
    replay = collect(config, seed)
    save_replay(out / "data" / "replay.npz", replay)
    collected = time.process_time()
    model, told = fit_autoencoder(config, *replay.split(), seed, device)
    save_part(out, "observation", model, config, preset)
    cpu = {"collect": collected - started, "observation": time.process_time() - collected}
    return {"cpu_s": rounded(cpu), "parameters": count_parameters(model), **told}


def run_dynamics(out: Path, config: Config, seed: int, device: torch.device) -> dict[str, Any]:
    """Train the transformer on the codes of the games."""
    started = time.process_time()
    stored, code = load_observation(out, device)
    train, held_out = coded(out, code)
    act_size = train.act.shape[-1]
    model, told = fit_dynamics(config, act_size, train, held_out, seed)
    save_part(out, "dynamics", model, config, stored.preset, act_size=act_size)
    cpu = {"dynamics": time.process_time() - started}
    return {"cpu_s": rounded(cpu), "parameters": count_parameters(model), **told}


def run_agent(
    out: Path, config: Config, objective: Objective, seed: int, device: torch.device
) -> dict[str, Any]:
    """Train an agent in the model and score it in the real world, beside what needs no learning."""
    started = time.process_time()
    (_, code), (stored, model) = load_observation(out, device), load_dynamics(out, device)
    train, _ = coded(out, code)
    agent, told = fit_agent(
        config, model, train, objective, seed, lambda agent: evaluate(config, policy_of(code, agent), seed)
    )
    act_size = train.act.shape[-1]
    save_part(out, f"agent-{objective}", agent, config, stored.preset, act_size=act_size)
    score = {name: told["evaluations"][-1][name] for name in told["evaluations"][-1] if name != "update"}
    score.pop("train_cpu_s")
    cpu = {"agent": told.pop("train_cpu_s"), "agent with evaluations": time.process_time() - started}
    return {"cpu_s": rounded(cpu), "score": score, "baselines": baselines(config, seed), **told}


def coded(out: Path, code: Autoencoder) -> tuple[Windows, Windows]:
    """The games of a run as codes: (to train on, held out)."""
    train, held_out = load_replay(out / "data" / "replay.npz").split()
    return encode_replay(code, train), encode_replay(code, held_out)


def held_out_game(out: Path, number: int = 0) -> Replay:
    """One game that training has not seen, as a replay of one."""
    _, held_out = load_replay(out / "data" / "replay.npz").split()
    number %= len(held_out.rew)
    return Replay(*(column[number : number + 1] for column in held_out))


def rounded(seconds: dict[str, float]) -> dict[str, float]:
    """Seconds by name, to a hundredth."""
    return {name: round(value, 2) for name, value in seconds.items()}
