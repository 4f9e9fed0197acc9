"""The documents say what is: commands parse, links lead somewhere, names and numbers exist, snippets run.

Numbers of our own runs are drawn by benchmarks/figures.py and checked in tests/benchmarks; here are the
commands, links, code references, metric and preset tables, and the Python of README.md,
IMPLEMENTATION_GUIDE.md and paper1_world_models/README.md.
"""

import ast
import importlib
import importlib.util
import json
import re
import shlex
import shutil
import textwrap
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tyro

from benchmarks.results import CURVE, load_records
from common.cli import EvalArgs, VisualizeArgs, parse_eval, parse_train, parse_visualize
from common.config import fields_of, override, resolve
from common.env_wrapper import SUITES as ENV_SUITES
from common.env_wrapper import check_name, scores, suite_of
from common.errors import UserError
from common.flags import parse
from common.logger import read_metrics
from paper1_world_models import eval as eval_script
from paper1_world_models import experiments, visualize
from paper1_world_models import train as train_script
from paper1_world_models.config import Config
from paper1_world_models.presets import PRESETS, SUITES

ROOT = Path(__file__).resolve().parents[1]
PAPER1 = ROOT / "paper1_world_models"
README, GUIDE, PAPER = ROOT / "README.md", ROOT / "IMPLEMENTATION_GUIDE.md", PAPER1 / "README.md"
DOCS = [README, GUIDE, PAPER]
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.S | re.M)
CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LATER = re.compile(r"^## Chapter ([02-5]): .*?(?=^## )", re.S | re.M)  # 0: see tests/foundations/test_docs.py
# What runs leave behind, and what a reader makes: no files of this repository.
LEFT_BEHIND = ("data/", "latents/", "state/", "videos/", "demo/", "attempts/", "my_envs.py")
# The resolved presets that the README shows.
SHOWN = [
    *(("tiny", "toy_dodge"), ("tiny-dream", "toy_dodge"), ("tiny", "doom_takecover")),
    *(("cpu", "doom_takecover"), ("tiny", "CarRacing-v3"), ("cpu", "CarRacing-v3")),
    *(("gpu", "CarRacing-v3"), ("paper", "CarRacing-v3"), ("paper", "doom_takecover")),
]
SMALL = {
    **{"env_options": {"size": 16}, "train_in": "dream", "iterations": 2, "gates": "warn"},
    **{"collect.episodes": 12, "collect.again_frames": 150, "generations": 2, "eval_every": 1},
    **{"vae.size": 16, "vae.latents": 4, "vae.updates": 10, "checkpoint_every": 5},
    **{"rnn.hidden": 8, "rnn.batch": 4, "rnn.length": 8, "rnn.updates": 10, "rnn.again_updates": 10},
    **{"rnn.reward_head": True, "evolve.population": 4, "evolve.rollouts": 2, "evolve.eval_episodes": 2},
    **{"evolve.max_steps": 30, "dream.max_steps": 30},
}


@cache
def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def own_text(path: Path) -> str:
    """The document without the guide's chapters on later papers: they have folders and flags of their own."""
    return LATER.sub("", text(path))


def prose(path: Path) -> str:
    """The document without its code blocks and without later papers' chapters."""
    return FENCE.sub("", own_text(path))


def fences(path: Path, language: str) -> list[str]:
    return [textwrap.dedent(m[3]) for m in FENCE.finditer(text(path)) if m[2] == language]


def commands(path: Path) -> list[str]:
    return commands_in(own_text(path))


def commands_in(part: str) -> list[str]:
    lines = "\n".join(textwrap.dedent(m[3]) for m in FENCE.finditer(part) if m[2] == "bash").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]


def section(path: Path, heading: str) -> str:
    """A section's text, without its own subsections' headings removed."""
    level = heading.split()[0]
    return text(path).split(f"\n{heading}\n", 1)[1].split(f"\n{level} ", 1)[0]


