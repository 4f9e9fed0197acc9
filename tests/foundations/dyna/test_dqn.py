"""Targets by hand, one step against plain torch, the ring, and the loop around them."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from common.errors import UserError
from foundations.dyna.agent import AgentConfig, Learner, greedy_returns, train_dqn, train_dyna_agent
from foundations.dyna.compare_agents import paired, stable_at
from foundations.dyna.dqn import QNetwork, Replay, select_action, td_target, train_on_batch
from foundations.dyna.games import CartPoleGames


def test_targets_by_hand():
    slow, one = torch.tensor([3.0, 4.0]), torch.tensor(1.0)
    assert td_target(one, torch.tensor(0.0), slow).item() == pytest.approx(4.96)
    assert td_target(one, torch.tensor(1.0), slow).item() == 1.0
    truncated = torch.tensor(0.0)  # a time limit is no end
    assert td_target(one, truncated, slow).item() == pytest.approx(4.96)
    online, slow = torch.tensor([5.0, 2.0]), torch.tensor([3.5, 4.0])  # the online network picks the first
    assert td_target(one, torch.tensor(0.0), slow, online).item() == pytest.approx(4.465)


def test_targets_of_a_batch():
    slow = torch.tensor([[[1.0, 2.0], [5.0, 0.0]]])
    found = td_target(torch.tensor([[0.5, 1.0]]), torch.tensor([[0.0, 1.0]]), slow, disc=0.5)
    assert found.tolist() == [[1.5, 1.0]]


def batch_of(seeds: int, rows: int = 16) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    shape = (seeds, rows)
    return {
        "obs": torch.randn(*shape, 4),
        "act": torch.randint(2, shape),
        "rew": torch.randn(shape),
        "next_obs": torch.randn(*shape, 4),
        "done": (torch.rand(shape) < 0.3).float(),
    }


def test_a_step_is_what_torch_does_with_one_network():
    torch.manual_seed(0)
    q = QNetwork(2, 4, 2, hidden=8)
    slow = copy.deepcopy(q)
    with torch.no_grad():
        for parameter in slow.parameters():
            parameter.add_(0.1)
    plain, plain_slow = (as_sequential(net, 1) for net in (q, slow))
    batch = batch_of(2)
    loss = train_on_batch(q, slow, torch.optim.SGD(q.parameters(), 0.1), batch, disc=0.9, polyak=0.25)

    obs, act, rew, next_obs, done = (batch[name][1] for name in ("obs", "act", "rew", "next_obs", "done"))
    with torch.no_grad():
        best = plain(next_obs).argmax(-1)
        target = rew + 0.9 * (1 - done) * plain_slow(next_obs)[torch.arange(16), best]
    expected = nn.functional.huber_loss(plain(obs)[torch.arange(16), act], target)
    optim = torch.optim.SGD(plain.parameters(), 0.1)
    expected.backward()
    optim.step()
    assert loss[1].item() == pytest.approx(expected.item(), rel=1e-5)
    for ours, theirs in zip(as_sequential(q, 1).parameters(), plain.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)
    for a, b, c in zip(
        as_sequential(slow, 1).parameters(), plain_slow.parameters(), plain.parameters(), strict=True
    ):
        assert torch.allclose(a, 0.75 * b + 0.25 * c, atol=1e-6)


def as_sequential(q: QNetwork, s: int) -> nn.Sequential:
    """Network s of a stack in torch's own layers."""
    layers = []
    for stacked in q.net.layers:
        linear = nn.Linear(*stacked.weight.shape[1:])
        linear.weight.data, linear.bias.data = (
            stacked.weight[s].detach().T.clone(),
            stacked.bias[s, 0].detach().clone(),
        )
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def test_greedy_but_for_epsilon():
    torch.manual_seed(0)
    q, rng = QNetwork(2, 4, 3), np.random.default_rng(0)
    obs = torch.randn(2, 2000, 4)
    greedy = q(obs).argmax(-1).numpy()
    assert np.array_equal(select_action(q, obs, 0.0, rng), greedy)
    share = (select_action(q, obs, 0.3, rng) != greedy).mean()
    assert share == pytest.approx(0.3 * 2 / 3, abs=0.03)


def test_the_ring_keeps_the_newest_of_each_seed_and_nothing_masked():
    ring = Replay(2, 4, 1)
    for start in (0, 3):
        value = torch.arange(start, start + 3).float().expand(2, 3)
        mask = torch.tensor([[True, True, True], [True, False, True]])
        ring.add(
            mask, obs=value[..., None], act=value, rew=value, next_obs=value[..., None] + 1, done=value * 0
        )
    assert ring.added.tolist() == [6, 4] and ring.size.tolist() == [4, 4]
    assert sorted(ring.columns["rew"][0].tolist()) == [2, 3, 4, 5]
    assert sorted(ring.columns["rew"][1].tolist()) == [0, 2, 3, 5]
    found = ring.sample(200, torch.Generator().manual_seed(0))
    assert set(found["rew"][1].tolist()) == {0, 2, 3, 5} and found["act"].dtype == torch.int64
    assert torch.equal(found["next_obs"], found["obs"] + 1) and torch.equal(
        found["obs"][..., 0], found["rew"]
    )


def test_a_ring_that_is_not_full_gives_only_what_it_holds():
    ring = Replay(2, 100, 1)
    ring.add(
        torch.tensor([[True, True], [True, False]]),
        **{k: torch.ones(2, 2, 1) if "obs" in k else torch.ones(2, 2) for k in ring.columns},
    )
    assert ring.sample(50, torch.Generator())["rew"].min() == 1


TINY = AgentConfig(
    steps=60,
    warmup=10,
    epsilon_steps=20,
    eval_every=30,
    eval_episodes=2,
    batch=8,
    hidden=8,
    imagined=200,
    model_from=30,
    model_every=20,
    model_updates=(4, 2),
    members=2,
)


