"""The agent: what it sees, resets, the two ways to act, what moves a dream, its file."""

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
from paper5_iris.actor_critic import Memory
from paper5_iris.agent import IrisAgent
from paper5_iris.tokenizer import to_images
from tests.paper5_iris.conftest import spread

KINDS = {
    "choices": Spaces({"image": (8, 8, 3)}, 5, True),
    "numbers": Spaces({"image": (8, 8, 1)}, 2, False),
    "both": Spaces({"image": (8, 8, 3), "vector": (4,)}, 5, True),
}
EACH = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def make(small):
    """An agent of a kind whose networks say something: make("numbers", **{"eval_temperature": 0.1})."""

    def agent(kind: str = "choices", **more) -> IrisAgent:
        seed_everything(0)
        one = IrisAgent(small(**more), EnvSpec("toy_catch"), KINDS[kind])
        for p in (*one.world.parameters(), *one.actor.parameters()):
            torch.nn.init.normal_(p, std=0.3)
        spread(one.tokenizer)
        return one

    return agent


def rows(spaces: Spaces, B: int = 2, C: int = 4, seed: int = 0) -> dict[str, np.ndarray]:
    """Context rows of an episode, from its first on."""
    rng = np.random.default_rng(seed)
    act = spaces.random(rng, B * C)
    obs = {
        key: rng.integers(256, size=(B, C, *shape), dtype=np.uint8)
        if key in spaces.images
        else rng.normal(size=(B, C, *shape)).astype(np.float32)
        for key, shape in spaces.obs.items()
    }
    return {**obs, "act": act.reshape(B, C, *act.shape[1:]), "is_first": np.tile(np.arange(C) == 0, (B, 1))}


def seen(spaces: Spaces, N: int, first: bool | list[bool] = False, seed: int = 0) -> dict[str, np.ndarray]:
    obs = {key: value[:, 0] for key, value in rows(spaces, N, 1, seed).items() if key != "act"}
    return {**obs, "is_first": np.broadcast_to(first, N).copy()}


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- acting


@EACH
@pytest.mark.parametrize("explore", [True, False])
def test_a_new_episode_begins_like_a_fresh_one_and_leaves_the_others_alone(make, kind, explore):
    agent = make(kind)

    def act(memory, first):
        torch.manual_seed(3)
        return agent.act(seen(agent.spaces, 3, first, seed=9), memory, explore=explore)

    memory = agent.initial(3)
    for step in range(4):
        _, memory = agent.act(seen(agent.spaces, 3, step == 0, seed=step), memory, explore=True)
    went_on, fresh, mixed = act(memory, False), act(agent.initial(3), True), act(memory, [False, True, False])
    for expected, keep in ((went_on, [0, 2]), (fresh, [1])):
        np.testing.assert_array_equal(mixed[0][keep], expected[0][keep])
        for ours, theirs in zip(mixed[1], expected[1], strict=True):
            assert torch.equal(ours[keep], theirs[keep])
    assert not torch.equal(went_on[1].hidden[1], fresh[1].hidden[1])


def test_the_policy_sees_what_the_tokens_keep_of_a_frame(make):
    """Two frames with the same tokens are one to it; other observations do not exist for it."""
    agent = make("both")
    obs = seen(agent.spaces, 1, True)
    decoded = agent.tokenizer.encode_decode(agent.frames(obs["image"]))
    _, _, expected = agent.actor(decoded, agent.initial(1))
    again = {"image": obs["image"].copy(), "vector": obs["vector"] + 1, "is_first": obs["is_first"]}
    again["image"][0, 0, 0, 0] ^= 1
    assert torch.equal(
        *(agent.tokenizer.tokenize(agent.frames(o["image"])) for o in (obs, again))
    )  # so little changes no token
    for one in (obs, again):
        _, memory = agent.act(one, agent.initial(1))
        assert torch.equal(memory.hidden, expected.hidden)


def fixed(agent: IrisAgent, bias: list[float]) -> IrisAgent:
    """The same policy in every state."""
    with torch.no_grad():
        agent.actor.actor.weight.zero_()
        agent.actor.actor.bias.copy_(torch.tensor(bias))
    return agent