def table_rows(part: str) -> list[list[str]]:
    """Cells of all table lines but headers and rulers."""
    rows, previous = [], ""
    for line in part.splitlines():
        if line.startswith("|") and previous.startswith("|") and not re.fullmatch(r"[|\s:-]+", line):
            cells = re.split(r"(?<!\\)\|", line)[1:-1]
            rows.append([cell.strip().replace("\\|", "|") for cell in cells])
        previous = line
    return rows


# --- a small run, and a copy of the repository's layout around it ----------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished run of two passes in the dream, with all heads, so that it logs everything there is."""
    folder = tmp_path_factory.mktemp("docs") / "run"
    folder.mkdir()
    cfg = override(PRESETS["tiny"], {**SUITES["toy"]["tiny"], **SUITES["toy_dodge"]["tiny"], **SMALL})
    from common.cli import save_config

    save_config(folder, cfg, paper="paper1_world_models", preset="tiny")
    train_script.train(cfg, folder, "cpu", "all")
    return folder


@pytest.fixture(scope="module")
def sandbox(run, tmp_path_factory) -> Path:
    """Folders named as in the documents, with the small run wherever they name a run or a checkpoint."""
    root = tmp_path_factory.mktemp("repository")
    folder = root / "paper1_world_models" / "runs" / "dodge"
    (folder / "data").mkdir(parents=True)
    for name in ("config.json", "metrics.jsonl", "model.pt"):
        shutil.copy(run / name, folder)
    shutil.copytree(run / "latents", folder / "latents")
    shutil.copytree(run / "data" / "00-00", folder / "data" / "00-00")  # one pass, as --preset tiny makes
    (root / "solutions" / "paper1_world_models").mkdir(parents=True)
    shutil.copy(run / "model.pt", root / "solutions" / "paper1_world_models")
    shutil.copy(run / "model.pt", root / "paper1_world_models")
    recipe = next(m for m in FENCE.finditer(text(ROOT / "common/envs/YOUR_OWN_ENV.md")) if m[2] == "python")
    (root / "my_envs.py").write_text(recipe[3])
    return root


def stand_in(path: str, sandbox: Path, run: Path) -> str:
    """The named run folder or checkpoint, made out of the small run if it is not there."""
    here = sandbox / "paper1_world_models" / path
    if not here.exists():
        shutil.copytree(run, here)
    return str(here)


# --- commands --------------------------------------------------------------------------------------------


def dry_run(args: list[str]) -> None:
    """train.py ... --dry-run in this process; where a package is missing, only the parse."""
    try:
        train_script.main([*args, *(["--dry-run"] if "--dry-run" not in args else [])])
    except UserError as error:
        if "pip install" not in str(error):
            raise
        parse_train(args, PRESETS, SUITES, default_env="toy_dodge", description="", extra=train_script.Extra)


def check_command(line: str, sandbox: Path, run: Path) -> None:
    """Parse one line of a bash block as the program would; anything unknown fails."""
    words = [word for word in shlex.split(line) if not re.match(r"[A-Z_]+=", word)]
    for flag in ("--resume", "--checkpoint", "--base"):
        if flag in words:
            at = words.index(flag) + 1
            words[at] = stand_in(words[at], sandbox, run)
    program, *args = words
    if program in ("make", "cd"):
        targets = re.findall(r"^([a-z]+):", text(ROOT / "Makefile"), re.M)
        assert all(arg in targets if program == "make" else (ROOT / arg).is_dir() for arg in args), line
    elif program in ("pip", ".venv/bin/pip", "apt-get", "python3.11", "tensorboard"):
        files = [args[i + 1] for i, arg in enumerate(args) if arg in ("-r", "-c")]
        assert all((ROOT / file).is_file() for file in files), line
    elif program == "diff":
        assert all((PAPER1 / arg).is_file() for arg in args), line
    elif program == "python" and args[0] == "-m":
        assert importlib.util.find_spec(args[1]), line
    elif program == "python" and args[0] == "solutions/exercises.py":
        catalogue = tomllib.loads(text(ROOT / "solutions" / "exercises.toml"))
        known = {e["id"] for e in exercises(catalogue)} | {e["paper"] for e in exercises(catalogue)}
        assert args[1] in ("list", "start", "check", "hint", "show", "diff", "selftest"), line
        assert all(name in known or name.isdigit() for name in args[2:]), line
    else:
        script, args = Path(args[0]).name, args[1:]
        assert program == "python" and (PAPER1 / script).is_file(), f"teach this test the command: {line}"
        if script == "train.py":
            assert "--preset" in args or "--resume" in args, f"name the preset: {line}"
            dry_run(args)
        elif script == "eval.py":
            parse_eval(args, args=eval_script.Args)
        elif script == "visualize.py":
            parse_visualize(args, args=visualize.Args)
        else:
            parse(experiments.Args, args, "")


