"""Every number that the papers report of a model or a policy; NumPy, and torch tensors are accepted.

Here: reconstruction, KL, prediction error by horizon, reward and continue accuracy, latent utilisation, value
accuracy, policy entropy.  Re-exported: returns and human-normalised scores (common/scores.py); time, memory,
sizes and gradient norms (common/meters.py).
Letters: B sequences, T rows, N samples, D latent dims, G categorical groups of C classes each.
"""

from __future__ import annotations

import numpy as np

from common.meters import (
    Meter,
    grad_norms,
    model_size_mb,
    parameter_counts,
    peak_memory_mb,
)
from common.scores import (
    aggregate_ci,
    aggregates,
    area_under_curve,
    atari_game,
    atari_records,
    atari_scores,
    balanced,
    bootstrap_ci,
    final_score,
    human_normalised,
    iqm,
    normalised_matrix,
    record_aggregates,
    summarise,
    way_to_optimum,
)

__all__ = [
    "Meter", "active_units", "aggregate_ci", "aggregates", "area_under_curve", "atari_game", "atari_records",
    "atari_scores", "balanced", "bootstrap_ci", "categorical_entropy", "categorical_usage", "code_usage",
    "continue_accuracy", "explained_variance", "final_score", "gaussian_entropy", "grad_norms",
    "horizon_error", "human_normalised", "iqm", "kl_categorical", "kl_gaussian", "model_size_mb",
    "normalised_matrix", "parameter_counts", "peak_memory_mb", "recon_mse", "record_aggregates",
    "reward_accuracy", "summarise", "way_to_optimum",
]  # fmt: skip
EPS = 1e-12


