"""Models: counts, losses by hand, what an ensemble is, stacked training against training alone."""

import copy

import numpy as np
import pytest
import torch

from common.errors import UserError
from foundations.dyna import data_collection as data
from foundations.dyna.nets import StackedMLP
from foundations.dyna.train_model import (
    VARIANTS,
    DataSets,
    evaluate_one_step,
    fit,
    fit_named,
    load_model,
    make_model,
    save_model,
)
from foundations.dyna.world_model import (
    PLAIN,
    CopyLast,
    DynamicsModel,
    Ensemble,
    LeastSquares,
    ModelConfig,
    Prediction,
    count_parameters,
)


@pytest.mark.parametrize(
    ("cfg", "count"),
    [
        (PLAIN, 2_596),
        (ModelConfig((64, 32), "relu", delta=False, standardise=False, heads=False), 2_660),  # one-hot
        (ModelConfig((128, 32), "relu", delta=False, standardise=False, one_hot=False, heads=False), 5_028),
        (ModelConfig(), 4_868 + 834),
    ],
)
def test_parameter_counts(cfg, count):
    assert count_parameters(DynamicsModel(4, 2, cfg)) == count
    assert count_parameters(DynamicsModel(4, 2, cfg, stack=3), 3) == count


def random_set(n: int, seed: int = 0, size: int = 3, actions: int = 2) -> data.Transitions:
    rng = np.random.default_rng(seed)
    obs = rng.normal(size=(n, size)).astype(np.float32)
    act = np.eye(actions, dtype=np.float32)[rng.integers(actions, size=n)]
    next_obs = obs + 0.1 * np.tanh(obs[:, ::-1]) + 0.2 * act[:, :1]
    done = (next_obs[:, 0] > 1.5).astype(np.float32)
    return data.Transitions(obs, act, next_obs[:, 1], next_obs.astype(np.float32), done)


def test_losses_by_hand():
    model = DynamicsModel(1, 2, ModelConfig(done_weight=3.0))
    model.out_mean.fill_(1.0)
    model.out_std.fill_(2.0)
    with torch.no_grad():
        for parameter in model.net.parameters():
            parameter.zero_()
        for parameter in model.heads.parameters():
            parameter.zero_()
        model.net.layers[-1].bias[0, 0] = 0.5  # of the standardised change
        model.heads.layers[-1].bias[0, 0] = torch.tensor([2.0, 0.0])  # reward, logit of the end
    column = torch.tensor([[2.0, 2.0]])
    batch = {
        "obs": column[..., None],
        "act": torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]),
        "rew": torch.tensor([[1.0, 2.0]]),
        "next_obs": column[..., None] + 3.0,  # a change of 3 is (3 - 1) / 2 = 1
        "done": torch.tensor([[0.0, 1.0]]),
    }
    losses = model.loss(**batch)
    assert losses.keys() == {"obs", "rew", "done"} and all(x.shape == (1, 2) for x in losses.values())
    assert losses["obs"][0].tolist() == [0.25, 0.25] and losses["rew"][0].tolist() == [1.0, 0.0]
    assert losses["done"][0].tolist() == pytest.approx([np.log(2), 3 * np.log(2)])  # what ends weighs 3
    found = model.predict(batch["obs"], batch["act"])
    assert found.next_obs[0, :, 0].tolist() == [4.0, 4.0] and found.done[0].tolist() == [
        0.5,
        0.5,
    ]  # 2 + .5*2 + 1


def test_the_heads_do_not_disturb_the_state():
    torch.manual_seed(0)
    model = DynamicsModel(3, 2)
    part = [torch.from_numpy(x)[None] for x in random_set(16)]
    losses = model.loss(*part)
    (losses["rew"].sum() + losses["done"].sum()).backward()
    assert all(p.grad is None for p in model.net.parameters())
    assert all(p.grad.abs().sum() > 0 for p in model.heads.parameters())