def exercises(catalogue: dict) -> list[dict]:
    return next(value for value in catalogue.values() if isinstance(value, list) and "id" in value[0])


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_command_parses(path, run, sandbox, monkeypatch, capsys):
    monkeypatch.chdir(sandbox / "paper1_world_models")
    monkeypatch.syspath_prepend(sandbox)
    found = commands(path)
    assert len(found) > 8
    # What differs in the run folder's name alone is one command.
    for line in {re.sub(r" --logdir \S+", "", line): line for line in found}.values():
        check_command(line, sandbox, run)


def test_a_wrong_command_is_found(run, sandbox, monkeypatch, capsys):
    monkeypatch.chdir(sandbox / "paper1_world_models")
    for line in (
        *("python train.py --preset tiny --vae.latent 4", "python train.py --env toy_dodge", "make all"),
        *("python eval.py --episode 3", "python experiments.py sweeps --base runs/dodge", "cd paper9"),
        *("python solutions/exercises.py check p1-nothing", "curl example.org"),
    ):
        with pytest.raises((UserError, AssertionError)):
            check_command(line, sandbox, run)


@cache
def known_flags() -> set[str]:
    """Every flag of paper 1's scripts or of a later train.py, without the options of an environment."""
    later = [
        importlib.import_module(f"{path.parent.name}.config") for path in ROOT.glob("paper[2-5]_*/config.py")
    ]
    names = {
        name for config in (Config, *(module.Config for module in later)) for name, _ in fields_of(config())
    }
    for cls in (train_script.Extra, eval_script.Args, visualize.Args, experiments.Args):
        names |= set(cls.__dataclass_fields__)
    names |= {"preset", "resume", "dry_run", "help"}
    return {f"--{name.replace('_', '-')}" for name in names}


@cache
def flags_parse(flags: str) -> bool:
    """Does train.py take these flags, values included?  Some options exist only where a preset sets them."""
    words = [word for word in shlex.split(flags) if word not in ("RUN", "RUN_FOLDER")]
    if len(words) == 1 and words[0] in known_flags():
        return True
    for env in ([], ["--env", "CarRacing-v3"], ["--env", "doom_takecover"], ["--env", "CartPole-v1"]):
        line, options = ["--preset", "tiny", *env, *words], {"description": "", "extra": train_script.Extra}
        try:
            parse_train(line, PRESETS, SUITES, default_env="toy_dodge", **options)
        except UserError:
            continue
        return True
    return words[0] == "--resume" and flags_parse(" ".join(words[1:]))


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_flag_in_the_text_exists(path):
    found = {code for code in CODE.findall(prose(path)) if code.startswith("--") and code != "--NAME VALUE"}
    unknown = sorted(flags for flags in found if not flags_parse(flags))
    assert not unknown, f"{path.name}: no script takes {unknown}"
    assert "--env-options " not in text(path), f"{path.name}: --env-options.KEY VALUE works everywhere"
    assert not flags_parse("--vae.latent 4") and not flags_parse("--dream.done sometimes")


