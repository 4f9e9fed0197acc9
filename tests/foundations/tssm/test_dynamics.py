"""The transformer: sizes, causality, what it is told of which step, dreams, overfitting."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from foundations.tssm.config import PRESETS, Config, DataConfig, DynamicsConfig, from_json, to_json
from foundations.tssm.data import collect, load_replay, save_replay
from foundations.tssm.dynamics import PARAMETERS, Dynamics, count_parameters
from foundations.tssm.train import Windows, dynamics_quality, fit_dynamics

SMALL = DynamicsConfig(width=32, layers=2, heads=2, context=6, token_units=32, act_units=8)


def model_of(cfg=SMALL, latents=3, classes=4, act=2) -> Dynamics:
    torch.manual_seed(0)
    return Dynamics(cfg, latents, classes, act)


def rows(batch=4, time=6, latents=3, classes=4):
    torch.manual_seed(1)
    stoch = F.one_hot(torch.randint(classes, (batch, time, latents)), classes).float()
    return stoch, torch.rand(batch, time, 2) * 2 - 1, torch.randn(batch, time)


def test_parameters_of_the_tiny_preset():
    cfg = PRESETS["tiny"].dynamics
    assert count_parameters(Dynamics(cfg, 16, 8, 2)) == PARAMETERS == 566_529
    with_done = dataclasses.replace(cfg, predict_done=True)
    assert count_parameters(Dynamics(with_done, 16, 8, 2)) == PARAMETERS + (128 * 128 + 128) + (128 + 1)


@pytest.mark.parametrize("what", ["stoch", "act", "rew"])
def test_only_the_past_and_the_present_matter(what):
    model, inputs = model_of(), rows()
    changed = list(inputs)
    index = ["stoch", "act", "rew"].index(what)
    changed[index] = inputs[index].clone()
    changed[index][:, 3] += 0.7
    with torch.no_grad():
        before, after = model(*inputs), model(*changed)
    for name in ("logits", "rew"):
        differs = (getattr(before, name) - getattr(after, name)).abs().flatten(2 if name == "logits" else 1)
        differs = differs.amax((0, 2)) if name == "logits" else differs.amax(0)  # [T]
        assert (differs[:3] == 0).all(), name
        assert (differs[3:] > 1e-6).all(), name


def test_dreams_see_what_training_sees():
    """Step by step with a growing context equals one pass over the same rows."""
    model = model_of()
    _, act, _ = rows()
    start, rew = rows()[0][:, 0], torch.randn(4)
    acts = iter(act.unbind(1))
    with torch.no_grad():
        dream = model.imagine(start, rew, lambda _: next(acts), 6, context=6)
        rews = torch.cat([rew[None], dream.rew[:-1]])  # [H, B]
        pred = model(dream.stoch[:-1].transpose(0, 1), act, rews.transpose(0, 1))
    torch.testing.assert_close(dream.rew, pred.rew.T)
    assert torch.equal(dream.stoch[1:].argmax(-1), pred.logits.argmax(-1).transpose(0, 1))
    assert torch.equal(dream.act, act.transpose(0, 1))
    assert (dream.alive == 1).all()


def test_context_1_forgets_the_step_before():
    """A dream that begins anew at its own second row goes on as before, but only if it looks back on one."""
    model, act = model_of(), rows()[1]
    for context, equal in ((1, True), (2, False)):
        acts, later = iter(act.unbind(1)), iter(act.unbind(1)[1:])
        with torch.no_grad():
            dream = model.imagine(rows()[0][:, 0], torch.randn(4), lambda _: next(acts), 3, context=context)  # noqa: B023
            anew = model.imagine(dream.stoch[1], dream.rew[0], lambda _: next(later), 2, context=context)  # noqa: B023
        assert torch.allclose(anew.rew, dream.rew[1:], atol=1e-6) is equal


def test_latents_of_a_dream_are_one_hot_and_carry_the_tempered_gradient():
    model = model_of()
    tokens = torch.randn(5, 1, 32, requires_grad=True)
    weight = torch.randn(5, 3, 4)
    grads = {}
    for temperature in (1.0, 12.0):
        stoch, _, _ = model.step(tokens, temperature)
        assert set(stoch.unique().tolist()) == {0.0, 1.0} and (stoch.sum(-1) == 1).all()
        (found,) = torch.autograd.grad((weight * stoch).sum(), tokens)
        soft = (model.predict(tokens).logits[:, -1] / temperature).softmax(-1)
        (expected,) = torch.autograd.grad((weight * soft).sum(), tokens)
        torch.testing.assert_close(found, expected)
        grads[temperature] = found
    assert not torch.allclose(grads[1.0], grads[12.0])


def test_done_head_makes_dreams_mortal():
    model = model_of(dataclasses.replace(SMALL, predict_done=True))
    with torch.no_grad():
        model.done_head[-1].weight.zero_(), model.done_head[-1].bias.fill_(np.log(3.0))
        dream = model.imagine(rows()[0][:, 0], torch.zeros(4), lambda z: torch.zeros(4, 2), 3)
    torch.testing.assert_close(dream.alive, torch.full((3, 4), 0.25))
    codes = torch.randint(4, (5, 4, 3))
    losses = model.loss(codes, torch.zeros(5, 4, 2), torch.zeros(5, 4), torch.ones(5, 4, dtype=torch.bool))
    assert set(losses) == {"stoch", "rew", "done"}
    torch.testing.assert_close(losses["done"], torch.full((5, 3), float(-np.log(0.75))))


def test_losses_compare_with_the_next_row():
    """Unreduced, summed over latents, the reward weighted: against numbers made by hand."""
    model = model_of()
    codes, act, rew = torch.randint(4, (5, 4, 3)), torch.randn(5, 4, 2), torch.randn(5, 4)
    losses = model.loss(codes, act, rew, torch.zeros(5, 4, dtype=torch.bool))
    pred = model(F.one_hot(codes, 4).float()[:, :-1], act[:, :-1], rew[:, :-1])
    log_prob = pred.logits.log_softmax(-1)
    by_hand = -log_prob.gather(-1, codes[:, 1:, :, None]).squeeze(-1).sum(-1)
    torch.testing.assert_close(losses["stoch"], by_hand)
    torch.testing.assert_close(losses["rew"], 10 * (pred.rew - rew[:, 1:]) ** 2)


# --- alignment of latents, actions and rewards ---


def corridor(games: int, length: int = 12, seed: int = 0) -> Windows:
    """5 cells in a row, the action's sign moves; the reward is the cell that was reached, over 4."""
    rng = np.random.default_rng(seed)
    act = rng.choice([-1.0, 1.0], (games, length + 1, 2)).astype(np.float32)
    cell = np.zeros((games, length + 1), np.int64)
    cell[:, 0] = rng.integers(5, size=games)
    for t in range(length):
        cell[:, t + 1] = np.clip(cell[:, t] + act[:, t, 0].astype(int), 0, 4)
    rew = cell / 4
    rew[:, 0] = 0
    columns = (cell[..., None], act, rew.astype(np.float32), np.zeros_like(cell, bool))
    return Windows(*(torch.from_numpy(column) for column in columns))


