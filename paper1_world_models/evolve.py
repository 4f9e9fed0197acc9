"""CMA-ES for the controller (paper 1, appendix A.4): ask for candidates, play, tell their mean returns.

pycma does the mathematics; this file turns it to maximisation, keeps it going on flat fitness, and makes
its state a plain dict that a checkpoint can hold (pycma itself only pickles).

Shapes: P candidates of n numbers, R rollouts each, Z latents, D hidden units, F features.
"""

import cma
import numpy as np
import torch
from torch import Tensor

from common.seeding import derive
from paper1_world_models.config import EvolveConfig
from paper1_world_models.controller import Controller

# pycma ends a run when all fitness values are equal, which happens while every dream reaches the cap (or
# none does).
NEVER_STOP = dict(
    tolfun=0, tolfunhist=0, tolfunrel=0, tolx=0, tolflatfitness=10**9, tolstagnation=10**9, maxiter=np.inf
)


class Evolution:
    """A maximising CMA-ES whose whole state is `state_dict()`."""

    def __init__(self, size: int, population: int, sigma: float, seed: int):
        self.rng = np.random.default_rng(seed)
        options = {"popsize": population, "verbose": -9, "randn": self._randn, "seed": np.nan, **NEVER_STOP}
        self.es = cma.CMAEvolutionStrategy(np.zeros(size), sigma, options)
        self.generation = 0

    def _randn(self, *shape: int) -> np.ndarray:
        return self.rng.standard_normal(shape)

    def ask(self) -> np.ndarray:
        """-> candidates [P, n]"""
        # One triangle is the truth, and the eigenvectors are computed from it in every generation, so that
        # a resumed run, which has nothing but the triangle, goes on with the same bits.
        self._set_covariance(self._triangle())
        self.candidates = np.array(self.es.ask())
        return self.candidates

    def tell(self, returns: np.ndarray) -> None:
        """Mean return of each candidate, higher is better.  [P]"""
        self.es.tell(list(self.candidates), list(-np.asarray(returns, np.float64)))
        self.generation += 1

    @property
    def mean(self) -> np.ndarray:
        """The centre of the search distribution: the vector that is scored and saved.  [n]"""
        return np.array(self.es.mean)

    def state_dict(self) -> dict:
        """Numbers and arrays of the strategy; the covariance as one triangle (3 MB at 867 parameters)."""
        es, sm = self.es, self.es.sm
        numbers = {
            name: {
                k: v
                for k, v in vars(part).items()
                if _is_number(v) and k not in ("B", "D", "C", "dC", "pop_sorted", "ary")  # `ask` makes them
            }
            for name, part in (("es", es), ("sm", sm), ("sigma", es.adapt_sigma))
        }
        rng = self.rng.bit_generator.state["state"]
        return {
            "numbers": numbers,
            "covariance": self._triangle(),
            "rng": [str(rng["state"]), str(rng["inc"])],  # 128-bit integers
            "injected": [
                np.array(x) for x in es.pop_injection_directions
            ],  # what the next `ask` will contain
            "generation": self.generation,
        }

    def load_state_dict(self, state: dict) -> None:
        """The inverse, on an object made with the same size and population."""
        es, sm = self.es, self.es.sm
        es.tell(
            es.ask(), list(range(es.popsize))
        )  # a first generation makes the attributes that are set below
        for name, part in (("es", es), ("sm", sm), ("sigma", es.adapt_sigma)):
            for key, value in state["numbers"][name].items():
                setattr(part, key, value.numpy().copy() if isinstance(value, Tensor) else value)
        self._set_covariance(np.asarray(state["covariance"]))
        es.pop_injection_directions = [np.asarray(x) for x in state["injected"]]
        rng = self.rng.bit_generator.state
        rng["state"] = {"state": int(state["rng"][0]), "inc": int(state["rng"][1])}
        self.rng.bit_generator.state = rng
        self.generation = state["generation"]

    def _triangle(self) -> np.ndarray:
        return self.es.sm.C[np.tril_indices(len(self.es.sm.C))]

    def _set_covariance(self, triangle: np.ndarray) -> None:
        es, sm = self.es, self.es.sm
        C = np.zeros_like(sm.C)
        C[np.tril_indices(len(C))] = triangle
        sm.C[...] = C + np.tril(C, -1).T
        sm.last_update = sm.count_tell - 1  # so that it does not take itself for up to date
        sm.update_now(0)
        es.C, es.B, es.D = sm.C, sm.B, sm.D


def _is_number(value) -> bool:
    return isinstance(value, (bool, int, float, np.number)) or (
        isinstance(value, np.ndarray) and value.dtype.kind in "fi"
    )


class Basis:
    """From CMA-ES's vector y to the controller's flat parameters: params = scale @ y.

    plain: the same.  pca: y weighs the whitened first components of C's input on the random data, which is
    how far apart features matter; folded back into weights and bias, so the controller itself does not
    change (measured sheet: faster at first, no better at the end; the default where the controller sees
    dreams only).
    """

    def __init__(self, matrix: np.ndarray | None, size: int):
        self.matrix, self.size = matrix, size if matrix is None else matrix.shape[1]

    def __call__(self, y: np.ndarray) -> np.ndarray:
        """[..., m] -> [..., n]"""
        return y if self.matrix is None else y @ self.matrix.T

    @classmethod
    def pca(cls, features: np.ndarray, controller: Controller, components: int = 32) -> "Basis":
        """From features [N, F] of real data, for a linear controller with a bias."""
        mean = features.mean(0)
        values, vectors = np.linalg.eigh(np.cov(features.T))
        top = np.argsort(values)[::-1][: min(components, len(values))]
        white = vectors[:, top] / np.sqrt(np.maximum(values[top], 0) + 1e-3)  # [F, m]
        (n_in, n_out), m = controller.layers[0], white.shape[1]
        matrix = np.zeros((controller.size, n_out * (m + 1)))
        for o in range(n_out):  # weights of output o, then its bias minus what centring takes away
            matrix[o * n_in : (o + 1) * n_in, o * m : (o + 1) * m] = white
            matrix[n_out * n_in + o, o * m : (o + 1) * m] = -mean @ white
            matrix[n_out * n_in + o, n_out * m + o] = 1.0
        return cls(matrix, controller.size)


def training_seed(*keys: int | str) -> int:
    """A seed for an episode that trains something.  0..9,999 are kept for eval.py, 2e9 and up for
    `held_out_seeds`."""
    return 10_000 + derive(*keys) % 10**9


def generation_seeds(cfg: EvolveConfig, seed: int, iteration: int, generation: int) -> list[int]:
    """New episode seeds for every generation, the same for all its candidates (common random numbers)."""
    return [training_seed(seed, "evolve", iteration, generation, r) for r in range(cfg.rollouts)]


def held_out_seeds(episodes: int) -> list[int]:
    """Seeds for scores during the run."""
    return [2 * 10**9 + i for i in range(episodes)]


def as_tensor(params: np.ndarray) -> Tensor:
    """Flat parameters for `Controller.act_many`.  [P, n] float32"""
    return torch.as_tensor(np.atleast_2d(params), dtype=torch.float32)
