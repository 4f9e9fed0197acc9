"""Atari through ale-py: every detail of a paper's protocol is an option, and frames are skipped only here.

The emulator itself always runs with frameskip 1, so a `v5` id cannot skip twice.  On top of the defaults:
| DreamerV1 | sticky .25, resize bilinear, life_loss |
| DreamerV2 | sticky .25, gray, full_actions |
| DreamerV3 | 57 games: sticky .25, gray, full_actions, size 96, resize bilinear; 100k: resize bilinear |
| DreamerV3's last code | timeout_terminal on top, which the papers do not mention |
| IRIS | resize bilinear, resize_first; life_loss, noop_max and limit as {"train", "eval"} pairs |
Sources: the five papers' environment code; Machado et al. 2018 for sticky actions.
"""

import re
from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from common.envs.toys import check_choice
from common.envs.wrappers import option_defaults, pixels_only
from common.envs.wrappers import resize as resize_image


@cache
def _roms() -> dict[str, str]:
    """Game name without underscores and case -> ROM id, e.g. mspacman -> ms_pacman."""
    from ale_py import roms

    return {rom.replace("_", ""): rom for rom in roms.get_all_rom_ids()}


def names() -> list[str]:
    """All names in our spelling."""
    return [f"atari_{rom}" for rom in sorted(_roms().values())]


def rom_id(name: str) -> str | None:
    """`atari_ms_pacman`, `atari_MsPacman`, `ALE/MsPacman-v5` -> `ms_pacman`; None if there is no such."""
    game = re.sub(r"^(atari_|ALE/)|-v\d+$", "", name)
    return _roms().get(re.sub(r"[_-]", "", game).lower())


def canonical(name: str) -> str:
    """The spelling under which scores are stored."""
    return f"atari_{rom_id(name)}"


