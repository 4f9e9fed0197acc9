"""python -m foundations.minigrid COMMAND: from a table to a learned world model, one command per step.

The work is in tasks.py (tables, beliefs, limits) and learning.py (what needs torch), imported when run.
"""

from common.cli import run_main
from foundations.commands import Command, run_command
from foundations.minigrid.args import (
    CollectArgs,
    DemoArgs,
    DreamArgs,
    DynaArgs,
    LimitsArgs,
    MdpArgs,
    PomdpArgs,
    ShowArgs,
    TrainArgs,
)


def show(args: ShowArgs) -> None:
    """Draw a world and what its agent sees (env.png), and let a random agent play."""
    from foundations.minigrid import tasks

    tasks.show(args)


def mdp(args: MdpArgs) -> None:
    """Extract the table, plan in it, and learn it by trying (values.png, q_learning.png)."""
    from foundations.minigrid import tasks

    tasks.mdp(args)


def pomdp(args: PomdpArgs) -> None:
    """Act on views: full state, QMDP, most likely state, one view, random (belief.gif)."""
    from foundations.minigrid import tasks

    tasks.pomdp(args)


def collect(args: CollectArgs) -> None:
    """Play at random and keep what was seen (experience.npz)."""
    from foundations.minigrid import learning

    learning.collect_experience(args)


def train_model(args: TrainArgs) -> None:
    """Learn a categorical world model (world_model.pt, reconstruction.png, *_prior.png)."""
    from foundations.minigrid import learning

    learning.train_model(args)


def dream(args: DreamArgs) -> None:
    """Let a trained model dream beside the world (dream.gif)."""
    from foundations.minigrid import learning

    learning.dream(args)


def dyna_q(args: DynaArgs) -> None:
    """Learn a model, plan in it by imagined rollouts alone, and play the world (dyna_q.gif)."""
    from foundations.minigrid import learning

    learning.dyna_q(args)


def limits(args: LimitsArgs) -> None:
    """Measure states, memory and time as the grid grows (limits.png)."""
    from foundations.minigrid import tasks

    tasks.limits(args)


def demo(args: DemoArgs) -> None:
    """Run all of the above, each with a small budget, into one folder."""
    small = {"out": args.out, "seed": args.seed, "threads": args.threads}
    quick = {"updates": 60, "steps": 500} if args.quick else {}
    steps = [
        (show, ShowArgs(**small)),
        (mdp, MdpArgs(**small, episodes=50 if args.quick else 600)),
        (pomdp, PomdpArgs(**small, episodes=5 if args.quick else 100)),
        (collect, CollectArgs(**small, steps=quick.get("steps", 0))),
        (train_model, TrainArgs(**small, **quick)),
        (dream, DreamArgs(**small, dreams=5 if args.quick else 50)),
        (dyna_q, DynaArgs(**small, **quick, transitions=2_000 if args.quick else 200_000)),
        (limits, LimitsArgs(**small, sizes=(5, 6) if args.quick else (5, 8, 16), drop_up_to=8)),
    ]
    for number, (run, its_args) in enumerate(steps, 1):
        print(f"\n[{number}/{len(steps)}] {(run.__doc__ or '').splitlines()[0]}")
        run(its_args)
    print(f"\nAll files are in {args.out}")


COMMANDS = {
    "show": Command(ShowArgs, show),
    "mdp": Command(MdpArgs, mdp),
    "pomdp": Command(PomdpArgs, pomdp),
    "collect": Command(CollectArgs, collect),
    "train-model": Command(TrainArgs, train_model),
    "dream": Command(DreamArgs, dream),
    "dyna-q": Command(DynaArgs, dyna_q),
    "limits": Command(LimitsArgs, limits),
    "demo": Command(DemoArgs, demo),
}

if __name__ == "__main__":
    run_main(lambda: run_command("foundations.minigrid", COMMANDS))
