"""Pictures of the blocks: one ray per pixel, pixel-art textures, light by side, fog before the view ends.

Letters: N rays = H * W pixels.
"""

import math
from functools import cache

import numpy as np

from common.envs.voxel_world import (
    BEDROCK,
    DIAMOND,
    DIRT,
    GRASS,
    LEAVES,
    SAND,
    SIZE,
    STONE,
    WATER,
    WOOD,
    march,
)

FIELD = 70  # degrees, Minecraft's default
TEXELS = 8  # per side of a block
COLOURS = {  # colour, how much its texels differ
    GRASS: ((96, 158, 58), 0.16),
    DIRT: ((134, 96, 67), 0.16),
    STONE: ((125, 125, 125), 0.12),
    SAND: ((219, 207, 160), 0.05),
    WATER: ((52, 96, 208), 0.08),
    WOOD: ((104, 82, 50), 0.18),
    LEAVES: ((52, 104, 34), 0.34),
    DIAMOND: ((98, 225, 216), 0.12),
    BEDROCK: ((60, 60, 60), 0.5),
}
LIGHT = (0.62, 1.0, 0.8, 0.5)  # x side, top, z side, bottom
HORIZON, ZENITH = np.array([[186, 210, 255], [104, 152, 250]], np.float32)


@cache
def textures() -> np.ndarray:
    """Colours of every texel, near and (calmer, for a pixel is many texels there) far.

    -> float32 [2 * blocks * 4 sides * TEXELS * TEXELS, 3]
    """
    rng = np.random.default_rng(0)
    table = np.zeros((2, len(COLOURS) + 1, 4, TEXELS, TEXELS, 3), np.float32)
    for block, (colour, contrast) in COLOURS.items():
        grain = 1 + contrast * rng.uniform(-1, 1, (TEXELS, TEXELS, 1))
        table[0, -block] = np.array(colour) * grain
    near = table[0]
    edge = rng.integers(1, 4, TEXELS)  # grass hangs down its sides
    hangs = np.arange(TEXELS)[:, None] < edge
    for side in (0, 2):
        near[-GRASS, side] = np.where(hangs[..., None], near[-GRASS, 1], near[-DIRT, 1])
        near[-WOOD, side] *= np.where(np.arange(TEXELS) % 3, 1.0, 0.75)[:, None]  # bark
    near[-GRASS, 3] = near[-DIRT, 1]
    frame = np.ones((TEXELS, TEXELS), bool)
    frame[1:-1, 1:-1] = False
    near[-WOOD, 1::2] = np.where(frame[..., None], near[-WOOD, 1::2], (168, 134, 80))  # rings
    near[-DIAMOND] = np.where(frame[..., None], (180, 250, 244), near[-DIAMOND])
    near *= np.array(LIGHT, np.float32)[:, None, None, None]
    table[1] = near + 0.65 * (near.mean((2, 3), keepdims=True) - near)
    return table.reshape(-1, 3)


@cache
def _lens(size: int) -> np.ndarray:
    """Rays of a camera that looks along z: right, up, forward.  -> float32 [3, N], length 1"""
    edge = math.tan(math.radians(FIELD / 2)) * ((np.arange(size) + 0.5) * 2 / size - 1)
    right, up = np.meshgrid(edge, -edge)
    rays = np.stack([right, up, np.ones_like(up)]).reshape(3, -1)
    return (rays / np.sqrt((rays**2).sum(0))).astype(np.float32)


def look(yaw: float, pitch: float) -> np.ndarray:
    """Axes of the head: right, up, forward as columns.  Degrees; yaw 0 is +z, 90 is -x; pitch 90 is down."""
    a, b = math.radians(yaw), math.radians(pitch)
    right = (-math.cos(a), 0.0, -math.sin(a))
    up = (-math.sin(a) * math.sin(b), math.cos(b), math.cos(a) * math.sin(b))
    ahead = (-math.sin(a) * math.cos(b), -math.sin(b), math.cos(a) * math.cos(b))
    return np.array([right, up, ahead], np.float32).T


def draw(cells: np.ndarray, eye: np.ndarray, yaw: float, pitch: float, size: int, view: float) -> np.ndarray:
    """What an eye at `eye` [3] sees.  -> uint8 [size, size, 3]"""
    rays = look(yaw, pitch) @ _lens(size)  # [3, N]
    block, dist, axis = march(cells, eye, rays, view)
    picture = np.clip(rays[1] * np.float32(1.6), 0, 1)[:, None] * (ZENITH - HORIZON) + HORIZON  # sky [N, 3]
    hit = np.flatnonzero(block)
    block, axis = block[hit].astype(np.int32), axis[hit].astype(np.int32)
    dist, rays = dist[hit], rays.take(hit, 1)
    point = np.float32(eye[:, None] % SIZE) + dist * rays
    x, y, z = ((point - np.floor(point)) * (TEXELS - 1e-3)).astype(np.int32)  # texels within the block [n]
    across, down = np.where(axis == 0, z, x), np.where(axis == 1, z, TEXELS - 1 - y)
    side = axis + 2 * ((axis == 1) & (rays[1] > 0))
    far = (dist > 10) * (len(COLOURS) + 1)
    colour = textures().take((((far - block) * 4 + side) * TEXELS + down) * TEXELS + across, 0)  # [n, 3]
    fog = np.clip(dist / np.float32(0.4 * view) - np.float32(1.4), 0, 1)[:, None]  # from 0.56 to 0.96 of it
    picture[hit] = colour + fog * (HORIZON - colour)
    return picture.astype(np.uint8).reshape(size, size, 3)
