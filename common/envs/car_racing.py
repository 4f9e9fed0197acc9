"""CarRacing-v3 for world models: Dict observations, crop and size of the paper, fast pictures, action repeat.

`make_car_racing` gives one env, drawn by Gymnasium (`render="stock"`), with the same bits in a third of the
time (`"exact"`), or by our light renderer (`"fast"`: the same physics, mean pixel difference under 1/255, ten
times faster). `make_car_racing_pool` steps many in
C++ through EnvPool, where that package is installed: other tracks for the same seed, else alike.
`crop=True, size=64` is paper 1's picture: the 12-row strip of indicators is cut off, and the remaining 84 x
96 pixels are resized to 64 x 64. Shapes: H W picture, n envs.
"""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from common.envs.toys import check_choice
from common.envs.wrappers import resize
from common.errors import UserError

STATE, ROAD_ROWS = 96, 84  # side of the stock picture; its rows above the strip
MAX_STEPS = 1_000  # frames, the limit of the registered id; the bare class has none
OFF_TRACK_REWARD = -100.0


class CarRacingEnv(gym.Env):
    """One car.  Actions: steer [-1, 1], gas [0, 1], brake [0, 1], or Discrete(5) with `continuous=False`.

    `info`: `lap_finished` (all tiles visited; leaving the field ends it too), `tiles_visited` (share).
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 50}

    def __init__(
        self,
        *,
        render: str = "fast",
        size: int = STATE,
        crop: bool = False,
        start: str = "line",
        action_repeat: int = 1,
        continuous: bool = True,
        max_steps: int = MAX_STEPS,
    ):
        """`start="random"`: any tile, for data collection.  `action_repeat` draws the last frame only."""
        check_options(render, size, start, action_repeat)
        track, fast, exact = load_box2d()
        self.size, self.crop, self.action_repeat, self.max_steps = size, crop, action_repeat, max_steps
        self.render_mode = "rgb_array"
        self._resize = render != "fast" and (size != STATE or crop)
        renderer = fast(size, crop) if render == "fast" else exact() if render == "exact" else None
        self.core = track(
            renderer,
            random_start=start == "random",
            continuous=continuous,
        )
        self.action_space = self.core.action_space
        self.observation_space = spaces.Dict({"image": spaces.Box(0, 255, (size, size, 3), np.uint8)})
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """A new track -> obs, info.  The picture is the one after a first, free frame, as in Gymnasium."""
        super().reset(seed=seed)
        self.core.np_random = self.np_random  # one generator, so that Gymnasium's seeding checks hold
        self._steps, self.core.drawing = 0, True
        image, _ = self.core.reset()
        return self._obs(image), self._info(False)

    def step(self, action: Any):
        """Hold `action` for `action_repeat` frames -> obs, summed rew, terminated, truncated, info."""
        if self.core.car is None:
            raise gym.error.ResetNeeded("call reset() before step()")
        rew, lap_finished, terminated, truncated = 0.0, False, False, False
        for frame in range(self.action_repeat):
            self._steps += 1
            truncated = self._steps >= self.max_steps
            self.core.drawing = truncated or frame == self.action_repeat - 1
            image, frame_rew, terminated, _, info = self.core.step(action)
            rew += float(frame_rew)
            lap_finished = bool(info.get("lap_finished", False))
            if terminated or truncated:
                break
        if image is None:  # the episode ended inside the repeat, in a frame that was not going to be seen
            self.core.drawing = True
            image = self.core._render("state_pixels")
        return self._obs(image), rew, terminated, truncated and not terminated, self._info(lap_finished)

    def render(self) -> np.ndarray:
        """The stock picture for videos, whatever the renderer: uint8 [400, 600, 3]."""
        return self.core._render("rgb_array")

    def close(self) -> None:
        self.core.close()

    def _obs(self, image: np.ndarray) -> dict[str, np.ndarray]:
        return {"image": shrink(image, self.size, self.crop) if self._resize else image}

    def _info(self, lap_finished: bool) -> dict[str, Any]:
        visited = self.core.tile_visited_count / len(self.core.track)
        return {"lap_finished": lap_finished, "tiles_visited": visited}


class CarRacingPool(VectorEnv):
    """n cars stepped by EnvPool's threads, NEXT_STEP autoreset (its own).  Continuous actions, no repeat.

    EnvPool is seeded when it is built, so reset(seed=s) builds it anew; its tracks are not Gymnasium's.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(
        self,
        num_envs: int,
        *,
        size: int = STATE,
        crop: bool = False,
        threads: int = 0,
        max_steps: int = MAX_STEPS,
    ):
        check_options("fast", size, "line", 1)
        self.num_envs, self.size, self.crop = num_envs, size, crop
        self._options = {"num_envs": num_envs, "num_threads": threads, "max_episode_steps": max_steps}
        self._resize = size != STATE or crop
        self._pool: Any = None
        image = spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.single_observation_space = spaces.Dict({"image": image})
        low, high = np.array([-1, 0, 0], np.float32), np.ones(3, np.float32)
        self.single_action_space = spaces.Box(low, high)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.render_mode = None
        load_envpool()  # fail here, not at the first reset

    def reset(self, *, seed: int | Sequence[int] | None = None, options: dict | None = None):
        """Start all cars; without a seed the running pool goes on with new tracks."""
        if seed is not None or self._pool is None:
            if self._pool is not None:
                self._pool.close()
            if seed is None or isinstance(seed, int | np.integer):
                first = np.random.SeedSequence().entropy if seed is None else seed
                seed = [first + i for i in range(self.num_envs)]  # as Gymnasium's vector envs do
            seeds = [int(s) % 2**31 for s in seed]
            self._pool = load_envpool().make_gymnasium("CarRacing-v3", env_seed=seeds, **self._options)
        images, _ = self._pool.reset()
        return self._obs(images), {}

    def step(self, actions: np.ndarray):
        """One frame -> obs, rew [n], terminated [n], truncated [n], infos with `lap_finished` [n]."""
        images, rew, terminated, truncated, _ = self._pool.step(np.asarray(actions, np.float32))
        truncated = truncated & ~terminated
        lap_finished = terminated & (rew > OFF_TRACK_REWARD / 2)
        return self._obs(images), rew, terminated, truncated, {"lap_finished": lap_finished}

    def close_extras(self, **kwargs: Any) -> None:
        if self._pool is not None:
            self._pool.close()

    def _obs(self, images: np.ndarray) -> dict[str, np.ndarray]:
        if self._resize:
            return {"image": np.stack([shrink(image, self.size, self.crop) for image in images])}
        return {"image": images.copy()}  # EnvPool may reuse its buffer


