"""Draw what the model dreams: `python visualize.py --checkpoint model.pt --num-dreams 5`.

Besides what every paper draws (truth / dream / difference, free dreams, heads, error over the horizon):
frames beside their tokens, the tokens of a dream over time, several futures of one frame, which codewords are
in use, how far back the transformer looks, and how often it tells the next token.
Letters: T rows or steps, C rows of context, K tokens of a frame, V vocab, S stretches of real steps.
"""

if not __package__:  # run as a script: the repository root, not this folder, goes on the path
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import hsv_to_rgb
from PIL import Image

from common.cli import VisualizeArgs, run_main
from common.dreams import Episode, Window
from common.frames import PANEL, annotate, grid, side_by_side, to_rgb, upscale
from common.plots import COLORS, GRAY, new_figure, save_figure
from common.scripts import visualize_main
from common.video import write_video

if TYPE_CHECKING:
    from torch import Tensor

PAPER = "paper5_iris"
FUTURES = 5  # of one frame


@dataclass(frozen=True, kw_only=True)
class Args(VisualizeArgs):
    """The flags of every visualize.py."""

    context: int = 1
    """Real frames before a dream: the transformer starts at the last one, the policy has seen them all."""


def extras(agent, window: Window, folder: Path, args: Args) -> list[Path]:
    """The pictures that belong to this paper; returns their files."""
    from paper5_iris.sample import dream_on

    tokens = agent.tokenizer.tokenize(agent.frames(window.obs[agent.key])).unflatten(0, window.mask.shape)
    scene, seeds = Scene(agent, window, tokens), range(args.seed, args.seed + FUTURES)
    dreams = {i: dream_on(agent, scene.tokens, scene.act, scene.context, seed=i) for i in seeds}
    first = dreams[args.seed][0]
    files = [*token_views(scene, first, folder), token_map(scene, first, folder)]
    files += [*continuations(scene, dreams, folder), codebook(agent, tokens[window.mask], folder)]
    if found := real_stretches(agent, window):
        files.append(attention(attention_shares(agent, found), folder))
        files.append(accuracy(*teacher_forced(agent, found), agent.tokenizer.side, folder))
    return files


class Scene:
    """The real rows of the longest sequence, and how to look at them and at what is dreamed instead."""

    def __init__(self, agent, window: Window, tokens: "Tensor"):
        """tokens: of the whole window [B, T, K]"""
        b, rows = int(window.mask.sum(1).argmax()), int(window.mask.sum(1).max())
        self.agent, self.tokens = agent, tokens[b, :rows]  # [T, K]
        self.frames = enlarged(window.obs[agent.key][b, :rows])  # [T, h, w, 3]
        self.act, self.rew, self.end = (x[b, :rows] for x in (window.act, window.rew, window.is_terminal))
        self.context = C = min(window.context, max(rows - 1, 1))
        self.times = [f"seen {t + 1}" if t < C else f"dream +{t + 1 - C}" for t in range(rows)]

    def decoded(self, tokens: "Tensor") -> np.ndarray:
        """The frames that tokens stand for.  [T, K] -> [T, h, w, 3]"""
        from paper5_iris.tokenizer import to_images

        return enlarged(to_images(self.agent.tokenizer.decode_tokens(tokens)).cpu().numpy())

    def squares(self, tokens: "Tensor") -> np.ndarray:
        """Each token as a square in its colour, where it stands in the frame.  [T, K] -> [T, h, w, 3]"""
        side, colors = self.agent.tokenizer.side, palette(self.agent.cfg.tokenizer.vocab)
        return enlarged(colors[tokens.cpu().numpy()].reshape(-1, side, side, 3), self.frames.shape[1] - 2)

    def save_strip(self, clips: dict[str, np.ndarray], path: Path) -> Path:
        """The last row that was seen and dreamed ones at even distances, a line of pictures per clip."""
        picks = np.unique(np.linspace(self.context - 1, len(self.times) - 1, 8).round().astype(int))
        times = np.array(self.times)[picks]
        lines = {label: grid(annotate(clip[picks], times), len(picks)) for label, clip in clips.items()}
        Image.fromarray(np.concatenate([annotate(line, label) for label, line in lines.items()])).save(path)
        return path


def enlarged(frames: np.ndarray, height: int = PANEL) -> np.ndarray:
    """Large enough to look at, in a thin frame: the edges of black pictures would not be seen."""
    return np.pad(upscale(to_rgb(frames), height), ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=128)


def palette(vocab: int) -> np.ndarray:
    """A colour per token; those of neighbours differ, as their numbers mean nothing.  uint8 [V, 3]"""
    i = np.arange(vocab)
    hsv = np.stack([i * 0.618034 % 1, 0.4 + 0.5 * (i * 0.38 % 1), 0.6 + 0.4 * (i * 0.73 % 1)], -1)
    return np.round(255 * hsv_to_rgb(hsv)).astype(np.uint8)


