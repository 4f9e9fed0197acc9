"""The exercise machine: graders grade, templates keep all but the bodies, bad input gets one line."""

import ast
import importlib
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from common.errors import UserError
from solutions import attempts as tries
from solutions import exercises as script
from solutions import grading
from solutions.catalogue import ROOT, load
from solutions.splice import find, parse, replace_bodies, spliced

SCRIPT = ROOT / "solutions" / "exercises.py"
EXERCISES = load()
PAPERS = sorted({e.paper for e in EXERCISES})
IDS = [e.id for e in EXERCISES]
FIRST = EXERCISES[0]


def run(*words: str, cwd: Path = ROOT, program: Path = SCRIPT, patience: int = 300):
    return subprocess.run(
        [sys.executable, str(program), *words], cwd=cwd, capture_output=True, text=True, timeout=patience
    )


def started(folder: Path, paper: str = PAPERS[0]) -> Path:
    """Attempts with blank templates."""
    script.main(["start", paper, "--attempts", str(folder)])
    return folder


def fill(folder: Path, exercise_id: str, body: str) -> None:
    """Write a body into an attempt."""
    exercise = next(e for e in EXERCISES if e.id == exercise_id)
    path = folder / exercise.paper / exercise.file
    pad = " " * exercise.node.body[0].col_offset
    lines = [pad + line if line else "" for line in body.strip().splitlines()]
    text = replace_bodies(path.read_text(), path, {exercise.function: "\n".join(lines)})
    path.write_text(text)


def status(argv: list[str], folder: Path) -> int:
    """Exit code of a command, run in this process."""
    try:
        script.main([*argv, "--attempts", str(folder)])
    except SystemExit as stop:
        return stop.code
    return 0


# -- the catalogue


@pytest.mark.parametrize("exercise", EXERCISES, ids=IDS)
def test_every_exercise_is_complete(exercise):
    assert IDS.count(exercise.id) == 1
    assert ast.get_docstring(exercise.node), "the template keeps the docstring, so there must be one"
    assert len(exercise.hints) >= 2 and len(exercise.mistakes) >= 3 and 0 < exercise.hours <= 3
    for test in exercise.tests:
        file, name = test.split("::")
        assert find(parse((ROOT / file).read_text(), file), name), test
    answers = (ROOT / "solutions" / exercise.paper / "ANSWERS.md").read_text()
    assert re.search(rf"^## {exercise.id}\b", answers, re.M), f"ANSWERS.md has no section {exercise.id}"


