"""Every environment of the repository by one name: `make_env`, `make_vector_env`, `EnvSpec`.

Whatever the suite: a Dict of `image*` (uint8 [H, W, C]) and `vector*` (float32 [D]) observations, and actions
that are Discrete, MultiDiscrete or a Box in [-1, 1].  This file only dispatches: a suite is one file in
common/envs/ with `names`, `options`, `make`, and perhaps `canonical` (one spelling per env), `make_vector` (a
batched env of its own) and `is_slow` (a step takes well over 1 ms).
An option may be a pair {"train": a, "eval": b}, for protocols that differ by mode.
"""

import difflib
import importlib
import logging
import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from types import ModuleType
from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from common.envs import headless
from common.envs.baselines import lookup
from common.envs.option_values import check_values
from common.envs.wrappers import OBS, plain_actions, plain_vector_actions
from common.errors import UserError

__all__ = [
    "EnvSpec",
    "can_terminate",
    "check_name",
    "frames_per_step",
    "make_env",
    "make_vector_env",
    "resolve_name",
    "scores",
    "takes",
]

headless.set_defaults()  # before anything imports pygame or mujoco
log = logging.getLogger(__name__)

SUITES = {  # suite -> (what its names look like, its file in common/envs); the first that fits wins
    "toy": (r"toy_.*", "toy_ids"),
    "box2d_car": (r"CarRacing-v\d+", "car_ids"),
    "atari": (r"atari_.*|ALE/.*", "atari"),
    "dmc": (r"dmc_.*", "dmc"),
    "crafter": (r"crafter_.*", "crafter"),
    "minigrid": (r"MiniGrid-.*", "minigrid"),
    "minecraft": (r"minecraft_.*", "minecraft"),
    "voxel": (r"voxel_.*", "voxel_ids"),
    "doom": (r"doom_.*", "doom"),
    "gym": (r".*", "gym_ids"),
}
_PIP = {"ale_py": "ale-py", "dm_control": "dm-control", "Box2D": "'gymnasium[box2d]'", "pygame": "pygame-ce"}


