"""CarRacing with a light renderer: the same physics and nearly the same pixels, about ten times faster.

Gymnasium's CarRacing spends 98 % of a step on drawing: about 700 polygons, transformed vertex by vertex in
Python, on a 1000 x 800 canvas that is then shrunk to 96 x 96. Here all polygons of a track lie in one
array, those in view are transformed by one matrix and drawn on a canvas of three times the picture's side.
Only the state picture is replaced; `render()` for videos stays Gymnasium's. Shapes: P polygons of 4
corners, V visible ones, K corners of the car.
"""

import math
import os
from functools import lru_cache

os.environ.setdefault(
    "SDL_VIDEODRIVER", "dummy"
)  # before pygame: no display is needed, and none is looked for

import numpy as np  # noqa: E402
import pygame  # noqa: E402
from gymnasium.envs.box2d import car_dynamics, car_racing  # noqa: E402
from gymnasium.envs.box2d.car_racing import CarRacing  # noqa: E402
from pygame import gfxdraw  # noqa: E402

SUPERSAMPLE = 3  # smoothscale shrinks by 3 without the tint that 2 and 4 leave
WIDTH, HEIGHT = car_racing.WINDOW_W, car_racing.WINDOW_H  # the stock canvas that all distances refer to
STRIP = HEIGHT // 8  # the lowest eighth: speed, wheels, steering, gyroscope, score
SCORE_WIDTH = 130
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
BLUE, VIOLET, GREEN, RED = (0, 0, 255), (51, 0, 255), (0, 255, 0), (255, 0, 0)


class Track(CarRacing):
    """Gymnasium's CarRacing with a choice of renderer, of the start, and drawing that can be skipped.

    `renderer`: a FastRenderer, or None for the stock picture; `random_start`: begin on any tile.
    """

    def __init__(self, renderer: "FastRenderer | None" = None, random_start: bool = False, **options):
        super().__init__(**options)
        self.renderer, self.random_start = renderer, random_start
        self.drawing = True  # False: step() returns None for the picture (inside an action repeat)

    def _create_track(self) -> bool:
        """Build the road as Gymnasium does; it may fail and is called again then."""
        if not super()._create_track():
            return False
        if (
            self.random_start
        ):  # the car is put on the first entry of the list, so turning the list moves the start
            k = int(self.np_random.integers(len(self.track)))
            self.track = self.track[k:] + self.track[:k]
        if self.renderer is not None:
            self.renderer.load_track(self)
        return True

    def _render(self, mode: str):
        if mode == "state_pixels" and self.car is not None:
            if not self.drawing:
                return None
            if self.renderer is not None:
                return self.renderer.draw(self)
        return super()._render(mode)


