"""The folder of a run: where it lies, its config.json, the start block, the ./model.pt link to the newest.

config.json holds what is needed to repeat the run: the resolved config, the preset, the git commit, the
versions of the packages and the machine (STYLE rule 16, DESIGN section 10).  Nothing here imports torch.
"""

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.atomic import write_json
from common.cli_args import TrainCommand
from common.config import to_json
from common.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
VERSIONED = (
    *("torch", "numpy", "gymnasium", "ale-py", "box2d", "mujoco", "dm-control", "cma", "crafter"),
    *("minigrid", "vizdoom", "envpool", "imageio-ffmpeg", "pygame-ce"),
)


def new_run_dir(logdir: str | Path | None, env: str, seed: int, paper_dir: str | Path) -> Path:
    """Make the run folder: `logdir`, or PAPER_DIR/runs/ENV/TIME-sSEED.  UserError if a run is there."""
    if logdir is not None:
        folder = Path(logdir)
        if (folder / "config.json").exists():
            raise UserError(
                f"--logdir {folder}: holds a run already; --resume {folder} goes on, or name another folder"
            )
        _make(folder)
        return folder
    parent = Path(paper_dir) / "runs" / re.sub(r"[^\w.-]+", "_", env)
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-s{seed}"
    for number in range(1, 1000):  # two runs may start within one second
        folder = parent / (stem if number == 1 else f"{stem}-{number}")
        if _make(folder, exist_ok=False):
            return folder
    raise UserError(f"{parent}: no free folder name; set --logdir")


def _make(folder: Path, exist_ok: bool = True) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=exist_ok)
    except FileExistsError:
        if exist_ok:
            raise UserError(f"--logdir {folder}: is a file; name a folder") from None
        return False
    except OSError as error:
        raise UserError(f"cannot make the run folder {folder} ({error.strerror}); set --logdir") from None
    return True


def link_latest(paper_dir: str | Path, model_path: str | Path) -> str | None:
    """Point PAPER_DIR/model.pt at the newest run's model, atomically.  A notice if it cannot be done."""
    link, target = Path(paper_dir).resolve() / "model.pt", Path(model_path).resolve()
    if link.exists() and not link.is_symlink():
        return f"{link} is a file of yours and stays; use --checkpoint {target}"
    temporary = link.with_name(f"model.pt.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.symlink(os.path.relpath(target, link.parent), temporary)
        os.replace(temporary, link)
    except OSError as error:  # Windows without the right to make links
        return f"no link {link} ({error.strerror}); use --checkpoint {target}"
    return None


def save_config(run_dir: Path, config: Any, *, paper: str, preset: str = "", **more: Any) -> Path:
    """Write config.json: config, preset, commit, versions, machine, command.  `more`: further entries."""
    data = {
        "paper": paper,
        "preset": preset,
        "config": to_json(config),
        "command": sys.argv,
        **provenance(),
        **more,
    }
    path = run_dir / "config.json"
    write_json(path, data)
    return path


def provenance() -> dict[str, Any]:
    """What a result depends on besides the config: git commit, package versions, machine, start time."""
    found = {}
    for name in VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    machine = {"system": platform.platform(), "cpu": _cpu_name(), "cores": os.cpu_count()}
    return {
        "git": {"commit": _git("rev-parse", "HEAD"), "dirty": bool(_git("status", "--porcelain", "-uno"))},
        "versions": {"python": platform.python_version(), **found},
        "machine": machine,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _git(*words: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):  # no git, or an installed package outside a checkout
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _cpu_name() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:  # not Linux
        found = None
    return found[1].strip() if found else platform.processor()


def start_block(
    command: TrainCommand,
    *,
    run_dir: Path | None,
    parameters: Mapping[str, int],
    published: Mapping[str, int] | None = None,
    frames: int | None = None,
    policy_steps: int | None = None,
    updates: int | Mapping[str, int] | None = None,
    forecasts: Sequence[str] = (),
    device: str = "",
) -> str:
    """What a run prints first (DESIGN section 2).

    parameters and published: component -> count, `published` where the paper gives a number.  updates:
    gradient steps to come, in one number or per component.  forecasts: ready lines on RAM and disk.
    """
    lines = [
        *command.notices,
        f"env {command.config.env}, seed {command.config.seed}" + f", {device}" * bool(device),
    ]
    for layer in command.layers:
        if layer.values:
            told = ", ".join(f"{name}={value}" for name, value in layer.values.items())
            lines += textwrap.wrap(
                f"{layer.name}: {told}", 110, subsequent_indent="    ", break_on_hyphens=False
            )
    lines.append("parameters")
    counts = {**parameters, "total": sum(parameters.values())} if len(parameters) > 1 else dict(parameters)
    for name, count in counts.items():
        paper = (published or {}).get(name)
        lines.append(f"  {name}: {count:,}" + (f"  (paper: {paper:,})" if paper is not None else ""))
    if frames is not None:
        policy = f" = {policy_steps:,} policy steps" if policy_steps is not None else ""
        lines.append(f"frames to come: {frames:,}{policy}")
    if updates is not None:
        named = updates if isinstance(updates, Mapping) else {"": updates}
        lines.append(
            "gradient steps to come: "
            + ", ".join(f"{name} {count:,}".strip() for name, count in named.items())
        )
    lines += forecasts
    lines.append(f"run folder: {run_dir}" if run_dir is not None else "run folder: none (--dry-run)")
    return "\n".join(lines)
