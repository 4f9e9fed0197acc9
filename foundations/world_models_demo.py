"""All of it in one go: experience, three kinds of networks, their errors, a trajectory.

    python foundations/world_models_demo.py            half a minute; writes world_models_training.png
    python foundations/world_models_demo.py --env MountainCar-v0 --hidden 128 --episodes 20 --epochs 200

The networks are the plain ones that such demos begin with (raw states in and out); what does better, and
why, is in foundations/dyna and notebook 04.
"""

if not __package__:  # run as a script: the repository root, not this folder, goes on the path
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.cli import pick_device, run_main
from common.config import Device
from common.errors import UserError
from common.flags import parse
from foundations.commands import Args, check_args


@dataclass(frozen=True, kw_only=True)
class DemoArgs(Args):
    """What to vary."""

    out: Path = Path("runs/world_models_demo")
    """Folder for the picture."""
    env: str = "CartPole-v1"
    """A Gymnasium id with vectors and discrete actions."""
    hidden: int = 64
    """Units of the first hidden layer; the second has 32."""
    episodes: int = 100
    """Random episodes."""
    epochs: int = 100
    """Passes over the data."""
    device: Device = "auto"
    """Where the networks run; auto: cuda, else mps, else cpu."""

    def check(self) -> None:
        """UserError for what cannot be."""
        for name, least in {"hidden": 1, "episodes": 5, "epochs": 1}.items():
            if getattr(self, name) < least:
                raise UserError(f"--{name} {getattr(self, name)}: must be at least {least}")


def main(argv: Sequence[str] | None = None) -> None:
    """Eight steps, printed as they are made."""
    import sys

    args = parse(DemoArgs, list(sys.argv[1:] if argv is None else argv), main.__doc__)
    check_args(args)
    from foundations.dyna import data_collection as data
    from foundations.dyna import plots
    from foundations.dyna.train_model import VARIANTS, CopyLast, DataSets, evaluate_one_step, fit_named
    from foundations.dyna.world_model import DynamicsModel, Ensemble, count_parameters

    device = pick_device(args.device, args.threads)
    actions = data.num_actions(args.env)
    if actions is None:
        raise UserError(f"--env {args.env}: the plain networks take the number of an action; try CartPole-v1")
    print(f"[1/8] {args.env}: {args.episodes} random episodes")
    rows = data.collect_named(args.env, "random", args.episodes, args.seed)
    parts = data.split_by_episode(rows, 0.2, np.random.default_rng(args.seed))
    train, test = (data.as_transitions(part, actions) for part in parts)
    print(f"[2/8] split by episode: {len(train.rew):,} transitions to learn from, {len(test.rew):,} held out")
    names = {"plain": "simple", "plain-dropout": "with dropout", "plain-ensemble": "ensemble of 5"}
    found, curves = {}, {}
    for number, (name, label) in enumerate(names.items(), 3):
        model, curves[label] = fit_named(
            name, [train], epochs=args.epochs, seed=args.seed, hidden=args.hidden, device=device,
            held_out=DataSets([test], device),
        )  # fmt: skip
        inner = model.model if isinstance(model, Ensemble) else model
        assert isinstance(inner, DynamicsModel)
        found[label] = model
        count = f"{VARIANTS[name][1]} x {count_parameters(inner, inner.stack):,}".removeprefix("1 x ")
        print(f"[{number}/8] {label}: {count} parameters, held-out loss {curves[label][-1]['held_out']:.2e}")
    print("[6/8] error of one step on held-out episodes")
    for label, model in {"copy the state": CopyLast(), **found}.items():
        print(f"      {label:<16}{evaluate_one_step(model, [test])[0].mean():.2e}")
    least_squares, _ = fit_named("least-squares", [train], epochs=1, seed=args.seed)
    print(f"      {'least squares':<16}{evaluate_one_step(least_squares, [test])[0].mean():.2e}")
    print("[7/8] a real episode, and the ensemble's from its first state with the same actions")
    longest = max(np.split(np.arange(len(parts[1]["rew"])), data.episode_ends(parts[1])[:-1] + 1), key=len)
    dream = plots.open_loop(found["ensemble of 5"], parts[1], longest, actions)
    for step in [t for t in (1, 2, 5, 10, 20) if t < len(longest)]:
        error = np.square(parts[1]["obs"][longest[step]] - dream[step]).mean()
        print(f"      after {step:>2} steps: squared error {error:.1e}")
    path = args.out / "world_models_training.png"
    print(f"[8/8] wrote {plots.demo(curves, parts[1]['obs'][longest], dream, args.env, path)}")


if __name__ == "__main__":
    run_main(main)
