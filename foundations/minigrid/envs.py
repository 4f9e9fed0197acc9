"""The grid worlds by name, their states, and what an agent is shown of them.

`make_env` gives a `World`: one layout, the same in every episode, whose observations are symbols (one small
whole number per cell) and whose actions are numbered from 0.  Everything random has a seed.
minigrid's arrays are [x, y]; ours are [y, x], as pictures are.

Shapes: H, W cells of the grid, V cells of the agent's square view, N = H * W + 1 entries of an observation.
"""

import difflib
from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import minigrid  # noqa: F401  (registers its ids)
import numpy as np
from gymnasium import spaces
from minigrid.core.grid import Grid
from minigrid.core.world_object import Door, WorldObj
from minigrid.minigrid_env import MiniGridEnv

from common.errors import UserError
from foundations.minigrid.two_rooms import TwoRooms

# fmt: off
SYMBOLS = ("unseen", "empty", "wall", "floor", "open door", "closed door", "locked door", "key", "ball",
           "box", "goal", "lava", "agent right", "agent down", "agent left", "agent up")
# fmt: on
EMPTY, AGENT = SYMBOLS.index("empty"), SYMBOLS.index("agent right")
DOORS = ("open door", "closed door", "locked door")  # in the order of minigrid's door states
COLORS = {"wall": "grey", "floor": "blue", "key": "yellow", "ball": "blue", "box": "purple"}


gym.register("TwoRooms-v0", entry_point=TwoRooms)


class State(NamedTuple):
    """All that a grid world remembers apart from its clock: hashable, and enough to go on from."""

    x: int
    y: int
    heading: int  # 0 right, 1 down, 2 left, 3 up
    carrying: tuple[int, int, int] | None  # minigrid's (type, colour, state)
    objects: tuple[tuple[int, tuple[int, int, int]], ...]  # (y * W + x, the same three), walls left out


def save_state(env: MiniGridEnv) -> State:
    """The state that the env is in."""
    objects = ((i, thing.encode()) for i, thing in enumerate(env.grid.grid) if thing and thing.type != "wall")
    carrying = env.carrying.encode() if env.carrying else None
    return State(int(env.agent_pos[0]), int(env.agent_pos[1]), int(env.agent_dir), carrying, tuple(objects))


