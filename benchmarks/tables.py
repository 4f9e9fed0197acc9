"""Every results table of the READMEs, declared; benchmarks/figures.py draws them, and the plots of plots.py.

A document says where: `<!-- table:NAME -->` ... `<!-- /table:NAME -->`, or plot:NAME.  Rows are runs that
agree in `by`, averaged over their seeds; `where` says which runs a table takes (dotted names in eval.json or
config.json, and paper, env, recipe: the command whatever its seed).  `rows="gate"` takes the rows of a list
that eval.json holds under that name (dicts, or {name: value} for rows of "name" and "value").
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.results import Record


@dataclass(frozen=True)
class Column:
    """One column: the title, the dotted name of its value, and how a number is written."""

    title: str
    value: str | Callable[[Record], Any]  # also: n (number of runs), way
    form: str = "{:.0f}"
    scale: float = 1.0
    spread: bool = False  # mean ± standard deviation over the runs; of one run its 95 % interval
    seeds: bool = False  # a list, an entry for each seed: its median, lowest and highest
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
    by: tuple[str | Callable[[Record], Any], ...] = ("label",)  # runs that agree in these are one row
    order: tuple[str, ...] = ()  # labels in the order of their rows; others follow
    baselines: tuple[str, ...] = ()  # rows above: random, blind, optimum, published, blind.others.NAME
    rows: str = ""  # name of a list of rows inside eval.json; their first column is their key
    file: str = (
        ""  # instead of runs: these files below benchmarks/ (speed/NAME.json, foundations/tssm-*.json)
    )


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
PAPER5 = {"paper": "paper5_iris"}
CATCH = ("toy_catch", "toy_catch, board of 5")
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

MODEL = (  # how good tokens and transformer are
    *(Column("environment", "group"), RUN, SEEDS),
    Column("PSNR, dB", "psnr", "{:.1f}", spread=True),
    Column("codewords in use", "codes_in_use", "{:.1f}"),
    Column("perplexity", "perplexity", "{:.1f}"),
    *(
        Column(f"{title} right", f"{name}_accuracy", "{:.1f} %", 100)
        for title, name in (("tokens", "token"), ("rewards", "rew"), ("ends", "end"))
    ),
    Column("ends found", "end_recall", "{:.0f} %", 100),
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
    "iris-update": Table(
        where={},
        file="speed/iris.json",
        rows="cpu.rows",
        columns=(
            *(Column("one update, token or frame", "name"), Column("CPU-ms", "cpu_ms", "{:,.1f}")),
            Column("encoding, were all rows new", "encode_ms", "{:,.0f}"),
            *(Column("dreaming", "dream_ms", "{:,.0f}"), Column("decoding", "decode_ms", "{:,.0f}")),
            *(Column("the rest", "rest_ms", "{:,.0f}"), Column("per CPU-second", "per_cpu_s", "{:,.0f}")),
            *(Column("GFLOP", "gflop", "{:,.2f}"), Column("times the FLOP's time", "times_flop", "{:.2f}")),
            Column("of the plain loop's CPU time", "of_plain", "{:.2f}"),
            Column("of the authors' CPU time", "of_authors", "{:.2f}"),
        ),
    ),
    "iris-epoch": Table(
        where={},
        file="speed/iris.json",
        rows="cuda.rows",
        columns=(
            *(Column("a game of Atari 100k", "name"), Column("hours", "hours", "{:.1f}")),
            *(Column("play", "play_h", "{:.1f}"), Column("evaluations", "evaluate_h", "{:.1f}")),
            *(Column("tokenizer", "tokenizer_h", "{:.1f}"), Column("world model", "world_h", "{:.1f}")),
            *(Column("actor-critic", "actor_h", "{:.1f}"), Column("GPU memory (GB)", "gpu_gb", "{:.1f}")),
            Column("times the FLOP's time", "times_flop", "{:.1f}"),
            Column("of the authors' hours", "of_published", "{:.2f}"),
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
    "paper5-toys": Table(where={**PAPER5, "group": CATCH}, by=("group", "label"), columns=DREAMER),
    "paper5-model": Table(
        where={**PAPER5, "group": (*CATCH, "published tasks")}, by=("group", "label"), columns=MODEL
    ),
    "paper5-commands": Table(
        where={**PAPER5, "preset": "tiny"}, by=("group", "recipe"), columns=(DREAMER[0], RUN, COMMAND)
    ),
    "paper5-experiments": Table(
        where={**PAPER5, "group": (CATCH[0], "experiment")}, columns=EXPERIMENT, order=("tiny",)
    ),
    "paper5-real": Table(where={**PAPER5, "group": "published tasks"}, by=("env", "label"), columns=REAL),
    "dreamers": Table(
        where={**THREE, "group": (POINT[0], *FIVE[2:4])},
        by=("env", "paper", "label"),
        columns=(
            *(Column("environment", "env"), Column("paper", "paper"), RUN, SCORE, WAY, SEEDS, FRAMES),
            *(Column("updates", "updates", "{:,.0f}"), CPU),
        ),
    ),
}
