"""The article's comparisons as ready-made experiments, on the data and models of a finished run.

    python experiments.py ablation     --base RUN    C on z, with a hidden layer, or with a random LSTM
    python experiments.py temperature  --base RUN    evolve in dreams at several tau, play in reality
    python experiments.py cheat        --base RUN    a dream that is easy to fool: hard cut-off, one pass
    python experiments.py undertrained --base RUN    a dream of a model that knows too little
    python experiments.py sweep        --base RUN    blind sweeps in the dream and in reality, by half-period
    python experiments.py eyes-closed  --base RUN    z from M's own dream after the first frame: does C look?

Every variant is a run folder of its own beside the base run (it shares the collected frames and whatever
models the variant does not change), so eval.py and visualize.py work on it; 100 held-out episodes each.
The same command again goes on with stopped variants; with other settings it asks to remove their folders.
"""

if not __package__:  # run as a script: the repository root, not this folder, goes on the path
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when numpy is imported: a second thread only spins

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from common.atomic import write_json
from common.cli import run_main
from common.errors import UserError
from common.flags import flag_of, parse
from common.scripts import read_eval
from paper1_world_models.variants import FULL, check_folder, load_base, run_variant, variant_of, variants


@dataclass(frozen=True, kw_only=True)
class Args:
    """Which experiment, on which run."""

    name: tyro.conf.Positional[
        Literal["ablation", "temperature", "cheat", "undertrained", "sweep", "eyes-closed"]
    ]
    """The experiment."""
    base: Path
    """Run folder whose data, V and M are used."""
    episodes: int = 100
    """Held-out episodes per variant."""
    seed: int = 0
    """Seed of the first held-out episode."""
    taus: tuple[float, ...] = (0.1, 0.5, 1.0, 1.15, 1.3)
    """Temperatures of the sweep."""
    generations: int = 0
    """Generations per variant; 0: as many as the base run."""
    rnn_updates: int = 0
    """undertrained: gradient steps of M; 0: a third of the base run's."""


def eyes_closed(args: Args) -> list[dict]:
    """The base run's controller in reality, sighted, and with z dreamed by M after the first frame."""
    import numpy as np
    import torch

    from paper1_world_models.agent import WorldModelsAgent
    from paper1_world_models.rnn import sample_next
    from paper1_world_models.rollout import NOISE_STEPS, Episode, Noise, Player, play
    from paper1_world_models.rollout_games import make_games

    class EyesClosed(Player):
        """V sees the first frame; afterwards z comes from M's own prediction."""

        @torch.inference_mode()
        def act(self, rows, frames, params, eps, first):
            at = torch.as_tensor(rows)
            seen, _ = self.vae.encode(torch.from_numpy(frames))
            known, cfg = self.rnn.predict(self.h[at]), agent.cfg
            guess = sample_next(known, cfg.dream.temperature, generator, cfg.rnn.shared_pi)
            z = torch.where(torch.from_numpy(first)[:, None], seen, guess)
            h, c = self.h[at], self.c[at]
            act = self.controller.act_many(params, self.controller.feature(z, h, c))
            self.h[at], self.c[at] = self.rnn.step(z, act, torch.from_numpy(first), (h, c))
            return self.controller.codec.to_env(act.numpy()), act.numpy(), z

    agent, rows = WorldModelsAgent.load(args.base), []
    cfg = agent.cfg
    games = make_games(agent.env, min(cfg.evolve.slots, args.episodes), 1, (cfg.vae.size,) * 2 + (3,))
    for label, kind in (("eyes open", Player), ("eyes closed", EyesClosed)):
        generator = torch.Generator().manual_seed(args.seed)
        player = kind(agent.vae, agent.rnn, agent.controller, games.slots)
        episodes = [Episode(0, i, args.seed + i) for i in range(args.episodes)]
        noise = Noise.draw(args.seed, args.episodes, NOISE_STEPS, cfg.vae.latents, cfg.controller.z)
        real = play(games, player, agent.params[None], episodes, noise)
        rows.append({"label": label, "real": {"mean": float(real.mean()), "sd": float(np.std(real, ddof=1))}})
    games.close()
    return rows


