"""The commands and what they call; flags.py has their flags.  torch is imported only when a command runs.

python -m foundations.tssm train --out runs/tssm                          all three stages and the score
python -m foundations.tssm train-obs | train-wm | train-agent --out DIR   one by one
python -m foundations.tssm play-real | play-model | play-agent --out DIR  by hand in a window, or a GIF
python -m foundations.tssm test-obs | plot --out DIR                      figures in DIR/plots
"""

import sys
from typing import Any

from common.errors import UserError
from foundations.commands import Command, report
from foundations.tssm.config import to_json
from foundations.tssm.flags import (
    AgentArgs,
    DroppedArgs,
    ObsArgs,
    PlayArgs,
    PlayRealArgs,
    RunArgs,
    StepArgs,
    TrainArgs,
    check_run,
    new_config,
    with_agent,
    with_dynamics,
    with_observation,
)


def train_obs(args: ObsArgs) -> None:
    """Collect random games and train the categorical autoencoder, to its gate of exact frames."""
    config, preset = new_config(args)
    config = with_observation(config, args, args.steps)
    device = _device(args)
    from foundations.tssm.stages import run_observation

    with report(args, "train-obs") as result:
        result |= {"config": to_json(config), **run_observation(args.out, config, preset, args.seed, device)}
    print(f"exact held-out frames {result['exact_frames']:.4f}, attempts {result['attempts']}")


def train_wm(args: StepArgs) -> None:
    """Train the transformer dynamics on the codes; needs train-obs."""
    device = _device(args)
    from foundations.tssm.stages import load_part, run_dynamics

    stored = load_part(args.out, "observation")
    check_run(args, stored.config, stored.preset)
    config = with_dynamics(stored.config, args.steps)
    with report(args, "train-wm") as result:
        result |= {"config": to_json(config), **run_dynamics(args.out, config, args.seed, device)}
    print(
        f"whole frames right one step ahead {result['frames_right']:.4f}, "
        f"reward off by {result['rew_error']:.4f}"
    )


def train_agent(args: AgentArgs) -> None:
    """Train actor and critic in dreams and score them in the real world; needs train-wm."""
    device = _device(args)
    from foundations.tssm.stages import load_part, run_agent

    stored = load_part(args.out, "dynamics")
    check_run(args, stored.config, stored.preset)
    config = with_agent(stored.config, args.steps, args.eval_every)
    with report(args, f"train-agent-{args.objective}") as result:
        told = run_agent(args.out, config, args.objective, args.seed, device)
        result |= {"config": to_json(config), **told}
    print_score(result["score"], result["baselines"])


def train(args: TrainArgs) -> None:
    """All three stages, then the score beside what needs no learning."""
    config, preset = new_config(args)
    config = with_agent(
        with_dynamics(with_observation(config, args, args.obs_steps), args.wm_steps),
        args.steps,
        args.eval_every,
    )
    device = _device(args)
    from foundations.tssm.stages import run_agent, run_dynamics, run_observation

    with report(args, "train") as result:
        parts = {"observation": run_observation(args.out, config, preset, args.seed, device)}
        _say(f"exact held-out frames {parts['observation']['exact_frames']:.4f}")
        parts["dynamics"] = run_dynamics(args.out, config, args.seed, device)
        _say(f"whole frames right one step ahead {parts['dynamics']['frames_right']:.4f}")
        agent = run_agent(args.out, config, args.objective, args.seed, device)
        cpu = {name: value for part in (*parts.values(), agent) for name, value in part.pop("cpu_s").items()}
        total = sum(cpu[name] for name in ("collect", "observation", "dynamics", "agent with evaluations"))
        summary = {"score": agent.pop("score"), "baselines": agent.pop("baselines")}
        stages = {"stage_cpu_s": {**cpu, "total": round(total, 2)}, **parts, "agent": agent}
        result |= {**summary, **stages, "config": to_json(config)}
    print_score(result["score"], result["baselines"])


def train_td3(args: DroppedArgs) -> None:
    """Dropped: names what to use instead."""
    raise UserError(
        "train-td3 was dropped: no library here has TD3, and a second learner would only hide this "
        "module's own; use train-agent --objective value, or --objective reinforce as the control"
    )


def _show(name: str, args: RunArgs) -> None:
    """Run a function of visualize.py or figures.py, if the flags fit the run in --out."""
    device = _device(args)
    from foundations.tssm import figures, visualize
    from foundations.tssm.stages import checkpoint, load_part

    if name != "plot" or checkpoint(args.out, "observation").is_file():  # plot draws whatever is there
        stored = load_part(args.out, "observation")
        check_run(args, stored.config, stored.preset)
    getattr(figures if name == "plot" else visualize, name)(args, device)


def play_real(args: PlayRealArgs) -> None:
    """Play the real world: arrow keys in a window, else a GIF of a random or scripted policy."""
    config, _ = new_config(args)
    from foundations.tssm.play import play_real

    play_real(args, config)


def play_model(args: PlayArgs) -> None:
    """Play inside the learned model: arrow keys, else a GIF of truth, reconstruction and dream."""
    _show("play_model", args)


def play_agent(args: PlayArgs) -> None:
    """Watch the trained agent in the real world: a window, else a GIF."""
    _show("play_agent", args)


def test_obs(args: RunArgs) -> None:
    """Score the autoencoder on held-out frames and draw frames, codes and reconstructions."""
    _show("test_obs", args)


def plot(args: RunArgs) -> None:
    """Draw losses, scores and a dream of a run into OUT/plots."""
    _show("plot", args)


def print_score(score: dict[str, float], baselines: dict[str, dict[str, float]]) -> None:
    """A table: the agent, then what needs no learning."""
    for name, row in {"agent": score, **baselines}.items():
        print(f"{name:<14}" + "  ".join(f"{key} {value:8.3f}" for key, value in row.items()))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _device(args: RunArgs) -> Any:
    from common.device import pick_device

    return pick_device(args.device, args.threads)


COMMANDS = {
    "train-obs": Command(ObsArgs, train_obs),
    "train-wm": Command(StepArgs, train_wm),
    "train-agent": Command(AgentArgs, train_agent),
    "train": Command(TrainArgs, train),
    "train-td3": Command(DroppedArgs, train_td3),
    "play-real": Command(PlayRealArgs, play_real),
    "play-model": Command(PlayArgs, play_model),
    "play-agent": Command(PlayArgs, play_agent),
    "test-obs": Command(RunArgs, test_obs),
    "plot": Command(RunArgs, plot),
}
