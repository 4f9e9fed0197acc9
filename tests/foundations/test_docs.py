"""The documents of foundations/: commands parse, files exist, each table names all files of its folder."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from common.flags import parse
from foundations.commands import check_args

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "IMPLEMENTATION_GUIDE.md"
READMES = [ROOT / "foundations" / "README.md", ROOT / "foundations" / "tssm" / "README.md"]
FENCE = re.compile(r"^```bash\n(.*?)^```$", re.S | re.M)


def chapter() -> str:
    return re.search(r"^## Chapter 0: .*?(?=^## )", GUIDE.read_text(), re.S | re.M)[0]


def commands() -> list[str]:
    """Every `python ...foundations...` in the texts, in blocks and between backticks."""
    texts = [
        chapter(),
        *(path.read_text() for path in READMES),
        (ROOT / "solutions/foundations/ANSWERS.md").read_text(),
    ]
    found = []
    for text in texts:
        text = text.replace("\n--", " --")
        found += re.findall(r"^(?:python|\.venv/bin/python) [^\n#]*foundations[^\n#]*", text, re.M)
        found += re.findall(r"`(python [^`]*foundations[^`]*)`", text)
    return sorted({line.strip() for line in found})


def check(line: str, out: Path) -> None:
    """Parse it with the command's own dataclass; nothing runs."""
    words = shlex.split(line)[1:]
    if words[0] != "-m":
        name, flags = words[0].removesuffix(".py").replace("/", "."), words[1:]
    else:
        name, flags = words[1], words[2:]
    package = importlib.import_module(name)
    if hasattr(package, "__path__"):
        module = importlib.import_module(f"{name}.commands" if name.endswith("tssm") else f"{name}.__main__")
        assert flags[0] in module.COMMANDS, line
        args = parse(module.COMMANDS[flags[0]].args, flags[1:], "")
    else:
        kinds = [
            kind
            for kind in vars(package).values()
            if getattr(kind, "__module__", "") == name
            and isinstance(kind, type)
            and kind.__name__.endswith("Args")
        ]
        args = parse(kinds[0], flags, "")
    if hasattr(args, "out"):
        object.__setattr__(args, "out", out)
        check_args(args)


def test_there_are_commands():
    assert len(commands()) > 30


@pytest.mark.parametrize("line", commands())
def test_every_command_parses(line, tmp_path):
    check(line, tmp_path)


def test_a_wrong_flag_is_found(tmp_path):
    with pytest.raises(Exception, match="--episode"):
        check("python -m foundations.dyna.data_collection --episode 3", tmp_path)


@pytest.mark.parametrize("path", READMES, ids=lambda path: path.parent.name)
def test_every_file_in_the_tables_exists(path):
    rows = re.findall(r"^\| (`[^|]*) \|", path.read_text(), re.M)
    names = [name for row in rows for name in re.findall(r"`([\w/]+\.py)`", row)]
    folders = [path.parent, *(path.parent / part for part in ("dyna", "minigrid", "tssm"))]
    assert len(names) > 10
    for name in names:
        assert name == "world_models_demo.py" or any((folder / name).is_file() for folder in folders), name
    for folder in {"foundations": ("dyna", "minigrid"), "tssm": (".",)}[path.parent.name]:
        there = {file.name for file in (path.parent / folder).glob("*.py")} - {"__init__.py", "__main__.py"}
        assert there <= set(names), f"{folder}: {there - set(names)} stand in no table"


def test_what_is_said_of_the_network_is_counted():
    from foundations.dyna.world_model import PLAIN, DynamicsModel, count_parameters

    count = f"{count_parameters(DynamicsModel(4, 2, PLAIN)):,}"
    assert count == "2,596"
    assert all(count in text for text in (READMES[0].read_text(), chapter()))


def test_every_source_is_a_complete_entry():
    entries = re.findall(r"^@(\w+)\{(\w+), (.*)\}$", (ROOT / "foundations/references.bib").read_text(), re.M)
    assert len(entries) >= 15 and len({key for _, key, _ in entries}) == len(entries)
    assert all("title = {" in body and "year = {" in body for _, _, body in entries)
