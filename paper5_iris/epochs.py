"""The epoch schedule (paper, algorithm 1 and table 5): play, then each network in its turn, and again.

An epoch is `collect.steps` decisions and the updates that follow; the last `collect.extra_epochs` play no
more.  Each network begins some epochs later than the one before it.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from common.errors import UserError
from common.online_run import OnlineRun
from common.resources import forecast_ram, human_size
from paper5_iris.config import updates_in


class EpochRun(OnlineRun):
    """A run that counts epochs.

    Its clock is frames, and in the epochs without play as many as an epoch of play would have had.  Gradient
    steps are counted for each network, so a run that is stopped within an epoch goes on right there.
    """

    on_save: Callable[[], None] = staticmethod(lambda: None)

    def __init__(self, *args: Any):
        """As OnlineRun's, and the perceptual loss.  UserError where it is wanted and not there."""
        from paper5_iris.perceptual import load_perceptual

        super().__init__(*args)
        channels = self.agent.tokenizer.image[-1]
        self.perceptual, self.told = load_perceptual(self.cfg, channels, self.device)

    def budget(self) -> int:
        """Frames of the epochs that play."""
        self.epoch = 0  # whole epochs so far
        self.done = dict.fromkeys(self.cfg.learners(), 0)  # gradient steps of each network
        frames = self.cfg.steps or self.paper.presets["paper"].steps
        self.playing, self.epochs = self.cfg.epochs(frames, self.repeat)
        return self.playing * self.epoch_frames

    def check_rows(self) -> None:
        """UserError where not one epoch fits the replay."""
        least = 2 * self.cfg.collect.steps  # an episode of T steps has T + 1 rows
        if self.capacity < least:
            line = f"--replay.capacity {self.cfg.replay.capacity}: an epoch may have {least} rows"
            raise UserError(f"{line}: raise it, or lower --collect.steps")

    @property
    def epoch_frames(self) -> int:
        """Frames of an epoch that plays."""
        return self.cfg.collect.steps * self.repeat

    @property
    def clock(self) -> int:
        """Frames, and for whole epochs without play as many as they would have had."""
        return self.frames + max(self.epoch - self.playing, 0) * self.epoch_frames

    @property
    def end(self) -> int:
        """The clock after the last epoch."""
        return self.epochs * self.epoch_frames

    @property
    def prefill(self) -> int:
        """None: the first epochs are played by the untrained policy (C)."""
        return 0

    @property
    def timeout_is_end(self) -> bool:
        """Is a time limit stored as an end (C)?"""
        return self.cfg.collect.timeout_is_end

    @property
    def running(self) -> bool:
        """Are there epochs left?"""
        return self.epoch < self.epochs

    @property
    def is_stopped(self) -> bool:
        """Did a signal ask to stop?"""
        return self.guard.stop_requested

    def play(self) -> None:
        """What is left to play of the current epoch; returns early where a signal asks to stop."""
        frames = min(self.epoch + 1, self.playing) * self.epoch_frames
        while self.frames < frames and not self.is_stopped:
            self.collect()

    def due(self, name: str) -> range:
        """Gradient steps of a network that are left to do in the current epoch."""
        return range(self.updates_of(name, self.epoch + 1) - self.done[name])

    def updates_of(self, name: str, epochs: int) -> int:
        """Gradient steps of a network in so many epochs."""
        learn = self.cfg.learners()[name]
        return sum(updates_in(learn, epoch) for epoch in range(1, epochs + 1))

    def updates_until(self, frames: int) -> int:
        """Gradient steps of all networks at the end of the run, whatever the frames."""
        return sum(self.updates_of(name, self.epochs) for name in self.done)

    def updated(self, metrics: Any, name: str = "") -> None:
        """After a gradient step of a network."""
        self.done[name] += 1
        super().updated(metrics)
        self.log.progress(self.clock, updates=self.agent.updates)

    def rows_per_update(self) -> float:
        """Rows of a batch, mean over the gradient steps so far."""
        cfg, total = self.cfg, max(sum(self.done.values()), 1)
        rows = {"tokenizer": 1, "world": cfg.world.steps, "actor": cfg.actor.burn_in + 1}
        sizes = {name: learn.batch * learn.accumulate for name, learn in cfg.learners().items()}
        return sum(self.done[name] * sizes[name] * rows[name] for name in self.done) / total

    def state_dict(self) -> dict[str, Any]:
        """Where the run is."""
        return {
            "epoch": self.epoch,
            "done": dict(self.done),
            "perceptual": self.perceptual is not None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on there."""
        self.epoch, self.done = state["epoch"], dict(state["done"])
        if state["perceptual"] != (self.perceptual is not None):
            has, now = ("has", "is not here") if state["perceptual"] else ("has not", "is here now")
            line = f"the run in {self.folder} {has} the perceptual loss, which {now}"
            raise UserError(
                f"{line}: give back what was there, or start a new run with --perceptual on or off"
            )

    def start(self, **learners: Any) -> None:
        """As in OnlineRun.  UserError for a run that is to play on though it has learned without play."""
        super().start(schedule=self, **learners)
        if self.frames < min(self.epoch, self.playing) * self.epoch_frames:
            line = (
                f"--steps {self.total}: the run in {self.folder} has learned on without play at {self.frames}"
            )
            raise UserError(f"{line} frames and cannot be made longer: start a new run")

    def more_forecasts(self, flag: str) -> list[str]:
        """Which perceptual loss there is; kept tokens and reconstructions (encoded.py), by the networks."""
        tokenizer, what = self.agent.tokenizer, f"tokens and reconstructions of {self.capacity:,} rows"
        size = self.capacity * (2 * math.prod(tokenizer.image) + 4 * tokenizer.tokens)
        if self.device.type != "cpu":
            return [self.told, f"{what}: {human_size(size)} of the device's memory"]
        return [self.told, forecast_ram(size, what, flag)]

    def save(self) -> None:
        """As in OnlineRun, and then `on_save`: what a resumed run will not know must be forgotten."""
        super().save()
        self.on_save()

    def recent(self) -> tuple[np.ndarray, np.ndarray]:
        """The last rows of the open episodes, for the LSTM's burn-in: ids [N, burn_in], mask [N, burn_in]."""
        N, T = self.cfg.num_envs, self.cfg.actor.burn_in
        ids, mask = np.zeros((N, T), np.int64), np.zeros((N, T), bool)
        if not len(self.replay):
            return ids, mask
        table = self.replay.episodes()
        for start, length in zip(table.start[table.is_open], table.length[table.is_open], strict=True):
            rows = min(int(length), T)
            if rows:
                ids[start % N, T - rows :] = start + (np.arange(length - rows, length)) * N
                mask[start % N, T - rows :] = True
        return ids, mask
