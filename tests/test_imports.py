"""Who may import whom, what no module imports at its top, and config fields that nobody reads."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAPERS = sorted(folder.name for folder in ROOT.glob("paper[0-9]*_*") if folder.is_dir())
OURS = {"common", "foundations", "solutions", "benchmarks", "tests", "scripts"}


def files(folder: str) -> list[Path]:
    """The Python files of a package; exercise attempts and runs are no part of it."""
    found = (ROOT / folder).rglob("*.py") if (ROOT / folder).is_dir() else []
    return sorted(path for path in found if not {"runs", "attempts"} & set(path.relative_to(ROOT).parts))


def imported(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(module, line) of every import statement, also inside functions; a relative one begins with a dot."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or ""), node.lineno


def forbidden(folder: str, tree: ast.AST) -> list[str]:
    """Imports that a file of `folder` must not have."""
    allowed = {"common", folder} if folder != "common" else {"common"}
    if folder in ("solutions", "benchmarks", "scripts"):
        allowed = OURS | set(PAPERS)
    wrong = []
    for module, line in imported(tree):
        top = module.split(".")[0]
        is_ours = top in OURS or top.startswith("paper") and "_" in top
        if module.startswith(".") or is_ours and top not in allowed:
            wrong.append(f"line {line}: {module}")
    return wrong


def at_import_time(tree: ast.Module) -> Iterator[ast.AST]:
    """Statements that run when the module is imported: none in functions, none under TYPE_CHECKING."""
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
            continue
        yield node
        waiting += ast.iter_child_nodes(node)


@pytest.mark.parametrize("folder", ["common", "foundations", "solutions", "benchmarks", "scripts", *PAPERS])
def test_nobody_imports_a_neighbour(folder):
    wrong = {
        str(path.relative_to(ROOT)): forbidden(folder, ast.parse(path.read_text())) for path in files(folder)
    }
    assert not {name: lines for name, lines in wrong.items() if lines}


@pytest.mark.parametrize(
    ("folder", "code", "count"),
    [
        ("paper2_dreamerv1", "from paper1_world_models.vae import VAE", 1),
        ("paper2_dreamerv1", "def f():\n    import foundations.mdp", 1),
        ("paper2_dreamerv1", "from . import rssm", 1),
        (
            "paper2_dreamerv1",
            "import torch\nfrom common.video import write_video\nimport paper2_dreamerv1.rssm",
            0,
        ),
        ("common", "if TYPE_CHECKING:\n    import paper5_iris.agent", 1),
        ("foundations", "import common.cli, paper1_world_models", 1),
    ],
)
def test_the_rule_itself(folder, code, count):
    assert len(forbidden(folder, ast.parse(code))) == count


@pytest.mark.parametrize("folder", ["common", "foundations", "solutions", "benchmarks", *PAPERS])
def test_torchvision_is_never_imported_at_the_top(folder):
    """Next to a CPU-only torch it cannot be imported at all."""
    for path in files(folder):
        for node in at_import_time(ast.parse(path.read_text())):
            names = [name.split(".")[0] for name, _ in imported(node)] if isinstance(node, ast.stmt) else []
            is_import = isinstance(node, ast.Import | ast.ImportFrom)
            assert not (is_import and "torchvision" in names), f"{path.relative_to(ROOT)}:{node.lineno}"


def config_fields(tree: ast.Module) -> dict[str, int]:
    """Fields of the dataclasses of a config.py: name -> line."""
    return {
        item.target.id: item.lineno
        for node in tree.body
        if isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(d) for d in node.decorator_list)
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    }


def read_names(tree: ast.AST) -> set[str]:
    """Attribute names that some expression reads: `cfg.rssm.deter` reads rssm and deter."""
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }


def unread(config: ast.Module, readers: list[ast.Module]) -> dict[str, int]:
    """Config fields that none of the files reads."""
    known = set().union(*(read_names(tree) for tree in [config, *readers]))
    return {name: line for name, line in config_fields(config).items() if name not in known}


@pytest.mark.parametrize("paper", [paper for paper in PAPERS if (ROOT / paper / "train.py").exists()])
def test_every_config_field_is_read(paper):
    trees = {path.name: ast.parse(path.read_text()) for path in files(paper)}
    if "from common.online import" in (ROOT / paper / "train.py").read_text():  # the loop's surroundings
        for name in ("online", "online_run"):
            trees[name] = ast.parse((ROOT / "common" / f"{name}.py").read_text())
    dead = unread(trees.pop("config.py"), list(trees.values()))
    assert not dead, f"{paper}/config.py has fields that nothing reads (name: line): {dead}"


@pytest.mark.parametrize("paper", [paper for paper in PAPERS if (ROOT / paper / "config.py").exists()])
def test_every_config_field_is_explained(paper):
    tree = ast.parse((ROOT / paper / "config.py").read_text())
    parts = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}  # their class explains them
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(d) for d in node.decorator_list):
            for item, after in zip(node.body, [*node.body[1:], None], strict=True):
                if isinstance(item, ast.AnnAssign) and ast.unparse(item.annotation) not in parts:
                    explained = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                    where = f"{paper}/config.py:{item.lineno}"
                    assert explained, f"{where} {ast.unparse(item.target)} has no docstring"


def test_the_dead_field_rule_itself():
    config = ast.parse(
        "@dataclass(frozen=True)\nclass C:\n    lr: float = 1.0\n    old: int = 2\n    size: int = 3\n"
    )
    assert unread(config, [ast.parse("optimiser(cfg.lr); cfg.size = 4")]) == {"old": 4, "size": 5}
