"""Step 1, the data: episodes of a random policy (later: of the evolved controller), one shard of rows per
process.

Rows follow common/replay_buffer.py: act[t] is chosen after seeing image[t], so M learns (z_t, a_t) ->
z_{t+1}. `act` is stored as M reads it (controller.ActionCodec).  No random policy sees more than about 12 %
of a CarRacing track (sheet, section 5.4), which is what the further iterations of the article are for.

Shapes: T rows of an episode, H W C picture, A action numbers, n controller parameters.
"""

import json
import math
import multiprocessing as mp
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.atomic import write_json
from common.env_wrapper import EnvSpec
from common.errors import UserError
from common.faults import children_ignore_interrupts
from common.shards import ShardWriter
from paper1_world_models.config import CollectConfig, Config
from paper1_world_models.controller import ActionCodec, make_codec
from paper1_world_models.evolve import training_seed
from paper1_world_models.rollout import make_pixels

MAX_RESTARTS = 3


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


class Held:
    """An action drawn at random and held for a random time (the authors' TakeCover policy, and its
    relatives)."""

    def __init__(self, cfg: CollectConfig, codec: ActionCodec, index: int, rng: np.random.Generator):
        self.codec, self.rng, self.left, self.extremes = codec, rng, 0, cfg.extremes
        self.low, self.high = cfg.holds[index % len(cfg.holds)]
        self.noop_prob = cfg.noop_prob[rng.integers(len(cfg.noop_prob))]
        self.action: np.ndarray | None = None

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """-> the action as M reads it [A]"""
        if self.left == 0:
            self.left = int(self.rng.integers(self.low, self.high + 1))
            idle = self.rng.random() < self.noop_prob
            self.action = noop(self.codec) if idle else random_action(self.codec, self.rng, self.extremes)
        self.left -= 1
        return self.action


class Brownian:
    """A random walk in action space, a += sqrt(dt) N(0, 1), clipped to the bounds (a known port's
    default)."""

    def __init__(self, codec: ActionCodec, rng: np.random.Generator):
        if codec.kind not in ("car", "tanh"):
            raise UserError("--collect.policy brownian needs a Box action space; use held")
        self.codec, self.rng = codec, rng
        self.action = noop(codec)

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """-> the action as M reads it [A]"""
        step = math.sqrt(1 / 50) * self.rng.standard_normal(self.codec.size)
        self.action = np.clip(self.action + step, self.codec.low, self.codec.high).astype(np.float32)
        return self.action


class Networks:
    """V, M and C drive; for the authors' CarRacing data all three have random Cauchy weights."""

    def __init__(
        self, player, params: np.ndarray, latents: int, rng: np.random.Generator, held: Held | None, noise
    ):
        self.player, self.params, self.latents, self.rng = player, params, latents, rng
        self.held, self.noise, self.first = held, noise, True
        self.codec = player.controller.codec
        player.reset(np.zeros(1, np.int64))

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """uint8 [H, W, C] -> the action as M reads it [A]; now and then a random hold takes over"""
        import torch

        eps = torch.from_numpy(self.rng.standard_normal((1, self.latents), np.float32))
        row, first = np.zeros(1, np.int64), np.array([self.first])
        _, act, _ = self.player.act(row, frame[None], torch.from_numpy(self.params), eps, first)
        self.first = False
        if self.held is not None and (self.held.left > 0 or self.rng.random() < self.noise):
            return self.held(frame)
        return act[0]


def noop(codec: ActionCodec) -> np.ndarray:
    """The action that does nothing, as M reads it: zeros within the bounds, or the first of Discrete.  [A]"""
    if codec.kind == "argmax":
        return np.eye(codec.size, dtype=np.float32)[0]
    if codec.kind == "thirds":
        return np.zeros(1, np.float32)
    return np.clip(np.zeros(codec.size, np.float32), codec.low, codec.high).astype(np.float32)


