"""`minecraft_diamond`: the diamond task of the DreamerV3 paper, in MineRL 0.4.4's Minecraft 1.11.2.

25 actions: the twelve of minecraft.py, then crafting, placing, equipping, smelting.  Blocks break 100 times
as fast, so attack need not be held.  `vector`, in this order (I 391, E 393 items, 1,178 numbers in all):
inventory [I] in the alphabetical order of MineRL's item names, log2 counted as log, air the empty slots;
most of each since the reset [I]; the item in hand, one-hot [E]; health / 20, hunger / 20, breath / 300.
Source: Hafner et al. 2025 and danijar/dreamerv3 embodied/envs/minecraft_flat.py (names and numbers).
No episode was ever played: the game itself could not be installed.  Checked by hand with the Python modules
of MineRL 0.4.4 from PyPI, unpatched (NumPy 2.4): spaces, observations of its recorded game state, commands,
and the mission's XML against its schema.  Not checked: how the running game answers, and death in it.
"""

import numpy as np

from common.envs.minecraft import ACTIONS, Minecraft

CRAFTS = [
    ("craft_planks", {"craft": "planks"}),
    ("craft_stick", {"craft": "stick"}),
    ("craft_crafting_table", {"craft": "crafting_table"}),
    ("place_crafting_table", {"place": "crafting_table"}),
    ("craft_wooden_pickaxe", {"nearbyCraft": "wooden_pickaxe"}),
    ("craft_stone_pickaxe", {"nearbyCraft": "stone_pickaxe"}),
    ("craft_iron_pickaxe", {"nearbyCraft": "iron_pickaxe"}),
    ("equip_stone_pickaxe", {"equip": "stone_pickaxe"}),
    ("equip_wooden_pickaxe", {"equip": "wooden_pickaxe"}),
    ("equip_iron_pickaxe", {"equip": "iron_pickaxe"}),
    ("craft_furnace", {"nearbyCraft": "furnace"}),
    ("place_furnace", {"place": "furnace"}),
    ("smelt_iron_ingot", {"nearbySmelt": "iron_ingot"}),
]
MILESTONES = (  # +1 for the first of each in an episode
    *("log", "planks", "stick", "crafting_table", "wooden_pickaxe", "cobblestone"),
    *("stone_pickaxe", "iron_ore", "furnace", "iron_ingot", "iron_pickaxe", "diamond"),
)
HEALTH = 0.01  # reward per unit of health / 20


class MinecraftDiamond(Minecraft):
    """{"image": uint8 [size, size, 3], "vector": float32 [2 I + E + 3]}, Discrete(25).

    Terminated by death, truncated after `limit` ticks; a diamond does not end the episode.  Every info
    carries `achievements`: which of the 12 milestones were reached in this episode (0 or 1).
    break_speed: how many times as fast blocks break; at 1 an attack is held for sticky_attack ticks.
    """

    table = ACTIONS + CRAFTS
    has_clock = False  # the game below ends with the player only
    attack_first = True

    def __init__(
        self,
        game,
        *,
        size: int = 64,
        limit: int = 36_000,
        break_speed: float = 100.0,
        sticky_attack: int = 30,
        sticky_jump: int = 10,
        pitch_limit: int = 60,
    ):
        parts = game.observation_space.spaces
        self.items = sorted(set(parts["inventory"].spaces) - {"log2"})  # I names
        hands = parts["equipped_items"].spaces["mainhand"].spaces["type"].values
        self.hands = {str(item): i for i, item in enumerate(hands)}  # E names -> place in the one-hot
        super().__init__(
            game,
            size=size,
            limit=limit,
            sticky_attack=sticky_attack if break_speed == 1 else 0,
            sticky_jump=sticky_jump,
            pitch_limit=pitch_limit,
        )

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """A new world -> obs, info.  What is there from the beginning earns nothing."""
        self._most = np.zeros(len(self.items), np.float32)
        obs, _ = super().reset(seed=seed)
        self._reached, self._health = self._owned(), self._vital
        return obs, self._told()

    def step(self, action):
        """One tick -> obs, +1 per new milestone and HEALTH times the health gained, both flags, info."""
        obs, _, terminated, truncated, info = super().step(action)
        owned = self._owned()
        # differs: the paper writes 0.01 per heart; its code, followed here, 0.01 per 20 points of health.
        rew = len(owned - self._reached) + HEALTH * (self._vital - self._health)
        self._reached, self._health = self._reached | owned, self._vital
        return obs, float(rew), terminated, truncated, info | self._told()

    def _owned(self) -> set[str]:
        """The milestones that were in the inventory at some time of this episode."""
        return {item for item in MILESTONES if self._most[self.items.index(item)] > 0}

    def _told(self) -> dict:
        return {"achievements": {item: int(item in self._reached) for item in MILESTONES}}

    def _vector_size(self) -> int:
        return 2 * len(self.items) + len(self.hands) + 3

    def _vector(self, raw: dict) -> np.ndarray:
        """MineRL's observation -> [2 I + E + 3]"""
        bag, life = raw["inventory"], raw["life_stats"]
        counts = np.array([bag[item] for item in self.items], np.float32)  # [I]
        counts[self.items.index("log")] += bag["log2"]  # acacia and dark oak have an item of their own
        self._most = np.maximum(self._most, counts)  # [I]
        hand = np.zeros(len(self.hands), np.float32)  # [E]
        hand[self.hands[str(raw["equipped_items"]["mainhand"]["type"])]] = 1
        self._vital = float(life["life"]) / 20
        state = [self._vital, float(life["food"]) / 20, float(life["air"]) / 300]
        return np.concatenate([counts, self._most, hand, state])


