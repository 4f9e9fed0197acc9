"""Every results plot of the READMEs, declared like the tables (tables.py); figures.py draws them."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.tables import CATCH, FIVE, PAPER1, PAPER2, PAPER3, PAPER4, PAPER5, POINT, THREE, Column


@dataclass(frozen=True)
class Plot:
    """Learning curves (x a column of curve.csv), or with `rows` lines over a list inside eval.json."""

    where: dict[str, str | tuple[str, ...]]
    title: str
    x: Column = Column("environment frames", "frames")
    y: tuple[Column, ...] = (Column("return", "ret_mean"),)
    rows: str = ""
    baselines: tuple[str, ...] = ("random", "blind", "optimum")
    by: str = "label"  # runs that agree in it are curves of one colour


PLOTS: dict[str, Plot] = {
    "paper1-toy_dodge": Plot(
        {**PAPER1, "group": "toy_dodge"},
        "Paper 1 on toy_dodge",
        x=Column("CPU seconds", "cpu_s"),  # evolving in the dream takes no frames
    ),
    "paper2-free-nats": Plot(
        {**PAPER2, "group": (POINT[0], "experiment"), "label": ("tiny", "free nats 0", "free nats 1")},
        "Paper 2 on toy_point: free nats (tiny: 3)",
        baselines=("random", "optimum"),
    ),
    "paper2-horizon": Plot(
        {
            **PAPER2,
            "group": (POINT[0], "experiment"),
            "label": ("tiny", "horizon 5", "horizon 15", "horizon 30"),
        },
        "Paper 2 on toy_point: horizon (tiny: 10)",
        baselines=("random", "optimum"),
    ),
    "paper2-balance": Plot(
        {**PAPER2, "group": (POINT[0], "experiment"), "label": ("tiny", "KL balancing 0.8")},
        "Paper 2 on toy_point: KL balancing (tiny: none)",
        baselines=("random", "optimum"),
    ),
    "paper3-latents": Plot(
        {**PAPER3, "env": "toy_catch", "label": ("tiny", "gaussian latents")},
        "Paper 3 on toy_catch: discrete latents (tiny) against Gaussian ones",
    ),
    "paper3-balance": Plot(
        {**PAPER3, "env": "toy_catch", "label": ("tiny", "KL balancing 0.5")},
        "Paper 3 on toy_catch: KL balancing 0.8 (tiny) against 0.5",
    ),
    "paper3-rho-catch": Plot(
        {**PAPER3, "env": "toy_catch", "label": ("tiny", "dynamics gradient")},
        "Paper 3 on toy_catch: REINFORCE (tiny) against the dynamics' gradient",
    ),
    "paper3-rho-point": Plot(
        {**PAPER3, "env": "toy_point", "label": ("tiny", "REINFORCE")},
        "Paper 3 on toy_point: the dynamics' gradient (tiny) against REINFORCE",
    ),
    **{f"paper4-{name}": Plot({**PAPER4, "env": name, "group": name}, f"Paper 4 on {name}") for name in FIVE},
    "paper4-scale": Plot(
        {
            **PAPER4,
            "env": "toy_point",
            "label": ("tiny", *(f"rewards x {k}{how}" for k in (0.01, 1, 100) for how in ("", ", plain"))),
        },
        "Paper 4 on toy_point: the size of rewards, with bins (tiny) and with plain numbers",
        baselines=("random", "optimum"),
    ),
    "paper4-ablations": Plot(
        {
            **PAPER4,
            "env": "toy_catch",
            "label": ("tiny", "no return range", "no free bits", "no uniform share"),
        },
        "Paper 4 on toy_catch: without its parts",
    ),
    "paper4-size": Plot(
        {**PAPER4, "env": "toy_catch", "label": ("tiny", "half the width", "twice the width")},
        "Paper 4 on toy_catch: the size dial",
    ),
    "paper4-levels": Plot(
        {**PAPER4, "env": "toy_simple_world", "label": ("tiny", "10 boards", "100 boards")},
        "Paper 4 on toy_simple_world: trained on some boards, tested on any (tiny: trained on any)",
        baselines=("random", "optimum"),
    ),
    "paper4-against-3": Plot(
        {**THREE, "env": "toy_catch", "label": "tiny"}, "The three Dreamers on toy_catch", by="paper"
    ),
    "paper4-real": Plot(
        {**PAPER4, "env": "dmc_cartpole_swingup"}, "Paper 4: cartpole_swingup, pixels and vectors"
    ),
    "paper4-doorkey": Plot({**PAPER4, "env": "MiniGrid-DoorKey-5x5-v0"}, "Paper 4: DoorKey-5x5"),
    "paper4-crafter": Plot({**PAPER4, "env": "crafter_reward"}, "Paper 4: Crafter"),
    "paper4-voxel": Plot({**PAPER4, "env": "voxel_navigate"}, "Paper 4: voxel_navigate"),
    "paper5-toys": Plot({**PAPER5, "group": CATCH, "label": "tiny"}, "Paper 5 on toy_catch", by="group"),
    "paper5-ahead": Plot(
        {**PAPER5, "group": CATCH[0], "label": "tiny"},
        "Paper 5 on toy_catch: squared error of open-loop dreams",
        x=Column("rows dreamed", "ahead"),
        y=(
            Column("dream", "model"),
            Column("reconstruction", "reconstruction"),
            Column("copy of the last frame", "copy last frame"),
        ),
        rows="ahead",
        baselines=(),
    ),
    "paper5-boxing": Plot({**PAPER5, "env": "atari_boxing"}, "Paper 5: Boxing"),
    **{
        f"paper5-{name}": Plot(
            {**PAPER5, "group": (CATCH[0], "experiment"), "label": ("tiny", *labels)},
            f"Paper 5 on toy_catch: {title}",
        )
        for name, title, labels in (
            ("vocab", "vocabulary (tiny: 6)", ("vocabulary 4", "vocabulary 16", "vocabulary 64")),
            ("tokens", "tokens per frame (tiny: 16)", ("4 tokens", "64 tokens")),
            ("context", "context in steps (tiny: 4)", ("context 2", "context 8")),
            ("horizon", "imagined steps (tiny: 4)", ("horizon 2", "horizon 3")),
            ("trunk", "what the policy sees", ("token trunk",)),
        )
    },
    "paper2-toy_point": Plot({**PAPER2, "env": "toy_point", "label": "tiny"}, "Paper 2 on toy_point"),
    "paper2-toy_catch": Plot({**PAPER2, "env": "toy_catch"}, "Paper 2 on toy_catch: it does not learn"),
    "paper2-real": Plot({**PAPER2, "group": "published tasks"}, "Paper 2: cartpole_swingup, 64 x 64"),
    "paper3-real": Plot({**PAPER3, "env": "dmc_cartpole_swingup"}, "Paper 3: cartpole_swingup, 64 x 64"),
    "paper3-boxing": Plot({**PAPER3, "env": "atari_boxing"}, "Paper 3: Boxing"),
    "paper3-toy_catch": Plot({**PAPER3, "env": "toy_catch", "label": "tiny"}, "Paper 3 on toy_catch"),
    "paper1-carracing": Plot({**PAPER1, "env": "CarRacing-v3"}, "Paper 1 on CarRacing-v3"),
    "paper1-takecover-sweep": Plot(
        {**PAPER1, "group": "doom_takecover", "label": "dream only"},
        "Left-right sweeps, real and dreamed",
        x=Column("half-period (tics)", "half_period"),
        y=(Column("real", "real"), Column("dream", "dream")),
        rows="sweep",
        baselines=(),
    ),
    "paper1-takecover-temperature": Plot(
        {**PAPER1, "group": "doom_takecover temperature"},
        "Temperature of the dream against the score",
        x=Column("temperature", "temperature"),
        y=(Column("in the dream", "dream.mean"), Column("real", "score.mean")),
        baselines=("random", "blind"),
    ),
}
