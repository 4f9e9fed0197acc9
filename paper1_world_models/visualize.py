"""Draw what M dreams: `python visualize.py --checkpoint model.pt --num-dreams 5`.

Besides what every paper draws (truth / dream / difference, free dreams, heads, error over the horizon):
truth, reconstruction, one-step prediction and open-loop dream side by side; a walk along single latents;
free dreams at several temperatures; and what the controller scores in dreams of each temperature (how long it
lives, or what M's reward head pays).
"""

if not __package__:  # run as a script: the repository root, not this folder, goes on the path
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.cli import VisualizeArgs, run_main
from common.dreams import Window, free_dream, reconstruct
from common.errors import UserError
from common.scripts import read_eval, visualize_main

PAPER = "paper1_world_models"
GAP = 2  # pixels between the cells of the latent walk


@dataclass(frozen=True, kw_only=True)
class Args(VisualizeArgs):
    """The flags of every visualize.py, and what is peculiar to paper 1."""

    temperatures: tuple[float, ...] = (0.1, 0.5, 1.0, 1.15, 1.3)
    """Temperatures of the free dreams and of the survival plot."""
    latents: int = 8
    """How many latents to walk along, the most informative first."""

    def check(self) -> None:
        """UserError for values that cannot be drawn."""
        super().check()
        if not self.temperatures:
            raise UserError("--temperatures needs a value, such as 0.5 1.0 1.3")
        if bad := [tau for tau in self.temperatures if not 0 < tau < float("inf")]:
            raise UserError(f"--temperatures {bad[0]:g}: must be above 0, such as 0.5 or 1.15")
        if self.latents < 1:
            raise UserError(f"--latents {self.latents}: must be at least 1")


def extras(agent, window: Window, folder: Path, args: Args) -> list[Path]:
    """The pictures that only paper 1 has; returns their files."""
    files = [four_views(agent, window, folder), traversal(agent, window, folder, args.latents)]
    files.append(temperature_dreams(agent, window, folder, args))
    has_score = agent.cfg.rnn.done_head or agent.cfg.dream.reward == "head"  # else every dream pays the same
    if has_score and len(agent.starts.mu):
        files.append(temperature_plot(agent, folder, args))
    return files


def four_views(agent, window: Window, folder: Path) -> Path:
    """Truth | reconstruction | one-step prediction | open-loop dream, one row per window."""
    from common.frames import annotate, grid, upscale
    from common.video import write_video

    actions = window.act[:, window.context :]
    dream = free_dream(agent, window, actions=actions, temperature=0.3)
    views = {
        "real": window.obs["image"],
        "reconstruction": reconstruct(agent, window).obs["image"],
        "one step": one_step(agent, window.batch(window.act.shape[1])),
        "open loop": dream.obs["image"],
    }
    rows = range(min(2, len(window.act)))
    cells = [annotate(upscale(frames[b]), name) for b in rows for name, frames in views.items()]
    return write_video(folder / "four_views.mp4", grid(cells, columns=4, gap=4), fps=10, notify=print)


def one_step(agent, batch: dict, temperature: float = 0.1) -> np.ndarray:
    """Each row predicted from the real rows before it.  image [B, T, H, W, C], act, is_first -> like image

    Row 0 is a reconstruction: nothing predicts it.  At low temperature this is the likeliest frame.
    """
    import torch

    from paper1_world_models.rnn import sample_next

    B, T = batch["image"].shape[:2]
    with torch.inference_mode():
        generator = torch.Generator(agent.device).manual_seed(0)
        frames = torch.from_numpy(np.ascontiguousarray(batch["image"])).flatten(0, 1)
        z = agent.vae.encode(frames.to(agent.device))[0].unflatten(0, (B, T))  # [B, T, Z]
        act = torch.from_numpy(agent.codec.from_env(np.asarray(batch["act"]))).to(agent.device)
        restart = torch.as_tensor(np.asarray(batch["is_first"]), device=agent.device)
        hidden, _ = agent.rnn(z, act, restart, agent.rnn.initial(B))
        following = sample_next(agent.rnn.predict(hidden), temperature, generator, agent.cfg.rnn.shared_pi)
        return agent.decode(torch.cat([z[:, :1], following[:, :-1]], 1))


