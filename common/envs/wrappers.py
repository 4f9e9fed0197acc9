"""What turns any Gymnasium env into the one shape that the papers see.

Observations: a Dict with keys `image*` (uint8 [H, W, C]) and `vector*` (float32 [D]).
Actions: Discrete from 0, MultiDiscrete, or a flat Box in [-1, 1] (the env's own bounds on request).
Letters: H W C picture, D vector size, A action size.
"""

import inspect
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv
from gymnasium.wrappers.vector import TransformAction
from PIL import Image

from common.envs.toys import coverage
from common.errors import UserError

OBS = ("auto", "vector", "pixels", "both")


@cache
def _area_weights(old: int, new: int) -> np.ndarray:
    """Share of every old pixel in every new one: [new, old], rows sum to 1."""
    width = old / new
    return coverage(np.arange(new) * width, width, old) / np.float32(width)


def resize(image: np.ndarray, size: int | tuple[int, int], how: str = "area") -> np.ndarray:
    """uint8 [H, W, C] -> uint8 [h, w, C] by exact area average, or Pillow's (antialiased) bilinear filter."""
    h, w = (size, size) if isinstance(size, int) else size
    old_h, old_w, channels = image.shape
    if (h, w) == (old_h, old_w):
        return image.copy()
    if how == "bilinear":
        picture = Image.fromarray(image[..., 0] if channels == 1 else image)
        return np.asarray(picture.resize((w, h), Image.Resampling.BILINEAR)).reshape(h, w, channels).copy()
    if how != "area":
        raise UserError(f"resize={how!r} is not possible: choose area or bilinear")
    # Not Pillow's BOX: that takes whole pixels only, off by up to 30/255 where the ratio is no integer.
    rows = _area_weights(old_h, h) @ image.reshape(old_h, -1).astype(np.float32)  # [h, W * C]
    rows = np.ascontiguousarray(rows.reshape(h, old_w, channels).transpose(0, 2, 1))  # [h, C, W]
    small = rows.reshape(-1, old_w) @ _area_weights(old_w, w).T  # [h * C, w]
    small = (small + 0.5).astype(np.uint8).reshape(h, channels, w)
    return np.ascontiguousarray(small.transpose(0, 2, 1))


def option_defaults(make: Callable) -> dict[str, Any]:
    """The options of an env class or maker: its parameters that have a default -> that default."""
    parameters = inspect.signature(make).parameters.values()
    reserved = ("mode", "obs", "render_mode")
    return {p.name: p.default for p in parameters if p.default is not p.empty and p.name not in reserved}


def pixels_only(name: str, obs: str) -> None:
    """Refuse vectors from an env that has none."""
    if obs not in ("auto", "pixels"):
        raise UserError(f"{name} has only pixels: obs={obs!r} is not possible, leave it at auto")


def is_image(space: spaces.Space) -> bool:
    """uint8 [H, W] or [H, W, C] with C of 1, 3 or 4 counts as a picture; everything else as a vector."""
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8:
        return False
    return len(space.shape) == 2 or (len(space.shape) == 3 and space.shape[-1] in (1, 3, 4))


class DictObservation(gym.ObservationWrapper, RecordConstructorArgs):
    """Any observation -> {"image*": uint8 [H, W, C], "vector*": float32 [D]}.

    obs: `auto` all there is; `vector` or `pixels` only that; `both`.  Pixels of an env without a picture are
    its `render()`.  size: pictures are resized to size x size.  Text (MiniGrid's mission) is dropped.
    """

    def __init__(self, env: gym.Env, obs: str = "auto", size: int | None = None, resize: str = "area"):
        RecordConstructorArgs.__init__(self, obs=obs, size=size, resize=resize)
        gym.ObservationWrapper.__init__(self, env)
        space = env.observation_space
        parts = dict(space.spaces) if isinstance(space, spaces.Dict) else {"": space}
        images = {key: part for key, part in parts.items() if is_image(part)}
        vectors = {k: p for k, p in parts.items() if k not in images and not isinstance(p, spaces.Text)}
        name = env.spec.id if env.spec else str(env.unwrapped)
        if obs == "vector" and not vectors:
            raise UserError(f"{name} has no vector observation: use obs=pixels (or auto)")
        self._fields: list[tuple[str, str, Callable]] = []  # our key, the env's key, what to do with it
        layout = {}
        for key, part in vectors.items() if obs != "pixels" else ():
            ours = _key("vector", key)
            length = spaces.flatdim(part)
            # The bounds are left open: no paper uses them, and float32 rounding would break tight ones.
            layout[ours] = spaces.Box(-np.inf, np.inf, (length,), np.float32)
            self._fields.append((ours, key, partial(_flat, part)))
        if obs in ("pixels", "both") and not images:
            if env.render_mode != "rgb_array":
                raise UserError(
                    f"{name} cannot be drawn: obs={obs} needs an env with render_mode='rgb_array'"
                )
            images = {"": None}
            size = size or 64
        for key, part in images.items() if obs != "vector" else ():
            ours = _key("image", key)
            h, w, c = (*part.shape, 1)[:3] if part is not None else (None, None, 3)
            h, w = (size, size) if size else (h, w)
            layout[ours] = spaces.Box(0, 255, (h, w, c), np.uint8)
            self._fields.append(
                (ours, key if part is not None else None, partial(_picture, (h, w), c, resize))
            )
        self.observation_space = spaces.Dict(layout)
        self.metadata = {
            **env.metadata,
            "render_modes": ["rgb_array"],
        }  # the only mode these envs are built in

    def observation(self, observation):
        """Translate one observation of the env below."""
        parts = observation if isinstance(observation, dict) else {"": observation}
        return {
            ours: convert(self.env.render() if key is None else parts[key])
            for ours, key, convert in self._fields
        }


