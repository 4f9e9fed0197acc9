"""Copy a run's results into the repository: python -m benchmarks.record RUN_DIR [--label TEXT] [--name NAME].

Goes to benchmarks/learning/<paper>/<env>-<preset>[-name]-s<seed>/: config.json, curve.csv, eval.json.  What
eval.json lacks (frames, cpu_s, wall_s) comes from the curve's last row, label and group from the flags; paths
of this machine are cut out.  Then `make figures` draws the tables anew.
"""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from benchmarks.results import CURVE, LEARNING, ROOT, Record, read_curve, read_json
from common.atomic import atomic_write
from common.cli import run_main
from common.errors import UserError
from common.flags import parse

FROM_CURVE = ("frames", "policy_steps", "updates", "wall_s", "cpu_s")


@dataclass(frozen=True, kw_only=True)
class RecordArgs:
    """What to record, and under which names."""

    run_dir: Annotated[Path, tyro.conf.Positional]
    """The folder of a finished and evaluated run."""
    name: str = ""
    """Tells variants of one env and preset apart in the folder's name: z-only, dream3."""
    label: str = ""
    """The run's row in the tables (the same for all seeds); without it what eval.json says, or the preset."""
    group: str = ""
    """The table it belongs to; without it what eval.json says, or the env's name."""
    headline: bool = False
    """Also a row of the README's overview."""
    out: Path = LEARNING
    """Folder of all recorded runs."""


def record(args: RecordArgs) -> Path:
    """Write the three files; returns their folder.  Raises UserError where something is missing."""
    run = args.run_dir
    if not run.is_dir():
        raise UserError(f"no run folder {run}: give the folder that train.py wrote")
    config = read_json(run / "config.json")
    if not (run / "eval.json").exists():
        raise UserError(f"no eval.json in {run}: first python eval.py --checkpoint {run} --episodes 100")
    result = read_json(run / "eval.json")
    curve = curve_text(run)
    last = next(csv.DictReader(io.StringIO(_header_and_last(curve))))
    for name in FROM_CURVE:
        result.setdefault(name, round(float(last[name]), 1) if last[name] else None)
    paper = config.get("paper") or result.get("paper")
    env = Record(run, result, config).get("env")
    preset, seed = config.get("preset") or "custom", (config.get("config") or {}).get("seed", 0)
    if not paper or not env:
        raise UserError(f"{run / 'config.json'} names no paper or no env: is it a run of this repository?")
    result["label"] = args.label or result.get("label") or args.name or preset
    result["group"] = args.group or result.get("group") or env
    result["preset"], result["train_seed"] = preset, seed
    if args.headline:
        result["headline"] = "yes"
    if command := config.get("command"):  # sys.argv of train.py or experiments.py
        result.setdefault("train_command", train_command(command, seed))
    parts = [env, preset, args.name, f"s{seed}"]
    folder = args.out / paper / "-".join(re.sub(r"[^\w.]+", "_", part) for part in parts if part)
    if (there := folder / "eval.json").is_file():
        old = read_json(there)
        if (old.get("group"), old.get("label")) != (result["group"], result["label"]):
            held = f"{old.get('label')!r} of {old.get('group')!r}"
            raise UserError(f"{folder} holds {held}: give this run another --name, or remove that folder")
    files = {
        "config.json": compact(portable(config)),
        "eval.json": compact(portable(result)),
        "curve.csv": curve,
    }
    for name, text in files.items():
        with atomic_write(folder / name) as file:
            file.write(text.encode())
    read_curve(folder / "curve.csv")  # what was written can be read
    return folder


def curve_text(run: Path) -> str:
    """The run's curve.csv, or one made of the rows of metrics.jsonl that hold an evaluation (ret_mean)."""
    path = run / "curve.csv"
    if path.exists():
        read_curve(path)
        return path.read_text(encoding="utf-8")
    from common.logger import read_metrics

    metrics = run / "metrics.jsonl"
    rows = [row for row in read_metrics(metrics) if "ret_mean" in row] if metrics.exists() else []
    if not rows:
        raise UserError(
            f"no curve.csv in {run}, and no ret_mean in its metrics.jsonl: train with --eval-every"
        )
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CURVE)
    for row in rows:
        row = {"frames": row["step"], "wall_s": row.get("time"), **row}
        writer.writerow([row.get(name, "") for name in CURVE])
    return out.getvalue()


def train_command(argv: Sequence[str], seed: int) -> str:
    """sys.argv -> the command that repeats it anywhere: folders as runs/NAME, train.py's seed written out.

    experiments.py keeps its --seed where one was given: there it is the first held-out episode.
    """
    script, words, last = Path(argv[0]).name, [], {}
    given = iter(word for text in argv[1:] for word in _split(text))
    for word in given:
        if word in ("--logdir", "--base", "--resume"):
            last[word] = f"runs/{Path(next(given)).name}"
        elif word == "--seed":
            last[word] = next(given)
        else:
            words.append(word)
    if script == "train.py" and "--resume" not in last:
        last["--seed"] = str(seed)
    for flag in ("--base", "--resume", "--seed", "--logdir"):
        words += [flag, last[flag]] if flag in last else []
    return shlex.join(["python", script, *portable(words)])


def _split(word: str) -> list[str]:
    """--flag=value -> --flag, value for the flags that train_command moves."""
    return word.split("=", 1) if re.match(r"--(logdir|base|resume|seed)=", word) else [word]


def portable(tree: Any) -> Any:
    """The same tree without this machine's paths: inside the repository relative, home folders as ~."""
    if isinstance(tree, dict):
        return {key: portable(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [portable(value) for value in tree]
    if not isinstance(tree, str):
        return tree
    return tree.replace(f"{ROOT}/", "").replace(str(ROOT), ".").replace(str(Path.home()), "~")


def compact(tree: Any) -> str:
    """JSON with every list of plain values on one line: a hundred returns are no hundred lines."""
    text = json.dumps(tree, indent=1, ensure_ascii=False)
    lists = re.compile(r"\[\n\s+([^\[\]{}]*?)\n\s*\]")  # a line break inside a text is written \\n by json
    return lists.sub(lambda match: "[" + re.sub(r",\n\s+", ", ", match[1]) + "]", text) + "\n"


def _header_and_last(text: str) -> str:
    lines = text.strip().splitlines()
    return f"{lines[0]}\n{lines[-1]}"


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, copy, say where."""
    args = parse(RecordArgs, list(sys.argv[1:] if argv is None else argv), __doc__.split("\n\n")[0])
    folder = record(args)
    score = json.loads((folder / "eval.json").read_text(encoding="utf-8"))["score"]
    print(f"recorded {score['mean']:.1f} over {score['episodes']} episodes in {folder}; next: make figures")


if __name__ == "__main__":
    run_main(main)