def played(agent: IrisAgent, explore: bool, N: int = 4_000) -> np.ndarray:
    """First actions of N games that look the same."""
    obs = {key: np.repeat(value, N, 0) for key, value in seen(agent.spaces, 1, True).items()}
    return agent.act(obs, agent.initial(N), explore=explore)[0]


def test_choices_are_drawn_at_their_temperatures_and_epsilon_is_uniform(make):
    logit = torch.tensor([0.0, 1.0, 2.0, 1.0, 0.0])
    agent = fixed(make(**{"eval_temperature": 0.5, "collect.temperature": 2.0}), logit.tolist())
    acts = played(agent, False)
    assert acts.dtype == np.int64 and acts.shape == (4_000,)
    np.testing.assert_allclose(np.bincount(acts) / 4_000, (logit / 0.5).softmax(0), atol=0.03)
    np.testing.assert_allclose(np.bincount(played(agent, True)) / 4_000, (logit / 2).softmax(0), atol=0.03)
    curious = fixed(make(**{"collect.epsilon": 0.5}), [0.0, 0.0, 99.0, 0.0, 0.0])
    np.testing.assert_allclose(
        np.bincount(played(curious, True)) / 4_000, [0.1, 0.1, 0.6, 0.1, 0.1], atol=0.03
    )
    assert (played(curious, False) == 2).all()


def test_numbers_stay_in_the_box(make):
    agent = fixed(make("numbers", **{"collect.epsilon": 0.0}), [3.0, 0.0, 3.0, -9.0])
    acts = played(agent, True)
    assert acts.dtype == np.float32 and acts.shape == (4_000, 2)
    assert abs(acts).max() <= 1 and (acts[:, 0] == 1).mean() > 0.2  # the normal is cut, not squashed
    assert acts[:, 1].std() == pytest.approx(0.1, abs=0.02)
    curious = fixed(make("numbers", **{"collect.epsilon": 1.0}), [3.0, 0.0, 3.0, -9.0])
    assert played(curious, True).std(0) == pytest.approx(3**-0.5, abs=0.02)


# --- dreaming


@EACH
def test_a_dream_has_all_rows_and_says_nothing_of_what_was_seen(make, kind):
    agent = make(kind)
    dream = agent.dream(rows(agent.spaces), 7)  # longer than the transformer's context
    image = agent.spaces.obs["image"]
    assert (dream.context, dream.horizon) == (4, 7)
    assert {key: value.shape for key, value in dream.obs.items()} == {"image": (2, 11, *image)}
    assert dream.act.shape == ((2, 11) if agent.spaces.discrete else (2, 11, 2))
    for said in (dream.rew, dream.cont):
        assert np.isnan(said[:, :4]).all() and np.isfinite(said[:, 4:]).all()
    assert np.isfinite(dream.val).all()
    assert set(np.unique(dream.rew[:, 4:])) <= {-1, 0, 1}
    assert ((dream.cont[:, 4:] >= 0) & (dream.cont[:, 4:] <= 1)).all()


def test_what_was_seen_is_reconstructed(make):
    agent = make()
    context = rows(agent.spaces)
    dream = agent.dream(context, 0)
    decoded = to_images(agent.tokenizer.encode_decode(agent.frames(context["image"])))
    np.testing.assert_array_equal(dream.obs["image"], decoded.unflatten(0, (2, 4)))
    assert dream.horizon == 0


@pytest.mark.parametrize("kind", ["choices", "numbers"])
def test_given_actions_are_kept_and_move_the_rows_after_them(make, kind):
    agent = make(kind)
    context, plan = rows(agent.spaces), rows(agent.spaces, 2, 6, seed=1)["act"]

    def dreamed(context, plan):
        return agent.dream(context, 6, actions=plan, temperature=0).cont

    base = agent.dream(context, 6, actions=plan, temperature=0)
    np.testing.assert_array_equal(base.act, np.concatenate([context["act"], plan], 1))
    for i in (0, 3):  # plan[:, i] is chosen at row 4 + i
        changed = plan.copy()
        changed[:, i] = (plan[:, i] + 1) % 5 if agent.spaces.discrete else -plan[:, i]
        moved = dreamed(context, changed)[:, 4:] != base.cont[:, 4:]
        assert not moved[:, : i + 1].any() and moved[:, i + 1].all()
    last = {**context, "act": context["act"].copy()}
    last["act"][:, 3] = (last["act"][:, 3] + 1) % 5 if agent.spaces.discrete else -last["act"][:, 3]
    assert (dreamed(last, plan)[:, 4] != base.cont[:, 4]).all()


