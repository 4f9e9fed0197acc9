"""Paper 2: play, learn the world model, learn behaviour inside it, again and again (algorithm 1).

python train.py --preset tiny                                          toy_point in minutes on one core
python train.py --preset tiny --env toy_point --env-options.actions discrete
python train.py --env dmc_walker_walk --steps 1000000 --preset paper
python train.py --resume runs/toy_point/...                            goes on where it was
"""

if not __package__:  # run as a script: the repository root, not this folder, goes on the path
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

from typing import TYPE_CHECKING

from common.online import OnlineRun, Paper, online_main, run_main
from paper2_dreamerv1.config import Config
from paper2_dreamerv1.presets import PRESETS, SUITES

if TYPE_CHECKING:
    import torch

    from paper2_dreamerv1.agent import DreamerV1Agent

# Walker, 6 actions, from pixels: the numbers that the authors' code logs (danijar/dreamer, issue 58).
PUBLISHED = {"model": 5_296_820, "actor": 578_412, "value": 413_601}


def train(run: OnlineRun) -> bool:
    """Algorithm 1: a burst of updates, then more experience.  False: stopped by a signal."""
    from paper2_dreamerv1.buffer import sample

    cfg, learner = run.cfg, Learner(run.agent, run.bad)
    run.start(**learner.optimizers)
    while run.running:
        run.collect()
        for _ in run.updates_due():
            args = cfg.replay.batch, cfg.replay.length, cfg.replay.sampling
            batch = sample(run.replay, *args, run.spaces, run.device)
            with run.meter.timed("update"):
                metrics = learner.update(batch)
            run.updated(metrics)
        if not run.keep_up():
            return False
    return True


class Learner:
    """The three losses of the paper and their optimisers."""

    def __init__(self, agent: "DreamerV1Agent", guard):
        from common.device import autocast
        from common.optim import ClippedAdam

        self.agent, self.cfg = agent, agent.cfg
        rates = {"model": self.cfg.model.lr, "actor": self.cfg.actor.lr, "value": self.cfg.behaviour.value_lr}
        self.optimizers = {
            name: ClippedAdam(
                name, part.parameters(), guard, lr=rates[name], eps=self.cfg.adam_eps, clip=self.cfg.clip
            )
            for name, part in agent.parts().items()
        }
        self.autocast = autocast(agent.device, self.cfg.precision)
        if self.cfg.compile:
            agent.model.rssm.compile_steps()

    def update(self, batch: dict[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
        """One gradient step of model, actor and value on a batch [B, T, ...]; metrics stay on the device."""
        from paper2_dreamerv1.actor_critic import actor_loss, imagine, lambda_return, value_loss, weights

        cfg, model, actor, value = self.cfg, self.agent.model, self.agent.actor, self.agent.value

        # Dynamics learning: the representation explains pictures and rewards, the prior predicts it (eq. 10).
        with self.autocast():
            losses, post, metrics = model.loss(batch)
            total = model.total(losses)
        metrics |= self.optimizers["model"].step(total, losses)
        metrics |= {f"loss/{name}": loss.detach().mean() for name, loss in losses.items()}
        if self.agent.updates < cfg.behaviour.warmup:
            return metrics

        # Behaviour learning: imagine from every posterior, with the model as it is now.
        with self.autocast():
            feat = imagine(model, actor, post.flat(), cfg.behaviour.horizon)  # [H, N, F]
            rew, disc, val = model.reward(feat), model.discount(feat), value(feat)  # [H, N]
        ret = lambda_return(rew, val, disc, cfg.behaviour.lam)  # [H - 1, N]  eq. 6
        weight = weights(disc) * (~batch["is_terminal"]).flatten()  # [H - 1, N]  nothing follows an end
        # The gradient passes through model and value, which take no step for it: `inputs` are the actor's
        # alone.
        policy_loss = actor_loss(ret, weight)  # eq. 7
        metrics |= self.optimizers["actor"].step(policy_loss, {"return": ret})

        with self.autocast():
            critic_loss = value_loss(value(feat[:-1].detach()), ret, weight)  # eq. 8
        metrics |= self.optimizers["value"].step(critic_loss, {"return": ret})
        with self.autocast():
            entropy = actor(feat[0].detach()).entropy().mean()
        return metrics | {
            "imag/reward": rew.detach().mean(),
            "imag/return": ret.detach().mean(),
            "imag/value": val.detach().mean(),
            "policy_entropy": entropy.detach(),
        }


def make_agent(cfg: Config, spec, spaces, device):
    """A fresh agent; the discount head is there where the environment can terminate."""
    from common.env_wrapper import can_terminate
    from paper2_dreamerv1.agent import DreamerV1Agent

    can_end = can_terminate(spec.name, spec.options)
    return DreamerV1Agent(
        cfg, spec, spaces, {"on": True, "off": False, "auto": can_end}[cfg.model.cont], device
    )


def published(cfg: Config, spaces) -> dict[str, int] | None:
    """The authors' parameter counts, where ours are of the same kind."""
    walker = spaces.obs == {"image": (64, 64, 3)} and spaces.act == 6 and not spaces.discrete
    return PUBLISHED if walker and cfg.model.cont != "on" else None


PAPER = Paper(
    "paper2_dreamerv1", PRESETS, SUITES, "toy_point", make_agent, train, published, title="DreamerV1"
)


def main(argv: list[str] | None = None) -> None:
    """The command line of the paper."""
    online_main(PAPER, argv, __doc__.split("\n")[0])


if __name__ == "__main__":
    run_main(main)
