"""The agent: resets, the two ways to act, what moves a dream, its file, and the envs that it can play."""

import numpy as np
import pytest
import torch
from gymnasium import spaces as gym_spaces

from common.agent import Agent, load_agent
from common.checkpoint import load_file, save_file
from common.env_wrapper import EnvSpec
from common.errors import UserError
from common.seeding import seed_everything
from common.spaces import Spaces
from paper3_dreamerv2.agent import DreamerV2Agent, Memory
from paper3_dreamerv2.rssm import State

GRAY = {"image": (32, 32, 1)}
KINDS = {
    "pixels": Spaces(GRAY, 5, True),
    "continuous": Spaces({"image": (32, 32, 3)}, 2, False),
    "both": Spaces({**GRAY, "vector": (4,)}, 5, True),
}


@pytest.fixture(scope="module")
def make(small):
    """An agent of a kind: make("continuous", cont=True, **{"rssm.latent": "gaussian"})."""

    def agent(kind: str = "pixels", cont: bool = False, **more) -> DreamerV2Agent:
        seed_everything(0)
        return DreamerV2Agent(small(**more), EnvSpec("toy_catch", {"gray": True}), KINDS[kind], cont)

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
    rng = np.random.default_rng(seed)
    act = rng.integers(spaces.act, size=(B, C)) if spaces.discrete else rng.uniform(-1, 1, (B, C, spaces.act))
    is_first = np.tile(np.arange(C) == 0, (B, 1))
    act = act if spaces.discrete else act.astype(np.float32)
    return {**look(spaces, (B, C), seed), "act": act, "is_first": is_first}


def other(spaces: Spaces, act: np.ndarray) -> np.ndarray:
    """A different action."""
    return (act + 1) % spaces.act if spaces.discrete else -act


def fixed_noise(agent: DreamerV2Agent) -> DreamerV2Agent:
    """z is its own distribution: what depends on what can then be seen without luck."""
    agent.model.rssm.latent.sample = lambda stats, noise, temperature=1.0: stats
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
    for (state, before), expected in ((mixed[1], went_on), (mixed[1], fresh)):
        keep = [0, 2] if expected is went_on else [1]
        for ours, theirs in zip(state, expected[1].state, strict=True):
            assert torch.equal(ours[keep], theirs[keep])
        np.testing.assert_array_equal(mixed[0][keep], expected[0][keep])
        assert torch.equal(before[keep], expected[1].act[keep])
    assert not torch.equal(went_on[1].state.deter[1], fresh[1].state.deter[1])


def test_the_state_is_that_of_the_scan_with_the_action_before(make):
    """Acting row by row is observing the stored rows: act[t - 1] leads to row t."""
    agent = fixed_noise(make("both"))
    memory, acts, states = agent.initial(2), [], []
    context = rows(agent.spaces, 2, 5)
    for t in range(5):
        obs = {key: value[:, t] for key, value in context.items() if key != "act"}
        act, memory = agent.act(obs, memory, explore=True)
        acts.append(act)
        states.append(memory.state)
    post, _ = agent.watch({**context, "act": np.stack(acts, 1)})
    for t, state in enumerate(states):
        for ours, theirs in zip(state, post, strict=True):
            torch.testing.assert_close(ours, theirs[:, t])


def policy(agent: DreamerV2Agent, bias: list[float]) -> DreamerV2Agent:
    """The same distribution in every state."""
    for p in agent.actor.parameters():
        torch.nn.init.zeros_(p)
    with torch.no_grad():
        agent.actor.net.out.bias.copy_(torch.tensor(bias))
    return agent


def played(agent: DreamerV2Agent, explore: bool, N: int = 4_000) -> np.ndarray:
    """First actions of N games that look the same."""
    obs = {key: np.repeat(value, N, 0) for key, value in seen(agent.spaces, 1, True).items()}
    return agent.act(obs, agent.initial(N), explore=explore)[0]


def test_discrete_actions_are_drawn_to_explore_and_the_likeliest_otherwise(make):
    agent = policy(make(), [0.0, 1.0, 2.0, 1.0, 0.0])
    assert (played(agent, False) == 2).all()
    drawn = played(agent, True)
    assert drawn.dtype == np.int64 and drawn.shape == (4_000,)
    shares = np.bincount(drawn, minlength=5) / 4_000
    np.testing.assert_allclose(shares, torch.tensor([0.0, 1, 2, 1, 0]).softmax(0), atol=0.03)


