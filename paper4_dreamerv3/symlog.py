"""Symlog, symexp and the two-hot distribution: how DreamerV3 predicts numbers of any size (paper, section
"Robust predictions").

A head outputs logits over 255 bins that lie densely around 0 and reach 4.9e8.  It is trained by cross entropy
against the number's two neighbouring bins and read out as the expectation, so the size of a gradient does not
depend on the size of the number.
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor


def symlog(x: Tensor) -> Tensor:
    """sign(x) ln(1 + |x|)"""
    return x.sign() * x.abs().log1p()


def symexp(x: Tensor) -> Tensor:
    """The inverse: sign(x) (e^|x| - 1)"""
    return x.sign() * x.abs().expm1()


@functools.cache
def symexp_bins(count: int, device: torch.device | str = "cpu") -> Tensor:
    """symexp of equally spaced numbers from -20 to 20, antisymmetric bit for bit.  [count] float32

    An even count has the pair -0, 0 in the middle.
    """
    half = symexp(torch.linspace(-20, 0, (count + 1) // 2, dtype=torch.float64)).float()
    half[-1] = 0.0
    return torch.cat([half, -half.flip(0)[count % 2 :]]).to(device)


class TwoHot:
    """The distribution that logits [..., bins] describe, over symexp-spaced bins.  Everything in float32."""

    def __init__(self, logit: Tensor, bins: Tensor | None = None):
        """bins: [bins], increasing and antisymmetric; symexp-spaced without it."""
        self.logit = logit.float()
        self.bins = symexp_bins(logit.shape[-1], logit.device) if bins is None else bins

    def __getitem__(self, rows: slice) -> "TwoHot":
        """The distributions of some rows."""
        return TwoHot(self.logit[rows], self.bins)

    def mean(self) -> Tensor:
        """Expectation.  [...]

        Summed in pairs, bin i with its mirror image: terms reach 1.9e6, and in any other order a head that
        knows nothing would predict rounding errors of about one instead of exactly 0.
        """
        prob, half = self.logit.softmax(-1), len(self.bins) // 2
        right, left = prob[..., -half:], prob[..., :half].flip(-1)
        return ((right - left) * self.bins[-half:]).sum(-1)

    def loss(self, target: Tensor) -> Tensor:
        """Cross entropy against the two-hot code of the targets.  [...] -> [...]"""
        below, above, share = two_hot(target.detach().float(), self.bins)
        log_prob = self.logit.log_softmax(-1)
        of_below = log_prob.gather(-1, below[..., None]).squeeze(-1)
        of_above = log_prob.gather(-1, above[..., None]).squeeze(-1)
        return -((1 - share) * of_below + share * of_above)


class Number:
    """The ablation: one output with a squared error, as in papers 2 and 3."""

    def __init__(self, out: Tensor):
        self.out = out.float().squeeze(-1)

    def __getitem__(self, rows: slice) -> "Number":
        """Those of some rows."""
        return Number(self.out[rows, ..., None])

    def mean(self) -> Tensor:
        """[...]"""
        return self.out

    def loss(self, target: Tensor) -> Tensor:
        """[...] -> [...]"""
        return (self.out - target.detach().float()) ** 2


def two_hot(x: Tensor, bins: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Neighbouring bins of x, and the share of the upper one: linear between them.  [...] thrice

    A number outside the bins gets the end bin alone.
    """
    x = x.clamp(bins[0], bins[-1])
    above = torch.searchsorted(bins, x, right=True).clamp(max=len(bins) - 1)  # first bin that is larger
    below = (above - 1).clamp(min=0)
    low, high = bins[below], bins[above]
    return below, above, (x - low) / (high - low)


def encode(x: Tensor, bins: Tensor) -> Tensor:
    """The two-hot code itself, for looking at.  [...] -> [..., bins]"""
    below, above, share = two_hot(x, bins)
    code = torch.zeros(*x.shape, len(bins), device=x.device)
    code.scatter_add_(-1, below[..., None], (1 - share)[..., None])
    return code.scatter_add_(-1, above[..., None], share[..., None])


def squared_error(mean: Tensor, target: Tensor, dims: int) -> Tensor:
    """Squared errors summed over the last `dims` dims, without a factor 1/2.  [B, T, ...] -> [B, T]"""
    return F.mse_loss(mean.float(), target.float(), reduction="none").flatten(-dims).sum(-1)