class Atari(gym.Env):
    """One game: observations {"image": uint8 [size, size, 1 or 3]}, actions Discrete, raw score as reward.

    frame_skip: raw frames per action; the picture is the maximum over the last two (sprites flicker).
    noop_max: 1..noop_max raw no-op frames after a reset, 0 for none.  sticky: chance that an action repeats.
    life_loss: a lost life ends the episode, and `reset` plays on in the same game after one step of no-ops.
    limit: raw frames per game, no-ops included, then truncated (terminated with timeout_terminal).
    resize_first: resize, then maximum (IRIS).
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}

    def __init__(
        self,
        rom: str,
        *,
        size: int = 64,
        gray: bool = False,
        frame_skip: int = 4,
        noop_max: int = 30,
        sticky: float = 0.0,
        life_loss: bool = False,
        full_actions: bool = False,
        limit: int = 108_000,
        timeout_terminal: bool = False,
        resize: str = "area",
        resize_first: bool = False,
    ):
        check_choice("resize", resize, ("area", "bilinear"))
        import ale_py
        from ale_py.env import AtariEnv

        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # no banner
        self._game = AtariEnv(
            rom,
            frameskip=1,  # never a double skip
            repeat_action_probability=sticky,
            full_action_space=full_actions,
            max_num_frames_per_episode=limit,
            render_mode="rgb_array",
        )
        self.ale = self._game.ale
        self._actions = self.ale.getLegalActionSet() if full_actions else self.ale.getMinimalActionSet()
        self._screen = self.ale.getScreenGrayscale if gray else self.ale.getScreenRGB
        self.frame_skip, self.noop_max, self.life_loss = frame_skip, noop_max, life_loss
        self.size, self.how, self.resize_first = size, resize, resize_first
        self.timeout_terminal = timeout_terminal
        self.action_space = spaces.Discrete(len(self._actions))
        shape = (size, size, 1 if gray else 3)
        self.observation_space = spaces.Dict({"image": spaces.Box(0, 255, shape, np.uint8)})
        self.render_mode = "rgb_array"
        self._lives = 0

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """New game, or the same game on after a lost life (only with life_loss, and never when seeded)."""
        first = self._np_random is None
        super().reset(seed=seed)
        over = self.ale.game_over()
        if seed is None and not first and self.life_loss and not over and self.ale.lives() < self._lives:
            frames = self._repeat(0)[1]  # a step of doing nothing, as the wrappers of Atari 100k have it
        else:
            seeded = seed is not None or first
            self._game.reset(seed=int(self.np_random.integers(2**31)) if seeded else None)
            for _ in range(int(self.np_random.integers(1, self.noop_max + 1)) if self.noop_max else 0):
                self.ale.act(self._actions[0])
                if self.ale.game_over():
                    break
            frames = [self._grab()]
        if self.ale.game_over():  # a game this short starts again without the no-ops
            self._game.reset()
            frames = [self._grab()]
        self._lives = self.ale.lives()
        return {"image": self._picture(frames[-2:])}, self._info()

    def _repeat(self, action) -> tuple[float, list[np.ndarray]]:
        """frame_skip raw frames, fewer where the game ends -> summed reward, what was seen last."""
        rew, frames = 0.0, []
        for left in reversed(range(self.frame_skip)):
            rew += self.ale.act(self._actions[action])
            if left < 2 or self.ale.game_over():
                frames.append(self._grab())
            if self.ale.game_over():  # the frames seen so far count: no stale one from before
                break
        return rew, frames

    def step(self, action):
        """frame_skip raw frames -> obs, summed raw reward, terminated, truncated, info."""
        rew, frames = self._repeat(action)
        truncated = bool(self.ale.game_truncated())
        terminated = bool(self.ale.game_over(with_truncation=False))
        if self.life_loss and self.ale.lives() < self._lives and not truncated:
            terminated = True
        else:
            self._lives = self.ale.lives()
        if self.timeout_terminal:
            terminated, truncated = terminated or truncated, False
        return {"image": self._picture(frames[-2:])}, rew, terminated, truncated, self._info()

    def render(self) -> np.ndarray:
        """The raw screen: uint8 [210, 160, 3] in most games."""
        return self.ale.getScreenRGB()

    def _grab(self) -> np.ndarray:
        screen = self._screen()  # [H, W] or [H, W, 3]
        screen = screen.reshape(*screen.shape[:2], -1)
        return resize_image(screen, self.size, self.how) if self.resize_first else screen

    def _picture(self, frames: list[np.ndarray]) -> np.ndarray:
        image = frames[0] if len(frames) == 1 else np.maximum(frames[0], frames[1])
        return image if self.resize_first else resize_image(image, self.size, self.how)

    def _info(self) -> dict:
        return {"lives": self.ale.lives(), "frame": self.ale.getEpisodeFrameNumber()}


def options(name: str) -> dict[str, Any]:
    """Option -> default."""
    return option_defaults(Atari)


def make(name: str, mode: str = "train", obs: str = "auto", **options) -> gym.Env:
    """Build one game by any of its names; there are only pixels."""
    pixels_only(name, obs)
    return Atari(rom_id(name), **options)


class _AleVector(VectorWrapper):
    """ale-py's own vector env in our dress: Dict observations without the stack axis, float rewards."""

    def __init__(self, env: VectorEnv, shape: tuple[int, int, int], timeout_terminal: bool):
        super().__init__(env)
        self.timeout_terminal = timeout_terminal
        self.single_observation_space = spaces.Dict({"image": spaces.Box(0, 255, shape, np.uint8)})
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)

    def _dress(self, obs: np.ndarray) -> dict[str, np.ndarray]:
        return {
            "image": obs.reshape(self.observation_space["image"].shape)
        }  # [N, 1, H, W(, 3)] -> [N, H, W, C]

    def reset(self, *, seed=None, options=None):
        """Start all games; seeds as in Gymnasium: int, list or None."""
        seed = np.asarray([-1 if s is None else s for s in seed]) if isinstance(seed, list | tuple) else seed
        obs, info = self.env.reset(seed=seed, options=options)
        return self._dress(obs), self._info(info)

    def step(self, actions):
        """Play one action per game; a finished game starts anew in the next step (NEXT_STEP)."""
        obs, rew, terminated, truncated, info = self.env.step(np.asarray(actions, np.int64))
        if self.timeout_terminal:
            terminated, truncated = terminated | truncated, np.zeros_like(truncated)
        return self._dress(obs), rew.astype(np.float64), terminated, truncated, self._info(info)

    def _info(self, info: dict) -> dict:
        return {"lives": info["lives"], "frame": info["episode_frame_number"]}


def make_vector(name: str, num: int, mode: str = "train", obs: str = "auto", **options) -> VectorEnv | None:
    """ale-py's threaded vector env where its frames are the protocol's (area, full games), else None.

    No-ops (from 0) and sticky actions come from its own generator: equal rules, other episodes.
    """
    o = dict(options)
    gray, size = o.pop("gray", False), o.pop("size", 64)
    timeout_terminal = o.pop("timeout_terminal", False)
    fits = o.pop("resize", "area") == "area" and not o.pop("resize_first", False)
    if not fits or o.pop("life_loss", False) or o.get("noop_max", 30) == 1:
        return None
    from ale_py.vector_env import AtariVectorEnv

    pixels_only(name, obs)
    env = AtariVectorEnv(
        rom_id(name),
        num,
        img_height=size,
        img_width=size,
        grayscale=gray,
        stack_num=1,
        frameskip=o.pop("frame_skip", 4),
        noop_max=o.pop("noop_max", 30),
        repeat_action_probability=o.pop("sticky", 0.0),
        full_action_space=o.pop("full_actions", False),
        max_num_frames_per_episode=o.pop("limit", 108_000),
        reward_clipping=False,  # ale-py's defaults for these two are True
        use_fire_reset=False,
        autoreset_mode=AutoresetMode.NEXT_STEP,
    )
    assert not o, f"options that the vector env does not know: {o}"
    return _AleVector(env, (size, size, 1 if gray else 3), timeout_terminal)
