"""The three stages: autoencoder (with its gate), dynamics on the frozen codes, agent in dreams.

Each `fit_*` draws from torch's generator, seeded for the stage, so that a stage alone equals the stage within
`train`.  Curves are rows of plain numbers; CPU seconds are of the training alone, without evaluations.
Shapes: N games, T + 1 rows, B of a batch, K latents.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import UserError
from common.seeding import derive, seed_everything
from foundations.tssm.agent import Agent, Objective
from foundations.tssm.autoencoder import Autoencoder, is_exact
from foundations.tssm.config import AgentConfig, Config
from foundations.tssm.data import Replay
from foundations.tssm.dynamics import Dynamics

POINTS = 50  # rows of a loss curve
CHUNK = 2048  # frames that are encoded at once


class Windows(NamedTuple):
    """A replay whose frames are codes, on the device."""

    codes: Tensor  # int64 [N, T + 1, K]
    act: Tensor  # [N, T + 1, A]
    rew: Tensor  # [N, T + 1]
    done: Tensor  # bool [N, T + 1]

    def sample(self, batch: int, rows: int) -> "Windows":
        """Windows of `rows` rows: [B, rows, ...]"""
        game = torch.randint(len(self.rew), (batch, 1), device=self.rew.device)
        first = torch.randint(self.rew.shape[1] - rows + 1, (batch, 1), device=self.rew.device)
        row = first + torch.arange(rows, device=self.rew.device)  # [B, rows]
        return Windows(*(column[game, row] for column in self))


def frames_to_tensor(frames: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    """uint8 [B, H, W, 3] -> float [B, 3, H, W] in 0..1"""
    return torch.from_numpy(frames).to(device).permute(0, 3, 1, 2).float() / 255


def fit_autoencoder(
    config: Config, train: Replay, held_out: Replay, seed: int, device
) -> tuple[Autoencoder, dict]:
    """Attempts until the share of exact held-out frames reaches the gate.  UserError when none does."""
    cfg, tried = config.code, []
    for attempt in range(cfg.attempts):
        seed_everything(derive(seed, "autoencoder", attempt))
        model, curve = _fit_autoencoder_once(config, train, device)
        tried.append(round(exact_frames(model, held_out), 4))
        if tried[-1] >= cfg.gate:
            return model, {"exact_frames": tried[-1], "attempts": tried, "curve": curve}
    raise UserError(
        f"no autoencoder of {cfg.attempts} attempts passed the gate of {cfg.gate:.2f} exact frames (best "
        f"{max(tried):.2f}): try --seed {seed + 1}, or train longer than {cfg.steps} steps"
    )


def _fit_autoencoder_once(config: Config, train: Replay, device) -> tuple[Autoencoder, list[dict]]:
    cfg = config.code
    model = Autoencoder(cfg).to(device)
    optim = torch.optim.Adam(model.parameters(), cfg.lr)
    frames = train.obs.reshape(-1, *train.obs.shape[2:])  # [N * (T + 1), H, W, 3]
    some = frames[:: max(1, len(frames) // 5000)]
    mean_frame = frames_to_tensor(some, device).mean(0)  # [3, H, W]
    curve = []
    for step in range(cfg.steps):
        share = step / cfg.steps
        _set_lr(optim, cfg.lr + share * (cfg.lr_end - cfg.lr))
        index = torch.randint(len(frames), (cfg.batch,)).numpy()
        hard_share = min(1.0, share / max(cfg.soft_share, 1e-9))
        losses = model.loss(frames_to_tensor(frames[index], device), mean_frame, hard_share)
        _descend(optim, model, losses, cfg.clip)
        _note(curve, step, cfg.steps, losses)
    return model.eval(), curve


@torch.no_grad()
def exact_frames(model: Autoencoder, replay: Replay) -> float:
    """Share of the frames that come back exactly, of the first 13,000 or fewer."""
    frames = replay.obs.reshape(-1, *replay.obs.shape[2:])[:13_000]
    device = next(model.parameters()).device
    good = 0.0
    for start in range(0, len(frames), CHUNK):
        obs = frames_to_tensor(frames[start : start + CHUNK], device)
        good += float(is_exact(model.reconstruct(obs), obs).sum())
    return good / len(frames)


@torch.no_grad()
def encode_replay(model: Autoencoder, replay: Replay) -> Windows:
    """Every frame as its likeliest classes."""
    device = next(model.parameters()).device
    frames = replay.obs.reshape(-1, *replay.obs.shape[2:])
    codes = torch.cat(
        [model.encode(frames_to_tensor(frames[i : i + CHUNK], device)) for i in range(0, len(frames), CHUNK)]
    )
    rest = (torch.from_numpy(column).to(device) for column in replay[1:])
    return Windows(codes.view(*replay.rew.shape, -1), *rest)


def fit_dynamics(
    config: Config, act_size: int, train: Windows, held_out: Windows, seed: int
) -> tuple[Dynamics, dict]:
    """The transformer on windows of `context` steps."""
    cfg, rows = config.dynamics, min(config.dynamics.context + 1, train.rew.shape[1])
    seed_everything(derive(seed, "dynamics"))
    model = Dynamics(cfg, config.code.latents, config.code.classes, act_size).to(train.rew.device)
    optim = torch.optim.AdamW(model.parameters(), cfg.lr, betas=(0.9, cfg.beta2), weight_decay=cfg.decay)
    curve = []
    for step in range(cfg.steps):
        warm = min(1.0, (step + 1) / cfg.warmup)
        _set_lr(optim, cfg.lr * warm * (1 - step / cfg.steps))
        losses = model.loss(*train.sample(cfg.batch, rows))
        _descend(optim, model, losses, cfg.clip)
        _note(curve, step, cfg.steps, losses)
    return model.eval(), {**dynamics_quality(model, held_out), "curve": curve}


@torch.no_grad()
def dynamics_quality(model: Dynamics, windows: Windows, count: int = 4096) -> dict[str, float]:
    """One step ahead from single held-out rows: frames and classes right, mean |reward error|."""
    with torch.random.fork_rng():  # the same rows at every call, and training draws as if there were none
        torch.manual_seed(0)
        codes, act, rew, _ = windows.sample(count, 2)
    right, error = [], []
    for part in range(0, count, 512):
        rows = slice(part, part + 512)
        stoch = nn.functional.one_hot(codes[rows, :1], model.classes).float()
        pred = model(stoch, act[rows, :1], rew[rows, :1])
        right.append(pred.logits[:, 0].argmax(-1) == codes[rows, 1])  # [B, K]
        error.append((pred.rew[:, 0] - rew[rows, 1]).abs())
    is_right = torch.cat(right)
    return {
        "frames_right": float(is_right.all(-1).float().mean()),
        "classes_right": float(is_right.float().mean()),
        "rew_error": float(torch.cat(error).mean()),
    }


def fit_agent(
    config: Config,
    model: Dynamics,
    windows: Windows,
    objective: Objective,
    seed: int,
    evaluate: Callable[[Agent], dict[str, float]],
) -> tuple[Agent, dict]:
    """Actor and critic in dreams that begin at any row; evaluated every `eval_every` updates."""
    cfg = config.agent
    seed_everything(derive(seed, "agent", objective))
    agent = Agent(cfg, config.code.latents, config.code.classes, windows.act.shape[-1]).to(windows.rew.device)
    actor_optim = torch.optim.Adam(agent.actor.parameters(), cfg.actor_lr)
    critic_optim = torch.optim.Adam(agent.critic.parameters(), cfg.critic_lr)
    curve, evals, cpu = [], [], 0.0
    for step in range(cfg.updates):
        started = time.process_time()
        codes, _, rew, _ = windows.sample(cfg.batch, 1)
        stoch = nn.functional.one_hot(codes[:, 0], model.classes).float()  # [B, K, C]
        weight = entropy_weight(cfg, objective, step)
        losses = agent.losses(model, stoch, rew[:, 0], objective, weight)
        norm = _descend(actor_optim, agent.actor, {"actor": losses["actor"]}, cfg.clip)
        _descend(critic_optim, agent.critic, {"critic": losses["critic"]}, cfg.clip)
        agent.update_slow()
        _note(curve, step, cfg.updates, losses, grad_norm=norm, entropy_weight=weight)
        cpu += time.process_time() - started
        if (step + 1) % cfg.eval_every == 0 or step + 1 == cfg.updates:
            evals.append({"update": step + 1, "train_cpu_s": round(cpu, 2), **evaluate(agent)})
    return agent.eval(), {"train_cpu_s": round(cpu, 2), "evaluations": evals, "curve": curve}


def entropy_weight(cfg: AgentConfig, objective: Objective, step: int) -> float:
    """REINFORCE has its own; else in a line from `entropy` to `entropy_end` over `entropy_share`."""
    if objective == "reinforce":
        return cfg.reinforce_entropy
    done = min(1.0, step / max(1.0, cfg.entropy_share * cfg.updates))
    return cfg.entropy + (cfg.entropy_end - cfg.entropy) * done


def _descend(optim: torch.optim.Optimizer, net: nn.Module, losses: dict[str, Tensor], clip: float) -> Tensor:
    """A step of these parameters alone, whatever else the losses pass through.  Returns the gradient norm."""
    parameters = list(net.parameters())
    optim.zero_grad(set_to_none=True)
    sum(loss.mean() for loss in losses.values()).backward(inputs=parameters)
    norm = nn.utils.clip_grad_norm_(parameters, clip)
    optim.step()
    return norm


def _set_lr(optim: torch.optim.Optimizer, lr: float) -> None:
    for group in optim.param_groups:
        group["lr"] = lr


def _note(curve: list[dict], step: int, steps: int, losses: dict[str, Tensor], **more) -> None:
    """Add a row to the curve, POINTS times in all; only then numbers leave the device."""
    if step % max(1, steps // POINTS) == 0 or step + 1 == steps:
        values = {**{name: loss.detach().mean() for name, loss in losses.items()}, **more}
        curve.append({"step": step + 1, **{name: float(f"{float(x):.4g}") for name, x in values.items()}})
