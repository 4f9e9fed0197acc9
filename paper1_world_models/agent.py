"""The trained agent of paper 1 behind the common Agent protocol: V encodes, C acts on [z, h], M remembers.

Shapes: N games, B dreams, C context rows, H dreamed rows, Z latents, A action numbers, n controller
parameters.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from common.agent import Dream
from common.checkpoint import find_checkpoint, fitting, load_file, save_file
from common.config import from_json, to_json
from common.env_wrapper import EnvSpec
from common.errors import UserError
from paper1_world_models.config import Config
from paper1_world_models.controller import ActionCodec, Controller, make_codec
from paper1_world_models.dream import Starts
from paper1_world_models.rnn import MDNRNN, Prediction, sample_next
from paper1_world_models.vae import VAE, resample

PAPER = "paper1_world_models"


@dataclass
class AgentState:
    """What the agent remembers of N games: the LSTM state."""

    h: Tensor  # [N, D]
    c: Tensor  # [N, D]


class WorldModelsAgent:
    """V, M and C with one vector of controller parameters."""

    paper = PAPER

    def __init__(
        self,
        cfg: Config,
        env: EnvSpec,
        codec: ActionCodec,
        params: np.ndarray | None = None,
        device: str = "cpu",
    ):
        self.cfg, self.env, self.codec, self.device = cfg, env, codec, torch.device(device)
        self.vae = VAE(cfg.vae).to(self.device)
        self.rnn = MDNRNN(cfg.rnn, cfg.vae.latents, codec.size).to(self.device)
        self.controller = Controller(cfg.controller, cfg.vae.latents, cfg.rnn.hidden, codec)
        self.params = np.zeros(self.controller.size, np.float32) if params is None else np.float32(params)
        empty = torch.zeros(0, cfg.vae.latents)
        self.starts = Starts(empty, empty)
        # For z in `act`; seed it to repeat an evaluation.
        self.generator = torch.Generator().manual_seed(cfg.seed)
        self.stage, self.iteration = "collect", 0  # the last stage that wrote into the weights

    def check_env(self, observation_space: gym.Space, action_space: gym.Space) -> None:
        """UserError unless V can see these observations and C can choose these actions."""
        size, channels = self.cfg.vae.size, self.cfg.vae.channels
        spaces = observation_space.spaces if isinstance(observation_space, gym.spaces.Dict) else {}
        seen = spaces["image"].shape if "image" in spaces else None
        if seen != (size, size, channels):
            raise UserError(
                f"the agent of {self.env.name} sees pictures of {size} x {size} x {channels}, this env shows "
                f"{' x '.join(map(str, seen)) if seen else 'none'}: choose another --env, or train on it"
            )
        try:
            fits = make_codec(action_space, self.codec.kind) == self.codec
        except UserError:
            fits = False
        if not fits:
            raise UserError(
                f"the agent of {self.env.name} chooses {self.codec.kind} actions of size {self.codec.size}, "
                f"this env takes {action_space}: choose another --env, or train on it"
            )

    # --- acting

    def initial(self, batch: int) -> AgentState:
        """The zero state, so the first action sees z_0 alone."""
        return AgentState(*self.rnn.initial(batch))

    @torch.inference_mode()
    def act(self, obs: dict, state: AgentState, *, explore: bool = False) -> tuple[np.ndarray, AgentState]:
        """{"image": uint8 [N, H, W, C], "is_first": [N]} -> environment actions [N, ...], state

        The paper has no exploration noise, so `explore` changes nothing; z is a draw or the mean
        (controller.z).
        """
        first = torch.as_tensor(np.asarray(obs["is_first"]), device=self.device)
        keep = (~first).float()[:, None]
        h, c = state.h * keep, state.c * keep
        z = self._encode(obs["image"], self.generator)
        act = self.controller.act_many(self._vector(len(z)), self.controller.feature(z, h, c))
        h, c = self.rnn.step(z, act, first, (h, c))
        return self.codec.to_env(act.cpu().numpy()), AgentState(h, c)

    def _vector(self, rows: int) -> Tensor:
        return torch.from_numpy(self.params).to(self.device).expand(rows, -1)

    def _encode(self, frames: np.ndarray, generator: torch.Generator | None) -> Tensor:
        """uint8 [N, H, W, C] -> z [N, Z], a draw or the mean as the controller was trained"""
        mu, logvar = self.vae.encode(torch.from_numpy(np.ascontiguousarray(frames)).to(self.device))
        if self.cfg.controller.z == "mean" or generator is None:
            return mu
        return resample(mu, logvar, torch.randn(mu.shape, generator=generator).to(self.device))

    # --- dreaming

    @torch.inference_mode()
    def dream(
        self,
        context: dict,
        horizon: int,
        *,
        actions: np.ndarray | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Dream:
        """Watch C rows, then dream H rows, with given actions or the controller's own (common/agent.py)."""
        B, C = context["image"].shape[:2]
        generator = generator or torch.Generator(self.device).manual_seed(0)
        first = torch.as_tensor(np.asarray(context["is_first"]), device=self.device)  # [B, C]
        given = torch.from_numpy(self.codec.from_env(np.asarray(context["act"]))).to(self.device)  # [B, C, A]
        planned = (
            None
            if actions is None
            else torch.from_numpy(self.codec.from_env(np.asarray(actions))).to(self.device)
        )
        h, c = self.rnn.initial(B)
        zs, acts, preds = [], [], []
        for t in range(C + horizon):
            is_first = first[:, t] if t < C else torch.zeros(B, dtype=torch.bool, device=self.device)
            if t < C:
                z = self._encode(context["image"][:, t], None)  # the mean: reconstructions without noise
                keep = (~is_first).float()[:, None]
                h, c = h * keep, c * keep
            else:
                z = sample_next(preds[-1], temperature, generator, self.cfg.rnn.shared_pi)
            if t < C:
                act = given[:, t]
            elif planned is not None:
                act = planned[:, t - C]
            else:
                act = self.controller.act_many(self._vector(B), self.controller.feature(z, h, c))
            h, c = self.rnn.step(z, act, is_first, (h, c))
            zs.append(z)
            acts.append(act)
            preds.append(self.rnn.predict(h))
        frames = self.decode(torch.stack(zs, 1))  # [B, C + H, H, W, C]
        env_act = self.codec.to_env(torch.stack(acts, 1).cpu().numpy())
        return Dream({"image": frames}, env_act, C, *self._heads(preds, B)).check()

    def _heads(self, preds: list[Prediction], batch: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Reward and continue per row; row t is predicted from row t - 1, so row 0 holds nan."""
        nan = torch.full((batch,), float("nan"), device=self.device)
        rew = cont = None
        if preds[0].rew is not None:
            rew = torch.stack([nan, *(p.rew for p in preds[:-1])], 1).cpu().numpy()
        if preds[0].done is not None:
            cont = torch.stack([nan, *(1 - p.done.sigmoid() for p in preds[:-1])], 1).cpu().numpy()
        return rew, cont

    @torch.inference_mode()
    def decode(self, z: Tensor) -> np.ndarray:
        """Latents as pictures.  [..., Z] -> uint8 [..., H, W, C]"""
        if not self.vae.can_draw:
            raise UserError(
                "this model was carried for its controller alone, without V's decoder: it plays but draws "
                "nothing; look at the run that it came from"
            )
        frames = self.vae.decode(z.flatten(0, -2)).mul(255).round().to(torch.uint8)
        return frames.unflatten(0, z.shape[:-1]).cpu().numpy()

    # --- files

    def untrained(self) -> str:
        """What a run that stopped early has not trained yet, in words; empty where all is trained."""
        return {"collect": "V, M and C", "vae": "M and C", "rnn": "C"}.get(self.stage, "")

    def save(self, path: str | Path) -> None:
        """Write model.pt: all that eval.py, visualize.py and the controller stage need."""
        weights = {
            **{f"vae.{k}": v for k, v in self.vae.state_dict().items()},
            **{f"rnn.{k}": v for k, v in self.rnn.state_dict().items()},
            "controller": torch.from_numpy(self.params),
        }
        extra = {
            "stage": self.stage,
            "iteration": self.iteration,
            "starts": {"mu": self.starts.mu.half(), "logvar": self.starts.logvar.half()},
            "codec": {
                "kind": self.codec.kind,
                "size": self.codec.size,
                "low": self.codec.low,
                "high": self.codec.high,
            },
        }
        env = {"name": self.env.name, "options": self.env.options}
        save_file(
            path,
            {
                "paper": PAPER,
                "config": to_json(replace(self.cfg, logdir=None)),
                "env": env,
                "weights": weights,
                "extra": extra,
            },
        )

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> "WorldModelsAgent":
        """A checkpoint file or run folder -> the agent.  UserError for a torn, foreign or mismatched file."""
        path = find_checkpoint(path)
        data = load_file(path, paper=PAPER)
        with fitting(path, PAPER):
            cfg = from_json(Config, data["config"], str(path))
            codec, starts = data["extra"]["codec"], data["extra"]["starts"]
            codec = ActionCodec(codec["kind"], codec["size"], tuple(codec["low"]), tuple(codec["high"]))
            weights = data["weights"]
            agent = cls(cfg, EnvSpec(**data["env"]), codec, weights["controller"].numpy(), device)
            if not any(name.startswith("vae.decoder.") for name in weights):
                agent.vae.forget_decoder()
            for name, part in (("vae", agent.vae), ("rnn", agent.rnn)):
                part.load_state_dict({k[4:]: v for k, v in weights.items() if k.startswith(f"{name}.")})
            if agent.params.shape != (agent.controller.size,):
                raise RuntimeError(f"C has {agent.params.size} weights instead of {agent.controller.size}")
            agent.starts = Starts(starts["mu"].float().to(device), starts["logvar"].float().to(device))
            agent.stage, agent.iteration = data["extra"]["stage"], data["extra"].get("iteration", 0)
        return agent
