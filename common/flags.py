"""tyro, as the scripts use it: counts such as 1e6 for every int, and one line for every mistake.

`parse` builds a dataclass from flags (`--rssm.deter 512`); what is wrong becomes a UserError that names
the flag, the value and what would be allowed.  The other functions read single flags around that parse.
"""

import contextlib
import difflib
import io
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, TypeVar

import tyro

from common.config import fields_of
from common.errors import UserError

A = TypeVar("A")


def parse_count(text: str) -> int:
    """A whole number, also written 1e6 or 1_000_000.  Raises ValueError."""
    try:
        number = Decimal(text.replace("_", ""))
    except InvalidOperation:
        raise ValueError(f"{text!r} is no number") from None
    if not number.is_finite() or number != number.to_integral_value():
        raise ValueError(f"{text!r} is no whole number")
    return int(number)


def literal(text: str) -> int | float | str:
    """A whole number (a count), another number, or the text itself."""
    for kind in (parse_count, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def _registry() -> tyro.constructors.ConstructorRegistry:
    """tyro's rules with one change: every int takes a count."""
    registry = tyro.constructors.ConstructorRegistry()

    @registry.primitive_rule
    def count_rule(info: Any) -> Any:
        if info.type is not int:
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar="N",
            instance_from_str=lambda words: parse_count(words[0]),
            is_instance=lambda value: isinstance(value, int) and not isinstance(value, bool),
            str_from_instance=lambda value: [str(value)],
        )

    return registry


def parse(cls: type[A], argv: Sequence[str], description: str, also_known: Sequence[str] = ()) -> A:
    """tyro, with its boxed messages made into one line."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parsed, unknown = tyro.cli(
                cls, args=list(argv), description=description, return_unknown_args=True, registry=_registry()
            )
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        raise UserError(_one_line(said.getvalue(), argv)) from None
    if unknown:
        flag = next((word for word in unknown if word.startswith("-")), None)
        if flag is None:
            raise UserError(f"unexpected argument {unknown[0]!r}: flags are --name VALUE, see --help")
        raise UserError(_unknown_flag(flag.split("=")[0], [*_flags_of(parsed), *also_known]))
    return parsed


def _unknown_flag(flag: str, known: Sequence[str]) -> str:
    name = flag.lstrip("-").replace("_", "-")
    near = [one for one in known if one.endswith(f".{name}")]  # --deter for --rssm.deter
    if len(name) > 2:  # --hel for --help
        near += sorted((one for one in [*known, "--help"] if one.startswith(f"--{name}")), key=len)
    # Without the dashes, which every flag has: they made --hel resemble --vae.lr.
    near += [f"--{one}" for one in difflib.get_close_matches(name, [k[2:] for k in known], n=1, cutoff=0.6)]
    return f"unknown flag {flag} " + (f"(did you mean {near[0]}?)" if near else "(see --help)")


def _one_line(box: str, argv: Sequence[str]) -> str:
    """What tyro's message box says, as one line that names flag, value and what would be allowed."""
    text = " ".join(re.sub(r"[^\x20-\x7e\n]|^ *-{5,} *$", " ", box, flags=re.MULTILINE).split())
    text = re.split(r"Argument helptext:|For full helptext", text)[0].strip()
    if (found := re.search(r"(--[\w.-]+)'?[:.]", text)) is None:
        return text
    flag = found[1].rstrip(".")
    value = peek(argv, flag.lstrip("-"))
    allowed = re.search(r"Expected one of \((.*?)\)", text)
    if "Missing value" in text or value is None:
        return f"{flag} needs a value, see --help"
    if allowed:
        return f"{flag} {value}: must be one of {allowed[1].replace(chr(39), '').strip(', ')}"
    if "whole number" in text or "is no number" in text:
        return f"{flag} {value}: must be a whole number, such as 64, 1_000 or 1e6"
    if "to float" in text:
        return f"{flag} {value}: must be a number, such as 0.5 or 3e-4"
    return f"{flag} {value}: {text}"


def flag_of(path: str) -> str:
    """num_envs -> num-envs"""
    return path.replace("_", "-")


def _flags_of(parsed: Any) -> list[str]:
    """Every flag of a parsed command line: the fields inside `config` and `extra` have no prefix."""
    flags = []
    for name, value in fields_of(parsed):
        flag = "--" + flag_of(re.sub(r"^(config|extra)[.]", "", name))
        flags += [f"{flag}.{key}" for key in value] if isinstance(value, Mapping) else [flag]
    return flags


def peek(argv: Sequence[str], name: str) -> str | None:
    """The last value given to --name, before the real parse."""
    value = None
    for index, word in enumerate(argv):
        head, equals, tail = word.partition("=")
        if head.startswith("--") and flag_of(head[2:]) == flag_of(name):
            if equals:
                value = tail
            elif index + 1 < len(argv) and not argv[index + 1].startswith("--"):
                value = argv[index + 1]
    return value


def expand_aliases(argv: Sequence[str], aliases: Mapping[str, str]) -> list[str]:
    """Rewrite --epochs (=10) to --vae.epochs."""
    full = {f"--{flag_of(name)}": f"--{flag_of(path)}" for name, path in aliases.items()}
    words = [word.partition("=") for word in argv]
    return [full.get(head.replace("_", "-"), head) + equals + tail for head, equals, tail in words]


def given_fields(argv: Sequence[str], config: Any) -> set[str]:
    """Dotted names of the config fields that appear as flags; `--vae.no-kl` counts for vae.kl."""
    flags = {word.partition("=")[0][2:].replace("-", "_") for word in argv if word.startswith("--")}
    flags |= {re.sub(r"(^|\.)no_(?=[^.]*$)", r"\1", flag) for flag in flags}
    return {
        name for name, _ in fields_of(config) if any(f == name or f.startswith(f"{name}.") for f in flags)
    }
