"""Parameters of the authors' code, which ours has to the unit (HEAD; the slow critic is not counted)."""

from common.config import override
from paper4_dreamerv3.config import Config
from paper4_dreamerv3.presets import SIZES

RGB, GRAY = {"image": (64, 64, 3)}, {"image": (96, 96, 1)}
WALKER = {"vector_height": (1,), "vector_orientations": (14,), "vector_velocity": (9,)}
PUBLISHED = {  # observations, A, are actions discrete?, parameters in the order of SIZES
    "proprio": (WALKER, 6, False, (640867, 9738019, 21782947, 38612003, 86622499, 153769507, 345473059)),
    "vision": (RGB, 6, False, (686846, 10494158, 23489326, 41650062, 93468238, 165948686, 372896398)),
    "crafter": (RGB, 17, True, (687875, 10498259, 23495475, 41658259, 93480531, 165965075, 372920979)),
    "atari100k": (RGB, 18, True, (688004, 10498772, 23496244, 41659284, 93482068, 165967124, 372924052)),
    "atari57": (GRAY, 18, True, (769762, 11808850, 26444402, 46900882, 105276626, 186936082, 420106130)),
}


def published(cfg: Config, spaces) -> dict[str, int] | None:
    """The authors' count for this size and kind of input, where it is known."""
    size = next((i for i, values in enumerate(SIZES.values()) if override(cfg, values) == cfg), None)
    for *kind, counts in PUBLISHED.values():
        if size is not None and kind == [spaces.obs, spaces.act, spaces.discrete] and not spaces.multi:
            return {"total": counts[size]}
    return None
