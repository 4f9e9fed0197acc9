"""DreamerV1 beside DreamerV2: what they share agrees, and where they must not agree has a name."""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch

from common.config import override
from common.replay_buffer import ReplayBuffer
from common.spaces import Spaces
from paper2_dreamerv1 import actor_critic as ac1
from paper2_dreamerv1 import buffer as sampler1
from paper2_dreamerv1 import config as config1
from paper2_dreamerv1 import networks as networks1
from paper2_dreamerv1 import presets as presets1
from paper2_dreamerv1 import rssm as rssm1
from paper2_dreamerv1 import world_model as model1
from paper3_dreamerv2 import actor_critic as ac2
from paper3_dreamerv2 import config as config2
from paper3_dreamerv2 import networks as networks2
from paper3_dreamerv2 import presets as presets2
from paper3_dreamerv2 import rssm as rssm2
from paper3_dreamerv2 import utils as sampler2
from paper3_dreamerv2 import world_model as model2

ROOT = Path(__file__).resolve().parents[1]
SIZES = {
    "rssm.deter": 12,
    "rssm.hidden": 10,
    "rssm.stoch": 4,
    "conv.depth": 2,
    "conv.layers": 1,
    "conv.units": 8,
}
SPACES = Spaces({"image": (32, 32, 3), "vector": (3,)}, 5, True)


def copy_weights(source: torch.nn.Module, target: torch.nn.Module) -> None:
    """By place: siblings have the same layers in the same order."""
    ours, theirs = list(source.parameters()), list(target.parameters())
    assert [p.shape for p in ours] == [p.shape for p in theirs]
    with torch.no_grad():
        for p, q in zip(ours, theirs, strict=True):
            q.copy_(p)


# --- returns and weights


def test_lambda_returns_agree_on_the_rows_that_both_have():
    """V2's states 0..4 are V1's 1..4 with the start before them (sheets, section 12.2)."""
    rew, val = torch.tensor([5.0, 1, 2, 3, 4])[:, None], torch.tensor([7.0, 10, 20, 30, 40])[:, None]
    disc = torch.full((5, 1), 0.9)
    first = ac1.lambda_return(rew[1:], val[1:], disc[1:], 0.5)
    second = ac2.lambda_target(rew, val, disc, 0.5)
    assert first.flatten().tolist() == pytest.approx([24.8725, 33.05, 39.0])
    assert second.flatten().tolist() == pytest.approx([20.692625, 24.8725, 33.05, 39.0])
    assert torch.equal(first, second[1:])
    rew, val, disc = torch.randn(3, 16, 7)
    for lam in (0.0, 0.95, 1.0):
        assert torch.equal(ac1.lambda_return(rew, val, disc, lam), ac2.lambda_target(rew, val, disc, lam))


def test_weights_agree():
    disc = torch.rand(16, 7)
    assert torch.equal(ac1.weights(disc), ac2.weights(disc))


def test_value_losses_agree():
    val, target, weight = torch.randn(15, 7), torch.randn(15, 7), torch.rand(15, 7)
    assert torch.equal(ac1.value_loss(val, target, weight), ac2.critic_loss(val, target, weight))


def test_the_dynamics_objective_agrees_but_for_its_last_term():
    """V2 without REINFORCE and entropy is V1's -mean w V, over one term less."""
    target, weight = torch.randn(15, 7), torch.rand(15, 7)
    policy, act = ac2.OneHot(torch.zeros(14, 7, 5)), torch.zeros(15, 7, 5)
    args = {"rho": 0.0, "entropy": 0.0, "advantage": "eq6"}
    second = ac2.actor_loss(policy, act, target, torch.zeros(14, 7), weight, **args)
    torch.testing.assert_close(second, ac1.actor_loss(target[:-1], weight[:-1]))


# --- distributions