# --- links and names -------------------------------------------------------------------------------------


def anchors(path: Path) -> set[str]:
    """GitHub's anchors of a document's headings."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text(path)), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(path):
    links = re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text(path)))
    assert len(links) > 5
    for link in links:
        if link.startswith("http"):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), f"{path.name} links to {link}, which does not exist"
        assert not anchor or anchor in anchors(target), f"{path.name} links to {link}: no such heading"


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_file_in_the_text_exists(path):
    names = [
        code for code in CODE.findall(prose(path)) if re.fullmatch(r"[\w./-]+(\.(py|md|toml|txt|sh)|/)", code)
    ]
    assert len(names) > 3
    for name in names:
        near = (path.parent, ROOT, PAPER1)
        there = any((folder / name).exists() for folder in near) or name.startswith(LEFT_BEHIND)
        assert there, f"{path.name} names {name}, which does not exist"


@cache
def defined_in(file: Path) -> set[str]:
    """Names of a module's functions, classes, methods and constants: f, Class, Class.f, NAME."""
    names = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
            inner = node.body if isinstance(node, ast.ClassDef) else []
            names |= {f"{node.name}.{n.name}" for n in inner if isinstance(n, ast.FunctionDef)}
        elif isinstance(node, ast.Assign):
            names |= {t.id for t in node.targets if isinstance(t, ast.Name)}
    return names


def test_every_equation_is_where_the_readme_says():
    rows = table_rows(section(PAPER, "## Where each equation is"))
    assert len(rows) >= 20
    for paper, file, code in rows:
        name = CODE.findall(file)[0]
        path = next(folder / name for folder in (PAPER1, ROOT) if (folder / name).exists())
        for wanted in CODE.findall(code):
            assert wanted in defined_in(path), f"{paper!r}: no {wanted} in {name}"


def test_the_reading_order_names_every_file():
    named = set(CODE.findall(section(PAPER, "## Reading order")))
    files = {path.name for path in PAPER1.glob("*.py")} - {"__init__.py"}
    assert not files - named, f"the reading order lacks {sorted(files - named)}"


def test_every_deviation_of_the_code_is_listed():
    listed = set(CODE.findall(section(PAPER, "## Deviations and switches")))
    found = 0
    for path in PAPER1.glob("*.py"):
        lines = path.read_text().splitlines()
        for number, line in enumerate(lines, 1):
            if "# differs" in line:
                found += 1
                where = enclosing(path, number)
                assert where in listed, f"{path.name}:{number} deviates; list `{where}` under Deviations"
    assert found


def enclosing(path: Path, number: int) -> str:
    """The function, as f or Class.f, that holds a line."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.lineno <= number <= node.end_lineno:
            for inner in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(inner, ast.FunctionDef) and inner.lineno <= number <= inner.end_lineno:
                    return f"{node.name}.{inner.name}"
            return node.name
    return path.name


def test_config_fields_in_the_text_exist():
    known = {name for name, _ in fields_of(Config())}
    groups = {name.split(".")[0] for name in known if "." in name}
    for path in DOCS:
        for code in CODE.findall(prose(path)):
            if re.fullmatch(r"[a-z]+\.[a-z_]+", code) and code.split(".")[0] in groups:
                assert code in known or (PAPER1 / code).exists(), f"{path.name}: no setting {code}"


def test_glossary_names_are_in_the_code():
    folders = [*ROOT.glob("paper[1-5]_*"), ROOT / "common"]
    sources = "\n".join(p.read_text() for folder in folders for p in folder.glob("*.py"))
    rows = table_rows(section(GUIDE, "## Glossary"))
    assert len(rows) > 40
    for symbol, names, _, meaning in rows:
        if not re.search(r"\(papers? [2-5]", meaning):
            for name in CODE.findall(names):
                assert re.search(rf"\b{re.escape(name)}\b", sources), (
                    f"glossary: no {name} ({symbol}) in the code"
                )


def test_every_exercise_is_in_the_guide():
    known = [e["id"] for e in exercises(tomllib.loads(text(ROOT / "solutions" / "exercises.toml")))]
    assert set(re.findall(r"`((?:p\d|f\d\d)-[\w-]+)`", text(GUIDE))) == set(known)


# --- the guide's chapters on later papers: commands, flags, files and settings are of their own folder


@dataclass(frozen=True)
class Chapter:
    """A chapter of the guide and the paper that it is about."""

    number: str
    text: str

    @property
    def folder(self) -> Path:
        return next(ROOT.glob(f"paper{self.number}_*"))

    @property
    def paper(self):
        """What its train.py tells common/online.py."""
        return importlib.import_module(f"{self.folder.name}.train").PAPER

    @property
    def prose(self) -> str:
        return FENCE.sub("", self.text)

    def parse(self, words: list[str]) -> None:
        """Parse train.py's flags; a run to go on with has the settings of `tiny`."""
        words = list(words)
        if "--resume" in words:
            at = words.index("--resume")
            words[at : at + 2] = ["--preset", "tiny"]
        options = {"default_env": self.paper.default_env, "variants": self.paper.variants}
        parse_train(words, self.paper.presets, self.paper.suites, description="", **options)


