"""The agent: resets, the two ways to act, what moves a dream, its file, and a run from start to end."""

import csv
import json

import numpy as np
import pytest
import torch
from gymnasium import spaces as gym_spaces

from common.agent import Agent, load_agent
from common.checkpoint import load_file, save_file
from common.env_wrapper import EnvSpec
from common.errors import UserError
from common.replay_buffer import ReplayBuffer
from common.seeding import seed_everything
from common.spaces import Spaces
from paper4_dreamerv3.agent import DreamerV3Agent, Memory
from paper4_dreamerv3.symlog import symexp
from paper4_dreamerv3.train import main
from paper4_dreamerv3.visualize import main as visualize

GRAY = {"image": (32, 32, 1)}
KINDS = {
    "pixels": Spaces(GRAY, 5, True),
    "continuous": Spaces({"image": (32, 32, 3)}, 2, False),
    "several": Spaces({"vector": (4,)}, 5, True, (2, 3)),
    "everything": Spaces({**GRAY, "image_wrist": (32, 32, 3), "vector": (4,), "vector_goal": (2,)}, 5, True),
}


@pytest.fixture(scope="module")
def make(small):
    """An agent of a kind: make("continuous", **{"actor.eval_action": "mode"})."""

    def agent(kind: str = "pixels", **more) -> DreamerV3Agent:
        seed_everything(0)
        return DreamerV3Agent(small(**more), EnvSpec("toy_catch", {"gray": True}), KINDS[kind])

    return agent


def look(spaces: Spaces, lead: tuple[int, ...], seed: int = 0) -> dict[str, np.ndarray]:
    """Random observations."""
    rng = np.random.default_rng(seed)
    return {
        key: rng.integers(256, size=(*lead, *shape), dtype=np.uint8)
        if key in spaces.images
        else rng.normal(size=(*lead, *shape)).astype(np.float32)
        for key, shape in spaces.obs.items()
    }


def seen(spaces: Spaces, N: int, first: bool | list[bool] = False, seed: int = 0) -> dict[str, np.ndarray]:
    return {**look(spaces, (N,), seed), "is_first": np.broadcast_to(first, N).copy()}


def rows(spaces: Spaces, B: int = 2, C: int = 5, seed: int = 0) -> dict[str, np.ndarray]:
    """Context rows of an episode, from its first on."""
    act = spaces.random(np.random.default_rng(seed), B * C)
    is_first = np.tile(np.arange(C) == 0, (B, 1))
    return {**look(spaces, (B, C), seed), "act": act.reshape(B, C, *act.shape[1:]), "is_first": is_first}


def other(spaces: Spaces, act: np.ndarray) -> np.ndarray:
    """A different action."""
    return (act + 1) % (spaces.multi or spaces.act) if spaces.discrete else -act


def fixed_noise(agent: DreamerV3Agent) -> DreamerV3Agent:
    """z is its own distribution, weights are large: what depends on what can then be seen without luck."""
    latent = agent.model.rssm.latent
    latent.sample = lambda logit, noise, temperature=1.0: latent.probs(logit).flatten(-2)
    for p in agent.model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return agent


# --- acting


