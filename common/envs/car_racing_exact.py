"""CarRacing drawn as Gymnasium draws it, bit for bit, in a third of the time.

Gymnasium transforms about 700 polygons vertex by vertex in Python, to draw the dozen that are in view; and it
sets the score in type for every frame.  Here all corners are moved at once in the same double precision, only
polygons in view are drawn, by the same pygame calls in the same order on the same 1000 x 800 canvas, and the
type is kept.  For those who want the paper's very pixels; the renderer of car_racing_fast.py
is five times faster still.  Shapes: P polygons of 4 corners.
"""

import os
from functools import lru_cache

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # before pygame: no display is needed

import numpy as np  # noqa: E402
import pygame  # noqa: E402
from gymnasium.envs.box2d import car_racing  # noqa: E402
from pygame import gfxdraw  # noqa: E402

from common.envs.car_racing_fast import Track  # noqa: E402

WIDTH, HEIGHT, PATCH = car_racing.WINDOW_W, car_racing.WINDOW_H, car_racing.GRASS_DIM
STATE = (car_racing.STATE_W, car_racing.STATE_H)
EDGE = 2  # pixels that smoothed edges may reach beyond a polygon's corners


class ExactRenderer:
    """Draws the state picture of a Track, 96 x 96."""

    def __init__(self):
        self.canvas = pygame.Surface((WIDTH, HEIGHT))

    def load_track(self, env: Track) -> None:
        """Corners of grass squares and road, once per track: [P, 4] for x and y."""
        start = [PATCH * i for i in range(-20, 20, 2)]
        grass = [
            [(x + PATCH, y), (x, y), (x, y + PATCH), (x + PATCH, y + PATCH)] for x in start for y in start
        ]
        self.grass = len(grass)
        corners = np.array(grass + [[tuple(corner) for corner in polygon] for polygon, _ in env.road_poly])
        self.x, self.y = np.moveaxis(corners, -1, 0).astype(np.float64)

    def draw(self, env: Track) -> np.ndarray:
        """The picture of the present state -> uint8 [96, 96, 3]."""
        canvas, hull = self.canvas, env.car.hull
        canvas.fill((0, 0, 0))
        angle = -hull.angle
        zoom = 0.1 * car_racing.SCALE * max(1 - env.t, 0) + car_racing.ZOOM * car_racing.SCALE * min(env.t, 1)
        moved = pygame.math.Vector2((-hull.position[0] * zoom, -hull.position[1] * zoom)).rotate_rad(angle)
        offset = (WIDTH / 2 + moved[0], HEIGHT / 4 + moved[1])

        env.surf, b = canvas, car_racing.PLAYFIELD
        field = [(b, b), (b, -b), (-b, -b), (-b, b)]
        env._draw_colored_polygon(canvas, field, env.bg_color, zoom, offset, angle, clip=False)
        cos, sin = pygame.math.Vector2(1, 0).rotate_rad(angle)  # pygame's own, for the last bit
        x = (cos * self.x - sin * self.y) * zoom + offset[0]  # [P, 4]
        y = (sin * self.x + cos * self.y) * zoom + offset[1]
        seen = (x.max(1) >= -EDGE) & (x.min(1) <= WIDTH + EDGE)
        seen &= (y.max(1) >= -EDGE) & (y.min(1) <= HEIGHT + EDGE)
        # No clipping rectangle, however tempting: it moves the ends of smoothed lines.
        for i, points in zip(np.flatnonzero(seen).tolist(), np.stack([x, y], -1)[seen].tolist(), strict=True):
            color = env.grass_color if i < self.grass else [int(c) for c in env.road_poly[i - self.grass][1]]
            gfxdraw.aapolygon(canvas, points, color)
            gfxdraw.filled_polygon(canvas, points, color)
        env.car.draw(canvas, zoom, offset, angle, False)  # without particles, as in the state picture

        env.surf = pygame.transform.flip(canvas, False, True)
        env._render_indicators(WIDTH, HEIGHT)
        text = _text(f"{env.reward:04.0f}")
        env.surf.blit(text, text.get_rect(center=(60, HEIGHT - HEIGHT * 2.5 / 40.0)))
        return env._create_image_array(env.surf, STATE)


@lru_cache(maxsize=4096)
def _text(score: str) -> pygame.Surface:
    """The score as Gymnasium sets it."""
    pygame.font.init()
    font = pygame.font.Font(pygame.font.get_default_font(), 42)
    return font.render(score, True, (255, 255, 255), (0, 0, 0))
