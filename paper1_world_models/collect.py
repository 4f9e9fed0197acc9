"""Step 1, the data: episodes of a random policy (later: of the evolved controller), one shard of rows per
process.

Rows follow common/replay_buffer.py: act[t] is chosen after seeing image[t], so M learns (z_t, a_t) ->
z_{t+1}. `act` is stored as M reads it (controller.ActionCodec).  The policies are in policies.py.

Shapes: T rows of an episode, H W C picture, A action numbers, n controller parameters.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

import numpy as np

from common.atomic import write_json
from common.env_wrapper import EnvSpec
from common.errors import UserError
from common.shards import Shards, ShardWriter
from paper1_world_models.config import CollectConfig, Config
from paper1_world_models.controller import ActionCodec, make_codec
from paper1_world_models.evolve import training_seed
from paper1_world_models.policies import Brownian, Held, Networks, random_networks
from paper1_world_models.rollout_games import make_pixels
from paper1_world_models.worker_pool import Workers


@dataclass(frozen=True)
class Job:
    """What one collecting process has to do; everything in it can be sent to a process."""

    cfg: Config
    spec: EnvSpec
    root: Path
    iteration: int
    worker: int
    workers: int
    frames: int  # rows that this worker may write
    model: Path | None  # checkpoint of the controller that plays; None: the random policy

    @property
    def folder(self) -> Path:
        """This worker's shard."""
        return self.root / f"{self.iteration:02d}-{self.worker:02d}"


def make_policy(job: Job, codec: ActionCodec, models, index: int, rng: np.random.Generator):
    """The policy of one episode."""
    cfg = job.cfg.collect
    if models is not None:
        held = Held(CollectConfig(holds=((1, 6),)), codec, index, rng)
        noise = cfg.again_noise[rng.integers(len(cfg.again_noise))]
        return Networks(*models, job.cfg.vae.latents, rng, held, noise)
    if cfg.policy == "cauchy":
        player, params = random_networks(job.cfg, codec, rng)
        return Networks(player, params, job.cfg.vae.latents, rng, None, 0.0)
    return Brownian(codec, rng) if cfg.policy == "brownian" else Held(cfg, codec, index, rng)


def collect_shard(job: Job, report: Callable[[int], bool] | None = None) -> int:
    """Play episodes worker, worker + workers, ... until the budget is used; goes on where the shard ends.

    Returns the frames in the shard.  `report(frames)` after every episode; it answers True to stop early.
    """
    cfg = job.cfg.collect
    extra = {} if job.model else cfg.env_options
    env = make_pixels(EnvSpec(job.spec.name, job.spec.options | extra))
    codec = make_codec(env.action_space, job.cfg.controller.actions)
    fields = row_fields(env.observation_space["image"].shape, codec.size)
    models = load_models(job) if job.model else None
    last = cfg.episodes if job.model is None else 10**9  # further iterations are bounded by frames
    with ShardWriter(job.folder, fields) as writer:
        index = max((e["info"]["index"] for e in writer.episodes), default=job.worker - job.workers)
        while (index := index + job.workers) < last and writer.rows < job.frames:
            seed = training_seed(job.cfg.seed, "collect", job.iteration, index)
            rng = np.random.default_rng(seed)
            policy = make_policy(job, codec, models, index, rng)
            rows, ret = play_episode(env, codec, policy, cfg, seed)
            if len(rows["rew"]) > cfg.min_length:
                writer.add_episode(rows, index=index, ret=ret)
            if report and report(writer.rows):
                break
        frames = writer.rows
    env.close()
    return frames


def row_fields(frame: tuple[int, ...], actions: int) -> dict[str, tuple[tuple[int, ...], type]]:
    """Name -> (shape, dtype) of one row."""
    flags = {name: ((), np.bool_) for name in ("is_first", "is_last", "is_terminal")}
    return {"image": (frame, np.uint8), "act": ((actions,), np.float32), "rew": ((), np.float32), **flags}