def test_one_hot_draws_and_their_gradients_agree():
    mix, found = torch.randn(6, 5), []
    base = torch.randn(6, 5)
    for kind in (ac1.OneHot, ac2.OneHot):
        logit = base.clone().requires_grad_()
        draw = kind(logit).rsample(torch.Generator().manual_seed(0))
        (grad,) = torch.autograd.grad((draw * mix).sum(), logit)
        found.append((draw.detach(), grad, kind(logit).mode(), kind(logit).entropy().detach()))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert found[0][1].abs().sum() > 0


def test_gaussian_kl_entropy_and_draws_agree_for_equal_inputs():
    first = rssm1.GaussianLatent(config1.RSSMConfig(stoch=6))
    second = rssm2.GaussianLatent(config2.RSSMConfig(stoch=6, latent="gaussian"))
    assert (first.size, first.inputs) == (second.size, second.inputs) == (6, 12)
    post, prior = (torch.cat([torch.randn(9, 6), torch.rand(9, 6) + 0.1], -1) for _ in range(2))
    assert torch.equal(first.kl(post, prior), second.kl(post, prior))
    assert torch.equal(first.entropy(post), second.entropy(post))
    noise = [
        latent.noise(9, like=post, generator=torch.Generator().manual_seed(0)) for latent in (first, second)
    ]
    assert torch.equal(*noise)
    assert torch.equal(first.sample(post, noise[0]), second.sample(post, noise[1]))


def test_standard_deviations_must_not_agree():
    """V1: softplus + 0.1, without an upper end; V2: 2 sigmoid(raw / 2) + 0.1, at most 2.1."""
    first = rssm1.GaussianLatent(config1.RSSMConfig(stoch=1))
    second = rssm2.GaussianLatent(config2.RSSMConfig(stoch=1, latent="gaussian"))
    found = {
        raw: [latent.stats(torch.tensor([0.0, raw]))[1].item() for latent in (first, second)]
        for raw in (-100.0, 0.0, 10.0)
    }
    assert found[-100.0] == pytest.approx([0.1, 0.1])
    assert found[0.0] == pytest.approx([0.793147, 1.1], abs=1e-6)
    assert found[10.0] == pytest.approx([10.1, 2.086614], abs=1e-4)


def test_continuous_policies_must_not_agree():
    """V1: tanh of a normal with std 5, at both ends from the start; V2: truncated normal, near-uniform."""
    feat, shares = torch.zeros(4_000, 3), []
    for actor in (
        ac1.Actor(config1.ActorConfig(layers=1, units=4), 3, 1, False),
        ac2.Actor(config2.ActorConfig(layers=1, units=4), 3, 1, False),
    ):
        draws = actor(feat).rsample(torch.Generator().manual_seed(0))
        shares.append((draws.abs() > 0.9).float().mean().item())
    assert shares[0] > 0.7 and shares[1] < 0.12


def test_only_v2_has_an_entropy_in_closed_form():
    first = ac1.TanhNormal(torch.zeros(1), torch.ones(1))
    second = ac2.TruncatedNormal(torch.zeros(1), torch.ones(1))
    torch.manual_seed(0)
    assert first.entropy() != first.entropy() and second.entropy() == second.entropy()


# --- networks


def observations(lead: tuple[int, ...] = (4, 3)) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    image = torch.randint(256, (*lead, 32, 32, 3), dtype=torch.uint8, generator=rng)
    return {"image": image, "vector": torch.randn(*lead, 3, generator=rng)}


