"""A window with arrow keys where there is a display; the same worlds run without one, for a GIF.

A world has `reset() -> frame`, `step(act) -> (frame, line of text)`: frame uint8 [H, W, 3], act [A].  Every
loop ends after a number of steps, at the latest.
"""

import os
import sys
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from common.frames import annotate
from common.video import write_gif
from foundations.tssm.config import Config
from foundations.tssm.games import GridGames, make_games

SIDE = 320  # pixels of the picture in a window or GIF, at least
LINE = 150  # gray of the lines around pictures and cells: the board's colours are others
FPS = 4
IDLE_SECONDS = 60.0  # a window in which no key is pressed for so long closes


class World(Protocol):
    """What can be played."""

    act_size: int

    def reset(self) -> np.ndarray: ...

    def step(self, act: np.ndarray) -> tuple[np.ndarray, str]: ...


class RealWorld:
    """One game of the real environment, with its running return."""

    def __init__(self, config: Config, seed: int):
        self.games, self.seed = make_games(config.env, 1), seed
        self.act_size = self.games.act_size
        self.obs = self.games.reset(seed)  # uint8 [1, H, W, 3]
        self.ret = 0.0

    def reset(self) -> np.ndarray:
        """The first frame."""
        self.obs, self.ret = self.games.reset(self.seed), 0.0
        return self.obs[0]

    def step(self, act: np.ndarray) -> tuple[np.ndarray, str]:
        """One real step."""
        self.obs, rew, _ = self.games.step(np.asarray(act)[None])
        self.ret += float(rew[0])
        return self.obs[0], f"reward {rew[0]:+.2f}  return {self.ret:+.2f}"

    def script(self) -> np.ndarray:
        """simple_world: straight to the target, whatever is in the way.  [2]"""
        core = self.games.core
        return np.sign(core.goal[0] - core.actor[0]).astype(np.float32)


def has_display() -> bool:
    """Is there a screen for a window?"""
    if os.environ.get("SDL_VIDEODRIVER") == "dummy":
        return False
    return not sys.platform.startswith("linux") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )


def rollout(world: World, policy: Callable[[np.ndarray], np.ndarray], steps: int) -> list[np.ndarray]:
    """Play without a window.  Returns labelled frames, steps + 1 of them."""
    frame = world.reset()
    frames = [picture(frame, "start")]
    for t in range(steps):
        frame, line = world.step(policy(frame))
        frames.append(picture(frame, f"{t + 1:>3}  {line}"))
    return frames


def picture(frame: np.ndarray, line: str) -> np.ndarray:
    """Blown up so that a 4x4 board can be seen, with a line above.  [H, W, 3]"""
    return annotate(enlarge(frame[None], SIDE)[0], line, size=16)


def enlarge(frames: np.ndarray, side: int) -> np.ndarray:
    """Nearest neighbours, `side` pixels squared; boards get lines between their cells.  [T, h, w, 3]"""
    cells = frames.shape[1]
    nearest = np.arange(side) * cells // side
    frames = frames[:, nearest][:, :, nearest]
    if cells <= 8:
        edges = np.flatnonzero(np.diff(nearest)) + 1
        frames[:, edges], frames[:, :, edges] = LINE, LINE
    return np.pad(frames[:, 1:-1, 1:-1], ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=LINE)


def window(
    world: World,
    title: str,
    steps: int,
    policy: Callable[[np.ndarray], np.ndarray] | None = None,
    idle_seconds: float = IDLE_SECONDS,
) -> int:
    """Show the world; without a policy each arrow key (or several at once) is a step, space stays, Esc ends.

    Returns the number of steps that were played, `steps` at most.
    """
    import pygame

    pygame.init()
    frame, line, played, clock = world.reset(), "arrow keys; space: stay; Esc: end", 0, pygame.time.Clock()
    shown = picture(frame, line)
    screen = pygame.display.set_mode((shown.shape[1], shown.shape[0]))
    pygame.display.set_caption(title)
    last_key = pygame.time.get_ticks()
    try:
        while played < steps and pygame.time.get_ticks() - last_key < 1000 * idle_seconds:
            act = policy(frame) if policy else None
            for event in pygame.event.get():
                if event.type == pygame.QUIT or event.type == pygame.KEYDOWN and event.key == pygame.K_ESCAPE:
                    return played
                if event.type == pygame.KEYDOWN and policy is None and act is None:
                    act = action_of(event.key, pygame.key.get_pressed(), world.act_size)
            if act is not None:
                frame, line = world.step(act)
                played, last_key = played + 1, pygame.time.get_ticks()
            shown = picture(frame, f"{played:>3}  {line}")
            screen.blit(pygame.surfarray.make_surface(shown.swapaxes(0, 1)), (0, 0))
            pygame.display.flip()
            clock.tick(FPS if policy else 30)
    finally:
        pygame.quit()
    return played


def action_of(key: int, held: Any, act_size: int) -> np.ndarray | None:
    """Arrow keys -> action [A], the first entry left and right, the second up and down; None: another key."""
    import pygame

    ways = {pygame.K_LEFT: (0, -1), pygame.K_RIGHT: (0, 1), pygame.K_UP: (1, -1), pygame.K_DOWN: (1, 1)}
    if key != pygame.K_SPACE and key not in ways:
        return None
    act = np.zeros(max(2, act_size), np.float32)
    for arrow, (axis, sign) in ways.items():
        if arrow == key or held[arrow]:
            act[axis] = sign
    return act[:act_size]


def play_real(args: Any, config: Config) -> None:
    """The real world by hand; without a display a GIF by --policy."""
    world = RealWorld(config, args.seed)
    if has_display():
        print(f"{window(world, 'play-real', args.steps)} steps played")
        return
    rng = np.random.default_rng(args.seed)
    scripted = args.policy == "script" and isinstance(world.games, GridGames)

    def policy(frame: np.ndarray) -> np.ndarray:
        return world.script() if scripted else rng.uniform(-1, 1, world.act_size)

    path = write_gif(args.out / "plots" / "play-real.gif", np.stack(rollout(world, policy, args.steps)), FPS)
    print(f"no display here: {'the script' if scripted else 'random actions'} played, written to {path}")
