"""The trained agent of paper 4 behind the common Agent protocol: it filters what it sees, acts, and dreams.

Letters: N games, B dreams, C context rows, H dreamed rows, A action, D deter, S variables of K classes.
"""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

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
from paper4_dreamerv3.actor_critic import Actor
from paper4_dreamerv3.config import Config
from paper4_dreamerv3.rssm import State
from paper4_dreamerv3.symlog import symexp
from paper4_dreamerv3.world_model import NumberHead, WorldModel

PAPER = "paper4_dreamerv3"
UNKNOWN = 255  # class of a variable that was never computed: all zeros


class Memory(NamedTuple):
    """What the agent remembers of N games."""

    state: State  # [N, ...]
    act: Tensor  # [N, A] the action before, as networks take it


class DreamerV3Agent:
    """World model, actor, critic and its slow copy."""

    paper = PAPER

    def __init__(self, cfg: Config, env: EnvSpec, spaces: Spaces, device: torch.device | str = "cpu"):
        self.cfg, self.env, self.spaces, self.device = cfg, env, spaces, torch.device(device)
        self.model = WorldModel(cfg, spaces).to(self.device)
        feature = self.model.rssm.feature
        self.actor = Actor(cfg, feature, spaces).to(self.device)
        self.critic = NumberHead(cfg, feature, cfg.behaviour.critic_layers).to(self.device)
        self.slow = deepcopy(self.critic).requires_grad_(False)  # for the pull only; no optimiser touches it
        self.updates = 0  # gradient steps so far

    def parts(self) -> dict[str, torch.nn.Module]:
        """The networks that are trained, all by one optimiser."""
        return {"model": self.model, "actor": self.actor, "critic": self.critic}

    def check_env(self, observation_space: gym.Space, action_space: gym.Space) -> None:
        """UserError unless the agent can play an env with these spaces."""
        like = type("Like", (), {"observation_space": observation_space, "action_space": action_space})
        self.spaces.check_same(Spaces.of(like, multi=True), self.env.name, "this env")

    # --- acting

    def initial(self, batch: int) -> Memory:
        """Zeros, before the first observation."""
        state = self.model.rssm.initial(batch)
        return Memory(state, state.deter.new_zeros(batch, self.spaces.act))

    @torch.no_grad()
    def act(self, obs: dict, state: Memory, *, explore: bool = False) -> tuple[np.ndarray, Memory]:
        """obs [N, ...] with is_first [N] -> environment actions [N, ...], memory.

        The papers evaluate what they train with, a draw; `actor.eval_action mode` takes the likeliest action
        where explore is off.
        """
        rows = self.tensors({key: np.asarray(value)[:, None] for key, value in obs.items()})  # [N, 1, ...]
        carry = state.state.deter, state.state.stoch
        post = self.model.rssm.observe(self.model.encoder(rows), state.act[:, None], rows["is_first"], *carry)
        post = State(*(part[:, 0] for part in post))
        dist = self.actor(post.feat)
        act = dist.mode() if self.cfg.actor.eval_action == "mode" and not explore else dist.sample()
        return self.spaces.decode(act), Memory(post, act)

    def tensors(self, rows: dict[str, np.ndarray]) -> dict[str, Tensor]:
        """The observations and is_first on the device."""
        names = [*self.spaces.obs, "is_first"]
        return {name: torch.from_numpy(np.ascontiguousarray(rows[name])).to(self.device) for name in names}

    # --- latents in the replay

    def replay_fields(self) -> dict[str, tuple[tuple[int, ...], Any]]:
        """What a stored row has besides observations: h in bfloat16 (as bits), z as class indices."""
        cfg = self.cfg.rssm
        return {"deter": ((cfg.deter,), np.uint16), "stoch": ((cfg.stoch,), np.uint8)}

    @property
    def online_rows(self) -> int:
        """Rows of the fresh windows that the replay hands out first; 0: none."""
        return self.cfg.replay.length + 1 if self.cfg.replay.online else 0

    def compact(self, state: State) -> dict[str, Tensor]:
        """Latents as they are stored: [..., D] and [..., S K] -> uint16 [..., D], uint8 [..., S]"""
        cfg = self.cfg.rssm
        h = state.deter.detach().nan_to_num()  # of a skipped update: what is stored would spoil later ones
        index = state.stoch.detach().unflatten(-1, (cfg.stoch, cfg.classes)).argmax(-1)
        return {"deter": h.to(torch.bfloat16).view(torch.uint16), "stoch": index.to(torch.uint8)}

    def pack(self, state: State) -> dict[str, np.ndarray]:
        """The same for the replay, off the device."""
        return {name: part.cpu().numpy() for name, part in self.compact(state).items()}

    def unpack(self, deter: np.ndarray, stoch: np.ndarray) -> tuple[Tensor, Tensor]:
        """The inverse -> float32 h [..., D] and z [..., S K]."""
        h = torch.from_numpy(deter).to(self.device).view(torch.bfloat16).float()
        classes = torch.arange(self.cfg.rssm.classes, device=self.device)
        index = torch.from_numpy(stoch).to(self.device)[..., None]
        return h, (index == classes).float().flatten(-2)

    def unknown(self, num: int) -> dict[str, np.ndarray]:
        """Latents of N rows that nobody computed (random play): zeros, as at an episode's start."""
        cfg = self.cfg.rssm
        stoch = np.full((num, cfg.stoch), UNKNOWN, np.uint8)
        return {"deter": np.zeros((num, cfg.deter), np.uint16), "stoch": stoch}

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
        post = self.watch(context, generator)
        states, acts = [post], list(given.unbind(1))
        if horizon and actions is not None:
            planned = self.spaces.encode(torch.from_numpy(np.array(actions)).to(self.device))  # [B, H, A]
        state = State(*(part[:, -1] for part in post))
        for i in range(horizon):
            state = self.model.rssm.imagine(state, acts[-1], generator, temperature)
            act = self.actor(state.feat).sample(generator) if actions is None else planned[:, i]
            states.append(State(*(part[:, None] for part in state)))
            acts.append(act)
        whole = State(*(torch.cat(parts, 1) for parts in zip(*states, strict=True)))  # [B, C + H, ...]
        act = self.spaces.decode(torch.stack(acts, 1))
        return Dream(self.decode(whole), act, C, *self.heads(whole.feat)).check()

    @torch.no_grad()
    def watch(self, rows: dict, generator: torch.Generator | None = None) -> State:
        """Posteriors of real rows from their first: obs, act, is_first [B, T, ...] -> [B, T, ...]"""
        seen = self.tensors(rows)
        act = self.spaces.encode(torch.from_numpy(np.array(rows["act"])).to(self.device))  # [B, T, A]
        before = torch.cat([torch.zeros_like(act[:, :1]), act[:, :-1]], 1)  # what led to each row
        start = self.model.rssm.initial(len(act))
        carry = start.deter, start.stoch
        return self.model.rssm.observe(self.model.encoder(seen), before, seen["is_first"], *carry, generator)

    def decode(self, state: State) -> dict[str, np.ndarray]:
        """Latents as observations.  [B, T, ...] -> {key: [B, T, ...]}"""
        decoded = {}
        for key, mean in self.model.decoder(state.deter, state.stoch).items():
            if key.startswith("image"):
                mean = (mean.float() * 255).round().clamp(0, 255).to(torch.uint8)
            elif self.cfg.model.symlog:
                mean = symexp(mean.float())
            decoded[key] = mean.cpu().numpy()
        return decoded

    def heads(self, feat: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Reward, probability of going on (gamma divided out) and value.  [B, T, F] -> [B, T] each"""
        cont = self.model.going_on(feat)
        if self.cfg.model.contdisc:
            cont = (cont / self.cfg.gamma).clamp(max=1)
        scale = self.cfg.model.reward_scale
        numbers = self.model.reward(feat) / scale, cont, self.critic(feat).mean() / scale
        return tuple(x.cpu().numpy() for x in numbers)

    @torch.no_grad()
    def diagnose(self, episode: Episode) -> dict[str, float]:
        """How well the value knew the discounted rewards that came, and how much of the latents is in use."""
        rows = {**episode.obs, "act": episode.act, "is_first": episode.is_first}
        post = self.watch({name: np.asarray(value)[None] for name, value in rows.items()})
        val, returns, ret = self.heads(post.feat)[2][0], [], 0.0
        for reward in episode.rew[:0:-1]:  # the value of a row begins with the next one's reward
            ret = float(reward) + self.cfg.gamma * ret
            returns.append(ret)
        usage = categorical_usage(self.model.rssm.latent.probs(post.logit[0]).cpu().numpy())
        metrics = {f"latents_{name}": value for name, value in usage.items()}
        return metrics | {"value_accuracy": explained_variance(val[:-1], returns[::-1])}

    # --- files

    def save(self, path: str | Path) -> None:
        """Write model.pt: all that eval.py and visualize.py need."""
        tree = {
            "paper": PAPER,
            "config": to_json(replace(self.cfg, logdir=None)),
            "env": {"name": self.env.name, "options": self.env.options},
            "weights": {name: part.state_dict() for name, part in self.parts().items()},
            "extra": {"spaces": self.spaces.to_tree(), "updates": self.updates},
        }
        save_file(path, tree)

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> "DreamerV3Agent":
        """A checkpoint file or run folder -> the agent.  UserError for a torn, foreign or mismatched file."""
        path = find_checkpoint(path)
        data = load_file(path, paper=PAPER)
        with fitting(path, PAPER):
            cfg, extra = from_json(Config, data["config"], str(path)), data["extra"]
            agent = cls(cfg, EnvSpec(**data["env"]), Spaces.from_tree(extra["spaces"]), device)
            for name, part in agent.parts().items():
                part.load_state_dict(data["weights"][name])
            agent.slow.load_state_dict(agent.critic.state_dict())
            agent.updates = extra["updates"]
        return agent
