"""Actor and critic: distributions, lambda-returns, which gradient reaches what, schedules, learning."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from foundations.tssm import train as training
from foundations.tssm.agent import Agent, Critic, TanhNormal, lambda_return, normalised
from foundations.tssm.config import PRESETS, AgentConfig, Config, DynamicsConfig, for_penalty
from foundations.tssm.dynamics import Dream, Dynamics, count_parameters
from foundations.tssm.train import Windows, entropy_weight, fit_agent

SMALL = AgentConfig(units=16, batch=8, updates=4, eval_every=2)


def parts(cfg: AgentConfig = SMALL, latents: int = 3, classes: int = 4, **dynamics):
    torch.manual_seed(0)
    shape = dict(width=16, layers=1, heads=2, token_units=16, act_units=8) | dynamics
    model = Dynamics(DynamicsConfig(**shape), latents, classes, 2)
    stoch = F.one_hot(torch.randint(classes, (8, latents)), classes).float()
    return Agent(cfg, latents, classes, 2), model, stoch, torch.randn(8)


def test_log_prob_against_torch_distributions():
    mean, std = torch.tensor([[0.3, -1.2]]), torch.tensor([[0.4, 0.9]])
    dist = TanhNormal(mean, std)
    torch.manual_seed(0)
    raw, act = dist.rsample()
    base = torch.distributions.Independent(torch.distributions.Normal(mean, std), 1)
    squashed = torch.distributions.TransformedDistribution(
        base, torch.distributions.TanhTransform(cache_size=1)
    )
    torch.testing.assert_close(dist.log_prob(raw), squashed.log_prob(act), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(dist.mode, mean.tanh())


def test_actor_begins_near_0_within_its_bounds():
    agent, _, stoch, _ = parts(PRESETS["tiny"].agent)
    dist = agent.actor(stoch)
    assert dist.mean.abs().max() < 0.3 and (dist.std - 0.5).abs().max() < 0.1
    with torch.no_grad():
        agent.actor.net[-1].weight.mul_(1e3)
    dist = agent.actor(stoch)
    assert dist.mean.abs().max() <= 2.0
    assert (dist.std.min().item(), dist.std.max().item()) == (pytest.approx(0.3), pytest.approx(1.0))


def test_sizes_of_the_tiny_preset():
    agent = Agent(PRESETS["tiny"].agent, 16, 8, 2)
    assert count_parameters(agent.actor) == 34_052
    assert count_parameters(agent.critic) == 33_665


def test_critic_learns_mean_rewards():
    critic = Critic(SMALL, 12)
    stoch = torch.rand(5, 3, 4)
    torch.testing.assert_close(critic(stoch), critic.net(stoch.flatten(1)).squeeze(-1) * 10)


@pytest.mark.parametrize("horizon", [1, 2, 5, 10])
@pytest.mark.parametrize("lam", [0.0, 0.5, 0.95, 1.0])
def test_lambda_weights_sum_to_1(horizon, lam):
    """Bootstrap values of 1, no reward, no discount: the return is the sum of the weights."""
    rew, ones = torch.zeros(horizon, 1), torch.ones(horizon, 1)
    val = torch.ones(horizon + 1, 1)
    torch.testing.assert_close(lambda_return(rew, val, ones, lam), ones)
    for n in range(1, horizon + 1):  # the value n steps on has the weight of the n-step return
        only = torch.zeros(horizon + 1, 1)
        only[n] = 1
        weight = lam ** (horizon - 1) if n == horizon else (1 - lam) * lam ** (n - 1)
        assert float(lambda_return(rew, only, ones, lam)[0]) == pytest.approx(weight, abs=1e-6)


def test_lambda_return_is_the_mixture_of_n_step_returns():
    torch.manual_seed(0)
    horizon, lam = 6, 0.9
    rew, val = torch.randn(horizon, 3).double(), torch.randn(horizon + 1, 3).double()
    disc = torch.rand(horizon, 3).double()
    for t in range(horizon):
        mixture, left = 0.0, horizon - t
        for n in range(1, left + 1):
            ret, factor = 0.0, torch.ones(3).double()
            for k in range(n):
                ret, factor = ret + factor * rew[t + k], factor * disc[t + k]
            share = lam ** (left - 1) if n == left else (1 - lam) * lam ** (n - 1)
            mixture = mixture + share * (ret + factor * val[t + n])
        torch.testing.assert_close(lambda_return(rew, val, disc, lam)[t], mixture)


def test_rows_after_a_likely_end_count_less():
    agent, *_ = parts()
    alive = torch.full((3, 1), 0.5)
    dream = Dream(torch.rand(4, 1, 3, 4), torch.zeros(3, 1), torch.zeros(3, 1, 2), alive)
    ret, weight = agent.returns(dream)
    assert weight.flatten().tolist() == [1.0, 0.5, 0.25]
    val = agent.slow_critic(dream.stoch)
    torch.testing.assert_close(ret[-1], 0.9 * 0.5 * val[-1])


# --- gradients ---


def gradients(agent, model, stoch, rew, objective="value"):
    for module in (agent, model):
        module.zero_grad(set_to_none=True)
    losses = agent.losses(model, stoch, rew, objective, 0.0)
    return {name: loss.mean() for name, loss in losses.items()}


def test_actor_loss_reaches_the_actor_alone():
    agent, model, stoch, rew = parts()
    for objective in ("value", "reward", "reinforce"):
        loss = gradients(agent, model, stoch, rew, objective)["actor"]
        norm = training._descend(
            torch.optim.SGD(agent.actor.parameters(), 0.0), agent.actor, {"a": loss}, 1e9
        )
        assert norm > 0, objective
        others = [*model.parameters(), *agent.critic.parameters(), *agent.slow_critic.parameters()]
        assert all(p.grad is None for p in others), objective


def test_critic_loss_reaches_the_critic_alone():
    agent, model, stoch, rew = parts()
    gradients(agent, model, stoch, rew)["critic"].backward()
    assert all(p.grad is not None for p in agent.critic.parameters())
    others = [*agent.actor.parameters(), *agent.slow_critic.parameters(), *model.parameters()]
    assert all(p.grad is None for p in others)


def test_gradient_crosses_two_and_more_steps_of_the_model():
    """The last reward of a dream moves with its first action, and only through the latents and rewards."""
    _, model, stoch, rew = parts()
    torch.manual_seed(0)
    acts = [torch.rand(8, 2, requires_grad=True) for _ in range(4)]
    plan = iter(acts)
    dream = model.imagine(stoch, rew, lambda _: next(plan), 4, temperature=12.0)
    found = torch.autograd.grad(dream.rew[-1].sum(), acts)
    assert all(grad.abs().max() > 0 for grad in found)
    early = torch.autograd.grad(
        model.imagine(stoch, rew, lambda _: acts[0], 1).rew.sum(), acts, allow_unused=True
    )
    assert early[0].abs().max() > 0 and early[1] is None


def test_actor_sees_no_gradient_at_its_input():
    """If it saw one, the first action's gradient would also pass through the actor's later actions."""
    agent, model, stoch, rew = parts()
    seen = []
    forward = agent.actor.forward
    agent.actor.forward = lambda z: (seen.append(z), forward(z))[1]
    agent.dream(model, stoch, rew)
    assert len(seen) == SMALL.horizon and not any(z.requires_grad for z in seen)


def test_value_gradient_is_that_of_the_return():
    """Against finite differences in the actor's last bias, in a model whose latents never switch."""
    agent, model, stoch, rew = parts(dataclasses.replace(SMALL, horizon=3))
    agent, model, stoch, rew = agent.double(), model.double(), stoch.double(), rew.double()
    with torch.no_grad():
        model.stoch_head[-1].weight.zero_()  # the same latents whatever is done: rewards alone carry

    def loss():
        torch.manual_seed(3)
        return agent.losses(model, stoch, rew, "value", 0.1)["actor"].mean()

    bias = agent.actor.net[-1].bias
    (found,) = torch.autograd.grad(loss(), bias)
    numeric, eps = torch.zeros_like(bias), 1e-6
    with torch.no_grad():
        for i in range(len(bias)):
            bias[i] += eps
            up = loss()
            bias[i] -= 2 * eps
            numeric[i] = (up - loss()) / (2 * eps)
            bias[i] += eps
    torch.testing.assert_close(found, numeric, rtol=1e-5, atol=1e-9)