def traversal(agent, window: Window, folder: Path, count: int) -> Path:
    """One row per latent, from -3 to 3 standard deviations of the prior, around a real frame."""
    import matplotlib.pyplot as plt
    import torch

    with torch.inference_mode():
        frames = torch.from_numpy(np.ascontiguousarray(window.obs["image"])).flatten(0, 1)
        mu, _ = agent.vae.encode(frames[:256].to(agent.device))
    dims = mu.var(0).argsort(descending=True)[:count].tolist()  # a latent that V does not use has no spread
    values = np.linspace(-3, 3, 9, dtype=np.float32)
    z = mu[0].expand(len(dims), len(values), -1).clone()
    for i, d in enumerate(dims):
        z[i, :, d] = torch.from_numpy(values)
    pictures = agent.decode(z)  # [dims, 9, H, W, C]
    # White gaps: without them neighbouring pictures run together.
    framed = np.pad(pictures, ((0, 0), (0, 0), (0, GAP), (0, GAP), (0, 0)), constant_values=255)
    image = np.concatenate([np.concatenate(list(row), 1) for row in framed], 0)[:-GAP, :-GAP]
    centres = np.arange(max(pictures.shape[:2])) * framed.shape[2] + (pictures.shape[2] - 1) / 2
    figure, axis = plt.subplots(figsize=(9, len(dims)))
    axis.imshow(image, interpolation="nearest")
    axis.set_xticks(centres[:9], [f"{v:+.1f}" for v in values])
    axis.set_yticks(centres[: len(dims)], [f"z[{d}]" for d in dims])
    axis.set_title("one latent moved at a time")
    path = folder / "latent_traversal.png"
    figure.savefig(path, dpi=80, bbox_inches="tight")
    plt.close(figure)
    return path


def temperature_dreams(agent, window: Window, folder: Path, args: Args) -> Path:
    """The controller dreams on from the same context, one cell per temperature."""
    import torch

    from common.frames import annotate, grid, upscale
    from common.video import write_video

    cells = []
    for tau in args.temperatures:
        generator = torch.Generator().manual_seed(args.seed)
        dream = free_dream(agent, window, args.horizon, temperature=tau, generator=generator)
        cells.append(annotate(upscale(dream.obs["image"][0]), f"tau {tau:g}"))
    clip = grid(cells, columns=min(len(cells), 6), gap=4)
    return write_video(folder / "temperature_dreams.mp4", clip, fps=10, notify=print)


def temperature_plot(agent, folder: Path, args: Args) -> Path:
    """Score inside the dream against temperature, with one standard deviation."""
    import matplotlib.pyplot as plt

    from paper1_world_models.dream import dream_score

    scores = {tau: dream_score(agent, tau, 100, args.seed) for tau in args.temperatures}
    mean, sd = (np.array([f(s) for s in scores.values()]) for f in (np.mean, np.std))
    figure, axis = plt.subplots(figsize=(5, 3.5))
    axis.errorbar(list(scores), mean, sd, marker="o", capsize=3, label="dream")
    if (real := real_score(args.checkpoint)) is not None:
        axis.axhline(real, color="black", linestyle="--", label="real environment")
    axis.legend()
    axis.set_xlabel("temperature of the dream")
    axis.set_ylabel("score (in the dream: mean, sd of 100)")
    path = folder / "temperature_score.png"
    figure.savefig(path, dpi=90, bbox_inches="tight")
    plt.close(figure)
    return path


def real_score(checkpoint: Path) -> float | None:
    """The mean that eval.py wrote beside the checkpoint, if it did."""
    path = Path(checkpoint).resolve().parent / "eval.json"
    return read_eval(path).get("score", {}).get("mean") if path.exists() else None


def main(argv: list[str] | None = None) -> None:
    """Parse, dream, draw."""
    visualize_main(argv, PAPER, args=Args, description=__doc__.split("\n")[0], extras=extras)


if __name__ == "__main__":
    run_main(main)
