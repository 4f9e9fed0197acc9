"""Draw what the model dreams: `python visualize.py --checkpoint model.pt --num-dreams 5`.

Besides what every paper draws (truth / dream / difference, free dreams with reward, continue and value, error
over the horizon): which classes the latent variables use, how sure prior and posterior are of each row, the
critic's whole distribution over values along an episode, and one start under different constant actions.
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

PAPER = "paper4_dreamerv3"


def extras(agent, window: Window, folder: Path, args: VisualizeArgs) -> list[Path]:
    """The pictures that belong to this paper; returns their files."""
    post = agent.watch(window.batch(window.act.shape[1]))
    files = [
        prior_against_posterior(agent, post, window, folder),
        latent_usage(agent, post, window, folder),
    ]
    if agent.cfg.model.symlog:
        files.append(value_histogram(agent, post, window, folder))
    if image_key(window.obs, required=False):
        from common.action_sweep import action_sweep

        files.append(action_sweep(agent, window, folder))
    return files


def prior_against_posterior(agent, post, window: Window, folder: Path) -> Path:
    """Entropy of both and the KL between them, row by row: where the picture told something new."""
    import torch

    from common.plots import COLORS, new_figure, save_figure

    latent = agent.model.rssm.latent
    with torch.no_grad():
        prior = agent.model.rssm.prior(post.deter)
    curves = {
        "prior entropy": latent.entropy(prior),
        "posterior entropy": latent.entropy(post.logit),
        "KL": latent.kl(post.logit, prior),
    }
    figure, axes = new_figure(2, 1, height=4.4)
    for i, (name, values) in enumerate(curves.items()):
        rows = np.where(window.mask, values.cpu().numpy(), np.nan)  # [B, T]
        ax = axes[int(name == "KL"), 0]
        ax.plot(np.nanmean(rows, 0), color=COLORS[i], label=name)
        low, high = np.nanmin(rows, 0), np.nanmax(rows, 0)
        ax.fill_between(range(rows.shape[1]), low, high, color=COLORS[i], alpha=0.15, lw=0)
        ax.set(ylabel="nats", xlabel="row" if name == "KL" else "")
        ax.legend(frameon=False, fontsize=8)
    return save_figure(figure, folder / "prior_posterior.png")


def latent_usage(agent, post, window: Window, folder: Path) -> Path:
    """How often each class of each variable is meant, as a heat map: a row with one bright cell is idle."""
    from common.plots import new_figure, save_figure

    share = agent.model.rssm.latent.probs(post.logit).cpu().numpy()[window.mask].mean(0)  # [S, C]
    used = np.exp(-(share * np.log(share)).sum(-1))  # perplexity of each variable
    figure, axes = new_figure(width=4.8, height=4.4)
    ax = axes[0, 0]
    picture = ax.imshow(share[np.argsort(-used)], aspect="auto", cmap="viridis", vmin=0, vmax=1)
    ax.grid(visible=False)
    ax.set(xlabel="class", ylabel="variable, by classes in use")
    ax.set_title(f"{used.mean():.1f} of {share.shape[1]} classes in use", fontsize=9)
    figure.colorbar(picture, label="share of rows")
    return save_figure(figure, folder / "latent_usage.png")


def value_histogram(agent, post, window: Window, folder: Path) -> Path:
    """The critic's distribution over its bins along the first stretch, and its mean."""
    import torch

    from common.plots import COLORS, new_figure, save_figure
    from paper4_dreamerv3.symlog import symlog

    rows = int(window.mask[0].sum())
    with torch.no_grad():
        critic = agent.critic(post.feat[0, :rows])
    probs = critic.logit.softmax(-1).cpu().numpy()
    scale = agent.cfg.model.reward_scale
    bins, mean = (symlog(x / scale).cpu().numpy() for x in (critic.bins, critic.mean()))
    seen = np.flatnonzero(probs.max(0) > 0.05 * probs.max())
    low, high = max(seen.min() - 2, 0), min(seen.max() + 3, len(bins))
    figure, axes = new_figure(width=6.4, height=3.6)
    ax = axes[0, 0]
    ax.pcolormesh(np.arange(rows), bins[low:high], probs.T[low:high], cmap="Blues", shading="nearest")
    ax.plot(mean, color=COLORS[1], label="mean")
    ticks = np.linspace(bins[low], bins[high - 1], 7)
    ax.set_yticks(ticks, [f"{np.sign(t) * np.expm1(abs(t)):.3g}" for t in ticks])
    ax.set(xlabel="row", ylabel="value (symlog axis)")
    ax.grid(visible=False)
    ax.legend(frameon=False, fontsize=8)
    return save_figure(figure, folder / "value_histogram.png")


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    visualize_main(argv, PAPER, description=__doc__.split("\n")[0], extras=extras)


if __name__ == "__main__":
    run_main(main)
