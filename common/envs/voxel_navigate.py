"""`voxel_navigate`: our own stand-in for MineRL's Navigate, in NumPy, without Minecraft.

The game speaks MineRL's language (dict actions, pov / compass.angle / inventory.dirt) and is played through
the very adapter of the real one, common/envs/minecraft.py: action table, held keys, pitch limit and vector
agree because they are the same lines.  Rules of MineRLNavigate(Dense)-v0: a diamond block on the surface 64 m
away, +100 for touching it, which ends the episode; dense: +1 per block nearer to where the compass points,
-1 per block farther; 6,000 ticks.  Numbers of the body (a tick is 1/20 s) are Minecraft's.
"""

import math

import numpy as np
from gymnasium import spaces

from common.envs import voxel_camera
from common.envs import voxel_world as world
from common.envs.minecraft import Minecraft
from common.errors import UserError

HALF, TALL, EYE, GAP = 0.3, 1.8, 1.62, 1e-4  # of the body, metres; GAP keeps it off the walls it leans on
WALK, WADE, JUMP, GRAVITY, DRAG, FALL = 0.2158, 0.11, 0.42, 0.08, 0.98, -0.9  # metres per tick
REACH, TOUCH = 4.5, 0.05  # of the arm; how near counts as touching
TICKS = {  # of attack with bare hands until a block breaks; others never do
    world.GRASS: 18,
    world.DIRT: 15,
    world.SAND: 15,
    world.LEAVES: 7,
    world.WOOD: 60,
    world.STONE: 150,
}


