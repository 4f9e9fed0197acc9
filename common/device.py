"""Where the networks run: what is known without torch (for the default preset), and torch's answer."""

import contextlib
import importlib.metadata
import os
import shutil
from pathlib import Path
from typing import Any

from common.errors import UserError


def cuda_without_torch() -> tuple[bool, str]:
    """Whether a CUDA device can be used, seen from outside: importing torch takes seconds."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and hidden.strip() in ("", "-1"):
        return False, f"CUDA_VISIBLE_DEVICES={hidden!r} hides every CUDA device"
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        if (version := importlib.metadata.version("torch")).endswith("+cpu"):
            return False, f"torch {version} is a CPU build"
    if os.name == "nt":
        found = shutil.which("nvidia-smi") is not None
    else:  # /dev/dxg: WSL
        found = any(Path(node).exists() for node in ("/dev/nvidiactl", "/dev/dxg"))
    return found, "a CUDA device was found" if found else "no CUDA device was found"


def pick_device(device: str, threads: int = 0) -> Any:
    """The torch.device that --device names, and torch's thread count.  Imports torch."""
    import torch

    if threads:
        torch.set_num_threads(threads)
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        device = next(name for name, there in available.items() if there)
    if not available.get(device.split(":")[0], False):
        there = [name for name, yes in available.items() if yes]
        raise UserError(f"--device {device}: torch {torch.__version__} sees only {', '.join(there)} here")
    return torch.device(device)


def autocast(device: Any, precision: str) -> Any:
    """A context manager to enter again and again: bf16 where `precision` asks for it (auto: on CUDA)."""
    import torch

    use = precision == "bf16" or (precision == "auto" and device.type == "cuda")
    return lambda: torch.autocast(device.type, torch.bfloat16, enabled=use)