CHAPTERS = [Chapter(m[1], m[0]) for m in LATER.finditer(GUIDE.read_text(encoding="utf-8")) if m[1] != "0"]
READMES = [  # of the same papers: their commands and flags must parse, too
    Chapter(path.parent.name[5], path.read_text(encoding="utf-8"))
    for path in sorted(ROOT.glob("paper[2-5]_*/README.md"))
]


@pytest.mark.parametrize("chapter", CHAPTERS + READMES, ids=lambda chapter: chapter.folder.name)
def test_every_command_of_a_later_chapter_parses(chapter, run, sandbox, monkeypatch):
    monkeypatch.chdir(chapter.folder)
    found = commands_in(chapter.text)
    assert len(found) > 5
    for line in found:
        words = [word for word in shlex.split(line, comments=True) if not re.match(r"[A-Z_]+=", word)]
        if words[0] != "python" or not (chapter.folder / words[1]).is_file():
            check_command(line, sandbox, run)
        elif words[1] == "train.py":
            assert "--preset" in words or "--resume" in words, f"name the preset: {line}"
            chapter.parse(words[2:])
        else:
            if "--checkpoint" in words:
                words[words.index("--checkpoint") + 1] = str(run)
            module = importlib.import_module(f"{chapter.folder.name}.{words[1].removesuffix('.py')}")
            if "--report" in words:
                assert words[1:3] == ["eval.py", "--report"] and "--" not in "".join(words[3:]), line
            elif words[1] == "eval.py":
                parse_eval(words[2:], args=getattr(module, "Args", EvalArgs))
            elif words[1] != "visualize.py":
                parse(module.Args, words[2:], "").check()
            else:
                parse_visualize(words[2:], args=getattr(module, "Args", VisualizeArgs))


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.folder.name)
def test_names_in_a_later_chapter_exist(chapter):
    cfg = next(iter(chapter.paper.presets.values()))
    known = {name for name, _ in fields_of(cfg)}
    groups = {name.split(".")[0] for name in known if "." in name}
    near = (ROOT, chapter.folder, ROOT / "common")
    for code in CODE.findall(chapter.prose):
        if code.startswith("--"):
            words = shlex.split(code)
            is_known = words[0].lstrip("-").replace("-", "_") in {*known, "preset", "resume", "dry_run"}
            if len(words) > 1 or not is_known:
                chapter.parse(["--preset", "tiny", *words])
        elif re.fullmatch(r"[a-z]+\.[a-z_]+", code) and code.split(".")[0] in groups:
            assert code in known or (chapter.folder / code).exists(), f"no setting {code}"
        elif re.fullmatch(r"[\w./-]+(\.(py|md|toml|txt|sh)|/)", code):
            there = any((folder / code).exists() for folder in near) or code.startswith(LEFT_BEHIND)
            assert there, f"chapter {chapter.number} names {code}, which does not exist"


