"""Paper 4: act, replay, and train world model, critic and actor together, with one set of numbers.

python train.py --preset tiny                                          toy_catch in minutes on one core
python train.py --preset tiny --env CartPole-v1
python train.py --env dmc_walker_walk --preset dmc_proprio
python train.py --env crafter_reward --preset paper --size 50M
python train.py --resume runs/toy_catch/...                            goes on where it was
"""

if not __package__:  # run as a script: the repository root, not this folder, goes on the path
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

from typing import TYPE_CHECKING

from common.online import OnlineRun, Paper, online_main, run_main
from paper4_dreamerv3.config import Config
from paper4_dreamerv3.counts import published
from paper4_dreamerv3.presets import PRESETS, PROFILES, SIZES, SUITES

if TYPE_CHECKING:
    from torch import Tensor

    from paper4_dreamerv3.agent import DreamerV3Agent
    from paper4_dreamerv3.rssm import State


def train(run: OnlineRun) -> bool:
    """The loop: one step in every environment, then as many updates as the train ratio wants.

    False: stopped by a signal.
    """
    from paper4_dreamerv3.sampler import sample

    learner = Learner(run.agent, run.bad)
    run.start(optimizer=learner.optimizer, slow=run.agent.slow, range=learner.range)
    while run.running:
        run.collect()
        for _ in run.updates_due():
            batch, ids = sample(run.replay, run.agent)
            with run.meter.timed("update"):
                metrics, post = learner.update(batch)
            # Rows remember what the newest model thinks of them.
            run.replay.update(ids, {name: part.cpu().numpy() for name, part in post.items()})
            run.updated(metrics)
        if not run.keep_up():
            return False
    return True


