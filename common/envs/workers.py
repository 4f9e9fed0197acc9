"""One process per env, for envs whose step costs over about 1 ms; a crash costs one episode, not the run.

A worker that dies, raises or hangs is started again: its episode ends there (truncated, the last observation
repeated, reward 0, info `worker_restarted`), and the next step resets the new env.  After `max_restarts` the
run stops with the worker's own words.  Workers are spawned, never forked: a fork after EGL has drawn hangs,
one after CUDA has started breaks it.  So a script that uses this needs `if __name__ == "__main__":`.
Observations travel through the pipe: 20 us for a frame, nothing next to such a step.  Letter: N envs.
"""

import logging
import multiprocessing
import signal
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate

from common.errors import UserError

log = logging.getLogger(__name__)
START_TIMEOUT = 300.0  # seconds for importing and building an env


@dataclass
class _Failure:
    """What a worker says before it ends: the line for a user, the traceback for us."""

    line: str
    trace: str
    is_user_error: bool


def _work(pipe, maker: bytes) -> None:
    """A worker's life: build the env, answer (method, kwargs) until told to stop or the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's: it saves and then closes us
    try:
        env = cloudpickle.loads(maker)()
        pipe.send((env.observation_space, env.action_space, dict(env.metadata), env.render_mode))
        while (message := pipe.recv()) is not None:
            method, kwargs = message
            pipe.send(getattr(env, method)(**kwargs))
        env.close()
    except EOFError:
        pass  # the parent is gone
    except Exception as error:
        line = (str(error) or type(error).__name__).splitlines()[0]
        pipe.send(_Failure(line, traceback.format_exc(), isinstance(error, UserError)))


class WorkerVectorEnv(VectorEnv):
    """N envs in N processes, stepped together, Gymnasium's NEXT_STEP autoreset."""

    def __init__(
        self, makers: Sequence[Callable[[], gym.Env]], max_restarts: int = 10, timeout: float = 300.0
    ):
        self.num_envs, self.max_restarts, self.timeout = len(makers), max_restarts, timeout
        self.restarts = 0
        self._makers = makers
        self._pipes, self._processes = [None] * self.num_envs, [None] * self.num_envs
        self._seed: int | None = None
        self._next_seed: dict[int, int] = {}  # of restarted envs, for their next reset
        self._done = np.zeros(self.num_envs, bool)
        self._last: list[Any] = [None] * self.num_envs  # last observation of each env
        for i in range(self.num_envs):  # all start before the first is waited for
            self._start(i)
        for i in range(self.num_envs):
            hello = self._receive(i, START_TIMEOUT)
            if isinstance(hello, _Failure):
                self.close()
                hint = "" if hello.is_user_error else "; use --num-envs 1 to see it without a worker"
                raise UserError(hello.line + hint) from RuntimeError(hello.trace)
        self.single_observation_space, self.single_action_space, metadata, self.render_mode = hello
        self.metadata = {**metadata, "autoreset_mode": AutoresetMode.NEXT_STEP}
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    @property
    def pids(self) -> list[int]:
        """The workers' process ids."""
        return [process.pid for process in self._processes]

    def reset(self, *, seed: int | Sequence[int | None] | None = None, options: dict | None = None):
        """Reset all; an int seed gives env i the seed `seed + i`."""
        seeds = [None] * self.num_envs if seed is None else seed
        if isinstance(seed, int | np.integer):
            seeds, self._seed = [int(seed) + i for i in range(self.num_envs)], int(seed)
        for i in range(self.num_envs):
            self._send(i, "reset", seed=seeds[i], options=options)
        infos: dict = {}
        for i in range(self.num_envs):
            self._last[i], info = self._reset_answer(i, options)
            infos = self._add_info(infos, info, i)
        self._done[:] = False
        return self._batch(), infos

    def step(self, actions):
        """Step all -> obs, rew [N], terminated [N], truncated [N], infos; finished envs are reset instead."""
        for i, action in enumerate(iterate(self.action_space, actions)):
            if self._done[i]:
                self._send(i, "reset", seed=self._next_seed.pop(i, None))
            else:
                self._send(i, "step", action=action)
        rew = np.zeros(self.num_envs)
        terminated, truncated = np.zeros((2, self.num_envs), bool)
        infos: dict = {}
        for i in range(self.num_envs):
            if self._done[i]:
                self._last[i], info = self._reset_answer(i, None)
            else:
                answer = self._receive(i)
                if isinstance(answer, _Failure):
                    self._restart(i, answer)
                    truncated[i], info = True, {"worker_restarted": True}
                else:
                    self._last[i], rew[i], terminated[i], truncated[i], info = answer
            infos = self._add_info(infos, info, i)
        self._done = terminated | truncated
        return self._batch(), rew, terminated, truncated, infos

    def render(self) -> tuple[np.ndarray, ...]:
        """One picture per env."""
        for i in range(self.num_envs):
            self._send(i, "render")
        return tuple(self._receive(i) for i in range(self.num_envs))

    def close_extras(self, **kwargs) -> None:
        """Ask the workers to stop; whoever does not within seconds is killed."""
        for pipe in self._pipes:
            try:
                pipe.send(None)
            except OSError:
                pass  # already dead
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()
            pipe.close()

    def _start(self, i: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes[i], theirs = context.Pipe()
        work = (theirs, cloudpickle.dumps(self._makers[i]))
        self._processes[i] = context.Process(target=_work, args=work, daemon=True, name=f"env-{i}")
        self._processes[i].start()
        theirs.close()  # else we would never see the end of a dead worker's pipe

    def _send(self, i: int, method: str, **kwargs) -> None:
        try:
            self._pipes[i].send((method, kwargs))
        except OSError:
            pass  # it died meanwhile; receiving will say so

    def _receive(self, i: int, timeout: float | None = None) -> Any:
        """The worker's answer, or a _Failure where it raised, died or hangs."""
        timeout = timeout or self.timeout
        try:
            if self._pipes[i].poll(timeout):
                return self._pipes[i].recv()
            line = f"no answer within {timeout:g} s"
        except (EOFError, OSError):
            self._processes[i].join(5)
            line = f"its process ended with exit code {self._processes[i].exitcode}"
        return _Failure(line, line, False)

    def _reset_answer(self, i: int, options: dict | None) -> tuple[Any, dict]:
        """The answer to a reset that was sent; a crash in it is repeated in a new worker."""
        while isinstance(answer := self._receive(i), _Failure):
            self._restart(i, answer)
            self._send(i, "reset", seed=self._next_seed.pop(i, None), options=options)
        return answer

    def _restart(self, i: int, failure: _Failure) -> None:
        """Replace worker i, or stop for good when that has happened too often."""
        while True:
            self._processes[i].kill()
            self._processes[i].join()
            self._pipes[i].close()
            self.restarts += 1
            if self.restarts > self.max_restarts:
                self.close()
                raise UserError(
                    f"env workers crashed {self.restarts} times in this run, the last with: {failure.line}; "
                    "use --num-envs 1 to see it without a worker"
                ) from RuntimeError(failure.trace)
            log.warning(
                "env worker %d restarted (%d of %d): %s", i, self.restarts, self.max_restarts, failure.trace
            )
            self._start(i)
            if not isinstance(answer := self._receive(i, START_TIMEOUT), _Failure):
                break
            failure = answer
        if self._seed is not None:  # the new env's episodes follow from the seed and this restart's number
            derived = np.random.SeedSequence([self._seed, i, self.restarts]).generate_state(1)[0]
            self._next_seed[i] = int(derived) % 2**31

    def _batch(self) -> Any:
        space = self.single_observation_space
        return concatenate(space, self._last, create_empty_array(space, self.num_envs))