# --- tables ----------------------------------------------------------------------------------------------


def show(value) -> str:
    """A setting as the README writes it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return ", ".join("-".join(map(str, v)) if isinstance(v, tuple) else f"{v:.3g}" for v in value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {show(v)}" for name, v in value.items()) or "-"
    return str(value)


def test_the_preset_table_is_what_the_presets_say():
    settings = [dict(fields_of(resolve(PRESETS, SUITES, preset, env)[0])) for preset, env in SHOWN]
    lines = ["| field | " + " | ".join(f"`{preset}` `{env}`" for preset, env in SHOWN) + " |"]
    lines.append("|" + "---|" * (len(SHOWN) + 1))
    for name in settings[0]:
        values = [setting[name] for setting in settings]
        if name != "env" and any(value != values[0] for value in values):
            lines.append(f"| `{name}` | " + " | ".join(map(show, values)) + " |")
    wanted = "\n".join(lines)
    assert wanted in section(PAPER, "## Presets"), f"put this table into {PAPER}:\n{wanted}"


def documented_metrics() -> set[tuple[str, str]]:
    """(stage, name) of the README's table, gate/POLICY written out."""
    found, policies = set(), []
    for stage, names, meaning, _ in table_rows(section(PAPER, "## What is logged")):
        if "POLICY:" in meaning:
            policies = CODE.findall(meaning.split("POLICY:")[1])
        for name in CODE.findall(names):
            written = [name.replace("POLICY", policy) for policy in policies] if "POLICY" in name else [name]
            found |= {(stage, one) for one in written}
    return found


def test_every_logged_metric_is_explained_and_exists(run):
    logged = set()
    for row in read_metrics(run / "metrics.jsonl"):
        names = row.keys() - {"step", "time", "stage"}
        logged |= {(row["stage"].rsplit("-", 1)[0], name) for name in names}
    documented = documented_metrics()
    pictures = {("vae", "reconstruction"), ("rnn", "open_loop"), ("controller", "agent")}
    for _, name in pictures:
        assert f'"{name}"' in (PAPER1 / "pictures.py").read_text()
    not_here = {("controller", "frames_per_s"), ("rnn", "open_loop/mse_45")}  # real games, longer episodes
    assert logged == documented - pictures - not_here and pictures | not_here <= documented


def test_every_result_file_is_explained(run, capsys):
    part = section(PAPER, "## What is logged")
    eval_script.main(["--checkpoint", str(run), "--episodes", "2", "--threads", "1"])
    result = json.loads((run / "eval.json").read_text())
    assert result["command"] == f"python eval.py --checkpoint {run} --episodes 2 --threads 1"
    ours = result.keys() - {"env", "seed", "paper", "command", "eval_cpu_s", "eval_wall_s"}
    explained = set(CODE.findall(part))
    for name in {*CURVE, *ours, *result["score"]}:
        assert name in explained, f"{PAPER}: {name} is not explained"
    header = (run / "curve.csv").read_text().splitlines()[0]
    assert header.split(",") == list(CURVE)


def test_the_papers_that_are_here_are_marked_so():
    """`here` with a README, `being built` with a folder alone; the first sentence counts them."""
    states = ("here", "being built", "not yet here")
    rows = [row for row in table_rows(section(README, "## The five papers")) if row[2] in states]
    assert len(rows) == 6
    for _, folder, state, *_ in rows:
        name = re.search(r"\w+", folder)[0]
        is_state = states[0 if (ROOT / name / "README.md").exists() else 1 if (ROOT / name).is_dir() else 2]
        assert state == is_state, f"README says that {name} is {state}, it is {is_state}"
    sentence = re.search(r"\*\*Papers? (.*?) (?:is|are) here\.\*\*", text(README))[1]
    assert re.findall(r"\d", sentence) == [row[0] for row in rows if row[2] == "here" and row[0] != "0"], (
        "README's first lines"
    )