def test_continuous_actions_are_drawn_to_explore_and_the_mean_otherwise(make):
    """No noise is added from outside: the spread is that of the truncated normal."""
    agent = policy(make("continuous"), [0.5, -9.0, 0.0, 0.0])
    still = played(agent, False)
    np.testing.assert_allclose(still, np.tile(np.tanh([0.5, -9.0]), (4_000, 1)), atol=1e-5)
    drawn = played(agent, True)
    assert drawn.dtype == np.float32 and abs(drawn).max() <= 1 - 1e-6
    assert drawn[:, 0].std() == pytest.approx(0.55, abs=0.03)


# --- dreaming


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cont", [True, False])
def test_a_dream_has_all_rows_of_context_and_horizon(make, kind, cont):
    agent = make(kind, cont)
    dream = agent.dream(rows(agent.spaces, 2, 5), 7)
    assert dream.context == 5 and dream.horizon == 7
    assert {key: value.shape for key, value in dream.obs.items()} == {
        key: (2, 12, *shape) for key, shape in agent.spaces.obs.items()
    }
    assert dream.rew.shape == dream.val.shape == (2, 12)
    assert (dream.cont is None) if not cont else (dream.cont.shape == (2, 12))
    assert dream.act.shape == ((2, 12) if agent.spaces.discrete else (2, 12, 2))
    assert np.isfinite(dream.val).all() and all(v.dtype in (np.uint8, np.float32) for v in dream.obs.values())


@pytest.mark.parametrize("kind", ["pixels", "continuous"])
def test_given_actions_are_kept_and_move_the_rows_after_them(make, kind):
    agent = fixed_noise(make(kind))
    context, plan = rows(agent.spaces, 2, 5), rows(agent.spaces, 2, 7, seed=1)["act"]
    base = agent.dream(context, 7, actions=plan)
    np.testing.assert_array_equal(base.act, np.concatenate([context["act"], plan], 1))
    for i in (0, 3):  # plan[:, i] is chosen at row 5 + i
        changed = plan.copy()
        changed[:, i] = other(agent.spaces, plan[:, i])
        moved = agent.dream(context, 7, actions=changed).rew != base.rew
        assert not moved[:, : 6 + i].any() and moved[:, 6 + i :].all()
    last = {**context, "act": context["act"].copy()}
    last["act"][:, 4] = other(agent.spaces, last["act"][:, 4])
    moved = agent.dream(last, 7, actions=plan).rew != base.rew
    assert not moved[:, :5].any() and moved[:, 5:].all()


def test_without_a_plan_the_policy_acts_in_the_dream(make):
    agent = policy(make(), [0.0, 0.0, 0.0, 50.0, 0.0])
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
    assert not np.array_equal(first.rew, other_seed.rew)


@torch.no_grad()
def test_a_dream_without_horizon_is_a_reconstruction(make):
    agent = make("both", cont=True)
    context = rows(agent.spaces)
    dream = agent.dream(context, 0, generator=torch.Generator().manual_seed(0))
    assert dream.horizon == 0 and dream.rew.shape == (2, 5)
    post, _ = agent.watch(context, torch.Generator().manual_seed(0))
    for key, value in agent.decode(post.feat).items():
        np.testing.assert_array_equal(dream.obs[key], value)


def test_a_dream_does_not_see_beyond_its_context(make):
    agent = fixed_noise(make())
    context, plan = rows(agent.spaces), rows(agent.spaces, 2, 3)["act"]
    dreams = []
    for t in (None, 4, 1):
        changed = {**context, "image": context["image"].copy()}
        if t is not None:
            changed["image"][:, t] ^= 255
        dreams.append(agent.dream(changed, 3, actions=plan).rew)
    for dream, t in ((dreams[1], 4), (dreams[2], 1)):
        assert np.array_equal(dreams[0][:, :t], dream[:, :t]) and (dreams[0][:, t:] != dream[:, t:]).all()


