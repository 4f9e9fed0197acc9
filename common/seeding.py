"""Randomness that can be repeated: one seed for a run, derived seeds for its parts, generator states.

`derive(seed, "env", 3)` gives independent seeds for workers, environments and episodes: those of neighbours
(seed 0 worker 1, seed 1 worker 0) never meet, which `seed + worker` cannot say.  `rng_state` is what a
checkpoint keeps: it holds tensors, numbers, strings and lists only, and so loads with weights_only=True.
torch is imported where it is needed: the workers that only derive seeds start without it.
"""

import hashlib
import random
from typing import Any

import numpy as np


def derive(seed: int, *keys: int | str) -> int:
    """A seed in [0, 2^31) for the part that `keys` name, the same on every machine (numpy's SeedSequence)."""
    words = [seed]
    for key in keys:  # hash() of a string differs between processes; and 1 must not be "1"
        text = f"{type(key).__name__}:{key}".encode()
        words.append(int.from_bytes(hashlib.sha256(text).digest()[:8], "little"))
    return int(np.random.SeedSequence(words).generate_state(1, np.uint32)[0] >> 1)


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch (CPU and every GPU), each with its own derived seed."""
    import torch

    random.seed(derive(seed, "python"))
    np.random.seed(derive(seed, "numpy"))
    torch.manual_seed(derive(seed, "torch"))


def rng_state() -> dict[str, Any]:
    """The state of python's, numpy's and torch's global generators, as plain values and tensors."""
    import torch

    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": {"version": version, "words": torch.tensor(words, dtype=torch.int64), "gauss": gauss},
        "numpy": {
            "kind": kind,
            "keys": torch.from_numpy(keys.astype(np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Put the generators back to what `rng_state` saw; a state without GPUs leaves theirs alone."""
    import torch

    python, numpy = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    keys = numpy["keys"].numpy().astype(np.uint32)
    np.random.set_state((numpy["kind"], keys, numpy["position"], numpy["has_gauss"], numpy["cached"]))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.is_available():
        # A run that moves to a machine with fewer GPUs keeps the generators of those that are there.
        for device in range(min(len(state["cuda"]), torch.cuda.device_count())):
            torch.cuda.set_rng_state(state["cuda"][device].cpu(), device)


def generator_state(generator: np.random.Generator) -> dict[str, Any]:
    """The state of one numpy generator (PCG64 words are 128 bits wide: kept as strings)."""
    state = generator.bit_generator.state
    words = {name: str(value) for name, value in state["state"].items()}
    return {
        "kind": state["bit_generator"],
        "words": words,
        "has_uint32": int(state["has_uint32"]),
        "uinteger": int(state["uinteger"]),
    }


def set_generator_state(generator: np.random.Generator, state: dict[str, Any]) -> None:
    """Put a numpy generator back to what `generator_state` saw.  ValueError if it is of another kind."""
    kind = type(generator.bit_generator).__name__
    if state["kind"] != kind:
        raise ValueError(f"the state is of a {state['kind']}, the generator a {kind}")
    generator.bit_generator.state = {
        "bit_generator": kind,
        "state": {name: int(value) for name, value in state["words"].items()},
        "has_uint32": state["has_uint32"],
        "uinteger": state["uinteger"],
    }