class Navigate:
    """The game, in the old gym API as MineRL has it: seed(n), reset() -> obs, step(keys) -> 4-tuple."""

    def __init__(self, size: int, view: float, dense: bool, distance: int, offset: float):
        self.size, self.view, self.dense, self.distance, self.offset = size, view, dense, distance, offset
        keys = ("attack", "back", "forward", "jump", "left", "right")
        self.action_space = spaces.Dict(
            {key: spaces.Discrete(2) for key in keys}
            | {"camera": spaces.Box(-180, 180, (2,)), "place": spaces.Text(10)}
        )
        self.observation_space = spaces.Dict(
            {
                "pov": spaces.Box(0, 255, (size, size, 3), np.uint8),
                "compass.angle": spaces.Box(-180, 180, ()),
                "inventory.dirt": spaces.Box(0, 2304, ()),
            }
        )
        self.seed(None)

    def seed(self, seed: int | None) -> None:
        """All later worlds follow from this."""
        self._rng = np.random.default_rng(seed)

    def reset(self) -> dict:
        """A new world, goal and place to start."""
        rng = self._rng
        self.cells = world.make_world(rng)
        while True:
            x, z = rng.integers(world.SIZE, size=2).tolist()
            angle = rng.uniform(0, 2 * math.pi)
            goal = x + round(self.distance * math.cos(angle)), z + round(self.distance * math.sin(angle))
            if self._is_open(x, z) and self._is_open(*goal):
                break
        self.goal = goal[0], world.surface(self.cells, *goal) + 1, goal[1]
        world.put(self.cells, *self.goal, world.DIAMOND)
        angle, radius = rng.uniform(0, 2 * math.pi), self.offset * math.sqrt(rng.random())
        self.target = goal[0] + 0.5 + radius * math.cos(angle), goal[1] + 0.5 + radius * math.sin(angle)
        self.feet = np.array([x + 0.5, world.surface(self.cells, x, z) + 1 + GAP, z + 0.5])
        self.yaw, self.pitch, self.rise, self.grounded = float(rng.uniform(-180, 180)), 0.0, 0.0, True
        self.dirt, self._attacked, self._progress = 0, None, 0
        return self._obs()

    def step(self, keys: dict) -> tuple:
        """One tick: turn, walk, dig, build -> obs, reward, touched the goal?, {}."""
        before = math.hypot(*self._way())
        self.pitch = float(np.clip(self.pitch + keys["camera"][0], -90, 90))
        self.yaw = (self.yaw + float(keys["camera"][1]) + 180) % 360 - 180
        self._walk(keys)
        if keys["attack"]:
            self._attack()
        else:
            self._attacked = None
        if keys["place"] == "dirt" and self.dirt:
            self._place()
        touched = any(block == world.DIAMOND for block in self._blocks(TOUCH))
        nearer = before - math.hypot(*self._way())
        return self._obs(), self.dense * nearer + 100.0 * touched, touched, {}

    def picture(self, size: int) -> np.ndarray:
        """What the player sees: uint8 [size, size, 3]."""
        return voxel_camera.draw(self.cells, self._eye(), self.yaw, self.pitch, size, self.view)

    def close(self) -> None:
        """Nothing to shut down."""

    def _is_open(self, x: int, z: int) -> bool:
        """Dry ground under the sky, no tree."""
        top = world.get(self.cells, x, world.surface(self.cells, x, z), z)
        return top in (world.GRASS, world.SAND, world.STONE)

    def _eye(self) -> np.ndarray:
        return self.feet + (0, EYE, 0)

    def _way(self) -> tuple[float, float]:
        """From the player to where the compass points, the shorter way round the torus: x, z."""
        half = world.SIZE / 2
        return tuple((self.target[i] - self.feet[2 * i] + half) % world.SIZE - half for i in range(2))

    def _obs(self) -> dict:
        x, z = self._way()
        angle = (math.degrees(math.atan2(-x, z)) - self.yaw + 180) % 360 - 180  # 0: ahead, 90: to the right
        return {"pov": self.picture(self.size), "compass.angle": angle, "inventory.dirt": self.dirt}

    # --- the body --------------------------------------------------------------------------------------

    def _blocks(self, grow: float = 0.0) -> list[int]:
        """Numbers of all blocks that the body, grown by some metres, is in."""
        x, y, z = self.feet.tolist()
        width = HALF + grow
        return [
            block
            for i in range(math.floor(x - width), math.ceil(x + width))
            for j in range(math.floor(y - grow), math.ceil(y + TALL + grow))
            for k in range(math.floor(z - width), math.ceil(z + width))
            if (block := world.get(self.cells, i, j, k)) < 0
        ]

    def _move(self, axis: int, way: float) -> bool:
        """Move along one axis (less than a block), up to what is in the way -> was anything?"""
        self.feet[axis] += way
        if all(block == world.WATER for block in self._blocks()):
            return False
        low, high = (0, TALL) if axis == 1 else (-HALF, HALF)
        if way > 0:
            self.feet[axis] = math.floor(self.feet[axis] + high) - high - GAP
        else:
            self.feet[axis] = math.floor(self.feet[axis] + low) + 1 - low + GAP
        return True

    def _walk(self, keys: dict) -> None:
        """Keys and gravity, one tick.  A block is one metre high and a jump 1.25: every step up needs one."""
        ahead, right = keys["forward"] - keys["back"], keys["right"] - keys["left"]
        speed = (WADE if world.WATER in self._blocks() else WALK) / (math.hypot(ahead, right) or 1)
        sin, cos = math.sin(math.radians(self.yaw)), math.cos(math.radians(self.yaw))
        if keys["jump"] and self.grounded:
            self.rise = JUMP
        landed = self._move(1, self.rise)
        self.grounded = landed and self.rise < 0
        if landed:
            self.rise = 0.0
        self.rise = max(FALL, (self.rise - GRAVITY) * DRAG)
        self._move(0, speed * (-sin * ahead - cos * right))
        self._move(2, speed * (cos * ahead - sin * right))

    # --- the hands -------------------------------------------------------------------------------------

    def _aim(self) -> tuple[int, tuple, tuple] | None:
        """The block in the middle of the picture, within reach -> its number, its cell, the cell before."""
        ray = voxel_camera.look(self.yaw, self.pitch)[:, 2]
        block, dist, axis = (part[0] for part in world.march(self.cells, self._eye(), ray[:, None], REACH))
        if not block:
            return None
        cell = np.floor(self._eye() + (dist + 1e-3) * ray).astype(int)
        before = cell.copy()
        before[axis] -= 1 if ray[axis] > 0 else -1
        return int(block), tuple(cell.tolist()), tuple(before.tolist())

    def _attack(self) -> None:
        """Strike for a tick: the same block long enough, and it breaks.  Earth goes into the bag."""
        block, cell, _ = self._aim() or (0, None, None)
        self._progress = self._progress + 1 if cell == self._attacked else 1
        self._attacked = cell
        if self._progress >= TICKS.get(block, math.inf):
            world.take(self.cells, *cell)
            self.dirt += block in (world.DIRT, world.GRASS)
            self._attacked = None

    def _place(self) -> None:
        """Put dirt on the side of a block that is looked at, or into water."""
        aim = self._aim()
        if aim is None:
            return
        cell = aim[1] if aim[0] == world.WATER else aim[2]
        old = world.get(self.cells, *cell)
        if (old < 0 and old != world.WATER) or cell[1] >= world.TOP:
            return
        world.put(self.cells, *cell, world.DIRT)
        if any(block != world.WATER for block in self._blocks()):  # where the player stands: not possible
            self.cells[cell[1], cell[0] % world.SIZE, cell[2] % world.SIZE] = old
        else:
            self.dirt -= 1


class VoxelNavigate(Minecraft):
    """{"image": uint8 [size, size, 3], "vector": float32 [3]}, Discrete(12), as `minecraft_navigate`.

    view: how far one sees, in blocks.  dense: reward for coming nearer.  distance: of the goal, in blocks.
    offset: how far off the goal the compass may point, in blocks.
    """

    def __init__(
        self,
        *,
        size: int = 64,
        view: int = 32,
        dense: bool = True,
        limit: int = 6000,
        distance: int = 64,
        offset: float = 8.0,
        sticky_attack: int = 30,
        sticky_jump: int = 10,
        pitch_limit: int = 60,
    ):
        for option, value, low, high in (
            ("view", view, 4, 128),
            ("distance", distance, 2, 120),
            ("offset", offset, 0, 64),
            ("sticky_attack", sticky_attack, 1, 10_000),
            ("sticky_jump", sticky_jump, 1, 10_000),
            ("pitch_limit", pitch_limit, 0, 90),
        ):
            if not low <= value <= high:
                raise UserError(f"voxel_navigate: option {option} {value}: must be from {low} to {high}")
        super().__init__(
            Navigate(size, view, dense, distance, offset),
            size=size,
            limit=limit,
            sticky_attack=sticky_attack,
            sticky_jump=sticky_jump,
            pitch_limit=pitch_limit,
        )

    def render(self) -> np.ndarray:
        """A larger picture, for videos: uint8 [256, 256, 3]."""
        return self._game.picture(256)
