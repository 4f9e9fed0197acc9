"""Values of env options: of the kind of their default, and within a range where the suites share one."""

from collections.abc import Mapping
from typing import Any

from common.errors import UserError

RANGES = {  # lowest and highest
    **dict.fromkeys(("frame_skip", "action_repeat"), (1, 1_000)),
    **dict.fromkeys(("limit", "time_limit", "max_steps"), (1, 10**9)),
    **{"size": (8, 1_024), "sticky": (0, 1), "skill": (1, 5), "noop_max": (0, 10_000), "gap": (10, 64)},
    **{"levels": (0, 10**9), "actions": (1, 7), "camera": (-1, 1_000)},
}


def check_values(name: str, options: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """UserError for a value of another kind than the option's default, or out of its range.

    An option without a default here is passed on to the env, which knows what it means; None is one's own
    affair where the default is None.
    """
    for option in options.keys() & defaults.keys():
        value, like, (low, high) = options[option], defaults[option], RANGES.get(option, (None, None))
        if like is None and (value is None or low is None):
            continue
        kinds = (int, float) if isinstance(like, float) else (int,) if like is None else (type(like),)
        if type(value) not in kinds:
            told = "a number" if float in kinds else "a whole number" if int in kinds else f"like {like!r}"
            raise UserError(f"{name}: option {option} is {told}, not {value!r}")
        if low is not None and not isinstance(value, str) and not low <= value <= high:
            raise UserError(f"{name}: option {option} {value}: must be from {low} to {high}")