def _key(kind: str, key: str) -> str:
    return key if key.startswith(kind) else f"{kind}_{key}".rstrip("_")


def _flat(space: spaces.Space, value) -> np.ndarray:
    """Any value -> float32 [D]; Discrete becomes one-hot."""
    return spaces.flatten(space, value).astype(np.float32)


def _picture(size: tuple[int, int], channels: int, how: str, image: np.ndarray) -> np.ndarray:
    image = np.asarray(image, np.uint8)
    return resize(image.reshape(*image.shape[:2], -1)[..., :channels], size, how)


class PlainActions(gym.ActionWrapper, RecordConstructorArgs):
    """Box -> flat float32 [A] in [-1, 1] (or native bounds); Discrete from 0; MultiBinary -> MultiDiscrete.

    A Box without bounds cannot be scaled and is refused.
    """

    def __init__(self, env: gym.Env, native: bool = False):
        RecordConstructorArgs.__init__(self, native=native)
        gym.ActionWrapper.__init__(self, env)
        space, self.native = env.action_space, native
        if isinstance(space, spaces.Box):
            low, high = space.low.ravel().astype(np.float32), space.high.ravel().astype(np.float32)
            if not native:
                if not (np.isfinite(low).all() and np.isfinite(high).all()):
                    raise UserError(f"{env} has actions without bounds, {space}: give its Box finite bounds")
                self._middle, self._half = (high + low) / 2, (high - low) / 2
                low, high = -np.ones_like(low), np.ones_like(high)
            self.action_space = spaces.Box(low, high, dtype=np.float32)
        elif isinstance(space, spaces.Discrete):
            self.action_space = spaces.Discrete(space.n)
        elif isinstance(space, spaces.MultiBinary):
            self.action_space = spaces.MultiDiscrete([2] * int(np.prod(space.shape)))
        elif not isinstance(space, spaces.MultiDiscrete):
            raise UserError(
                f"{env} has actions {space}: allowed are Box, Discrete, MultiDiscrete, MultiBinary"
            )

    def action(self, action):
        """Our action -> the env's own."""
        space = self.env.action_space
        if isinstance(space, spaces.Box):
            if not self.native:
                action = self._middle + self._half * np.clip(action, -1, 1)
            action = np.clip(np.reshape(action, space.shape), space.low, space.high)
            return action.astype(space.dtype)
        if isinstance(space, spaces.Discrete):
            return int(action) + int(space.start)
        return np.reshape(action, space.shape).astype(space.dtype)


def plain_actions(env: gym.Env, native: bool = False) -> gym.Env:
    """PlainActions around the env, unless its actions are plain already."""
    space = env.action_space
    if isinstance(space, spaces.MultiDiscrete) or (isinstance(space, spaces.Discrete) and space.start == 0):
        return env
    return PlainActions(env, native)


def plain_vector_actions(env: VectorEnv, native: bool = False) -> VectorEnv:
    """A batched env whose Box actions are in [-1, 1], unless the native bounds are wanted."""
    space = env.single_action_space
    if native or not isinstance(space, spaces.Box) or (np.all(space.low == -1) and np.all(space.high == 1)):
        return env
    middle, half = (space.high + space.low) / 2, (space.high - space.low) / 2
    plain = spaces.Box(-1, 1, space.shape, np.float32)
    return TransformAction(env, lambda act: middle + half * np.clip(act, -1, 1), None, plain)


class ActionRepeat(gym.Wrapper, RecordConstructorArgs):
    """Every action is played `repeat` times (fewer where the episode ends); rewards are summed."""

    def __init__(self, env: gym.Env, repeat: int):
        RecordConstructorArgs.__init__(self, repeat=repeat)
        gym.Wrapper.__init__(self, env)
        self.repeat = repeat

    def step(self, action):
        """Play the action -> last obs, summed rew, terminated, truncated, last info."""
        total = 0.0
        for _ in range(self.repeat):
            obs, rew, terminated, truncated, info = self.env.step(action)
            total += float(rew)
            if terminated or truncated:
                break
        return obs, total, terminated, truncated, info
