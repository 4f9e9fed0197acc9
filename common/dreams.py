"""Real rows beside dreamed rows: windows out of recorded episodes, open-loop and free dreams, their errors.

A `Window` holds B stretches of C + H real rows in the stored-row convention of common/replay_buffer.py.  The
model watches the first C rows and then dreams H rows with the real actions (`open_loop`) or its own
(`free_dream`); errors stand beside two baselines that need no model.  Letters: B windows, T = C + H rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from common.agent import Agent, Dream
from common.errors import UserError
from common.frames import annotate, curve_panel, difference, grid, to_rgb, upscale
from common.metrics import continue_accuracy, horizon_error, reward_accuracy


@dataclass
class Episode:
    """One played episode as stored rows: L rows for L - 1 steps, act is zero in the last."""

    obs: dict[str, np.ndarray]  # [L, ...]
    act: np.ndarray  # [L, ...]
    rew: np.ndarray  # [L]
    is_first: np.ndarray  # [L]
    is_last: np.ndarray  # [L]
    is_terminal: np.ndarray  # [L]
    seed: int | None = None
    frames: list[np.ndarray] = field(default_factory=list)  # env.render(), where obs has no picture

    def __len__(self) -> int:
        return len(self.rew)


@dataclass
class Window:
    """B real stretches of C + H rows; rows behind an episode's end repeat its last one, with mask False."""

    obs: dict[str, np.ndarray]  # [B, T, ...]
    act: np.ndarray  # [B, T, ...]
    rew: np.ndarray  # [B, T]
    is_first: np.ndarray  # [B, T]
    is_terminal: np.ndarray  # [B, T]
    mask: np.ndarray  # [B, T] bool
    context: int  # C

    @property
    def horizon(self) -> int:
        """H"""
        return self.act.shape[1] - self.context

    def batch(self, rows: int | None = None) -> dict[str, np.ndarray]:
        """The first `rows` rows (the context without it) as the dict that `Agent.dream` watches."""
        rows = self.context if rows is None else rows
        first = self.is_first[:, :rows].copy()
        first[:, 0] = True  # a window may start in the middle: the model's memory starts with it
        return {**{k: v[:, :rows] for k, v in self.obs.items()}, "act": self.act[:, :rows], "is_first": first}


@dataclass
class OpenLoop:
    """A window, what was dreamed of it with the real actions, what the model sees in it, and errors [H]."""

    window: Window
    dream: Dream
    recon: Dream  # posterior: all T rows were watched
    errors: dict[str, np.ndarray]  # model, reconstruction, copy last frame, mean: [H] mean squared error


def make_window(
    episodes: Sequence[Episode], count: int = 5, context: int = 5, horizon: int = 45, seed: int = 0
) -> Window:
    """Cut `count` stretches at seeded random starts; context and horizon shrink to what the episodes hold."""
    longest, shortest = max(map(len, episodes)), min(map(len, episodes))
    context = max(1, min(context, shortest - 1))
    rows = min(context + horizon, longest)
    if rows <= context:
        raise UserError(f"--horizon {horizon} leaves nothing to dream: the episodes have {longest} rows")
    rng = np.random.default_rng(seed)
    picks, starts = [], []
    for b in range(count):
        episode = episodes[b % len(episodes)]
        picks.append(episode)
        starts.append(int(rng.integers(max(1, len(episode) - rows + 1))))

    def cut(name: str, key: str | None = None) -> np.ndarray:
        parts = []
        for episode, start in zip(picks, starts, strict=True):
            value = getattr(episode, name) if key is None else getattr(episode, name)[key]
            index = np.minimum(np.arange(start, start + rows), len(episode) - 1)
            parts.append(value[index])
        return np.stack(parts)

    lengths = np.array([len(episode) - start for episode, start in zip(picks, starts, strict=True)])
    return Window(
        obs={key: cut("obs", key) for key in picks[0].obs},
        act=cut("act"),
        rew=cut("rew"),
        is_first=cut("is_first"),
        is_terminal=cut("is_terminal"),
        mask=np.arange(rows) < lengths[:, None],
        context=context,
    )


def image_key(obs: Mapping[str, np.ndarray], required: bool = True) -> str | None:
    """The first image among the observations; without one None, or UserError if `required`."""
    for key in obs:
        if key.startswith("image"):
            return key
    if required:
        raise UserError(
            f"no image among the observations ({', '.join(obs)}): use plot_trajectory for vectors"
        )
    return None


