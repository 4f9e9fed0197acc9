"""The MineRL adapters on fake games with the spaces that minerl 0.4.4 prints (Navigate, diamond)."""

import sys
import types

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from common.env_wrapper import check_name, make_env, scores
from common.envs import minecraft
from common.envs.minecraft import ACTIONS, TASKS, Minecraft
from common.envs.minecraft_diamond import MILESTONES, MinecraftDiamond
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
        self.actions, self.seeds, self.closed, self.lost = [], [], False, False

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
        done = len(self.actions) >= self.length
        return self._obs(), 1.5, done, {"error": "Connection timed out!"} if self.lost else {}

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
    env.step(index("jump"))
    assert env._game.actions[-1]["attack"] == env._game.actions[-1]["jump"] == 1
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


def test_a_lost_game_cuts_the_episode_at_the_last_true_observation():
    env = Minecraft(FakeGame(length=2))
    env.reset()
    before = env.step(0)[0]
    env._game.lost = True
    obs, *rest = env.step(0)
    assert rest == [0.0, False, True, {"error": "Connection timed out!"}]
    assert np.array_equal(obs["image"], before["image"]) and obs["image"].max() == 1  # 2: what MineRL sent


@pytest.fixture
def fake_minerl(monkeypatch):
    """Modules of the names that the adapters import; -> what was made, in order."""
    made, missing = [], [name for name in ("float", "int", "bool") if not hasattr(np, name)]
    gym = types.ModuleType("gym")
    gym.make = lambda task: made.append(task) or FakeGame()

    class Spec:  # of MineRL: gathers what our task defines, and makes the game of it
        def __init__(self, name, resolution):
            made.append({key: getattr(self, f"create_{key}")() for key in PARTS} | {"size": resolution})

        def create_observables(self):
            return ["picture"]

        def create_actionables(self):
            return ["keys"]

        def make(self):
            return DiamondGame()

    class Handlers(types.ModuleType):
        def __getattr__(self, name):
            return lambda *args, **more: (name, *args, more)

    names = ("", ".herobraine", ".herobraine.env_specs", ".herobraine.env_specs.simple_embodiment")
    modules = {f"minerl{name}": types.ModuleType(f"minerl{name}") for name in names}
    modules["minerl.herobraine.env_specs.simple_embodiment"].SimpleEmbodimentEnvSpec = Spec
    hero = modules["minerl.herobraine.hero"] = types.ModuleType("minerl.herobraine.hero")
    hero.handlers, hero.mc = Handlers("handlers"), types.SimpleNamespace(ALL_ITEMS=ITEMS)
    for name, module in {"gym": gym, **modules}.items():
        monkeypatch.setitem(sys.modules, name, module)
    yield made
    for name in missing:
        delattr(np, name)


def test_the_adapter_passes_gymnasiums_checker_and_make_env_finds_minerl(fake_minerl):
    for name, task in TASKS.items():
        env = make_env(name)
        assert fake_minerl[-1] == task
    assert (np.float, np.int, np.bool(1)) == (float, int, True)  # MineRL's modules want them
    assert minecraft.is_slow()
    with pytest.warns(UserWarning, match="infinity"):  # vectors have open bounds
        check_env(env, skip_render_check=True)
    env.reset()
    assert env.render().shape == (64, 64, 3)
    env.close()
    assert env.unwrapped._game.closed
    with pytest.raises(UserError, match="an image and a vector"):
        make_env("minecraft_navigate", obs="pixels")


# --- minecraft_diamond -----------------------------------------------------------------------------------

PARTS = (
    *("observables", "actionables", "rewardables", "agent_start", "agent_handlers", "server_decorators"),
    *("server_world_generators", "server_initial_conditions", "server_quit_producers"),
)
ITEMS = ["air", "dirt", "log", "log2", *MILESTONES[1:]]
ITEMS += [f"item_{i}" for i in range(392 - len(ITEMS))]  # as many as MineRL 0.4.4 has
I, E = 391, 393  # without log2; with "other"
KEYS = ("craft", "equip", "nearbyCraft", "nearbySmelt", "place")