def siblings(name: str, *args) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The same network of both papers with the same sizes and weights."""
    torch.manual_seed(0)
    sizes = {"depth": 2, "layers": 1, "units": 8}
    first = getattr(networks1, name)(config1.ConvConfig(**sizes), *args, SPACES)
    second = getattr(networks2, name)(config2.ConvConfig(**sizes), *args, SPACES)
    copy_weights(first, second)
    return first, second


def test_encoders_and_decoders_have_the_same_shapes():
    first, second = siblings("Encoder")
    assert first.size == second.size == 4 * 8 + 8
    assert first(observations()).shape == second(observations()).shape == (4, 3, 40)
    first, second = siblings("Decoder", 7)
    shapes = [{key: x.shape for key, x in net(torch.zeros(4, 3, 7)).items()} for net in (first, second)]
    assert shapes[0] == shapes[1] == {"image": (4, 3, 32, 32, 3), "vector": (4, 3, 3)}


def test_the_convolutions_must_not_agree():
    """V1: ReLU, so no feature is negative; V2: ELU.  The dense layers are ELU in both."""
    first, second = (net(observations()) for net in siblings("Encoder"))
    pictures = slice(0, 32)
    assert first[..., pictures].min() == 0 and second[..., pictures].min() < 0
    torch.testing.assert_close(first[..., 32:], second[..., 32:])
    feat = torch.randn(4, 3, 7)
    first, second = (net(feat) for net in siblings("Decoder", 7))
    assert not torch.allclose(first["image"], second["image"])
    torch.testing.assert_close(first["vector"], second["vector"])


def test_what_is_no_papers_own_agrees():
    image = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(networks1.preprocess(image), networks2.preprocess(image))
    mean, target = torch.randn(2, 3, 4, 4, 1), torch.randn(2, 3, 4, 4, 1)
    assert torch.equal(networks1.to_pixels(mean), networks2.to_pixels(mean))
    for dims in (0, 3):
        assert torch.equal(
            networks1.gaussian_nll(mean, target, dims), networks2.gaussian_nll(mean, target, dims)
        )
    nets = [networks.MLP(3, 2, 4, 1) for networks in (networks1, networks2)]
    for net, networks in zip(nets, (networks1, networks2), strict=True):
        torch.manual_seed(0)
        networks.init_keras_(net)
    assert torch.equal(*(net(torch.ones(2, 3)) for net in nets))


# --- dreams


def small_models() -> tuple[model1.WorldModel, model2.WorldModel]:
    torch.manual_seed(0)
    first = model1.WorldModel(override(presets1.PRESETS["tiny"], SIZES), SPACES, True)
    second = model2.WorldModel(override(presets2.PRESETS["tiny"], SIZES), SPACES, True)
    return first, second


def test_only_v2s_trajectory_contains_the_start():
    """V1 learns values of imagined states alone; V2 of the start too, so that it can be a terminal one."""
    for model, ac, config in zip(small_models(), (ac1, ac2), (config1, config2), strict=True):
        rssm = model.rssm
        start = rssm.initial(6)._replace(deter=torch.randn(6, rssm.deter))
        actor = ac.Actor(config.ActorConfig(layers=1, units=4), rssm.feature, 5, True)
        if ac is ac1:
            feat = ac1.imagine(model, actor, start, 9)
            assert feat.shape == (9, 6, rssm.feature) and not torch.equal(feat[0], start.feat)
            assert ac1.weights(torch.ones(9, 6)).shape == (8, 6)
        else:
            dream = ac2.imagine(model, actor, start, 9, with_graph=True)
            assert dream.feat.shape == (10, 6, rssm.feature) and torch.equal(dream.feat[0], start.feat)
            assert ac2.weights(torch.ones(10, 6)).shape == (9, 6)


def test_both_train_the_policy_through_the_dynamics_and_not_through_its_input():
    for model, ac, config in zip(small_models(), (ac1, ac2), (config1, config2), strict=True):
        rssm = model.rssm
        start = rssm.initial(6)._replace(deter=torch.randn(6, rssm.deter))
        actor = ac.Actor(config.ActorConfig(layers=1, units=4), rssm.feature, 5, True)
        looked = []
        actor.register_forward_pre_hook(lambda module, args, looked=looked: looked.append(args[0]))
        feat = (
            ac1.imagine(model, actor, start, 3)
            if ac is ac1
            else ac2.imagine(model, actor, start, 3, True).feat
        )
        assert len(looked) == 3 and not any(x.requires_grad for x in looked)
        grads = torch.autograd.grad(model.reward(feat)[-1].sum(), list(actor.parameters()))
        assert any(grad.any() for grad in grads)


def test_the_kl_terms_must_not_agree():
    """V1 has one KL for both sides; V2 two of the same value, each for one side."""
    first, second = small_models()
    rng = torch.Generator().manual_seed(0)
    batch = observations() | {
        "prev_act": torch.zeros(4, 3, 5),
        "rew": torch.randn(4, 3, generator=rng),
        "is_first": torch.zeros(4, 3, dtype=torch.bool),
        "is_terminal": torch.zeros(4, 3, dtype=torch.bool),
    }
    ours, theirs = first.loss(batch)[0], second.loss(batch)[0]
    assert ours.keys() - theirs.keys() == {"kl"} and theirs.keys() - ours.keys() == {"kl_prior", "kl_post"}
    assert torch.equal(theirs["kl_prior"], theirs["kl_post"])


# --- rows


def filled(lengths=(12, 5, 30)) -> ReplayBuffer:
    """Episodes whose pictures, vectors, actions and rewards all count rows."""
    replay = ReplayBuffer(1_000, SPACES.fields(), 1, seed=0)
    for e, length in enumerate(lengths):
        for t in range(length):
            row = {"is_first": t == 0, "is_last": t == length - 1, "is_terminal": t == length - 1 and e == 0}
            row |= {"act": t % 5, "rew": 100.0 * e + t, "image": np.full((32, 32, 3), t, np.uint8)}
            row |= {"vector": np.full(3, (e + t), np.float32)}
            replay.add({name: np.asarray(value)[None] for name, value in row.items()})
    return replay


def test_both_samplers_hand_out_the_same_rows_but_v2_forgets_the_action_before_a_window():
    """From the same replay, with its generator in the same state.  V1 knows act[start - 1]; V2 masks it."""
    device = torch.device("cpu")
    first = sampler1.sample(filled(), 200, 8, "uniform", SPACES, device)
    second = sampler2.sample(filled(), 200, 8, False, SPACES, device)
    assert first.keys() == second.keys()
    for name in first.keys() - {"prev_act"}:
        assert torch.equal(first[name], second[name]), name
    assert torch.equal(first["prev_act"][:, 1:], second["prev_act"][:, 1:])
    at_start = first["rew"][:, 0] % 100 == 0  # windows at an episode's own first row
    assert 0 < at_start.sum() < 200
    assert not second["prev_act"][:, 0].any() and not first["prev_act"][at_start, 0].any()
    assert (first["prev_act"][~at_start, 0].sum(-1) == 1).all()
    step = (first["rew"][~at_start, 0] % 100 - 1) % 5
    assert torch.equal(first["prev_act"][~at_start, 0].argmax(-1), step.long())


def test_samplers_of_ends_must_not_agree():
    """The last window of 501 rows: V1's dataset_balance 50 / 501, V2's prioritize_ends 51 / 502."""
    rows, shares = np.full(400_000, 501), []
    for rule in (sampler1.balanced_window, sampler2.end_window):
        shares.append((rule(np.random.default_rng(0), rows, 50) == 451).mean())
    assert shares[0] == pytest.approx(50 / 501, abs=0.0015) and shares[1] == pytest.approx(
        51 / 502, abs=0.0015
    )
    drawn = sampler1.balanced_window(np.random.default_rng(0), np.full(100, 50), 50)
    assert not drawn.any() and not sampler2.end_window(np.random.default_rng(0), np.full(100, 50), 50).any()


# --- the text


def public(path: str, kind: str) -> list[str]:
    """Names of the public methods of a class, in order."""
    tree = ast.parse((ROOT / path).read_text())
    (found,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == kind)
    return [node.name for node in found.body if isinstance(node, ast.FunctionDef)]


@pytest.mark.parametrize(
    "file, kind", [("rssm.py", "RSSM"), ("rssm.py", "State"), ("networks.py", "Encoder")]
)
def test_siblings_have_the_same_methods_in_the_same_order(file, kind):
    """So that diff paper2_dreamerv1/rssm.py paper3_dreamerv2/rssm.py is a lesson."""
    assert public(f"paper2_dreamerv1/{file}", kind) == public(f"paper3_dreamerv2/{file}", kind)
    assert rssm1.State._fields == rssm2.State._fields
