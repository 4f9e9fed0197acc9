"""Both gradients on a bandit inside a hand-made world model, through the real imagination (12.16, 12.17)."""

import pytest
import torch
from torch import nn

from paper3_dreamerv2 import actor_critic
from paper3_dreamerv2.actor_critic import OneHot, actor_loss, imagine, lambda_target, weights
from paper3_dreamerv2.rssm import State

N, ARMS, H = 256, 2, 2


class ByHand:
    """A world model without weights: the state is the last action, its first number the reward."""

    rssm: "ByHand"

    def __init__(self):
        self.rssm = self

    def imagine(self, state: State, act: torch.Tensor) -> State:
        return State(act, state.stoch, state.stats)

    def reward(self, feat: torch.Tensor) -> torch.Tensor:
        return feat[..., 0]


class FreeLogits(nn.Module):
    """The same policy in every state."""

    def __init__(self):
        super().__init__()
        self.logit = nn.Parameter(torch.zeros(ARMS))

    def forward(self, feat: torch.Tensor) -> OneHot:
        return OneHot(self.logit.expand(*feat.shape[:-1], ARMS))


def learn(rho: float, entropy: float, seed: int = 0, advantage: str = "eq6", updates: int = 200) -> float:
    """pi(first arm) after so many updates with baseline 0.5.  V_0 = r(s_1): lam 1, d 1, v'(s_2) 0."""
    torch.manual_seed(seed)
    model, actor = ByHand(), FreeLogits()
    start = State(torch.zeros(N, ARMS), torch.zeros(N, 0), torch.zeros(N, 0))
    optim = torch.optim.Adam(actor.parameters(), lr=1e-2)
    for _ in range(updates):
        dream = imagine(model, actor, start, H, with_graph=rho < 1)
        rew = model.reward(dream.feat)  # [H + 1, N]: 0, of the first action, of the second
        slow = torch.zeros_like(rew)
        if advantage == "eq6":
            rew = torch.cat([rew[:2], slow[2:]])  # the second action is not to be learned from
        disc = torch.ones_like(rew)
        target = lambda_target(rew, slow, disc, 1.0)
        loss = actor_loss(
            actor(dream.feat[:-2].detach()),
            dream.act,
            target,
            torch.full((H - 1, N), 0.5),
            weights(disc),
            rho=rho,
            entropy=entropy,
            advantage=advantage,
        )
        optim.zero_grad()
        loss.backward()
        optim.step()
    return actor.logit.softmax(-1)[0].item()


@pytest.mark.parametrize("rho, expected, seed", [(1.0, 0.943, 0), (1.0, 0.943, 1), (0.0, 0.9428, 0)])
def test_the_better_arm_is_found(rho, expected, seed):
    assert learn(rho, 1e-3, seed) == pytest.approx(expected, abs=0.003)


@pytest.mark.parametrize("rho", [1.0, 0.0])
def test_a_large_entropy_bonus_wins_over_the_reward(rho):
    """Closed form: pi = sigmoid(1 / eta)."""
    assert learn(rho, 10.0) == pytest.approx(0.52498, abs=0.003)


def test_the_other_advantage_and_the_mix_find_it_too():
    assert learn(0.5, 1e-3, advantage="head") > 0.92


def test_without_the_straight_through_draw_the_dynamics_teach_nothing(monkeypatch):
    """A plain draw has no gradient: nothing but the entropy is left, and the policy stays where it is."""
    plain = OneHot.rsample
    monkeypatch.setattr(actor_critic.OneHot, "rsample", lambda self: plain(self).detach())
    assert learn(0.0, 1e-3) == 0.5
    assert learn(1.0, 1e-3, updates=50) > 0.6  # REINFORCE does not mind
