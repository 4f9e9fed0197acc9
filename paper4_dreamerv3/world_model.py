"""The world model of DreamerV3: encoder, RSSM, decoder, reward and continue heads, their losses (paper,
"Learning a world model").

Batches come from train.py's sampler, batch first: obs, prev_act [B, T, A], rew, is_first, is_terminal [B, T],
and the latents before the first row, deter [B, D], stoch [B, Z].  rew[t] is received with obs[t].
Letters: B sequences, T rows, F feature.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from common.spaces import Spaces
from paper4_dreamerv3.config import Config
from paper4_dreamerv3.networks import MLP, Decoder, Encoder
from paper4_dreamerv3.rssm import RSSM, State
from paper4_dreamerv3.symlog import Number, TwoHot, squared_error, symlog

Batch = dict[str, Tensor]


class WorldModel(nn.Module):
    """What the agent knows of its world.  No optimiser inside."""

    def __init__(self, cfg: Config, spaces: Spaces):
        super().__init__()
        self.cfg, self.keys = cfg, tuple(spaces.obs)
        self.encoder = Encoder(cfg, spaces)
        self.rssm = RSSM(cfg.rssm, self.encoder.size, spaces.act)
        self.decoder = Decoder(cfg, spaces)
        feature = self.rssm.feature
        self.rew = NumberHead(cfg, feature, cfg.model.rew_layers)
        self.cont = MLP(feature, cfg.model.cont_layers, cfg.units, 1)

    def loss(self, batch: Batch) -> tuple[dict[str, Tensor], State, dict[str, Tensor]]:
        """Named losses [B, T], the posteriors [B, T, ...], metrics."""
        tokens = self.encoder(batch)  # [B, T, E]
        carry = batch["deter"], batch["stoch"]
        post = self.rssm.observe(tokens, batch["prev_act"], batch["is_first"], *carry)
        prior = self.rssm.prior(post.deter)  # of all rows at once; [B, T, Z]
        feat, losses = post.feat, {}
        for key, mean in self.decoder(post.deter, post.stoch).items():
            is_image = key.startswith("image")
            target = batch[key].float() / 255 if is_image else self.squash(batch[key])
            losses[key] = squared_error(mean, target, target.dim() - 2)
        losses["rew"] = self.rew(feat).loss(batch["rew"])
        alive = (~batch["is_terminal"]).float()
        label = alive * self.cfg.gamma if self.cfg.model.contdisc else alive  # soft: the head predicts both
        losses["cont"] = F.binary_cross_entropy_with_logits(
            self.cont(feat).squeeze(-1).float(), label, reduction="none"
        )
        latent = self.rssm.latent
        # The sum over variables is clipped, row by row: below one nat there is no gradient ("free bits").
        dyn, rep = latent.kl(post.logit.detach(), prior), latent.kl(post.logit, prior.detach())
        losses["dyn"] = dyn.clamp(min=self.cfg.rssm.free_nats)
        losses["rep"] = rep.clamp(min=self.cfg.rssm.free_nats)
        metrics = {
            "kl": dyn.detach().mean(),
            "prior_entropy": latent.entropy(prior.detach()).mean(),
            "post_entropy": latent.entropy(post.logit.detach()).mean(),
        }
        return losses, post, metrics

    def scales(self) -> dict[str, float]:
        """Weights of its losses that have a dial."""
        cfg = self.cfg.model
        return dict.fromkeys(self.keys, cfg.rec_scale) | {"dyn": cfg.dyn_scale, "rep": cfg.rep_scale}

    def squash(self, vector: Tensor) -> Tensor:
        """Vectors as they are reconstructed."""
        return symlog(vector.float()) if self.cfg.model.symlog else vector.float()

    def reward(self, feat: Tensor) -> Tensor:
        """Mean predicted reward of entering the state.  [..., F] -> [...]"""
        return self.rew(feat).mean()

    def going_on(self, feat: Tensor) -> Tensor:
        """P(not terminal); with contdisc times gamma.  [..., F] -> [...]"""
        return self.cont(feat).squeeze(-1).float().sigmoid()


class NumberHead(nn.Module):
    """Features -> a distribution over numbers, reward or value.  Its last layer is zero: it begins at 0."""

    def __init__(self, cfg: Config, feature: int, layers: int):
        super().__init__()
        self.kind = TwoHot if cfg.model.symlog else Number
        outputs = cfg.model.bins if cfg.model.symlog else 1
        self.net = MLP(feature, layers, cfg.units, outputs, out_scale=0.0)

    def forward(self, feat: Tensor) -> TwoHot | Number:
        return self.kind(self.net(feat))
