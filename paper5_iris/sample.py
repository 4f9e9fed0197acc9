"""Trajectories out of the model: `python sample.py --checkpoint model.pt --num 8 --steps 100`.

DreamEnv is a Gymnasium vector env whose games are dreamed, from real frames on: what plays a vector env can
play here.  `rollout` keeps the rows, `dream_on` continues a real sequence, the script lets an agent play.
Letters: N games, M frames to begin at, T steps or rows, C rows of context, K tokens, H W C picture.
"""

if not __package__:  # run as a script: the repository root, not this folder, goes on the path
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from common.atomic import writable
from common.checkpoint import find_checkpoint
from common.cli import run_main
from common.config import Device
from common.device import pick_device
from common.errors import UserError
from common.evaluate import evaluate
from common.flags import parse
from common.frames import annotate, grid
from common.scripts import REAL_STEPS
from common.seeding import seed_everything
from common.spaces import Spaces
from common.video import write_video
from paper5_iris.actor_critic import Memory
from paper5_iris.agent import IrisAgent
from paper5_iris.imagination import Imagination
from paper5_iris.tokenizer import to_frames, to_images
from paper5_iris.visualize import enlarged

SHOWN = 12  # games in the video


class DreamEnv(VectorEnv):
    """N dreamed games, Gymnasium's NEXT_STEP autoreset, observations {key: uint8 [N, H, W, C]}.

    A game ends by a sampled end, or is truncated after `limit` steps.  The worlds share one cache, so when
    some begin anew, the others go on from their newest frame: the memory flush that comes anyway.
    info: tokens [N, K], end_prob [N] (nan where a game began).
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(self, world: Imagination, starts: np.ndarray, spaces: Spaces, num: int, limit: int = 1_000):
        """starts: real frames uint8 [M, H, W, C]; spaces: of the real environment, with one picture."""
        (key,) = spaces.images
        self.world, self.starts, self.key, self.limit = world, starts, key, limit
        self.device = world.model.token.weight.device
        self.num_envs, self.render_mode = num, "rgb_array"
        image = gym.spaces.Box(0, 255, spaces.obs[key], np.uint8)
        act = gym.spaces.Discrete(spaces.act)
        if not spaces.discrete:
            act = gym.spaces.Box(-1.0, 1.0, (spaces.act,), np.float32)
        self.single_observation_space = gym.spaces.Dict({key: image})
        self.single_action_space = act
        self.observation_space = batch_space(self.single_observation_space, num)
        self.action_space = batch_space(act, num)
        self.is_over, self.age = np.zeros(num, bool), np.zeros(num, np.int64)

    def reset(self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None):
        """All games anew.  A seed (of a list the first) fixes their starts and all that is sampled."""
        seed = next(iter(seed), None) if isinstance(seed, list | tuple) else seed
        super().reset(seed=seed)
        if seed is not None or self.world.generator is None:
            self.world.generator = torch.Generator(self.device)
            self.world.generator.manual_seed(int(self.np_random.integers(2**62)))
        self.is_over[:], self.age[:] = False, 0
        self.world.reset(self.begin(self.num_envs))
        return self.observe(), self.info(np.full(self.num_envs, np.nan))

    def begin(self, num: int) -> torch.Tensor:
        """Tokens of drawn frames [num, K]."""
        frames = torch.from_numpy(self.starts[self.np_random.integers(len(self.starts), size=num)])
        return self.world.tokenizer.tokenize(to_frames(frames.to(self.device)))

    def step(self, actions: np.ndarray):
        """One action per game; a game that is over begins anew instead, with reward 0."""
        began, world = self.is_over.copy(), self.world
        step = world.step(torch.as_tensor(np.asarray(actions), device=self.device))
        rew, end = step.rew.cpu().numpy().astype(np.float64), step.end.cpu().numpy()
        prob = step.end_prob.cpu().numpy().copy()
        if began.any():  # the step that they took with the others counts for nothing
            tokens = step.tokens.clone()
            tokens[torch.from_numpy(began).to(self.device)] = self.begin(int(began.sum()))
            world.reset(tokens)
            rew[began], end[began], prob[began] = 0.0, False, np.nan
        self.age = np.where(began, 0, self.age + 1)
        truncated = (self.age >= self.limit) & ~end
        self.is_over = end | truncated
        return self.observe(), rew, end, truncated, self.info(prob)

    def observe(self) -> dict[str, np.ndarray]:
        """The newest frames, decoded."""
        self.last = to_images(self.world.frame()).cpu().numpy()
        return {self.key: self.last}

    def info(self, end_prob: np.ndarray) -> dict[str, np.ndarray]:
        """What only a dream can tell."""
        return {"tokens": self.world.tokens.cpu().numpy(), "end_prob": end_prob}

    def render(self) -> tuple[np.ndarray, ...]:
        """The newest frame of every game."""
        return tuple(self.last)


def rollout(
    env: DreamEnv, act: Callable[[dict[str, np.ndarray]], np.ndarray], steps: int, seed: int | None = None
) -> dict[str, np.ndarray]:
    """Play T steps -> rows [N, T + 1, ...] as a replay stores them (common/replay_buffer.py), and tokens.

    act: observations with is_first [N] -> actions [N, ...].  A game that ended begins anew in the next row.
    """
    obs, info = env.reset(seed=seed)
    N, key = env.num_envs, env.key
    rew, over, terminal, rows = np.zeros(N), np.zeros(N, bool), np.zeros(N, bool), []
    is_first = np.ones(N, bool)
    for t in range(steps + 1):
        action = np.asarray(act({**obs, "is_first": is_first}))
        stored = action.copy()
        stored[over if t < steps else ...] = 0
        flags = {"is_first": is_first, "is_last": over.copy(), "is_terminal": terminal}
        rows.append({key: obs[key], "act": stored, "rew": rew, **flags, "tokens": info["tokens"]})
        if t < steps:
            is_first = over
            obs, rew, terminal, truncated, info = env.step(action)
            over = terminal | truncated
    rows[-1]["is_last"] = np.ones(N, bool)
    return {name: np.stack([row[name] for row in rows], 1) for name in rows[0]}


def dream_on(agent: IrisAgent, tokens: torch.Tensor, act: np.ndarray, context: int, seed: int) -> tuple:
    """What may follow the first C of real rows [T, K] under the actions [T, ...] that were taken in them.

    -> tokens [T, K], of which C are real; reward and probability of the end [T], nan in those rows.
    """
    world = agent.imagination(generator=torch.Generator(agent.device).manual_seed(seed))
    world.reset(tokens[None, context - 1])
    rows, told = [*tokens[:context]], [torch.full((2,), float("nan"), device=agent.device)] * context
    for action in agent.tensor(act)[context - 1 : -1]:
        step = world.step(action[None])
        rows.append(step.tokens[0])
        told.append(torch.cat([step.rew, step.end_prob]))
    return torch.stack(rows), *torch.stack(told, 1).cpu().numpy()


# --- the command line


@dataclass(frozen=True, kw_only=True)
class Args:
    """The flags of sample.py."""

    checkpoint: Path = Path("model.pt")
    """A model.pt, or the run folder that holds one."""
    num: int = 8
    """Games side by side; a game that ends begins anew."""
    steps: int = 100
    """Steps of each."""
    temperature: float = 1.0
    """Of what the model samples: tokens, rewards, ends.  0 takes the likeliest."""
    out: Path | None = None
    """Folder for dreams.npz and dreams.mp4; None: the checkpoint's folder."""
    seed: int = 0
    """Seed of the real episode and of the sampling."""
    device: Device = "auto"
    """Where the networks run; auto: cuda, else mps, else cpu."""
    threads: int = 0
    """CPU threads that torch may use; 0: torch's own choice."""

    def check(self) -> None:
        """UserError for values that cannot be meant."""
        for name, least in {"num": 1, "steps": 1, "temperature": 0, "seed": 0, "threads": 0}.items():
            if not (value := getattr(self, name)) >= least:
                raise UserError(f"--{name} {value:g}: must be at least {least}")