class Names(spaces.Text):
    """Stands for MineRL's Enum, which lists its values."""

    def __init__(self, values):
        super().__init__(30)
        self.values = np.array(values)


class DiamondGame(FakeGame):
    """Shows what a test puts into `bag`, `hand`, `life`; its own rewards and length are FakeGame's."""

    def __init__(self, length: int = 10**9):
        super().__init__(compass=False, length=length)
        self.observation_space = spaces.Dict(
            {
                "pov": spaces.Box(0, 255, (64, 64, 3), np.uint8),
                "inventory": spaces.Dict({item: spaces.Box(0, 2304, (), np.int32) for item in ITEMS}),
                "equipped_items": spaces.Dict(
                    {"mainhand": spaces.Dict({"type": Names(sorted([*ITEMS, "other"]))})}
                ),
                "life_stats": spaces.Dict({}),
            }
        )
        self.action_space = spaces.Dict(self.action_space.spaces | {key: spaces.Text(20) for key in KEYS})
        self.bag, self.hand, self.life = {}, "air", (20.0, 20, 300)

    def _obs(self):
        bag = {item: np.array(self.bag.get(item, 0)) for item in ITEMS}
        life = dict(zip(("life", "food", "air"), map(np.array, self.life), strict=True))
        hand = {"mainhand": {"type": self.hand, "damage": np.array(0), "maxDamage": np.array(0)}}
        return super()._obs() | {"inventory": bag, "equipped_items": hand, "life_stats": life}


def diamond(length: int = 10**9, **options):
    """-> env, game, first obs"""
    env = MinecraftDiamond(DiamondGame(length), **options)
    return env, env._game, env.reset(seed=0)[0]


def place(item: str) -> int:
    return sorted(set(ITEMS) - {"log2"}).index(item)


def reward(env, bag: dict) -> float:
    env._game.bag = bag
    return env.step(0)[1]


def test_the_25_actions_of_the_diamond_task_in_their_order():
    expected = [{}, {"attack": 1}, {"camera": (-15, 0)}, {"camera": (15, 0)}]
    expected += [{"camera": (0, -15)}, {"camera": (0, 15)}, {"forward": 1}, {"back": 1}, {"left": 1}]
    expected += [{"right": 1}, {"jump": 1, "forward": 1}, {"place": "dirt"}]
    expected += [{"craft": "planks"}, {"craft": "stick"}, {"craft": "crafting_table"}]
    expected += [{"place": "crafting_table"}, {"nearbyCraft": "wooden_pickaxe"}]
    expected += [{"nearbyCraft": "stone_pickaxe"}, {"nearbyCraft": "iron_pickaxe"}]
    expected += [{"equip": "stone_pickaxe"}, {"equip": "wooden_pickaxe"}, {"equip": "iron_pickaxe"}]
    expected += [{"nearbyCraft": "furnace"}, {"place": "furnace"}, {"nearbySmelt": "iron_ingot"}]
    env, game, _ = diamond()
    assert env.action_space == spaces.Discrete(len(expected)) == spaces.Discrete(25)
    noop = dict.fromkeys(BINARY, 0) | dict.fromkeys(KEYS, "none") | {"camera": (0, 0)}
    for action, changed in enumerate(expected):
        env.reset()
        env.step(action)
        sent = game.actions[-1]
        assert sent["camera"].dtype == np.float32
        assert sent | {"camera": tuple(sent["camera"])} == noop | changed


def test_the_diamond_task_holds_jump_and_the_pitch_but_not_attack():
    env, game, _ = diamond()
    for action in ("attack", "noop", "jump", *["left"] * 10):
        env.step(index(action))
    assert [a["attack"] for a in game.actions] == [1] + [0] * 12
    assert [a["jump"] for a in game.actions] == [0, 0] + [1] * 10 + [0]
    assert [a["forward"] for a in game.actions] == [a["jump"] for a in game.actions]
    for _ in range(6):
        env.step(index("look_down"))
    for _ in range(12):
        env.step(index("look_up"))
    assert [a["camera"][0] for a in game.actions[-18:]] == [15] * 4 + [0] * 2 + [-15] * 8 + [0] * 4


