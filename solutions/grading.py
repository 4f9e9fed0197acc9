"""One pytest session grades any number of variants: a grading test runs once per variant of its exercise.

A variant is a file's text with its own code for one function: the reference, the blank template, the
reference with a classic mistake, or a student's attempt.  torch is imported once, however many there are.
"""

import contextlib
import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from common.errors import UserError
from solutions.catalogue import ROOT, Exercise
from solutions.splice import spliced


@dataclass(frozen=True)
class Variant:
    """Some code for an exercise."""

    exercise: Exercise
    label: str
    text: str  # of the whole file
    path: Path | str  # where tracebacks say it stands


@dataclass
class Outcome:
    """What became of one grading test: its cases, and what the first failing one says."""

    passed: int = 0
    failed: int = 0
    complaint: str = ""

    @property
    def is_passed(self) -> bool:
        """All cases passed, and there were some."""
        return self.passed > 0 and not self.failed


Grades = dict[Variant, dict[str, Outcome]]  # test id -> outcome


@dataclass(eq=False)  # pytest keeps its plugins in a set
class Grader:
    """The pytest plugin."""

    variants: Sequence[Variant]
    grades: Grades = field(default_factory=lambda: defaultdict(lambda: defaultdict(Outcome)))
    broken: list[str] = field(default_factory=list)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Multiply each grading test by the variants that it grades."""
        test = metafunc.definition.nodeid
        cases = [v for v in self.variants if test in v.exercise.tests]
        metafunc.parametrize(
            "variant_", cases, indirect=True, ids=[f"{v.exercise.id} {v.label}" for v in cases]
        )

    @pytest.fixture(autouse=True)
    def variant_(self, request: pytest.FixtureRequest):
        """Put the variant's code into the reference while its test runs."""
        variant: Variant = request.param
        exercise = variant.exercise
        if variant.label.startswith("mistake") and any(o.failed for o in self.grades[variant].values()):
            pytest.skip("one failure is enough to know a mistake by")
        with spliced(exercise.module, exercise.function, variant.text, variant.path):
            yield

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Function, call: pytest.CallInfo):
        """Count; a skip counts as a failure, for it grades nothing."""
        report = yield
        if report.when == "call" or not report.passed:
            test = item.nodeid.split("[")[0]
            outcome = self.grades[item.callspec.params["variant_"]][test]
            if report.passed:
                outcome.passed += 1
            else:
                outcome.failed += 1
                outcome.complaint = outcome.complaint or _complaint(report)
        return report

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A test file that cannot be imported."""
        if report.failed:
            self.broken.append(f"{report.nodeid}: {str(report.longrepr).strip().splitlines()[-1]}")


def grade(variants: Sequence[Variant]) -> Grades:
    """Run the grading tests of all variants.  UserError where a test does not exist or cannot be imported."""
    tests = sorted({test for variant in variants for test in variant.exercise.tests})
    grader, said = Grader(variants), io.StringIO()
    options = ["--tb=short", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = pytest.main([*options, *(str(ROOT / test) for test in tests)], plugins=[grader])
    if grader.broken:
        raise UserError(f"a grading test cannot be read: {grader.broken[0]}")
    if code == pytest.ExitCode.INTERRUPTED:
        raise KeyboardInterrupt
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        lines = [line for line in said.getvalue().splitlines() if line.startswith("ERROR")]
        raise UserError(lines[0] if lines else f"pytest ended with {code}: {said.getvalue()[-300:]!r}")
    return grader.grades


def _complaint(report: pytest.TestReport) -> str:
    """The short traceback, and what the code printed."""
    text = report.longreprtext if isinstance(report.longreprtext, str) else str(report.longrepr)
    return text + (f"\nprinted:\n{report.capstdout}" if report.capstdout else "")
