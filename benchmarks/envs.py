"""Env steps per CPU-second, alone and in batches, resets included: benchmarks/speed/envs.json.

CPU time of the whole process (all its threads), so that a busy machine disturbs little; median of three
runs. python -m benchmarks.envs about a minute, one thread
"""

import json
import platform
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from common.envs.car_racing import make_car_racing, make_car_racing_pool
from common.envs.toys import ToyEnv, ToyVectorEnv, toy_core
from common.errors import UserError

FILE = Path(__file__).parent / "speed" / "envs.json"
SECONDS, RUNS = 0.6, 3  # CPU time of each run
PAPER = {"size": 64, "crop": True}  # paper 1's picture

TOYS: list[tuple[str, dict[str, Any]]] = [
    ("toy_dodge", {}),
    ("toy_catch", {"size": 32, "gray": True}),
    ("toy_catch", {"grid": 4, "drops": 1, "size": 16}),
    ("toy_point", {"size": 32}),
    ("toy_simple_world", {"size": 64}),
    ("toy_simple_world", {"actions": "discrete", "terminal": True, "size": 16}),
]


def single(make: Callable[[], gym.Env], seed: int = 0) -> Callable[[], int]:
    """A function that plays one step and returns 1 (the number of env steps)."""
    env = make()
    env.reset(seed=seed)
    env.action_space.seed(seed)
    actions = [env.action_space.sample() for _ in range(256)]
    count = 0

    def step() -> int:
        nonlocal count
        count += 1
        _, _, terminated, truncated, _ = env.step(actions[count % 256])
        if terminated or truncated:
            env.reset()
        return 1

    return step


def batch(make: Callable[[], gym.vector.VectorEnv], seed: int = 0) -> Callable[[], int]:
    """The same for a vector env: returns the number of games."""
    env = make()
    env.reset(seed=seed)
    env.action_space.seed(seed)
    actions = [env.action_space.sample() for _ in range(32)]
    count = 0

    def step() -> int:
        nonlocal count
        count += 1
        env.step(actions[count % 32])
        return env.num_envs

    return step


def rate(step: Callable[[], int]) -> float:
    """Env steps per CPU-second, median of the runs."""
    for _ in range(20):
        step()
    rates = []
    for _ in range(RUNS):
        steps, start = 0, time.process_time()
        while time.process_time() - start < SECONDS:
            steps += sum(step() for _ in range(8))
        rates.append(steps / (time.process_time() - start))
    return float(np.median(rates))


def cases() -> list[tuple[str, Callable[[], Callable[[], int]]]]:
    """(name, a function that builds the stepper) in the order of the table."""
    found: list = []
    for name, options in TOYS:
        label = f"{name}({', '.join(f'{k}={v}' for k, v in options.items())})"
        core = toy_core(name)
        found.append((f"{label} alone", lambda c=core, o=options: single(lambda: ToyEnv(c, **o))))
        found.append((f"{label} x64", lambda c=core, o=options: batch(lambda: ToyVectorEnv(c, 64, **o))))
    original = lambda: single(lambda: gym.make("CarRacing-v3", disable_env_checker=True))  # noqa: E731
    found.append(("CarRacing-v3, gymnasium 96", original))
    for label, options in (
        ("stock 64 cropped", {"render": "stock", **PAPER}),
        ("exact 64 cropped", {"render": "exact", **PAPER}),
        ("fast 96", {}),
        ("fast 64", {"size": 64}),
        ("fast 64 cropped", PAPER),
        ("fast 64 cropped, action repeat 4 (actions)", {"action_repeat": 4, **PAPER}),
        ("fast 64 cropped, action repeat 8 (actions)", {"action_repeat": 8, **PAPER}),
    ):
        found.append((f"CarRacing-v3, {label}", lambda o=options: single(lambda: make_car_racing(**o))))
    for n, options in ((1, {}), (8, {}), (8, PAPER)):
        label = f"CarRacing-v3, envpool {'64 cropped' if options else '96'} x{n}"
        found.append(
            (label, lambda n=n, o=options: batch(lambda: make_car_racing_pool(n, threads=1, **o))),
        )
    return found


def main() -> None:
    results: dict[str, float | None] = {}
    for label, build in cases():
        try:
            results[label] = round(rate(build()))
        except UserError as error:  # EnvPool is optional
            results[label] = None
            print(f"{label}: {error}")
            continue
        print(f"{label:62} {results[label]:>12,}")
    packages = {}
    for name in ("numpy", "gymnasium", "pygame-ce", "box2d", "envpool"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    FILE.parent.mkdir(exist_ok=True)
    about = "env steps per CPU-second, random actions, resets included; written by benchmarks/envs.py"
    machine = {"processor": processor(), "python": platform.python_version(), "packages": packages}
    FILE.write_text(
        json.dumps({"about": about, "machine": machine, "steps_per_cpu_second": results}, indent=1) + "\n"
    )


def processor() -> str:
    """The name of the CPU, as far as the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


if __name__ == "__main__":
    main()