def test_the_matrix_of_papers_and_toys_is_what_the_runs_say():
    part = section(README, "### Which paper learns which toy").split("\n## ")[0]
    toys = re.findall(r"`(toy_\w+)`", part.split("|---")[0])
    assert toys == [name for name in toys if check_name(name) is None] and len(toys) == 4
    rows = {row[0].strip("`"): dict(zip(toys, row[1:], strict=True)) for row in table_rows(part)}
    way: dict[tuple[str, str], list[float]] = {}
    for run in load_records():
        if run.get("env") in toys:
            way.setdefault((run.get("paper"), run.get("env")), []).append(run.get("way"))
    assert rows.keys() == {paper for paper, _ in way}, "a row for each paper with recorded toys"
    for paper, cells in rows.items():
        for toy, cell in cells.items():
            measured = way.get((paper, toy))
            assert bool(cell) >= bool(measured), f"README: no word on {paper} and {toy}"
            assert cell.startswith("learns") == bool(measured and max(measured) >= 0.85), (paper, toy, cell)


def means(label: str, name: str = "score.mean") -> np.ndarray:
    """That number of the recorded toy_dodge runs of paper 1, by seed: [3]"""
    runs = [run for run in load_records() if run.get("group") == "toy_dodge" and run.get("label") == label]
    return np.array([run.get(name) for run in sorted(runs, key=lambda run: run.get("train_seed"))])


def signed(values: np.ndarray) -> str:
    """Three paired differences in words: +8, -51 and +62"""
    first, second, third = (f"{value:+.0f}" for value in values)
    return f"{first}, {second} and {third}"


def between(values: np.ndarray, word: str = "to") -> str:
    return f"{values.min():.0f} {word} {values.max():.0f}"


def words_of(path: Path) -> str:
    """The text in one line."""
    return " ".join(text(path).split())


def test_what_the_text_says_of_toy_dodge_is_what_the_runs_say():
    full, z, hidden = means("real environment"), means("z only"), means("z + hidden layer")
    random = means("untrained LSTM")
    one, cheat = means("dream only, 1 pass"), means("cheating: hard cut-off")
    one_dream, cheat_dream = (
        means(label, "dream.mean") for label in ("dream only, 1 pass", "cheating: hard cut-off")
    )
    readme, guide = words_of(PAPER), words_of(GUIDE)
    answers = words_of(ROOT / "solutions" / "paper1_world_models" / "ANSWERS.md")
    assert full.min() > max(z.max(), hidden.max(), random.max())
    assert f"by {between(full - z)} points in the three seeds" in readme
    assert f"scores {between(full - random)} points less" in readme
    assert f"z alone: {signed(random - z)} points" in readme and f"layer: {signed(hidden - z)}." in readme
    dream, real = f"{one_dream.mean():.0f} points in the dream", f"{one.mean():.0f}"
    assert f"{dream} and {real} outside" in readme and f"{dream}, {real} in reality" in answers
    assert f"bring {means('dream only, 3 passes').mean():.0f}." in readme
    cheated = f"{cheat_dream.mean():.0f} points in the dream and {cheat.mean():.0f} in reality"
    assert cheated in readme and cheated in answers
    assert f"by {between(full - z)} points of `z` alone and by {between(full - random)} of the" in answers
    assert f"is {signed(random - z)} points" in answers
    without = np.concatenate([z, hidden, random])
    assert f"anywhere between {between(without, 'and')}, in no reliable order" in guide
    assert f"in the dream {between(one_dream)}, in reality {between(one)}" in guide
    assert f"{between(cheat_dream)} in the dream, {between(cheat)} in reality" in guide


