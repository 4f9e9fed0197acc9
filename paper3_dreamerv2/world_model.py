"""The world model of DreamerV2: encoder, RSSM, decoder, reward and discount heads, their loss (equation 2).

Batches come from utils.py, batch first: obs, prev_act [B, T, A], rew [B, T], is_first, is_terminal [B, T].
rew[t] is received with obs[t], so the reward head predicts what it takes to *enter* a state.
Letters: B sequences, T rows, F feature.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.spaces import Spaces
from paper3_dreamerv2.config import Config
from paper3_dreamerv2.networks import MLP, Decoder, Encoder, gaussian_nll, init_keras_, preprocess
from paper3_dreamerv2.rssm import RSSM, State

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
        self.rew = MLP(feature, cfg.model.layers, units, 1)
        self.cont = MLP(feature, cfg.model.layers, units, 1) if predict_cont else None
        init_keras_(self)

    def loss(self, batch: Batch) -> tuple[dict[str, Tensor], State, dict[str, Tensor]]:
        """Named losses [B, T] (`total` clips the KL), the posteriors [B, T, ...], metrics."""
        embed = self.encoder(batch)  # [B, T, E]
        post, prior = self.rssm.observe(embed, batch["prev_act"], batch["is_first"])
        feat = post.feat  # [B, T, F]
        losses = {}
        for key, mean in self.decoder(feat if self.cfg.model.grad_image else feat.detach()).items():
            target = preprocess(batch[key]) if key.startswith("image") else batch[key]
            losses[key] = gaussian_nll(mean, target, target.dim() - 2)  # -log N(o_t; dec(f_t), 1)
        rew = self.rew(feat if self.cfg.model.grad_rew else feat.detach()).squeeze(-1)
        losses["rew"] = gaussian_nll(rew, self.transform(batch["rew"]), 0)
        if self.cont is not None:  # soft labels: the head predicts gamma * continue itself
            label = self.cfg.behaviour.discount * (~batch["is_terminal"]).float()
            losses["cont"] = F.binary_cross_entropy_with_logits(
                self.cont(feat).squeeze(-1).float(), label, reduction="none"
            )
        latent = self.rssm.latent
        losses["kl_prior"] = latent.kl(post.stats.detach(), prior.stats)  # KL(sg q || p)
        losses["kl_post"] = latent.kl(post.stats, prior.stats.detach())  # KL(q || sg p)
        metrics = {
            "prior_entropy": latent.entropy(prior.stats).mean(),
            "post_entropy": latent.entropy(post.stats).mean(),
        }
        return losses, post, metrics

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """The one number that is minimised: means over B and T, weighed; the KL balanced, above its free
        nats.

        Algorithm 2: both terms have the same value; the prior gets alpha of the gradient, the posterior the
        rest, so that the prior learns faster than the posterior is pulled towards a prior that is still bad.
        """
        cfg = self.cfg.model
        to_prior, to_post = (losses[name].mean().clamp(min=cfg.free_nats) for name in ("kl_prior", "kl_post"))
        kl = cfg.kl_balance * to_prior + (1 - cfg.kl_balance) * to_post
        scales = {"cont": cfg.cont_scale}
        rest = sum(scales.get(name, 1.0) * loss.mean() for name, loss in losses.items() if "kl" not in name)
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
