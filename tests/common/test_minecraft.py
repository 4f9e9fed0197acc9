"""The MineRL adapter on a fake game with the spaces that minerl 0.4.4 prints for MineRLNavigateDense-v0."""

import sys
import types

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from common.env_wrapper import make_env
from common.envs.minecraft import ACTIONS, TASKS, Minecraft
from common.errors import UserError

BINARY = ("attack", "back", "forward", "jump", "left", "right", "sneak", "sprint")


class FakeGame:
    """The old gym API: reset() -> obs, step() -> 4-tuple, seed(); records the actions that it is given."""

    def __init__(self, nested: bool = True, compass: bool = True, length: int = 10**9):
        self.nested, self.compass, self.length = nested, compass, length
        parts = {"pov": spaces.Box(0, 255, (64, 64, 3), np.uint8)}
        if compass and nested:
            parts["compass"] = spaces.Dict({"angle": spaces.Box(-180, 180, ())})
            parts["inventory"] = spaces.Dict({"dirt": spaces.Box(0, 2304, ())})
        elif compass:
            parts["compass.angle"] = spaces.Box(-180, 180, ())
            parts["inventory.dirt"] = spaces.Box(0, 2304, ())
        self.observation_space = spaces.Dict(parts)
        action = {key: spaces.Discrete(2) for key in BINARY} | {"camera": spaces.Box(-180, 180, (2,))}
        if compass:
            action["place"] = spaces.Text(10)  # MineRL: Enum("dirt", "none"), given as a string
        self.action_space = spaces.Dict(action)
        self.actions, self.seeds, self.closed = [], [], False

    def _obs(self):
        pov = np.full((64, 64, 3), len(self.actions) % 256, np.uint8)
        if not self.compass:
            return {"pov": pov}
        angle, dirt = np.array(-90.0), np.array(32)
        if self.nested:
            return {"pov": pov, "compass": {"angle": angle}, "inventory": {"dirt": dirt}}
        return {"pov": pov, "compass.angle": angle, "inventory.dirt": dirt}

    def seed(self, seed):
        self.seeds.append(seed)

    def reset(self):
        self.actions.clear()
        return self._obs()

    def step(self, action):
        assert action.keys() == self.action_space.spaces.keys()
        self.actions.append(action)
        return self._obs(), 1.5, len(self.actions) >= self.length, {}

    def close(self):
        self.closed = True


def index(name: str) -> int:
    return [action for action, _ in ACTIONS].index(name)


@pytest.mark.parametrize("nested", [True, False])
def test_the_observation_is_an_image_and_a_vector(nested):
    env = Minecraft(FakeGame(nested))
    obs, _ = env.reset(seed=3)
    assert obs in env.observation_space and obs["image"].shape == (64, 64, 3)
    assert obs["vector"] == pytest.approx([-1, 0, 0.5], abs=1e-6)  # sin, cos of -90 degrees, 32 / 64
    assert env._game.seeds == [3]
    assert env.action_space == spaces.Discrete(12)


def test_a_task_without_compass_has_no_vector_and_no_dirt():
    env = Minecraft(FakeGame(compass=False), size=32)
    obs, _ = env.reset()
    assert {key: value.shape for key, value in obs.items()} == {"image": (32, 32, 3)}
    assert env.action_space == spaces.Discrete(11)


def test_every_action_becomes_minerls_dict():
    env = Minecraft(FakeGame(), sticky_attack=1, sticky_jump=1)
    noop = {key: 0 for key in BINARY} | {"place": "none"}
    for i, (_, changed) in enumerate(ACTIONS):
        env.reset()
        env.step(i)
        sent = dict(env._game.actions[-1])
        camera = sent.pop("camera")
        assert camera.dtype == np.float32 and tuple(camera) == changed.get("camera", (0, 0))
        assert sent == noop | {key: value for key, value in changed.items() if key != "camera"}


def test_attack_and_jump_are_held():
    env = Minecraft(FakeGame(), sticky_attack=4, sticky_jump=3)
    env.reset()
    for action in ("attack", "noop", "turn_left", "noop", "noop", "noop", "jump", "noop", "left", "noop"):
        env.step(index(action))
    sent = env._game.actions
    assert [a["attack"] for a in sent] == [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    assert [a["jump"] for a in sent] == [0] * 6 + [1, 1, 1, 0] == [a["forward"] for a in sent]
    env.step(index("attack"))
    env.reset()
    env.step(index("noop"))
    assert env._game.actions[-1]["attack"] == 0  # a reset lets go


def test_the_pitch_stays_within_its_limit():
    env = Minecraft(FakeGame(), pitch_limit=60)
    env.reset()
    for _ in range(6):
        env.step(index("look_up"))
    assert [a["camera"][0] for a in env._game.actions] == [-15] * 4 + [0] * 2
    for _ in range(9):
        env.step(index("look_down"))
    assert sum(a["camera"][0] for a in env._game.actions) == 60
    env.step(index("turn_right"))
    assert tuple(env._game.actions[-1]["camera"]) == (0, 15)


def test_reaching_the_target_terminates_and_the_limit_truncates():
    env = Minecraft(FakeGame(length=3))
    env.reset()
    assert [env.step(0)[1:4] for _ in range(3)] == [(1.5, False, False)] * 2 + [(1.5, True, False)]
    env = Minecraft(FakeGame(length=3), limit=3)  # MineRL's own time limit says done as well
    env.reset()
    assert [env.step(0)[2:4] for _ in range(3)] == [(False, False)] * 2 + [(False, True)]


def test_the_adapter_passes_gymnasiums_checker_and_make_env_finds_minerl(monkeypatch):
    made = []
    gym = types.ModuleType("gym")
    gym.make = lambda task: made.append(task) or FakeGame()
    monkeypatch.setitem(sys.modules, "gym", gym)
    monkeypatch.setitem(sys.modules, "minerl", types.ModuleType("minerl"))
    for name, task in TASKS.items():
        env = make_env(name)
        assert made[-1] == task
    with pytest.warns(UserWarning, match="infinity"):  # vectors have open bounds
        check_env(env, skip_render_check=True)
    env.reset()
    assert env.render().shape == (64, 64, 3)
    env.close()
    assert env.unwrapped._game.closed
    with pytest.raises(UserError, match="an image and a vector"):
        make_env("minecraft_navigate", obs="pixels")