def random_action(codec: ActionCodec, rng: np.random.Generator, extremes: bool = False) -> np.ndarray:
    """A random action other than the no-op of `thirds`, as M reads it.  [A]"""
    if codec.kind == "argmax":
        return np.eye(codec.size, dtype=np.float32)[rng.integers(codec.size)]
    if codec.kind == "thirds":
        return rng.choice(np.float32([-1, 1]), 1)
    if extremes:
        middle = (np.array(codec.low) + codec.high) / 2
        return np.stack([codec.low, middle, codec.high])[
            rng.integers(3, size=codec.size), range(codec.size)
        ].astype(np.float32)
    act = rng.uniform(codec.low, codec.high).astype(np.float32)
    if codec.kind == "car":
        act[2] *= 0.1  # differs: a uniformly random brake keeps the car where it is
    return act


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


def random_networks(cfg: Config, codec: ActionCodec, rng: np.random.Generator):
    """V, M and C with every weight from Cauchy(0, s), one s ~ U(0, 0.01) per episode (H: extract.py).

    -> player, params [1, n]
    """
    import torch

    from paper1_world_models.controller import Controller
    from paper1_world_models.rnn import MDNRNN
    from paper1_world_models.rollout import Player
    from paper1_world_models.vae import VAE

    vae, rnn = VAE(cfg.vae), MDNRNN(cfg.rnn, cfg.vae.latents, codec.size)
    controller = Controller(cfg.controller, cfg.vae.latents, cfg.rnn.hidden, codec)
    scale = rng.uniform(0, 0.01)
    with torch.no_grad():
        for weight in [*vae.parameters(), *rnn.parameters()]:
            weight.copy_(torch.from_numpy(np.float32(scale * rng.standard_cauchy(tuple(weight.shape)))))
    params = scale * rng.standard_cauchy((1, controller.size))
    return Player(vae, rnn, controller, 1), np.float32(params)


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


def _worker(job: Job, pipe) -> None:
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


def collect(
    cfg: Config,
    spec: EnvSpec,
    root: Path,
    iteration: int,
    model: Path | None,
    report: Callable[[int], bool],
) -> None:
    """Fill root/ITERATION-WORKER for all workers.  `report(frames so far)` answers True to stop early.

    A worker that dies is started again (three times at most) and goes on after its last finished episode.
    """
    frames = cfg.collect.again_frames if model else 10**12
    if cfg.steps:  # environment frames; a row is one action, which may repeat
        frames = min(frames, cfg.steps // spec.frames_per_step)
    W = collectors(root, iteration, cfg.num_envs)
    jobs = [Job(cfg, spec, root, iteration, w, W, math.ceil(frames / W), model) for w in range(W)]
    if W == 1:
        collect_shard(jobs[0], report)
        return
    context, restarts = mp.get_context("spawn"), 0
    done, counts = [False] * W, [0] * W
    processes, pipes = [None] * W, [None] * W

    def start(w: int) -> None:
        pipes[w], other = context.Pipe()
        processes[w] = context.Process(target=_worker, args=(jobs[w], other), daemon=True)
        with children_ignore_interrupts():  # a worker must not die below the parent that finishes its work
            processes[w].start()
        other.close()

    for w in range(W):
        start(w)
    try:
        while not all(done):
            for w in [w for w in range(W) if not done[w]]:
                try:
                    message = pipes[w].recv() if pipes[w].poll(0.05) else None
                except (EOFError, OSError):
                    restarts += 1
                    if restarts > MAX_RESTARTS:
                        raise UserError(
                            f"collecting processes died {restarts} times; finished episodes are kept: "
                            "find the cause (memory?), then go on with --resume"
                        ) from None
                    time.sleep(0.5)
                    start(w)
                    continue
                if isinstance(message, UserError):
                    raise message
                done[w] = message == "done"
                counts[w] = message if isinstance(message, int) else counts[w]
            if report(sum(counts)):
                break
    finally:
        for process in filter(None, processes):
            process.terminate()  # the shards keep every finished episode
            process.join()