def test_at_normal_break_speed_attack_is_held_and_comes_before_a_jump():
    env, game, _ = diamond(break_speed=1)
    for action in ("attack", "jump", *["noop"] * 28, "jump"):
        env.step(index(action))
    assert [a["attack"] for a in game.actions] == [1] * 30 + [0]
    assert [a["jump"] for a in game.actions] == [0] * 30 + [1]
    env, game, _ = diamond(break_speed=1, sticky_attack=3)
    for action in ("jump", "attack", "noop"):  # a jump that has begun goes on
        env.step(index(action))
    assert [a["jump"] for a in game.actions] == [1, 1, 1]


def test_the_vector_is_inventory_maximum_hand_and_state():
    env, game, obs = diamond()
    assert obs in env.observation_space and obs["vector"].shape == (2 * I + E + 3,) == (1178,)
    assert set(np.flatnonzero(obs["vector"])) == {
        2 * I + sorted([*ITEMS, "other"]).index("air"),
        *range(1175, 1178),
    }
    game.bag, game.hand, game.life = {"log": 2, "log2": 3, "dirt": 7}, "stone_pickaxe", (10.0, 5, 75)
    vector = env.step(0)[0]["vector"]
    counts, most, hand, state = np.split(vector, (I, 2 * I, 2 * I + E))
    assert counts[place("log")] == 5 and counts[place("dirt")] == 7 and counts.sum() == 12
    assert np.array_equal(most, counts)
    assert hand.sum() == 1 and hand[sorted([*ITEMS, "other"]).index("stone_pickaxe")] == 1
    assert state == pytest.approx([0.5, 0.25, 0.25])
    assert obs["vector"][:I].sum() == 0  # what was given out stays as it was


def test_the_maximum_lasts_until_the_reset():
    env, game, _ = diamond()
    for bag in ({"log": 4}, {"log2": 1, "dirt": 2}, {}):
        game.bag = bag
        vector = env.step(0)[0]["vector"]
    most = vector[I : 2 * I]
    assert vector[:I].sum() == 0 and most[place("log")] == 4 and most[place("dirt")] == 2 and most.sum() == 6
    assert env.reset()[0]["vector"][: 2 * I].sum() == 0


def test_every_milestone_pays_once_per_episode():
    env, game, _ = diamond()
    assert reward(env, {"dirt": 3, "air": 36}) == 0
    for i, item in enumerate(MILESTONES):
        assert reward(env, {item: 1}) == 1
        assert env.step(0)[1] == 0
        assert sum(env.step(0)[4]["achievements"].values()) == i + 1
    assert len(MILESTONES) == 12 and reward(env, dict.fromkeys(MILESTONES, 5)) == 0
    game.bag = {}
    assert set(env.reset()[1]["achievements"].values()) == {0}
    assert reward(env, {"log2": 1}) == 1  # either kind of log, and again in a new episode
    assert reward(env, {"log": 1}) == 0
    assert reward(env, {"planks": 4, "stick": 4, "diamond": 1}) == 3
    env.reset()
    assert reward(env, {"planks": 9}) == 0  # what is there from the beginning earns nothing


def test_health_pays_a_hundredth_of_its_change():
    env, game, _ = diamond()
    paid = []
    for life in (20.0, 15.0, 16.0, 16.0):
        game.life = (life, 20, 300)
        paid.append(env.step(0)[1])
    assert paid == pytest.approx([0, -0.0025, 0.0005, 0])
    game.life, game.bag = (6.0, 20, 300), {"log": 1}
    assert env.step(0)[1] == pytest.approx(1 - 0.005)
    env.reset()
    assert env.step(0)[1] == 0  # the new life begins where it is


