"""The world model of DreamerV1: encoder, RSSM, decoder, reward and discount heads, their loss (equation 10).

Batches come from buffer.py, batch first: obs, prev_act [B, T, A], rew [B, T], is_first, is_terminal [B, T].
rew[t] is received with obs[t], so the reward head predicts what it takes to *enter* a state.
Letters: B sequences, T rows, F feature.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.spaces import Spaces
from paper2_dreamerv1.config import Config
from paper2_dreamerv1.networks import MLP, Decoder, Encoder, gaussian_nll, init_keras_, preprocess
from paper2_dreamerv1.rssm import RSSM, State

Batch = dict[str, Tensor]


class WorldModel(nn.Module):
    """What the agent knows of its world.  No optimiser inside."""

    def __init__(self, cfg: Config, spaces: Spaces, predict_cont: bool):
        super().__init__()
        self.cfg = cfg
        self.encoder = Encoder(cfg.conv, spaces)
        self.rssm = RSSM(cfg.rssm, self.encoder.size, spaces.act)
        feature, units = self.rssm.feature, cfg.model.units
        self.decoder = Decoder(cfg.conv, feature, spaces)
        self.rew = MLP(feature, cfg.model.rew_layers, units, 1)
        self.cont = MLP(feature, cfg.model.cont_layers, units, 1) if predict_cont else None
        init_keras_(self)

    def loss(self, batch: Batch) -> tuple[dict[str, Tensor], State, dict[str, Tensor]]:
        """Named losses [B, T] (`kl` is raw: `total` clips it), the posteriors [B, T, ...], metrics."""
        embed = self.encoder(batch)  # [B, T, E]
        post, prior = self.rssm.observe(embed, batch["prev_act"], batch["is_first"])
        feat = post.feat  # [B, T, F]
        losses = {}
        for key, mean in self.decoder(feat).items():
            target = preprocess(batch[key]) if key.startswith("image") else batch[key]
            losses[key] = gaussian_nll(mean, target, target.dim() - 2)  # -log N(o_t; dec(f_t), 1)
        losses["rew"] = gaussian_nll(self.rew(feat).squeeze(-1), self.transform(batch["rew"]), 0)
        if self.cont is not None:  # soft labels: the head predicts gamma * continue itself
            label = self.cfg.behaviour.discount * (~batch["is_terminal"]).float()
            losses["cont"] = F.binary_cross_entropy_with_logits(
                self.cont(feat).squeeze(-1).float(), label, reduction="none"
            )
        losses["kl"] = self.kl(post, prior)
        latent = self.rssm.latent
        metrics = {
            "prior_entropy": latent.entropy(prior.stats).mean(),
            "post_entropy": latent.entropy(post.stats).mean(),
        }
        return losses, post, metrics

    def kl(self, post: State, prior: State) -> Tensor:
        """KL(q || p).  Gradients flow through both (no balancing in V1); kl_balance is paper 3's, for the
        ablation.  [B, T]"""
        kl, share = self.rssm.latent.kl, self.cfg.model.kl_balance
        if share is None:
            return kl(post.stats, prior.stats)
        to_prior, to_post = kl(post.stats.detach(), prior.stats), kl(post.stats, prior.stats.detach())
        return share * to_prior + (1 - share) * to_post

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """The one number that is minimised: means over B and T, weighed, the KL above its free nats."""
        cfg = self.cfg.model
        if cfg.free_nats_mode == "mean":
            kl = losses["kl"].mean().clamp(min=cfg.free_nats)  # beta * max(KL, 3): no gradient below
        else:
            kl = (losses["kl"] - cfg.free_nats).clamp(min=0).mean()
        scales = {"cont": cfg.cont_scale}
        rest = sum(scales.get(name, 1.0) * loss.mean() for name, loss in losses.items() if name != "kl")
        return cfg.kl_scale * kl + rest

    def transform(self, rew: Tensor) -> Tensor:
        """Rewards as the learner sees them."""
        return rew.tanh() if self.cfg.model.reward_transform == "tanh" else rew

    def reward(self, feat: Tensor) -> Tensor:
        """Mean predicted reward of entering the state.  [..., F] -> [...]"""
        return self.rew(feat).squeeze(-1).float()

    def discount(self, feat: Tensor) -> Tensor:
        """gamma * P(not terminal), or the constant gamma.  [..., F] -> [...]"""
        if self.cont is None:
            return torch.full(feat.shape[:-1], self.cfg.behaviour.discount, device=feat.device)
        return self.cont(feat).squeeze(-1).float().sigmoid()
