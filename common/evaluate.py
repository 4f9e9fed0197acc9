"""Playing episodes with any agent: batched, each with a seed of its own, none favoured for being short.

Episode k always has the env seed `seed + k`, however many envs play side by side, and every episode that was
started is counted: taking the first E that end instead would prefer short ones.
`eval_main` (common/scripts.py) is what each paper's eval.py runs.  Letters: N envs, E episodes, L rows.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

from common.agent import Agent
from common.dreams import Episode
from common.meters import cpu_seconds
from common.metrics import summarise

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

    from common.env_wrapper import EnvSpec

MAX_ENVS = 16  # side by side; toys are batched inside and take more
MAX_TOYS = 256


@dataclass
class Result:
    """What an evaluation measured, in the order of the seeds."""

    returns: np.ndarray  # [E]
    lengths: np.ndarray  # [E] policy steps
    seed: int  # of episode 0; episode k has seed + k
    infos: dict[str, np.ndarray] = field(default_factory=dict)  # numbers in the envs' last infos, [E]
    episodes: list[Episode] = field(default_factory=list)  # the first `record` ones, row by row
    wall_s: float = 0.0
    cpu_s: float = 0.0  # env worker processes included

    def score(self) -> dict:
        """Mean, sd, ci95, iqm, median, min, max, episodes, length: the `score` block of eval.json."""
        return summarise(self.returns, self.lengths)


def evaluate(
    agent: Agent,
    env: EnvSpec | None = None,
    episodes: int = 10,
    seed: int = 0,
    *,
    num_envs: int | None = None,
    backend: str = "auto",
    **kwargs: Any,
) -> Result:
    """Play episodes of `env` (without one the agent's own) in its eval mode; the rest as in `play`.

    An agent with `check_env(observation_space, action_space)` may refuse another env with a UserError.
    """
    from common.env_wrapper import suite_of  # not needed by `play`

    env = env or agent.env
    most = num_envs or (MAX_TOYS if suite_of(env.name) == "toy" else MAX_ENVS)
    rounds = -(-episodes // most)
    clock, cpu = time.perf_counter(), cpu_seconds()
    envs = env.make_vector(-(-episodes // rounds), "eval", backend=backend)  # equally full rounds
    try:
        if env != agent.env and hasattr(agent, "check_env"):
            agent.check_env(envs.single_observation_space, envs.single_action_space)
        result = play(agent, envs, episodes, seed, **kwargs)
    finally:
        envs.close()
    result.wall_s, result.cpu_s = time.perf_counter() - clock, cpu_seconds() - cpu
    return result


def play(
    agent: Agent,
    envs: VectorEnv,
    episodes: int,
    seed: int = 0,
    *,
    record: int = 0,
    explore: bool = False,
    max_steps: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Result:
    """`evaluate` on a ready vector env with NEXT_STEP autoreset.

    max_steps cuts episodes (for dreams, not for scores); progress(k) says that k episodes have ended.

    An env whose episode ended gets the next seed at once where single envs can be reset (Gymnasium's
    `reset_mask`), else when all have ended.  What it plays in between, after its autoreset, is not counted.
    """
    num, one_by_one = envs.num_envs, resets_one_by_one(envs)
    result = Result(np.zeros(episodes), np.zeros(episodes, np.int64), seed)
    infos: dict[str, np.ndarray] = defaultdict(lambda: np.full(episodes, np.nan))
    recorder = _Recorder(min(record, episodes))
    queue = list(range(episodes))
    job = np.full(num, -1)  # the episode that each env plays; -1: none that counts
    resetting = np.zeros(num, bool)  # envs that show a last observation: their next step is a reset
    is_first = np.ones(num, bool)
    obs, state, ended = None, agent.initial(num), 0
    while True:
        idle = np.flatnonzero(job < 0)
        if queue and (len(idle) == num or (one_by_one and len(idle))):
            fresh = idle[: len(queue)]
            job[fresh], queue = queue[: len(fresh)], queue[len(fresh) :]
            mask = np.isin(np.arange(num), fresh if obs is not None and one_by_one else np.arange(num))
            options = None if mask.all() else {"reset_mask": mask}
            obs, _ = envs.reset(seed=[seed + int(k) if k >= 0 else None for k in job], options=options)
            is_first, resetting = is_first | mask, resetting & ~mask
        act, state = agent.act({**obs, "is_first": is_first}, state, explore=explore)
        recorder.see(job, obs, is_first, act, envs)
        obs, rew, terminated, truncated, info = envs.step(act)
        is_first, resetting = resetting, terminated | truncated
        playing = np.flatnonzero(job >= 0)
        result.returns[job[playing]] += rew[playing]
        result.lengths[job[playing]] += 1
        over = resetting[playing]
        if max_steps is not None:
            over = over | (result.lengths[job[playing]] >= max_steps)
        recorder.arrive(job, obs, rew, terminated, playing[over], envs)
        for i in playing[over]:
            k = int(job[i])
            job[i] = -1
            if (
                "worker_restarted" in info and info["worker_restarted"][i]
            ):  # not the agent's end: play it again
                result.returns[k], result.lengths[k] = 0, 0
                recorder.forget(k)
                queue.insert(0, k)
                continue
            for name, value in numbers(info, i):
                infos[name][k] = value
            ended += 1
            if progress:
                progress(ended)
        if ended == episodes:
            result.infos, result.episodes = dict(infos), recorder.episodes(seed)
            return result


def resets_one_by_one(envs: VectorEnv) -> bool:
    """Whether reset(options={"reset_mask": [N] bool}) starts single envs anew, as Gymnasium's own do."""
    base = envs.unwrapped
    return isinstance(base, SyncVectorEnv | AsyncVectorEnv) or getattr(base, "resets_one_by_one", False)


def numbers(info: dict, i: int) -> list[tuple[str, float]]:
    """The entries of env i in a vector env's info that are single numbers; those in dicts as dict/name."""
    found = []
    for name, value in info.items():
        if isinstance(value, dict):
            found += [(f"{name}/{key}", number) for key, number in numbers(value, i)]
        if name.startswith("_") or not isinstance(value, np.ndarray) or value.ndim != 1:
            continue
        if value.dtype.kind in "biuf" and info.get(f"_{name}", np.ones(len(value), bool))[i]:
            found.append((name, float(value[i])))
    return found


class _Recorder:
    """Collects the stored rows of the first `count` episodes."""

    def __init__(self, count: int):
        self.rows: dict[int, list[dict]] = {k: [] for k in range(count)}
        self.rew: dict[int, float] = {}  # received on arriving at the row that is seen next

    def _add(self, k: int, i: int, obs: dict, envs: VectorEnv, **row: Any) -> None:
        pictures = {} if any(key.startswith("image") for key in obs) else _render(envs, i)
        self.rows[k].append({"obs": {key: np.array(v[i]) for key, v in obs.items()}, **row, **pictures})

    def see(self, job: np.ndarray, obs: dict, is_first: np.ndarray, act: np.ndarray, envs: VectorEnv) -> None:
        """Rows at which an action was chosen."""
        for i, k in enumerate(job):
            if k in self.rows:
                row = {"act": np.array(act[i]), "rew": self.rew.pop(k, 0.0), "is_first": bool(is_first[i])}
                self._add(k, i, obs, envs, **row, is_last=False, is_terminal=False)

    def arrive(self, job: np.ndarray, obs: dict, rew, terminated, over: np.ndarray, envs: VectorEnv) -> None:
        """Rewards, and the last rows, which have no action."""
        for i, k in enumerate(job):
            if k not in self.rows:
                continue
            self.rew[k] = float(rew[i])
            if i in over:
                row = {
                    "act": np.zeros_like(self.rows[k][-1]["act"]),
                    "rew": self.rew.pop(k),
                    "is_first": False,
                }
                self._add(k, i, obs, envs, **row, is_last=True, is_terminal=bool(terminated[i]))

    def forget(self, k: int) -> None:
        """Start episode k over."""
        if k in self.rows:
            self.rows[k] = []

    def episodes(self, seed: int) -> list[Episode]:
        """What was recorded, stacked."""
        result = []
        for k, rows in self.rows.items():
            obs = {key: np.stack([row["obs"][key] for row in rows]) for key in rows[0]["obs"]}
            names = ("act", "rew", "is_first", "is_last", "is_terminal")
            columns = {name: np.stack([row[name] for row in rows]) for name in names}
            columns["rew"] = columns["rew"].astype(np.float32)
            frames = [row["frame"] for row in rows if "frame" in row]
            result.append(Episode(obs, **columns, seed=seed + k, frames=frames))
        return result


def _render(envs: VectorEnv, i: int) -> dict[str, np.ndarray]:
    """The picture of env i, where obs has none and the envs can draw (all are drawn: record few)."""
    if getattr(envs, "render_mode", None) != "rgb_array":
        return {}
    frames = envs.render()
    return {"frame": frames[i]} if frames is not None else {}


def eval_main(argv: Sequence[str] | None = None, paper: str = "", **kwargs: Any) -> Result:
    """The whole of a paper's eval.py: `run_main(partial(eval_main, paper="paper1_world_models"))`."""
    from common.scripts import eval_main as main  # parsing first, torch later

    return main(argv, paper, **kwargs)