def test_the_plain_one_predicts_the_state_from_the_number_of_the_action():
    model = DynamicsModel(4, 2, PLAIN)
    obs, act = torch.randn(1, 5, 4), torch.eye(2)[torch.tensor([0, 1, 1, 0, 1])][None]
    assert model.inputs(obs, act)[0, :, 4].tolist() == [0, 1, 1, 0, 1]
    assert torch.equal(model.predict(obs, act).next_obs, model.net(model.inputs(obs, act)))
    assert model.loss(obs, act, act[..., 0], obs, act[..., 0]).keys() == {"obs"}


class Fixed(DynamicsModel):
    """Members that always say the same: (0, 0), (1, 0), (2, 0), (3, 0), (4, 5)."""

    said = torch.tensor([[0.0, 0], [1, 0], [2, 0], [3, 0], [4, 5]])

    def predict(self, obs, act):
        next_obs = self.said.repeat(obs.shape[0] // 5, 1)[:, None].expand(-1, obs.shape[1], -1)
        return Prediction(next_obs, next_obs[..., 0], torch.sigmoid(next_obs[..., 1]))


def test_an_ensembles_mean_and_disagreement():
    ensemble = Ensemble(Fixed(2, 2, stack=10), 5)  # two seeds of five members
    mean, disagreement = ensemble.predict(torch.zeros(2, 3, 2), torch.zeros(2, 3, 2))
    assert mean.next_obs.shape == (2, 3, 2) and mean.next_obs[1, 2].tolist() == [2, 1]
    assert disagreement.shape == (2, 3) and disagreement[0, 0].item() == pytest.approx(1.707107, abs=1e-6)
    ensemble.model.out_std.fill_(2.0)  # it is measured in deviations of the target
    halved = ensemble.predict(torch.zeros(2, 3, 2), torch.zeros(2, 3, 2))[1]
    assert halved[0, 0].item() == pytest.approx(1.707107 / 2, abs=1e-6)


def test_an_ensemble_is_never_worse_than_its_members_on_the_average():
    """Krogh and Vedelsby 1995: error of the mean = mean error - variance of the members."""
    said = Fixed.said.double()
    assert said.mean(0).square().mean().item() == pytest.approx(2.5)
    assert (said.square().mean(1).mean() - said.var(0, correction=0).mean()).item() == pytest.approx(2.5)
    torch.manual_seed(0)
    part = random_set(200)
    ensemble = Ensemble(DynamicsModel(3, 2, ModelConfig(), stack=5), 5)
    obs, act, target = (torch.from_numpy(x)[None] for x in (part.obs, part.act, part.next_obs))
    mean = ensemble.predict(obs, act)[0].next_obs
    each = ensemble.each(obs, act).next_obs[0]
    of_mean = (mean[0] - target[0]).square().mean()
    of_members = (each - target).square().mean()
    variance = each.var(0, correction=0).mean()
    assert torch.allclose(of_mean, of_members - variance, atol=1e-5) and of_mean < of_members


def test_members_are_read_in_the_order_of_the_stack():
    torch.manual_seed(0)
    model = DynamicsModel(3, 2, stack=4)
    obs, act = torch.randn(2, 6, 3), torch.eye(2)[torch.randint(2, (2, 6))]
    each = Ensemble(model, 2).each(obs, act).next_obs  # [2, 2, 6, 3]
    for n in range(4):
        alone = make_alone(model, n)
        assert torch.allclose(
            each[n // 2, n % 2], alone.predict(obs[n // 2][None], act[n // 2][None]).next_obs[0], atol=1e-6
        )


def make_alone(model: DynamicsModel, n: int) -> DynamicsModel:
    """Network n of a stack as a stack of one."""
    alone = DynamicsModel(3, 2, model.cfg)
    alone.load_state_dict({name: value[n : n + 1] for name, value in model.state_dict().items()})
    return alone


def test_a_stack_learns_what_each_network_learns_alone():
    torch.manual_seed(0)
    model = DynamicsModel(3, 2, ModelConfig((16, 16)), stack=3)
    alone = [make_alone(model, n) for n in range(3)]
    sets = [random_set(50, seed) for seed in range(3)]
    columns = DataSets(sets).columns
    optims = [torch.optim.Adam(m.parameters(), 1e-2) for m in (model, *alone)]
    for _ in range(5):
        for m, optim, part in zip(
            (model, *alone),
            optims,
            (columns, *[[c[n : n + 1] for c in columns] for n in range(3)]),
            strict=True,
        ):
            optim.zero_grad()
            sum(loss.mean(-1).sum() for loss in m.loss(*part).values()).backward()
            optim.step()
    for n in range(3):
        for a, b in zip(make_alone(model, n).parameters(), alone[n].parameters(), strict=True):
            assert torch.allclose(a, b, atol=1e-5)


def test_the_first_weights_are_as_wide_as_torchs():
    torch.manual_seed(0)
    stacked, linear = StackedMLP(50, [16, 8]).layers[0], torch.nn.Linear(16, 8)
    assert stacked.weight.abs().max() <= 0.25 and stacked.weight.std().item() == pytest.approx(
        0.25 / 3**0.5, rel=0.05
    )
    assert linear.weight.abs().max() <= 0.25


def test_dropout_drops_only_while_training():
    torch.manual_seed(0)
    net = StackedMLP(1, [4, 64, 2], dropout=0.5)
    x = torch.randn(1, 3, 4)
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))