def weights(agent: Learner) -> torch.Tensor:
    return torch.cat([p.flatten() for p in agent.q.parameters()])


def dyna(**more) -> AgentConfig:
    from dataclasses import replace

    return replace(TINY, **{"k": 2, "horizon": 3, **more})


def test_the_same_seed_gives_the_same_run_and_every_seed_its_own():
    a, b, c = (train_dyna_agent(dyna(), 2, seed) for seed in (0, 0, 1))
    assert np.array_equal(a["returns"], b["returns"]) and torch.equal(
        weights(a["agent"]), weights(b["agent"])
    )
    assert not torch.equal(weights(a["agent"]), weights(c["agent"]))
    assert a["steps"].tolist() == [30, 60] and a["returns"].shape == (2, 2) and a["kept"] == 1.0


def test_k_0_is_dqn():
    assert torch.equal(weights(train_dyna_agent(TINY, 2)["agent"]), weights(train_dqn(dyna(), 2)["agent"]))
    assert train_dqn(dyna(), 1)["kept"] is None


def count_updates(monkeypatch, cfg: AgentConfig) -> int:
    from foundations.dyna import agent

    calls = []
    real = agent.train_on_batch
    monkeypatch.setattr(agent, "train_on_batch", lambda *args: calls.append(1) or real(*args))
    train_dyna_agent(cfg, 1)
    return len(calls)


def test_updates_are_counted_as_the_config_says(monkeypatch):
    real = 60 - 10 + 1
    assert count_updates(monkeypatch, TINY) == real
    from dataclasses import replace

    assert count_updates(monkeypatch, replace(TINY, updates=3)) == 3 * real
    assert count_updates(monkeypatch, dyna()) == real + 2 * (60 - 30 + 1)


def test_the_true_model_imagines_the_truth():
    agent = train_dyna_agent(dyna(true_model=True), 2)["agent"]
    ring = agent.imagined
    rows = int(ring.size.min())
    assert rows > 20
    obs, act, next_obs = (ring.columns[name][:, :rows] for name in ("obs", "act", "next_obs"))
    found = agent.model.predict(obs, torch.nn.functional.one_hot(act, 2).float())
    assert torch.equal(found.next_obs, next_obs) and torch.equal(found.done, ring.columns["done"][:, :rows])


def test_imagination_goes_on_for_its_horizon_but_not_behind_an_end():
    agent = Learner(dyna(true_model=True, horizon=5, imagined=10_000), 1, 0)
    start = torch.tensor([0.0, 0, 0.2, 2.0])  # falls in one step
    agent.real.add(
        obs=start.expand(1, 1, 4),
        act=torch.zeros(1, 1),
        rew=torch.ones(1, 1),
        next_obs=start.expand(1, 1, 4),
        done=torch.zeros(1, 1),
    )
    agent.imagine(30)
    count = int(agent.imagined.added[0])
    assert count == 16 * 2 * 10 // 5 and agent.imagined.columns["done"][0, :count].min() == 1
    steady = Learner(dyna(true_model=True, horizon=5, imagined=10_000), 1, 0)
    steady.real.add(
        obs=torch.zeros(1, 1, 4),
        act=torch.zeros(1, 1),
        rew=torch.ones(1, 1),
        next_obs=torch.zeros(1, 1, 4),
        done=torch.zeros(1, 1),
    )
    steady.imagine(30)
    assert int(steady.imagined.added[0]) == 5 * count  # all five steps of each start


def test_the_cut_rejects_what_the_members_disagree_on():
    found = train_dyna_agent(dyna(cut=0.5), 2)
    assert 0.1 < found["kept"] < 0.9
    assert torch.isfinite(found["agent"].threshold).all()


def test_greedy_returns_stop_at_the_first_end():
    games = CartPoleGames(4, 0)
    ret = greedy_returns(games, lambda obs: np.ones(obs.shape[:2], np.int64), 2)
    assert ret.shape == (2,) and (8 <= ret).all() and (ret <= 11).all()


def test_agents_refuse_what_they_cannot_play():
    with pytest.raises(UserError, match="discrete actions"):
        Learner(AgentConfig(env="Pendulum-v1"), 1, 0)
    with pytest.raises(UserError, match="only CartPole-v1 has its dynamics"):
        Learner(AgentConfig(env="MountainCar-v0", k=1, true_model=True), 1, 0)


def test_three_in_a_row_make_it_stable():
    steps = np.arange(250, 1750, 250)
    returns = np.array([[480, 480, 480, 0, 0, 0], [0, 480, 480, 470, 480, 480], [0, 0, 0, 475, 475, 500]])
    assert stable_at(steps, returns) == [250, None, 1000]


def test_a_gain_is_claimed_only_against_both():
    rng = np.random.default_rng(0)
    base = rng.normal(100, 10, 20)

    def row(label, k, areas, updates=1):
        return {"label": label, "k": k, "updates": updates, "areas": areas}

    rows = [row("DQN", 0, base), row("DQN, 6 updates", 0, base + 30, 6)]
    rows += [row(name, 5, base + gain) for name, gain in (("much", 60), ("some", 15), ("less", -20))]
    assert [found["verdict"] for found in paired(rows)] == ["gain", "no gain shown", "loss"]
    assert paired(rows)[0]["dqn"][0] == pytest.approx(60) and paired(rows)[0]["equal"][0] == pytest.approx(30)


@pytest.mark.slow
def test_dqn_learns_cartpole():
    found = train_dqn(AgentConfig(steps=5000, polyak=0.005), seeds=8, seed=3)
    assert found["returns"][:, -5:].mean() > 200 > 30 > found["returns"][:, 0].mean() - 20