def sweep_curve(args: Args) -> list[dict]:
    """Blind sweeps, wall to wall: score in the dream and in reality by half-period in frames.  A test of M
    off its data, and a reminder of what can be had without looking."""
    import numpy as np
    import torch

    from paper1_world_models.agent import WorldModelsAgent
    from paper1_world_models.dream import Dreams, dream_returns
    from paper1_world_models.rollout import Episode, Noise, play
    from paper1_world_models.rollout_games import make_games
    from paper1_world_models.worlds import TablePlayer, ends_of, sweep

    agent = WorldModelsAgent.load(args.base)
    cfg, repeat = agent.cfg, agent.env.frames_per_step
    if not ends_of(agent.codec):
        raise UserError(f"a sweep needs left and right; {agent.env.name} has actions {agent.codec.kind}")
    games = make_games(agent.env, min(cfg.evolve.slots, args.episodes), 1, (cfg.vae.size,) * 2 + (3,))
    rows = []
    for half in (2, 3, 5, 10, 15, 20, 25, 30, 40, 50, 75):  # in policy steps
        line = sweep(agent.codec, half, cfg.dream.max_steps)  # [T, 1]
        table = np.broadcast_to(line, (args.episodes, *line.shape))
        episodes = [Episode(i, 0, args.seed + i) for i in range(args.episodes)]
        vectors = np.arange(args.episodes, dtype=np.float32)[:, None]
        real = play(games, TablePlayer(table, agent.codec, games.slots), vectors, episodes, Noise(None))
        generator = torch.Generator().manual_seed(args.seed)
        world = Dreams(agent.rnn, agent.starts, cfg.dream, generator)
        starts = agent.starts.pick(200, generator)
        actions = torch.from_numpy(line)
        dreamt = dream_returns(world, lambda r, d, t, a=actions: a[t].expand(len(r), 1), starts)
        rows.append(
            {
                "label": f"half-period {half * repeat}",
                "half_period": half * repeat,
                "real": {"mean": float(real.mean()), "sd": float(real.std())},
                "dream": {"mean": float(dreamt.mean()), "sd": float(dreamt.std())},
            }
        )
    games.close()
    return rows


def draw(rows: list[dict], x: str, path: Path) -> None:
    """Dream and reality side by side."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 3.5))
    at = [row.get("half_period", i) for i, row in enumerate(rows)]
    for world in ("real", "dream"):
        if all(world in row for row in rows):
            axis.errorbar(
                at,
                [r[world]["mean"] for r in rows],
                [r[world]["sd"] for r in rows],
                marker="o",
                capsize=3,
                label=world,
            )
    if "half_period" not in rows[0]:
        axis.set_xticks(at, [row["label"] for row in rows], rotation=20)
    axis.set_xlabel(x)
    axis.set_ylabel("score (mean, sd)")
    axis.legend()
    figure.savefig(path, dpi=90, bbox_inches="tight")
    plt.close(figure)


def base_row(args: Args) -> list[dict]:
    """The base run's own score as the ablation's last row, if eval.py has played these episodes."""
    path = args.base / "eval.json"
    found = read_eval(path) if path.exists() else {}
    played = found.get("seed"), len(found.get("returns", ()))
    if "score" in found and played == (args.seed, args.episodes):
        return [{"label": FULL, "real": found["score"]}]
    flags = f"--episodes {args.episodes} --seed {args.seed}"
    print(f"no row '{FULL}': first python eval.py --checkpoint {args.base} {flags}")
    return []


def check_args(args: Args) -> None:
    """Refuse impossible values before anything is trained."""
    least = {"episodes": 1, "seed": 0, "generations": 0, "rnn_updates": 0}
    for name, value in least.items():
        if getattr(args, name) < value:
            raise UserError(f"--{flag_of(name)} {getattr(args, name)}: must be at least {value}")
    if not args.taus or not all(0 < tau < float("inf") for tau in args.taus):
        raise UserError(f"--taus {' '.join(map(str, args.taus))}: must be above 0, such as 0.5 1.15")


def main(argv: list[str] | None = None) -> None:
    """Run the experiment, print its table, write experiment-NAME.json and .png into the base run."""
    args = parse(Args, sys.argv[1:] if argv is None else argv, __doc__.split("\n")[0])
    check_args(args)
    cfg, _ = load_base(args.base)
    if args.name in ("sweep", "eyes-closed"):
        rows = sweep_curve(args) if args.name == "sweep" else eyes_closed(args)
    else:
        planned = variants(args, cfg)
        for label, (overrides, keep) in planned.items():  # all of them before the first is trained
            variant, _, folder = variant_of(args, label, overrides)
            check_folder(args.base, folder, variant, keep)
        rows = [run_variant(args, label, *what) for label, what in planned.items()]
        if args.name == "ablation" and FULL not in planned:
            rows += base_row(args)
    for row in rows:
        dream = f"   dream {row['dream']['mean']:7.1f} +- {row['dream']['sd']:6.1f}" if "dream" in row else ""
        print(f"{row['label']:<22} real {row['real']['mean']:7.1f} +- {row['real']['sd']:6.1f}{dream}")
    path = args.base / f"experiment-{args.name}.json"
    write_json(path, {"experiment": args.name, "seed": cfg.seed, "env": cfg.env, "rows": rows})
    draw(
        rows,
        "half-period of the sweep, frames" if args.name == "sweep" else "variant",
        path.with_suffix(".png"),
    )
    print(f"wrote {path} and {path.with_suffix('.png').name}")


if __name__ == "__main__":
    run_main(main)
