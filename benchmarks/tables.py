"""Every results table and plot of the READMEs, declared; benchmarks/figures.py draws them.

A document says where: `<!-- table:NAME -->` ... `<!-- /table:NAME -->`, or plot:NAME.  Rows are runs that
agree in `by`, averaged over their seeds; `where` says which runs a table takes (dotted names in eval.json or
config.json, and paper, env, recipe: the command whatever its seed).  `rows="gate"` takes the rows of a list
that eval.json holds under that name (dicts, or {name: value} for rows of "name" and "value").
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """One column: the title, the dotted name of its value, and how a number is written."""

    title: str
    value: str  # also: n (number of runs), way
    form: str = "{:.0f}"
    scale: float = 1.0
    spread: bool = False  # mean ± standard deviation over the runs; of one run its 95 % interval
    code: bool = False  # a command: in backticks, flush left


RUN = Column("run", "label")
SCORE = Column("return", "score.mean", "{:.1f}", spread=True)
EPISODES = Column("episodes", "score.episodes")
DREAM = Column("in the dream", "dream.mean", "{:.1f}", spread=True)
WAY = Column("of the way", "way", "{:.0f} %", scale=100)
SEEDS = Column("seeds", "n")
FRAMES = Column("frames", "frames", "{:,.0f}")
CPU = Column("CPU minutes", "cpu_s", "{:.1f}", scale=1 / 60)
WALL = Column("wall minutes", "wall_s", "{:.1f}", scale=1 / 60)
COMMAND = Column("command", "train_command", code=True)
GATE = (
    Column("policy", "check"),
    Column("real", "real", "{:.0f}", spread=True),
    Column("in the dream", "dream", "{:.0f}", spread=True),
    Column("ratio", "ratio", "{:.2f}"),
)


@dataclass(frozen=True)
class Table:
    """A table of runs (or of the rows inside runs), drawn in Markdown."""

    where: dict[str, str | tuple[str, ...]]  # dotted name -> the value, or the values, that a run must have
    columns: tuple[Column, ...]
    by: tuple[str, ...] = ("label",)  # runs that agree in these are one row
    order: tuple[str, ...] = ()  # labels in the order of their rows; others follow
    baselines: tuple[str, ...] = ()  # rows above: random, blind, optimum, published, blind.others.NAME
    rows: str = ""  # name of a list of rows inside eval.json; their first column is their key
    file: str = ""  # take `rows` from this file below benchmarks/ (speed/NAME.json) instead of from runs


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


ALL = ("random", "blind", "optimum", "published")
PAPER1 = {"paper": "paper1_world_models"}
DODGE = (
    *("real environment", "dream only, 3 passes", "z only", "z + hidden layer", "untrained LSTM"),
    *("dream only, 1 pass", "cheating: hard cut-off"),
)
DOOM = ("dream only", "under-trained model")
PAPER2 = {"paper": "paper2_dreamerv1"}
PAPER3 = {"paper": "paper3_dreamerv2"}
PAPER4 = {"paper": "paper4_dreamerv3"}
FIVE = ("CartPole-v1", "Pendulum-v1", "toy_catch", "toy_point", "toy_simple_world")  # one set of numbers
DREAMER = (  # one row per env and variant, its baselines beside it
    *(Column("environment", "group"), RUN, SCORE, WAY),
    *(Column(name, f"{name}.value", "{:.1f}") for name in ("random", "blind", "optimum")),
    *(SEEDS, FRAMES, Column("updates", "updates", "{:,.0f}"), CPU, WALL),
)
POINT = ("toy_point, continuous", "toy_point, discrete")
EXPERIMENT = (RUN, SCORE, WAY, SEEDS, FRAMES, Column("updates", "updates", "{:,.0f}"), CPU)
REAL = (  # published tasks: the beginning of a curve
    *(Column("environment", "env"), RUN, SCORE, EPISODES, FRAMES),
    *(Column(name, f"{name}.value", "{:,.1f}") for name in ("random", "blind")),
    *(Column("updates", "updates", "{:,.0f}"), SEEDS, CPU, WALL, COMMAND),
)

THREE = {"paper": ("paper2_dreamerv1", "paper3_dreamerv2", "paper4_dreamerv3")}

TABLES: dict[str, Table] = {
    "paper1-rollouts": Table(
        where={},
        file="speed/paper1_rollouts.json",
        rows="rows",
        columns=(
            Column("environment and policy", "name"),
            Column("steps per CPU-second", "steps_per_cpu_s", "{:,.0f}"),
            Column("times the first row", "times_cpu", "{:.1f}"),
        ),
    ),
    "dreamer-update": Table(
        where={},
        file="speed/dreamer_update.json",
        rows="rows",
        columns=(
            Column("one update", "name"),
            Column("CPU-ms", "cpu_ms", "{:,.0f}"),
            Column("world model", "model_ms", "{:,.0f}"),
            Column("imagination", "imagine_ms", "{:,.0f}"),
            Column("actor-critic", "behave_ms", "{:,.0f}"),
            Column("ms", "wall_ms", "{:,.0f}"),
            Column("GFLOP", "gflop", "{:.1f}"),
            Column("times the FLOP's time", "times_flop", "{:.2f}"),
            Column("of the port's CPU time", "of_port", "{:.2f}"),
        ),
    ),
    "speed-envs": Table(
        where={},
        file="speed/envs.json",
        rows="steps_per_cpu_second",
        columns=(Column("environment", "name"), Column("steps per CPU-second", "value", "{:,.0f}")),
    ),
    "overview": Table(
        where={"headline": "yes"},
        by=("paper", "env", "preset", "label"),
        columns=(
            Column("paper", "paper"),
            Column("environment", "env"),
            RUN,
            Column("preset", "preset"),
            Column("published", "published.value", "{:,.0f}"),
            Column("its frames", "published.frames", "{:,.0f}"),
            Column("ours", "score.mean", "{:.1f}", spread=True),
            FRAMES,
            SEEDS,
            Column("random", "random.value", "{:.1f}"),
            Column("blind", "blind.value", "{:.1f}"),
            Column("optimum", "optimum.value", "{:.1f}"),
            CPU,
            WALL,
        ),
    ),
    "paper1-toy_dodge": Table(
        where={**PAPER1, "group": "toy_dodge"},
        columns=(RUN, SCORE, WAY, DREAM, SEEDS, FRAMES, CPU, WALL),
        baselines=ALL,
        order=DODGE,
    ),
    "paper1-toy_dodge-commands": Table(
        where={**PAPER1, "group": "toy_dodge"}, columns=(RUN, COMMAND), by=("recipe",), order=DODGE
    ),
    "paper1-takecover": Table(
        where={**PAPER1, "group": "doom_takecover"},
        columns=(RUN, SCORE, DREAM, EPISODES, SEEDS, FRAMES, CPU, WALL),
        baselines=("random", "blind.others.no-op", "blind.others.held", "blind", "optimum", "published"),
        order=DOOM,
    ),
    "paper1-takecover-commands": Table(
        where={**PAPER1, "env": "doom_takecover"}, columns=(RUN, COMMAND), by=("recipe",), order=DOOM
    ),
    "paper1-takecover-temperature": Table(
        where={**PAPER1, "group": "doom_takecover temperature"},
        by=("temperature",),
        columns=(Column("temperature", "temperature", "{:.2f}"), DREAM, SCORE, EPISODES, SEEDS, CPU, WALL),
    ),
    "paper1-takecover-gate": Table(
        where={**PAPER1, "group": "doom_takecover", "label": "dream only"},
        rows="gate",
        columns=GATE,
    ),
    "paper1-takecover-gate-failed": Table(
        where={**PAPER1, "group": "doom_takecover", "label": "under-trained model"},
        rows="gate",
        columns=GATE,
    ),
    "paper1-takecover-sweep": Table(
        where={**PAPER1, "group": "doom_takecover", "label": "dream only"},
        rows="sweep",
        columns=(
            Column("half-period (tics)", "half_period"),
            Column("real", "real", "{:.0f}", spread=True),
            Column("in the dream", "dream", "{:.0f}", spread=True),
        ),
    ),
    "paper1-takecover-eyes": Table(
        where={**PAPER1, "group": "doom_takecover", "label": "dream only"},
        rows="eyes",
        columns=(
            Column("the controller plays with", "eyes"),
            Column("real", "real", "{:.0f}", spread=True),
            Column("sd over episodes", "sd", "{:.0f}"),
        ),
    ),
    "paper1-carracing": Table(
        where={**PAPER1, "env": "CarRacing-v3"},
        columns=(
            *(RUN, SCORE, EPISODES, Column("laps", "lap_finished", "{:.0f} %", 100)),
            *(SEEDS, FRAMES, CPU, WALL),
        ),
        baselines=ALL,
    ),
    "paper1-carracing-commands": Table(
        where={**PAPER1, "env": "CarRacing-v3"}, columns=(RUN, COMMAND), by=("recipe",)
    ),
    "paper2-toys": Table(
        where={**PAPER2, "group": (*POINT, "toy_catch")}, by=("group", "label"), columns=DREAMER
    ),
    "paper2-experiments": Table(
        where={**PAPER2, "group": (POINT[0], "experiment")}, columns=EXPERIMENT, order=("tiny",)
    ),
    "paper2-real": Table(where={**PAPER2, "group": "published tasks"}, by=("env", "label"), columns=REAL),
    "paper2-commands": Table(
        where={**PAPER2, "preset": "tiny"}, by=("group", "recipe"), columns=(DREAMER[0], RUN, COMMAND)
    ),
    "paper3-toys": Table(
        where={**PAPER3, "group": (*POINT, "toy_catch")}, by=("group", "label"), columns=DREAMER
    ),
    "paper3-experiments": Table(
        where={**PAPER3, "group": (POINT[0], "toy_catch", "experiment")},
        by=("env", "label"),
        columns=(Column("environment", "env"), *EXPERIMENT),
        order=("tiny",),
    ),
    "paper3-real": Table(where={**PAPER3, "group": "published tasks"}, by=("env", "label"), columns=REAL),
    "paper3-commands": Table(
        where={**PAPER3, "preset": "tiny"}, by=("group", "recipe"), columns=(DREAMER[0], RUN, COMMAND)
    ),
    "paper4-toys": Table(where={**PAPER4, "group": FIVE}, by=("group", "label"), columns=DREAMER),
    "paper4-commands": Table(
        where={**PAPER4, "preset": "tiny"}, by=("group", "recipe"), columns=(DREAMER[0], RUN, COMMAND)
    ),
    "paper4-experiments": Table(
        where={**PAPER4, "group": (*FIVE[2:], "experiment")},
        by=("env", "label"),
        columns=(Column("environment", "env"), *EXPERIMENT),
        order=("tiny",),
    ),
    "paper4-real": Table(where={**PAPER4, "group": "published tasks"}, by=("env", "label"), columns=REAL),
    "dreamers": Table(
        where={**THREE, "group": (POINT[0], *FIVE[2:4])},
        by=("env", "paper", "label"),
        columns=(
            *(Column("environment", "env"), Column("paper", "paper"), RUN, SCORE, WAY, SEEDS, FRAMES),
            *(Column("updates", "updates", "{:,.0f}"), CPU),
        ),
    ),
}

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