def test_what_the_text_says_of_takecover_is_what_the_runs_say():
    runs = [run for run in load_records() if run.get("env") == "doom_takecover"]
    under = next(run for run in runs if run.get("label") == "under-trained model")
    dream, real, noop = under.get("dream.mean"), under.get("score.mean"), under.baseline("blind.others.no-op")
    assert (
        f"{dream:.0f} and {real:.0f} (one seed; the prototype 1,059 and 162), no-op {noop:.0f}"
        in words_of(GUIDE)
    )
    tau = [run for run in runs if run.get("group") == "doom_takecover temperature"]
    scores = np.array([run.get("score.mean") for run in tau])
    edges = np.array([run.get("score.ci95") for run in tau])
    answers = words_of(ROOT / "solutions" / "paper1_world_models" / "ANSWERS.md")
    assert f"lie between {between(scores, 'and')}, and each interval holds parts of all the others" in answers
    assert edges[:, 0].max() < edges[:, 1].min()


def test_what_the_text_says_of_speed_is_what_was_measured():
    rows = json.loads((ROOT / "benchmarks" / "speed" / "paper1_rollouts.json").read_text())["rows"]
    best = [
        max(row["steps_per_cpu_s"] for name, row in rows.items() if name.startswith(f"{backend}, lockstep"))
        for backend in ("stock", "exact", "fast")
    ]
    lean, port = (
        rows[f"stock, one process per rollout, batch 1{v}"]["steps_per_cpu_s"]
        for v in ("", ", V decodes too")
    )
    over_lean, over_port = ([f"{rate / base:.1f}" for rate in best] for base in (lean, port))
    wanted = (
        "drawing {} times the first row, the same bits drawn faster (`exact`) {} times, the light renderer "
        "(`fast`) {} times; against the second row {}, {} and {} times."
    )
    assert wanted.format(*over_lean, *over_port) in words_of(PAPER)


def test_every_environment_of_the_table_exists():
    rows = table_rows(section(README, "## Environments"))
    names = {name for row in rows for name in CODE.findall(row[0]) if "<" not in name and "..." not in name}
    assert {suite_of(name) for name in names} | {"minigrid"} == set(ENV_SUITES)
    for name in names:
        check_name(name)


def test_baselines_in_the_text_are_the_stored_ones():
    dodge, doom = scores("toy_dodge"), scores("doom_takecover", {"frame_skip": 4})
    values = [f"{dodge[kind]['value']:.1f}" for kind in ("random", "blind", "optimum")]
    assert "**random {}, the best\nblind policy {}, optimum {}.**".format(*values) in text(GUIDE)
    blind = f"{doom['blind']['value']:g}"
    assert all(blind in text(path) for path in DOCS) and f"a blind sweep scores {blind}" in text(PAPER)
    car = scores("CarRacing-v3", {"render": "fast"})
    assert f"{car['random']['value']:.0f} and {car['blind']['value']:.0f}:" in text(GUIDE)
    for name, path in (("CarRacing-v3", README), ("CarRacing-v3", PAPER), ("doom_takecover", GUIDE)):
        published = scores(name)["published"]
        assert f"{published['value']} ± {published['sd']}" in text(path)


# --- Python ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [README, GUIDE], ids=["README", "GUIDE"])
def test_the_snippets_run(path, sandbox, monkeypatch, capsys):
    monkeypatch.chdir(sandbox)
    snippets = fences(path, "python")
    assert len(snippets) >= 2
    names: dict = {}
    for snippet in snippets:
        exec(compile(snippet, f"{path.name}", "exec"), names)
    if path == README:
        assert len(snippets[0].strip().splitlines()) == 5, "the README promises five lines"
        assert names["result"].returns.shape == (10,) and (sandbox / "dream.mp4").stat().st_size
    else:
        assert names["losses"] and (sandbox / "data.mp4").stat().st_size


def test_tyro_is_what_experiments_uses():
    """`check_command` parses experiments.py with our `parse`; the script itself calls tyro."""
    assert tyro.cli(experiments.Args, args=["cheat", "--base", "x"]).name == "cheat"
