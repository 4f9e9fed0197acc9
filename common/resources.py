"""How much memory and disk this machine has left, and forecasts that are refused before a run starts.

A container is allowed less than the machine has, so the limits of every cgroup (version 1 or 2) above this
process count too.  Page cache can be given back and does not count as used.  Sizes are decimal, as on disks:
1 GB = 10^9 bytes.
"""

from __future__ import annotations

import os
import resource
import shutil
import sys
from pathlib import Path

from common.errors import UserError

SHARE = 0.8  # of what is free: the rest is for the model, its gradients and everybody else


def human_size(size: float) -> str:
    """Bytes -> "12.3 kB", "1.23 GB": three digits, decimal units."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(size) < 999.5 or unit == "TB":
            break
        size /= 1000
    digits = 0 if unit == "B" or abs(size) >= 99.95 else 1 if abs(size) >= 9.995 else 2
    return f"{size:.{digits}f} {unit}"


def free_ram(root: str | Path = "/") -> int:
    """Bytes that this process may still take, the limits of its containers included."""
    machine = _free_of_machine(Path(root))
    return max(0, min([machine, *_free_of_cgroups(Path(root))]))


def free_disk(path: str | Path) -> int:
    """Bytes left for `path`, or for its nearest existing parent folder."""
    path = Path(path).expanduser().absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def forecast_ram(size: float, what: str, flag: str) -> str:
    """A line like "replay: 1.23 GB of RAM (22.1 GB free)"; UserError naming `flag` above 80 % of the free."""
    return _forecast(size, free_ram(), "RAM", what, flag)


def forecast_disk(size: float, what: str, flag: str, path: str | Path) -> str:
    """The same for the disk that `path` lies on."""
    return _forecast(size, free_disk(path), f"disk at {path}", what, flag)


def peak_ram() -> int:
    """The most bytes of RAM that this process ever held.

    Not from getrusage where it can be helped: that survives exec, so a worker would report its parent's peak.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        pass
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def peak_vram() -> int:
    """The most bytes of GPU memory that tensors of this process ever held; 0 without CUDA."""
    torch = sys.modules.get("torch")  # never the one to import it
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return 0
    return sum(torch.cuda.max_memory_allocated(device) for device in range(torch.cuda.device_count()))


def _forecast(size: float, free: int, where: str, what: str, flag: str) -> str:
    if size > SHARE * free:
        limit = f"{human_size(SHARE * free)} ({SHARE:.0%} of the free {human_size(free)})"
        raise UserError(f"{what} needs {human_size(size)} of {where}, allowed are {limit}: lower {flag}")
    return f"{what}: {human_size(size)} of {where} ({human_size(free)} free)"


def _free_of_machine(root: Path) -> int:
    """MemAvailable; where there is no /proc (macOS) all of the physical memory, an upper bound."""
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
    except OSError:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def _free_of_cgroups(root: Path) -> list[int]:
    """What each limited group above this process has left; empty where none is limited.

    Inside a container the path that /proc names may be the host's and not exist here: then only the
    parents that do exist are asked, among them the mount's root, which is the container's own group.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    free = []
    for line in lines:  # "0::/path" is version 2, "4:memory:/path" version 1
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount, limit, used = root / "sys/fs/cgroup", "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            mount, limit, used = (
                root / "sys/fs/cgroup/memory",
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
            )
        else:
            continue
        group = mount / path.strip("/")
        for folder in [group, *group.parents]:
            if folder == mount.parent:
                break
            left = _left_in(folder, limit, used)
            if left is not None:
                free.append(left)
    return free


def _left_in(folder: Path, limit: str, used: str) -> int | None:
    """Limit minus use plus page cache of one group; None where it has no limit."""
    try:
        allowed = (folder / limit).read_text().strip()
        taken = int((folder / used).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    if allowed == "max":
        return None
    prefix = "total_" if "total_inactive_file" in stat else ""  # version 1 counts the children apart
    cache = int(stat.get(prefix + "inactive_file", 0)) + int(stat.get(prefix + "active_file", 0))
    return int(allowed) - taken + cache