def load_state(env: MiniGridEnv, state: State) -> None:
    """Put the env into a state of the same layout, at the beginning of its clock."""
    walls = [thing if thing and thing.type == "wall" else None for thing in env.grid.grid]
    for i, code in state.objects:  # new objects: a door opened later must not open in a state saved earlier
        walls[i] = WorldObj.decode(*code)
        walls[i].cur_pos = (i % env.width, i // env.width)
    env.grid.grid = walls
    env.agent_pos, env.agent_dir = (state.x, state.y), state.heading
    env.carrying = WorldObj.decode(*state.carrying) if state.carrying else None
    env.step_count = 0


def symbol(thing: WorldObj | None) -> int:
    """What is in a cell -> its place in SYMBOLS."""
    if thing is None:
        return EMPTY
    return SYMBOLS.index(DOORS[thing.encode()[2]] if thing.type == "door" else thing.type)


def full_view(env: MiniGridEnv) -> np.ndarray:
    """The whole grid and, as one more cell, what the agent carries.  -> uint8 [N], rows of the grid first"""
    view = np.fromiter((EMPTY if t is None else symbol(t) for t in env.grid.grid), np.uint8)
    view[env.agent_pos[1] * env.width + env.agent_pos[0]] = AGENT + env.agent_dir
    return np.append(view, np.uint8(symbol(env.carrying)))


def agent_view(env: MiniGridEnv, size: int | None = None) -> np.ndarray:
    """The square before the agent, which stands at the bottom centre and looks up; walls hide what is behind
    them, as the env itself has it.  -> uint8 [V, V]"""
    view, visible = env.gen_obs_grid(size)  # [x, y]
    cells = np.array([symbol(t) for t in view.grid], np.uint8).reshape(view.height, view.width)
    return np.where(visible.T, cells, 0).astype(np.uint8)


def draw(cells: np.ndarray, tile: int = 24, door: str = "yellow") -> np.ndarray:
    """Symbols [..., H, W] as minigrid draws them, possible or not.  -> uint8 [..., H * tile, W * tile, 3]

    door: its colour, which symbols do not tell.
    """
    tiles = np.stack([_tile(i, tile, door) for i in range(len(SYMBOLS))]).astype(
        np.uint8
    )  # [symbols, tile, tile, 3]
    picture = np.moveaxis(tiles[cells], -3, -4)  # [..., H, tile, W, tile, 3]
    *lead, h, _, w, _, c = picture.shape
    return picture.reshape(*lead, h * tile, w * tile, c)


def _tile(index: int, size: int, door: str) -> np.ndarray:
    name = SYMBOLS[index]
    if index >= AGENT:
        return Grid.render_tile(None, agent_dir=index - AGENT, tile_size=size)
    if name in DOORS:
        return Grid.render_tile(Door(door, name == DOORS[0], name == DOORS[2]), tile_size=size)
    if name == "unseen":
        return np.full((size, size, 3), 40, np.uint8)
    codes = minigrid.core.constants
    color = codes.COLOR_TO_IDX[COLORS.get(name, "grey")]
    return Grid.render_tile(WorldObj.decode(codes.OBJECT_TO_IDX[name], color, 0), tile_size=size)


def useful_actions(env: MiniGridEnv, drop: bool = False) -> tuple[int, ...]:
    """minigrid's actions that can do something in this layout: turns and forward; pickup and toggle where
    there is something to take or to open; drop where it is asked for."""
    kinds = {thing.type for thing in env.grid.grid if thing}
    hands = kinds & {"key", "ball", "box"} or "door" in kinds and not isinstance(env, TwoRooms)
    return (0, 1, 2) if not hands else (0, 1, 2, 3, 4, 5) if drop else (0, 1, 2, 3, 5)


class World(gym.Wrapper):
    """One layout as symbols.  Observation: `full_view`; action i: the i-th of `actions`.

    random_start: an episode begins on any empty cell with any heading, else as the layout has it.
    slip: probability of each other action to be carried out instead; .1 with 3 actions leaves .8 as meant.
    """

    def __init__(
        self,
        env: MiniGridEnv,
        layout: int = 0,
        random_start: bool = False,
        slip: float = 0.0,
        actions: Sequence[int] | None = None,
    ):
        super().__init__(env)
        self.grid: MiniGridEnv = env
        env.reset(seed=layout)
        self.layout, self.random_start, self.slip = layout, random_start, slip
        self.actions = tuple(actions or useful_actions(env))
        self.start = save_state(env)
        self.free = [i for i, thing in enumerate(env.grid.grid) if thing is None]
        self.shape = (env.height, env.width)
        self.observation_space = spaces.Box(0, len(SYMBOLS) - 1, (env.height * env.width + 1,), np.uint8)
        self.action_space = spaces.Discrete(len(self.actions))
        self._rng = np.random.default_rng(0)

    def reset(self, *, seed=None, options=None):
        """Start an episode.  -> uint8 [N], {}"""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self.env.reset(seed=self.layout)
        if self.random_start:
            cell, heading = self._rng.choice(self.free), int(self._rng.integers(4))
            y, x = divmod(int(cell), self.grid.width)
            load_state(self.grid, self.start._replace(x=x, y=y, heading=heading))
            if isinstance(self.grid, TwoRooms):
                self.grid.swing()
        return full_view(self.grid), {}

    def step(self, action):
        """One action, or by mischance another."""
        action = int(action)
        if self.slip and self._rng.random() < self.slip * (len(self.actions) - 1):
            action = (action + int(self._rng.integers(1, len(self.actions)))) % len(self.actions)
        _, rew, terminated, truncated, info = self.env.step(self.actions[action])
        return full_view(self.grid), float(rew), terminated, truncated, info


def names() -> dict[str, str]:
    """Short name -> registered id of every world that can be made."""
    found = {"TwoRooms": "TwoRooms-v0"}
    for name in gym.registry:
        if name.startswith("MiniGrid-") and "-WFC-" not in name:  # those need packages of their own
            found[name.removeprefix("MiniGrid-")[: name.rindex("-v") - len("MiniGrid-")]] = name
    return found


def make_grid(name: str, **options: Any) -> MiniGridEnv:
    """The library's environment by a short name (Empty-6x6) or by its id.  UserError for an unknown one."""
    known = names()
    env_id = known.get(name) or (name if name in gym.registry and name in known.values() else None)
    if env_id is None:
        near = difflib.get_close_matches(name.removeprefix("MiniGrid-"), known, n=1)
        guess = f" (did you mean {near[0]}?)" if near else ""
        raise UserError(f"--env {name}: no such world{guess}; there are {', '.join(known)}")
    return gym.make(env_id, render_mode="rgb_array", disable_env_checker=True, **options).unwrapped


def make_env(
    name: str,
    layout: int = 0,
    *,
    random_start: bool = False,
    slip: float = 0.0,
    drop: bool = False,
    view: int = 5,
    max_steps: int | None = None,
    **options: Any,
) -> World:
    """A `World` by name.  layout: seed of the map; view: side of the agent's view; max_steps: None: its own.

    options: what the environment takes besides, such as random_door for TwoRooms.
    """
    if view < 3 or view % 2 == 0:
        raise UserError(f"--view {view}: must be odd and at least 3")
    if not 0 <= slip <= 0.2:
        raise UserError(f"--slip {slip}: must be from 0 to 0.2, the probability of each other action")
    if max_steps is not None:
        options["max_steps"] = max_steps
    env = make_grid(name, agent_view_size=view, **options)
    env.reset(seed=layout)
    return World(env, layout, random_start, slip, useful_actions(env, drop))