def test_the_selftest_passes():
    done = run("selftest", patience=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(re.search(rf"^{e} ", done.stdout, re.M) for e in IDS)


def selftest_with(monkeypatch, verdict) -> int:
    """The selftest's exit code when `verdict(label)` says whether a variant's tests pass."""

    def grade(variants):
        outcome = {True: grading.Outcome(passed=1), False: grading.Outcome(failed=1, complaint="E  wrong")}
        return {v: {test: outcome[verdict(v.label)] for test in v.exercise.tests} for v in variants}

    monkeypatch.setattr(grading, "grade", grade)
    return status(["selftest", FIRST.id], Path("unused"))


def test_the_selftest_can_fail(monkeypatch, capsys):
    assert selftest_with(monkeypatch, lambda label: label == "reference") == 0
    assert selftest_with(monkeypatch, lambda label: False) == 1
    assert "the reference fails" in capsys.readouterr().out
    assert selftest_with(monkeypatch, lambda label: label in ("reference", "blank")) == 1
    assert "grades nothing" in capsys.readouterr().out
    assert selftest_with(monkeypatch, lambda label: label != "blank") == 1
    assert f"notices the mistake: {FIRST.mistakes[0].what}" in capsys.readouterr().out


# -- start


@pytest.mark.parametrize("paper", PAPERS)
def test_templates_are_the_paper_without_the_bodies(tmp_path, paper):
    started(tmp_path, paper)
    found = (p.relative_to(ROOT / paper) for p in (ROOT / paper).rglob("*.py"))
    sources = {name.as_posix() for name in found if not tries.SKIPPED & set(name.parts)}
    assert sources == {p.relative_to(tmp_path / paper).as_posix() for p in (tmp_path / paper).rglob("*.py")}
    guard = re.compile(r"sys\.path\[.*")
    for name in sources:
        ours, theirs = (tmp_path / paper / name).read_text(), (ROOT / paper / name).read_text()
        bodies = {}
        for e in EXERCISES:
            if (e.paper, e.file) == (paper, name):
                node = find(parse(ours, name), e.function)
                assert ast.get_docstring(node, False) == ast.get_docstring(e.node, False)
                assert ast.unparse(node.args) == ast.unparse(e.node.args)
                assert f"# TODO {e.id}: " in ours and tries.is_blank(ours, e)
                first, last = e.node.body[0].end_lineno, e.node.end_lineno
                bodies[e.function] = "\n".join(theirs.splitlines()[first:last])
        restored = replace_bodies(ours, name, bodies)
        assert guard.sub("", restored) == guard.sub("", theirs)  # all else is the paper's, letter by letter


def test_an_attempt_is_never_overwritten(tmp_path, capsys):
    paper = PAPERS[0]
    started(tmp_path)
    fill(tmp_path, FIRST.id, "return 'my work'")
    with pytest.raises(UserError, match="exists.*--force"):
        started(tmp_path)
    for number in (1, 2):
        assert status(["start", paper, "--force"], tmp_path) == 0
        kept = tmp_path / f"{paper}.old-{number}" / FIRST.file
        assert ("my work" in kept.read_text()) == (number == 1)
    assert "my work" not in (tmp_path / paper / FIRST.file).read_text()


def test_single_exercises_can_be_blanked(tmp_path):
    script.main(["start", FIRST.paper, "--only", FIRST.id, "--attempts", str(tmp_path)])
    text = "".join(path.read_text() for path in (tmp_path / FIRST.paper).rglob("*.py"))
    assert re.findall(r"# TODO ([\w-]+):", text) == [FIRST.id]


def test_an_attempts_script_finds_the_attempts_first(tmp_path):
    """STYLE rule 4, from a folder that is neither the repository nor inside it; and inside it."""
    paper = "paper1_world_models"
    folder = started(tmp_path, paper) / paper
    done = run("--preset", "tiny", "--dry-run", cwd=folder, program=folder / "train.py")
    assert done.returncode == 0 and "none (--dry-run)" in done.stdout, done.stderr
    (folder / "controller.py").write_text("raise SystemExit('this is the attempt')\n")
    done = run("--preset", "tiny", "--dry-run", cwd=folder, program=folder / "train.py")
    assert "this is the attempt" in done.stderr
    assert "parents[2]" in tries.attempt_guard(ROOT / "attempts")  # the usual place may be moved as a whole


# -- check


@pytest.fixture(scope="module")
def solved(tmp_path_factory) -> Path:
    """Attempts at paper 1 with bodies unlike the reference's, checked in one process."""
    folder = started(tmp_path_factory.mktemp("attempts"), "paper1_world_models")
    ways = tomllib.loads(Path(__file__).with_name("other_ways.toml").read_text())
    assert set(ways) == {e.id for e in EXERCISES if e.paper == "paper1_world_models"}
    for exercise_id, body in ways.items():
        fill(folder, exercise_id, body)
    path = folder / "paper1_world_models" / "vae.py"
    path.write_text(
        "import math as m\n" + path.read_text() + "\n\ndef my_sigma(v):\n    return m.e ** (v / 2)\n"
    )
    done = run("check", "paper1_world_models", "--attempts", str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(ways)} of {len(ways)} passed" in done.stdout
    return folder


def test_other_ways_pass_and_an_unfinished_neighbour_fails_nobody(solved, tmp_path, capsys):
    shutil.copytree(solved, tmp_path / "a")
    folder = tmp_path / "a"
    fill(folder, "p1-kl", "print('look', mu.shape)\nreturn (mu - logvar).sum(-1)")  # wrong
    fill(folder, "p1-vae-loss", 'raise NotImplementedError("later")')  # unfinished, in the same file
    done = run("check", "p1-kl", "p1-vae-loss", "p1-resample", "--attempts", str(folder))
    assert done.returncode == 1 and "1 of 3 passed" in done.stdout, done.stdout + done.stderr
    kl, draw, loss = re.split(r"^p1-[\w-]+: ", done.stdout, flags=re.M)[1:]
    assert "FAIL  test_kl_per_dimension  (" in kl and "hint p1-kl" in kl and "look torch.Size" in kl
    assert "not begun" in loss and "pass  test_resampling" in draw and "passed" in draw
    script.main(["list", "--attempts", str(folder)])
    states = dict(
        line.split()[0:4:3] for line in capsys.readouterr().out.splitlines() if line.startswith("  p1")
    )
    assert states["p1-kl"] == "changed" and states["p1-vae-loss"] == "blank" and states["p1-nll"] == "passed"


@pytest.mark.parametrize(
    "words, message",
    [
        (["check", "p1-kll"], r"no exercise 'p1-kll' \(did you mean p1-kl\?\).* list"),
        (["check"], "check takes exercise ids"),
        (["chekc", "p1-kl"], r"unknown command 'chekc' \(did you mean check\?\)"),
        (["start"], "it takes one paper"),
        (["start", "paper9"], "it takes one paper"),
        (["start", "paper1_world_models", "--only", "p1-x"], "no exercise 'p1-x'"),
        (["hint"], "hint takes one exercise id"),
        (["hint", "p1-kl", "9"], "there are hints 1 to 3"),
        (["hint", "p1-kl", "p1-nll"], "there are hints 1 to 3"),
        (["show", "p1-kl", "p1-nll"], "show takes one exercise id"),
        (["diff", "paper1_world_models"], "diff takes one exercise id"),
        (["check", "p1-kl"], "no attempt .*vae.py: write the templates with .* start paper1_world_models"),
        (["diff", "p1-kl"], "no attempt"),
        (["list", "--frce"], "unknown flag --frce"),
    ],
)
def test_bad_input_names_what_to_type(tmp_path, words, message):
    with pytest.raises(UserError, match=message) as error:
        script.main([*words, "--attempts", str(tmp_path / "none")])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("def kl_divergence(mu", "def kl_divergence(mu((", r"vae.py line \d+: .*; mend it"),
        ("def kl_divergence(mu", "def kl(mu", "has no function kl_divergence any more"),
        ("kl_divergence(mu: Tensor,", "kl_divergence(mean,", r"must stay kl_divergence\(mu, logvar\)"),
    ],
)
def test_an_attempt_that_cannot_be_graded_is_named(tmp_path, old, new, message):
    path = started(tmp_path, "paper1_world_models") / "paper1_world_models" / "vae.py"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(UserError, match=message):
        script.main(["check", "p1-kl", "--attempts", str(tmp_path)])
    with pytest.raises(UserError, match=message):
        script.main(["diff", "p1-kl", "--attempts", str(tmp_path)])
    script.main(["list", "--attempts", str(tmp_path)])  # still answers


