"""The blocks of `voxel_navigate`: a seeded landscape without an edge, digging, building, rays through it.

The world is a torus of 256 x 256 columns, 48 blocks high.  One int8 says all about a cell: a block is its
negative number, air is the number of cells to the nearest block (Chebyshev, at most FAR).  A ray in air may
therefore leap over that many cells at once, which is what makes it fast in NumPy.
Letters: Y X Z cells (height first), N rays.  Coordinates: x, y (up), z; one block is one metre.
"""

import numpy as np

SIZE, HEIGHT, SEA, FAR = 256, 48, 9, 12
MASK = np.array([[SIZE - 1], [63], [SIZE - 1]], np.int32)  # the array has 64 layers, a power of two
GRASS, DIRT, STONE, SAND, WATER, WOOD, LEAVES, DIAMOND, BEDROCK, SKY = -np.arange(1, 11)
TOP = HEIGHT - 3  # nothing is built from here on, so that an eye stays below the sky, the highest layer


def make_world(rng: np.random.Generator) -> np.ndarray:
    """Hills, mountains, lakes one block deep, trees.  -> int8 [Y, X, Z]"""
    rough = sum(noise(rng, n) * height for n, height in ((4, 9), (8, 6), (16, 4), (32, 2)))
    peaks = 75 * np.clip(noise(rng, 5) + 0.2 * noise(rng, 20) - 0.78, 0, None)
    ground = np.clip(rough + peaks, SEA - 1, 34).astype(np.int8)  # highest block of each column [X, Z]
    skin = np.where(ground > SEA, GRASS, SAND)
    skin[(peaks > 1.5) & (ground > SEA + 4)] = STONE
    y = np.arange(HEIGHT, dtype=np.int8)[:, None, None]
    cells = np.where(y < ground - 3, np.int8(STONE), np.int8(DIRT))
    cells[:, skin == STONE] = STONE
    cells[y > ground] = 0
    columns = np.indices(ground.shape)
    cells[ground, columns[0], columns[1]] = skin
    cells[SEA][ground < SEA] = WATER
    cells[0] = BEDROCK
    _plant(cells, ground, skin, noise(rng, 12), rng)
    air = cells == 0
    cells[air] = clearance(~air)[air]
    cells[HEIGHT - 1] = SKY
    return np.concatenate([cells, np.full((64 - HEIGHT, SIZE, SIZE), SKY, np.int8)])


def noise(rng: np.random.Generator, n: int) -> np.ndarray:
    """n x n random numbers in [0, 1), joined smoothly and periodically.  -> [X, Z]"""
    grid = rng.random((n, n))
    at = np.arange(SIZE) * n / SIZE
    low = at.astype(int)
    part = at - low
    part = part * part * (3 - 2 * part)  # smoothstep: no creases at the grid
    high = (low + 1) % n
    rows = grid[low] * (1 - part)[:, None] + grid[high] * part[:, None]  # [X, n]
    return rows[:, low] * (1 - part) + rows[:, high] * part


def _plant(cells, ground, skin, forest, rng) -> None:
    """Trees on grass, at most one in a square of 6 x 6 columns, more of them where `forest` is high."""
    corner = np.arange(0, SIZE - 5, 6)
    x, z = (grid.ravel() + rng.integers(0, 4, grid.size) for grid in np.meshgrid(corner, corner))
    grows = (rng.random(len(x)) < 1.6 * forest[x, z] - 0.5) & (skin[x, z] == GRASS)
    x, z = x[grows], z[grows]
    foot, tall = ground[x, z].astype(int) + 1, rng.integers(4, 7, len(x))
    for up in range(-2, 2):  # four layers of leaves around the top of the trunk
        wide = 2 if up < 0 else 1
        for dx in range(-wide, wide + 1):
            for dz in range(-wide, wide + 1):
                if abs(dx) == wide == abs(dz) and up != -1:
                    continue  # round corners
                at = foot + tall - 1 + up, (x + dx) % SIZE, (z + dz) % SIZE
                cells[at] = np.where(cells[at] == 0, LEAVES, cells[at])
    for up in range(6):
        trunk = up < tall
        cells[foot[trunk] + up, x[trunk], z[trunk]] = WOOD


