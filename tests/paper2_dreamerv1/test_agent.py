"""The agent: resets, exploring and evaluation actions, dreams, its file, and the envs that it can play."""

import numpy as np
import pytest
import torch
from gymnasium import spaces as gym_spaces

from common.agent import Agent, load_agent
from common.checkpoint import load_file, save_file
from common.env_wrapper import EnvSpec
from common.errors import UserError
from common.spaces import Spaces
from paper2_dreamerv1.agent import DreamerV1Agent, Memory
from paper2_dreamerv1.rssm import State

PIXELS = {"image": (32, 32, 3)}
KINDS = {
    "pixels": Spaces(PIXELS, 2, False),
    "discrete": Spaces(PIXELS, 5, True),
    "vectors": Spaces({"vector": (4,)}, 2, False),
    "both": Spaces({**PIXELS, "vector": (4,)}, 5, True),
}


@pytest.fixture(scope="module")
def make(small):
    """An agent of a kind: make("discrete", cont=True, **{"actor.noise": 0.0})."""

    def agent(kind: str = "pixels", cont: bool = False, **more) -> DreamerV1Agent:
        torch.manual_seed(0)
        return DreamerV1Agent(
            small(**more), EnvSpec("toy_point", {"size": 32}), KINDS[kind], cont, device="cpu"
        )

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
    first = np.zeros((B, C), bool)
    first[:, 0] = True
    act = act if spaces.discrete else act.astype(np.float32)
    return {**look(spaces, (B, C), seed), "act": act, "is_first": first}


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
    went_on, fresh, mixed = (
        act(memory, False),
        act(agent.initial(3), True),
        act(memory, [False, True, False]),
    )
    assert fresh[0].shape == ((3,) if agent.spaces.discrete else (3, 2))
    for i, wanted in enumerate((went_on, fresh, went_on)):
        np.testing.assert_array_equal(mixed[0][i], wanted[0][i])
        for ours, theirs in zip(
            (*mixed[1].state, mixed[1].act), (*wanted[1].state, wanted[1].act), strict=True
        ):
            assert torch.equal(ours[i], theirs[i])
    assert not torch.equal(went_on[1].state.deter[1], fresh[1].state.deter[1])


def test_the_memory_holds_what_was_done(make):
    """The action that the environment got, noise and clipping included, is what the next filter step sees."""
    agent = make("pixels", **{"actor.noise": 3.0})
    act, memory = agent.act(seen(agent.spaces, 4, True), agent.initial(4), explore=True)
    np.testing.assert_array_equal(memory.act.numpy(), act)
    assert (abs(act) == 1).any() and (abs(act) <= 1).all() and act.dtype == np.float32
    agent = make("discrete")
    act, memory = agent.act(seen(agent.spaces, 4, True), agent.initial(4), explore=True)
    assert act.dtype == np.int64 and memory.act.shape == (4, 5)
    assert (memory.act.round().argmax(-1).numpy() == act).all()


def test_filtering_is_what_training_does(make):
    """Step by step in the game or in one scan over stored rows: the same states."""
    agent = make("discrete")
    agent.model.rssm.latent.noise = lambda *lead, like, generator=None: torch.zeros(*lead, 5)
    data = rows(agent.spaces, 2, 5)
    scan, _ = agent.watch(data)
    memory, states = agent.initial(2), []
    for t in range(5):
        now = {key: data[key][:, t] for key in ("image", "is_first")}
        _, memory = agent.act(now, memory)
        states.append(memory.state.feat)
        memory = Memory(memory.state, agent.spaces.encode(torch.from_numpy(data["act"][:, t])))
    torch.testing.assert_close(torch.stack(states, 1), scan.feat)


