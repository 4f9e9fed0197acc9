"""Free memory as containers see it, forecasts, sizes that people can read."""

from __future__ import annotations

import subprocess
import sys

import pytest

from common import resources
from common.errors import UserError
from common.resources import forecast_disk, forecast_ram, free_disk, free_ram, human_size

MEMINFO = "MemTotal: 64000000 kB\nMemFree: 1000 kB\nMemAvailable: 40000000 kB\n"


def machine(root, files: dict[str, str]):
    """A root folder with these files below it."""
    for name, text in {"proc/meminfo": MEMINFO, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_bare_machine(tmp_path):
    assert free_ram(machine(tmp_path, {})) == 40_960_000_000


def test_cgroup_version_2_counts_every_level_and_gives_page_cache_back(tmp_path):
    files = {
        "proc/self/cgroup": "0::/pod/box\n",
        "sys/fs/cgroup/pod/box/memory.max": "max\n",
        "sys/fs/cgroup/pod/box/memory.current": "1000\n",
        "sys/fs/cgroup/pod/box/memory.stat": "anon 5\ninactive_file 0\nactive_file 0\n",
        "sys/fs/cgroup/pod/memory.max": "8000000000\n",
        "sys/fs/cgroup/pod/memory.current": "6000000000\n",
        "sys/fs/cgroup/pod/memory.stat": "anon 5\ninactive_file 3000000000\nactive_file 500000000\n",
    }
    assert free_ram(machine(tmp_path, files)) == 5_500_000_000


def test_cgroup_version_1_where_the_named_path_is_the_hosts(tmp_path):
    files = {
        "proc/self/cgroup": "11:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n1:name=systemd:/docker/abc\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "2000000000\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "1900000000\n",
        "sys/fs/cgroup/memory/memory.stat": "inactive_file 7\ntotal_inactive_file 300000000\n",
    }
    assert free_ram(machine(tmp_path, files)) == 400_000_000


def test_no_limit_and_overdrawn(tmp_path):
    group = {
        "proc/self/cgroup": "4:memory:/\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "1900000000\n",
        "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 0\n",
    }
    assert free_ram(machine(tmp_path, group)) == 40_960_000_000
    group["sys/fs/cgroup/memory/memory.limit_in_bytes"] = "1000000000\n"
    assert free_ram(machine(tmp_path, group)) == 0


def test_here():
    assert 50_000_000 < free_ram() < 1e14
    assert 0 < free_disk("/tmp/not/there/yet") == pytest.approx(free_disk("/tmp"), rel=0.05)
    assert resources.peak_vram() == 0 or "torch" in sys.modules


def test_peak_ram_sees_what_was_held():
    code = "import common.resources as r; a = r.peak_ram(); b = b'x' * 80_000_000; print(r.peak_ram() - a)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(out) == pytest.approx(80_000_000, rel=0.1)


def test_forecasts_are_refused_above_four_fifths(tmp_path, monkeypatch):
    monkeypatch.setattr(resources, "free_ram", lambda: 10_000_000_000)
    monkeypatch.setattr(resources, "free_disk", lambda path: 1_000_000)
    assert forecast_ram(8_000_000_000, "replay", "--x") == "replay: 8.00 GB of RAM (10.0 GB free)"
    with pytest.raises(UserError) as error:
        forecast_ram(8_000_000_001, "replay", "--replay.capacity")
    assert "\n" not in str(error.value) and "lower --replay.capacity" in str(error.value)
    assert "800 kB" in forecast_disk(800_000, "frames", "--frames", tmp_path)
    with pytest.raises(UserError, match="lower --frames"):
        forecast_disk(800_001, "frames", "--frames", tmp_path)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        *((0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (12_288, "12.3 kB"), (999_499, "999 kB")),
        *((999_600, "1.00 MB"), (99_960_000, "100 MB"), (1.23e9, "1.23 GB"), (1.43e11, "143 GB")),
        *((5e15, "5000 TB"),),
    ],
)
def test_sizes(size, text):
    assert human_size(size) == text