def clearance(solid: np.ndarray) -> np.ndarray:
    """Steps to the nearest block, diagonals included, at most FAR.  bool [Y, X, Z] -> int8 [Y, X, Z]"""
    near, steps = solid.copy(), np.ones(solid.shape, np.int8)
    for _ in range(FAR - 1):
        for axis in range(3):  # one cell wider along every axis; x and z go round
            old = np.moveaxis(near.copy(), axis, 0)
            new = np.moveaxis(near, axis, 0)
            new[1:] |= old[:-1]
            new[:-1] |= old[1:]
            if axis:
                new[0] |= old[-1]
                new[-1] |= old[0]
        steps += ~near
    return steps


def get(cells: np.ndarray, x: int, y: int, z: int) -> int:
    """The number of a cell, wherever on the torus."""
    return int(cells[y, x % SIZE, z % SIZE])


def surface(cells: np.ndarray, x: int, z: int) -> int:
    """Height of the highest block of a column."""
    return int(np.flatnonzero(cells[: HEIGHT - 1, x % SIZE, z % SIZE] < 0)[-1])


def take(cells: np.ndarray, x: int, y: int, z: int) -> None:
    """A block becomes air.  The clearances around it are too small now, which only costs a few leaps."""
    cells[y, x % SIZE, z % SIZE] = 1


def put(cells: np.ndarray, x: int, y: int, z: int, block: int) -> None:
    """Air or water becomes a block, and no ray leaps over it."""
    around = np.arange(-FAR, FAR + 1)
    low, high = max(0, y - FAR), min(HEIGHT - 1, y + FAR + 1)
    steps = np.abs(np.arange(low, high) - y)[:, None, None]
    steps = np.maximum(np.maximum(steps, np.abs(around)[:, None]), np.abs(around)).astype(np.int8)
    window = np.ix_(np.arange(low, high), (x + around) % SIZE, (z + around) % SIZE)
    cells[window] = np.minimum(cells[window], steps)  # blocks are negative and stay
    cells[y, x % SIZE, z % SIZE] = block


def march(cells: np.ndarray, eye: np.ndarray, rays: np.ndarray, reach: float) -> tuple:
    """The first block that each ray meets.  eye [3], rays of length 1 [3, N] -> block, dist, axis, each [N].

    block: 0 where nothing is met within `reach`.  axis: 0, 1, 2 if it is entered through its x, y, z side.
    Rays that go down an axis march in a mirror, where they go up: there ~k is the cell k.
    """
    flat, n = cells.reshape(-1), rays.shape[1]
    block, dist, side = np.zeros(n, np.int8), np.full(n, reach, np.float32), np.zeros(n, np.int8)
    which, down = np.arange(n), rays < 0
    mirror = -down.astype(np.int32)  # 0 or -1 [3, N]
    here, mirrored = (np.float32(sign * eye[:, None] % (MASK + 1)) for sign in (1, -1))  # [3, 1]
    start = np.where(down, mirrored, here)
    step = np.maximum(np.abs(rays), np.float32(1e-6))  # never quite along a plane: 1 / 0
    floats = np.concatenate([start, step, 1 / step])  # of the rays that are still on their way: [9, n]
    ints = np.concatenate([start.astype(np.int32), mirror])  # [6, n]
    t, crossed = np.zeros(n, np.float32), np.zeros((3, n), bool)
    while n:
        x, y, z = (ints[:3] ^ ints[3:]) & MASK
        code = flat.take((y * SIZE + x) * SIZE + z)  # [n]
        alive = (code > 0) & (t < reach)
        if not alive.all():
            done, keep = np.flatnonzero(~alive), np.flatnonzero(alive)
            end = which[done]
            block[end], dist[end] = code[done] * (t[done] < reach), t[done]
            side[end] = crossed[:, done].argmax(0)
            n, which, code = len(keep), which[keep], code[keep]
            floats, ints = floats.take(keep, 1), ints.take(keep, 1)
        wall = ints[:3] + code  # where the empty cube around the cell ends [3, n]
        times = (wall.astype(np.float32) - floats[:3]) * floats[6:]
        t = np.minimum(np.minimum(times[0], times[1]), times[2])
        crossed = times == t
        inside = (floats[:3] + t * floats[3:6]).astype(np.int32)
        inside = np.maximum(ints[:3], inside)  # never back, whatever the rounding
        ints[:3] = np.where(crossed, wall, inside)
    block[(block == SKY) | (block > 0)] = 0
    return block, dist, side
