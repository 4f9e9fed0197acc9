"""Pictures and GIFs of a run: dreams beside the truth, the agent playing, frames and their codes.

Shapes: T frames, K latents, C classes.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.frames import annotate, grid, side_by_side
from common.plots import COLORS, GRAY
from common.video import write_gif
from foundations.commands import report
from foundations.tssm.autoencoder import Autoencoder
from foundations.tssm.data import Replay, load_replay
from foundations.tssm.dynamics import Dynamics
from foundations.tssm.evaluate import policy_of
from foundations.tssm.play import FPS, RealWorld, enlarge, has_display, rollout, window
from foundations.tssm.stages import held_out_game, load_agent, load_dynamics, load_observation
from foundations.tssm.train import exact_frames, frames_to_tensor

CODE_COLORS = np.array(
    [tuple(int(color[i : i + 2], 16) for i in (1, 3, 5)) for color in (*COLORS, GRAY)], np.uint8
)


def to_frames(obs: Tensor) -> np.ndarray:
    """[T, 3, H, W] in 0..1 -> uint8 [T, H, W, 3]"""
    return (255 * obs.clamp(0, 1)).round().byte().permute(0, 2, 3, 1).cpu().numpy()


class DreamWorld:
    """The learned model, played from a real frame on."""

    def __init__(self, code: Autoencoder, model: Dynamics, game: Replay, context: int):
        self.code, self.model, self.game, self.context = code, model, game, context
        self.act_size = game.act.shape[-1]
        self.device = next(model.parameters()).device

    @torch.no_grad()
    def reset(self) -> np.ndarray:
        """The decoded start."""
        obs = frames_to_tensor(self.game.obs[0, :1], self.device)
        self.stoch = self.code.one_hot(self.code.encode(obs))  # [1, K, C]
        self.rew, self.ret = torch.from_numpy(self.game.rew[0, :1]).to(self.device), 0.0
        self.tokens: list[Tensor] = []
        return self._frame()

    @torch.no_grad()
    def step(self, act: np.ndarray) -> tuple[np.ndarray, str]:
        """One dreamed step."""
        act = torch.as_tensor(np.asarray(act)[None], dtype=torch.float32, device=self.device)
        self.tokens = [*self.tokens, self.model.embed(self.stoch, act, self.rew)][-self.context :]
        self.stoch, self.rew, alive = self.model.step(torch.stack(self.tokens, 1), 1.0)
        self.ret += float(self.rew)
        return self._frame(), f"dreamed reward {float(self.rew):+.2f}  return {self.ret:+.2f}"

    def _frame(self) -> np.ndarray:
        return to_frames(self.code.decode(self.stoch).sigmoid())[0]


@torch.no_grad()
def dream_panels(
    code: Autoencoder, model: Dynamics, game: Replay, context: int, steps: int
) -> dict[str, np.ndarray]:
    """Truth, reconstruction, and the dream of the same actions from the first frame: [T, H, W, 3] each."""
    device = next(model.parameters()).device
    truth = game.obs[0, : steps + 1]
    obs = frames_to_tensor(truth, device)
    acts = iter(torch.from_numpy(game.act[0, : len(truth) - 1]).to(device))
    start = code.one_hot(code.encode(obs[:1]))
    rew = torch.from_numpy(game.rew[0, :1]).to(device)
    dream = model.imagine(start, rew, lambda _: next(acts)[None], len(truth) - 1, context=context)
    frames = code.decode(dream.stoch[:, 0]).sigmoid()
    return {"truth": truth, "reconstruction": to_frames(code.reconstruct(obs)), "dream": to_frames(frames)}


def play_model(args: Any, device: torch.device) -> None:
    """By hand inside the model; without a display truth, reconstruction and dream as a GIF."""
    (_, code), (stored, model) = load_observation(args.out, device), load_dynamics(args.out, device)
    game, context = held_out_game(args.out, args.seed), stored.config.agent.context
    if has_display():
        played = window(DreamWorld(code, model, game, context), "play-model", args.steps)
        print(f"{played} steps dreamed")
        return
    panels = dream_panels(code, model, game, context, args.steps)
    clip = side_by_side({label: enlarge(frames, 192) for label, frames in panels.items()})
    clip = annotate(clip, [f"step {t}, random actions of a held-out game" for t in range(len(clip))], size=14)
    path = write_gif(args.out / "plots" / "play-model.gif", clip, FPS)
    same = (np.abs(panels["truth"].astype(int) - panels["dream"]) < 128).all((1, 2, 3))  # [T]
    print(
        f"no display here: a dream of {len(clip) - 1} steps, {same[1:].mean():.0%} of its frames as in truth"
    )
    print(f"written to {path}")


def play_agent(args: Any, device: torch.device) -> None:
    """The agent's mean actions in the real world, in a window or as a GIF."""
    _, code = load_observation(args.out, device)
    stored, agent = load_agent(args.out, args.objective, device)
    world, act = RealWorld(stored.config, args.seed), policy_of(code, agent)
    if has_display():
        window(world, "play-agent", args.steps, lambda frame: act(frame[None])[0])
        print(f"return {world.ret:+.2f}")
        return
    clips = []
    for seed in range(args.seed, args.seed + 4):
        world = RealWorld(stored.config, seed)
        clips.append(np.stack(rollout(world, lambda frame: act(frame[None])[0], args.steps)))
    path = write_gif(
        args.out / "plots" / f"play-agent-{args.objective}.gif", grid(clips, columns=2, gap=6), FPS
    )
    print(f"no display here: four games of the {args.objective} agent, written to {path}")


