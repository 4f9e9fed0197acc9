"""Source surgery for the exercises: find a function, blank its body, run other code in its place.

A reference function is replaced by giving it another code object: every module that has imported it already
runs the new code, decorators stay, and a traceback shows the lines of the student's own file.  Nothing here
imports torch.
"""

import ast
import copy
import importlib
import inspect
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType, ModuleType

from common.errors import UserError

Function = ast.FunctionDef
WIDTH = 100  # of the TODO comments


def parse(text: str, path: Path | str) -> ast.Module:
    """The syntax tree of a file; UserError with file, line and reason where Python cannot read it."""
    try:
        return ast.parse(text, str(path))
    except SyntaxError as error:
        raise UserError(f"{path} line {error.lineno}: {error.msg}; mend it, then check again") from None


def find(tree: ast.Module, name: str) -> Function | None:
    """The function `f` or method `Class.f` of a file."""
    *outer, last = name.split(".")
    body: list[ast.stmt] = tree.body
    for part in outer:
        body = next((node.body for node in body if isinstance(node, ast.ClassDef) and node.name == part), [])
    return next((node for node in body if isinstance(node, Function) and node.name == last), None)


def has_docstring(node: Function) -> bool:
    """Templates keep it, so every exercise needs one."""
    return ast.get_docstring(node) is not None


def body_lines(node: Function) -> tuple[int, int]:
    """First and last line of the body behind the docstring, counted from 1."""
    return node.body[0].end_lineno + 1, node.end_lineno


def source_of(text: str, node: Function) -> str:
    """Decorators, signature, docstring and body, indented as a function of its own."""
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return textwrap.dedent("\n".join(text.splitlines()[first - 1 : node.end_lineno])) + "\n"


def signature_of(node: Function) -> str:
    """Name, argument names and defaults, without annotations."""
    return f"{node.name}({ast.unparse(_bare(node).args)})"


def blank_body(exercise_id: str, todo: str, node: Function) -> str:
    """The TODO guidelines and a raise, indented for the place of the body."""
    pad = " " * node.body[0].col_offset
    lines = []
    for paragraph in f"TODO {exercise_id}: {todo.strip()}".splitlines():
        hang = "  " if paragraph.startswith("- ") else ""
        lines += textwrap.wrap(paragraph, WIDTH - len(pad), subsequent_indent=hang) or [""]
    lines.append(f"Stuck?  python solutions/exercises.py hint {exercise_id}")
    comments = [f"{pad}# {line}".rstrip() for line in lines]
    return "\n".join([*comments, f'{pad}raise NotImplementedError("exercise {exercise_id}")'])


def replace_bodies(text: str, path: Path | str, bodies: dict[str, str]) -> str:
    """The file with the bodies of some functions (name -> new body) replaced."""
    tree, lines = parse(text, path), text.splitlines()
    found = {name: find(tree, name) for name in bodies}
    for name in sorted(found, key=lambda name: -found[name].lineno):  # from the bottom, so lines keep numbers
        first, last = body_lines(found[name])
        lines[first - 1 : last] = bodies[name].splitlines()
    return "\n".join(lines) + "\n"


@contextmanager
def spliced(module_name: str, name: str, text: str, path: Path | str) -> Iterator[None]:
    """While open, the function `name` of the reference module runs the code that a file `text` has for it.

    Top-level names and methods that the file has and the reference lacks (a helper of one's own, an import)
    come along; whatever else is different in the file is ignored.
    """
    module, tree = importlib.import_module(module_name), parse(text, path)
    *outer, last = name.split(".")
    places = [(module, tree)]  # the module, then the class, each beside its syntax tree in the file
    for part in outer:
        owner, node = places[-1]
        inner = next(n for n in node.body if isinstance(n, ast.ClassDef) and n.name == part)
        places.append((getattr(owner, part), inner))
    target = _plain_function(places[-1][0], last)
    old = target.__code__, target.__defaults__, target.__kwdefaults__
    added: list[tuple[object, str]] = []
    try:
        for owner, node in places:
            for key, value in _newcomers(node.body, owner, module, path).items():
                setattr(owner, key, value)
                added.append((owner, key))
        new = _run([_bare(find(tree, name))], module, path)[last]
        _give(target, new.__code__, new.__defaults__, new.__kwdefaults__)
        yield
    finally:
        _give(target, *old)
        for owner, key in added:
            delattr(owner, key)


def _give(function: FunctionType, code, defaults, keyword_defaults) -> None:
    function.__code__, function.__defaults__ = code, defaults
    function.__kwdefaults__ = keyword_defaults


def _bare(node: Function) -> Function:
    """A copy without decorators and annotations: the reference keeps its own."""
    bare = copy.deepcopy(node)
    bare.decorator_list, bare.returns = [], None
    for argument in ast.walk(bare.args):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    return bare


def _newcomers(body: list[ast.stmt], owner: object, module: ModuleType, path: Path | str) -> dict:
    """What the file defines in this place and the reference does not: name -> value."""
    chosen = []
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [(alias.asname or alias.name).split(".")[0] for alias in node.names]
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.Assign):
            names = [n.id for target in node.targets for n in ast.walk(target) if isinstance(n, ast.Name)]
        else:
            continue
        if not all(hasattr(owner, name) for name in names):
            chosen.append(node)
    return {key: value for key, value in _run(chosen, module, path).items() if not hasattr(owner, key)}


def _run(nodes: list[ast.stmt], module: ModuleType, path: Path | str) -> dict:
    """Run statements with the module's globals; -> the names they bind."""
    found: dict = {}
    exec(compile(ast.Module(nodes, []), str(path), "exec"), vars(module), found)
    return found


def _plain_function(owner: object, name: str) -> FunctionType:
    """The function behind a decorated, static or class method."""
    found = inspect.getattr_static(owner, name)
    return inspect.unwrap(getattr(found, "__func__", found))
