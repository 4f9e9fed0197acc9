"""What the commands of this folder share: `python -m foundations.PART COMMAND --flags`, and their results.

    COMMANDS = {"mdp": Command(MdpArgs, solve_mdp), ...}   # the docstrings are what --help prints
    run_main(lambda: run_command("foundations.minigrid", COMMANDS))

Nothing here imports torch.
"""

import difflib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from common.atomic import write_json
from common.errors import UserError
from common.flags import parse
from common.run_folder import provenance


@dataclass(frozen=True, kw_only=True)
class Args:
    """The flags of every command."""

    out: Path = Path("runs/foundations")
    """Folder for what the command writes."""
    seed: int = 0
    """Seed of everything that is drawn."""
    threads: int = 1
    """CPU threads that torch may use; 0: torch's own choice."""


class Command(NamedTuple):
    """A subcommand: its flags (a dataclass), and what runs."""

    args: type
    run: Callable[[Any], object]

    @property
    def summary(self) -> str:
        """First line of the function's docstring."""
        return (self.run.__doc__ or "").split("\n")[0]


def run_command(module: str, commands: Mapping[str, Command], argv: Sequence[str] | None = None) -> None:
    """Run `python -m MODULE COMMAND --flags`.  UserError on an unknown command, flag or value."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        width = max(map(len, commands))
        print(f"usage: python -m {module} COMMAND [--flags]   (COMMAND --help lists its flags)\n")
        print("\n".join(f"  {name:<{width}}  {command.summary}" for name, command in commands.items()))
        return
    name, *flags = words
    if name not in commands:
        near = difflib.get_close_matches(name, commands, n=1, cutoff=0.5)
        raise UserError(
            f"unknown command {name!r}"
            + (f" (did you mean {near[0]}?)" if near else "")
            + f": choose from {', '.join(commands)}"
        )
    args = parse(commands[name].args, flags, commands[name].summary)
    check_args(args)
    commands[name].run(args)


def check_args(args: Any) -> None:
    """UserError for a seed or a number of threads that cannot be meant, and for an --out that cannot be made.

    A command's own checks stand in its dataclass, in a method `check`.
    """
    for name in ("seed", "threads"):
        if getattr(args, name, 0) < 0:
            raise UserError(f"--{name} {getattr(args, name)}: must be at least 0")
    if hasattr(args, "check"):
        args.check()
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--out {args.out}: cannot make this folder ({error.strerror}); name another"
        ) from None


@contextmanager
def report(args: Any, name: str) -> Iterator[dict[str, Any]]:
    """A dict to fill with results; written to OUT/NAME.json with command, flags, seconds and versions.

    Nothing is written when the block raises.  Wall and CPU seconds are of the block.
    """
    result: dict[str, Any] = {}
    before = provenance()
    wall, cpu = time.perf_counter(), time.process_time()
    yield result
    took = {"wall_s": round(time.perf_counter() - wall, 2), "cpu_s": round(time.process_time() - cpu, 2)}
    flags = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
    told = {"command": name, "args": flags, **took, **before}
    write_json(args.out / f"{name}.json", {**told, **result})
