"""The house around the papers: the skip registry, setup, package lists, and scripts that answer at once."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(
    str(path.relative_to(ROOT))
    for name in ("train.py", "eval.py", "visualize.py")
    for path in ROOT.glob(f"paper[0-9]*_*/{name}")
)


def run(*command: str, cwd: Path, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=120, env={**os.environ, **env}
    )


def session(folder: Path, tests: str, allowed: str, *flags: str) -> subprocess.CompletedProcess:
    """A small pytest session with our conftest.py."""
    (folder / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "conftest.py", folder / "tests")
    (folder / "tests" / "allowed_skips.txt").write_text(allowed)
    (folder / "tests" / "test_it.py").write_text(tests)
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib\n")
    return run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *flags, "tests", cwd=folder)


SKIPS = """
import pytest
@pytest.mark.parametrize("size", [1, 2])
def test_egl(size):
    pytest.skip("no EGL")
def test_fine():
    pass
@pytest.mark.xfail(reason="known")
def test_expected():
    assert False
"""


@pytest.mark.parametrize(
    ("allowed", "code"),
    [
        ("# a comment\ntests/test_it.py::test_egl*  machines without EGL\n", 0),
        ("tests/test_it.py::test_egl[[]1]  only one of the two\n", 1),
        ("", 1),
    ],
)
@pytest.mark.parametrize("flags", [(), ("-n", "2")], ids=["alone", "two processes"])
def test_a_new_skip_fails_the_session(tmp_path, allowed, code, flags):
    done = session(tmp_path, SKIPS, allowed, *flags)
    assert done.returncode == code, done.stdout
    assert ("tests/test_it.py::test_egl[2]: Skipped: no EGL" in done.stdout) is bool(code)
    assert "test_it.py::test_expected: " not in done.stdout


@pytest.mark.parametrize("flags", [(), ("-n", "2")], ids=["alone", "two processes"])
def test_a_file_that_skips_itself_counts(tmp_path, flags):
    done = session(tmp_path, "import pytest\npytest.importorskip('no_such_package')\n", "", *flags)
    assert done.returncode == 1 and "tests/test_it.py: Skipped: could not import" in done.stdout, done.stdout


def test_a_failing_session_stays_failed_and_a_reason_is_wanted(tmp_path):
    done = session(tmp_path, "def test_it():\n    assert False\n", "tests/test_it.py::test_egl\n")
    assert done.returncode != 0 and "reason" in done.stdout + done.stderr


def test_every_allowed_skip_names_a_test_that_exists():
    for line in (ROOT / "tests" / "allowed_skips.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            file, _, function = line.split("  ")[0].partition("::")
            assert (ROOT / file).exists(), f"allowed_skips.txt names {file}, which does not exist"
            name = re.split(r"[\[*?]", function)[0]
            assert not name or f"def {name}" in (ROOT / file).read_text(), f"no test {name} in {file}"


def packages() -> set[str]:
    """Folders with an __init__.py outside the tests, dotted."""
    found = set()
    for init in ROOT.glob("*/**/__init__.py"):
        parts = init.parent.relative_to(ROOT).parts
        if (
            parts[0] != "tests"
            and not parts[0].startswith(".")
            and not {"attempts", "runs", "build"} & set(parts)
        ):
            found.add(".".join(parts))
    return found


def test_pyproject_lists_every_package():
    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert set(named) == packages(), (
        "pyproject.toml [tool.setuptools] packages: one name per folder with __init__.py"
    )


def requirement_names(file: str) -> set[str]:
    lines = (ROOT / file).read_text().splitlines()
    found = (re.match(r"[A-Za-z0-9._-]+", line) for line in lines if not line.startswith(("#", "-")))
    return {re.sub(r"[._-]+", "-", match[0]).lower() for match in found if match}


def test_every_requirement_has_a_measured_version():
    wanted = requirement_names("requirements.txt") | requirement_names("requirements-dev.txt")
    assert len(wanted) > 15 and not wanted - requirement_names("constraints.txt")
    assert (ROOT / "requirements.txt").read_text().rstrip().endswith("-e .")


def house(folder: Path) -> Path:
    """A copy of what setup.sh needs, with a stand-in for .venv that is set up or not."""
    for name in ("requirements.txt", "requirements-dev.txt", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    (folder / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "setup.sh", folder / "scripts")
    return folder


@pytest.mark.skipif(os.name == "nt", reason="setup.sh is for bash")
def test_setup_is_quick_when_done_and_notices_changes(tmp_path):
    bin_dir = house(tmp_path) / ".venv" / "bin"
    bin_dir.mkdir(parents=True)
    calls = tmp_path / "calls"
    fake = bin_dir / "python"  # notes how it was called, and installs nothing
    fake.write_text(f'#!/bin/sh\necho "$@" >>{calls}\n')
    fake.chmod(0o755)

    def installs() -> int:
        done = run("bash", "scripts/setup.sh", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        lines = calls.read_text().splitlines() if calls.exists() else []
        calls.unlink(missing_ok=True)
        return sum("requirements.txt" in line and "constraints.txt" in line for line in lines)

    assert [installs(), installs(), installs()] == [1, 0, 0]
    with open(tmp_path / "constraints.txt", "a") as file:
        file.write("# changed\n")
    assert [installs(), installs()] == [1, 0]
    fake.write_text("#!/bin/sh\ncase $* in *install*) exit 1;; esac\n")  # no network
    (tmp_path / "pyproject.toml").write_text("")
    done = run("bash", "scripts/setup.sh", cwd=tmp_path)
    assert done.returncode == 2 and "setup: pip failed" in done.stderr
    assert run("bash", "scripts/setup.sh", cwd=tmp_path).returncode == 2, (
        "a failed setup is not a finished one"
    )


@pytest.mark.skipif(os.name == "nt", reason="setup.sh is for bash")
def test_setup_names_what_is_missing(tmp_path):
    house(tmp_path)
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    for tool in ("bash", "cat", "cksum", "dirname", "id", "uname"):
        (bin_dir / tool).symlink_to(shutil.which(tool))
    for name, line in (("python3", "echo 3.9; exit 1"), ("python3.12", "echo shim >&2; exit 127")):
        (bin_dir / name).write_text(f"#!{bin_dir}/bash\n{line}\n")
        (bin_dir / name).chmod(0o755)
    done = run("bash", "scripts/setup.sh", cwd=tmp_path, PATH=str(bin_dir), PYTHON="")
    assert done.returncode == 2
    assert "no Python 3.11, 3.12 or 3.13" in done.stderr and "apt-get install python3" in done.stderr
    done = run("bash", "scripts/setup.sh", cwd=tmp_path, PATH=str(bin_dir), PYTHON="python3")
    assert done.returncode == 2 and "PYTHON=python3 " in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_make_names_its_targets():
    text = (ROOT / "Makefile").read_text()
    for target in ("demo", "test", "learn", "bench", "figures"):
        assert f"\n{target}: setup\n" in text and f"make {target}" in text
    assert os.access(ROOT / ".ci" / "run", os.X_OK) and "make test" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_start_with_the_guard(script):
    """`cd paperN && python train.py` finds the repository, and takes no paper's utils.py for a library."""
    text = (ROOT / script).read_text()
    assert "\nif not __package__:" in text and text.index("if not __package__:") < text.index("\nfrom "), (
        script
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_answer_at_once(script):
    folder, name = (ROOT / script).parent, Path(script).name
    help_text = run(sys.executable, "-X", "importtime", name, "--help", cwd=folder)
    assert help_text.returncode == 0, help_text.stderr[-2000:]
    loaded = {line.rsplit("|", 1)[-1].strip() for line in help_text.stderr.splitlines()}
    assert "torch" not in loaded, f"{script} --help imports torch"
    wrong = run(sys.executable, name, "--no-such-flag", "3", cwd=folder)
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: ") and wrong.stderr.count("\n") == 1