def test_the_transformer_starts_from_the_last_frame_and_the_actor_remembers_all(make):
    """As in training: real history reaches a dream through the LSTM alone."""
    agent = make()
    context, plan = rows(agent.spaces), rows(agent.spaces, 2, 3, seed=1)["act"]
    base = agent.dream(context, 3, actions=plan, temperature=0)
    for t, same in ((1, True), (3, False)):
        changed = {**context, "image": context["image"].copy()}
        changed["image"][:, t] ^= 255
        dream = agent.dream(changed, 3, actions=plan, temperature=0)
        assert np.array_equal(dream.cont[:, 4:], base.cont[:, 4:]) == same
        assert (dream.val[:, t:] != base.val[:, t:]).all() and np.array_equal(
            dream.val[:, :t], base.val[:, :t]
        )


def test_without_a_plan_the_policy_acts_and_a_generator_repeats_the_dream(make):
    agent = fixed(make(), [0.0, 0.0, 0.0, 50.0, 0.0])
    context = rows(agent.spaces)
    dream = agent.dream(context, 6)
    assert (dream.act[:, 4:] == 3).all()
    np.testing.assert_array_equal(dream.act[:, :4], context["act"])
    agent = make()
    first, again, other = (agent.dream(context, 6, generator=noise(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.act, again.act)
    np.testing.assert_array_equal(first.cont, again.cont)
    assert not np.array_equal(first.cont, other.cont)


# --- files and spaces


@EACH
def test_a_saved_agent_comes_back(make, kind, tmp_path):
    agent = make(kind)
    agent.updates = 123
    agent.save(tmp_path / "model.pt")
    again = load_agent(tmp_path)
    assert isinstance(again, IrisAgent) and isinstance(again, Agent)
    assert (again.cfg, again.env, again.spaces, again.updates) == (agent.cfg, agent.env, agent.spaces, 123)
    for name, part in agent.parts().items():
        theirs = again.parts()[name].state_dict()
        assert not part.training
        assert all(torch.equal(value, theirs[key]) for key, value in part.state_dict().items())
    dreams = [one.dream(rows(agent.spaces), 4, generator=noise()) for one in (agent, again)]
    np.testing.assert_array_equal(dreams[0].val, dreams[1].val)
    np.testing.assert_array_equal(dreams[0].act, dreams[1].act)


def test_bad_files_get_one_line(make, tmp_path):
    agent, path = make(), tmp_path / "model.pt"
    agent.save(path)
    whole, tree = path.read_bytes(), load_file(path)

    def refused(match: str) -> None:
        with pytest.raises(UserError, match=match) as error:
            IrisAgent.load(path)
        assert "\n" not in str(error.value)

    path.write_bytes(whole[: len(whole) // 2])
    refused("torn")
    save_file(path, {**tree, "paper": "paper3_dreamerv2"})
    refused("paper3_dreamerv2")
    save_file(path, {**tree, "config": {**tree["config"], "novel": 1}})
    refused("another version")
    save_file(path, {**tree, "weights": {name: {} for name in tree["weights"]}})
    refused("train again")


def test_other_spaces_are_refused(make, small):
    agent = make()
    box = gym_spaces.Dict({"image": gym_spaces.Box(0, 255, (8, 8, 3), np.uint8)})
    agent.check_env(box, gym_spaces.Discrete(5))
    for act in (gym_spaces.Discrete(6), gym_spaces.Box(-1, 1, (5,)), gym_spaces.MultiDiscrete([2, 3])):
        with pytest.raises(UserError) as error:
            agent.check_env(box, act)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="--obs pixels"):
        IrisAgent(small(), EnvSpec("CartPole-v1"), Spaces({"vector": (4,)}, 2, True))


def test_memory_is_what_the_agent_remembers(make):
    memory = make().initial(3)
    assert isinstance(memory, Memory) and memory.hidden.shape == (3, 8)
    assert not any(part.any() for part in memory)
