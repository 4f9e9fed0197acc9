"""One batch can be learned by heart: picture, reward, and a latent that no longer surprises (12.15)."""

import numpy as np
import pytest
import torch

from common.config import override
from common.spaces import Spaces
from paper3_dreamerv2.config import Config
from paper3_dreamerv2.world_model import WorldModel

SETTINGS = {
    "conv.depth": 8,
    "rssm.deter": 64,
    "rssm.hidden": 64,
    "rssm.stoch": 8,
    "rssm.classes": 8,
    "model.layers": 2,
    "model.units": 64,
}


def moving_square(B: int = 4, T: int = 8, seed: int = 0) -> dict[str, torch.Tensor]:
    """A white 12 x 12 square moved 2 pixels by each of four actions; the reward is where it stands."""
    rng = np.random.default_rng(seed)
    act, place = rng.integers(4, size=(B, T)), rng.integers(53, size=(B, 2))
    image, rew = np.zeros((B, T, 64, 64, 1), np.uint8), np.zeros((B, T), np.float32)
    for t in range(T):
        if t:
            place = np.clip(place + 2 * np.array([[0, 1], [0, -1], [1, 0], [-1, 0]])[act[:, t]], 0, 52)
        for b, (y, x) in enumerate(place):
            image[b, t, y : y + 12, x : x + 12] = 255
        rew[:, t] = place[:, 1] / 26 - 1
    is_first = np.tile(np.arange(T) == 0, (B, 1))
    prev_act = np.eye(4, dtype=np.float32)[act] * ~is_first[..., None]
    rows = {"image": image, "prev_act": prev_act, "rew": rew, "is_first": is_first}
    return {name: torch.from_numpy(value) for name, value in rows.items()} | {
        "is_terminal": torch.zeros(B, T, dtype=torch.bool)
    }


def learn(updates: int) -> list[dict[str, float]]:
    """Squared error of a picture and of a reward, and the KL, before each update and at the end."""
    torch.manual_seed(0)
    batch, curve = moving_square(), []
    model = WorldModel(override(Config(), SETTINGS), Spaces({"image": (64, 64, 1)}, 4, True), False)
    optim = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-5)
    for _ in range(updates + 1):
        losses, _, _ = model.loss(batch)
        curve.append(
            {
                "sse": 2 * losses["image"].mean().item(),
                "rew": 2 * losses["rew"].mean().item(),
                "kl": losses["kl_prior"].mean().item(),
            }
        )
        optim.zero_grad()
        model.total(losses).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 100)
        optim.step()
    return curve


def blind_error(batch: dict[str, torch.Tensor]) -> float:
    """What the mean picture leaves over."""
    image = batch["image"].float() / 255
    return (image - image.mean((0, 1))).square().sum((-3, -2, -1)).mean().item()


def test_the_first_seconds_of_the_gate():
    """80 updates: well below the mean picture, where a latent that says nothing ends."""
    curve, blind = learn(80), blind_error(moving_square())
    assert curve[0]["sse"] == pytest.approx(1024, rel=0.02)  # 4096 pixels, half a unit off
    assert blind == pytest.approx(114.5, abs=0.5)
    assert curve[80]["sse"] < 0.75 * blind
    assert max(row["kl"] for row in curve) > 5 and curve[80]["kl"] < 4
    assert curve[80]["rew"] < 0.7 * curve[0]["rew"]


@pytest.mark.slow
def test_one_batch_is_learned_by_heart():
    curve = learn(600)
    assert curve[100]["sse"] < 75 and curve[300]["sse"] < 30 and curve[600]["sse"] < 20
    assert curve[300]["rew"] < 0.05 * curve[0]["rew"]
    assert curve[600]["kl"] < 0.2  # the recurrent state knows the four sequences by heart
