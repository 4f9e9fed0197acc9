"""What every paper's config.py is built from: the flags all papers share, layers of overrides, and JSON.

A paper writes `class Config(RunConfig)` with frozen nested dataclasses inside, `PRESETS: dict[str, Config]`
and `SUITES: dict[suite or env id, dict[preset, overrides]]`, where overrides map dotted field names to
values.  `resolve` lays them over each other; `to_json` and `from_json` carry a config through files and
checkpoints.  Nothing here imports torch.
"""

import dataclasses
import math
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from common.errors import UserError

Device = Literal["auto", "cpu", "cuda", "mps"]
Overrides = Mapping[str, Any]  # dotted field name -> value
C = TypeVar("C", bound="RunConfig")
T = TypeVar("T")


class Layer(NamedTuple):
    """One source of settings and what it set, for the start block: ("suite toy", {"vae.updates": 400})."""

    name: str
    values: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The settings that every paper's train.py has (DESIGN section 2)."""

    env: str = ""
    """Environment id, such as toy_dodge, CarRacing-v3, atari_pong, dmc_walker_walk."""
    steps: int | None = None
    """Environment frames in total, action repeats included; None: what the paper's schedule needs."""
    seed: int = 0
    """Seed of everything that is random: weights, environments, sampling."""
    device: Device = "auto"
    """Where the networks run; auto: cuda, else mps, else cpu."""
    logdir: str | None = None
    """Run folder; None: runs/ENV/TIME-sSEED in the paper's folder."""
    num_envs: int = 1
    """Environments that are stepped side by side."""
    eval_every: int = 0
    """Environment frames between two evaluations; 0: only at the end."""
    threads: int = 0
    """CPU threads that torch may use; 0: torch's own choice."""

    def check(self) -> None:
        """Refuse impossible values with a UserError.  A paper extends it: `super().check()`, then its own."""
        for name, least in (("steps", 1), ("seed", 0), ("num_envs", 1), ("eval_every", 0), ("threads", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"--{name.replace('_', '-')} {value}: must be at least {least}")


def fields_of(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of a config as (dotted name, value), in the order of declaration."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from fields_of(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", value


def check_ranges(config: Any, least: Mapping[float, str], positive: str = "", shares: str = "") -> None:
    """UserError for the first field that is out of range or not finite; None passes.

    Fields by dotted names in a string.  least: {smallest value allowed: fields}; positive: above 0; shares:
    from 0 to 1.
    """
    values = dict(fields_of(config))
    rules = [(names, f"at least {low}", lambda x, low=low: x >= low) for low, names in least.items()]
    rules += [(positive, "above 0", lambda x: x > 0), (shares, "from 0 to 1", lambda x: 0 <= x <= 1)]
    for names, text, fits in rules:
        for name in names.split():
            value = values[name]
            for number in value if isinstance(value, tuple) else (value,):
                if number is not None and not (math.isfinite(number) and fits(number)):
                    raise UserError(f"--{name.replace('_', '-')} {number}: must be {text}")


def override(config: T, values: Overrides) -> T:
    """A copy with dotted fields replaced, {"rssm.deter": 512}.  ValueError names an unknown field."""
    for path, value in values.items():
        try:
            config = _override_one(config, path.split("."), value)
        except AttributeError as error:
            known = [name for name, _ in fields_of(config)]
            raise ValueError(f"{type(config).__name__} has no field {path!r}; it has {known}") from error
    return config


def _override_one(config: T, path: list[str], value: Any) -> T:
    head, *rest = path
    old = getattr(config, head)
    if isinstance(old, Mapping) and rest:  # an entry of a dict field: loss_scales.image
        return dataclasses.replace(config, **{head: {**old, ".".join(rest): value}})
    return dataclasses.replace(config, **{head: _override_one(old, rest, value) if rest else value})


def changes(old: Any, new: Any) -> dict[str, Any]:
    """The leaves of `new` that differ from those of `old`: dotted name -> new value."""
    before = dict(fields_of(old))
    return {name: value for name, value in fields_of(new) if name not in before or before[name] != value}


def resolve(
    presets: Mapping[str, C],
    suites: Mapping[str, Mapping[str, Overrides]],
    preset: str,
    env: str,
    flags: Overrides | None = None,
) -> tuple[C, list[Layer]]:
    """PRESETS[preset] + SUITES[suite of env][preset] + SUITES[env][preset] + flags; the later one wins.

    The second value says what each layer set.  Raises UserError for an unknown preset or environment.
    """
    from common.env_wrapper import suite_of

    if preset not in presets:
        raise UserError(f"unknown preset {preset!r}: --preset {'|'.join(presets)}")
    config = dataclasses.replace(presets[preset], env=env)
    layers = [Layer(f"preset {preset}", changes(dataclasses.replace(type(config)(), env=env), config))]
    suite = suite_of(env)
    found = [(f"suite {suite}", suites.get(suite, {}).get(preset))]
    if env != suite:
        found.append((f"env {env}", suites.get(env, {}).get(preset)))
    for name, values in [*found, ("command line", flags)]:
        if values:
            config = override(config, values)
            layers.append(Layer(name, dict(values)))
    return config, layers


def to_json(config: Any) -> dict[str, Any]:
    """Nested dict of plain numbers, strings, lists (tuples become lists) and dicts."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_json(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a config holds plain values only, not {type(value).__name__}: {value!r}")


def from_json(cls: type[T], data: Mapping[str, Any], where: str = "config") -> T:
    """The inverse of `to_json`.  UserError names fields that the file has and we do not, or that it lacks."""
    if not isinstance(data, Mapping):
        raise UserError(f"{where}: expected the fields of {cls.__name__}, found {data!r}")
    hints = get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    unknown, missing = sorted(set(data) - set(names)), [name for name in names if name not in data]
    if unknown or missing:
        parts = [f"unknown {', '.join(unknown)}"] * bool(unknown) + [f"missing {', '.join(missing)}"] * bool(
            missing
        )
        raise UserError(
            f"{where} was written by another version of the code: {'; '.join(parts)}. Start a new run."
        )
    return cls(**{name: _typed(hints[name], data[name], f"{where}.{name}") for name in names})


def _typed(hint: Any, value: Any, where: str) -> Any:
    """Give lists, dicts and nested dataclasses the type that the annotation asks for."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        inner = [arg for arg in args if arg is not type(None)]
        return _typed(inner[0], value, where) if len(inner) == 1 else value
    if dataclasses.is_dataclass(hint):
        return from_json(hint, value, where)
    if origin is tuple and isinstance(value, (list, tuple)):
        inner = [args[0]] * len(value) if len(args) == 2 and args[1] is Ellipsis else list(args)
        if len(inner) != len(value):
            raise UserError(f"{where}: expected {len(inner)} values, found {value!r}")
        return tuple(_typed(kind, item, where) for kind, item in zip(inner, value, strict=True))
    if origin is dict and isinstance(value, Mapping):
        return {key: _typed(args[1], item, f"{where}.{key}") for key, item in value.items()}
    wrong = UserError(f"{where}: {value!r} is no {getattr(hint, '__name__', hint)}")
    if origin is Literal and value not in args:
        raise wrong
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)  # JSON writers are free to drop the ".0"
    if hint in (int, float, bool, str) and type(value) is not hint:
        raise wrong
    return value
