"""Games in worker processes, each with an environment per slot.

Frames meet in shared memory; through the pipes go only actions, rewards and flags, one message per worker and
step.  A worker answers in the order of asking, so the trainer may ask for a second turn before the first has
ended.  A worker that dies is started anew, and its games are played again.

Shapes: S slots, k rows of a call, W workers.
"""

from collections import deque
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np

from common.env_wrapper import EnvSpec
from common.errors import UserError
from paper1_world_models.rollout_games import Answer, LocalGames, Outcome, WorkerDied
from paper1_world_models.worker_pool import CONTEXT, Workers

STEP_TIMEOUT = 120.0  # seconds before a silent worker counts as dead
CLOSE_TIMEOUT = 5.0  # seconds to close the environments
HALF = 8  # slots of a turn at least: smaller batches cost the networks more than the overlap saves


def _serve(pipe: Connection, spec: EnvSpec, slots: int, buffer, shape: tuple[int, ...]) -> None:
    """A worker: answer reset and step for its games until the pipe is closed; errors travel back as text."""
    games = LocalGames(spec, slots, np.frombuffer(buffer, np.uint8).reshape(shape))
    try:
        while True:
            command, rows, data = pipe.recv()
            pipe.send(games.begin(rows, data) if command == "reset" else games.move(rows, data))
    except (EOFError, KeyboardInterrupt):
        pass
    except Exception as error:  # whatever it was, the trainer must learn of it instead of waiting for ever
        pipe.send(f"{type(error).__name__}: {error}")
    games.close()


@dataclass
class _Request:
    """What one worker was asked; it answers in the order of asking."""

    worker: int
    at: np.ndarray  # which rows of the call are its
    reply: Outcome | None = None
    is_answered: bool = False


class ProcessGames:
    """W processes step the games; row r lives in worker r % W; frames come back through shared memory."""

    def __init__(self, spec: EnvSpec, slots: int, workers: int, frame_shape: tuple[int, ...]):
        self.spec, self.slots, self.workers = spec, slots, workers
        shape = (slots, *frame_shape)
        buffer = CONTEXT.RawArray("B", int(np.prod(shape)))
        self.frames = np.frombuffer(buffer, np.uint8).reshape(shape)
        who, kept = f"environment processes of {spec.name}", "the last checkpoint is good"
        self.pool = Workers(_serve, [(spec, slots, buffer, shape)] * workers, who, kept)
        self.open: list[deque[_Request]] = [deque() for _ in range(workers)]  # sent, not yet answered

    def turns(self, slots: int) -> list[np.ndarray]:
        """Two halves, each with games of every worker, where they are large enough."""
        rows = np.arange(slots)
        half = rows // self.workers % 2 == 1
        return [rows[~half], rows[half]] if half.sum() >= HALF else [rows]

    def reset(self, rows: np.ndarray, seeds: list[int]) -> np.ndarray:
        """Start games.  [k] -> uint8 [k, H, W, C]"""
        self._wait(self._send("reset", rows, np.asarray(seeds)))
        return self.frames[rows]

    def start(self, rows: np.ndarray, actions: np.ndarray) -> Answer:
        """Begin a step.  [k], [k, ...] -> a function that waits for frames, outcome"""
        requests = self._send("step", rows, actions)

        def answer() -> tuple[np.ndarray, Outcome]:
            self._wait(requests)
            rew, flags = np.zeros(len(rows), np.float32), np.zeros((3, len(rows)), bool)
            for request in requests:
                rew[request.at], flags[:, request.at] = request.reply[0], request.reply[1:]
            return self.frames[rows], (rew, *flags)

        return answer

    def step(self, rows: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, Outcome]:
        """Move games and wait for them.  [k], [k, ...] -> frames, outcome"""
        return self.start(rows, actions)()

    def close(self) -> None:
        """End the processes."""
        self.pool.close(CLOSE_TIMEOUT)

    def _send(self, command: str, rows: np.ndarray, data: np.ndarray) -> list[_Request]:
        """All workers begin at once."""
        owner, requests = rows % self.workers, []
        for w in range(self.workers):
            if len(at := np.flatnonzero(owner == w)):
                requests.append(_Request(w, at))
                self.open[w].append(requests[-1])
                try:
                    self.pool.pipes[w].send((command, rows[at], data[at]))
                except OSError:
                    pass  # the worker is dead, and `_wait` will miss its answer
        return requests

    def _wait(self, requests: list[_Request]) -> None:
        """Until all are answered.  WorkerDied if a worker is gone; UserError if an environment failed."""
        dead = {request.worker for request in requests if not self._is_answered(request)}
        if not dead:
            return
        for waiting in self.open:  # the living finish what they were asked, so that no late answer is left
            while waiting and waiting[0].worker not in dead:
                if not self._is_answered(waiting[0]):
                    dead.add(waiting[0].worker)
        for w in dead:
            self.open[w].clear()
        self.pool.restart(dead)
        raise WorkerDied

    def _is_answered(self, request: _Request) -> bool:
        """Take answers until the one to `request` is there; False if its worker is dead."""
        pipe, waiting = self.pool.pipes[request.worker], self.open[request.worker]
        while not request.is_answered:
            try:
                if not pipe.poll(STEP_TIMEOUT):
                    return False
                reply = pipe.recv()
            except (EOFError, OSError):
                return False
            if isinstance(reply, str):
                raise UserError(f"environment {self.spec.name} failed in a worker: {reply}")
            first = waiting.popleft()
            first.reply, first.is_answered = reply, True
        return True