class FastRenderer:
    """Draws the state picture of a Track at `size` x `size`; `crop` leaves out the strip of indicators."""

    def __init__(self, size: int = 96, crop: bool = False):
        self.size, self.crop = size, crop
        self.side = side = SUPERSAMPLE * size
        self.canvas = pygame.Surface((side, side))
        self.height = HEIGHT - STRIP if crop else HEIGHT  # visible part of the stock canvas
        self.scale = np.array([side / WIDTH, side / self.height])  # stock pixel -> canvas pixel, x and y
        self._car: _CarShape | None = None

    def load_track(self, env: Track) -> None:
        """Collect grass squares and road polygons once per track: corners [P, 4, 2], colours [P, 3]."""
        patch = car_racing.GRASS_DIM
        start = np.arange(-20, 20, 2) * patch
        corner = np.stack(np.meshgrid(start, start), -1).reshape(-1, 1, 2)
        grass = corner + patch * np.array([[1, 0], [0, 0], [0, 1], [1, 1]])
        self._polygons = np.concatenate([grass, np.array([polygon for polygon, _ in env.road_poly])])
        self._middles = self._polygons.mean(1)  # [P, 2]
        self._radius = np.linalg.norm(self._polygons - self._middles[:, None], axis=-1).max()
        self._colors = np.empty((len(self._polygons), 3))
        self._colors[: len(grass)] = env.grass_color
        # A visited tile changes its colour in place; its array becomes a view into ours, so we see it.
        tiles = iter(env.road)
        for i, (polygon, color) in enumerate(env.road_poly):
            view = self._colors[len(grass) + i]
            view[:] = color
            if isinstance(color, np.ndarray):  # a tile; the kerbs' colours are tuples
                next(tiles).color = view
                env.road_poly[i] = (polygon, view)

    def draw(self, env: Track) -> np.ndarray:
        """The picture of the present state -> uint8 [size, size, 3]."""
        canvas, car = self.canvas, env.car
        matrix, offset, zoom = self._camera(env)
        canvas.fill(BLACK)  # shows beyond the edge of the playfield
        bounds = car_racing.PLAYFIELD
        field = np.array([(bounds, bounds), (bounds, -bounds), (-bounds, -bounds), (-bounds, bounds)])
        gfxdraw.filled_polygon(canvas, np.floor(field @ matrix + offset).tolist(), env.bg_color)

        reach = math.hypot(WIDTH / 2, HEIGHT * 3 / 4) / zoom + self._radius
        apart = self._middles - np.array(car.hull.position)
        near = np.flatnonzero((apart * apart).sum(1) < reach * reach)
        corners = np.floor(self._polygons[near] @ matrix + offset)  # [V, 4, 2]
        inside = ((corners.max(1) >= 0) & (corners.min(1) < self.side)).all(1)
        colors = self._colors[near[inside]].astype(np.int64).tolist()
        for points, color in zip(corners[inside].tolist(), colors, strict=True):
            gfxdraw.filled_polygon(canvas, points, color)

        if self._car is None:
            self._car = _CarShape(car)
        self._car.draw(canvas, car, matrix, offset)
        if not self.crop:
            self._draw_strip(env)
        small = pygame.transform.smoothscale(canvas, (self.size, self.size))
        pixels = np.frombuffer(pygame.image.tobytes(small, "RGB"), np.uint8)
        return pixels.reshape(self.size, self.size, 3).copy()  # the buffer itself is read-only

    def _camera(self, env: Track) -> tuple[np.ndarray, np.ndarray, float]:
        """World -> canvas as `points @ matrix + offset`: turn with the hull, zoom, flip y, shrink."""
        zoom = 0.1 * car_racing.SCALE * max(1 - env.t, 0)  # the camera comes down during the first second
        zoom += car_racing.ZOOM * car_racing.SCALE * min(env.t, 1)
        hull = env.car.hull
        cos, sin = math.cos(hull.angle) * zoom, math.sin(hull.angle) * zoom
        matrix = np.array([[cos, sin], [sin, -cos]]) * self.scale
        middle = np.array([WIDTH / 2, HEIGHT * 3 / 4]) * self.scale  # where the car is, y down
        return matrix, middle - np.array(hull.position) @ matrix, zoom

    def _draw_strip(self, env: Track) -> None:
        """Speed, wheel speeds, steering, gyroscope and score on the black strip."""
        canvas, car, (sx, sy) = self.canvas, env.car, self.scale
        canvas.fill(BLACK, (0, round((HEIGHT - STRIP) * sy), self.side, round(STRIP * sy)))
        s, h = WIDTH / 40, HEIGHT / 40
        bars = [(5, 0.02 * car.hull.linearVelocity.length, WHITE)]
        for i, color in enumerate((BLUE, BLUE, VIOLET, VIOLET)):
            bars.append((7 + i, 0.01 * car.wheels[i].omega, color))
        for place, value, color in bars:
            if abs(value) > 1e-6:
                self._rectangle(place * s, HEIGHT - h - h * value, (place + 1) * s, HEIGHT - h, color)
        steering, gyroscope = -10 * car.wheels[0].joint.angle, -0.8 * car.hull.angularVelocity
        for place, value, color in ((20, steering, GREEN), (30, gyroscope, RED)):
            if abs(value) > 1e-4:
                self._rectangle(place * s, HEIGHT - 4 * h, (place + value) * s, HEIGHT - 2 * h, color)
        score = _score(f"{env.reward:04.0f}", round(SCORE_WIDTH * sx), round(STRIP * sy))
        canvas.blit(score, (0, round((HEIGHT - STRIP) * sy)), None, pygame.BLEND_MAX)

    def _rectangle(self, x1: float, y1: float, x2: float, y2: float, color: tuple[int, int, int]) -> None:
        (sx, sy), (left, right), (top, bottom) = self.scale, sorted((x1, x2)), sorted((y1, y2))
        left, right = (
            round(left * sx),
            round((right + 1) * sx),
        )  # + 1: the stock polygon includes its last pixel
        top, bottom = round(top * sy), round((bottom + 1) * sy)
        self.canvas.fill(color, (left, top, right - left, bottom - top))