@dataclass(frozen=True)
class EnvSpec:
    """An env as data: what a config asks for and a checkpoint stores (`dataclasses.asdict`, JSON)."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def make(self, mode: str = "eval", **changes: Any) -> gym.Env:
        """One env; `changes` replace options of the same name."""
        return make_env(self.name, mode, **{**self.options, **changes})

    def make_vector(self, num: int, mode: str = "train", **changes: Any) -> VectorEnv:
        """num envs side by side; `changes` replace options of the same name, `backend` among them."""
        return make_vector_env(self.name, num, mode, **{**self.options, **changes})

    @property
    def frames_per_step(self) -> int:
        """Environment frames per action."""
        return frames_per_step(self.name, self.options)


def suite_of(name: str) -> str:
    """toy, gym, box2d_car, atari, dmc, crafter, minigrid, minecraft, voxel or doom."""
    return next(suite for suite, (pattern, _) in SUITES.items() if re.fullmatch(pattern, name))


def resolve_name(name: str) -> tuple[str, str | None]:
    """Retired id -> (its successor, one line of notice); any other name -> (name, None)."""
    suite = suite_of(name)
    if suite not in ("gym", "box2d_car", "minigrid") or ":" in name:
        return name, None
    from common.envs import gym_ids

    successor = gym_ids.successor(name)
    return (successor, f"{name} is retired: using {successor}") if successor else (name, None)


def check_name(name: str) -> None:
    """Raise a UserError, with a did-you-mean, unless `name` is an environment.  Builds nothing, no torch."""
    resolved, _ = resolve_name(name)
    suite = suite_of(resolved)
    with _packages(name):
        adapter = _adapter(suite)
        if suite == "gym" and ":" in name:
            adapter.import_own(name)
            known = resolved.split(":", 1)[1] in gym.registry
        elif suite == "atari":
            known = adapter.rom_id(resolved) is not None
        else:
            known = resolved in adapter.names()
    if not known:
        raise UserError(f"unknown environment {name!r}{_suggestion(name)}")


def frames_per_step(name: str, options: dict[str, Any] | None = None) -> int:
    """Environment frames per action: the option (or default) that repeats actions in this suite."""
    merged = _of_mode(_with_defaults(resolve_name(name)[0], options), "train")
    return int(merged.get("frame_skip", merged.get("action_repeat", 1)))


def takes(name: str, option: str) -> bool:
    """Has this environment such an option?"""
    name = resolve_name(name)[0]
    return option in _adapter(suite_of(name)).options(name)


def can_terminate(name: str, options: dict[str, Any] | None = None) -> bool:
    """Can an episode end for good, not only by its time limit?  Where nobody knows: yes."""
    name = resolve_name(name)[0]
    answer = getattr(_adapter(suite_of(name)), "can_terminate", lambda *_, **__: True)
    return answer(name, **_with_defaults(name, options))


def scores(name: str, options: dict[str, Any] | None = None) -> dict[str, Any]:
    """random, blind, optimum, published, human: each None or {value, protocol, source, ...}; published_all.

    They are those of the env with these options, where the options matter.
    """
    name = resolve_name(name)[0]
    merged = _with_defaults(name, options)
    with _packages(name):
        return lookup(getattr(_adapter(suite_of(name)), "canonical", str)(name), merged)


def make_env(
    name: str, mode: str = "train", *, obs: str = "auto", native_actions: bool = False, **options: Any
) -> gym.Env:
    """One environment, any suite.

    mode: train or eval.  obs: auto, vector, pixels (of a vector env: its render) or both.  native_actions:
    Box actions keep the env's own bounds.  options: what the suite's file in common/envs takes.
    """
    name, adapter, options = _prepare(name, mode, obs, options)
    with _packages(name):
        env = adapter.make(name, mode, obs, **options)
    return plain_actions(env, native_actions)


def make_vector_env(
    name: str,
    num: int,
    mode: str = "train",
    *,
    backend: str = "auto",
    obs: str = "auto",
    native_actions: bool = False,
    **options: Any,
) -> VectorEnv:
    """num environments stepped together, Gymnasium's NEXT_STEP autoreset.

    backend: sync (one process), async (a process per env, restarted when it crashes), or auto: the suite's
    own batched env where it has one, else async for envs of well over 1 ms per step, else sync.
    """
    if backend not in ("auto", "sync", "async") or num < 1:
        raise UserError(f"backend={backend!r}, num={num}: choose auto, sync or async, and at least one env")
    name, adapter, options = _prepare(name, mode, obs, options)
    if backend == "auto":
        with _packages(name):
            native = getattr(adapter, "make_vector", lambda *_, **__: None)
            env = native(name, num, mode, obs, **options)
        if env is not None:
            return plain_vector_actions(env, native_actions)
        slow = getattr(adapter, "is_slow", lambda **_: False)(obs=obs, **options)
        backend = "async" if slow and num > 1 else "sync"
    maker = partial(make_env, name, mode, obs=obs, native_actions=native_actions, **options)
    if backend == "async":
        from common.envs.workers import WorkerVectorEnv

        return WorkerVectorEnv([maker] * num)
    return SyncVectorEnv([maker] * num, autoreset_mode=AutoresetMode.NEXT_STEP)


def _prepare(name: str, mode: str, obs: str, options: dict) -> tuple[str, ModuleType, dict]:
    """Check all that can be checked without building; -> resolved name, adapter, options of this mode."""
    if mode not in ("train", "eval") or obs not in OBS:
        raise UserError(f"mode={mode!r}, obs={obs!r}: mode is train or eval, obs is one of {', '.join(OBS)}")
    check_name(name)
    name, notice = resolve_name(name)
    if notice:
        _announce(notice)
    adapter = _adapter(suite_of(name))
    allowed = adapter.options(name)
    for option in options.keys() - allowed.keys() if not hasattr(adapter, "PASSES_ON") else ():
        raise UserError(f"{name} has no option {option!r}; it takes {', '.join(allowed) or 'none'}")
    options = _of_mode(options, mode)
    check_values(name, options, allowed)
    return name, adapter, options


def _of_mode(options: dict[str, Any], mode: str) -> dict[str, Any]:
    """Replace each {"train": a, "eval": b} by the value of this mode."""
    pairs = {k: v for k, v in options.items() if isinstance(v, dict) and v.keys() == {"train", "eval"}}
    return options | {key: pair[mode] for key, pair in pairs.items()}


def _with_defaults(name: str, options: dict[str, Any] | None) -> dict[str, Any]:
    return {**_adapter(suite_of(name)).options(name), **(options or {})}


def _adapter(suite: str) -> ModuleType:
    return importlib.import_module(f"common.envs.{SUITES[suite][1]}")


@cache
def _announce(notice: str) -> None:
    log.warning(notice)  # once per process


@contextmanager
def _packages(name: str):
    """A missing package becomes one line that installs it."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package in ("", "common"):
            raise  # a fault of ours, not of the installation
        pip = _PIP.get(package, package)
        raise UserError(f"{name} needs {pip}: pip install {pip}") from error


def _suggestion(name: str) -> str:
    """`: did you mean a or b?`, or the list of what there is."""
    known: set[str] = set()
    for suite in SUITES:
        try:
            known |= set(_adapter(suite).names())
        except ModuleNotFoundError:
            continue  # a suite that is not installed has no names to offer
    close = difflib.get_close_matches(name, sorted(known), n=2, cutoff=0.6)
    if close:
        return f": did you mean {' or '.join(close)}?"
    return ": try toy_dodge, CarRacing-v3, atari_pong, dmc_walker_walk, crafter_reward or any Gymnasium id"
