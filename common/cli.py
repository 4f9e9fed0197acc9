"""One command line for all papers: the arguments of train.py, eval.py and visualize.py.

`parse_train` lays preset, suite and dotted flags (`--rssm.deter 512`) over each other; every whole number
accepts counts such as 1e6 and 1_000_000 (DESIGN section 2).  Bad input becomes one UserError line, and
nothing here imports torch, so that `--help` and a wrong flag answer at once.  Scripts end with
`run_main(main)`.
"""

import dataclasses
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import tyro

from common.cli_args import EvalArgs, TrainCommand, VisualizeArgs
from common.config import (
    Layer,
    Overrides,
    RunConfig,
    changes,
    fields_of,
    from_json,
    override,
    resolve,
    to_json,
)
from common.device import cuda_without_torch, pick_device
from common.errors import UserError
from common.flags import expand_aliases, flag_of, given_fields, literal, parse, parse_count, peek
from common.run_folder import link_latest, new_run_dir, save_config, start_block

__all__ = [
    "EvalArgs",
    "Layer",
    "RunConfig",
    "TrainCommand",
    "VisualizeArgs",
    "from_json",
    "link_latest",
    "new_run_dir",
    "parse_count",
    "parse_eval",
    "parse_train",
    "parse_visualize",
    "pick_device",
    "resolve",
    "run_main",
    "save_config",
    "start_block",
    "to_json",
]
A = TypeVar("A")


def parse_train(
    argv: Sequence[str] | None,
    presets: Mapping[str, Any],
    suites: Mapping[str, Mapping[str, Overrides]],
    *,
    default_env: str,
    description: str,
    dotted_aliases: Mapping[str, str] | None = None,
    extra: type | None = None,
    variants: Mapping[str, Mapping[str, Overrides]] | None = None,
    paper: str = "",
) -> TrainCommand:
    """Parse train.py's command line (None: sys.argv).  Raises UserError; `--help` prints and exits 0.

    dotted_aliases: short names of config fields, {"epochs": "vae.epochs"}.  extra: a dataclass of flags that
    are not part of the config.  variants: named sets of overrides with a flag each, {"size": {"12M": {...}}},
    or what gives them: (env, preset) -> overrides.
    paper: its folder; a run of another one is refused.
    """
    aliases, variants = dotted_aliases or {}, variants or {}
    argv = expand_aliases(sys.argv[1:] if argv is None else argv, aliases)
    if (resume := peek(argv, "resume")) is not None:
        config_type = type(next(iter(presets.values())))
        base, preset, layers, notices = _resumed(argv, Path(resume), config_type, variants, paper)
    else:
        base, preset, layers, notices = _fresh(argv, presets, suites, variants, default_env)
    base, argv = _with_env_options(base, argv)
    rows = [
        ("preset", str, preset, f"Named set of settings: {', '.join(presets)}."),
        ("resume", Path | None, None, "Run folder to go on with; its settings are kept unless given here."),
        ("dry_run", tyro.conf.FlagCreatePairsOff[bool], False, "Print what would run, and exit."),
        *((flag, str | None, None, f"Variant: {', '.join(sets)}.") for flag, sets in variants.items()),
    ]
    spec = [(name, Annotated[kind, tyro.conf.arg(help=text)], default) for name, kind, default, text in rows]
    spec.append(("config", Annotated[type(base), tyro.conf.arg(name="")], base))
    if extra is not None:
        spec.append(("extra", Annotated[extra, tyro.conf.arg(name="")], extra()))
    line_type = dataclasses.make_dataclass("TrainLine", spec, frozen=True, kw_only=True)
    short = "".join(f"\n  --{name} is short for --{flag_of(path)}" for name, path in aliases.items())
    line = parse(line_type, argv, description + short, [f"--{name}" for name in aliases])
    config = dataclasses.replace(line.config, env=base.env)  # the retired id was already replaced in base
    config.check()
    given = given_fields(argv, config)
    values, before = dict(fields_of(config)), dict(fields_of(base))
    if told := {name: values[name] for name in values if name in given}:
        layers.append(Layer("command line", told))
    if resume is not None:
        notices += [
            f"override {name}: {before.get(name)} -> {value}" for name, value in changes(base, config).items()
        ]
    return TrainCommand(
        config,
        preset,
        layers,
        notices,
        line.resume,
        line.dry_run,
        frozenset(given),
        getattr(line, "extra", None),
    )


def _fresh(
    argv: Sequence[str], presets: Mapping, suites: Mapping, variants: Mapping, default_env: str
) -> tuple[Any, str, list[Layer], list[str]]:
    """Config before the flags, preset, layers and notices of a new run."""
    preset, why = peek(argv, "preset"), "asked for"
    if preset is None:
        preset, why = default_preset(presets, peek(argv, "device"))
    notices = [f"preset {preset}: {why}"]
    base, layers = resolve(presets, suites, preset, _check_env(peek(argv, "env") or default_env, notices))
    for flag, choices in variants.items():
        if (name := peek(argv, flag)) is not None:
            if name not in choices:
                raise UserError(f"--{flag} {name}: must be one of {', '.join(choices)}")
            values = choices[name](base.env, preset) if callable(choices[name]) else choices[name]
            base = override(base, values)
            layers.append(Layer(f"{flag} {name}", dict(values)))
    return base, preset, layers, notices