def token_views(scene: Scene, dream: "Tensor", folder: Path) -> list[Path]:
    """A real frame, its tokens, what is decoded of them; dreamed tokens, and what is decoded of those."""
    real = scene.tokens
    clips = {"real": scene.frames, "its tokens": scene.squares(real), "reconstruction": scene.decoded(real)}
    clips |= {"dreamed tokens": scene.squares(dream), "dream": scene.decoded(dream)}
    agree = zip(scene.times, (real == dream).sum(-1).tolist(), strict=True)
    lines = [f"{time}: {count} of {real.shape[-1]} tokens agree" for time, count in agree]
    video = write_video(folder / "tokens.mp4", annotate(side_by_side(clips), lines), fps=10, notify=print)
    return [video, scene.save_strip(clips, folder / "tokens.png")]


def token_map(scene: Scene, dream: "Tensor", folder: Path) -> Path:
    """All tokens over time, the real ones above the dreamed ones."""
    cfg, C, T = scene.agent.cfg, scene.context, len(scene.tokens)
    both = [tokens.cpu().numpy() for tokens in (scene.tokens, dream)]  # [T, K]
    agree = (both[0] == both[1])[C:]
    title = f"dreamed right of the line: {agree.sum()} of {agree.size} tokens agree"
    titles = ["real", f"{title} (dots: only the last frame is remembered)"]
    figure, axes = new_figure(2, 1, width=8, height=4.8)
    for ax, title, tokens in zip(axes[:, 0], titles, both, strict=True):
        ax.imshow(palette(cfg.tokenizer.vocab)[tokens.T], aspect="auto", interpolation="nearest")
        ax.set(ylabel="token of the frame", xlabel="row", xticks=range(0, T, 1 + T // 15))
        ax.set_title(title, fontsize=9)
        ax.grid(visible=False)
    for t in range(C + cfg.world.steps - 1, T, cfg.world.steps - 1):
        ax.axvline(t - 0.5, color="white", ls=":")  # the memory was full (imagination.py)
    ax.axvline(C - 0.5, color="black", lw=3)
    return save_figure(figure, folder / "token_map.png")


def continuations(scene: Scene, dreams: dict[int, tuple], folder: Path) -> list[Path]:
    """One start, the same actions, other draws: what the model holds possible, and what it tells of it."""
    clips, rows = {}, {"real": (scene.frames, scene.rew, scene.end)}
    rows |= {f"dream with seed {seed}": (scene.decoded(x), *told) for seed, (x, *told) in dreams.items()}
    for label, (clip, rews, ends) in rows.items():
        told = zip(rews, ends, strict=True)
        lines = ["" if np.isnan(rew) else f"rew {rew:+.2g}  end {end:.2f}" for rew, end in told]
        clips[label] = np.concatenate([clip, annotate(clip[:, :0], lines)], 1)  # below the picture
    cells = [annotate(annotate(clip, scene.times), label) for label, clip in clips.items()]
    video = write_video(folder / "continuations.mp4", grid(cells, 3, gap=4), fps=10, notify=print)
    return [video, scene.save_strip(clips, folder / "continuations.png")]


def codebook(agent, tokens: "Tensor", folder: Path) -> Path:
    """How often each codeword stands in real frames.  [N, K]"""
    vocab = agent.cfg.tokenizer.vocab
    counts = np.bincount(tokens.flatten().cpu().numpy(), minlength=vocab)
    share, order = counts / counts.sum(), np.argsort(-counts, kind="stable")
    perplexity, dead = np.exp(-sum(p * np.log(p) for p in share if p)), (counts == 0).sum()
    figure, axes = new_figure()
    axes[0, 0].bar(range(vocab), share[order], color=palette(vocab)[order] / 255)
    title = f"{len(tokens)} frames: perplexity {perplexity:.1f} of {vocab}, {dead} dead codes"
    axes[0, 0].set(xlabel="codewords by rank of use", ylabel="share of tokens", title=title)
    return save_figure(figure, folder / "codebook.png")


def real_stretches(agent, window: Window) -> list[dict]:
    """The window's real rows in pieces of at most `world.steps` steps, as the world model takes them."""
    from paper5_iris.quality import stretches

    found = []
    for b, rows in enumerate(window.mask.sum(1)):
        obs = {key: value[b, :rows] for key, value in window.obs.items()}
        columns = (window.act, window.rew, window.is_first, window.is_terminal, window.is_terminal)
        found += stretches(agent, Episode(obs, *(column[b, :rows] for column in columns)))
    return found


def attention_shares(agent, found: list[dict]) -> np.ndarray:
    """Of the last action's position, in the longest stretches: what goes to each step.  [layers, heads, T]"""
    world, steps, shares = agent.world, max(batch["act"].shape[1] for batch in found), []
    for batch in found:
        if batch["act"].shape[1] == steps:
            weights = world.transformer.attention(world.embed(batch["tokens"], batch["act"]).detach())
            shares.append(weights[:, 0, :, -1].unflatten(-1, (steps, world.block)).sum(-1).cpu().numpy())
    return np.mean(shares, 0)


def attention(shares: np.ndarray, folder: Path) -> Path:
    """How far back each head of each layer looks when reward, end and the next frame are to be told."""
    layers, heads, steps = shares.shape
    figure, axes = new_figure(height=1.6 + 0.16 * layers * heads)
    ax = axes[0, 0]
    picture = ax.imshow(shares.reshape(-1, steps), aspect="auto", vmin=0)
    ax.hlines(np.arange(heads, layers * heads, heads) - 0.5, -0.5, steps - 0.5, color="white")
    ax.set_yticks(np.arange(layers) * heads + heads / 2 - 0.5, [f"layer {i + 1}" for i in range(layers)])
    ax.set_xticks(range(steps), [*range(1 - steps, 0), "now"])
    ax.set(xlabel="step", ylabel=f"{heads} heads each", title="where the newest action looks")
    ax.grid(visible=False)
    figure.colorbar(picture, label="share of attention")
    return save_figure(figure, folder / "attention.png")


def teacher_forced(agent, found: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """Is the likeliest token right, is the one a step before?  [2, S, T, K], nan where nothing is told.

    And how often a real reward -1, 0, 1 is told as each, [3, 3]; zeros where the head tells a number.
    """
    K, steps = agent.world.tokens, max(batch["act"].shape[1] for batch in found)
    hits, rewards = np.full((2, len(found), steps * K), np.nan), np.zeros((3, 3), int)
    for i, batch in enumerate(found):
        out = agent.world(batch["tokens"], batch["act"])
        tokens, told = (x[0].flatten().cpu().numpy() for x in (batch["tokens"], out.obs.argmax(-1)))
        hits[0, i, 1 : len(tokens)] = told[:-1] == tokens[1:]
        hits[1, i, K : len(tokens)] = tokens[:-K] == tokens[K:]
        if agent.cfg.world.reward_head == "sign_ce":
            pairs = agent.world.labels(batch)[1][0], out.rew[0].argmax(-1)
            np.add.at(rewards, tuple(x.cpu().numpy() for x in pairs), 1)
    return hits.reshape(2, -1, steps, K), rewards


def accuracy(hits: np.ndarray, rewards: np.ndarray, side: int, folder: Path) -> Path:
    """Tokens predicted right after real rows, by place in the frame and by step; confused rewards."""
    (model, copied), has_rewards = np.ma.masked_invalid(hits), rewards[[0, 2]].any()
    figure, axes = new_figure(1, 2 + has_rewards, width=7.2 + 3.2 * has_rewards)
    by_place = model.mean((0, 1)).filled(np.nan).reshape(side, side).round(2)
    table(axes[0, 0], by_place, by_place, range(side), title="tokens predicted right, by place")
    ax = axes[0, 1]
    ax.plot(model.mean((0, 2)), "o-", color=COLORS[0], label="by the transformer")
    ax.plot(copied.mean((0, 2)), "o--", color=GRAY, label="as in the frame before")
    ax.set(xlabel="real steps before", ylim=(0, 1.02), xticks=range(hits.shape[2]), title="and by step")
    ax.legend(frameon=False, fontsize=8)
    if has_rewards:
        shares, title = rewards / rewards.sum(1, keepdims=True).clip(1), "sign of the reward"
        table(axes[0, 2], shares, rewards, range(-1, 2), xlabel="predicted", ylabel="real", title=title)
    return save_figure(figure, folder / "token_accuracy.png")


def table(ax, shades: np.ndarray, numbers: np.ndarray, names: range, **labels: str) -> None:
    """Numbers on shades of blue, with the same names on both sides."""
    ax.imshow(shades, cmap="Blues", vmin=0, vmax=1.5)  # pale enough for black letters
    for (y, x), number in np.ndenumerate(numbers):
        ax.text(x, y, f"{number:g}", ha="center", va="center", fontsize=8)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_ticks(range(len(names)), names)
    ax.set(**labels)
    ax.grid(visible=False)


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    visualize_main(argv, PAPER, args=Args, description=__doc__.split("\n")[0], extras=extras)


if __name__ == "__main__":
    run_main(main)
