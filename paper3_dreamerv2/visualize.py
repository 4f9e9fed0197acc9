"""Draw what the model dreams: `python visualize.py --checkpoint model.pt --num-dreams 5`.

Besides what every paper draws (truth / dream / difference, free dreams, heads, error over the horizon): how
sure prior and posterior are of each row and how far apart, dreams of one start under different constant
actions; and of the discrete latents which class of which variable is active over time, and what each variable
has to say.
"""

if not __package__:  # run as a script: the repository root, not this folder, goes on the path
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

from pathlib import Path

import numpy as np

from common.cli import VisualizeArgs, run_main
from common.dreams import Window, image_key
from common.scripts import visualize_main

PAPER = "paper3_dreamerv2"


def extras(agent, window: Window, folder: Path, args: VisualizeArgs) -> list[Path]:
    """The pictures of an RSSM; returns their files."""
    files = [prior_against_posterior(agent, window, folder)]
    if agent.cfg.rssm.latent == "categorical":
        files += [class_map(agent, window, folder), variable_kl(agent, window, folder)]
    if image_key(window.obs, required=False):
        from common.action_sweep import action_sweep

        files.append(action_sweep(agent, window, folder))
    return files


def prior_against_posterior(agent, window: Window, folder: Path) -> Path:
    """Entropy of both and the KL between them, row by row: where the picture told something new."""
    from common.plots import COLORS, new_figure, save_figure

    post, prior = agent.watch(window.batch(window.act.shape[1]))
    latent, mask = agent.model.rssm.latent, window.mask
    curves = {
        "prior entropy": latent.entropy(prior.stats),
        "posterior entropy": latent.entropy(post.stats),
        "KL": latent.kl(post.stats, prior.stats),
    }
    figure, axes = new_figure(2, 1, height=4.4)
    for i, (name, values) in enumerate(curves.items()):
        rows = np.where(mask, values.cpu().numpy(), np.nan)  # [B, T]
        ax = axes[int(name == "KL"), 0]
        ax.plot(np.nanmean(rows, 0), color=COLORS[i], label=name)
        ax.fill_between(
            range(rows.shape[1]), np.nanmin(rows, 0), np.nanmax(rows, 0), color=COLORS[i], alpha=0.15, lw=0
        )
        ax.set(ylabel="nats", xlabel="row" if name == "KL" else "")
        ax.legend(frameon=False, fontsize=8)
    return save_figure(figure, folder / "prior_posterior.png")


def class_map(agent, window: Window, folder: Path) -> Path:
    """The latent code over time: posterior and prior probabilities [G, C], the sample, the real frame."""
    from common.frames import annotate, side_by_side
    from common.video import dream_clips, write_video

    rows = window.batch(window.act.shape[1])
    post, prior = agent.watch(rows)
    latent = agent.model.rssm.latent
    G, C = latent.groups, latent.classes
    sample = post.stoch[0].unflatten(-1, (G, C)).cpu().numpy()  # [T, G, C]
    panels = {"real": dream_clips(window.obs)[0]} if image_key(window.obs, required=False) else {}
    for name, stats in (("posterior", post.stats), ("prior", prior.stats)):
        panels[name] = _tiles(latent.logits(stats[0]).softmax(-1).cpu().numpy())
    panels["sample"] = _tiles(sample)
    clip = annotate(side_by_side(panels), f"{G} variables (rows) of {C} classes (columns)")
    return write_video(folder / "class_map.mp4", clip, fps=5, notify=print)


def _tiles(probs: np.ndarray, size: int = 160) -> np.ndarray:
    """[T, G, C] in 0..1 -> uint8 [T, h, w, 3], a cell for each class."""
    gray = (255 * np.sqrt(probs.clip(0, 1))).astype(np.uint8)  # the root makes small probabilities visible
    factor = max(1, size // max(gray.shape[1:]))
    return np.repeat(np.repeat(np.repeat(gray[..., None], 3, -1), factor, 1), factor, 2)


def variable_kl(agent, window: Window, folder: Path) -> Path:
    """What each variable tells that was not known, KL in nats, and how many of its classes it uses."""
    from common.plots import COLORS, new_figure, save_figure

    post, prior = agent.watch(window.batch(window.act.shape[1]))
    latent = agent.model.rssm.latent
    log_post, log_prior = (latent.logits(state.stats).log_softmax(-1) for state in (post, prior))
    mask = window.mask
    kl = (log_post.exp() * (log_post - log_prior)).sum(-1).cpu().numpy()[mask].mean(0)  # [G]
    share = log_post.exp().cpu().numpy()[mask].mean(0)  # [G, C]
    used = np.exp(-(share * np.log(np.maximum(share, 1e-12))).sum(-1))  # [G] perplexity
    order = np.argsort(-kl)
    figure, axes = new_figure(2, 1, height=4.4)
    for ax, values, label, color in (
        (axes[0, 0], kl, "KL in nats", COLORS[0]),
        (axes[1, 0], used, f"classes in use of {latent.classes}", COLORS[1]),
    ):
        ax.bar(range(len(order)), values[order], color=color)
        ax.set(ylabel=label)
    axes[1, 0].set_xlabel("latent variable, by KL")
    return save_figure(figure, folder / "variable_kl.png")


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    visualize_main(argv, PAPER, description=__doc__.split("\n")[0], extras=extras)


if __name__ == "__main__":
    run_main(main)