class Learner:
    """All losses of the paper in one sum, and the optimiser."""

    def __init__(self, agent: "DreamerV3Agent", guard=None):
        from common.cuda_graph import GraphedUpdate
        from common.device import autocast
        from paper4_dreamerv3.actor_critic import ReturnRange
        from paper4_dreamerv3.optim import LaProp

        self.agent, self.cfg, self.guard = agent, agent.cfg, guard
        cfg = self.cfg
        self.optimizer = LaProp(
            [p for part in agent.parts().values() for p in part.parameters()],
            lr=cfg.lr,
            warmup=cfg.lr_warmup,
            agc=cfg.agc,
            beta1=cfg.beta1,
            beta2=cfg.beta2,
            eps=cfg.opt_eps,
        )
        self.range = ReturnRange(cfg.behaviour.norm_rate).to(agent.device)
        self.autocast = autocast(agent.device, cfg.precision)
        self.run = self.step
        if cfg.compile and agent.device.type == "cuda":
            self.run = GraphedUpdate(self.step, self.tensors())
        elif cfg.compile:
            agent.model.rssm.compile_steps()

    def update(self, batch: dict[str, "Tensor"]) -> tuple[dict[str, "Tensor"], dict[str, "Tensor"]]:
        """One step on a batch [B, T, ...] -> metrics, posteriors as they are stored; both on the device."""
        metrics, losses, flags, post = self.run(batch)
        if self.guard is not None:
            self.guard.record(losses, flags)
        return metrics | {f"loss/{name}": loss for name, loss in losses.items()}, post

    def step(self, batch: dict[str, "Tensor"]) -> tuple[dict, dict, "Tensor", dict]:
        """What a CUDA graph captures: all work of an update on the device, without waiting for it.

        -> metrics, mean losses, which of them are finite, posteriors as they are stored
        """
        import torch

        losses, post, metrics = self.losses(batch)
        scales = self.scales()
        assert losses.keys() == scales.keys(), losses.keys() ^ scales.keys()
        losses["total"] = sum(scales[name] * loss.mean() for name, loss in losses.items())
        metrics["grad_norm"], flags = self.optimizer.step(losses["total"], losses)
        with torch.no_grad():
            slow, critic = (list(net.parameters()) for net in (self.agent.slow, self.agent.critic))
            torch._foreach_lerp_(slow, critic, self.cfg.behaviour.slow_rate)
        means = {name: loss.detach().mean() for name, loss in losses.items()}
        return metrics, means, flags, self.agent.compact(post)

    def tensors(self) -> list["Tensor"]:
        """All that a step changes, in place."""
        optim, slow = self.optimizer, self.agent.slow.parameters()
        return [*optim.parameters, *optim.mean, *optim.square, optim.count, *slow, *self.range.buffers()]

    def scales(self) -> dict[str, float]:
        """Weight of every loss."""
        ones = dict.fromkeys((*self.agent.spaces.obs, "rew", "cont", "policy", "value"), 1.0)
        return ones | self.agent.model.scales() | {"replay_value": self.cfg.behaviour.replay_scale}

    def losses(self, batch: dict[str, "Tensor"]) -> tuple[dict, "State", dict]:
        """Named losses, posteriors, metrics.  Of policy and value only replay_value reaches the model."""
        import torch

        from paper4_dreamerv3.actor_critic import (
            actor_loss,
            alive,
            critic_loss,
            imagine,
            lambda_return,
            replay_return,
        )

        cfg, agent, behave = self.cfg, self.agent, self.cfg.behaviour
        model, actor, critic = agent.model, agent.actor, agent.critic
        with self.autocast():
            losses, post, metrics = model.loss(batch)
        B, T = batch["is_first"].shape
        K = min(behave.imag_last or T, T)
        start = type(post)(*(part[:, -K:].detach().flatten(0, 1) for part in post))  # [N, ...]

        # What the model dreams of the policy.  No gradient: the policy is evaluated again on all features.
        with self.autocast(), torch.no_grad():
            dream = imagine(model, actor, start, behave.horizon)
            rew, cont = model.reward(dream.feat), model.going_on(dream.feat)  # [H + 1, N]
            slow = agent.slow(dream.feat).mean()
        if behave.root_cont == "true":
            root = (~batch["is_terminal"][:, -K:]).float().flatten()
            cont = torch.cat([(root * (cfg.gamma if cfg.model.contdisc else 1))[None], cont[1:]])
        with self.autocast():
            value, policy = critic(dream.feat), actor(dream.feat[:-1])
        val = value.mean().detach()  # [H + 1, N]
        disc, weight = alive(cont, cfg.gamma, cfg.model.contdisc)
        ret = lambda_return(rew, val, disc, behave.lam)  # [H, N]
        scale = self.range.update(ret) if behave.norm else ret.new_ones(())
        advantage = (ret - val[:-1]) / scale
        losses["policy"] = actor_loss(policy, dream.act, advantage, weight[:-1], cfg.actor.entropy)
        losses["value"] = critic_loss(value[:-1], ret, slow[:-1], weight[:-1], behave.slow_scale)

        # The critic on replayed rows, with real rewards.  This one shapes the representation, too.
        flags = {name: batch[name][:, -K:] for name in ("rew", "is_last", "is_terminal")}
        boot = ret[0].view(B, K)
        target = replay_return(**flags, boot=boot, gamma=cfg.gamma, lam=behave.lam)  # [B, K - 1]
        feat = post.feat[:, -K:][:, :-1]
        with self.autocast():
            value = critic(feat)
            with torch.no_grad():
                slow = agent.slow(feat).mean()
        going = (~flags["is_last"][:, :-1]).float()
        losses["replay_value"] = critic_loss(value, target, slow, going, behave.slow_scale)
        shapes = {"policy": ret.shape, "value": ret.shape, "replay_value": (B, K - 1)}
        assert all(loss.shape == shapes.get(name, (B, T)) for name, loss in losses.items())
        return (
            losses,
            post,
            metrics
            | {
                "imag/reward": rew.mean(),
                "imag/return": ret.mean(),
                "imag/value": val.mean(),
                "imag/advantage_std": advantage.std(),
                "return_range": scale,
                "policy_entropy": policy.entropy().detach().mean(),
            },
        )


def make_agent(cfg: Config, spec, spaces, device):
    """A fresh agent."""
    from paper4_dreamerv3.agent import DreamerV3Agent

    return DreamerV3Agent(cfg, spec, spaces, device)


def schedule(cfg: Config, policy_steps: int, prefill: int) -> int:
    """Updates that the train ratio wants by then; the first when prefill and one batch of rows are there."""
    rows = cfg.replay.batch * cfg.replay.length
    first = max(prefill, cfg.num_envs * (cfg.replay.length + 1), rows)
    return 0 if policy_steps < first else 1 + int((policy_steps - first) * cfg.train_ratio / rows)


PAPER = Paper(
    "paper4_dreamerv3",
    PRESETS,
    SUITES,
    "toy_catch",
    make_agent,
    train,
    published,
    disputed="conv.cnn actor.unimix behaviour.root_cont model.contdisc beta2 train_ratio".split(),
    variants={"profile": PROFILES, "size": SIZES},
    title="DreamerV3",
    schedule=schedule,
    multi=True,
)


def main(argv: list[str] | None = None) -> None:
    """The command line of the paper."""
    online_main(PAPER, argv, __doc__.split("\n")[0])


if __name__ == "__main__":
    run_main(main)
