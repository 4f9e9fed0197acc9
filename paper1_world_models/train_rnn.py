"""Step 3: train M on sequences of latents (paper 1, appendix A.2)."""

import math
from collections import defaultdict

import torch

from common.checkpoint import RunState
from common.faults import NonFiniteGuard
from common.seeding import derive
from paper1_world_models.agent import WorldModelsAgent
from paper1_world_models.config import RNNConfig
from paper1_world_models.dataset import Batch, Latents, Streams, Windows, make_batch
from paper1_world_models.dream import Starts
from paper1_world_models.gates import judge, rnn_failures
from paper1_world_models.rnn import MDNRNN, State, done_loss, mdn_nll
from paper1_world_models.run import Run
from paper1_world_models.train_vae import linear_end

LOG_EVERY = 50  # updates
WINDOWS, CHUNKS = 4, 8  # batches of a held-out score; chunks of a row of the held-out stream, where there are


def losses_of(
    rnn: MDNRNN, batch: Batch, state: State
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], State]:
    """Unreduced losses [B, T], the mask each is averaged over, and the last state."""
    hidden, state = rnn(batch.z[:, :-1], batch.act, batch.restart, state)  # [B, T, D]
    pred = rnn.predict(hidden)
    losses = {"nll": mdn_nll(pred, batch.z[:, 1:], rnn.cfg.shared_pi)}
    masks = {"nll": batch.score}
    if pred.done is not None:
        losses["done"] = done_loss(pred.done, batch.done, rnn.cfg.done_weight)
        masks["done"] = batch.valid
    if pred.rew is not None:
        losses["rew"] = (pred.rew - batch.rew).square()
        masks["rew"] = batch.valid
    return losses, masks, state