def test_the_script_ends_with_one_line_and_2_and_needs_no_torch(tmp_path):
    done = run("check", "p1-kll")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from solutions.exercises import main; main(['list'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code + "; assert 'torch' not in sys.modules"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_torn_progress_file_is_no_obstacle(tmp_path, capsys):
    (tmp_path / "progress.json").write_text("{")
    script.main(["list", "--attempts", str(tmp_path)])
    assert "0 of" in capsys.readouterr().out


# -- hint, show, diff


def test_hints_come_in_steps(capsys):
    script.main(["hint", FIRST.id])
    one = capsys.readouterr().out
    script.main(["hint", FIRST.id, "2"])
    two = capsys.readouterr().out
    assert FIRST.hints[0] in one and FIRST.hints[1] not in one and f"hint {FIRST.id} 2" in one
    assert FIRST.hints[0] in two and FIRST.hints[1] in two


def test_show_and_diff(tmp_path, capsys):
    script.main(["show", "p1-nll"])
    out = capsys.readouterr().out
    assert "def mdn_nll(" in out and "logsumexp" in out and "def done_loss" not in out
    started(tmp_path, "paper1_world_models")
    capsys.readouterr()
    script.main(["diff", "p1-nll", "--attempts", str(tmp_path)])
    out = capsys.readouterr().out
    assert "-    raise NotImplementedError" in out and "+    scaled = " in out and "kl_divergence" not in out
    exercise = next(e for e in EXERCISES if e.id == "p1-nll")
    shutil.copy(exercise.path, tmp_path / exercise.paper / exercise.file)
    script.main(["diff", "p1-nll", "--attempts", str(tmp_path)])
    assert "letter by letter" in capsys.readouterr().out


# -- splicing

MODULE = '''
import functools
def plus(f):
    @functools.wraps(f)
    def inner(*args):
        return f(*args) + 100
    return inner
def twice(x, by=2):
    """d"""
    return x * by
class Box:
    @classmethod
    @plus
    def make(cls, x):
        """d"""
        return twice(x)
    def get(self, x):
        """d"""
        return x
'''


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "spliced_module.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("spliced_module")
    del sys.modules["spliced_module"]


def test_splicing_swaps_one_function_and_brings_helpers(module):
    taken, box = module.twice, module.Box()  # whoever imported it before gets the new code too
    attempt = (
        MODULE.replace("x * by", "helper(x) + math.floor(by)")
        + "\nimport math\ndef helper(x):\n    return -x\n"
    )
    with spliced("spliced_module", "twice", attempt.replace("by=2", "by=7"), "a.py"):
        assert taken(5) == 2 and module.Box.make(5) == 102
    assert taken(5) == 10 and not hasattr(module, "helper") and not hasattr(module, "math")
    attempt = MODULE.replace("return twice(x)", "return cls().mine(x)").replace("x * by", "1 / 0")
    attempt += "    def mine(self, x):\n        return x + 1\n"
    with spliced("spliced_module", "Box.make", attempt, "a.py"):
        assert module.Box.make(5) == 106  # decorators stay, and twice is the reference's
        assert box.get(3) == 3
    assert module.Box.make(5) == 110 and not hasattr(module.Box, "mine")


def test_an_error_leaves_the_reference_as_it_was(module):
    with pytest.raises(ZeroDivisionError):
        with spliced("spliced_module", "twice", MODULE.replace("x * by", "1 / 0"), "attempt.py"):
            module.twice(1)
    with pytest.raises(ModuleNotFoundError):
        with spliced("spliced_module", "twice", MODULE + "\nimport no_such_module_at_all\n", "attempt.py"):
            pass
    assert module.twice(4) == 8


def test_progress_is_written_beside_the_attempts(solved):
    assert set(json.loads((solved / "progress.json").read_text())) == {
        e.id for e in EXERCISES if e.paper == "paper1_world_models"
    }


@pytest.mark.parametrize("path", sorted((ROOT / "solutions").rglob("*.md")), ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    text = path.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert link.startswith("http") or target.exists(), link
        if anchor and target.suffix == ".md":
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.M)
            found = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in found, link
