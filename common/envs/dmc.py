"""DeepMind Control: `dmc_<domain>_<task>`, from pixels, from proprioception, or both.

One `mujoco.Renderer` is kept for the whole life of an env.  With its default flags it draws exactly what
dm_control's `physics.render` draws; `render_quality="fast"` leaves out shadow, reflection and multisampling:
17-25 times faster on a CPU (mean difference 7/255), for presets without a GPU.
Sources: dm_control suite; action repeat 2 and camera 0 (quadruped 2) as in DreamerV1 and V2.
"""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from common.envs import headless
from common.envs.wrappers import option_defaults
from common.errors import UserError

TASKS = {  # written out, so that a name can be checked without importing dm_control; a test compares
    "acrobot": "swingup swingup_sparse",
    "ball_in_cup": "catch",
    "cartpole": "balance balance_sparse swingup swingup_sparse three_poles two_poles",
    "cheetah": "run",
    "dog": "fetch run stand trot walk",
    "finger": "spin turn_easy turn_hard",
    "fish": "swim upright",
    "hopper": "hop stand",
    "humanoid": "run run_pure_state stand walk",
    "humanoid_CMU": "run stand walk",
    "lqr": "lqr_2_1 lqr_6_2",
    "manipulator": "bring_ball bring_peg insert_ball insert_peg",
    "pendulum": "swingup",
    "point_mass": "easy hard",
    "quadruped": "escape fetch run walk",
    "reacher": "easy hard",
    "stacker": "stack_2 stack_4",
    "swimmer": "swimmer15 swimmer6",
    "walker": "run stand walk",
}
_SPLIT = {f"dmc_{domain}_{task}": (domain, task) for domain in TASKS for task in TASKS[domain].split()}
_SPLIT["dmc_cup_catch"] = ("ball_in_cup", "catch")  # the papers' short name


def names() -> list[str]:
    """All task names."""
    return list(_SPLIT)


def canonical(name: str) -> str:
    """The spelling under which scores are stored."""
    return "dmc_" + "_".join(_SPLIT[name])


def can_terminate(name: str, **options) -> bool:
    """The time limit is the only end in the tasks of the papers."""
    return False


class Dmc(gym.Env):
    """One task: "image" uint8 [size, size, 3] and/or "vector_<part>" float32 [D]; native action bounds."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}

    def __init__(
        self,
        domain: str,
        task: str,
        obs: str = "auto",
        *,
        action_repeat: int = 2,
        size: int = 64,
        camera: int | None = None,
        render_quality: str = "full",
    ):
        if render_quality not in ("full", "fast"):
            raise UserError(f"render_quality={render_quality!r} is not possible: choose full or fast")
        self.pixels, self.vectors = obs in ("auto", "pixels", "both"), obs in ("vector", "both")
        if self.pixels:
            headless.require_mujoco_drawing(f"dmc_{domain}_{task}")
        from dm_control import suite

        # A few tasks build their model at random: the same model in every env, other episodes by the seed.
        self._env = suite.load(domain, task, task_kwargs={"random": 0})
        self.action_repeat, self.size, self.quality = action_repeat, size, render_quality
        self.camera = {"quadruped": 2}.get(domain, 0) if camera is None else camera
        self._renderers = {}
        action = self._env.action_spec()
        self.action_space = spaces.Box(
            action.minimum.astype(np.float32), action.maximum.astype(np.float32), dtype=np.float32
        )
        layout = {}
        if self.pixels:
            layout["image"] = spaces.Box(0, 255, (size, size, 3), np.uint8)
        for key, spec in self._env.observation_spec().items() if self.vectors else ():
            layout[f"vector_{key}"] = spaces.Box(-np.inf, np.inf, (int(np.prod(spec.shape)),), np.float32)
        self.observation_space = spaces.Dict(layout)
        self.render_mode = "rgb_array"

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Start an episode -> obs, info."""
        fresh = seed is not None or self._np_random is None
        super().reset(seed=seed)
        if fresh:
            self._env.task.random.seed(int(self.np_random.integers(2**32)))
        return self._obs(self._env.reset()), {}

    def step(self, action):
        """Play the action action_repeat times -> obs, summed rew, terminated, truncated, info."""
        rew = 0.0
        for _ in range(self.action_repeat):
            now = self._env.step(action)
            rew += float(now.reward or 0.0)
            if now.last():
                break
        terminated = now.last() and now.discount == 0.0  # a time limit keeps discount 1
        return self._obs(now), rew, terminated, now.last() and not terminated, {}

    def render(self) -> np.ndarray:
        """A larger picture in full quality, for videos: uint8 [240, 240, 3]."""
        headless.require_mujoco_drawing("this video")
        return self._draw(240, "full")

    def close(self) -> None:
        """Free the GL contexts."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers = {}

    def _obs(self, now) -> dict[str, np.ndarray]:
        obs = {"image": self._draw(self.size, self.quality)} if self.pixels else {}
        for key, value in now.observation.items() if self.vectors else ():
            obs[f"vector_{key}"] = np.array(value, np.float32).ravel()  # scalars become [1]
        return obs

    def _draw(self, size: int, quality: str) -> np.ndarray:
        if (size, quality) not in self._renderers:
            self._renderers[size, quality] = self._renderer(size, quality)
        renderer = self._renderers[size, quality]
        renderer.update_scene(self._env.physics.data.ptr, camera=self.camera)
        return renderer.render()

    def _renderer(self, size: int, quality: str):
        import mujoco

        model = self._env.physics.model.ptr
        samples = model.vis.quality.offsamples
        view = model.vis.global_
        view.offwidth, view.offheight = max(view.offwidth, size), max(view.offheight, size)
        if quality == "fast":
            model.vis.quality.offsamples = 0  # read when the context is made
        renderer = mujoco.Renderer(model, size, size)
        model.vis.quality.offsamples = samples
        if quality == "fast":
            renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
            renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        return renderer


def options(name: str) -> dict[str, Any]:
    """Option -> default."""
    return option_defaults(Dmc)


def make(name: str, mode: str = "train", obs: str = "auto", **options) -> gym.Env:
    """Build one task; obs=auto means pixels, as in the papers."""
    return Dmc(*_SPLIT[name], obs, **options)


def is_slow(obs: str = "auto", **options) -> bool:
    """Does a step cost well over 1 ms?  Full-quality pictures on a CPU do (about 20 ms)."""
    return obs != "vector" and options.get("render_quality", "full") == "full"