def policy(agent: DreamerV1Agent, mean: float, std: float) -> None:
    """Make the actor say this whatever it sees."""
    for p in agent.actor.parameters():
        torch.nn.init.zeros_(p)
    out = agent.actor.net.out.bias
    with torch.no_grad():
        out[: len(out) // 2] = mean
        out[len(out) // 2 :] = torch.tensor(std).expm1().log() - agent.actor.raw_init


@torch.no_grad()
def played(agent: DreamerV1Agent, explore: bool, N: int = 4000) -> np.ndarray:
    torch.manual_seed(0)
    dist = agent.actor(torch.zeros(N, agent.model.rssm.feature))
    return agent.spaces.decode(agent.explore(dist) if explore else agent.likeliest(dist))


@pytest.mark.parametrize("source, spread", [("mode", 0.2), ("sample", 0.27)])
def test_exploring_adds_gaussian_noise(make, source, spread):
    agent = make(**{"actor.explore_from": source, "actor.noise": 0.2, "actor.eval_action": "tanh_mean"})
    policy(agent, 0.0, 0.2)
    act = played(agent, True)
    assert act.std() == pytest.approx(spread, abs=0.012) and abs(act.mean()) < 0.02
    policy(agent, 2.0, 0.05)
    act = played(agent, True)
    assert act.max() == 1 and (act == 1).mean() > 0.4  # clipped, not squashed


def test_evaluation_has_no_noise(make):
    agent = make(**{"actor.eval_action": "tanh_mean"})
    policy(agent, 0.4, 0.5)
    mean = np.tanh(5 * np.tanh(0.4 / 5))
    np.testing.assert_allclose(played(agent, False), mean, rtol=1e-6)
    agent = make(**{"actor.eval_action": "best_of_100"})
    policy(agent, 0.4, 0.5)
    best = played(agent, False)
    assert len(np.unique(best[:, 0])) > 3000  # each row has its own draws
    # For one dimension the densest point is that of the squashed density, beyond tanh(mean).
    grid = torch.linspace(-2, 2, 4001)[:, None]
    dist = agent.actor(torch.zeros(1, agent.model.rssm.feature))
    one = type(dist)(dist.mean[0, :1], dist.std[0, :1])
    densest = grid[one.log_prob_of(grid).argmax()].tanh().item()
    assert densest > mean + 0.02 and np.median(best) == pytest.approx(densest, abs=0.05)


@pytest.mark.parametrize("updates, epsilon", [(0, 0.4), (50, 0.25), (100, 0.1), (10_000, 0.1)])
def test_epsilon_falls_linearly_with_the_updates(make, updates, epsilon):
    agent = make("discrete", **{"actor.epsilon": (0.4, 0.1), "actor.epsilon_updates": 100})
    agent.updates = updates
    for p in agent.actor.parameters():
        torch.nn.init.zeros_(p)
    with torch.no_grad():
        agent.actor.net.out.bias[2] = 50.0
    act = played(agent, True)
    others = (act != 2).mean()  # uniform over all five, the best one included
    assert others == pytest.approx(0.8 * epsilon, abs=0.02)
    counts = np.bincount(act, minlength=5)[[0, 1, 3, 4]]
    assert counts.min() > 0.6 * counts.mean()
    assert (played(agent, False) == 2).all()


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


@pytest.mark.parametrize("kind", ["pixels", "discrete"])
def test_given_actions_are_kept_and_move_the_rows_after_them(make, kind):
    agent = make(kind)
    context, rng = rows(agent.spaces, 2, 5), np.random.default_rng(1)
    plan = rng.integers(5, size=(2, 7)) if agent.spaces.discrete else rng.uniform(-1, 1, (2, 7, 2))
    plan = plan if agent.spaces.discrete else plan.astype(np.float32)

    def dream(context, plan):
        return agent.dream(context, 7, actions=plan, generator=torch.Generator().manual_seed(0))

    base = dream(context, plan)
    np.testing.assert_array_equal(base.act, np.concatenate([context["act"], plan], 1))
    for i in (0, 3):  # plan[:, i] is chosen at row 5 + i
        other = plan.copy()
        other[:, i] = (other[:, i] + 1) % 5 if agent.spaces.discrete else -other[:, i]
        moved = dream(context, other).rew != base.rew
        assert not moved[:, : 6 + i].any() and moved[:, 6 + i :].all()
    last = {**context, "act": context["act"].copy()}
    last["act"][:, 4] = (last["act"][:, 4] + 1) % 5 if agent.spaces.discrete else -last["act"][:, 4]
    moved = dream(last, plan).rew != base.rew
    assert not moved[:, :5].any() and moved[:, 5:].all()


def test_without_a_plan_the_policy_acts_in_the_dream(make):
    agent = make("pixels")
    policy(agent, 1.0, 1e-3)
    dream = agent.dream(rows(agent.spaces), 6)
    np.testing.assert_allclose(dream.act[:, 5:], np.tanh(5 * np.tanh(0.2)), atol=0.01)


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
    agent = make("pixels")
    context = rows(agent.spaces)
    dreams = []
    for t in (None, 4, 1):
        changed = {**context, "image": context["image"].copy()}
        if t is not None:
            changed["image"][:, t] ^= 255
        dreams.append(agent.dream(changed, 3, generator=torch.Generator().manual_seed(0)).rew)
    assert np.array_equal(dreams[0][:, :4], dreams[1][:, :4]) and (dreams[0][:, 4:] != dreams[1][:, 4:]).all()
    assert np.array_equal(dreams[0][:, :1], dreams[2][:, :1]) and (dreams[0][:, 1:] != dreams[2][:, 1:]).all()


def test_cold_dreams_are_the_mean(make):
    agent = make("pixels")
    state = State(*(torch.randn(4, n) for n in (12, 5, 10)))
    cold = agent.model.rssm.imagine(state, torch.zeros(4, 2), temperature=0.0)
    assert torch.equal(cold.stoch, cold.stats[:, :5])
    hot = agent.model.rssm.imagine(state, torch.zeros(4, 2), temperature=2.0)
    assert not torch.equal(hot.stoch, cold.stoch)


def test_the_discount_is_divided_out_of_cont(make):
    agent = make("pixels", cont=True)
    for p in agent.model.cont.parameters():
        torch.nn.init.zeros_(p)
    for said, expected in ((0.95, 1.0), (0.475, 0.5), (0.999, 1.0)):
        torch.nn.init.constant_(agent.model.cont.out.bias, torch.logit(torch.tensor(said)).item())
        np.testing.assert_allclose(agent.dream(rows(agent.spaces), 3).cont, expected, atol=1e-5)


# --- files and spaces


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_agent_comes_back(make, kind, tmp_path):
    agent = make(kind, cont=kind == "discrete")
    agent.updates = 123
    agent.save(tmp_path / "model.pt")
    other = load_agent(tmp_path)
    assert isinstance(other, DreamerV1Agent) and isinstance(other, Agent)
    assert (other.cfg, other.env, other.spaces, other.updates) == (agent.cfg, agent.env, agent.spaces, 123)
    assert (other.model.cont is None) == (agent.model.cont is None)
    for name, part in agent.parts().items():
        theirs = other.parts()[name].state_dict()
        assert all(torch.equal(value, theirs[key]) for key, value in part.state_dict().items())
    for explore in (True, False):
        acts = []
        for one in (agent, other):
            torch.manual_seed(5)
            acts.append(one.act(seen(agent.spaces, 3, True), one.initial(3), explore=explore)[0])
        np.testing.assert_array_equal(*acts)
    dreams = [
        one.dream(rows(agent.spaces), 4, generator=torch.Generator().manual_seed(0)) for one in (agent, other)
    ]
    np.testing.assert_array_equal(dreams[0].rew, dreams[1].rew)


def test_bad_files_get_one_line(make, tmp_path):
    agent, path = make(), tmp_path / "model.pt"
    agent.save(path)
    whole, tree = path.read_bytes(), load_file(path)

    def refused(match: str) -> None:
        with pytest.raises(UserError, match=match) as error:
            DreamerV1Agent.load(path)
        assert "\n" not in str(error.value)

    path.write_bytes(whole[: len(whole) // 2])
    refused("torn")
    path.write_bytes(b"not a checkpoint")
    refused("not a checkpoint of this repository")
    save_file(path, {**tree, "paper": "paper3_dreamerv2"})
    refused("paper3_dreamerv2")
    save_file(path, {**tree, "config": {**tree["config"], "novel": 1}})
    refused("another version")
    save_file(path, {**tree, "weights": {name: {} for name in tree["weights"]}})
    refused("train again")
    save_file(path, {key: tree[key] for key in ("paper", "config", "env", "weights")})
    refused("train again")


@pytest.mark.parametrize(
    "obs, act",
    [
        (gym_spaces.Box(0, 255, (64, 64, 3), np.uint8), gym_spaces.Box(-1, 1, (2,))),
        (gym_spaces.Box(0, 255, (32, 32, 3), np.uint8), gym_spaces.Box(-1, 1, (3,))),
        (gym_spaces.Box(0, 255, (32, 32, 3), np.uint8), gym_spaces.Discrete(2)),
        (gym_spaces.Box(0, 255, (32, 32, 3), np.uint8), gym_spaces.MultiDiscrete([2, 2])),
    ],
)
def test_another_envs_spaces_are_refused(make, obs, act):
    agent = make("pixels")
    agent.check_env(
        gym_spaces.Dict({"image": gym_spaces.Box(0, 255, (32, 32, 3), np.uint8)}), gym_spaces.Box(-1, 1, (2,))
    )
    with pytest.raises(UserError) as error:
        agent.check_env(gym_spaces.Dict({"image": obs}), act)
    assert "\n" not in str(error.value)
