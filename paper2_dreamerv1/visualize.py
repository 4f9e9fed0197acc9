"""Draw what the model dreams: `python visualize.py --checkpoint model.pt --num-dreams 5`.

Besides what every paper draws (truth / dream / difference, free dreams, heads, error over the horizon): how
sure prior and posterior are of each row and how far apart, and dreams of one start under different constant
actions.
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

PAPER = "paper2_dreamerv1"


def extras(agent, window: Window, folder: Path, args: VisualizeArgs) -> list[Path]:
    """The pictures of an RSSM; returns their files."""
    files = [prior_against_posterior(agent, window, folder)]
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


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    visualize_main(argv, PAPER, description=__doc__.split("\n")[0], extras=extras)


if __name__ == "__main__":
    run_main(main)
