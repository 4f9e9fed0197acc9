"""`make demo`: train V, M and C on toy_dodge, the controller only inside the dream, and show what came of it.

A run of paper 1 in the folder demo/, as `train.py`, `eval.py` and `visualize.py` would make it.  An
interrupted demo goes on where it was; `rm -r demo` starts anew.
"""

import csv
import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from common.cli import run_main  # noqa: E402  (the path comes first)

FOLDER = ROOT / "demo"


def plot_curve(folder: Path, levels: dict[str, float]) -> Path:
    """Score on held-out seeds against CPU seconds, out of curve.csv."""
    from common.plots import plot_comparison

    with open(folder / "curve.csv", newline="") as file:
        rows = [(float(row["cpu_s"]), float(row["ret_mean"])) for row in csv.DictReader(file)]
    label, path = "learned in its dream", folder / "curve.png"
    curves = {label: tuple(zip(*rows, strict=True))}
    plot_comparison(curves, levels=levels, x_label="CPU seconds", title="toy_dodge", path=path)
    return path


def main() -> None:
    """Train, play 100 held-out episodes, dream, say where everything lies."""
    from paper1_world_models import eval as play
    from paper1_world_models import train, visualize

    begin = time.time()
    started = (FOLDER / "config.json").exists()
    flags = ["--resume", str(FOLDER)] if started else ["--preset", "tiny-dream", "--logdir", str(FOLDER)]
    try:
        train.main(flags)
    except SystemExit as stop:
        if stop.code == 130:
            print("the demo was stopped: `make demo` goes on where it was")
        raise
    play.main(["--checkpoint", str(FOLDER), "--held-out", "--render"])
    visualize.main(["--checkpoint", str(FOLDER)])
    result = json.loads((FOLDER / "eval.json").read_text())
    curve = plot_curve(FOLDER, {name: result[name]["value"] for name in ("random", "blind", "optimum")})
    print(
        f"\nThe agent learned inside its own dream; {time.time() - begin:.0f} s.  Mean score of 100 episodes:"
    )
    print(f"  agent   {result['score']['mean']:6.1f}")
    for name in ("random", "blind", "optimum"):
        print(f"  {name:<7} {result[name]['value']:6.1f}   {result[name]['protocol']}")
    print(f"the agent plays     {FOLDER / 'eval.mp4'}")
    print(f"it dreams           {FOLDER / 'videos' / 'free_dreams.mp4'}")
    print(f"dream against real  {FOLDER / 'videos' / 'four_views.mp4'}")
    print(f"learning curve      {curve}")
    print("how it works        paper1_world_models/README.md")


if __name__ == "__main__":
    run_main(main)
