"""Paper 5: play, then train tokenizer, transformer and policy in turn, epoch after epoch (algorithm 1).

python train.py --preset tiny                                          toy_catch in minutes on one core
python train.py --preset tiny --env toy_simple_world
python train.py --env atari_boxing --preset cpu                        hours on two cores
python train.py --env atari_breakout --preset paper                    Atari 100k as published, on a GPU
python train.py --resume runs/toy_catch/...                            goes on where it was
"""

if not __package__:  # run as a script: the repository root, not this folder, goes on the path
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

from dataclasses import replace
from typing import TYPE_CHECKING

from common.online import Paper, online_main, run_main
from paper5_iris.config import Config, LearnConfig, lr_in
from paper5_iris.epochs import EpochRun
from paper5_iris.presets import PRESETS, SUITES

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from paper5_iris.actor_critic import Memory
    from paper5_iris.agent import IrisAgent
    from paper5_iris.encoded import EncodedRows

# At the paper's sizes, from 64 x 64 RGB; world and actor grow with the actions.
TOKENIZER = 4_027_523


def train(run: EpochRun) -> bool:
    """Algorithm 1.  False: stopped by a signal."""
    from common.env_wrapper import suite_of
    from paper5_iris.encoded import EncodedRows

    agent = run.agent
    if suite_of(run.spec.name) == "atari" and run.total != PRESETS["paper"].steps:
        run.log.note(f"{run.total:,} frames: not the Atari-100k protocol, whose scores are of 400,000")
    learner = Learner(agent, run.bad, run.perceptual)
    encoded = EncodedRows(run.replay, agent.key, agent.tokenizer)
    run.on_save = encoded.forget
    run.start(**learner.optimizers)
    while run.running:
        run.memory = recall(run)
        run.play()
        for name in learner.optimizers:
            learner.turn(name, run.epoch + 1, run.epochs)
            for _ in run.due(name):
                if run.is_stopped:
                    break
                with run.meter.timed(name):
                    metrics = learner.update(name, encoded, run.done[name])
                if name == "tokenizer":
                    encoded.forget()
                run.updated(metrics, name)
        learner.rest()
        run.epoch += not run.is_stopped
        if not run.keep_up():
            return False
    return True


def recall(run: EpochRun) -> "Memory":
    """The LSTM's memory of the open episodes, by the newest tokenizer and policy (C)."""
    import torch

    agent, (ids, mask) = run.agent, run.recent()
    if not mask.any():
        return agent.initial(len(ids))
    views = agent.view(run.replay.gather(ids[mask], (agent.key,))[agent.key])
    real = torch.from_numpy(mask).to(agent.device)
    seen = views.new_zeros(*mask.shape, *views.shape[1:])
    seen[real] = views
    return agent.actor.burn_in(seen, real)