def fit_corridor(train: Windows, held_out: Windows) -> dict[str, float]:
    config = Config(
        dynamics=dataclasses.replace(SMALL, layers=1, context=1, steps=200, batch=64, lr=5e-3, warmup=10),
        code=dataclasses.replace(PRESETS["tiny"].code, latents=1, classes=5),
    )
    model, told = fit_dynamics(config, 2, train, held_out, 0)
    return told


def test_alignment_of_actions_and_rewards():
    right = fit_corridor(corridor(200), corridor(50, seed=1))
    assert right["frames_right"] > 0.99 and right["rew_error"] < 0.05
    for name in ("act", "rew"):
        shifted = [
            part._replace(**{name: getattr(part, name).roll(1, 1)})
            for part in (corridor(200), corridor(50, seed=1))
        ]
        wrong = fit_corridor(*shifted)
        assert wrong["rew_error"] > 3 * right["rew_error"], name
        if name == "act":
            assert wrong["frames_right"] < 0.9


def test_collected_rows_are_what_the_rules_say():
    """act[t] leads from obs[t] to obs[t + 1], rew[t + 1] is of there, rew[0] and act[-1] are 0."""
    replay = collect(Config(data=DataConfig(episodes=30)), 3)
    black = (replay.obs == 0).all(-1)  # [N, T + 1, 4, 4]
    assert (black.sum((2, 3)) == 1).all()
    where = np.stack(
        np.unravel_index(black.reshape(*black.shape[:2], 16).argmax(-1), (4, 4))[::-1], -1
    )  # x, y
    after = np.clip(where[:, :-1] + np.rint(replay.act[:, :-1]), 0, 3)
    assert (after == where[:, 1:]).all()
    assert (replay.rew[:, 0] == 0).all() and (replay.act[:, -1] == 0).all()
    green = (replay.obs == (0, 255, 0)).all(-1)
    red = (replay.obs == (255, 0, 0)).all(-1)
    hidden_goal, hidden_threat = ~green.any((2, 3)), ~red.any((2, 3))
    assert (replay.rew[:, 1:] == (hidden_goal * 1.0 - hidden_threat)[:, 1:]).all()