@pytest.mark.parametrize("explore", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_new_episode_begins_like_a_fresh_one_and_leaves_the_others_alone(make, kind, explore):
    agent = make(kind)

    def act(memory, first):
        torch.manual_seed(3)
        return agent.act(seen(agent.spaces, 3, first, seed=9), memory, explore=explore)

    memory = agent.initial(3)
    for step in range(4):
        _, memory = agent.act(seen(agent.spaces, 3, step == 0, seed=step), memory, explore=True)
    went_on, fresh = act(memory, False), act(agent.initial(3), True)
    mixed = act(memory, [False, True, False])
    for expected, keep in ((went_on, [0, 2]), (fresh, [1])):
        for ours, theirs in zip(mixed[1].state, expected[1].state, strict=True):
            assert torch.equal(ours[keep], theirs[keep])
        np.testing.assert_array_equal(mixed[0][keep], expected[0][keep])
        assert torch.equal(mixed[1].act[keep], expected[1].act[keep])
    assert not torch.equal(went_on[1].state.deter[1], fresh[1].state.deter[1])


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_is_that_of_the_scan_with_the_action_before(make, kind):
    """Acting row by row is observing the stored rows: act[t - 1] leads to row t.

    Continuous draws beyond 1 are clipped for the environment, which changes nothing for the model.
    """
    agent = fixed_noise(make(kind))
    memory, acts, states = agent.initial(2), [], []
    context = rows(agent.spaces, 2, 5)
    for t in range(5):
        obs = {key: value[:, t] for key, value in context.items() if key != "act"}
        act, memory = agent.act(obs, memory, explore=True)
        acts.append(act)
        states.append(memory.state)
    post = agent.watch({**context, "act": np.stack(acts, 1)})
    for t, state in enumerate(states):
        for ours, theirs in zip(state, post, strict=True):
            torch.testing.assert_close(ours, theirs[:, t], atol=1e-4, rtol=1e-4)


def policy(agent: DreamerV3Agent, bias: list[float]) -> DreamerV3Agent:
    """The same distribution in every state."""
    for p in agent.actor.parameters():
        torch.nn.init.zeros_(p)
    with torch.no_grad():
        agent.actor.net.out.bias.copy_(torch.tensor(bias))
    return agent


def played(agent: DreamerV3Agent, explore: bool, N: int = 4_000) -> np.ndarray:
    """First actions of N games that look the same."""
    obs = {key: np.repeat(value, N, 0) for key, value in seen(agent.spaces, 1, True).items()}
    return agent.act(obs, agent.initial(N), explore=explore)[0]


@pytest.mark.parametrize("explore", [True, False])
def test_actions_are_drawn_in_evaluations_too(make, explore):
    agent = policy(make("several"), [0.0, 1.0, 0.0, 2.0, 0.0])
    drawn = played(agent, explore)
    assert drawn.dtype == np.int64 and drawn.shape == (4_000, 2)
    for i, probs in enumerate(agent.actor(torch.zeros(1, agent.model.rssm.feature)).probs):
        shares = np.bincount(drawn[:, i], minlength=2 + i) / 4_000
        np.testing.assert_allclose(shares, probs[0].detach(), atol=0.03)


def test_or_the_likeliest_is_taken_if_asked_for_and_only_in_evaluations(make):
    more = {"actor.eval_action": "mode"}
    agent = policy(make("several", **more), [0.0, 1.0, 0.0, 2.0, 0.0])
    assert (played(agent, False) == [1, 1]).all() and len(np.unique(played(agent, True), axis=0)) == 6
    agent = policy(make("continuous", **more), [0.5, -9.0, 0.0, 0.0])
    np.testing.assert_allclose(played(agent, False), np.tile(np.tanh([0.5, -9.0]), (4_000, 1)), atol=1e-5)


def test_continuous_actions_are_cut_for_the_environment_only(make):
    agent = policy(make("continuous"), [0.5, -9.0, 0.0, 0.0])
    obs = {key: np.repeat(value, 4_000, 0) for key, value in seen(agent.spaces, 1, True).items()}
    act, memory = agent.act(obs, agent.initial(4_000), explore=True)
    assert act.dtype == np.float32 and abs(act).max() == 1 < memory.act.abs().max()
    assert memory.act[:, 0].std().item() == pytest.approx(0.8927, abs=0.04)


# --- dreaming


@pytest.mark.parametrize("kind", KINDS)
def test_a_dream_has_all_rows_of_context_and_horizon(make, kind):
    agent = make(kind)
    dream = agent.dream(rows(agent.spaces, 2, 5), 7)
    assert dream.context == 5 and dream.horizon == 7
    assert {key: value.shape for key, value in dream.obs.items()} == {
        key: (2, 12, *shape) for key, shape in agent.spaces.obs.items()
    }
    assert dream.rew.shape == dream.val.shape == dream.cont.shape == (2, 12)
    tail = {"continuous": (2,), "several": (2,)}.get(kind, ())
    assert dream.act.shape == (2, 12, *tail)
    assert all(value.dtype in (np.uint8, np.float32) for value in dream.obs.values())


@pytest.mark.parametrize("kind", ["pixels", "continuous", "several"])
def test_given_actions_are_kept_and_move_the_rows_after_them(make, kind):
    agent = fixed_noise(make(kind))
    context, plan = rows(agent.spaces, 2, 5), rows(agent.spaces, 2, 7, seed=1)["act"]
    base = agent.dream(context, 7, actions=plan)
    np.testing.assert_array_equal(base.act, np.concatenate([context["act"], plan], 1))
    for i in (0, 3):  # plan[:, i] is chosen at row 5 + i
        changed = plan.copy()
        changed[:, i] = other(agent.spaces, plan[:, i])
        moved = agent.dream(context, 7, actions=changed).cont != base.cont
        assert not moved[:, : 6 + i].any() and moved[:, 6 + i].all()
    last = {**context, "act": context["act"].copy()}
    last["act"][:, 4] = other(agent.spaces, last["act"][:, 4])
    moved = agent.dream(last, 7, actions=plan).cont != base.cont
    assert not moved[:, :5].any() and moved[:, 5].all()


def test_without_a_plan_the_policy_acts_in_the_dream(make):
    agent = policy(make("pixels", **{"actor.unimix": 0.0}), [0.0, 0.0, 0.0, 50.0, 0.0])
    context = rows(agent.spaces)
    dream = agent.dream(context, 6)
    assert (dream.act[:, 5:] == 3).all()
    np.testing.assert_array_equal(dream.act[:, :5], context["act"])


def test_a_dream_repeats_with_its_generator(make):
    agent, context = make(), rows(KINDS["pixels"])
    first, again, other_seed = (
        agent.dream(context, 6, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.act, again.act)
    np.testing.assert_array_equal(first.obs["image"], again.obs["image"])
    assert not np.array_equal(first.cont, other_seed.cont)


@torch.no_grad()
def test_a_dream_without_horizon_is_a_reconstruction_in_the_worlds_own_units(make):
    agent = make("everything")
    context = rows(agent.spaces)
    dream = agent.dream(context, 0, generator=torch.Generator().manual_seed(0))
    assert dream.horizon == 0
    post = agent.watch(context, torch.Generator().manual_seed(0))
    means = agent.model.decoder(post.deter, post.stoch)
    for key in agent.spaces.vectors:
        np.testing.assert_allclose(dream.obs[key], symexp(means[key]), rtol=1e-5)
    for key in agent.spaces.images:
        np.testing.assert_array_equal(dream.obs[key], (means[key] * 255).round().to(torch.uint8))


def test_gamma_is_divided_out_of_going_on(make):
    for contdisc, gamma in ((True, 1 - 1 / 333), (False, 1.0)):
        agent = make(**{"model.contdisc": contdisc})
        for p in agent.model.cont.parameters():
            torch.nn.init.zeros_(p)
        for said in (0.5, 0.99):
            torch.nn.init.constant_(agent.model.cont.out.bias, torch.logit(torch.tensor(said)).item())
            np.testing.assert_allclose(agent.dream(rows(agent.spaces), 3).cont, said / gamma, atol=1e-5)


def test_another_coin_changes_what_is_learned_and_not_what_is_told(make):
    """Both heads are sure of 2.01 in the coin of the replay; a dream tells it in the task's own."""
    for scale in (1.0, 100.0):
        agent = make(**{"model.reward_scale": scale})
        for head in (agent.model.rew, agent.critic):
            with torch.no_grad():
                head.net.out.bias[134] = 50
        dream = agent.dream(rows(agent.spaces), 2)
        np.testing.assert_allclose(dream.rew, 2.01127087 / scale, rtol=1e-4)
        np.testing.assert_allclose(dream.val, 2.01127087 / scale, rtol=1e-4)


# --- files and spaces


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_agent_comes_back(make, kind, tmp_path):
    agent = make(kind)
    torch.nn.init.normal_(agent.critic.net.out.weight)
    agent.updates = 123
    agent.save(tmp_path / "model.pt")
    again = load_agent(tmp_path)
    assert isinstance(again, DreamerV3Agent) and isinstance(again, Agent)
    assert (again.cfg, again.env, again.spaces, again.updates) == (agent.cfg, agent.env, agent.spaces, 123)
    for name, part in agent.parts().items():
        theirs = again.parts()[name].state_dict()
        assert all(torch.equal(value, theirs[key]) for key, value in part.state_dict().items())
    dreams = [
        one.dream(rows(agent.spaces), 4, generator=torch.Generator().manual_seed(0)) for one in (agent, again)
    ]
    np.testing.assert_array_equal(dreams[0].val, dreams[1].val)
    np.testing.assert_array_equal(dreams[0].act, dreams[1].act)


def test_bad_files_get_one_line(make, tmp_path):
    agent, path = make(), tmp_path / "model.pt"
    agent.save(path)
    whole, tree = path.read_bytes(), load_file(path)

    def refused(match: str) -> None:
        with pytest.raises(UserError, match=match) as error:
            DreamerV3Agent.load(path)
        assert "\n" not in str(error.value)

    path.write_bytes(whole[: len(whole) // 2])
    refused("torn")
    save_file(path, {**tree, "paper": "paper3_dreamerv2"})
    refused("paper3_dreamerv2")
    save_file(path, {**tree, "config": {**tree["config"], "novel": 1}})
    refused("another version")
    save_file(path, {**tree, "weights": {name: {} for name in tree["weights"]}})
    refused("train again")


def test_another_envs_spaces_are_refused(make):
    agent = make("several")
    box = gym_spaces.Dict({"vector": gym_spaces.Box(-9, 9, (4,), np.float32)})
    agent.check_env(box, gym_spaces.MultiDiscrete([2, 3]))
    for act in (gym_spaces.MultiDiscrete([3, 2]), gym_spaces.Discrete(5), gym_spaces.Box(-1, 1, (5,))):
        with pytest.raises(UserError) as error:
            agent.check_env(box, act)
        assert "\n" not in str(error.value)


def test_memory_is_what_the_agent_remembers(make):
    memory = make().initial(3)
    assert isinstance(memory, Memory) and memory.act.shape == (3, 5)
    assert not any(part.any() for part in (*memory.state, memory.act))


# --- a run


SMALL_RUN = (
    "--preset tiny --env CartPole-v1 --device cpu --rssm.deter 16 --rssm.hidden 8 --units 8 --rssm.stoch 3 "
    "--rssm.classes 4 --replay.batch 4 --replay.length 8 --behaviour.horizon 3 --prefill 40 --train-ratio 32 "
    "--eval-every 60 --eval-episodes 2 --checkpoint-every 60 --log-every 10"
).split()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run of 120 decisions; every update writes its latents back."""
    folder, written = tmp_path_factory.mktemp("run") / "whole", []
    update = ReplayBuffer.update

    def note(replay, ids, values):
        written.append((ids.shape, sorted(values)))
        update(replay, ids, values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ReplayBuffer, "update", note)
        main([*SMALL_RUN, "--steps", "120", "--logdir", str(folder)])
    assert written == [((4, 8), ["deter", "stoch"])] * 81
    return folder


def test_a_run_trains_at_its_ratio_and_its_checkpoint_plays(whole):
    """Updates begin after 40 random decisions, and then there is one per decision at 32 rows each."""
    agent = load_agent(whole)
    log = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    found = [row for row in log if "loss/total" in row]
    assert found and all(np.isfinite(row["loss/total"]) for row in found)
    assert agent.updates == found[-1]["updates"] == 1 + 120 - 40
    assert found[-1]["replayed_rows_per_step"] == pytest.approx(32 * agent.updates / 120)
    with open(whole / "curve.csv", newline="") as file:
        assert float(list(csv.DictReader(file))[-1]["ret_mean"]) >= 1
    act, _ = agent.act(seen(agent.spaces, 2, True), agent.initial(2))
    assert act.shape == (2,)


def test_a_replay_of_exactly_one_sequence_is_too_small(tmp_path):
    """A sequence has a row of context more than it trains on."""
    with pytest.raises(UserError, match="--replay.capacity 8: leaves each of 1 environments less"):
        main([*SMALL_RUN, "--replay.capacity", "8", "--steps", "60", "--logdir", str(tmp_path / "run")])


def test_the_pictures_of_a_young_agent_can_be_drawn(whole, tmp_path):
    """Its critic has no bin above one percent yet."""
    folder = tmp_path / "run"
    main([*SMALL_RUN, "--steps", "45", "--lr", "1e-9", "--logdir", str(folder)])
    for run in (folder, whole):
        visualize(["--checkpoint", str(run), "--num-dreams", "1", "--out", str(tmp_path / run.name)])
        found = {path.name for path in (tmp_path / run.name).iterdir()}
        assert {"value_histogram.png", "latent_usage.png", "prior_posterior.png"} <= found


def test_a_run_that_was_cut_goes_on_to_the_same_end(whole, tmp_path):
    """A stop at 60 decisions and a resume give the weights of a run in one go, bit for bit."""
    main([*SMALL_RUN, "--steps", "60", "--logdir", str(tmp_path / "cut")])
    main(["--resume", str(tmp_path / "cut"), "--steps", "120"])
    one, two = load_agent(whole), load_agent(tmp_path / "cut")
    assert one.updates == two.updates
    for name, part in one.parts().items():
        for key, value in part.state_dict().items():
            assert torch.equal(value, two.parts()[name].state_dict()[key]), (name, key)