def play_episode(
    env, codec: ActionCodec, policy, cfg: CollectConfig, seed: int
) -> tuple[dict[str, np.ndarray], float]:
    """One episode as rows [T, ...] in the stored-row convention, and its return."""
    obs, _ = env.reset(seed=seed)
    images, acts, rews, terminated, over = [obs["image"]], [], [0.0], False, False
    while not over and len(acts) < cfg.max_steps:
        act = np.asarray(policy(images[-1]), np.float32)
        obs, rew, terminated, truncated, _ = env.step(codec.to_env(act))
        images.append(obs["image"])
        acts.append(act)
        rews.append(rew)
        over = (terminated or truncated) and not cfg.ignore_end
    T = len(images)
    acts.append(np.zeros(codec.size, np.float32))  # nothing is chosen in the last row
    flags = {name: np.zeros(T, bool) for name in ("is_first", "is_last", "is_terminal")}
    flags["is_first"][0], flags["is_last"][-1] = True, True
    flags["is_terminal"][-1] = terminated and not cfg.ignore_end
    rows = {"image": np.stack(images), "act": np.stack(acts), "rew": np.float32(rews), **flags}
    return rows, float(np.sum(rews))


def load_models(job: Job):
    """The evolved agent for `Networks`: player, params."""
    from paper1_world_models.agent import WorldModelsAgent
    from paper1_world_models.rollout import Player

    agent = WorldModelsAgent.load(job.model)
    return Player(agent.vae, agent.rnn, agent.controller, 1), agent.params[None]


def _worker(pipe: Connection, job: Job) -> None:
    """A collecting process; errors travel back as text."""
    try:
        import torch

        torch.set_num_threads(1)
        collect_shard(job, report=lambda frames: pipe.send(frames) or False)
        pipe.send("done")
    except UserError as error:
        pipe.send(error)
    except KeyboardInterrupt:
        pass


def collectors(root: Path, iteration: int, num_envs: int) -> int:
    """How many workers share the episodes: the number that the run began with, as the order of the rows and
    the end of a pass depend on it.  Folders of earlier versions tell it by their shards."""
    path = root / "workers.json"
    if not path.exists():
        there = [sum(1 for _ in root.glob(f"{i:02d}-[0-9]*")) for i in (iteration, 0)]
        root.mkdir(parents=True, exist_ok=True)
        write_json(path, {"workers": there[0] or there[1] or num_envs})
    try:
        return int(json.loads(path.read_text())["workers"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged: remove it and go on with --resume") from error


def rows_before(root: Path, iteration: int) -> int:
    """Rows of the passes before this one."""
    folders = [path.parent for path in sorted(root.glob("*/meta.json"))]
    earlier = [folder for folder in folders if int(folder.name[:2]) < iteration]
    return Shards(earlier).total if earlier else 0


def collect(
    cfg: Config,
    spec: EnvSpec,
    root: Path,
    iteration: int,
    model: Path | None,
    report: Callable[[int], bool],
) -> None:
    """Fill root/ITERATION-WORKER for all workers.  `report(frames so far)` answers True to stop early.

    --steps caps all passes together; an episode that reaches a worker's share of it is played to its end.
    A worker that dies is started again (three times at most) and goes on after its last finished episode.
    """
    frames = cfg.collect.again_frames if model else 10**12
    if cfg.steps:  # environment frames of all passes; a row is one action, which may repeat
        frames = min(frames, max(0, cfg.steps // spec.frames_per_step - rows_before(root, iteration)))
    W = collectors(root, iteration, cfg.num_envs)
    jobs = [Job(cfg, spec, root, iteration, w, W, math.ceil(frames / W), model) for w in range(W)]
    if W == 1:
        collect_shard(jobs[0], report)
        return
    counts = {w: 0 for w in range(W)}  # of those that are not done
    rows = 0  # of those that are
    pool = Workers(_worker, [(job,) for job in jobs], "collecting processes", "finished episodes are kept")
    try:
        while counts and not report(rows + sum(counts.values())):
            for pipe in wait([pool.pipes[w] for w in counts], 0.2):
                w = pool.pipes.index(pipe)
                try:
                    message = pipe.recv()
                except (EOFError, OSError):
                    pool.restart([w])
                    continue
                if isinstance(message, UserError):
                    raise message
                if message == "done":
                    rows += counts.pop(w)
                else:
                    counts[w] = message
        report(rows + sum(counts.values()))
    finally:
        pool.close()  # the shards keep every finished episode
