"""Step 3: train M on sequences of latents (paper 1, appendix A.2)."""

import math

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
    run.log.stage(f"rnn-{iteration:02d}", total=updates, start=start)
    rnn.train()
    for step in range(start, updates):
        seq = batches(step)
        generator.manual_seed(derive(seed, "noise", step))
        batch = make_batch(data, seq, generator, cfg.score_end_frame, device)
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
        run.log.accumulate({**means, "grad_norm": norm})
        run.log.progress(done, updates=done)
        if done % 50 == 0 or done == updates:
            run.log.scalars(done)
        if done % run.cfg.checkpoint_every == 0 or done == updates or run.guard.stop_requested:
            carry = [s.detach() for s in state]
            saved.save(done, {"model": rnn.state_dict(), "optim": optim.state_dict(), "carry": carry})
            run.leave_if_asked()
    scores = evaluate(rnn, data, test_eps, run)
    run.log.scalars(updates, {f"test_{k}": v for k, v in scores.items()})
    if cfg.train:
        judge(run, "M", rnn_failures(scores))
    return scores


@torch.inference_mode()
def evaluate(rnn: MDNRNN, data: Latents, episodes, run: Run, batches: int = 4) -> dict[str, float]:
    """Held-out NLL per dimension beside two baselines on the same steps, and the heads' losses beside theirs.

    nll_standard_normal: z_{t+1} ~ N(0, 1).  nll_copy_last: z_{t+1} ~ N(z_t, s_d^2) with the best s_d per
    dimension.
    """
    cfg, device = rnn.cfg, next(rnn.parameters()).device
    sampler = Windows(data, episodes, cfg.batch, cfg.length, derive(run.cfg.seed, "rnn test"))
    generator = torch.Generator().manual_seed(run.cfg.seed)
    sums: dict[str, list] = {}
    for i in range(batches):
        batch = make_batch(data, sampler(i), generator, cfg.score_end_frame, device)
        losses, masks, _ = losses_of(rnn, batch, rnn.initial(cfg.batch))
        z, following = batch.z[:, :-1][batch.score], batch.z[:, 1:][batch.score]  # [k, Z]
        values = {name: masked_mean(value, masks[name]) for name, value in losses.items()}
        spread = (following - z).square().mean(0)  # [Z]
        values["nll_copy_last"] = 0.5 * (2 * math.pi * math.e * spread).log().mean()
        values["nll_standard_normal"] = 0.5 * (following.square() + math.log(2 * math.pi)).mean()
        if "done" in losses:
            rate = batch.done[batch.valid].float().mean().clamp(1e-6, 1 - 1e-6)
            values["done_base_rate"] = -(rate * rate.log() + (1 - rate) * (1 - rate).log())
        for name, value in values.items():
            sums.setdefault(name, []).append(value.item())
    return {name: sum(values) / len(values) for name, values in sums.items()}


def keep_starts(run: Run, agent: WorldModelsAgent, data: Latents) -> None:
    """Store the posteriors of first frames, from which dreams begin (H: 1,000 of them)."""
    first = data.episodes[:, 0]
    pick = first[torch.linspace(0, len(first) - 1, min(run.cfg.dream.starts, len(first))).long().numpy()]
    mu, logvar = (torch.from_numpy(a[pick]).float().to(agent.device) for a in (data.mu, data.logvar))
    agent.starts = Starts(mu, logvar)
