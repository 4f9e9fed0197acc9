"""Parameters of every size and kind of input, to the unit, against the official code's (11.1)."""

import pytest
import torch

from common.config import override
from common.meters import parameter_counts
from common.spaces import Spaces
from paper4_dreamerv3.actor_critic import Actor
from paper4_dreamerv3.presets import PRESETS, SIZES
from paper4_dreamerv3.world_model import NumberHead, WorldModel

RGB, GRAY = {"image": (64, 64, 3)}, {"image": (96, 96, 1)}
COUNTS = {  # in the order of SIZES; the slow critic is not counted
    "proprio": [640867, 9738019, 21782947, 38612003, 86622499, 153769507, 345473059],
    "vision": [686846, 10494158, 23489326, 41650062, 93468238, 165948686, 372896398],
    "crafter": [687875, 10498259, 23495475, 41658259, 93480531, 165965075, 372920979],
    "atari100k": [688004, 10498772, 23496244, 41659284, 93482068, 165967124, 372924052],
    "atari57": [769762, 11808850, 26444402, 46900882, 105276626, 186936082, 420106130],
}
SPACES = {
    "proprio": Spaces({"vector": (24,)}, 6, False),
    "vision": Spaces(RGB, 6, False),
    "crafter": Spaces(RGB, 17, True),
    "atari100k": Spaces(RGB, 18, True),
    "atari57": Spaces(GRAY, 18, True),
}
# 64 x 64 pictures with three inventories of 391 items, health, hunger and breath.
MINECRAFT = Spaces({**RGB, "vector": (3 * 391 + 3,)}, 25, True)


def modules(size: str, spaces: Spaces, **more) -> dict[str, torch.nn.Module]:
    """All that is trained, without memory behind it."""
    cfg = override(PRESETS["paper"], {**SIZES[size], **more})
    with torch.device("meta"):
        model = WorldModel(cfg, spaces)
        feature = model.rssm.feature
        parts = {"dyn": model.rssm, "enc": model.encoder, "dec": model.decoder}
        parts |= {"rew": model.rew, "con": model.cont, "pol": Actor(cfg, feature, spaces)}
        return parts | {"val": NumberHead(cfg, feature, cfg.behaviour.critic_layers)}


def counts(*args, **more) -> dict[str, int]:
    return {name: parameter_counts(part)["total"] for name, part in modules(*args, **more).items()}


@pytest.mark.parametrize("column, size", list(enumerate(SIZES)))
@pytest.mark.parametrize("kind", COUNTS)
def test_every_size_has_the_official_number_of_parameters(kind, column, size):
    assert sum(counts(size, SPACES[kind]).values()) == COUNTS[kind][column]


@pytest.mark.parametrize(
    "size, kind, expected",
    [
        (
            "1M",
            "proprio",
            {
                **{"dyn": 364416, "enc": 10112, "dec": 51096, "rew": 57663},
                **{"con": 41153, "pol": 50316, "val": 66111},
            },
        ),
        (
            "12M",
            "atari100k",
            {
                **{"dyn": 5982720, "enc": 220416, "dec": 1272003, "rew": 721407},
                **{"con": 656129, "pol": 792594, "val": 853503},
            },
        ),
    ],
)
def test_and_so_has_every_module(size, kind, expected):
    assert counts(size, SPACES[kind]) == expected


@pytest.mark.parametrize("size, expected", [("12M", 12091763), ("50M", 46810163), ("200M", 184132019)])
def test_minecraft(size, expected):
    assert sum(counts(size, MINECRAFT).values()) == expected


def test_strided_convolutions_have_the_same_shapes():
    assert counts("12M", SPACES["vision"], **{"conv.cnn": "strided"}) == counts("12M", SPACES["vision"])


def test_the_paper_preset_is_12m():
    assert override(PRESETS["paper"], SIZES["12M"]) == PRESETS["paper"]
    assert SIZES["12M"] == {
        **{"units": 256, "rssm.hidden": 256, "rssm.deter": 2048},
        **{"rssm.classes": 16, "conv.depth": 16},
    }
