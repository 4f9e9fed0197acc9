"""The trained agent of paper 3 behind the common Agent protocol: it filters what it sees, acts, and dreams.

Letters: N games, B dreams, C context rows, H dreamed rows, A action.
"""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from common.agent import Dream
from common.checkpoint import find_checkpoint, fitting, load_file, save_file
from common.config import from_json, to_json
from common.dreams import Episode
from common.env_wrapper import EnvSpec
from common.metrics import categorical_usage, explained_variance
from common.spaces import Spaces
from paper3_dreamerv2.actor_critic import Actor, Critic
from paper3_dreamerv2.config import Config
from paper3_dreamerv2.networks import to_pixels
from paper3_dreamerv2.rssm import State
from paper3_dreamerv2.world_model import WorldModel

PAPER = "paper3_dreamerv2"


class Memory(NamedTuple):
    """What the agent remembers of N games."""

    state: State  # [N, ...]
    act: Tensor  # [N, A] the action before, as networks take it


class DreamerV2Agent:
    """World model, actor, critic and its slow copy."""

    paper = PAPER

    def __init__(
        self,
        cfg: Config,
        env: EnvSpec,
        spaces: Spaces,
        predict_cont: bool,
        device: torch.device | str = "cpu",
    ):
        self.cfg, self.env, self.spaces, self.device = cfg, env, spaces, torch.device(device)
        self.model = WorldModel(cfg, spaces, predict_cont).to(self.device)
        feature = self.model.rssm.feature
        self.actor = Actor(cfg.actor, feature, spaces.act, spaces.discrete).to(self.device)
        self.critic = Critic(cfg, feature).to(self.device)
        self.slow = deepcopy(self.critic).requires_grad_(False)  # for targets only; no optimiser touches it
        self.updates = 0  # gradient steps so far

    def parts(self) -> dict[str, torch.nn.Module]:
        """The three networks that have an optimiser each."""
        return {"model": self.model, "actor": self.actor, "critic": self.critic}

    def check_env(self, observation_space: gym.Space, action_space: gym.Space) -> None:
        """UserError unless the agent can play an env with these spaces."""
        like = type("Like", (), {"observation_space": observation_space, "action_space": action_space})
        self.spaces.check_same(Spaces.of(like), self.env.name, "this env")

    # --- acting

    def initial(self, batch: int) -> Memory:
        """Zeros, before the first observation."""
        state = self.model.rssm.initial(batch)
        return Memory(state, state.deter.new_zeros(batch, self.spaces.act))

    @torch.no_grad()
    def act(self, obs: dict, state: Memory, *, explore: bool = False) -> tuple[np.ndarray, Memory]:
        """obs [N, ...] with is_first [N] -> environment actions [N, ...], memory.

        explore: a draw, as training collects (there is no other noise); else the mode.
        """
        rows = self.tensors({key: np.asarray(value)[:, None] for key, value in obs.items()})  # [N, 1, ...]
        is_first = rows["is_first"]
        prev_act = state.act[:, None] * (~is_first)[..., None]  # [N, 1, A]
        post, _ = self.model.rssm.observe(self.model.encoder(rows), prev_act, is_first, state.state)
        post = State(*(part[:, 0] for part in post))
        dist = self.actor(post.feat)
        act = dist.rsample() if explore else dist.mode()  # [N, A]
        return self.spaces.decode(act), Memory(post, act)

    def tensors(self, rows: dict[str, np.ndarray]) -> dict[str, Tensor]:
        """The observations and is_first on the device."""
        names = [*self.spaces.obs, "is_first"]
        return {name: torch.from_numpy(np.ascontiguousarray(rows[name])).to(self.device) for name in names}

    # --- dreaming

    @torch.no_grad()
    def dream(
        self,
        context: dict[str, np.ndarray],
        horizon: int,
        *,
        actions: np.ndarray | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Dream:
        """Watch C rows, then imagine H rows, with given actions or the actor's own (common/agent.py)."""
        given = self.spaces.encode(torch.from_numpy(np.array(context["act"])).to(self.device))  # [B, C, A]
        C = given.shape[1]
        post, _ = self.watch(context, generator)
        states, acts = [post], list(given.unbind(1))
        if horizon and actions is not None:
            planned = self.spaces.encode(torch.from_numpy(np.array(actions)).to(self.device))  # [B, H, A]
        state = State(*(part[:, -1] for part in post))
        for i in range(horizon):
            state = self.model.rssm.imagine(state, acts[-1], generator, temperature)
            act = self.actor(state.feat).rsample(generator) if actions is None else planned[:, i]
            states.append(State(*(part[:, None] for part in state)))
            acts.append(act)
        feat = State(*(torch.cat(parts, 1) for parts in zip(*states, strict=True))).feat  # [B, C + H, F]
        act = self.spaces.decode(torch.stack(acts, 1))
        return Dream(self.decode(feat), act, C, *self.heads(feat)).check()

    @torch.no_grad()
    def watch(self, rows: dict, generator: torch.Generator | None = None) -> tuple[State, State]:
        """Posteriors, and priors beside them, of real rows: obs, act, is_first [B, T, ...] -> [B, T, ...]"""
        seen = self.tensors(rows)
        act = self.spaces.encode(torch.from_numpy(np.array(rows["act"])).to(self.device))  # [B, T, A]
        before = torch.cat([torch.zeros_like(act[:, :1]), act[:, :-1]], 1)  # what led to each row
        before = before * (~seen["is_first"])[..., None]
        embed = self.model.encoder(seen)
        return self.model.rssm.observe(embed, before, seen["is_first"], generator=generator)

    def decode(self, feat: Tensor) -> dict[str, np.ndarray]:
        """Features as observations.  [B, T, F] -> {key: [B, T, ...]}"""
        means = self.model.decoder(feat)
        return {
            key: (to_pixels(mean) if key.startswith("image") else mean.float()).cpu().numpy()
            for key, mean in means.items()
        }

    def heads(self, feat: Tensor) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        """Reward, probability of going on (the discount divided out) and value.  [B, T, F] -> [B, T] each"""
        cont = None
        if self.model.cont is not None:
            cont = (self.model.discount(feat) / self.cfg.behaviour.discount).clamp(max=1).cpu().numpy()
        return self.model.reward(feat).cpu().numpy(), cont, self.critic(feat).cpu().numpy()

    @torch.no_grad()
    def diagnose(self, episode: Episode) -> dict[str, float]:
        """How well the value knew the discounted rewards that came, and how much of the latents is in use."""
        rows = {**episode.obs, "act": episode.act, "is_first": episode.is_first}
        post, _ = self.watch({name: np.asarray(value)[None] for name, value in rows.items()})
        val = self.critic(post.feat)[0].cpu().numpy()
        rew, returns, ret = self.model.transform(torch.from_numpy(episode.rew)).numpy(), [], 0.0
        for reward in rew[::-1]:  # the value of a row includes the reward of entering it
            ret = float(reward) + self.cfg.behaviour.discount * ret
            returns.append(ret)
        returns = returns[::-1]
        metrics = {"value_accuracy": explained_variance(val, returns)}
        if self.cfg.rssm.latent == "categorical":
            probs = self.model.rssm.latent.logits(post.stats[0]).softmax(-1).cpu().numpy()
            metrics |= {f"latents_{name}": value for name, value in categorical_usage(probs).items()}
        return metrics

    # --- files

    def save(self, path: str | Path) -> None:
        """Write model.pt: all that eval.py and visualize.py need."""
        tree = {
            "paper": PAPER,
            "config": to_json(replace(self.cfg, logdir=None)),
            "env": {"name": self.env.name, "options": self.env.options},
            "weights": {name: part.state_dict() for name, part in self.parts().items()},
            "extra": {
                "spaces": self.spaces.to_tree(),
                "predict_cont": self.model.cont is not None,
                "updates": self.updates,
            },
        }
        save_file(path, tree)

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> "DreamerV2Agent":
        """A checkpoint file or run folder -> the agent.  UserError for a torn, foreign or mismatched file."""
        path = find_checkpoint(path)
        data = load_file(path, paper=PAPER)
        with fitting(path, PAPER):
            cfg, extra = from_json(Config, data["config"], str(path)), data["extra"]
            spaces = Spaces.from_tree(extra["spaces"])
            agent = cls(cfg, EnvSpec(**data["env"]), spaces, extra["predict_cont"], device)
            for name, part in agent.parts().items():
                part.load_state_dict(data["weights"][name])
            agent.slow.load_state_dict(agent.critic.state_dict())
            agent.updates = extra["updates"]
        return agent