def make(size: int = 64, break_speed: float = 100.0, **options) -> MinecraftDiamond:
    """Start the game and play it through the adapter."""
    return MinecraftDiamond(start(size, break_speed), size=size, break_speed=break_speed, **options)


def start(size: int, break_speed: float):
    """The game as a MineRL task of our own -> an env of the old gym API.

    MineRL's ready ObtainDiamond will not do: it ends with the diamond, or after 18,000 ticks, shows 18 items
    and no health, and breaks blocks at normal speed.
    """
    from minerl.herobraine.env_specs.simple_embodiment import SimpleEmbodimentEnvSpec
    from minerl.herobraine.hero import handlers, mc

    class Diamond(SimpleEmbodimentEnvSpec):  # it brings the picture, the keys and the camera
        def create_observables(self):
            return super().create_observables() + [
                handlers.FlatInventoryObservation(mc.ALL_ITEMS),
                handlers.EquippedItemObservation(mc.ALL_ITEMS, _default="air", _other="other"),
                handlers.ObservationFromLifeStats(),
            ]

        def create_actionables(self):
            kinds = {
                "place": handlers.PlaceBlock,
                "equip": handlers.EquipAction,
                "craft": handlers.CraftAction,
                "nearbyCraft": handlers.CraftNearbyAction,
                "nearbySmelt": handlers.SmeltItemNearby,
            }
            wanted = {key: [keys[key] for _, keys in ACTIONS + CRAFTS if key in keys] for key in kinds}
            return super().create_actionables() + [
                kind(["none", *wanted[key]], _other="none", _default="none") for key, kind in kinds.items()
            ]

        def create_agent_start(self):
            return [handlers.AgentStartBreakSpeedMultiplier(break_speed)]

        def create_server_world_generators(self):
            return [handlers.DefaultWorldGenerator(force_reset=True)]

        def create_server_initial_conditions(self):
            return [
                handlers.TimeInitialCondition(allow_passage_of_time=True, start_time=0),
                handlers.SpawningInitialCondition(allow_spawning=True),
            ]

        def create_server_quit_producers(self):
            return [handlers.ServerQuitWhenAnyAgentFinishes()]

        def nothing(self, *_):
            return []

        create_rewardables = create_agent_handlers = create_server_decorators = nothing  # rewards are ours

        def is_from_folder(self, folder):
            return False  # there are no recordings of people

        def determine_success_from_rewards(self, rewards):
            return True

        def get_docstring(self):
            return ""

    return Diamond("MineRLWorldModelsDiamond-v0", resolution=(size, size)).make()
