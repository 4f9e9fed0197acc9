"""The trained agent of paper 5 behind the common Agent protocol: it sees decoded frames, acts, and dreams.

To act it needs the tokenizer and the policy; the transformer only dreams.
Letters: N games, B dreams, C context rows, H dreamed rows, K tokens, A action numbers.
"""

from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from common.agent import Dream
from common.checkpoint import find_checkpoint, fitting, load_file, save_file
from common.config import from_json, to_json
from common.dreams import Episode
from common.env_wrapper import EnvSpec
from common.errors import UserError
from common.spaces import Spaces
from paper5_iris.actor_critic import ActorCritic, Memory
from paper5_iris.config import Config
from paper5_iris.imagination import Imagination
from paper5_iris.tokenizer import Tokenizer, to_frames, to_images
from paper5_iris.world_model import WorldModel

PAPER = "paper5_iris"


class IrisAgent:
    """Tokenizer, world model, actor and critic."""

    paper = PAPER

    def __init__(self, cfg: Config, env: EnvSpec, spaces: Spaces, device: torch.device | str = "cpu"):
        """UserError for an environment without a picture."""
        if not spaces.images:
            raise UserError(f"{env.name} has no picture to make tokens of: --obs pixels renders it")
        self.cfg, self.env, self.spaces, self.device = cfg, env, spaces, torch.device(device)
        self.key = spaces.images[0]  # the only observation that is used
        image = spaces.obs[self.key]
        self.tokenizer = Tokenizer(cfg.tokenizer, image).to(self.device)
        self.world = WorldModel(cfg.world, cfg.tokenizer.vocab, self.tokenizer.tokens, spaces).to(self.device)
        args = cfg.actor, image, spaces, cfg.tokenizer.vocab, self.tokenizer.tokens
        self.actor = ActorCritic(*args).to(self.device)
        for part in self.parts().values():
            part.eval()  # a network trains only while it is its turn
        self.updates = 0  # gradient steps so far, of all three

    def parts(self) -> dict[str, torch.nn.Module]:
        """The networks that are trained, each by its own optimiser."""
        return {"tokenizer": self.tokenizer, "world": self.world, "actor": self.actor}

    def check_env(self, observation_space: gym.Space, action_space: gym.Space) -> None:
        """UserError unless the agent can play an env with these spaces."""
        like = type("Like", (), {"observation_space": observation_space, "action_space": action_space})
        self.spaces.check_same(Spaces.of(like), self.env.name, "this env")

    # --- acting

    def initial(self, batch: int) -> Memory:
        """Zeros, before the first observation."""
        return self.actor.initial(batch)

    @torch.no_grad()
    def act(self, obs: dict, state: Memory, *, explore: bool = False) -> tuple[np.ndarray, Memory]:
        """obs [N, ...] with is_first [N] -> environment actions [N, ...], memory.

        A draw: at `collect.temperature` with a share `collect.epsilon` of uniform actions where it explores,
        else at `eval_temperature` (C).
        """
        cfg = self.cfg
        going = ~torch.from_numpy(np.asarray(obs["is_first"])).to(self.device)[:, None]
        seen = self.view(obs[self.key])
        temperature = cfg.collect.temperature if explore else cfg.eval_temperature
        policy, _, state = self.actor(seen, Memory(*(part * going for part in state)), temperature)
        act = policy.sample()
        if explore and cfg.collect.epsilon:
            # differs: every game has a coin of its own; the authors' code tosses one for all.
            chance = torch.rand(len(act), device=self.device) < cfg.collect.epsilon
            act = torch.where(chance.view(-1, *[1] * (act.dim() - 1)), self.uniform(act), act)
        return self.native(act), state

    def uniform(self, act: Tensor) -> Tensor:
        """Random actions of the same shape."""
        if self.spaces.discrete:
            return torch.randint_like(act, self.spaces.act)
        return torch.rand_like(act) * 2 - 1

    def native(self, act: Tensor) -> np.ndarray:
        """Actions as the environment takes them."""
        return (act if self.spaces.discrete else act.clamp(-1, 1)).cpu().numpy()

    def frames(self, image: np.ndarray) -> Tensor:
        """uint8 [..., H, W, C] -> [N, C, H, W] in [0, 1] on the device"""
        return to_frames(torch.from_numpy(np.ascontiguousarray(image)).to(self.device))

    def view(self, image: np.ndarray) -> Tensor:
        """What the actor sees of pictures uint8 [..., H, W, C] -> [N, C, H, W] decoded, or tokens [N, K]"""
        return self.actor.view(self.tokenizer, self.tokenizer.tokenize(self.frames(image)))

    # --- dreaming

    def imagination(
        self, temperature: float = 1.0, generator: torch.Generator | None = None, capture=None
    ) -> Imagination:
        """A world to play in."""
        args = {"temperature": temperature, "generator": generator, "capture": capture}
        return Imagination(self.tokenizer, self.world, **args)

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
        """Watch C rows, then imagine H rows, with given actions or the actor's own (common/agent.py).

        As in training, the transformer starts from the last frame alone; the actor's memory has seen all C.
        """
        B, C = context["is_first"].shape
        image, planned = context[self.key], self.tensor(actions)
        tokens = self.tokenizer.tokenize(self.frames(image))  # [B C, K]
        seen = self.actor.view(self.tokenizer, tokens).unflatten(0, (B, C))
        going = ~torch.from_numpy(np.asarray(context["is_first"])).to(self.device)
        memory, values = self.initial(B), []
        for t in range(C):
            memory = Memory(*(part * going[:, t, None] for part in memory))
            _, val, memory = self.actor(seen[:, t], memory)
            values.append(val)
        frames = [self.tokenizer.decode_tokens(tokens).unflatten(0, (B, C))]
        acts = list(self.tensor(context["act"]).unbind(1))
        nothing = torch.full((B,), float("nan"), device=self.device)
        rews, conts = [nothing] * C, [nothing] * C  # of rows that were seen the model says nothing
        world = self.imagination(temperature, generator)
        world.reset(tokens.view(B, C, -1)[:, -1])
        for i in range(horizon):
            step = world.step(acts[-1])
            policy, val, memory = self.actor(world.view(self.actor), memory)
            act = policy.sample(generator) if planned is None else planned[:, i]
            acts.append(act if self.spaces.discrete else act.clamp(-1, 1))
            frames.append(world.frame()[:, None])
            values.append(val)
            rews.append(step.rew)
            conts.append(1 - step.end_prob)
        pictures = to_images(torch.cat(frames, 1).flatten(0, 1)).unflatten(0, (B, -1))
        heads = (torch.stack(rows, 1).float().cpu().numpy() for rows in (rews, conts, values))
        return Dream({self.key: pictures.cpu().numpy()}, self.native(torch.stack(acts, 1)), C, *heads).check()

    def tensor(self, act: np.ndarray | None) -> Tensor | None:
        """Stored actions on the device."""
        return None if act is None else torch.from_numpy(np.array(act)).to(self.device)

    def diagnose(self, episode: Episode) -> dict[str, float]:
        """How good the reconstructions and the predictions are on a real episode (quality.py)."""
        from paper5_iris.quality import quality

        return quality(self, [episode])

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
    def load(cls, path: str | Path, device: str = "cpu") -> "IrisAgent":
        """A checkpoint file or run folder -> the agent.  UserError for a torn, foreign or mismatched file."""
        path = find_checkpoint(path)
        data = load_file(path, paper=PAPER)
        with fitting(path, PAPER):
            cfg, extra = from_json(Config, data["config"], str(path)), data["extra"]
            agent = cls(cfg, EnvSpec(**data["env"]), Spaces.from_tree(extra["spaces"]), device)
            for name, part in agent.parts().items():
                part.load_state_dict(data["weights"][name])
            agent.updates = extra["updates"]
        return agent