def player(agent: IrisAgent, env: DreamEnv) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    """The agent's policy at its temperature of evaluations; `agent.act` would encode decoded frames anew."""
    actor, world, memory = agent.actor, env.world, agent.initial(env.num_envs)

    @torch.no_grad()
    def act(obs: dict[str, np.ndarray]) -> np.ndarray:
        nonlocal memory
        going = torch.from_numpy(~obs["is_first"]).to(agent.device)[:, None]
        memory = Memory(*(part * going for part in memory))
        policy, _, memory = actor(world.view(actor), memory, agent.cfg.eval_temperature)
        return agent.native(policy.sample(world.generator))

    return act


def games(rows: dict[str, np.ndarray]) -> dict[str, list[tuple[float, int]]]:
    """Return and length of a rollout's games: of those that the model ended, and of those that were cut."""
    found = {"ended": [], "cut off": []}
    for (n, a), (_, b) in zip(np.argwhere(rows["is_first"]), np.argwhere(rows["is_last"]), strict=True):
        if b > a:  # else it only began
            label = "ended" if rows["is_terminal"][n, b] else "cut off"
            found[label].append((rows["rew"][n, a : b + 1].sum(), b - a))
    return found


def clip(rows: dict[str, np.ndarray], key: str) -> np.ndarray:
    """The first games side by side, with the reward of each step.  [T + 1, h, w, 3]"""
    cells = []
    for pictures, *told in zip(*(rows[name][:SHOWN] for name in (key, "rew", "is_terminal")), strict=True):
        lines = [f"rew {rew:+.2g}" + ("  end" if end else "") for rew, end in zip(*told, strict=True)]
        cells.append(annotate(enlarged(pictures), lines))
    return grid(cells, columns=min(len(cells), 4), gap=4)


def main(argv: Sequence[str] | None = None) -> None:
    """Play, write, report."""
    args = parse(Args, sys.argv[1:] if argv is None else argv, __doc__.split("\n")[0])
    args.check()
    agent = IrisAgent.load(args.checkpoint, str(pick_device(args.device, args.threads)))
    seed_everything(args.seed)
    folder = writable(args.out or find_checkpoint(args.checkpoint).resolve().parent, "--out")
    (real,) = evaluate(agent, None, 1, args.seed, record=1, max_steps=REAL_STEPS).episodes
    starts = real.obs[agent.key][:-1]  # the model has never seen what follows a last frame
    spaces = replace(agent.spaces, obs={agent.key: agent.spaces.obs[agent.key]})
    env = DreamEnv(agent.imagination(args.temperature), starts, spaces, args.num)
    rows = rollout(env, player(agent, env), args.steps, args.seed)
    print(f"{agent.env.name}: {args.num} x {args.steps} dreamed steps at temperature {args.temperature:g}")
    print(f"begun at {len(starts)} frames of a real episode, whose return was {real.rew.sum():g}")
    for label, found in games(rows).items():
        line = f"{label:<8}{len(found):>5} games"
        for name, x in zip(("return", "length"), zip(*found, strict=True), strict=False):
            line += f"   {name} {np.mean(x):.2f} ({min(x):g} .. {max(x):g})"
        print(line)
    np.savez_compressed(folder / "dreams.npz", **rows)
    print(f"wrote {folder / 'dreams.npz'}")
    print(f"wrote {write_video(folder / 'dreams.mp4', clip(rows, agent.key), fps=10, notify=print)}")


if __name__ == "__main__":
    run_main(main)
