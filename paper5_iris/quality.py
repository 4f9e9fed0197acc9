"""How good tokenizer and world model are on real episodes: numbers for logs, eval.json and tables.

Letters: T steps of a stretch, K tokens, V vocab, H dreamed rows.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from common.dreams import Episode, make_window, open_loop

if TYPE_CHECKING:
    from paper5_iris.agent import IrisAgent


def stretches(agent: "IrisAgent", episode: Episode) -> list[dict[str, torch.Tensor]]:
    """An episode in stretches of at most `world.steps` steps, as the world model takes them, with frames."""
    steps, found = agent.cfg.world.steps, []
    for start in range(0, len(episode) - 1, steps):
        rows = slice(start, min(start + steps, len(episode) - 1))
        after = slice(rows.start + 1, rows.stop + 1)
        act = torch.from_numpy(np.asarray(episode.act[rows])).to(agent.device)[None]
        rew, end = (
            torch.from_numpy(np.array(x)).to(agent.device)[None]
            for x in (episode.rew[after], episode.is_terminal[after])
        )
        frames = agent.frames(episode.obs[agent.key][rows])
        batch = {"act": act, "rew": rew.float(), "end": end, "mask": torch.ones_like(end), "frames": frames}
        found.append(batch | {"tokens": agent.tokenizer.tokenize(frames)[None]})
    return found


@torch.no_grad()
def quality(agent: "IrisAgent", episodes: Sequence[Episode]) -> dict[str, float]:
    """Means over all steps of the episodes.

    psnr: of reconstructions, in dB; perplexity: of the codewords in use; token_accuracy: of the likeliest
    next token, teacher-forced, by the place in the frame also of the first and the last one; rew_accuracy
    and end_accuracy: of the likeliest class; end_recall: of the ends, if there are any; copy_accuracy: of
    the tokens of the frame before.
    """
    square, counts = [], torch.zeros(agent.cfg.tokenizer.vocab, device=agent.device)
    hits, ends = {"token": [], "first_token": [], "last_token": [], "rew": [], "end": []}, []
    copied = []
    for episode in episodes:
        for batch in stretches(agent, episode):
            frames = batch.pop("frames")
            decoded = agent.tokenizer.decode_tokens(batch["tokens"][0])
            square.append((frames - decoded).square().flatten(1).mean(1))
            counts += torch.bincount(batch["tokens"].flatten(), minlength=len(counts))
            out = agent.world(batch["tokens"], batch["act"])
            obs, rew, end = agent.world.labels(batch)
            copied.append((batch["tokens"][0, 1:] == batch["tokens"][0, :-1]).float().flatten())
            right = (out.obs[:, :-1].argmax(-1) == obs)[
                0
            ].float()  # [T K - 1] of token 1, 2, ..., K - 1, 0 ...
            K = agent.world.tokens
            hits["token"].append(right)
            hits["first_token"].append(right[K - 1 :: K])
            hits["last_token"].append(right[(K - 2) % K :: K])
            if agent.cfg.world.reward_head == "sign_ce":
                hits["rew"].append((out.rew.argmax(-1) == rew)[0].float())
            found = (out.end.argmax(-1) == end)[0].float()
            hits["end"].append(found)
            ends.append(found[(end == 1)[0]])
    mse = torch.cat(square).mean().clamp(min=1e-10)
    share = counts / counts.sum()
    entropy = -(share * share.clamp(min=1e-12).log()).sum()
    metrics = {
        "psnr": float(-10 * mse.log10()),
        "perplexity": float(entropy.exp()),
        "codes_in_use": float((counts > 0).sum()),
        "copy_accuracy": float(torch.cat(copied).mean()),
    }
    metrics |= {f"{name}_accuracy": float(torch.cat(rows).mean()) for name, rows in hits.items() if rows}
    found = torch.cat(ends)
    return metrics | ({"end_recall": float(found.mean())} if len(found) else {})


def ahead(agent: "IrisAgent", episodes: Sequence[Episode], horizon: int = 45) -> list[dict[str, float]]:
    """Mean squared error of open-loop dreams from one frame, one per episode, by the rows dreamed: [H] rows.

    Without the rows that end an episode: the model never learns what they look like.
    """
    cut = [without_end(episode) for episode in episodes]
    cut = [episode for episode in cut if len(episode) > 1]
    if not cut:
        return []
    window = make_window(cut, len(cut), 1, horizon)
    errors = open_loop(agent, window).errors
    return [
        {"ahead": h + 1, **{name: float(error[h]) for name, error in errors.items()}}
        for h in range(window.horizon)
    ]


def without_end(episode: Episode) -> Episode:
    """All rows but a terminal one."""
    rows = slice(len(episode) - int(episode.is_terminal[-1]))
    columns = (episode.act, episode.rew, episode.is_first, episode.is_last, episode.is_terminal)
    obs = {key: value[rows] for key, value in episode.obs.items()}
    return Episode(obs, *(column[rows] for column in columns))