def test_reinforce_ascends_by_its_estimate():
    """-logp * normalised advantage, by hand; the dream itself carries nothing."""
    agent, model, stoch, rew = parts()
    torch.manual_seed(3)
    losses = agent.losses(model, stoch, rew, "reinforce", 0.0)
    torch.manual_seed(3)
    with torch.no_grad():
        dream, raw, _ = agent.dream(model, stoch, rew)
        ret, _ = agent.returns(dream)
        adv = ret - agent.critic(dream.stoch[:-1])
    logp = agent.actor(dream.stoch[:-1]).log_prob(raw)
    torch.testing.assert_close(losses["actor"], -logp * (adv - adv.mean()) / (adv.std() + 1e-8))
    scaled = normalised(torch.randn(5, 7) * 3 + 2)
    assert float(scaled.mean()) == pytest.approx(0, abs=1e-5) and float(scaled.std()) == pytest.approx(
        1, abs=1e-4
    )


@pytest.mark.parametrize("objective", ["value", "reinforce"])
def test_entropy_bonus_widens_the_policy(objective):
    agent, model, stoch, rew = parts()
    before = agent.actor(stoch).std.mean().item()
    optim = torch.optim.Adam(agent.actor.parameters(), 1e-2)
    for _ in range(30):
        loss = agent.losses(model, stoch, rew, objective, 100.0)["actor"]
        training._descend(optim, agent.actor, {"actor": loss}, 1.0)
    assert agent.actor(stoch).std.mean().item() > before + 0.1


