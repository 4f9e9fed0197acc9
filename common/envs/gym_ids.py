"""Any Gymnasium id, also your own (`module:EnvId` imports the module first): vector or image is detected.

Retired ids are mapped onto the newest version that exists, as is `<Game>NoFrameskip-v4` onto ale-py's games.
"""

import importlib
import importlib.util
import os
import re
import sys
from functools import cache
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import load_env_creator

from common.envs import headless
from common.envs.wrappers import ActionRepeat, DictObservation, option_defaults
from common.errors import UserError

PASSES_ON = True  # options that are not ours go to the env itself
_EXTRAS = {"box2d": "gymnasium[box2d]", "mujoco": "mujoco", "classic": "pygame-ce", "toy_text": "pygame-ce"}


@cache
def _register_known_packages() -> None:
    """Ids of other packages exist only once the package is imported."""
    for package in ("minigrid",):
        if importlib.util.find_spec(package):
            importlib.import_module(package)


def names() -> list[str]:
    """All ids that can be made by name alone."""
    _register_known_packages()
    return list(gym.registry)


def successor(name: str) -> str | None:
    """`CarRacing-v2` -> `CarRacing-v3`, `PongNoFrameskip-v4` -> `atari_pong`; None if not retired."""
    entry = gym.registry[name].entry_point if name in names() else "retired"
    old_atari = re.fullmatch(r"(\w+?)(NoFrameskip|Deterministic|)-v[04]", name)
    if old_atari and ("ale_py" in str(entry) or entry == "retired") and importlib.util.find_spec("ale_py"):
        from common.envs import atari  # these ids exist, or not, depending on what else was imported

        if rom := atari.rom_id(old_atari[1]):
            return f"atari_{rom}"
    stem, _, version = name.rpartition("-v")
    if entry != "retired" or not version.isdigit():
        return None
    versions = [int(m[1]) for other in names() if (m := re.fullmatch(re.escape(stem) + r"-v(\d+)", other))]
    return f"{stem}-v{max(versions)}" if versions and max(versions) > int(version) else None


def import_own(name: str) -> None:
    """Import the module of `module:EnvId`, whose code registers the id."""
    module = name.split(":")[0]
    if os.getcwd() not in sys.path:  # our scripts put the repository there
        sys.path.append(os.getcwd())
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"{name}: module {module!r} cannot be imported ({error}); run from its folder or set PYTHONPATH"
        ) from error


def is_slow(obs: str = "auto", **options) -> bool:
    """Does a step cost well over 1 ms?  Drawing a vector env does (2 to 70 ms)."""
    return obs in ("pixels", "both")


def make(
    name: str,
    mode: str = "train",
    obs: str = "auto",
    *,
    size: int | None = None,
    action_repeat: int = 1,
    time_limit: int | None = None,
    **options,
) -> gym.Env:
    """Build an id; `size` resizes its pictures, `time_limit` is in its own steps, `options` are its own."""
    spec = gym.registry[name.split(":")[-1]]
    if obs in ("pixels", "both") and "mujoco" in str(spec.entry_point):
        headless.require_mujoco_drawing(name)
    try:
        creator = (
            load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
        )
        if "rgb_array" in getattr(creator, "metadata", {}).get("render_modes", []):
            options["render_mode"] = "rgb_array"
        env = gym.make(
            name,
            max_episode_steps=time_limit,
            disable_env_checker=True,
            **options,
        )
    except (ImportError, gym.error.DependencyNotInstalled) as error:
        extra = next((pip for part, pip in _EXTRAS.items() if part in str(spec.entry_point)), None)
        pip = extra or getattr(error, "name", None) or str(error)
        raise UserError(f"{name} needs a package that is missing: pip install '{pip}'") from error
    except TypeError as error:
        raise UserError(f"{name} does not take these options: {str(error).splitlines()[0]}") from error
    if action_repeat > 1:
        env = ActionRepeat(env, action_repeat)
    return DictObservation(env, obs, size)


def options(name: str) -> dict[str, Any]:
    """Option -> default."""
    return option_defaults(make)