def target(obs: Mapping[str, np.ndarray]) -> np.ndarray:
    """What errors are measured on: the image, or all vectors joined.  [B, T, ...]"""
    key = image_key(obs, required=False)
    return obs[key] if key else np.concatenate(list(obs.values()), axis=-1)


def reconstruct(agent: Agent, window: Window) -> Dream:
    """What the model makes of rows that it sees, all of them."""
    return agent.dream(window.batch(window.act.shape[1]), 0).check()


def free_dream(
    agent: Agent, window: Window, horizon: int | None = None, *, actions=None, temperature=1.0, generator=None
) -> Dream:
    """Dreams that start from the window's context and follow the policy (or `actions` [B, H, ...])."""
    horizon = window.horizon if horizon is None else horizon
    kwargs = {"actions": actions, "temperature": temperature, "generator": generator}
    return agent.dream(window.batch(), horizon, **kwargs).check()


def open_loop(
    agent: Agent, window: Window, *, temperature: float = 1.0, generator=None, mean=None
) -> OpenLoop:
    """Dream the window with its real actions and measure it.

    `mean`: the mean observation of a data set for that baseline (the window's own without it).
    """
    context = window.context
    actions = window.act[:, context:]
    dream = free_dream(agent, window, actions=actions, temperature=temperature, generator=generator)
    recon = reconstruct(agent, window)
    truth, mask = target(window.obs), window.mask
    if mean is None:
        mean = truth[mask].mean(0)
    guesses = {
        "model": target(dream.obs),
        "reconstruction": target(recon.obs),
        "copy last frame": np.repeat(truth[:, context - 1 : context], truth.shape[1], axis=1),
        "mean": np.broadcast_to(np.asarray(mean, np.float32), truth.shape),
    }
    if truth.dtype == np.uint8:
        guesses["mean"] = np.round(guesses["mean"]).astype(np.uint8)
    errors = {name: horizon_error(truth, guess, mask)[context:] for name, guess in guesses.items()}
    return OpenLoop(window, dream, recon, errors)


def head_accuracy(loop: OpenLoop) -> dict[str, dict[str, float]]:
    """How well the dreamed rows predict reward and continue: {"rew": ..., "cont": ...} where predicted."""
    rows = np.s_[:, loop.window.context :]
    mask, result = loop.window.mask[rows], {}
    if loop.dream.rew is not None:
        result["rew"] = reward_accuracy(loop.window.rew[rows], loop.dream.rew[rows], mask)
    if loop.dream.cont is not None:
        result["cont"] = continue_accuracy(~loop.window.is_terminal[rows], loop.dream.cont[rows], mask)
    return result


def open_loop_strip(loop: OpenLoop, columns: int = 10) -> np.ndarray:
    """The first window's rows side by side: all that were seen, then dreamed ones at even distances."""
    clip, context = open_loop_clip(loop, 1), loop.window.context
    rows = int(loop.window.mask[0].sum())
    dreamed = np.linspace(context, rows - 1, max(columns - context, 1)).round().astype(int)
    return np.concatenate([clip[t] for t in (*range(context), *np.unique(dreamed))], axis=1)


def open_loop_clip(loop: OpenLoop, count: int | None = None) -> np.ndarray:
    """Truth above open-loop dream above difference, one column per window -> clip [T, H, W, 3].

    Without images: the vectors' curves, the dream as dots.  count: of the first windows only.
    """
    window, context, columns = loop.window, loop.window.context, []
    key = image_key(window.obs, required=False)
    times = range(window.act.shape[1])
    seen = [f"seen {t + 1}" if t < context else f"dream +{t + 1 - context}" for t in times]
    for b in range(len(window.act))[:count]:
        if key is None:
            panel = curve_panel(target(window.obs)[b], target(loop.dream.obs)[b], width=240)
            columns.append(annotate(panel, seen))
            continue
        truth, dream = to_rgb(window.obs[key][b]), to_rgb(loop.dream.obs[key][b])
        over = ["" if alive else "  (over)" for alive in window.mask[b]]
        rows = [
            annotate(upscale(truth), [f"real{end}" for end in over]),
            annotate(upscale(dream), seen),
            annotate(upscale(difference(truth, dream)), "difference"),
        ]
        columns.append(np.concatenate(rows, axis=1))
    return grid(columns, columns=len(columns), gap=4)
