"""Jobs as tasks of a Ray cluster, which are started again where a worker or a node dies.

This module is imported on every node, too, and does not need JAX. All nodes share the folder of the
runs.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from noisydqn.checkpoint.lock import LOCKED_SECONDS, is_held
from noisydqn.cluster import ANSWER_SECONDS, RayCluster
from noisydqn.cores import usable_cores
from noisydqn.errors import FAILED, SIGNALLED, UserError, in_one_line
from noisydqn.folders import File, Folder
from noisydqn.study.endings import TOLD
from noisydqn.study.pool import CORES_VARIABLE, THREADS, Ended

RETRIES = 20
"""How often a job is started again because its worker or node died."""
LOOK_SECONDS = 5.0
"""Seconds between two looks at the nodes."""
LOST_SECONDS = 600.0
"""Seconds without any node that could run a job, after which a study stops."""
GRACE_SECONDS = 130.0
"""Seconds that a job has to save its run once it is asked to end: a little more than it takes
itself."""
POLL_SECONDS = 0.2
PASSED = ("NOISYDQN_", "JAX_", "XLA_")
"""Beginnings of environment variables that go along with a job."""


# The pool


class RayPool:
    """Tasks of a Ray cluster, each of which runs one command on some node.

    Args:
        cluster: the cluster.
        slots: tasks at a time, at most.
        cores: of each task.
        gpus: of each task; a part of one is shared with others.
        warn: told of nodes that are gone.

    Raises:
        UserError: no node has so many cores and GPUs.
    """

    def __init__(
        self,
        cluster: RayCluster,
        slots: int,
        cores: int,
        gpus: float,
        warn: Callable[[str], None],
    ) -> None:
        self._cluster, self._most = cluster, slots
        self._cores, self._gpus, self._warn = cores, gpus, warn
        task = cluster.ray.remote(run_command)
        self._task = task.options(num_cpus=cores, num_gpus=gpus, max_retries=RETRIES)
        self._running: dict[str, tuple[Any, File]] = {}
        self._alive = 0
        self._capacity = cluster.capacity(cores, gpus)
        self._looked = self._fitted = time.monotonic()

    @property
    def slots(self) -> int:
        """The number of tasks at a time: what the nodes can run that are there now."""
        self._look()
        return max(min(self._most, self._capacity), 1)

    def _look(self) -> None:
        """Look at the nodes from time to time.

        Raises:
            UserError: for too long, no node could run a task, or the cluster does not answer.
        """
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS and self._alive:
            return
        self._looked = now
        alive = sum(bool(node["Alive"]) for node in self._cluster.nodes())
        if alive < self._alive:
            self._warn(
                f"{self._alive - alive} of {self._alive} nodes of the Ray cluster are gone: their "
                "jobs continue on others from their newest checkpoints"
            )
        self._alive = alive
        self._capacity = self._cluster.capacity(self._cores, self._gpus)
        if self._capacity:
            self._fitted = now
        elif now - self._fitted > LOST_SECONDS:
            raise UserError(
                f"no node of the Ray cluster could run a job for {LOST_SECONDS / 60:.0f} minutes: "
                "add nodes, then repeat with --resume"
            )

    def start(self, key: str, arguments: Sequence[str], log: File) -> None:
        """Start a task; see `Pool.start`."""
        with log.appending():
            pass  # it exists, so a node that lacks it does not share the folder
        variables = {x: value for x, value in os.environ.items() if x.startswith(PASSED)}
        if not self._gpus:
            variables.setdefault("JAX_PLATFORMS", "cpu")  # a node's accelerator is for others
        elif self._gpus < 1:  # Ray counts shares, and JAX would take three quarters of the memory
            fraction = f"{0.9 * self._gpus:.3f}"
            variables.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", fraction)
        reference = self._task.remote(
            list(arguments), str(log.path.absolute()), variables, str(Path.cwd()), self._cores
        )
        self._running[key] = reference, log

    def ended(self) -> list[Ended]:
        """Return the tasks that have ended since the last call."""
        found: list[Ended] = []
        references = {reference: key for key, (reference, _) in self._running.items()}
        if not references:
            return found
        done, _ = self._cluster.ray.wait(list(references), num_returns=len(references), timeout=0)
        for reference in done:
            key = references[reference]
            _, log = self._running.pop(key)
            found.append(Ended(key, self._code(reference, log)))
        return found

    def _code(self, reference: Any, log: File) -> int:
        """Return the exit code of a task's command; the log tells of one that has none."""
        from ray.exceptions import TaskCancelledError

        try:
            return int(self._cluster.ray.get(reference, timeout=ANSWER_SECONDS))
        except TaskCancelledError:
            return SIGNALLED + signal.SIGTERM
        except Exception as error:
            cause = getattr(error, "cause", None)
            reason = in_one_line(cause if isinstance(cause, UserError) else error)
            with contextlib.suppress(OSError), log.appending() as file:
                file.write(f"{TOLD}{reason}\n".encode())
            return FAILED

    def end(self, key: str) -> None:
        """Ask one task to save its run and to end."""
        self._cancel(self._running[key][0])

    def stop(self) -> None:
        """Ask all tasks to save their runs and to end."""
        for reference, _ in self._running.values():
            self._cancel(reference)

    def _cancel(self, reference: Any, *, force: bool = False) -> None:
        with contextlib.suppress(Exception):  # the task has ended, or its node
            self._cluster.ray.cancel(reference, force=force)

    def wait(self) -> None:
        """Wait until all tasks have ended, or should have."""
        until = time.monotonic() + GRACE_SECONDS + ANSWER_SECONDS
        while self._running and time.monotonic() < until:
            self.ended()
            time.sleep(POLL_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End all tasks at once. Their commands notice, save their runs and end."""
        for reference, _ in self._running.values():
            self._cancel(reference, force=True)


# On a node


def run_command(
    arguments: Sequence[str], log: str, variables: Mapping[str, str], home: str, cores: int
) -> int:
    """Run a command of noisydqn on this node; returns its exit code.

    It is asked to save its run and to end when the task is cancelled, and by the end of its
    standard input when this process dies. A process of a task that died before may still hold the
    folder of the run while it saves it, and is waited for.

    Args:
        arguments: of `noisydqn`.
        log: the file to which it adds what it prints.
        variables: of its environment, besides this process's own.
        home: the folder in which it runs, if this node has it.
        cores: that it is to use.

    Raises:
        UserError: this node does not have the folder of the log.
    """
    if not Path(log).exists():
        raise UserError(
            f"the node {socket.gethostname()} has no file {log}: put --out into a folder that all "
            "nodes share"
        )
    _wait_for(Path(arguments[arguments.index("--out") + 1]))
    limits = dict.fromkeys(THREADS, str(cores))
    with (
        taken_cores(cores) as own,
        File.at(log).appending() as output,
        subprocess.Popen(  # noqa: S603
            [sys.executable, "-P", "-m", "noisydqn.cli.job", *arguments],
            env={**os.environ, **variables, **limits, CORES_VARIABLE: ",".join(map(str, own))},
            cwd=home if Path(home).is_dir() else None,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process,
    ):
        return _watched(process)


def _watched(process: subprocess.Popen[bytes]) -> int:
    """Wait for a command; a cancelled task, which is an interrupt here, stops it.

    If Ray's process of this node dies, the command is stopped, too, and this process crashes: so
    Ray starts the task again elsewhere, where the folder of the run has to be free.
    """
    until, node, orphaned = float("inf"), os.getppid(), False
    while (code := process.poll()) is None:
        try:
            if time.monotonic() > until:
                process.kill()
            time.sleep(POLL_SECONDS)
            orphaned = os.getppid() != node
            stopped = orphaned
        except KeyboardInterrupt:
            stopped = True
        if stopped and until == float("inf"):  # a second request would quit without saving
            process.terminate()
            until = time.monotonic() + GRACE_SECONDS
    if orphaned:
        os._exit(FAILED)
    return code


def _wait_for(folder: Path) -> None:
    """Wait until no process holds a run's folder; if one does for too long, train says so."""
    until = time.monotonic() + LOCKED_SECONDS
    while is_held(Folder(folder)) and time.monotonic() < until:
        time.sleep(POLL_SECONDS)


@contextlib.contextmanager
def taken_cores(number: int) -> Generator[Sequence[int]]:
    """Take cores of this node that no other task has taken; none if too few are left.

    Ray counts cores but does not choose them. Here each has a file, which is locked while its core
    is taken. The lock ends with the process, so it is never stale.
    """
    import fcntl

    folder = Path("/tmp") / f"noisydqn-cores-{os.getuid()}"  # noqa: S108 - of this node, not shared
    with contextlib.ExitStack() as stack:
        taken: list[int] = []
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700, exist_ok=True)
            for core in usable_cores():
                file = stack.enter_context((folder / str(core)).open("w"))
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    continue
                taken.append(core)
                if len(taken) == number:
                    break
        yield taken if len(taken) == number else ()
