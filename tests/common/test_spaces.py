"""Spaces: what is read off an env, refused, stored, and turned into what networks take."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces as gs

from common.checkpoint import load_file, save_file
from common.env_wrapper import make_env, make_vector_env
from common.errors import UserError
from common.replay_buffer import ReplayBuffer
from common.spaces import Spaces
from common.testing import CountingEnv, VectorCountingEnv, counting_envs

DISCRETE = Spaces({"image": (8, 8, 3), "vector": (4,)}, 5, True)
CONTINUOUS = Spaces({"vector": (4,), "image_map": (8, 8, 1)}, 3, False)


class With(gym.Env):
    """An env with this action space."""

    observation_space = gs.Dict({"vector": gs.Box(-1, 1, (3,), np.float32)})

    def __init__(self, action_space: gs.Space):
        self.action_space = action_space


def test_an_env_and_a_vector_env_are_read_alike():
    assert Spaces.of(CountingEnv()) == Spaces.of(counting_envs(3)) == Spaces({"image": (20, 20, 3)}, 5, True)
    assert Spaces.of(VectorCountingEnv()) == Spaces({"vector": (3,)}, 2, False)
    point = make_env("toy_point", size=32)
    assert Spaces.of(point) == Spaces.of(make_vector_env("toy_point", 2, size=32))
    assert Spaces.of(point) == Spaces({"image": (32, 32, 3)}, 2, False)


@pytest.mark.parametrize(
    "space",
    [
        *(gs.MultiDiscrete([3, 2]), gs.MultiDiscrete([[3, 2], [2, 2]]), gs.MultiBinary(3)),
        *(gs.Tuple([gs.Discrete(2)]), gs.Dict(a=gs.Discrete(2))),
    ],
)
def test_other_actions_are_refused_in_one_line(space):
    with pytest.raises(UserError, match="^my_env has actions.*Box or Discrete") as error:
        Spaces.of(With(space), "my_env")
    assert "\n" not in str(error.value)


def test_pictures_and_vectors_are_told_apart():
    assert (DISCRETE.images, DISCRETE.vectors) == (["image"], ["vector"])
    assert (CONTINUOUS.images, CONTINUOUS.vectors) == (["image_map"], ["vector"])
    assert str(DISCRETE) == "image 8x8x3, vector 4 with 5 choices"
    assert str(CONTINUOUS) == "vector 4, image_map 8x8x1 with 3 action numbers"


@pytest.mark.parametrize("spaces", [DISCRETE, CONTINUOUS])
def test_a_replay_of_its_fields_takes_rows(spaces):
    replay = ReplayBuffer(10, spaces.fields(), 2)
    kinds = {key: np.uint8 if key.startswith("image") else np.float32 for key in spaces.obs}
    rows = {key: np.ones((2, *shape), kinds[key]) for key, shape in spaces.obs.items()}
    rows |= {"rew": np.ones(2, np.float32), "act": spaces.random(np.random.default_rng(0), 2)}
    rows |= {name: np.zeros(2, bool) for name in ("is_first", "is_last", "is_terminal")}
    replay.add(rows)
    for name, value in rows.items():  # nothing is rounded on the way
        stored = replay.storage.arrays[name]
        assert stored.dtype == value.dtype, name
        np.testing.assert_array_equal(stored[[0, 5]], value)


def test_discrete_actions_are_one_hot_and_back():
    act = torch.tensor([[0, 4], [2, 2]])
    code = DISCRETE.encode(act)
    assert code.shape == (2, 2, 5) and code.dtype == torch.float32 and (code.sum(-1) == 1).all()
    np.testing.assert_array_equal(DISCRETE.decode(code), act.numpy())
    assert DISCRETE.decode(code).dtype == np.int64


def test_continuous_actions_stay_and_are_clipped_on_the_way_out():
    act = torch.tensor([[0.25, -1.0, 1.0], [2.0, -3.0, 0.0]], dtype=torch.float64)
    assert torch.equal(CONTINUOUS.encode(act), act.float())
    back = CONTINUOUS.decode(act.bfloat16())
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, [[0.25, -1, 1], [1, -1, 0]])


def test_random_actions_are_uniform_and_repeatable():
    acts = DISCRETE.random(np.random.default_rng(0), 20_000)
    assert acts.dtype == np.int64 and acts.shape == (20_000,)
    np.testing.assert_allclose(np.bincount(acts, minlength=5) / 20_000, 0.2, atol=0.015)
    acts = CONTINUOUS.random(np.random.default_rng(0), 20_000)
    assert acts.dtype == np.float32 and acts.shape == (20_000, 3)
    assert abs(acts).max() <= 1 and acts.std() == pytest.approx(1 / np.sqrt(3), abs=0.01)
    np.testing.assert_array_equal(acts, CONTINUOUS.random(np.random.default_rng(0), 20_000))


@pytest.mark.parametrize(
    "other",
    [
        Spaces({"image": (8, 8, 3), "vector": (5,)}, 5, True),
        Spaces({"image": (8, 8, 3)}, 5, True),
        Spaces(DISCRETE.obs, 4, True),
        Spaces(DISCRETE.obs, 5, False),
    ],
)
def test_an_agent_does_not_play_another_env(other):
    DISCRETE.check_same(Spaces(dict(DISCRETE.obs), 5, True), "toy_a", "toy_b")
    with pytest.raises(UserError, match="agent of toy_a sees .* toy_b gives .*--env") as error:
        DISCRETE.check_same(other, "toy_a", "toy_b")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("spaces", [DISCRETE, CONTINUOUS])
def test_a_checkpoint_carries_them(spaces, tmp_path):
    save_file(tmp_path / "file.pt", {"spaces": spaces.to_tree()})
    assert Spaces.from_tree(load_file(tmp_path / "file.pt")["spaces"]) == spaces