def test_obs(args: Any, device: torch.device) -> None:
    """Exact frames, and a picture: frames, codes, what is decoded of them."""
    stored, code = load_observation(args.out, device)
    _, replay = load_replay(args.out / "data" / "replay.npz").split()
    with report(args, "test-obs") as result:
        result["exact_frames"] = round(exact_frames(code, replay), 4)
        frames = replay.obs.reshape(-1, *replay.obs.shape[2:])
        frames = frames[np.linspace(0, len(frames) - 1, 8).astype(int)]
        with torch.no_grad():
            obs = frames_to_tensor(frames, device)
            codes, recon = code.encode(obs).cpu().numpy(), to_frames(code.reconstruct(obs))
        result["classes_used"] = int(len(np.unique(codes)))
    rows = {"frame": frames, "code (a colour per class)": code_pictures(codes, stored.config.code.classes)}
    strips = [strip(label, clip) for label, clip in {**rows, "reconstruction": recon}.items()]
    path = write_picture(args.out / "plots" / "reconstructions.png", np.concatenate(strips))
    print(f"exact held-out frames {result['exact_frames']:.4f}; {path}")


def strip(label: str, frames: np.ndarray, side: int = 128) -> np.ndarray:
    """Frames of any size in a row under a label, `side` pixels each.  [T, h, w, 3] -> [H, W, 3]"""
    row = np.concatenate(list(np.pad(enlarge(frames, side), ((0, 0), (0, 0), (0, 6), (0, 0)))), 1)
    return annotate(row, label, size=14)


def code_pictures(codes: np.ndarray, classes: int) -> np.ndarray:
    """Classes as cells: a colour each up to 8, else a gray.  [T, K] -> uint8 [T, h, w, 3]"""
    side = int(np.ceil(codes.shape[1] ** 0.5))
    cells = np.zeros((len(codes), side * side), np.int64)
    cells[:, : codes.shape[1]] = codes
    gray = np.repeat(np.linspace(0, 255, classes).astype(np.uint8)[:, None], 3, 1)  # [C, 3]
    return (CODE_COLORS if classes <= len(CODE_COLORS) else gray)[cells].reshape(len(codes), side, side, 3)


def write_picture(path: Path, picture: np.ndarray) -> Path:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
    return path
