"""Paper 3: play, learn a discrete world model, learn behaviour inside it, again and again (algorithm 1).

python train.py --preset tiny                                          toy_catch in minutes on one core
python train.py --preset tiny --env toy_point
python train.py --env atari_pong --steps 2000000 --preset paper        atari_head: the authors' last code
python train.py --resume runs/toy_catch/...                            goes on where it was
"""

if not __package__:  # run as a script: the repository root, not this folder, goes on the path
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

from typing import TYPE_CHECKING

from common.online import OnlineRun, Paper, online_main, run_main
from paper3_dreamerv2.config import Config
from paper3_dreamerv2.presets import PRESETS, SUITES

if TYPE_CHECKING:
    import torch

    from paper3_dreamerv2.agent import DreamerV2Agent

# Atari from 64 x 64 gray pictures with all 18 actions: "20M" and "22M" in the paper, to the unit in its code.
PUBLISHED = {"model": 19_975_379, "actor": 1_138_418, "critic": 1_131_601}


def train(run: OnlineRun) -> bool:
    """Algorithm 1: updates and experience in turns.  False: stopped by a signal."""
    from paper3_dreamerv2.utils import sample

    cfg, learner = run.cfg, Learner(run.agent, run.bad)
    run.start(**learner.optimizers, slow=run.agent.slow)
    while run.running:
        run.collect()
        for _ in run.updates_due():
            args = cfg.replay.batch, cfg.replay.length, cfg.replay.prioritize_ends
            batch = sample(run.replay, *args, run.spaces, run.device)
            with run.meter.timed("update"):
                metrics = learner.update(batch, run.collector.policy_steps)
            run.updated(metrics)
        if not run.keep_up():
            return False
    return True


class Learner:
    """The three losses of the paper and their optimisers."""

    def __init__(self, agent: "DreamerV2Agent", guard):
        from common.device import autocast
        from common.optim import ClippedAdam
        from paper3_dreamerv2.utils import decoupled

        self.agent, self.cfg = agent, agent.cfg
        cfg = self.cfg
        rates = {"model": cfg.model.lr, "actor": cfg.actor.lr, "critic": cfg.behaviour.critic_lr}
        self.optimizers = {
            name: ClippedAdam(
                name,
                part.parameters(),
                guard,
                lr=rates[name],
                eps=cfg.adam_eps,
                clip=cfg.clip,
                decay=decoupled(cfg.weight_decay, rates[name]),
            )
            for name, part in agent.parts().items()
        }
        self.autocast = autocast(agent.device, cfg.precision)
        # None: REINFORCE for discrete actions, the dynamics' gradient for continuous ones (section 2.2)
        self.rho = float(agent.spaces.discrete) if cfg.actor.rho is None else cfg.actor.rho
        if cfg.compile:
            agent.model.rssm.compile_steps()

    def update(self, batch: dict[str, "torch.Tensor"], policy_steps: int) -> dict[str, "torch.Tensor"]:
        """One gradient step of model, actor and critic on a batch [B, T, ...]; metrics stay on the device."""
        import torch

        from paper3_dreamerv2.actor_critic import actor_loss, critic_loss, imagine, lambda_target, weights
        from paper3_dreamerv2.utils import copy_into, linear

        cfg, agent = self.cfg, self.agent
        model, actor, critic = agent.model, agent.actor, agent.critic

        # Dynamics learning: the representation explains pictures and rewards, the prior predicts it (eq. 2).
        with self.autocast():
            losses, post, metrics = model.loss(batch)
            total = model.total(losses)
        metrics |= self.optimizers["model"].step(total, losses)
        metrics |= {f"loss/{name}": loss.detach().mean() for name, loss in losses.items()}
        if agent.updates < cfg.behaviour.warmup:
            return metrics

        # Behaviour learning: imagine from every posterior, with the model as it is now.
        rho = linear(cfg.actor.rho_start, self.rho, cfg.actor.schedule_steps, policy_steps)
        eta = linear(cfg.actor.entropy_start, cfg.actor.entropy, cfg.actor.schedule_steps, policy_steps)
        alive = (~batch["is_terminal"]).flatten().float()  # [N]
        with self.autocast(), torch.set_grad_enabled(rho < 1):
            dream = imagine(model, actor, post.flat(), cfg.behaviour.horizon, with_graph=rho < 1)
            rew, disc, slow = model.reward(dream.feat), model.discount(dream.feat), agent.slow(dream.feat)
        disc = torch.cat([(cfg.behaviour.discount * alive)[None], disc[1:]])  # of the start it is known
        target = lambda_target(rew, slow, disc, cfg.behaviour.lam)  # [H, N]  eq. 4
        weight = weights(disc)  # [H, N]
        feat = dream.feat.detach()
        with self.autocast():
            val = critic(feat[:-1])  # [H, N]
            policy = actor(feat[:-2])  # [H - 1, N]
        baseline = slow if cfg.actor.advantage == "head" else val
        actor_weight = weight * alive if cfg.actor.mask_terminal_start else weight
        # The gradient may pass through model and critic, which take no step for it: `inputs` are the actor's
        # alone.
        policy_loss = actor_loss(
            policy,
            dream.act,
            target,
            baseline.detach(),
            actor_weight,
            rho=rho,
            entropy=eta,
            advantage=cfg.actor.advantage,
        )  # eq. 6
        metrics |= self.optimizers["actor"].step(policy_loss, {"return": target})
        metrics |= self.optimizers["critic"].step(
            critic_loss(val, target, weight), {"return": target}
        )  # eq. 5
        since = agent.updates - cfg.behaviour.warmup
        if since % cfg.behaviour.slow_every == 0:  # after the critic's updates 1, 101, 201 ...
            copy_into(agent.slow, critic)
        return metrics | {
            "imag/reward": rew.detach().mean(),
            "imag/return": target.detach().mean(),
            "imag/value": val.detach().mean(),
            "imag/advantage_std": (target.detach() - val.detach()).std(),
            "policy_entropy": policy.entropy().detach().mean(),
        }


def make_agent(cfg: Config, spec, spaces, device):
    """A fresh agent; the discount head is there where the environment can terminate."""
    from common.env_wrapper import can_terminate
    from paper3_dreamerv2.agent import DreamerV2Agent

    can_end = can_terminate(spec.name, spec.options)
    return DreamerV2Agent(
        cfg, spec, spaces, {"on": True, "off": False, "auto": can_end}[cfg.model.cont], device
    )


def published(cfg: Config, spaces) -> dict[str, int] | None:
    """The authors' parameter counts, where ours are of the same kind."""
    return (
        PUBLISHED if spaces.obs == {"image": (64, 64, 1)} and spaces.act == 18 and spaces.discrete else None
    )


PAPER = Paper(
    "paper3_dreamerv2", PRESETS, SUITES, "toy_catch", make_agent, train, published, title="DreamerV2"
)


def main(argv: list[str] | None = None) -> None:
    """The command line of the paper."""
    online_main(PAPER, argv, __doc__.split("\n")[0])


if __name__ == "__main__":
    run_main(main)
