"""Step 2: train V on single frames (paper 1, appendix A.1)."""

import numpy as np
import torch

from common.checkpoint import RunState
from common.faults import NonFiniteGuard
from common.seeding import derive
from common.shards import Shards
from paper1_world_models.agent import WorldModelsAgent
from paper1_world_models.gates import judge, vae_failures
from paper1_world_models.pictures import draw_reconstruction
from paper1_world_models.run import Run
from paper1_world_models.vae import pixel_weight, reconstruction_error, to_float

LOG_EVERY = 50  # updates


def train_vae(run: Run, agent: WorldModelsAgent, shards: Shards) -> dict[str, float]:
    """Train, checkpoint, judge.  Returns the held-out errors; the weights are in `agent.vae`."""
    cfg, vae, device = run.cfg.vae, agent.vae, agent.device
    train_rows, test_rows = split_rows(shards)
    mean_image = to_float(frames_at(shards, spread(train_rows, 2000), "cpu")).mean(0).to(device)  # [H, W, C]
    test = frames_at(shards, spread(test_rows, 500), device)
    per_epoch = max(1, len(train_rows) // cfg.batch)
    updates = run.cfg.epochs * per_epoch or cfg.updates
    optim = torch.optim.Adam(vae.parameters(), lr=cfg.lr)
    generator = torch.Generator()
    state = RunState(run.state("vae", 0))
    guard = NonFiniteGuard(checkpoint=run.folder)
    start = 0
    if found := state.load():
        start, parts = found
        vae.load_state_dict(parts["model"])
        optim.load_state_dict(parts["optim"])
    run.stage("vae-00", updates, start)
    vae.train()
    epoch, order = -1, train_rows
    for step in range(start, updates):
        if step // per_epoch != epoch:
            epoch = step // per_epoch
            order = np.random.default_rng(derive(run.cfg.seed, "vae", epoch)).permutation(train_rows)
        at = step % per_epoch * cfg.batch
        with run.meter.timed("batch"):
            frames = frames_at(shards, order[at : at + cfg.batch], device)
        # Every step has a seed of its own, so a resumed run needs no random state to go on with the same
        # bits.
        generator.manual_seed(derive(run.cfg.seed, "vae noise", step))
        eps = torch.randn(len(frames), cfg.latents, generator=generator).to(device)
        for group in optim.param_groups:
            group["lr"] = cfg.lr * linear_end(step / updates, 0.75, cfg.lr_end)
        with run.meter.timed("update"):
            losses = vae.loss(frames, eps, pixel_weight(frames, mean_image, cfg))  # each [N]
            optim.zero_grad(set_to_none=True)
            sum(loss.mean() for loss in losses.values()).backward()
            norm = torch.nn.utils.get_total_norm([p.grad for p in vae.parameters()])
            if not guard.skip(losses, norm):
                optim.step()
        done = step + 1
        run.meter.add(updates=1, frames=len(frames))
        run.log.accumulate({**{name: loss.mean() for name, loss in losses.items()}, "grad_norm": norm})
        run.log.progress(done, updates=done)
        if done % LOG_EVERY == 0 or done == updates:
            run.log.scalars(done, run.costs())
        half_way = done == updates // 2 and cfg.half_gate > 0
        if done % run.cfg.checkpoint_every == 0 or done == updates or half_way or run.guard.stop_requested:
            error = reconstruction_error(vae, test, mean_image)
            run.log.scalars(done, {f"test_{k}": v for k, v in error.items()})
            if half_way:  # before the state is saved: who goes on with --gates stop comes here again
                whole = {name: error[name] for name in ("recon", "mean_image")}
                judge(run, f"V at update {done}", vae_failures(whole, cfg.half_gate))
            state.save(done, {"model": vae.state_dict(), "optim": optim.state_dict()})
            run.leave_if_asked()
    if run.is_busy:
        draw_reconstruction(run, updates, vae, test[:16])
    error = reconstruction_error(vae, test, mean_image)
    judge(run, "V", vae_failures(error, cfg.gate))
    return error


def linear_end(progress: float, begin: float, end: float) -> float:
    """1 until `begin`, then linearly down to `end` at progress 1."""
    return 1.0 if progress < begin else 1 - (1 - end) * (progress - begin) / (1 - begin)


def split_rows(shards: Shards, share: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of the training and of the held-out episodes (every 20th)."""
    parts: tuple[list, list] = ([], [])
    for i, (start, n) in enumerate(zip(shards.first, shards.episodes[:, 2], strict=True)):
        parts[i % round(1 / share) == 0].append(np.arange(start, start + n))
    if not parts[0]:
        parts = (parts[1], parts[1])  # a single episode: nothing can be held out
    return np.concatenate(parts[0]), np.concatenate(parts[1])


def spread(rows: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of the rows, evenly spread."""
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64)]


def frames_at(shards: Shards, rows: np.ndarray, device) -> torch.Tensor:
    """uint8 [N, H, W, C]"""
    return torch.from_numpy(shards.rows(rows, ["image"])["image"]).to(device)