def masked_mean(value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over the steps that count; 0 where none does."""
    return (value * mask).sum() / mask.sum().clamp_min(1)


def learning_rate(cfg: RNNConfig, step: int, updates: int) -> float:
    """(lr - lr_min) decay^t + lr_min (H); the small presets bring it down over the last 40 % as well."""
    decayed = (cfg.lr - cfg.lr_min) * cfg.lr_decay**step + cfg.lr_min
    return decayed * linear_end(step / updates, 0.6, cfg.lr_end)


def train_rnn(run: Run, agent: WorldModelsAgent, data: Latents, iteration: int) -> dict[str, float]:
    """Train, checkpoint, judge.  Returns held-out scores; the weights are in `agent.rnn`."""
    cfg, rnn, device = run.cfg.rnn, agent.rnn, agent.device
    keep_starts(run, agent, data)
    train_eps, test_eps = data.split()
    sampler = Streams if cfg.carry else Windows
    seed = derive(run.cfg.seed, "rnn", iteration)
    batches = sampler(data, train_eps, cfg.batch, cfg.length, seed)
    updates = 0 if not cfg.train else cfg.updates if iteration == 0 else cfg.again_updates
    params = [p for p in rnn.parameters() if p.requires_grad]
    optim = torch.optim.Adam(params, lr=cfg.lr)
    generator = torch.Generator()
    saved = RunState(run.state("rnn", iteration))
    guard = NonFiniteGuard(checkpoint=run.folder)
    start, state = 0, rnn.initial(cfg.batch)
    if found := saved.load():
        start, parts = found
        rnn.load_state_dict(parts["model"])
        optim.load_state_dict(parts["optim"])
        state = tuple(s.to(device) for s in parts["carry"])
    run.stage(f"rnn-{iteration:02d}", updates, start)
    rnn.train()
    for step in range(start, updates):
        generator.manual_seed(derive(seed, "noise", step))
        with run.meter.timed("batch"):
            seq = batches(step)
            batch = make_batch(data, seq, generator, cfg.score_end_frame, device)
        with run.meter.timed("update"):
            state = rnn.initial(cfg.batch) if seq.new_stream else tuple(s.detach() for s in state)
            losses, masks, state = losses_of(rnn, batch, state)
            means = {name: masked_mean(value, masks[name]) for name, value in losses.items()}
            optim.zero_grad(set_to_none=True)
            sum(means.values()).backward()
            norm = torch.nn.utils.get_total_norm([p.grad for p in params])
            torch.nn.utils.clip_grad_value_(params, cfg.clip)  # by element, as the authors do
            for group in optim.param_groups:
                group["lr"] = learning_rate(cfg, step, updates)
            if not guard.skip(means, norm):
                optim.step()
            else:
                state = rnn.initial(cfg.batch)  # the carried state may be infected
        done = step + 1
        run.meter.add(updates=1, frames=seq.valid.size)
        run.log.accumulate({**means, "grad_norm": norm})
        run.log.progress(done, updates=done)
        if done % LOG_EVERY == 0 or done == updates:
            run.log.scalars(done, run.costs())
        if done % run.cfg.checkpoint_every == 0 or done == updates or run.guard.stop_requested:
            log_scores(run, done, evaluate(rnn, data, test_eps, run.cfg.seed))
            carry = [s.detach() for s in state]
            saved.save(done, {"model": rnn.state_dict(), "optim": optim.state_dict(), "carry": carry})
            run.leave_if_asked()
    scores = evaluate(rnn, data, test_eps, run.cfg.seed)
    if cfg.train:
        judge(run, "M", rnn_failures(scores))
    else:
        log_scores(run, updates, scores)
    return scores


def log_scores(run: Run, step: int, scores: dict[str, float]) -> None:
    """A row of what `evaluate` found."""
    run.log.scalars(step, {f"test_{name}": value for name, value in scores.items()})


@torch.inference_mode()
def evaluate(rnn: MDNRNN, data: Latents, episodes, seed: int) -> dict[str, float]:
    """Held-out NLL per dimension beside two baselines on the same steps, and the heads' losses beside theirs.

    The held-out episodes are read as the training reads its own: as a stream whose state is carried, or in
    windows.  nll_standard_normal: z_{t+1} ~ N(0, 1).  nll_copy_last: z_{t+1} ~ N(z_t, s_d^2) with the best
    s_d per dimension.
    """
    device = next(rnn.parameters()).device
    sampler, batches = held_out_sampler(rnn.cfg, data, episodes, derive(seed, "rnn test"))
    generator = torch.Generator().manual_seed(seed)
    sums, counts, state = defaultdict(float), defaultdict(int), rnn.initial(sampler.batch)
    for i in range(batches):
        seq = sampler(i)
        batch = make_batch(data, seq, generator, rnn.cfg.score_end_frame, device)
        state = rnn.initial(sampler.batch) if seq.new_stream else state
        losses, masks, state = losses_of(rnn, batch, state)
        z, following = batch.z[:, :-1][batch.score], batch.z[:, 1:][batch.score]  # [k, Z]
        for name, value in losses.items():
            sums[name] += (value * masks[name]).sum()
            counts[name] += masks[name].sum()
        sums["moved"] += (following - z).square().sum(0)  # [Z]
        sums["square"] += following.square().mean(-1).sum()
        sums["ends"] += (batch.done & batch.valid).sum()
        counts["valid"] += batch.valid.sum()
    scores = {name: sums[name] / counts[name].clamp_min(1) for name in losses}
    scored, two_pi = counts["nll"].clamp_min(1), 2 * math.pi
    scores["nll_copy_last"] = 0.5 * (two_pi * math.e * sums["moved"] / scored).log().mean()
    scores["nll_standard_normal"] = 0.5 * (sums["square"] / scored + math.log(two_pi))
    if "done" in losses:
        rate = (sums["ends"] / counts["valid"].clamp_min(1)).clamp(1e-6, 1 - 1e-6)
        scores["done_base_rate"] = -(rate * rate.log() + (1 - rate) * (1 - rate).log())
    return {name: float(value) for name, value in scores.items()}


def held_out_sampler(cfg: RNNConfig, data: Latents, episodes, seed: int) -> tuple[Streams | Windows, int]:
    """What to read held-out episodes with, and how many batches: of a stream the first pass, in few rows, so
    that most chunks go on from a state."""
    if not cfg.carry:
        return Windows(data, episodes, cfg.batch, cfg.length, seed), WINDOWS
    steps = int(data.episodes[episodes, 1].sum()) - 1
    rows = max(1, min(cfg.batch, steps // (CHUNKS * cfg.length)))
    stream = Streams(data, episodes, rows, cfg.length, seed)
    return stream, min(stream.per_pass, 2 * CHUNKS)


def keep_starts(run: Run, agent: WorldModelsAgent, data: Latents) -> None:
    """Store the posteriors of first frames, from which dreams begin (H: 1,000 of them)."""
    first = data.episodes[:, 0]
    pick = first[torch.linspace(0, len(first) - 1, min(run.cfg.dream.starts, len(first))).long().numpy()]
    mu, logvar = (torch.from_numpy(a[pick]).float().to(agent.device) for a in (data.mu, data.logvar))
    agent.starts = Starts(mu, logvar)
