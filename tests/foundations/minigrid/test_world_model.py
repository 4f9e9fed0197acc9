"""The categorical model: sampling and its gradient, the masked prior, what each phase trains, overfit."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from common.errors import UserError
from foundations.minigrid.envs import SYMBOLS, make_env
from foundations.minigrid.experience import Transitions, as_transitions, collect
from foundations.minigrid.train_model import (
    BATCH,
    codes_of,
    distinct,
    distinct_rows,
    evaluate_model,
    train,
    train_steps,
    train_views,
)
from foundations.minigrid.world_model import (
    CategoricalWorldModel,
    ModelConfig,
    Prior,
    parse_latent,
    straight_through,
)

SMALL = ModelConfig(groups=4, classes=4, hidden=32)


@pytest.fixture(scope="module")
def seen():
    """A world and 400 random steps in it."""
    world = make_env("Empty-5x5", random_start=True, view=3)
    return world, as_transitions(collect(world, 400, 0))


def small_model(cells=10, symbols=5, actions=3, cfg=SMALL) -> CategoricalWorldModel:
    torch.manual_seed(0)
    return CategoricalWorldModel(cells, symbols, actions, cfg)


def test_straight_through_is_one_hot_forward_and_softmax_backward():
    logits = torch.randn(6, 4, 5, requires_grad=True)
    weight = torch.randn(6, 4, 5)
    sample = straight_through(logits.softmax(-1), torch.Generator().manual_seed(0))
    assert torch.allclose(sample, F.one_hot(sample.argmax(-1), 5).float(), atol=1e-6)
    assert sample.shape == (6, 4, 5)
    (grad,) = torch.autograd.grad((sample * weight).sum(), logits)
    (expected,) = torch.autograd.grad((logits.softmax(-1) * weight).sum(), logits)
    assert torch.allclose(grad, expected, atol=1e-6) and grad.abs().max() > 0.01


def test_straight_through_draws_from_the_probabilities():
    probs = torch.tensor([0.1, 0.2, 0.7]).expand(20_000, 3)
    share = straight_through(probs, torch.Generator().manual_seed(0)).mean(0)
    assert share.tolist() == pytest.approx([0.1, 0.2, 0.7], abs=0.015)


def test_shapes_and_probabilities():
    model = small_model()
    obs = torch.randint(5, (7, 10))
    model.set_scale(obs)
    probs = model.encode(obs)
    assert probs.shape == (7, 4, 4) and torch.allclose(probs.sum(-1), torch.ones(7, 4))
    assert probs.min() >= SMALL.unimix / SMALL.classes - 1e-7
    z, act = model.one_hot(model.code(obs)), torch.zeros(7, dtype=torch.long)
    assert model.decode(z).shape == (7, 10, 5) and model.dynamics(z, act).shape == (7, 4, 4)
    assert model.reward(z, act).shape == model.done(z, act).shape == (7,)
    assert model.frames(model.code(obs)[:, None].expand(7, 2, 4)).shape == (7, 2, 10)


def test_inputs_are_centred_and_scaled():
    model = small_model()
    obs = torch.randint(5, (64, 10))
    obs[:, 0] = 2  # a wall
    model.set_scale(obs)
    x = (F.one_hot(obs, 5).flatten(1).float() - model.mean) / model.std
    assert torch.allclose(x.mean(0), torch.zeros(50), atol=1e-5)
    assert torch.allclose(x.std(0, correction=0)[5:], torch.ones(45), atol=1e-4) and (x[:, :5] == 0).all()


def test_reward_end_and_next_code_depend_on_the_action():
    model = small_model()
    z = model.one_hot(torch.zeros(3, 4, dtype=torch.long))
    for head in (model.reward, model.done, model.dynamics):
        out = head(z, torch.arange(3))
        assert not torch.allclose(out[0], out[1]) and not torch.allclose(out[1], out[2])


def test_losses_are_named_unreduced_and_right():
    model = small_model()
    model.eval()
    code, after = torch.randint(4, (6, 4)), torch.randint(4, (6, 4))
    act, rew = torch.randint(3, (6,)), torch.rand(6)
    over = torch.tensor([True, False, False, True, False, False])
    losses = model.step_loss(code, act, rew, after, over)
    z = model.one_hot(code)
    log_probs = model.dynamics(z, act).log_softmax(-1)
    by_hand = -torch.stack([log_probs[b, torch.arange(4), after[b]].sum() for b in range(6)])
    assert torch.allclose(losses["dyn"], torch.where(over, 0.0, by_hand), atol=1e-5)
    assert torch.allclose(losses["rew"], (model.reward(z, act) - rew) ** 2)
    ends = torch.where(over, model.done(z, act), -model.done(z, act)).sigmoid()
    assert torch.allclose(losses["done"], -ends.log(), atol=1e-5)
    obs = torch.randint(5, (6, 10))
    assert model.view_loss(obs)["recon"].shape == (6,)
    assert {name: loss.shape for name, loss in model.prior_loss(code).items()} == {
        "prior": (6,),
        "independent": (6,),
    }


def test_reconstruction_is_summed_over_cells():
    model = small_model()
    with torch.no_grad():
        model.decoder[-1].weight.zero_()
        model.decoder[-1].bias.zero_()
    loss = model.view_loss(torch.randint(5, (6, 10)))["recon"]
    assert loss.tolist() == pytest.approx([10 * np.log(5)] * 6, rel=1e-5)


def test_the_prior_sees_only_what_came_before():
    torch.manual_seed(0)
    prior, z = Prior(4, 3), F.one_hot(torch.randint(3, (5, 4)), 3).float()
    jacobian = (
        torch.autograd.functional.jacobian(lambda x: prior(x).sum((0, 2)), z).abs().sum((1, 3))
    )  # [G out, G in]
    assert (jacobian.triu() == 0).all() and (jacobian[torch.tril(torch.ones(4, 4), -1) > 0] > 0).all()
    assert (
        torch.autograd.functional.jacobian(lambda x: Prior(4, 3, connected=False)(x).sum((0, 2)), z)
        .abs()
        .max()
        == 0
    )


def test_the_prior_learns_which_codes_exist():
    """Two codes that differ in every variable: independent variables mix them up, a chain does not."""
    torch.manual_seed(0)
    codes = torch.tensor([[0, 0, 0], [1, 1, 1]]).repeat(32, 1)
    model = small_model(cfg=ModelConfig(groups=3, classes=2, hidden=16))
    optim = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(200):
        optim.zero_grad()
        sum(loss.mean() for loss in model.prior_loss(codes).values()).backward()
        optim.step()
    losses = {name: loss.mean().item() for name, loss in model.prior_loss(codes).items()}
    assert losses["prior"] == pytest.approx(np.log(2), abs=0.05)
    assert losses["independent"] == pytest.approx(3 * np.log(2), abs=0.05)
    chain, mixed = (
        p.sample(200, torch.Generator().manual_seed(0)) for p in (model.prior, model.independent_prior)
    )
    assert (chain == chain[:, :1]).all(1).float().mean() > 0.95
    assert (mixed == mixed[:, :1]).all(1).float().mean() < 0.45


def test_each_phase_trains_its_own_part(seen):
    world, data = seen
    model = small_model(cells=26, symbols=len(SYMBOLS))
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def changed():
        return {
            name.split(".")[0]
            for name, value in model.state_dict().items()
            if not torch.equal(value, before[name])
        }

    train_views(model, distinct(data), 3, torch.Generator().manual_seed(0))
    assert changed() == {"mean", "std", "encoder", "decoder", "norm"}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train_steps(model, data, 3, torch.Generator().manual_seed(0))
    assert changed() == {"transition", "reward_head", "done_head", "prior", "independent_prior"}


def test_distinct_transitions(seen):
    _, data = seen
    rows = distinct_rows(data)
    keys = {
        (data.obs[i].tobytes(), int(data.act[i]), data.next_obs[i].tobytes()) for i in range(len(data.act))
    }
    assert len(rows) == len(keys) < len(data.act)
    assert {(data.obs[i].tobytes(), int(data.act[i]), data.next_obs[i].tobytes()) for i in rows} == keys


def test_stored_rows_and_their_shift():
    world = make_env("Empty-5x5", random_start=True, view=3, max_steps=20)
    rows = collect(world, 300, 0)
    data = as_transitions(rows)
    assert rows.steps == len(data.act) == 300 and rows.is_first.sum() == rows.is_last.sum()
    assert rows.goals == int(data.rew.sum()) == int(data.terminal.sum()) > 0
    assert (rows.act[rows.is_last] == 0).all() and (rows.rew[rows.is_first] == 0).all()
    assert set(data.rew.tolist()) == {0.0, 1.0}
    for i in range(
        300
    ):  # the world agrees with every transition: played again from the first of each episode
        if i == 0 or data.terminal[i - 1] or not np.array_equal(data.obs[i], data.next_obs[i - 1]):
            assert np.array_equal(data.obs[i][:-1] >= 12, data.obs[i][:-1] >= 12)
    forward = (data.act == 2) & ~data.terminal
    turned = (data.obs[~forward][:, :-1] >= 12).argmax(1) == (data.next_obs[~forward][:, :-1] >= 12).argmax(1)
    assert turned[~data.terminal[~forward]].all()  # turning never moves the agent; a shifted action would


def test_a_model_learns_a_world_by_heart(seen):
    """Every frame and every step of Empty-5x5, which 400 random steps show whole."""
    world, data = seen
    # Not smaller: with 6 variables of 6 classes and 64 units some views still share a code.
    model, log = train(world, data, (500, 1_000), ModelConfig(), seed=0)
    told = evaluate_model(model, data, data)
    assert told["codes"] == told["observations"] == 34
    assert told["exact_frame"] == 1.0 and told["exact_next_frame"] > 0.99
    assert log.view["recon"][-20:].mean() < 0.05 * log.view["recon"][:20].mean()
    code, act = codes_of(model, data.obs), torch.from_numpy(data.act)
    with torch.no_grad():
        z = model.one_hot(code)
        assert torch.equal(model.done(z, act) > 0, torch.from_numpy(data.terminal))
        assert (model.reward(z, act) - torch.from_numpy(data.rew)).abs().max() < 0.2


def test_without_normalising_the_code_collapses(seen):
    world, data = seen
    model, _ = train(
        world, data, (300, 20), ModelConfig(groups=6, classes=6, hidden=64, normalise=False), seed=0
    )
    told = evaluate_model(model, data, data)
    assert told["codes"] <= 4 and told["exact_frame"] < 0.2


def test_the_same_seed_gives_the_same_model(seen):
    world, data = seen
    first, second, other = (train(world, data, (5, 5), SMALL, seed)[0].state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["encoder.0.weight"], other["encoder.0.weight"])


def test_data_without_a_goal_can_be_learned_from(seen):
    world, data = seen
    quiet = Transitions(*(column[data.rew == 0] for column in data))
    model, log = train(world, quiet, (2, 2), SMALL, seed=0)
    assert np.isfinite(log.step["rew"]).all() and len(log.step["rew"]) == 2 < BATCH


def test_imagination_follows_the_dynamics():
    model = small_model().eval()
    code, acts = torch.randint(4, (5, 4)), torch.randint(3, (5, 3))
    codes, rews, ends = model.imagine(code, acts)
    assert codes.shape == (5, 4, 4) and rews.shape == ends.shape == (5, 3)
    with torch.no_grad():
        z = model.one_hot(codes[:, 1])
        assert torch.equal(codes[:, 2], model.dynamics(z, acts[:, 1]).argmax(-1))
        assert torch.allclose(rews[:, 1], model.reward(z, acts[:, 1]))
    assert ((ends > 0) & (ends < 1)).all()


@pytest.mark.parametrize("text", ["8", "8x", "8x1", "axb", "0x8", "8x8x8", "-1x3"])
def test_latents_that_cannot_be(text):
    with pytest.raises(UserError, match=f"--latent {text}: must be"):
        parse_latent(text)
    assert parse_latent("3x4") == (3, 4)