def test_batches_show_each_network_its_own_data_once_an_epoch_and_no_padding():
    sets = [random_set(20, 0), random_set(35, 1)]
    sets = [
        part._replace(rew=np.arange(len(part.rew), dtype=np.float32) + 100 * s) for s, part in enumerate(sets)
    ]
    owner = torch.tensor([0, 0, 1, 1])
    found = [columns[2] for columns in DataSets(sets).batches(owner, 5, 2, torch.Generator().manual_seed(0))]
    assert len(found) == 2 * 4  # 20 // 5 batches in each of two epochs
    first = torch.cat(found[:4], 1)  # [4, 20]
    assert [sorted(row.tolist()) for row in first[:2]] == [list(range(20))] * 2
    assert first[0].tolist() != first[1].tolist()  # each in its own order
    assert all(len(set(row.tolist())) == 20 and 100 <= row.min() and row.max() < 135 for row in first[2:])
    assert found[0][0].tolist() != found[4][0].tolist()


def test_statistics_are_of_each_networks_own_data():
    sets = [random_set(40, 0), random_set(40, 1)]
    model = DynamicsModel(3, 2, stack=4)
    fit(model, DataSets(sets), 2, epochs=1, batch=20)
    for n in range(4):
        change = sets[n // 2].next_obs - sets[n // 2].obs
        assert np.allclose(model.out_mean[n, 0], change.mean(0), atol=1e-5)
        assert np.allclose(model.out_std[n, 0], change.std(0, ddof=1), atol=1e-5)


def test_a_constant_column_does_not_divide_by_zero():
    part = random_set(40)
    part.obs[:, 2] = part.next_obs[:, 2] = 1.0
    model = DynamicsModel(3, 2)
    fit(model, DataSets([part]), 1, epochs=2, batch=20)
    assert evaluate_one_step(model, [part]).max() < 10


def test_networks_overfit_a_small_set_and_the_curve_falls():
    part = random_set(64)
    model, curve = fit_named(
        "simple", [part], epochs=400, seed=0, batch=32, lr=5e-3, held_out=DataSets([random_set(30, 9)])
    )
    assert len(curve) == 400 and curve[-1].keys() == {"obs", "rew", "done", "held_out"}
    assert curve[-1]["obs"] < 3e-3 < 0.1 < curve[0]["obs"] and curve[-1]["done"] < 0.02
    found = model.predict(*(torch.from_numpy(x)[None] for x in (part.obs, part.act)))
    assert ((found.done[0] > 0.5).numpy() == part.done).all()
    assert np.abs(found.rew[0].detach().numpy() - part.rew).mean() < 0.05


def test_the_same_seed_gives_the_same_network_and_another_one_another():
    part = random_set(64)
    a, b, c = (fit_named("ensemble", [part], epochs=3, seed=seed)[0] for seed in (1, 1, 2))
    weights = [torch.cat([p.flatten() for p in m.parameters()]) for m in (a, b, c)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_least_squares_finds_a_linear_system_and_copy_changes_nothing():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(5, 3))
    parts = []
    for seed in range(2):
        part = random_set(100, seed)
        x = np.concatenate([part.obs, part.act], 1)
        parts.append(
            part._replace(next_obs=(part.obs + x @ (matrix + seed)).astype(np.float32), rew=x[:, 0] * 2)
        )
    model, curve = fit_named("least-squares", parts, epochs=1, seed=0)
    assert isinstance(model, LeastSquares) and curve == []
    assert evaluate_one_step(model, parts).max() < 1e-9  # each set by its own matrix
    assert evaluate_one_step(model, parts[::-1]).min() > 1e-2
    copied = evaluate_one_step(CopyLast(), parts[:1])
    assert np.allclose(copied[0], np.square(parts[0].next_obs - parts[0].obs).mean(0), rtol=1e-5)


@pytest.mark.parametrize("name", [*VARIANTS, "copy", "least-squares"])
def test_every_variant_predicts_for_several_sets(name):
    model = make_model(name, 4, 2, sets=2)
    found = model.predict(torch.randn(2, 7, 4), torch.eye(2)[torch.randint(2, (2, 7))])
    found = found[0] if isinstance(model, Ensemble) else found
    assert found.next_obs.shape == (2, 7, 4) and found.rew.shape == found.done.shape == (2, 7)
    assert (0 <= found.done).all() and (found.done <= 1).all()


def test_checkpoints_come_back_and_foreign_ones_are_refused(tmp_path):
    part = random_set(64)
    model, _ = fit_named("ensemble", [part], epochs=1, seed=0, hidden=8)
    path = tmp_path / "checkpoints" / "world_model.pt"
    save_model(path, model, "ensemble", act_size=2, env="CartPole-v1")
    again, told = load_model(path)
    assert told["env"] == "CartPole-v1" and told["hidden"] == 8
    obs, act = torch.randn(1, 4, 3), torch.eye(2)[torch.randint(2, (1, 4))]
    assert torch.equal(again.predict(obs, act)[0].next_obs, model.predict(obs, act)[0].next_obs)
    with pytest.raises(UserError, match="first python -m foundations.dyna.train_model"):
        load_model(tmp_path / "none.pt")
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(UserError, match="torn"):
        load_model(path)


def test_statistics_travel_in_the_checkpoint(tmp_path):
    model, _ = fit_named("simple", [random_set(64)], epochs=1, seed=0)
    save_model(tmp_path / "m.pt", model, "simple", act_size=2)
    assert torch.equal(load_model(tmp_path / "m.pt")[0].out_std, model.out_std)
    assert copy.deepcopy(model).out_std.std() > 0


@pytest.fixture(scope="module")
def cartpole():
    train = [data.as_transitions(data.collect_named("CartPole-v1", "random", 400, s), 2) for s in range(3)]
    test = [
        data.as_transitions(data.collect_named("CartPole-v1", "random", 200, 900 + s), 2) for s in range(3)
    ]
    return train, test


def test_least_squares_on_cartpole(cartpole):
    model, _ = fit_named("least-squares", cartpole[0], epochs=1, seed=0)
    assert evaluate_one_step(model, cartpole[1]).mean(-1).max() < 2e-6


@pytest.mark.slow
def test_networks_on_cartpole(cartpole):
    train, test = cartpole
    errors = {}
    for name in ("simple", "dropout", "ensemble"):
        model, _ = fit_named(name, train, epochs=60, seed=0)
        errors[name] = evaluate_one_step(model, test).mean(-1)
    alone = evaluate_one_step(model.model, [part for part in test for _ in range(5)]).mean(-1).reshape(3, 5)
    assert errors["simple"].max() < 5e-6
    assert (errors["ensemble"] < alone.mean(1)).all()
    assert (errors["dropout"] > errors["simple"]).all()
