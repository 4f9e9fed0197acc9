"""Further graders of paper 1's exercises, for classic mistakes that the paper's own tests let pass."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from common.config import override
from paper1_world_models.config import ControllerConfig, DreamConfig, RNNConfig, VAEConfig
from paper1_world_models.controller import ActionCodec, Controller
from paper1_world_models.dream import Dreams, Starts
from paper1_world_models.presets import PRESETS
from paper1_world_models.rnn import MDNRNN, Prediction, sample_next
from paper1_world_models.rollout import Player
from paper1_world_models.train_controller import dream_fitness
from paper1_world_models.vae import VAE, resample

THIRDS = ActionCodec("thirds", 1)


def test_the_draw_uses_the_given_noise_and_lets_gradients_through():
    mu, logvar = (torch.randn(5, 3).requires_grad_() for _ in range(2))
    eps = torch.randn(5, 3)
    z = resample(mu, logvar, eps)
    assert torch.equal(z, resample(mu, logvar, eps))  # no randomness of its own
    z.sum().backward()
    torch.testing.assert_close(mu.grad, torch.ones(5, 3))
    torch.testing.assert_close(logvar.grad, 0.5 * (0.5 * logvar.detach()).exp() * eps)


def small_vae(**cfg) -> VAE:
    torch.manual_seed(0)
    return VAE(VAEConfig(size=16, width=0.25, latents=4, **cfg))


def test_the_decoder_sees_a_draw_and_the_error_is_against_frames_in_0_to_1():
    vae, frames = small_vae(), torch.randint(0, 256, (3, 16, 16, 3), dtype=torch.uint8)
    eps = torch.randn(3, 4)
    with torch.inference_mode():
        mu, logvar = vae.encode(frames)
        expected = (vae.decode(mu + (0.5 * logvar).exp() * eps) - frames / 255).square().sum((1, 2, 3))
        losses = vae.loss(frames, eps)
    assert losses["recon"].shape == losses["kl"].shape == (3,)
    torch.testing.assert_close(losses["recon"], expected)
    with torch.inference_mode():
        scaled = small_vae(recon_scale=20.0).loss(frames, eps)["recon"]
    torch.testing.assert_close(scaled, 20 * expected)


def test_the_floor_is_on_the_sum_over_latents():
    vae, frames = small_vae(kl_tolerance=0.5), torch.zeros(1, 16, 16, 3)
    mu = torch.tensor([[np.sqrt(2 * 7.0), 0.0, 0.0, 0.0]], dtype=torch.float32)  # 7 nats, all in one latent
    vae.encode, vae.decode = lambda x: (mu, torch.zeros(1, 4)), lambda z: frames
    assert vae.loss(frames, torch.zeros(1, 4))["kl"].item() == pytest.approx(7, abs=1e-4)


def test_a_restart_in_the_first_row_cuts_state_and_gradient():
    torch.manual_seed(0)
    rnn = MDNRNN(RNNConfig(hidden=16), 4, 2)
    z, act = torch.randn(2, 5, 4).requires_grad_(), torch.randn(2, 5, 2)
    state = (torch.randn(2, 16), torch.randn(2, 16))
    for later in ([], [3]):  # one episode in the row, and two
        restart = torch.zeros(2, 5, dtype=torch.bool)
        restart[0, [0, *later]] = True
        hidden, _ = rnn(z, act, restart, state)
        fresh, _ = rnn(z, act, restart, rnn.initial(2))
        torch.testing.assert_close(hidden[0], fresh[0])  # row 0 begins anew
        assert not torch.allclose(hidden[1], fresh[1])  # row 1 goes on from its state
    (grad,) = torch.autograd.grad(hidden[0, 4].sum(), z)
    assert grad[0, :3].abs().max() == 0 and grad[0, 3:].abs().min() > 0  # nothing flows past the restart


@pytest.mark.parametrize("shared", [False, True])
def test_every_latent_has_weights_that_sum_to_one_over_its_components(shared):
    torch.manual_seed(0)
    rnn = MDNRNN(RNNConfig(hidden=8, mixtures=3, shared_pi=shared), 4, 1)
    pred = rnn.predict(5 * torch.randn(2, 6, 8))
    assert pred.logpi.shape == pred.mu.shape == pred.logsigma.shape == (2, 6, 4, 3)
    torch.testing.assert_close(pred.logpi.exp().sum(-1), torch.ones(2, 6, 4))
    assert pred.rew is None and pred.done is None
    assert shared == torch.equal(pred.logpi[:, :, 0], pred.logpi[:, :, 1])


def test_each_number_of_the_head_has_its_place():
    """Weights, then means, then log sigmas, each latent by latent; reward before done at the end."""
    rnn = MDNRNN(RNNConfig(hidden=8, mixtures=2, reward_head=True, done_head=True), 3, 1)
    with torch.no_grad():
        rnn.head.weight.zero_()
        rnn.head.bias.copy_(torch.arange(20.0) / 2)
    pred = rnn.predict(torch.zeros(1, 8))
    torch.testing.assert_close(
        pred.logpi.exp(), torch.tensor([1.0, 2.7182818**0.5]).div(2.6487213).expand(1, 3, 2)
    )
    assert pred.mu.flatten().tolist() == [3.0, 3.5, 4.0, 4.5, 5.0, 5.5]
    assert pred.logsigma.flatten().tolist() == [5.0] * 6  # 6 to 8.5, clamped
    assert (pred.rew.item(), pred.done.item()) == (9.0, 9.5)


@pytest.mark.parametrize("shared", [False, True])
def test_components_are_drawn_per_latent_unless_they_are_shared(shared):
    logpi = torch.zeros(500, 2, 2).log_softmax(-1)
    mu = torch.tensor([-10.0, 10.0]).expand(500, 2, 2)
    pred = Prediction(logpi, mu, torch.full((500, 2, 2), -3.0), None, None)
    side = sample_next(pred, 1.0, torch.Generator().manual_seed(0), shared).sign()  # [500, 2]
    together = (side[:, 0] == side[:, 1]).float().mean().item()
    assert together == 1.0 if shared else 0.4 < together < 0.6
    again = sample_next(pred, 1.0, torch.Generator().manual_seed(0), shared).sign()
    assert torch.equal(side, again)  # every draw comes from the generator


def test_only_the_playing_slots_remember():
    torch.manual_seed(0)
    vae, rnn = small_vae(), MDNRNN(RNNConfig(hidden=16), 4, 1)
    controller = Controller(ControllerConfig(), 4, 16, THIRDS)
    player, params = Player(vae, rnn, controller, 4), torch.randn(2, controller.size)
    frames = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    eps, rows = torch.randn(2, 4), np.array([1, 3])
    env_act, act, z = player.act(rows, frames, params, eps, np.ones(2, bool))
    mu, logvar = vae.encode(torch.from_numpy(frames))
    expected = resample(mu, logvar, eps)
    torch.testing.assert_close(z, expected)  # the draw, with the given noise
    assert env_act.tolist() == (act[:, 0] + 1).tolist() and act.shape == (2, 1)
    h, c = rnn.step(expected, torch.from_numpy(act), torch.ones(2, dtype=torch.bool), rnn.initial(2))
    torch.testing.assert_close(player.h[rows], h)
    torch.testing.assert_close(player.c[rows], c)
    assert player.h[[0, 2]].abs().max() == 0 and player.c[[0, 2]].abs().max() == 0


def cold_dreams() -> Dreams:
    """Three dreams without chance; M reads the restart flag and never predicts an end."""
    torch.manual_seed(0)
    rnn = MDNRNN(RNNConfig(hidden=8, done_head=True, restart_input=True), 4, 1)
    with torch.no_grad():
        rnn.head.weight[-1], rnn.head.bias[-1] = 0.0, -9.0
    starts = Starts(torch.randn(3, 4), torch.full((3, 4), -30.0))
    dreams = Dreams(rnn, starts, DreamConfig(temperature=1e-9), torch.Generator().manual_seed(0))
    dreams.reset(torch.arange(3))
    return dreams


def test_a_dream_goes_on_from_its_own_last_step():
    dreams, rows = cold_dreams(), torch.tensor([0, 2])
    rnn, z, act = dreams.rnn, dreams.z.clone(), torch.tensor([[1.0], [-1.0]])
    state, untouched = rnn.initial(2), dreams.z[1].clone()
    z, generator = z[rows], torch.Generator().manual_seed(1)
    for t in range(3):
        dreams.step(rows, act)
        state = rnn.step(z, act, torch.full((2,), t == 0), state)
        z = sample_next(rnn.predict(state[0]), 1e-9, generator)
        torch.testing.assert_close(dreams.z[rows], z, atol=1e-3, rtol=0)
        torch.testing.assert_close(dreams.h[rows], state[0], atol=1e-3, rtol=1e-3)
    assert torch.equal(dreams.z[1], untouched) and dreams.h[1].abs().max() == 0 and dreams.first[1]


def fitness(params: np.ndarray, starts: int, rollouts: int = 4, **place) -> np.ndarray:
    """dream_fitness in a dream without chance, whose reward depends on the start and the action."""
    torch.manual_seed(0)
    rnn = MDNRNN(RNNConfig(hidden=8, reward_head=True), 4, 1)
    controller = Controller(ControllerConfig(), 4, 8, THIRDS)
    agent = SimpleNamespace(rnn=rnn, controller=controller, device=torch.device("cpu"))
    agent.starts = Starts(torch.randn(starts, 4), torch.full((starts, 4), -30.0))
    small = {
        "dream.temperature": 1e-9,
        "dream.reward": "head",
        "dream.max_steps": 5,
        "evolve.rollouts": rollouts,
    }
    run = SimpleNamespace(cfg=override(PRESETS["tiny"], small))
    return dream_fitness(run, agent, None, params, **({"generation": 0, "iteration": 0} | place))


def always(*actions: float) -> np.ndarray:
    """Controllers [P, 13] that ignore what they see."""
    params = np.zeros((len(actions), 13), np.float32)
    params[:, -1] = actions
    return params


def test_every_candidate_gets_the_mean_of_its_own_dreams():
    alone = [fitness(always(a), 1)[0] for a in (-9.0, 0.0, 9.0)]
    assert len({round(float(a), 4) for a in alone}) == 3
    np.testing.assert_allclose(fitness(always(-9.0, 0.0, 9.0), 1), alone, atol=1e-3)
    many = fitness(always(0.0), 500, rollouts=400)[
        0
    ]  # a mean: as large as that of a few, not a hundred times
    assert abs(many - np.mean([fitness(always(0.0), 500, generation=g)[0] for g in range(20)])) < 0.3


def test_all_candidates_of_a_generation_dream_from_the_same_starts():
    same = fitness(always(9.0, 9.0, 9.0), 200)
    np.testing.assert_allclose(same, same[0], atol=1e-3)
    assert abs(fitness(always(9.0), 200, generation=1)[0] - same[0]) > 1e-3  # new ones in the next
    np.testing.assert_allclose(fitness(always(9.0), 200), same[:1], atol=1e-3)