@pytest.mark.parametrize("latent", ["categorical", "gaussian"])
def test_cold_dreams_take_what_is_likeliest(make, latent):
    agent = make(**{"rssm.latent": latent})
    size = agent.model.rssm.latent.size
    start = State(torch.randn(4, 12), torch.randn(4, size), torch.zeros(4, agent.model.rssm.latent.inputs))
    cold = [agent.model.rssm.imagine(start, torch.zeros(4, 5), temperature=1e-6).stoch for _ in range(2)]
    torch.testing.assert_close(*cold, atol=1e-4, rtol=0)
    hot = agent.model.rssm.imagine(start.__class__(*start), torch.zeros(4, 5), temperature=5.0)
    assert not torch.allclose(hot.stoch, cold[0], atol=1e-3)


def test_the_discount_is_divided_out_of_cont(make):
    agent = make(cont=True)
    for p in agent.model.cont.parameters():
        torch.nn.init.zeros_(p)
    for said, expected in ((0.95, 1.0), (0.475, 0.5), (0.999, 1.0)):
        torch.nn.init.constant_(agent.model.cont.out.bias, torch.logit(torch.tensor(said)).item())
        np.testing.assert_allclose(agent.dream(rows(agent.spaces), 3).cont, expected, atol=1e-5)


# --- files and spaces


@pytest.mark.parametrize(
    "kind, more", [("pixels", {}), ("continuous", {}), ("both", {"rssm.latent": "gaussian"})]
)
def test_a_saved_agent_comes_back(make, kind, more, tmp_path):
    agent = make(kind, cont=kind == "pixels", **more)
    agent.updates = 123
    agent.save(tmp_path / "model.pt")
    again = load_agent(tmp_path)
    assert isinstance(again, DreamerV2Agent) and isinstance(again, Agent)
    assert (again.cfg, again.env, again.spaces, again.updates) == (agent.cfg, agent.env, agent.spaces, 123)
    assert (again.model.cont is None) == (agent.model.cont is None)
    for name, part in agent.parts().items():
        theirs = again.parts()[name].state_dict()
        assert all(torch.equal(value, theirs[key]) for key, value in part.state_dict().items())
    for explore in (True, False):
        acts = []
        for one in (agent, again):
            torch.manual_seed(5)
            acts.append(one.act(seen(agent.spaces, 3, True), one.initial(3), explore=explore)[0])
        np.testing.assert_array_equal(*acts)
    dreams = [
        one.dream(rows(agent.spaces), 4, generator=torch.Generator().manual_seed(0)) for one in (agent, again)
    ]
    np.testing.assert_array_equal(dreams[0].rew, dreams[1].rew)


def test_bad_files_get_one_line(make, tmp_path):
    agent, path = make(), tmp_path / "model.pt"
    agent.save(path)
    whole, tree = path.read_bytes(), load_file(path)

    def refused(match: str) -> None:
        with pytest.raises(UserError, match=match) as error:
            DreamerV2Agent.load(path)
        assert "\n" not in str(error.value)

    path.write_bytes(whole[: len(whole) // 2])
    refused("torn")
    save_file(path, {**tree, "paper": "paper2_dreamerv1"})
    refused("paper2_dreamerv1")
    save_file(path, {**tree, "config": {**tree["config"], "novel": 1}})
    refused("another version")
    save_file(path, {**tree, "weights": {name: {} for name in tree["weights"]}})
    refused("train again")


def test_another_envs_spaces_are_refused(make):
    agent = make()
    box = gym_spaces.Box(0, 255, (32, 32, 1), np.uint8)
    agent.check_env(gym_spaces.Dict({"image": box}), gym_spaces.Discrete(5))
    rgb = gym_spaces.Box(0, 255, (32, 32, 3), np.uint8)
    for image, act in (
        (rgb, gym_spaces.Discrete(5)),
        (box, gym_spaces.Discrete(6)),
        (box, gym_spaces.Box(-1, 1, (5,))),
    ):
        with pytest.raises(UserError) as error:
            agent.check_env(gym_spaces.Dict({"image": image}), act)
        assert "\n" not in str(error.value)


def test_memory_is_what_the_agent_remembers(make):
    memory = make().initial(3)
    assert isinstance(memory, Memory) and memory.act.shape == (3, 5)
    assert not any(part.any() for part in (*memory.state, memory.act))
