"""ViZDoom TakeCover, paper 1's second experiment: step aside from fireballs, +1 per tic alive.

Skill 4, first state at tic 14, time-out after 2,100 tics more (truncated); the game object is used without
its Gymnasium wrapper.  Rendered at 160x120 without HUD.
Source: World Models, appendix (the task, the thirds of the action).  Baselines: scores.json.
"""

import contextlib
import os
import tempfile
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from common.envs.wrappers import option_defaults, pixels_only, resize
from common.errors import UserError

START, TIMEOUT = 14, 2100  # tics
LEFT, STAY, RIGHT = range(3)
_BUTTONS = {LEFT: [True, False], STAY: [False, False], RIGHT: [False, True]}


def names() -> list[str]:
    """The one scenario."""
    return ["doom_takecover"]


class TakeCover(gym.Env):
    """{"image": uint8 [64, 64, 3]}; actions 0 left, 1 stay, 2 right, or with `continuous` a turn in [-1, 1].

    frame_skip: tics per action (the paper's 1, or 4).  continuous: below -1/3 is left, above 1/3 right.
    crop: `room` keeps rows 36..99 as they are and averages the columns to 64; `paper` squeezes the top 5/6.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 35}

    def __init__(self, *, frame_skip: int = 1, continuous: bool = False, crop: str = "room", skill: int = 4):
        if crop not in ("room", "paper"):
            raise UserError(f"crop={crop!r} is not possible: choose room or paper")
        import vizdoom

        game = vizdoom.DoomGame()
        game.load_config(os.path.join(vizdoom.scenarios_path, "take_cover.cfg"))
        game.set_doom_config_path(os.devnull)  # nothing of the engine's state is to outlive it
        game.set_screen_resolution(vizdoom.ScreenResolution.RES_160X120)
        game.set_screen_format(vizdoom.ScreenFormat.RGB24)
        game.set_window_visible(False)
        game.set_doom_skill(skill)
        game.set_episode_start_time(START)
        game.set_episode_timeout(TIMEOUT)
        self._folder = tempfile.TemporaryDirectory(prefix="takecover-", ignore_cleanup_errors=True)
        with contextlib.chdir(self._folder.name):  # the engine makes a folder where it is started
            game.init()
        self._game, self.frame_skip, self.continuous, self.crop = game, frame_skip, continuous, crop
        self.observation_space = spaces.Dict({"image": spaces.Box(0, 255, (64, 64, 3), np.uint8)})
        self.action_space = spaces.Box(-1, 1, (1,), np.float32) if continuous else spaces.Discrete(3)
        self.render_mode = "rgb_array"

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Start an episode.  A seed goes to the game as it is, so that published seeds can be replayed."""
        super().reset(seed=seed)
        self._game.set_seed(int(self.np_random.integers(2**31)) if seed is None else seed)
        self._game.new_episode()
        self._frame = self._game.get_state().screen_buffer  # [120, 160, 3]
        return self._obs(), {}

    def step(self, action):
        """frame_skip tics -> obs, tics survived, terminated by death, truncated by the time-out, info."""
        if self.continuous:
            turn = float(np.asarray(action).item())
            action = LEFT if turn < -1 / 3 else RIGHT if turn > 1 / 3 else STAY
        rew = self._game.make_action(_BUTTONS[int(action)], self.frame_skip)
        done = self._game.is_episode_finished()
        terminated = done and self._game.is_player_dead()
        if not done:  # there is no state after the end: the last frame stands for it
            self._frame = self._game.get_state().screen_buffer
        return self._obs(), float(rew), terminated, done and not terminated, {}

    def render(self) -> np.ndarray:
        """The uncropped frame: uint8 [120, 160, 3]."""
        return self._frame.copy()

    def close(self) -> None:
        """End the game's process and remove its folder."""
        self._game.close()
        self._folder.cleanup()

    def _obs(self) -> dict[str, np.ndarray]:
        rows = slice(36, 100) if self.crop == "room" else slice(0, 100)
        return {"image": resize(self._frame[rows], 64)}


def options(name: str) -> dict[str, Any]:
    """Option -> default."""
    return option_defaults(TakeCover)


def make(name: str, mode: str = "train", obs: str = "auto", **options) -> gym.Env:
    """Build the game; there are only pixels."""
    pixels_only(name, obs)
    return TakeCover(**options)