def test_death_terminates_and_time_truncates_the_diamond_task():
    env, game, _ = diamond(length=3)
    assert [env.step(0)[2:4] for _ in range(3)] == [(False, False)] * 2 + [(True, False)]
    env, game, _ = diamond(limit=3)
    assert [env.step(0)[2:4] for _ in range(3)] == [(False, False)] * 2 + [(False, True)]
    env, game, _ = diamond(length=3, limit=3)  # this game has no clock: its end in the last tick is a death
    assert [env.step(0)[2:4] for _ in range(3)] == [(False, False)] * 2 + [(True, False)]
    env, game, _ = diamond(length=1)
    game.lost, game.life, game.bag = True, (1.0, 1, 1), {"diamond": 1}
    _, rew, terminated, truncated, info = env.step(0)
    assert "error" in info
    assert (rew, terminated, truncated, sum(info["achievements"].values())) == (0.0, False, True, 0)
    assert minecraft.options("minecraft_diamond")["limit"] == 36_000


def test_make_env_builds_the_diamond_game(fake_minerl):
    env = make_env("minecraft_diamond", size=32, sticky_jump=2)
    (spec,) = fake_minerl
    assert spec["size"] == (32, 32) and env.observation_space["image"].shape == (32, 32, 3)
    assert spec["agent_start"] == [("AgentStartBreakSpeedMultiplier", 100.0, {})]
    assert [part[0] for part in spec["observables"][1:]] == [
        "FlatInventoryObservation",
        "EquippedItemObservation",
        "ObservationFromLifeStats",
    ]
    assert spec["actionables"][0] == "keys"
    lists = {part[0]: set(part[1]) for part in spec["actionables"][1:]}
    assert lists == {
        "PlaceBlock": {"none", "dirt", "crafting_table", "furnace"},
        "EquipAction": {"none", "wooden_pickaxe", "stone_pickaxe", "iron_pickaxe"},
        "CraftAction": {"none", "planks", "stick", "crafting_table"},
        "CraftNearbyAction": {"none", "wooden_pickaxe", "stone_pickaxe", "iron_pickaxe", "furnace"},
        "SmeltItemNearby": {"none", "iron_ingot"},
    }
    assert spec["rewardables"] == spec["agent_handlers"] == spec["server_decorators"] == []
    assert [part[0] for part in spec["server_quit_producers"]] == ["ServerQuitWhenAnyAgentFinishes"]
    with pytest.warns(UserWarning, match="infinity"):  # vectors have open bounds
        check_env(env, skip_render_check=True)
    make_env("minecraft_diamond", break_speed=1.0)
    assert fake_minerl[-1]["agent_start"] == [("AgentStartBreakSpeedMultiplier", 1.0, {})]


@pytest.mark.parametrize(
    "options, text",
    [
        ({"break_speed": 0}, "option break_speed 0: must be from 0.01 to 1e"),
        ({"break_speed": float("nan")}, "option break_speed nan"),
        ({"break_speed": "fast"}, "option break_speed is a number"),
        ({"sticky_jump": -1}, "option sticky_jump -1: must be from 0 to 10000"),
        ({"sticky_attack": 10_001}, "option sticky_attack 10001"),
        ({"pitch_limit": 91}, "option pitch_limit 91: must be from 0 to 90"),
        ({"pitch_limit": 1.5}, "option pitch_limit is a whole number"),
        ({"limit": 0}, "option limit 0"),
        ({"speed": 3}, "no option 'speed'; it takes size, limit, break_speed"),
        ({"obs": "pixels"}, "an image and a vector"),
        ({}, "needs MineRL .*Java 8.*xvfb.*v0.4.4-patched.*voxel_navigate"),
    ],
)
def test_bad_options_of_the_diamond_task_and_a_missing_minerl_are_one_line(monkeypatch, options, text):
    monkeypatch.setitem(sys.modules, "gym", None)  # as where it is not installed
    with pytest.raises(UserError, match=text) as caught:
        make_env("minecraft_diamond", **options)
    assert "minecraft_diamond" in str(caught.value) and "\n" not in str(caught.value)


def test_scores_of_the_diamond_task_are_those_of_its_break_speed():
    check_name("minecraft_diamond")
    assert scores("minecraft_diamond")["published"]["value"] == 9.1
    assert scores("minecraft_diamond", {"break_speed": 1.0})["published"] is None
    assert scores("minecraft_diamond")["optimum"]["value"] == len(MILESTONES)
