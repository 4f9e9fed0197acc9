"""Environments, replay, log, curve and checkpoints of a run of papers 2 to 5: all but the learning.

Part of common/online.py, which makes it from the command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.errors import UserError

if TYPE_CHECKING:
    from common.online import Paper

EVAL_SEED = 10_000  # evaluations while training; eval.py reports seeds from 0, training derives its own


class OnlineRun:
    """Environments, replay, log, curve and checkpoints of one run.

    The config has, besides RunConfig: obs, image_size, env_options, prefill, eval_episodes, checkpoint_every,
    log_every, replay.capacity, batch and length; where the paper has no schedule of its own also train_every,
    train_updates and pretrain.  All counts are environment frames or updates.  Paper 5, which plays and
    learns in epochs, has a subclass.
    """

    def __init__(self, paper: Paper, cfg: Any, device: Any, folder: Path | None):
        from common.env_wrapper import EnvSpec, takes
        from common.seeding import derive, seed_everything
        from common.spaces import Spaces

        self.paper, self.cfg, self.device, self.folder = paper, cfg, device, folder
        self.is_resumed = folder is not None
        options = {"size": cfg.image_size} if takes(cfg.env, "size") else {}
        options |= dict(cfg.env_options) | ({} if cfg.obs == "auto" else {"obs": cfg.obs})
        self.spec = EnvSpec(cfg.env, options)
        self.repeat = self.spec.frames_per_step
        self.total = self.budget()
        self.envs, self.eval_envs = self.spec.make_vector(cfg.num_envs, "train"), None
        self.spaces = Spaces.of(self.envs, cfg.env, paper.multi)
        seed_everything(derive(cfg.seed, "weights"))
        self.agent = paper.make_agent(cfg, self.spec, self.spaces, device)
        self.keeps_latents = hasattr(self.agent, "replay_fields")
        rows = self.total // self.repeat  # and one more row per episode
        all_rows = rows + rows // 8 + 1_000 * cfg.num_envs
        self.capacity = min(cfg.replay.capacity or all_rows, all_rows)
        self.check_rows()

    def budget(self) -> int:
        """Frames of the whole run."""
        return self.cfg.steps or self.paper.presets["paper"].steps

    def check_rows(self) -> None:
        """UserError where the replay could never give a sequence."""
        cfg = self.cfg
        per_env = cfg.prefill // self.repeat // cfg.num_envs
        if self.paper.schedule is None and per_env < cfg.replay.length:
            line = f"--prefill {cfg.prefill}: gives each environment {per_env} rows, and a sequence has"
            raise UserError(f"{line} {cfg.replay.length} (--replay.length): raise it")
        if self.capacity // cfg.num_envs < cfg.replay.length + self.keeps_latents:  # a row of context
            line = f"--replay.capacity {cfg.replay.capacity}: leaves each of {cfg.num_envs} environments less"
            raise UserError(
                f"{line} than one sequence of {cfg.replay.length} rows (--replay.length): raise it"
            )

    def train(self) -> bool:
        """Set all up, or take it from the saved state, and run the paper's loop."""
        from common.checkpoint import RunState
        from common.collector import Collector
        from common.faults import NonFiniteGuard, SignalGuard
        from common.logger import Logger
        from common.loop import Curve
        from common.meters import Meter
        from common.replay_buffer import ReplayBuffer
        from common.seeding import derive

        cfg = self.cfg
        mapped = self.folder / "state" / "live" if cfg.replay.mapped else None
        seed = derive(cfg.seed, "replay")
        online = self.agent.online_rows if self.keeps_latents else 0
        self.replay = ReplayBuffer(self.capacity, self.fields(), cfg.num_envs, mapped, seed, online)
        self.state = RunState(self.folder / "state")
        self.rng = np.random.default_rng(derive(cfg.seed, "prefill"))
        self.curve, self.meter = Curve(self.folder), Meter()
        self.bad = NonFiniteGuard(checkpoint=self.folder / "state")
        found = self.state.load()
        if found and found[0] >= self.end + self.cfg.num_envs * self.repeat:  # the last step may overshoot
            raise UserError(f"--steps {self.total}: the run in {self.folder} is at {found[0]} frames already")
        if self.is_resumed and not found:
            print(f"{self.folder} holds no checkpoint yet: the run begins anew", flush=True)
        with (
            SignalGuard() as self.guard,
            Logger(self.folder, total=self.end, resume_step=found[0] if found else 0) as self.log,
        ):
            args = self.envs, self.replay, self.repeat, cfg.seed, self._on_episode, self.timeout_is_end
            self.collector = Collector(*args)
            self._found = found
            return self.paper.train(self)

    def fields(self) -> dict[str, Any]:
        """What a stored row holds: observations, action, reward, flags, and what the agent wants to keep."""
        return self.spaces.fields() | (self.agent.replay_fields() if self.keeps_latents else {})

    def more_forecasts(self, flag: str) -> list[str]:
        """What a paper keeps in memory besides the replay; UserError naming `flag` if there is too little."""
        return []

    def start(self, **learners: Any) -> None:
        """First call of the loop.  learners: what must be saved besides networks: optimisers, targets ...

        Each has state_dict() and load_state_dict().  A resumed run is put back to where it was.
        """
        from common.loop import Every

        self.parts, self.evaluated = learners, 0  # the clock until which no evaluation is due any more
        if self._found is not None:
            self._restore(*self._found)
        self.eval_due = Every(self.cfg.eval_every, self.evaluated)
        self.save_due = Every(self.cfg.checkpoint_every, self.clock)
        self._begin()

    @property
    def frames(self) -> int:
        """Environment frames so far."""
        return self.collector.frames

    @property
    def clock(self) -> int:
        """How far the run is, on the axis of its log, evaluations and checkpoints: frames."""
        return self.frames

    @property
    def end(self) -> int:
        """Where the clock stops."""
        return self.total

    @property
    def prefill(self) -> int:
        """Frames of random play before the first update."""
        return self.cfg.prefill

    @property
    def timeout_is_end(self) -> bool:
        """Is a time limit stored as an end?"""
        return False

    @property
    def running(self) -> bool:
        """Are there frames left to play?"""
        return self.frames < self.total

    def collect(self) -> None:
        """One step in every env: uniform actions while the replay fills, then the agent's."""
        before = self.frames
        with self.meter.timed("env_step"):
            self.collector.step(self._random if before < self.prefill else self._policy)
        self.meter.add(frames=self.frames - before)
        self.log.progress(self.clock, updates=self.agent.updates)

    def updates_until(self, frames: int) -> int:
        """Gradient steps that the schedule wants done by then."""
        cfg = self.cfg
        if frames < cfg.prefill:
            return 0
        if self.paper.schedule is not None:
            return self.paper.schedule(cfg, frames // self.repeat, cfg.prefill // self.repeat)
        return cfg.pretrain + (frames - cfg.prefill) // cfg.train_every * cfg.train_updates

    def updates_due(self) -> range:
        """Gradient steps to do now."""
        return range(self.updates_until(self.frames) - self.agent.updates)

    def updated(self, metrics: Mapping[str, Any]) -> None:
        """After an update: its metrics (0-dim tensors stay on their device) are averaged over log_every."""
        self.agent.updates += 1
        self.meter.add(updates=1)
        self.log.accumulate(metrics)
        if self.agent.updates % self.cfg.log_every == 0:
            self._log_updates()

    def keep_up(self) -> bool:
        """Evaluate and save where it is time to, or at the end.  False: a signal asked to stop."""
        stop, end = self.guard.stop_requested, not self.running
        save = bool(self.save_due(self.clock)) or stop or end
        if not stop:  # whoever asks to stop does not want to wait: what is due comes after the resume
            if self.eval_due(self.clock) or end:
                self.evaluate(clip=save)
            self.evaluated = self.clock
        if save:
            self.save()
            if not end and not stop:
                self._begin()
        return not stop

    def evaluate(self, clip: bool) -> None:
        """Play eval_episodes, add to curve.csv and the log; clip: also an open-loop dream for TensorBoard."""
        from common.dreams import head_accuracy, make_window, open_loop, open_loop_clip
        from common.evaluate import play

        cfg = self.cfg
        if self.eval_envs is None:
            backend = "auto" if self.spec.name.startswith("toy_") else "sync"  # toys are batched inside
            self.eval_envs = self.spec.make_vector(cfg.eval_episodes, "eval", backend=backend)
        result = play(self.agent, self.eval_envs, cfg.eval_episodes, EVAL_SEED, record=int(clip))
        row = self.curve.add(self.frames, self.collector.policy_steps, self.agent.updates, result.returns)
        score = {"eval/return": row["ret_mean"], "eval/length": result.lengths.mean()}
        self.log.scalars(self.clock, score, means=False)
        self.log.note(
            f"frames {self.frames:,}, updates {self.agent.updates:,}: return {row['ret_mean']:.1f}"
            f" of {cfg.eval_episodes} episodes, {row['cpu_s']:.0f} CPU-seconds"
        )
        if clip and len(result.episodes[0]) > 2:
            loop = open_loop(self.agent, make_window(result.episodes, 1, 5, 45))
            accuracy = head_accuracy(loop)
            known = {f"open_loop/{head}_{k}": v for head, row in accuracy.items() for k, v in row.items()}
            self.log.scalars(self.clock, known | self.agent.diagnose(result.episodes[0]), means=False)
            error = loop.errors["model"]
            known = {f"open_loop/mse_{h}": error[h - 1] for h in (1, 5, 15, 45) if h <= len(error)}
            self.log.scalars(self.clock, known, means=False)
            self.log.video(self.clock, "open_loop", open_loop_clip(loop), fps=10)

    def save(self) -> None:
        """End the open episodes, write the state and model.pt."""
        from common.seeding import generator_state, rng_state

        self.collector.end_episodes()
        if self.agent.updates % self.cfg.log_every:  # a resumed run begins its means anew, so every run does
            self._log_updates()
        tree, files = self.replay.save(self.state.folder / "replay", self.state.next_version)
        counters = {"policy_steps": self.collector.policy_steps, "updates": self.agent.updates}
        counters["evaluated"] = self.evaluated
        parts = {
            "networks": {name: part.state_dict() for name, part in self.agent.parts().items()},
            "learners": {name: part.state_dict() for name, part in self.parts.items()},
            "random": {"all": rng_state(), "prefill": generator_state(self.rng)},
            "counters": counters | {"curve": self.curve.state(), "skipped": self.bad.skipped},
            "replay": tree,
        }
        self.state.save(self.clock, parts, files=files)
        self.agent.save(self.folder / "model.pt")
        self.log.flush()

    def close(self) -> None:
        """Close the environments."""
        for envs in (self.envs, self.eval_envs):
            if envs is not None:
                envs.close()

    def _restore(self, step: int, parts: Mapping[str, Any]) -> None:
        from common.seeding import set_generator_state, set_rng_state

        for name, part in self.agent.parts().items():
            part.load_state_dict(parts["networks"][name])
        for name, part in self.parts.items():
            part.load_state_dict(parts["learners"][name])
        self.replay.restore(self.state.folder / "replay", parts["replay"])
        counters = parts["counters"]
        self.collector.policy_steps, self.agent.updates = counters["policy_steps"], counters["updates"]
        self.evaluated = counters.get("evaluated", step)
        self.curve.restore(counters["curve"])
        self.bad.skipped = counters["skipped"]
        set_generator_state(self.rng, parts["random"]["prefill"])
        set_rng_state(parts["random"]["all"])

    def _log_updates(self) -> None:
        """A row of metrics.jsonl: what was accumulated, counts and rates."""
        from common.meters import peak_memory_mb

        self.bad.flush()
        more = {"updates": self.agent.updates, "skipped_updates": self.bad.skipped}
        ratio = self.agent.updates / max(self.collector.policy_steps, 1)
        more |= {"replayed_rows_per_step": ratio * self.rows_per_update(), "updates_per_policy_step": ratio}
        more |= {**self.meter.rates(), **peak_memory_mb()}
        self.log.scalars(self.clock, more)

    def rows_per_update(self) -> float:
        """Rows of a batch."""
        return self.cfg.replay.batch * self.cfg.replay.length

    def _begin(self) -> None:
        """Fresh episodes, the same in a run that was interrupted here and in one that was not."""
        self.collector.begin(self.clock)
        self.memory = self.agent.initial(self.cfg.num_envs)

    def _random(self, obs: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        num = self.cfg.num_envs
        return self.spaces.random(self.rng, num), self.agent.unknown(num) if self.keeps_latents else {}

    def _policy(self, obs: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        act, self.memory = self.agent.act(obs, self.memory, explore=True)
        return act, self.agent.pack(self.memory.state) if self.keeps_latents else {}

    def _on_episode(self, ret: float, length: int, told: Mapping[str, float]) -> None:
        kept = {f"episode/{name}": value for name, value in told.items() if name.startswith("achievements/")}
        self.log.episode(self.clock, ret, length, **kept)
