"""What holds for every test: one thread, no display, and no skip that nobody agreed to.

A skipped test says nothing, and a broken installation (no EGL, a missing wheel) skips many of them.  So
each skip is compared with tests/allowed_skips.txt; one that is not listed there fails the session and is
named at its end.
"""

import fnmatch
import importlib.util
import os
import sys
from pathlib import Path

import pytest

# Before torch, MuJoCo or pygame are imported.  A second thread makes small networks slower, not faster.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
    os.environ.setdefault("MUJOCO_GL", "egl")

ALLOWED = Path(__file__).with_name("allowed_skips.txt")
_skipped: dict[str, str] = {}  # test id -> reason


def allowed_patterns() -> list[str]:
    """The test ids of allowed_skips.txt.  UsageError for a line without a reason."""
    patterns = []
    for number, line in enumerate(ALLOWED.read_text().splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            pattern, _, reason = line.partition("  ")
            if not reason.strip():
                raise pytest.UsageError(
                    f"{ALLOWED.name} line {number}: test id, two spaces, reason; not {line!r}"
                )
            patterns.append(pattern)
    return patterns


def pytest_collection_modifyitems(items) -> None:
    """On Python 3.13 requirements.txt leaves dm-control out: what has dmc in its id cannot run there."""
    if importlib.util.find_spec("dm_control") is None:
        for item in items:
            if "dmc" in item.nodeid:
                item.add_marker(pytest.mark.skip(reason="dm-control is not installed"))


def _note(report) -> None:
    # An expected failure is reported as skipped too, and is none of our business.
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        _skipped[report.nodeid] = reason


def pytest_runtest_logreport(report) -> None:
    _note(report)


def pytest_collectreport(report) -> None:
    """A whole file that skips itself (`pytest.importorskip` at its top) counts like a test."""
    _note(report)


def new_skips() -> dict[str, str]:
    """Skips of this session that allowed_skips.txt does not list: test id -> reason."""
    patterns = allowed_patterns()
    return {
        test: reason
        for test, reason in _skipped.items()
        if not any(fnmatch.fnmatchcase(test, pattern) for pattern in patterns)
    }


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error) -> None:
    """What a process of pytest-xdist has skipped, whole files included, is told to the one that judges."""
    _skipped.update(getattr(node, "workeroutput", {}).get("skipped", {}))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session, exitstatus) -> None:
    if hasattr(session.config, "workeroutput"):  # one of several processes
        session.config.workeroutput["skipped"] = dict(_skipped)
    elif exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED) and new_skips():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter) -> None:
    if found := new_skips():
        terminalreporter.section("skips that tests/allowed_skips.txt does not list", red=True, bold=True)
        for test, reason in sorted(found.items()):
            terminalreporter.line(f"{test}: {reason}")
        terminalreporter.line(
            "Make them run, or list them there with a reason that holds on this kind of machine."
        )


@pytest.fixture(scope="session", autouse=True)
def kept_links(tmp_path_factory):
    """train.py points ./model.pt at its newest run; one in a test's folder would soon be gone."""
    links = [folder / "model.pt" for folder in Path(__file__).resolve().parents[1].glob("paper*_*")]
    before = {link: os.readlink(link) for link in links if link.is_symlink()}
    yield
    here = tmp_path_factory.getbasetemp().resolve()
    for link in links:
        if link.is_symlink() and link.resolve().is_relative_to(here):
            link.unlink()
            if link in before:
                link.symlink_to(before[link])