class _CarShape:
    """Corners of wheels and hull in their own frames; the same for every car, so collected once."""

    def __init__(self, car: car_dynamics.Car):
        corners, self.bodies, self.parts = [], [], []  # parts: (first, last corner, colour, wheel or None)
        for body, thing in enumerate(car.drawlist):  # wheels, then the hull on top
            color = [int(255 * c) for c in thing.color]
            for fixture in thing.fixtures:
                self._add(corners, fixture.shape.vertices, body, color, None)
            if thing is not car.hull:  # the light mark that shows the wheel turning; its corners come later
                self._add(corners, [(0.0, 0.0)] * 4, body, car_dynamics.WHEEL_WHITE, body)
        self.corners = np.array(corners)  # [K, 2]
        self.bodies = np.array(self.bodies)  # [K] which body a corner belongs to

    def _add(self, corners: list, vertices: list, body: int, color, wheel: int | None) -> None:
        self.parts.append((len(corners), len(corners) + len(vertices), color, wheel))
        corners.extend(vertices)
        self.bodies.extend([body] * len(vertices))

    def draw(
        self, canvas: pygame.Surface, car: car_dynamics.Car, matrix: np.ndarray, offset: np.ndarray
    ) -> None:
        """Put the corners where the bodies are, then draw wheels, marks and hull in the stock order."""
        hidden = set()
        for first, last, _, wheel in self.parts:
            if wheel is not None:
                mark = _wheel_mark(car.wheels[wheel].phase)
                if mark is None:
                    hidden.add(first)
                else:
                    self.corners[first:last] = mark
        pose = np.array([(*body.position, body.angle) for body in car.drawlist])  # [5, 3]
        cos, sin = np.cos(pose[:, 2])[self.bodies], np.sin(pose[:, 2])[self.bodies]
        x, y = self.corners.T
        world = np.stack([cos * x - sin * y, sin * x + cos * y], -1) + pose[self.bodies, :2]  # [K, 2]
        points = np.floor(world @ matrix + offset).tolist()
        for first, last, color, _ in self.parts:
            if first not in hidden:
                pygame.draw.polygon(canvas, color, points[first:last])


@lru_cache(maxsize=4096)
def _score(text: str, width: int, height: int) -> pygame.Surface:
    """The score drawn at the stock size and shrunk; kept, since text is slow and the score changes slowly."""
    pygame.font.init()
    font = pygame.font.Font(pygame.font.get_default_font(), 42)
    words = font.render(text, True, WHITE, BLACK)
    strip = pygame.Surface((SCORE_WIDTH, STRIP))
    strip.blit(words, words.get_rect(center=(60, STRIP // 2)))
    return pygame.transform.smoothscale(strip, (width, height))


def _wheel_mark(phase: float) -> list[tuple[float, float]] | None:
    """Corners of the light mark on a wheel that has turned by `phase`; None while it is on the lower side."""
    low, high = phase, phase + 1.2
    if math.sin(low) > 0 and math.sin(high) > 0:
        return None
    y1, y2 = math.cos(low), math.cos(high)
    y1 = math.copysign(1, y1) if math.sin(low) > 0 else y1
    y2 = math.copysign(1, y2) if math.sin(high) > 0 else y2
    w, r = car_dynamics.WHEEL_W * car_dynamics.SIZE, car_dynamics.WHEEL_R * car_dynamics.SIZE
    return [(-w, r * y1), (w, r * y1), (w, r * y2), (-w, r * y2)]
