"""The exercises of the course: templates of the papers' functions, a grader, hints, the worked code.

    python solutions/exercises.py list                 what there is, and how far you are
    python solutions/exercises.py start PAPER          write attempts/PAPER, its exercises blanked
    python solutions/exercises.py check ID             grade one (or several ids, or a whole PAPER)
    python solutions/exercises.py hint ID [N]          the first N hints, each gives away more
    python solutions/exercises.py show ID | diff ID    the reference | your attempt against it
    python solutions/exercises.py selftest             prove that the graders grade

A check puts the one function of your attempt into the reference, so an unfinished neighbour cannot fail it.
Exit code 0: passed, 1: not yet, 2: bad input.
"""

if not __package__:  # run as a script: the repository root, not this folder, goes on the path
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

import difflib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from common.cli import run_main
from common.errors import UserError
from common.flags import parse
from solutions import attempts as tries
from solutions.attempts import ME
from solutions.catalogue import ROOT, Exercise, choose, load, template
from solutions.splice import find
from solutions.splice import parse as parse_source


@dataclass(frozen=True, kw_only=True)
class Args:
    """What to do, and with what."""

    command: tyro.conf.Positional[str]
    """list, start, check, hint, show, diff or selftest."""
    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Exercise ids or a paper's folder."""
    only: tuple[str, ...] = ()
    """start: blank these exercises alone, the rest of the paper stays finished."""
    force: tyro.conf.FlagCreatePairsOff[bool] = False
    """start: begin anew; the attempt that is there is moved aside."""
    attempts: Path = ROOT / "attempts"
    """Folder of the attempts."""


