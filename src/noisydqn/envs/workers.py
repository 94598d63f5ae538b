"""Environments of Gymnasium, each in its own worker process.

A worker that is killed, ends or does not answer is detected and named. Workers end with the
training process, even if that process is killed. Signals that stop a run are for the training
process; workers ignore them.
"""

import atexit
import contextlib
import multiprocessing
import selectors
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import (
    CloudpickleWrapper,
    batch_space,
    create_shared_memory,
    read_from_shared_memory,
    write_to_shared_memory,
)

from noisydqn.envs.children import become_child, how_it_ended, signals_held
from noisydqn.envs.guard import GuardedEnv
from noisydqn.errors import EnvironmentFailedError, QuitError, UserError, in_one_line

START_SECONDS = 120.0
"""Seconds that a worker has to import its modules and make its environment."""
CLOSE_SECONDS = 5.0
"""Seconds after which a worker that was asked to end is killed."""
POLL_SECONDS = 0.5
"""Seconds between two looks at whether a stop was requested, while workers take a step."""


class WorkerVector(VectorEnv[Any, Any, Any]):
    """Guarded environments, each in a worker process, with `AutoresetMode.NEXT_STEP`.

    Observations are views of shared memory, which the next step overwrites.

    Args:
        makers: each makes one environment in its worker.
        observation_space: of each environment.
        action_space: of each environment.
        timeout: seconds after which a worker that does not answer is killed.
        notice: receives a line if closing an environment raises.
        check: called while workers are waited for. It may raise to stop waiting: the step is then
            to be repeated, after a replay.

    Raises:
        UserError: a maker cannot be sent to another process.
        EnvironmentFailedError: an environment cannot be made in its worker.
    """

    def __init__(
        self,
        makers: Sequence[Callable[[], GuardedEnv]],
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        *,
        timeout: float,
        notice: Callable[[str], None],
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.num_envs = len(makers)
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.single_observation_space, self.single_action_space = observation_space, action_space
        self.observation_space = batch_space(observation_space, self.num_envs)
        self.action_space = batch_space(action_space, self.num_envs)
        self.processes: list[Any] = []
        self._pipes: list[Connection] = []
        self._selector = selectors.DefaultSelector()
        self._timeout, self._notice, self._check, self._steps = timeout, notice, check, 0
        atexit.register(self._kill)
        try:
            self._start(makers)
        except BaseException:
            self.close()
            raise

    def _start(self, makers: Sequence[Callable[[], GuardedEnv]]) -> None:
        context = multiprocessing.get_context("spawn")  # JAX's threads do not survive a fork
        space = self.single_observation_space
        memory: Any = create_shared_memory(space, self.num_envs, context)
        self._observations = read_from_shared_memory(space, memory, self.num_envs)
        for index, maker in enumerate(makers):
            pipe, theirs = context.Pipe()
            self._pipes.append(pipe)
            args = (
                index,
                CloudpickleWrapper(maker),
                theirs,
                memory,
                space,
                self.single_action_space,
            )
            process = context.Process(target=_work, args=args, daemon=True)
            try:
                with signals_held():
                    process.start()
            except Exception as error:
                raise UserError(
                    f"the environment cannot be sent to another process ({in_one_line(error)}): "
                    "use --vectorization sync"
                ) from error
            theirs.close()
            self.processes.append(process)
            self._selector.register(pipe, selectors.EVENT_READ, index)
            self._selector.register(process.sentinel, selectors.EVENT_READ, ~index)
        self._gather(max(self._timeout, START_SECONDS))

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Reset every environment with its seed; `seed` is the list of seeds."""
        del options
        self._send("reset", [(x,) for x in seed])
        self._gather(self._timeout)
        return self._observations, {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Take a step in every environment."""
        self._steps += 1
        self._send("step", [(x,) for x in actions])
        answers = self._gather(self._timeout)
        reward, terminated, truncated, given = zip(*answers, strict=True)
        infos: dict[str, Any] = {}
        for i, info in enumerate(given):
            if info:
                infos = self._add_info(infos, info, i)
        return (
            self._observations,
            np.array(reward, np.float64),
            np.array(terminated, np.bool_),
            np.array(truncated, np.bool_),
            infos,
        )

    def call(self, name: str, *args: Any) -> tuple[Any, ...]:
        """Call a method of every environment with the same arguments."""
        self._send("call", [(name, args)] * self.num_envs)
        # A replay takes a reset and a step for each action.
        steps = 1 + max(map(len, args[-1])) if name == "replay" else 1
        return tuple(self._gather(self._timeout * steps))

    def _send(self, command: str, args: Sequence[tuple[Any, ...]]) -> None:
        for index, pipe in enumerate(self._pipes):
            try:
                pipe.send((command, args[index]))
            except OSError:
                raise self._lost(index) from None

    def _gather(self, timeout: float) -> list[Any]:
        """Wait for an answer from every worker; `_check` may end that."""
        answers: list[Any] = [None] * self.num_envs
        missing = set(range(self.num_envs))
        end = time.monotonic() + timeout
        while missing:
            events = self._wait(end)
            answered = missing.intersection(key.data for key, _ in events)
            for index in sorted(answered):
                answers[index] = self._receive(index)
            missing -= answered
            for index in missing.intersection(~key.data for key, _ in events):
                if not self._pipes[index].poll():  # its last answer comes first
                    raise self._lost(index)
            if missing and not events:
                self._kill(missing)
                raise self._failure(
                    min(missing), f"hangs: no answer within {timeout:g} s (--step-timeout)"
                )
        return answers

    def _wait(self, end: float) -> list[Any]:
        """Wait for workers until the time `end`; returns what has become of them."""
        try:
            while not (events := self._selector.select(min(POLL_SECONDS, end - time.monotonic()))):
                self._check()
                if time.monotonic() >= end:
                    break
        except QuitError:
            self._kill()
            raise
        return events

    def _receive(self, index: int) -> Any:
        try:
            fine, answer = self._pipes[index].recv()
        except (EOFError, OSError):
            raise self._lost(index) from None
        if not fine:
            raise EnvironmentFailedError(answer)
        return answer

    def _lost(self, index: int) -> EnvironmentFailedError:
        """Determine how a worker with a broken pipe ended, and return the error that says so."""
        process = self.processes[index]
        return self._failure(index, how_it_ended(process, early=not self._steps))

    def _failure(self, index: int, what: str) -> EnvironmentFailedError:
        return EnvironmentFailedError(
            f"the environments failed at step {self._steps}: the worker process of environment "
            f"{index} {what}"
        )

    def close_extras(self, **kwargs: Any) -> None:
        """End the workers; kill those that do not end when asked."""
        del kwargs
        for pipe in self._pipes:
            with contextlib.suppress(OSError):
                pipe.send(("close", ()))
        end = time.monotonic() + CLOSE_SECONDS
        for index, process in enumerate(self.processes):
            process.join(max(end - time.monotonic(), 0))
            self._take_notices(self._pipes[index])
            if process.exitcode is None:
                self._notice(
                    f"the worker process of environment {index} was asked to end after step "
                    f"{self._steps}, did not within {CLOSE_SECONDS:g} s, and was killed"
                )
        self._kill()
        atexit.unregister(self._kill)
        self._selector.close()
        for pipe in self._pipes:
            pipe.close()

    def _take_notices(self, pipe: Connection) -> None:
        """Read a worker's notices, which follow the answers that nothing waited for."""
        with contextlib.suppress(EOFError, OSError):
            while pipe.poll():
                answer = pipe.recv()
                for notice in answer[1] if answer[0] == "notices" else ():
                    self._notice(notice)

    def _kill(self, indices: Iterable[int] | None = None) -> None:
        killed = [self.processes[i] for i in indices] if indices is not None else self.processes
        for process in killed:
            process.kill()
        for process in killed:
            process.join(1)


# Functions of the worker process


def _work(
    index: int,
    maker: Callable[[], GuardedEnv],
    pipe: Connection,
    memory: Any,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
) -> None:
    """Serve one environment until the training process requests the end, or ends."""
    become_child()
    notices: list[str] = []
    env = None
    try:
        env = maker()
        env.notice = notices.append
        if env.observation_space != observation_space or env.action_space != action_space:
            raise EnvironmentFailedError(
                f"the environments differ: environment {index} has the spaces "
                f"{env.observation_space} and {env.action_space}, the first one made had "
                f"{observation_space} and {action_space}"
            )
        pipe.send((True, None))
        _serve(env, index, pipe, memory)
    except BaseException as error:
        message = f"the environment's worker raised {in_one_line(error)}\n{traceback.format_exc()}"
        if isinstance(error, UserError):
            message = error.line
        if isinstance(error, EnvironmentFailedError):
            message += f"\n{error.traceback}"
        with contextlib.suppress(OSError):
            pipe.send((False, message))
    if env is not None:
        env.close()
    with contextlib.suppress(OSError):
        pipe.send(("notices", notices))


def _serve(env: GuardedEnv, index: int, pipe: Connection, memory: Any) -> None:
    over = False
    while True:
        try:
            command, args = pipe.recv()
        except (EOFError, OSError):
            return
        answer: Any = None
        if command == "close":
            return
        if command == "call":
            name, values = args
            answer = getattr(env, name)(*values)
        elif command == "reset" or over:
            observation, _ = env.reset(seed=args[0]) if command == "reset" else env.reset()
            over, answer = False, (0.0, False, False, {})
            write_to_shared_memory(env.observation_space, index, observation, memory)
        else:
            observation, reward, terminated, truncated, info = env.step(args[0])
            over, answer = terminated or truncated, (reward, terminated, truncated, info)
            write_to_shared_memory(env.observation_space, index, observation, memory)
        pipe.send((True, answer))
