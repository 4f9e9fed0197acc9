"""Parameters of every size and kind of input, to the unit, against the official code's (11.1)."""

import pytest
import torch

from common.config import override
from common.meters import parameter_counts
from common.spaces import Spaces
from paper4_dreamerv3.actor_critic import Actor
from paper4_dreamerv3.counts import PUBLISHED, RGB, published
from paper4_dreamerv3.presets import PRESETS, SIZES
from paper4_dreamerv3.train import main
from paper4_dreamerv3.world_model import NumberHead, WorldModel

SPACES = {kind: Spaces(*row[:3]) for kind, row in PUBLISHED.items()}
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
@pytest.mark.parametrize("kind", PUBLISHED)
def test_every_size_has_the_official_number_of_parameters(kind, column, size):
    official = PUBLISHED[kind][-1][column]
    assert sum(counts(size, SPACES[kind]).values()) == official
    assert published(override(PRESETS["paper"], SIZES[size]), SPACES[kind]) == {"total": official}


def test_other_sizes_and_inputs_have_no_official_number():
    assert published(PRESETS["tiny"], SPACES["crafter"]) is None
    assert published(override(PRESETS["paper"], {"units": 8}), SPACES["crafter"]) is None
    assert published(PRESETS["paper"], MINECRAFT) is None
    assert published(PRESETS["paper"], Spaces(RGB, 17, True, (8, 9))) is None


def test_a_run_begins_with_the_official_number_and_with_what_versions_dispute(capsys):
    flags = "--preset dmc_proprio --env dmc_walker_walk --device cpu --dry-run".split()
    main(flags)
    printed = capsys.readouterr().out
    assert "  total: 640,867  (paper: 640,867)\n" in printed
    row = (
        "conv.cnn={}, actor.unimix={}, behaviour.root_cont=pred, model.contdisc=True, beta2={}, train_ratio=1"
    )
    assert row.format("pool", 0.01, 0.999) in printed
    main([*flags, "--profile", "nature", "--size", "12M"])
    printed = capsys.readouterr().out
    assert (
        "  total: 9,738,019  (paper: 9,738,019)\n" in printed and row.format("strided", 0.01, 0.99) in printed
    )


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
        **{"rssm.stoch": 32, "rssm.classes": 16, "conv.depth": 16},
    }