def make_car_racing(
    render: str = "fast", size: int = STATE, crop: bool = False, start: str = "line", **options
):
    """CarRacing-v3 with Dict observations {"image": uint8 [size, size, 3]}; options as in `CarRacingEnv`."""
    return CarRacingEnv(render=render, size=size, crop=crop, start=start, **options)


def make_car_racing_pool(num_envs: int, size: int = STATE, crop: bool = False, **options) -> CarRacingPool:
    """num_envs CarRacing-v3 through EnvPool; options as in `CarRacingPool`."""
    return CarRacingPool(num_envs, size=size, crop=crop, **options)


def check_options(render: str, size: int, start: str, action_repeat: int) -> None:
    """Raise a UserError that names the first wrong option."""
    check_choice("render", render, ("stock", "exact", "fast"))
    check_choice("start", start, ("line", "random"))
    if not 16 <= size <= STATE:
        raise UserError(f"size={size} is not possible: from 16 to {STATE}, usually 64 or 96")
    if action_repeat < 1:
        raise UserError(f"action_repeat={action_repeat} is not possible: 1 or more")


def load_box2d() -> tuple[type, type, type]:
    """The Track, FastRenderer and ExactRenderer classes; a UserError names the missing package."""
    try:
        from common.envs.car_racing_exact import ExactRenderer
        from common.envs.car_racing_fast import FastRenderer, Track
    except (ImportError, gym.error.DependencyNotInstalled) as error:
        raise UserError(
            f'CarRacing needs Box2D and pygame ({error}): pip install "gymnasium[box2d]"'
        ) from error
    return Track, FastRenderer, ExactRenderer


def load_envpool() -> Any:
    """The envpool module; a UserError names the missing package."""
    try:
        import envpool
    except ImportError as error:
        raise UserError(f"the EnvPool backend needs envpool ({error}): pip install envpool") from error
    return envpool


def shrink(image: np.ndarray, size: int, crop: bool) -> np.ndarray:
    """Cut the strip off if `crop`, then resize by area: uint8 [96, 96, 3] -> [size, size, 3]."""
    return resize(image[:ROAD_ROWS] if crop else image, size)
