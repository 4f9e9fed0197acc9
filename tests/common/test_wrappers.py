"""Any observation becomes images and vectors, any action plain; repeats, rendered pixels, exact resizing."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from common.env_wrapper import make_env
from common.envs import wrappers
from common.errors import UserError


class Odd(gym.Env):
    """A bit of everything that a user's env may have."""

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, action_space, render_mode=None):
        self.render_mode, self.action_space, self.seen = render_mode, action_space, None
        self.observation_space = spaces.Dict(
            {
                "camera": spaces.Box(0, 255, (8, 6), np.uint8),
                "image": spaces.Box(0, 255, (4, 4, 3), np.uint8),
                "speed": spaces.Box(-5, 5, (), np.float64),
                "gear": spaces.Discrete(3, start=1),
                "vector_raw": spaces.Box(-1, 1, (2, 2)),
                "mission": spaces.Text(10),
            }
        )

    def _obs(self):
        return {
            "camera": np.full((8, 6), 7, np.uint8),
            "image": np.full((4, 4, 3), 9, np.uint8),
            "speed": np.float64(2.5),
            "gear": np.int64(2),
            "vector_raw": np.float32([[0, 1], [-1, 0.5]]),
            "mission": "go",
        }

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._obs(), {}

    def step(self, action):
        self.seen = action
        return self._obs(), 1.0, False, False, {}


def odd(action_space=None, **options) -> gym.Env:
    """Odd through make_env."""
    gym.registry.pop("Odd-v0", None)
    gym.register("Odd-v0", entry_point=Odd, kwargs={"action_space": action_space or spaces.Discrete(2)})
    return make_env("Odd-v0", **options)


def test_a_dict_observation_is_split_into_images_and_vectors():
    obs, _ = odd().reset()
    assert {key: value.shape for key, value in obs.items()} == {
        "vector_speed": (1,),
        "vector_gear": (3,),
        "vector_raw": (4,),
        "image_camera": (8, 6, 1),
        "image": (4, 4, 3),
    }
    assert obs["vector_speed"] == [2.5] and list(obs["vector_gear"]) == [0, 1, 0]
    assert list(obs["vector_raw"]) == [0, 1, -1, 0.5]
    assert np.all(obs["image_camera"] == 7) and obs["image_camera"].dtype == np.uint8
    assert set(odd(obs="vector").reset()[0]) == {"vector_speed", "vector_gear", "vector_raw"}
    pixels, _ = odd(obs="pixels", size=16).reset()
    assert {key: value.shape for key, value in pixels.items()} == {
        "image_camera": (16, 16, 1),
        "image": (16, 16, 3),
    }


@pytest.mark.parametrize(
    "space, plain, ours, theirs",
    [
        (spaces.Box(np.float32([0, -4]), np.float32([1, 2])), spaces.Box(-1, 1, (2,)), [0, 3], [0.5, 2]),
        (spaces.Box(-2, 2, (2, 1)), spaces.Box(-1, 1, (2,)), [0.5, -1], [[1], [-2]]),
        (spaces.Discrete(3, start=-1), spaces.Discrete(3), 0, -1),
        (spaces.MultiBinary(3), spaces.MultiDiscrete([2, 2, 2]), [1, 0, 1], [1, 0, 1]),
        (spaces.MultiDiscrete([3, 2]), spaces.MultiDiscrete([3, 2]), [2, 1], [2, 1]),
    ],
)
def test_actions_become_plain(space, plain, ours, theirs):
    env = odd(space)
    assert env.action_space == plain
    env.reset()
    env.step(np.asarray(ours))
    assert np.array_equal(env.unwrapped.seen, theirs) and env.unwrapped.seen in space


def test_native_actions_keep_the_bounds():
    env = odd(spaces.Box(np.float32([0, -4]), np.float32([1, 2])), native_actions=True)
    assert np.array_equal(env.action_space.low, [0, -4]) and np.array_equal(env.action_space.high, [1, 2])
    env.reset()
    env.step(np.float32([0.25, -3]))
    assert np.array_equal(env.unwrapped.seen, np.float32([0.25, -3]))


@pytest.mark.parametrize("space", [spaces.Box(-np.inf, np.inf, (2,)), spaces.Tuple([spaces.Discrete(2)])])
def test_actions_that_no_paper_can_take_are_refused(space):
    with pytest.raises(UserError, match="bounds|allowed are Box"):
        odd(space)


def test_action_repeat_sums_rewards_and_stops_at_the_end():
    once, thrice = make_env("Pendulum-v1"), make_env("Pendulum-v1", action_repeat=3, time_limit=4)
    once.reset(seed=3), thrice.reset(seed=3)
    rewards = [once.step(np.float32([0.4]))[1] for _ in range(4)]
    _, first, _, truncated, _ = thrice.step(np.float32([0.4]))
    assert first == pytest.approx(sum(rewards[:3])) and not truncated
    _, second, _, truncated, _ = thrice.step(np.float32([0.4]))
    assert second == pytest.approx(rewards[3]) and truncated  # the limit counts the env's own steps


def test_pixels_of_a_vector_env_are_its_rendered_frame():
    env = make_env("CartPole-v1", obs="pixels", size=32)
    obs, _ = env.reset(seed=0)
    assert list(obs) == ["image"] and obs["image"].shape == (32, 32, 3)
    assert np.array_equal(obs["image"], wrappers.resize(env.render(), 32))


def test_area_resize_is_the_exact_mean():
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    fine = image.repeat(6, 0).repeat(4, 1).astype(float)  # 30 x 28 cells: both sizes divide them
    exact = fine.reshape(6, 5, 4, 7, 3).mean((1, 3))  # -> 6 x 4
    assert np.abs(wrappers.resize(image, (6, 4)) - exact).max() <= 0.5 + 1e-4
    assert np.array_equal(wrappers.resize(image, (5, 7)), image)