def _with_env_options(base: Any, argv: Sequence[str]) -> tuple[Any, list[str]]:
    """`--env-options.NAME VALUE` becomes an entry and so a flag; the env says if it takes it.

    The value decides on the type.  Switches are `--env-options.NAME` and `--env-options.no-NAME`, or have
    True or False behind them.  Returns the config with those entries, and the words as tyro wants them.
    """
    if not hasattr(base, "env_options"):
        return base, list(argv)
    flag = re.compile(r"--env[-_]options\.([\w-]+)")
    parts = (word.split("=", 1) if flag.match(word) else [word] for word in argv)
    words: list[str] = []
    for word in (word for part in parts for word in part):
        if words and flag.fullmatch(words[-1]) and word.lower() in ("true", "false"):
            if word.lower() == "false":
                words[-1] = words[-1].replace("options.", "options.no-")
        else:
            words.append(word)
    new: dict[str, int | float | bool | str] = {}
    for word, following in zip(words, [*words[1:], "--"], strict=True):
        if (found := flag.fullmatch(word)) is None:
            continue
        name = found[1].replace("-", "_")
        if following.startswith("--"):
            new[name.removeprefix("no_")] = name.startswith("no_")  # the other value: the flag turns it round
        else:
            new[name] = literal(following)
    return override(base, {"env_options": {**new, **base.env_options}}) if new else base, words


def _resumed(
    argv: Sequence[str], folder: Path, config_type: type, variants: Mapping, paper: str
) -> tuple[Any, str, list[Layer], list[str]]:
    """The same for a run that goes on: everything comes from its config.json."""
    stored = _read_run(folder)
    if paper and stored.get("paper", paper) != paper:
        raise UserError(
            f"--resume {folder}: a run of {stored['paper']}; go on with the train.py of that folder"
        )
    for flag in ("preset", *variants):  # they set many fields at once, sizes of networks among them
        if (name := peek(argv, flag)) not in (None, stored.get(flag)):
            raise UserError(f"--{flag} {name}: a resumed run keeps its own; start a new run without --resume")
    base = from_json(config_type, stored["config"], str(folder / "config.json"))
    if (env := peek(argv, "env")) is not None and _check_env(env, []) != base.env:
        raise UserError(
            f"--env {env}: the run in {folder} is on {base.env}; start a new run without --resume"
        )
    return base, str(stored.get("preset")), [Layer(f"run {folder}", {})], [f"resuming {folder}"]


def parse_eval(argv: Sequence[str] | None = None, *, description: str = "", args: type[A] = EvalArgs) -> A:
    """Parse eval.py's command line into `args`; the checkpoint is found and the env id checked."""
    return _parse_agent_args(argv, args, description, at_least={"episodes": 1, "seed": 0, "threads": 0})


def parse_visualize(
    argv: Sequence[str] | None = None, *, description: str = "", args: type[A] = VisualizeArgs
) -> A:
    """Parse visualize.py's command line into `args`; the checkpoint is found."""
    least = {"num_dreams": 1, "horizon": 1, "context": 1, "seed": 0, "threads": 0}
    return _parse_agent_args(argv, args, description, at_least=least)


def _parse_agent_args(
    argv: Sequence[str] | None, args: type[A], description: str, at_least: dict[str, int]
) -> A:
    parsed = parse(args, list(sys.argv[1:] if argv is None else argv), description)
    for name, least in at_least.items():
        if (value := getattr(parsed, name)) < least:
            raise UserError(f"--{flag_of(name)} {value}: must be at least {least}")
    parsed.check()
    new: dict[str, Any] = {"checkpoint": _find_checkpoint(parsed.checkpoint)}
    if getattr(parsed, "env", None) is not None:
        notices: list[str] = []
        new["env"] = _check_env(parsed.env, notices)
        sys.stderr.writelines(f"{notice}\n" for notice in notices)
    return dataclasses.replace(parsed, **new)


def run_main(main: Callable[[], object]) -> NoReturn:
    """Run a script's main: a UserError is one line on stderr and exit code 2, Ctrl-C is 130."""
    try:
        main()
    except UserError as error:
        sys.stdout.flush()  # so that the last line on a terminal is the error
        sys.exit(_report(f"error: {error}", 2))
    except KeyboardInterrupt:
        sys.exit(_report("interrupted", 130))
    except BrokenPipeError:  # `train.py --help | head`: nobody reads on, which is no fault
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    sys.exit(0)


def _report(line: str, code: int) -> int:
    sys.stderr.write(line + "\n")
    return code


def default_preset(presets: Mapping[str, Any], device: str | None = None) -> tuple[str, str]:
    """The preset without --preset, and why: `paper` where there is a CUDA device, else `tiny`."""
    has_cuda, why = (
        cuda_without_torch() if device in (None, "auto", "cuda") else (False, f"--device {device}")
    )
    name = "paper" if has_cuda else "tiny"
    name = name if name in presets else next(iter(presets))
    return name, f"{why}; choose another with --preset {'|'.join(presets)}"


def _check_env(name: str, notices: list[str]) -> str:
    """The id to use; a retired one is replaced with a notice.  Raises UserError on an unknown one."""
    from common.env_wrapper import check_name, resolve_name

    name, notice = resolve_name(name)
    if notice:
        notices.append(notice)
    check_name(name)
    return name


def _read_run(folder: Path) -> dict[str, Any]:
    """config.json of a run folder."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(
            f"--resume {folder}: no run there (config.json is missing); name a folder under runs/"
        )
    try:
        stored = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); name another run folder") from None
    if not isinstance(stored, dict) or "config" not in stored:
        raise UserError(f"{path} is not the config of a run of this repository; name another run folder")
    return stored


def _find_checkpoint(path: Path) -> Path:
    """The file that --checkpoint names: itself, or the model.pt of a run folder."""
    file = path / "model.pt" if path.is_dir() else path
    if not file.is_file():
        raise UserError(
            f"--checkpoint {path}: no such file; train first (python train.py), or name a run folder"
        )
    return file
