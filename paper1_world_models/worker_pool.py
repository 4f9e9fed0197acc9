"""Processes that are started anew when they die: who collects (collect.py) and who steps games
(rollout_workers.py) share this.

A worker is a function `target(pipe, *arguments)`; what is said through the pipe is theirs.  Nothing here
needs torch, so that a worker process starts quickly and stays small.
"""

import multiprocessing as mp
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection

from common.errors import UserError
from common.faults import children_ignore_interrupts

MAX_RESTARTS = 3  # of one pool
CONTEXT = mp.get_context("spawn")  # fork is unsafe once torch or a GL context has threads


class Workers:
    """W processes with a pipe each."""

    def __init__(self, target: Callable[..., None], arguments: Sequence[tuple], who: str, kept: str):
        """`who` dies too often and what is `kept` then, for the message."""
        self.target, self.arguments, self.who, self.kept = target, arguments, who, kept
        self.restarts = 0
        self.pipes: list[Connection] = [None] * len(arguments)
        self.processes: list[mp.Process] = [None] * len(arguments)
        for w in range(len(arguments)):
            self._start(w)

    def _start(self, w: int) -> None:
        self.pipes[w], theirs = CONTEXT.Pipe()
        arguments = (theirs, *self.arguments[w])
        self.processes[w] = CONTEXT.Process(target=self.target, args=arguments, daemon=True)
        with one_thread(), children_ignore_interrupts():  # the trainer saves once more, and needs them
            self.processes[w].start()
        theirs.close()  # else the end of a dead worker's pipe would never be seen

    def restart(self, dead: Collection[int]) -> None:
        """Start these anew; UserError when that has happened too often."""
        self.restarts += len(dead)
        if self.restarts > MAX_RESTARTS:
            raise UserError(
                f"{self.who} died {self.restarts} times; {self.kept}: "
                "find the cause (memory?), then go on with --resume"
            )
        for w in dead:
            self.processes[w].kill()
            self.processes[w].join()
            self.pipes[w].close()
            self._start(w)

    def close(self, patience: float = 0.0) -> None:
        """End all; with patience (seconds) they first see their pipe closed and may end by themselves."""
        for pipe in self.pipes if patience else ():
            pipe.close()
        for process in self.processes:
            if patience:
                process.join(patience)
            process.kill()
            process.join()


@contextmanager
def one_thread() -> Iterator[None]:
    """Processes started in here give BLAS one thread each: more of them fight for the cores."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))  # read when numpy is imported, so too late for this process
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