def test_reward_objective_sums_the_dream():
    agent, model, stoch, rew = parts()
    torch.manual_seed(3)
    loss = agent.losses(model, stoch, rew, "reward", 0.0)["actor"].mean()
    torch.manual_seed(3)
    dream, _, _ = agent.dream(model, stoch, rew)
    torch.testing.assert_close(loss, -dream.rew.sum(0).mean())


def test_slow_critic_follows():
    agent, *_ = parts()
    with torch.no_grad():
        for p in agent.critic.parameters():
            p.add_(1.0)
    before = [p.clone() for p in agent.slow_critic.parameters()]
    agent.update_slow()
    for old, new in zip(before, agent.slow_critic.parameters(), strict=True):
        torch.testing.assert_close(new - old, torch.full_like(old, 0.02), atol=1e-6, rtol=0)


def test_entropy_schedule():
    fixed, falling = AgentConfig(), for_penalty(Config(), 100.0).agent
    assert {round(entropy_weight(fixed, "value", step), 6) for step in (0, 400, 799)} == {0.1}
    assert entropy_weight(fixed, "reinforce", 5) == 0.01
    assert entropy_weight(falling, "value", 0) == pytest.approx(0.1)
    half = entropy_weight(falling, "value", round(0.35 * falling.updates))
    assert half == pytest.approx((0.1 + 0.003) / 2, rel=1e-3)
    assert entropy_weight(falling, "value", round(0.7 * falling.updates)) == pytest.approx(0.003)
    assert entropy_weight(falling, "value", falling.updates - 1) == pytest.approx(0.003)


def test_large_penalties_change_what_they_must():
    assert for_penalty(Config(), 1.0) == Config()
    config = for_penalty(Config(), 100.0)
    assert config.symlog and config.dynamics.rew_weight == 1.0 and config.env.threat_penalty == 100.0
    assert config.agent.updates == 3500 and config.agent.min_std == 0.2


def test_equal_seeds_equal_agents_and_evaluations_at_their_updates():
    _, model, _, _ = parts()
    data = Windows(
        torch.randint(4, (6, 5, 3)), torch.zeros(6, 5, 2), torch.randn(6, 5), torch.zeros(6, 5) > 0
    )
    config = Config(
        agent=dataclasses.replace(SMALL, updates=5),
        code=dataclasses.replace(Config().code, latents=3, classes=4),
    )
    score = lambda agent: {"return": float(agent.act(F.one_hot(data.codes[0, :1], 4).float()).sum().detach())}  # noqa: E731
    runs = [fit_agent(config, model, data, "value", seed, score)[1] for seed in (0, 0, 1)]
    returns = [[row["return"] for row in told["evaluations"]] for told in runs]
    assert returns[0] == returns[1] != returns[2]
    assert [row["update"] for row in runs[0]["evaluations"]] == [2, 4, 5]
    assert np.isfinite([row["grad_norm"] for row in runs[0]["curve"]]).all()


@pytest.mark.slow
def test_tiny_preset_solves_simple_world(tmp_path):
    """About 3 CPU minutes; random 0, straight line 24.04, optimal 24.09."""
    from foundations.tssm.flags import TrainArgs
    from foundations.tssm.stages import run_agent, run_dynamics, run_observation

    config = dataclasses.replace(Config(), agent=dataclasses.replace(Config().agent, updates=600))
    device = torch.device("cpu")
    torch.set_num_threads(TrainArgs().threads)
    observation = run_observation(tmp_path, config, "tiny", 0, device)
    dynamics = run_dynamics(tmp_path, config, 0, device)
    agent = run_agent(tmp_path, config, "value", 0, device)
    assert observation["exact_frames"] >= 0.99
    assert dynamics["frames_right"] >= 0.94
    assert agent["score"]["return"] >= 15
    assert sum(sum(part["cpu_s"].values()) for part in (observation, dynamics, agent)) < 8 * 60