def short(path: Path) -> str:
    """The path as one would type it here."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def list_exercises(args: Args, exercises: Sequence[Exercise]) -> int:
    """One line per exercise, with what the attempts say."""
    chosen, passed = choose(exercises, args.names), tries.read_progress(args.attempts)
    states = [tries.state_of(args.attempts, e, passed) for e in chosen]
    paper = ""
    for e, state in zip(chosen, states, strict=True):
        if e.paper != paper:
            paper = e.paper
            print(f"{paper}  (begin with {ME} start {paper})" if state == "-" else paper)
        print(f"  {e.id:<22}{e.hours:>5g} h  {state:<8} {e.title}  ({e.file})")
    print(f"{states.count('passed')} of {len(chosen)} passed; {sum(e.hours for e in chosen):g} hours in all")
    return 0


def start(args: Args, exercises: Sequence[Exercise]) -> int:
    """Copy a paper into the attempts, with the bodies of its exercises blanked."""
    papers = list(dict.fromkeys(e.paper for e in exercises))
    if len(args.names) != 1 or args.names[0] not in papers:
        raise UserError(f"start {' '.join(args.names)}: it takes one paper, {' or '.join(papers)}")
    paper = args.names[0]
    mine = [e for e in choose(exercises, args.only) if e.paper == paper]
    if not mine:
        raise UserError(f"--only {' '.join(args.only)}: no exercise of {paper}; see {ME} list {paper}")
    target = args.attempts / paper
    if target.exists():
        if not args.force:
            raise UserError(
                f"{short(target)} exists: go on with it, or begin anew with {ME} start {paper} --force"
            )
        print(f"the old attempt is now {short(tries.set_aside(target))}")
    tries.write_templates(args.attempts, paper, mine)
    first = mine[0]
    print(f"wrote {short(target)}: {len(mine)} functions to write, {sum(e.hours for e in mine):g} hours")
    print(f"begin with {first.function} in {short(target / first.file)}, then {ME} check {first.id}")
    return 0


def check(args: Args, exercises: Sequence[Exercise]) -> int:
    """Grade attempts; 0 if all pass."""
    if not args.names:
        raise UserError(f"check takes exercise ids, or a paper: see {ME} list")
    chosen = choose(exercises, args.names)
    found = {e.id: tries.read_attempt(args.attempts, e) for e in chosen}
    begun = [e for e in chosen if not tries.is_blank(found[e.id][0], e)]
    if begun:
        from solutions.grading import Variant, grade  # torch from here on

        variants = {e.id: Variant(e, "attempt", *found[e.id]) for e in begun}
        grades = grade(list(variants.values()))
    passed = tries.read_progress(args.attempts)
    good = 0
    for e in chosen:
        text, path = found[e.id]
        line = find(parse_source(text, path), e.function).lineno
        print(f"{e.id}: {e.title}  ({short(path)}:{line})")
        if e not in begun:
            print(f"  not begun: write the body, then check again; stuck? {ME} hint {e.id}")
        elif report(e, grades[variants[e.id]]):
            good += 1
            passed[e.id] = tries.digest(tries.function_in(text, e))
    tries.write_progress(args.attempts, passed)
    if len(chosen) > 1:
        print(f"{good} of {len(chosen)} passed")
    return int(good < len(chosen))


def report(exercise: Exercise, outcomes: dict) -> bool:
    """Print what each grading test says; whether all passed."""
    for test in exercise.tests:
        outcome = outcomes[test]
        cases = outcome.passed + outcome.failed
        count = f"  ({outcome.failed} of {cases} cases)" if outcome.failed and cases > 1 else ""
        print(f"  {'pass' if outcome.is_passed else 'FAIL'}  {test.split('::')[-1]}{count}")
    wrong = [test for test in exercise.tests if not outcomes[test].is_passed]
    if wrong:
        print(f"\n{wrong[0]} says:\n{outcomes[wrong[0]].complaint}\n")
        print(f"not yet: {len(wrong)} of {len(exercise.tests)} tests fail; {ME} hint {exercise.id}")
    else:
        print(f"  passed; compare: {ME} diff {exercise.id}, then solutions/{exercise.paper}/ANSWERS.md")
    return not wrong


def hint(args: Args, exercises: Sequence[Exercise]) -> int:
    """The first hints of one exercise."""
    *ids, last = args.names or ("",)
    count = last if ids else "1"
    exercise = one(exercises, ids or [last], "hint")
    total = len(exercise.hints)
    if not count.isdigit() or not 1 <= int(count) <= total:
        raise UserError(f"hint {exercise.id} {count}: there are hints 1 to {total}")
    for number, text in enumerate(exercise.hints[: int(count)], 1):
        print(f"hint {number} of {total}: {text}")
    if int(count) < total:
        print(f"more: {ME} hint {exercise.id} {int(count) + 1}")
    return 0


def one(exercises: Sequence[Exercise], names: Sequence[str], command: str) -> Exercise:
    """Exactly one exercise by its id."""
    found = choose(exercises, names) if names and names[0] else []
    if len(names) != 1 or len(found) != 1:
        raise UserError(f"{command} takes one exercise id: see {ME} list")
    return found[0]


def show(args: Args, exercises: Sequence[Exercise]) -> int:
    """The reference code of one exercise."""
    exercise = one(exercises, args.names, "show")
    print(f"# {exercise.path.relative_to(ROOT)}:{exercise.node.lineno}\n{exercise.source}", end="")
    print(f"# derivation, shapes, classic mistakes: solutions/{exercise.paper}/ANSWERS.md, {exercise.id}")
    return 0


def diff(args: Args, exercises: Sequence[Exercise]) -> int:
    """The attempt against the reference, this function alone."""
    exercise = one(exercises, args.names, "diff")
    text, path = tries.read_attempt(args.attempts, exercise)
    ours, theirs = tries.function_in(text, exercise).splitlines(), exercise.source.splitlines()
    lines = difflib.unified_diff(ours, theirs, short(path), str(exercise.path.relative_to(ROOT)), lineterm="")
    print("\n".join(lines) or "the same, letter by letter")
    return 0


def selftest(args: Args, exercises: Sequence[Exercise]) -> int:
    """The reference passes; the blank fails every grading test; every classic mistake fails one."""
    from solutions.grading import Variant, grade

    begun, variants, chosen = time.time(), [], choose(exercises, args.names)
    for e in chosen:
        texts = {"reference": e.text, "blank": template(e.text, e.path, [e])}
        texts |= {f"mistake: {m.what}": e.with_mistake(m) for m in e.mistakes}
        variants += [Variant(e, label, text, f"{e.path} ({label})") for label, text in texts.items()]
    grades, wrong = grade(variants), []
    for variant in variants:
        e, outcomes = variant.exercise, grades[variant]
        passed = [test for test in e.tests if outcomes[test].is_passed]
        if variant.label == "reference" and len(passed) < len(e.tests):
            bad = next(test for test in e.tests if test not in passed)
            wrong.append(f"{e.id}: the reference fails {bad}\n{outcomes[bad].complaint}")
        elif variant.label == "blank" and passed:
            wrong.append(f"{e.id}: the blank passes {passed[0]}, which therefore grades nothing")
        elif variant.label.startswith("mistake") and len(passed) == len(e.tests):
            wrong.append(f"{e.id}: no grading test notices the {variant.label}")
    for e in chosen:
        print(
            f"{e.id:<22}{len(e.tests)} tests: the reference passes, blank and {len(e.mistakes)} mistakes fail"
        )
    if wrong:
        print("except:\n" + "\n".join(wrong))
    print(f"{len(variants)} variants of {len(chosen)} exercises in {time.time() - begun:.1f} s")
    return int(bool(wrong))


COMMANDS = {
    "list": list_exercises,
    "start": start,
    "check": check,
    "hint": hint,
    "show": show,
    "diff": diff,
    "selftest": selftest,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, do it, exit with its code."""
    args = parse(Args, list(sys.argv[1:] if argv is None else argv), __doc__)
    if args.command not in COMMANDS:
        near = difflib.get_close_matches(args.command, COMMANDS, n=1)
        guess = f" (did you mean {near[0]}?)" if near else ""
        raise UserError(f"unknown command {args.command!r}{guess}: it is one of {', '.join(COMMANDS)}")
    if code := COMMANDS[args.command](args, load()):
        sys.exit(code)


if __name__ == "__main__":
    run_main(main)