class Learner:
    """The three networks' losses and optimisers; no gradient passes from one network into another."""

    def __init__(self, agent: "IrisAgent", guard, perceptual=None):
        """perceptual: a loss of two pictures, or None."""
        import torch

        from common.cuda_graph import cuda_graph
        from common.device import autocast
        from common.optim import ClippedAdam

        self.agent, self.cfg, self.perceptual = agent, agent.cfg, perceptual
        self.learn, self.epoch, self.codes = agent.cfg.learners(), 0, []
        groups = {name: (list(part.parameters()), ()) for name, part in agent.parts().items()}
        groups["world"] = agent.world.decay_groups()
        self.optimizers = {
            name: ClippedAdam(
                name,
                groups[name][0],
                guard,
                lr=learn.lr,
                eps=1e-8,
                clip=learn.clip,
                decay=learn.decay,
                undecayed=groups[name][1],
            )
            for name, learn in self.learn.items()
        }
        self.autocast = autocast(agent.device, self.cfg.precision)
        self.tokenizer_loss, self.world_loss, capture = agent.tokenizer.loss, agent.world.loss, None
        if agent.device.type == "cuda" and self.cfg.precision != "fp32":
            torch.set_float32_matmul_precision("high")  # TF32 where autocast leaves float32
        if self.cfg.compile:
            self.tokenizer_loss, self.world_loss = map(torch.compile, (self.tokenizer_loss, self.world_loss))
            capture = cuda_graph if agent.device.type == "cuda" else None
        self.imagination = agent.imagination(capture=capture)
        self.passes = {"tokenizer": self.tokenizer_pass, "world": self.world_pass, "actor": self.actor_pass}

    def turn(self, name: str, epoch: int, epochs: int) -> None:
        """From now on this network learns; the others rest in eval mode."""
        self.epoch = epoch
        for other, part in self.agent.parts().items():
            part.train(other == name)
        self.optimizers[name].set_lr(lr_in(self.learn[name], epoch, epochs))

    def rest(self) -> None:
        """All networks in eval mode, to play."""
        for part in self.agent.parts().values():
            part.eval()

    def update(self, name: str, encoded: "EncodedRows", done: int) -> dict[str, "Tensor"]:
        """A network's gradient step number done + 1, on fresh batches -> metrics [], on the device."""
        learn, optimizer, found = self.learn[name], self.optimizers[name], []
        optimizer.clear()
        for _ in range(learn.accumulate):
            losses, scales, metrics = self.passes[name](encoded)
            assert losses.keys() == scales.keys(), losses.keys() ^ scales.keys()
            means = {key: loss.mean() for key, loss in losses.items()}
            total = sum(scales[key] * mean for key, mean in means.items())
            optimizer.accumulate(total / learn.accumulate)
            found.append({f"loss/{name}/{key}": mean.detach() for key, mean in means.items()} | metrics)
            found[-1][f"loss/{name}"] = total.detach()
        metrics = {key: sum(row[key] for row in found) / len(found) for key in found[0]}
        terms = {key: value for key, value in metrics.items() if key.startswith(f"loss/{name}/")}
        metrics |= optimizer.apply(metrics[f"loss/{name}"], terms)
        optimizer.clear()
        if name == "tokenizer":
            self.follow(done + 1)
        return metrics

    def tokenizer_pass(self, encoded: "EncodedRows") -> tuple[dict, dict, dict]:
        """Losses of single frames (appendix A.1), their weights, metrics."""
        from paper5_iris.sampler import frames

        tokenizer = self.agent.tokenizer
        image = frames(encoded.replay, self.learn["tokenizer"].batch, encoded.key)[0]
        with self.autocast():
            losses, codes, metrics = self.tokenizer_loss(self.agent.frames(image), self.perceptual)
        self.codes.append(codes)
        return losses, tokenizer.scales(self.perceptual is not None), metrics

    def world_pass(self, encoded: "EncodedRows") -> tuple[dict, dict, dict]:
        """Losses of sequences of tokens and actions (eq. 1 to 3)."""
        import torch

        from paper5_iris.sampler import segments

        rows = segments(encoded.replay, self.learn["world"].batch, self.cfg.world.steps, key="")
        ids = real(rows.pop("id"), rows["mask"])
        batch = {key: torch.from_numpy(value).to(self.agent.device) for key, value in rows.items()}
        batch["tokens"] = encoded.tokens_of(ids)
        with self.autocast():
            losses, metrics = self.world_loss(batch)
        return losses, dict.fromkeys(losses, 1.0), metrics

    def actor_pass(self, encoded: "EncodedRows") -> tuple[dict, dict, dict]:
        """Losses of what the policy does in dreams (section 2.3 and appendix A.3)."""
        import torch

        from paper5_iris.actor_critic import losses, scales
        from paper5_iris.imagination import imagine
        from paper5_iris.sampler import starts

        cfg, actor = self.cfg.actor, self.agent.actor
        rows = starts(encoded.replay, self.learn["actor"].batch, cfg.burn_in, key="")
        ids, mask = real(rows["id"], rows["mask"]), torch.from_numpy(rows["mask"]).to(self.agent.device)
        past = encoded.tokens_of if actor.trunk.sees_tokens else encoded.frames_of
        seen, tokens = past(ids[:, :-1]), encoded.tokens_of(ids[:, -1])
        with self.autocast():
            memory = actor.burn_in(seen, mask[:, :-1])
            dream = imagine(self.imagination, actor, tokens, memory, cfg.horizon)
        found, metrics = losses(cfg, dream)
        return found, scales(cfg), metrics

    def follow(self, done: int) -> None:
        """The codebook's bookkeeping after step number `done` of the tokenizer."""
        import torch

        from paper5_iris.tokenizer import Codes

        cfg = self.cfg.tokenizer
        codes = Codes(*(torch.cat(parts) for parts in zip(*self.codes, strict=True)))
        self.codes = []
        is_young = cfg.revive_until is None or self.epoch <= cfg.revive_until
        is_time = bool(cfg.revive_every) and done % cfg.revive_every == 0
        self.agent.tokenizer.quantizer.follow(codes, revive=is_young and is_time)


def real(ids: "np.ndarray", mask: "np.ndarray") -> "np.ndarray":
    """Padding has ids of rows that may not exist: those of a real row in their place.  [B, T] each"""
    import numpy as np

    return np.where(mask, ids, ids[np.arange(len(ids)), mask.argmax(1)][:, None])


def make_agent(cfg: Config, spec, spaces, device):
    """A fresh agent."""
    from paper5_iris.agent import IrisAgent

    return IrisAgent(cfg, spec, spaces, device)


def networks(cfg: Config) -> list:
    """The networks' settings, whatever their learning."""
    return [replace(part, learn=LearnConfig()) for part in (cfg.tokenizer, cfg.world, cfg.actor)]


def published(cfg: Config, spaces) -> dict[str, int] | None:
    """Parameter counts of the authors' networks, where ours are to be the same."""
    is_like = spaces.obs == {"image": (64, 64, 3)} and spaces.discrete
    if not is_like or networks(cfg) != networks(PRESETS["paper"]):
        return None
    A = spaces.act
    return {"tokenizer": TOKENIZER, "world": 8_446_469 + 256 * A, "actor": 3_215_905 + 513 * A}


PAPER = Paper(
    "paper5_iris",
    PRESETS,
    SUITES,
    "toy_catch",
    make_agent,
    train,
    published,
    title="IRIS",
    run=EpochRun,
    disputed=("world.reward_head", "tokenizer.lpips_dropout"),
)


def main(argv: list[str] | None = None) -> None:
    """The command line of the paper."""
    online_main(PAPER, argv, __doc__.split("\n")[0])


if __name__ == "__main__":
    run_main(main)