def test_windows_are_pieces_of_games():
    data = corridor(20, length=9)
    tagged = data._replace(rew=torch.arange(200.0).view(20, 10))  # game * 10 + row
    torch.manual_seed(0)
    part = tagged.sample(2000, 3)
    assert part.codes.shape == (2000, 3, 1) and part.rew.shape == (2000, 3)
    assert (part.rew.diff(dim=1) == 1).all()
    assert (part.rew[:, 0] // 10 == part.rew[:, 2] // 10).all()  # never across two games
    assert {int(x) % 10 for x in part.rew[:, 0]} == set(range(8))


def test_replay_file_and_split(tmp_path):
    replay = collect(Config(data=DataConfig(episodes=30)), 0)
    save_replay(tmp_path / "replay.npz", replay)
    again = load_replay(tmp_path / "replay.npz")
    assert all((a == b).all() and a.dtype == b.dtype for a, b in zip(replay, again, strict=True))
    train, held_out = replay.split()
    assert (len(train.rew), len(held_out.rew)) == (30, 3)


def test_symlog_of_rewards_is_in_the_data():
    config = Config(
        env=dataclasses.replace(Config().env, threat_penalty=100.0), data=DataConfig(episodes=200)
    )
    raw = collect(config, 0).rew
    compressed = collect(dataclasses.replace(config, symlog=True), 0).rew
    assert set(np.unique(raw)) == {-100.0, 0.0, 1.0}
    np.testing.assert_allclose(np.unique(compressed), [-np.log(101), 0, np.log(2)], rtol=1e-6)
    np.testing.assert_allclose(np.sign(compressed) * np.expm1(np.abs(compressed)), raw, rtol=1e-5)


def test_64_transitions_are_learned_by_heart():
    replay = collect(Config(data=DataConfig(episodes=64, length=1)), 0)
    torch.manual_seed(0)
    codes = torch.randint(8, (len(replay.rew), 2, 16))
    data = Windows(codes, *(torch.from_numpy(x) for x in replay[1:]))
    data = Windows(*(column[:64] for column in data))
    config = Config(dynamics=dataclasses.replace(PRESETS["tiny"].dynamics, steps=80, batch=64, warmup=10))
    model, told = fit_dynamics(config, 2, data, data, 0)
    assert told["classes_right"] > 0.99 and told["rew_error"] < 0.05


def test_equal_seeds_equal_models_and_quality_draws_nothing():
    config = Config(dynamics=dataclasses.replace(SMALL, context=2, steps=5, batch=8))
    config = dataclasses.replace(config, code=dataclasses.replace(config.code, latents=1, classes=5))
    data = corridor(20)
    runs = [fit_dynamics(config, 2, data, data, seed) for seed in (0, 0, 1)]
    weights = [torch.cat([p.flatten() for p in model.parameters()]) for model, _ in runs]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    dynamics_quality(runs[0][0], data)
    assert torch.equal(torch.rand(3), expected)


def test_config_travels_through_json():
    for config in PRESETS.values():
        assert from_json(Config, to_json(config)) == config
