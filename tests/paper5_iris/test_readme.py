"""README.md of paper 5 says what the presets, the code and the stored scores say, and its flags exist."""

import ast
import re
import shlex
from pathlib import Path

import pytest

from common.cli import parse_train
from common.config import fields_of
from common.scores import atari_scores
from paper5_iris.eval import Args as EvalArgs
from paper5_iris.presets import PRESETS, SUITES
from paper5_iris.sample import Args as SampleArgs
from paper5_iris.visualize import Args as VisualizeArgs

FOLDER = Path(__file__).resolve().parents[2] / "paper5_iris"
TEXT = (FOLDER / "README.md").read_text(encoding="utf-8")
PROSE = re.sub(r"^```.*?^```$", "", TEXT, flags=re.S | re.M)
CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")


def section(heading: str) -> str:
    return TEXT.split(f"\n{heading}\n", 1)[1].split("\n## ", 1)[0]


def show(value) -> str:
    """A setting as the README writes it."""
    if value is None or value == ():
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else value


def test_the_preset_table_is_what_the_presets_say():
    settings = [dict(fields_of(preset)) for preset in PRESETS.values()]
    lines = ["| field | " + " | ".join(f"`{name}`" for name in PRESETS) + " |"]
    lines.append("|" + "---|" * (len(PRESETS) + 1))
    for name in settings[0]:
        values = [setting[name] for setting in settings]
        if any(value != values[0] for value in values):
            lines.append(f"| `{name}` | " + " | ".join(map(show, values)) + " |")
    wanted = "\n".join(lines)
    assert wanted in section("## Presets"), f"put this table into the README:\n{wanted}"


def test_published_scores_are_the_stored_ones():
    scores, part = atari_scores(), section("## Published scores")
    for game, row in scores["games"].items():
        random, human, ours = row["random"], row["human"], row["IRIS"]
        seeds = scores["iris_seeds"][game]
        cells = [game, *(f"{value:,.1f}" for value in (random, human, ours))]
        cells += [f"{min(seeds):,.1f} to {max(seeds):,.1f}", f"{(ours - random) / (human - random):.2f}"]
        assert f"| {' | '.join(cells)} |" in part, game
    printed = scores["printed"]["IRIS"]
    for name in ("mean", "median", "iqm", "optimality_gap", "superhuman"):
        assert f" {printed[name]}" in part, name


def test_the_reading_order_names_every_file():
    named = set(CODE.findall(section("## Reading order")))
    assert not {path.name for path in FOLDER.glob("*.py")} - {"__init__.py"} - named


def defined_in(file: Path) -> set[str]:
    """f, Class, Class.f and f of a class, NAME."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
            inner = node.body if isinstance(node, ast.ClassDef) else []
            names |= {f"{node.name}.{n.name}" for n in inner if isinstance(n, ast.FunctionDef)}
    return names


def test_every_part_of_the_method_is_where_it_says():
    found = 0
    for row in section("## The method in brief").splitlines():
        known: set[str] = set()
        for code in CODE.findall(row) if row.startswith("| ") else ():
            file, _, name = code.partition(": ")
            if name:
                known = defined_in(FOLDER / file)
            assert (name or code) in known, f"{row}: no {code}"
            found += 1
    assert found > 12


def test_every_deviation_of_the_code_is_listed():
    listed, found = set(CODE.findall(section("## Deviations and switches"))), 0
    for path in FOLDER.glob("*.py"):
        lines = path.read_text().splitlines()
        for number in (i for i, line in enumerate(lines, 1) if "# differs" in line):
            inside = [
                node
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.FunctionDef) and node.lineno <= number <= node.end_lineno
            ]
            name = max(inside, key=lambda node: node.lineno).name
            assert any(re.fullmatch(rf"{path.name}: (\w+\.)?{name}", code) for code in listed), (path, number)
            found += 1
    assert found


OTHER = {
    f"--{name.replace('_', '-')}"
    for cls in (EvalArgs, VisualizeArgs, SampleArgs)
    for name in cls.__dataclass_fields__
}


@pytest.mark.parametrize(
    "flags", sorted({code for code in CODE.findall(PROSE) if code.startswith("--")}), ids=lambda flags: flags
)
def test_every_flag_in_the_text_exists(flags):
    words = shlex.split(flags)
    if words[0] in {*OTHER, "--resume", "--dry-run", "--preset"} and len(words) <= 2:
        return
    names = {f"--{name.replace('_', '-')}" for name, _ in fields_of(PRESETS["paper"])}
    if len(words) == 1 and words[0] in names:
        return
    line = ["--preset", "paper", "--env", "atari_breakout", *words]
    if words[0] == "--perceptual-weights":
        line[-1] = "vgg16.pth"
    parse_train(line, PRESETS, SUITES, default_env="toy_catch", description="")


def test_the_picture_sizes_have_so_many_tokens():
    rows = re.findall(r"^\| (\d+) \| `([1 ]+)` \| (\d+) \|$", section("## Your own task"), re.M)
    assert len(rows) == 6
    for side, mults, tokens in rows:
        assert (int(side) >> (len(mults.split()) - 1)) ** 2 == int(tokens)