def to_numpy(value) -> np.ndarray:
    """Torch tensor (any device, with or without gradient; floats become float32) or array-like -> NumPy."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        return (value.float() if value.is_floating_point() else value).numpy()  # NumPy knows no bfloat16
    return np.asarray(value)


def _floats(value) -> np.ndarray:
    """uint8 images in 0..1, everything else as it is; float64 so that sums over pixels stay exact."""
    value = to_numpy(value)
    return value / 255.0 if value.dtype == np.uint8 else value.astype(np.float64)


def recon_mse(truth, recon) -> float:
    """Mean squared error per pixel (uint8 images are read as 0..1) or per vector entry."""
    truth, recon = _floats(truth), _floats(recon)
    assert truth.shape == recon.shape, (truth.shape, recon.shape)
    return float(np.mean((truth - recon) ** 2))


def horizon_error(truth, pred, mask=None) -> np.ndarray:
    """Mean squared error by row; rows behind an episode's end are masked out.  [B, T, ...] -> [T]

    A row that no sequence reaches is nan.
    """
    truth, pred = _floats(truth), _floats(pred)
    assert truth.shape == pred.shape, (truth.shape, pred.shape)
    error = ((truth - pred) ** 2).reshape(*truth.shape[:2], -1).mean(-1)  # [B, T]
    mask = np.ones_like(error) if mask is None else to_numpy(mask).astype(np.float64)
    count = mask.sum(0)  # [T]
    return np.where(count > 0, (error * mask).sum(0) / np.maximum(count, 1), np.nan)


def kl_gaussian(mean, std, prior_mean=0.0, prior_std=1.0) -> np.ndarray:
    """KL(N(mean, std^2) || N(prior_mean, prior_std^2)) of diagonal Gaussians, in nats.  [..., D] -> [...]"""
    mean, std, prior_mean, prior_std = (_floats(value) for value in (mean, std, prior_mean, prior_std))
    ratio = (std / prior_std) ** 2
    return 0.5 * (ratio + ((mean - prior_mean) / prior_std) ** 2 - 1 - np.log(ratio)).sum(-1)


def _log_softmax(logit) -> np.ndarray:
    logit = _floats(logit)
    logit = logit - logit.max(-1, keepdims=True)
    return logit - np.log(np.exp(logit).sum(-1, keepdims=True))


def kl_categorical(logit, prior_logit) -> np.ndarray:
    """KL between categoricals given by logits, summed over the groups, in nats.  [..., G, C] -> [...]"""
    post, prior = _log_softmax(logit), _log_softmax(prior_logit)
    return (np.exp(post) * (post - prior)).sum((-2, -1))


def categorical_entropy(logit) -> np.ndarray:
    """Entropy of a categorical policy or latent, in nats.  [..., C] -> [...]"""
    log_prob = _log_softmax(logit)
    return -(np.exp(log_prob) * log_prob).sum(-1)


def gaussian_entropy(std) -> np.ndarray:
    """Differential entropy of a diagonal Gaussian (before any squashing), in nats.  [..., A] -> [...]"""
    return (np.log(_floats(std)) + 0.5 * np.log(2 * np.pi * np.e)).sum(-1)


def reward_accuracy(rew, pred, mask=None, tolerance: float = 0.5) -> dict[str, float]:
    """Predicted against received rewards.  [...] -> mse, r2, share of rewards found, share invented

    A reward counts as found when the prediction is off by at most `tolerance` times its size; invented is the
    share of zero rewards where more than `tolerance` times the mean non-zero size was predicted.
    """
    rew, pred = _kept(rew, mask), _kept(pred, mask)
    nonzero = np.abs(rew) > EPS
    typical = np.abs(rew[nonzero]).mean() if nonzero.any() else 1.0
    found = np.abs(pred - rew)[nonzero] <= tolerance * np.abs(rew[nonzero])
    invented = np.abs(pred[~nonzero]) > tolerance * typical
    return {
        "mse": float(np.mean((rew - pred) ** 2)),
        "r2": explained_variance(pred, rew),
        "found": float(found.mean()) if found.size else np.nan,
        "invented": float(invented.mean()) if invented.size else np.nan,
    }


def continue_accuracy(cont, pred, mask=None) -> dict[str, float]:
    """P(not terminal) against what happened (1 or 0).  [...] -> accuracy, end_recall, bce, bce_base

    Ends are rare: a head that never predicts one is accurate too, so read the recall of the ends beside it,
    and the cross-entropy beside that of the base rate.
    """
    cont, pred = _kept(cont, mask), np.clip(_kept(pred, mask), 1e-7, 1 - 1e-7)
    ends = cont < 0.5
    rate = np.clip(cont.mean(), 1e-7, 1 - 1e-7)
    return {
        "accuracy": float(np.mean((pred > 0.5) == ~ends)),
        "end_recall": float(np.mean(pred[ends] < 0.5)) if ends.any() else float("nan"),
        "bce": float(-np.mean(cont * np.log(pred) + (1 - cont) * np.log(1 - pred))),
        "bce_base": float(-np.mean(cont * np.log(rate) + (1 - cont) * np.log(1 - rate))),
    }


def _kept(value, mask) -> np.ndarray:
    value = _floats(value)
    return value.ravel() if mask is None else value[to_numpy(mask).astype(bool)]


def active_units(mean, threshold: float = 0.01) -> int:
    """Latent dims whose posterior mean has a variance above `threshold` (Burda et al. 2016).  [N, D]"""
    mean = _floats(mean)
    return int((mean.reshape(-1, mean.shape[-1]).var(0) > threshold).sum())


def code_usage(tokens, size: int) -> dict[str, float]:
    """Token ids of any shape, codebook size -> share of codes in use, perplexity (at most `size`)."""
    counts = np.bincount(to_numpy(tokens).ravel().astype(np.int64), minlength=size)
    share = counts / max(counts.sum(), 1)
    entropy = -(share * np.log(np.maximum(share, EPS))).sum()
    return {"used": float((counts > 0).mean()), "perplexity": float(np.exp(entropy))}


def categorical_usage(prob) -> dict[str, float]:
    """Posteriors [..., G, C] -> perplexity of the average posterior per group (mean), share of groups > 1.5.

    A group that always picks the same class carries nothing: perplexity 1.
    """
    prob = _floats(prob)
    prob = prob.reshape(-1, *prob.shape[-2:]).mean(0)  # [G, C]
    perplexity = np.exp(-(prob * np.log(np.maximum(prob, EPS))).sum(-1))  # [G]
    return {"perplexity": float(perplexity.mean()), "groups_used": float((perplexity > 1.5).mean())}


def explained_variance(pred, target) -> float:
    """1 - Var(target - pred) / Var(target): 1 is perfect, 0 no better than a constant, nan undefined.

    Value accuracy: pred = val, target = the returns that followed.
    """
    pred, target = _floats(pred).ravel(), _floats(target).ravel()
    variance = target.var()
    return float("nan") if variance < EPS else float(1 - (target - pred).var() / variance)
