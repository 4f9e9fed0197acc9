"""CarRacing under its Gymnasium name, drawn fast (default), by Gymnasium, or by EnvPool's threads.

render: `fast` is our light renderer (same physics, mean pixel difference under 1/255), `stock` Gymnasium's,
`exact` the same bits in a third of the time;
`envpool` steps a whole batch in C++ where that package is installed (a single env of it is the fast one).
"""

from typing import Any

import gymnasium as gym
from gymnasium.vector import VectorEnv

from common.envs.car_racing import CarRacingEnv, CarRacingPool
from common.envs.wrappers import option_defaults, pixels_only
from common.errors import UserError


def names() -> list[str]:
    """The current id; older ones are mapped onto it."""
    return ["CarRacing-v3"]


def make(name: str, mode: str = "train", obs: str = "auto", **options) -> gym.Env:
    """One car; its observation is a picture."""
    pixels_only(name, obs)
    if options.get("render") == "envpool":
        options["render"] = "fast"
    return CarRacingEnv(**options)


def make_vector(name: str, num: int, mode: str = "train", obs: str = "auto", **options) -> VectorEnv | None:
    """EnvPool's batch where it is asked for, else None."""
    if options.get("render") != "envpool":
        return None
    pixels_only(name, obs)
    defaults, pool = option_defaults(CarRacingEnv), option_defaults(CarRacingPool)
    for option in [key for key in options if key not in pool]:
        if (value := options.pop(option)) != defaults[option] and option != "render":
            raise UserError(f"EnvPool cannot do {option}={value!r}: leave it out, or choose render=fast")
    return CarRacingPool(num, **options)


def is_slow(obs: str = "auto", **options) -> bool:
    """Does a step cost well over 1 ms?  Gymnasium's own drawing does (5 ms), and the exact one (1.6)."""
    return options.get("render") in ("stock", "exact")


def options(name: str) -> dict[str, Any]:
    """Option -> default."""
    return option_defaults(CarRacingEnv)
