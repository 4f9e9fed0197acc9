"""An installed sheeprl's DreamerV1 or V2 at the sizes of dreamer_update.py, which starts this and drives it.

    PYTHON -m benchmarks.sheeprl_update dreamer_v1|dreamer_v2

PYTHON is one that has sheeprl (pip install sheeprl), no matter which packages of ours.  It says its version
and how many parameters the update trains, then answers each line it reads with the CPU-seconds and seconds of
one update.  Batches are random; replay, environments and logging are left out, as they are for ours.
"""

import json
import os
import sys
import time
from importlib import import_module
from importlib.metadata import version

os.environ["OMP_NUM_THREADS"] = "1"

import gymnasium as gym
import hydra
import numpy as np
import torch
from lightning.fabric import Fabric
from omegaconf import OmegaConf
from sheeprl.utils.utils import dotdict

DMC = (10, (3, 64, 64), 6, True, ())  # batch, picture, actions, continuous, flags
ATARI = (4, (1, 64, 64), 18, False, ("algo.world_model.use_continues=True", "algo.gamma=0.999"))
SIZES = {"dreamer_v1": DMC, "dreamer_v2": ATARI}
LENGTH = 50


def build(name: str):
    """The function that does one update, and the number of parameters that it trains."""
    batch, picture, act, continuous, flags = SIZES[name]
    overrides = [
        f"exp={name}",
        "env=dummy",
        f"algo.per_rank_batch_size={batch}",
        "metric.log_level=0",
        *flags,
    ]
    with hydra.initialize_config_module("sheeprl.configs", version_base="1.3"):
        composed = hydra.compose("config", overrides=[*overrides, f"algo.per_rank_sequence_length={LENGTH}"])
    OmegaConf.set_struct(composed, False)
    composed.pop("hydra", None)  # can only be resolved inside a job of hydra's
    cfg = dotdict(OmegaConf.to_container(composed, resolve=True))
    torch.distributions.Distribution.set_default_validate_args(
        cfg.distribution.validate_args
    )  # as its cli does
    fabric = Fabric(accelerator="cpu", devices=1)
    spaces = gym.spaces.Dict({"rgb": gym.spaces.Box(0, 255, picture, np.uint8)})
    algo = import_module(f"sheeprl.algos.{name}.{name}")
    *networks, _ = algo.build_agent(fabric, (act,), continuous, cfg, spaces)
    trained = dict(zip(("world_model", "actor", "critic"), networks, strict=False))
    make = getattr(algo, "build_optimizer", None) or instantiate
    optimizers = [make(cfg.algo[part].optimizer, net.parameters()) for part, net in trained.items()]
    optimizers = fabric.setup_optimizers(*optimizers)

    act_data = torch.rand(LENGTH, batch, act) * 2 - 1 if continuous else one_hot(batch, act)
    data = {"rgb": torch.randint(0, 256, (LENGTH, batch, *picture)).float(), "actions": act_data}
    data["rewards"] = torch.randn(LENGTH, batch, 1)
    data |= {key: torch.zeros(LENGTH, batch, 1) for key in ("terminated", "truncated", "is_first")}
    extra = () if name == "dreamer_v1" else ((act,),)
    count = sum(p.numel() for net in trained.values() for p in net.parameters() if p.requires_grad)
    return lambda: algo.train(fabric, *networks, *optimizers, dict(data), None, cfg, *extra), count


def instantiate(config: dict, params):
    """As sheeprl's DreamerV1 makes its optimisers."""
    return hydra.utils.instantiate(config, params=params, _convert_="all")


def one_hot(batch: int, act: int) -> torch.Tensor:
    """Random discrete actions.  [T, B, A]"""
    return torch.nn.functional.one_hot(torch.randint(act, (LENGTH, batch)), act).float()


def main() -> None:
    torch.set_num_threads(1)
    update, count = build(sys.argv[1])
    update()
    print(json.dumps([version("sheeprl"), count]), flush=True)
    for _ in sys.stdin:
        cpu, wall = time.process_time(), time.perf_counter()
        update()
        print(json.dumps([time.process_time() - cpu, time.perf_counter() - wall]), flush=True)


if __name__ == "__main__":
    main()
