"""Where jobs run: a small interface, and the processes of this machine behind it."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from noisydqn.cores import usable_cores
from noisydqn.folders import File

CORES_VARIABLE = "NOISYDQN_CORES"
"""Environment variable that names the cores of a job, such as "0,1"."""

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables that limit the threads of libraries; JAX goes by the cores that a process may use."""


class Ended(NamedTuple):
    """A job that has ended, by its key, with the exit code of its process."""

    key: str
    code: int


class Pool(Protocol):
    """A place that runs commands, a few at a time."""

    @property
    def slots(self) -> int:
        """The number of commands that run at a time."""
        ...

    def start(self, key: str, arguments: Sequence[str], log: File) -> None:
        """Start a command in a free slot.

        Args:
            key: names it from then on.
            arguments: of `noisydqn`.
            log: what it prints is added to it.
        """
        ...

    def ended(self) -> list[Ended]:
        """Return the commands that have ended since the last call, without waiting."""
        ...

    def end(self, key: str) -> None:
        """Ask one command to save its run and to end."""
        ...

    def stop(self) -> None:
        """Ask all commands to save their runs and to end."""
        ...

    def wait(self) -> None:
        """Wait until all commands have ended."""
        ...

    def kill(self) -> None:
        """End all commands at once."""
        ...


MakePool = Callable[[int, int, Callable[[str], None]], Pool]
"""Makes a pool from a number of slots, the cores of each job, and what is told of warnings."""


class ProcessPool:
    """Processes of this machine, each pinned to cores of its own, which end with this process.

    A process holds one end of a pipe as its standard input. When this process ends, however that
    happens, the pipe closes, and the other one stops as if asked to.

    Args:
        command: the words before the arguments of `noisydqn`. The variable `NOISYDQN_CORES` names
            the cores of the process.
        slots: processes at a time. If there are more than cores suffice for, they share cores.
        cores: of each process.
    """

    def __init__(self, command: Sequence[str], slots: int, cores: int) -> None:
        self._command, self._cores = tuple(command), cores
        usable = usable_cores()
        self._free = [
            [usable[(slot * cores + i) % len(usable)] for i in range(min(cores, len(usable)))]
            for slot in range(slots)
        ]
        self._slots = slots
        self._running: dict[str, tuple[subprocess.Popen[bytes], list[int]]] = {}

    @property
    def slots(self) -> int:
        """The number of processes at a time."""
        return self._slots

    def start(self, key: str, arguments: Sequence[str], log: File) -> None:
        """Start a process in a free slot; see `Pool.start`."""
        cores = self._free.pop(0)
        with log.appending() as output:
            process = subprocess.Popen(  # noqa: S603
                [*self._command, *arguments],
                env=self._environment(cores),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches this process alone, which then decides
            )
        self._running[key] = process, cores

    def _environment(self, cores: Sequence[int]) -> Mapping[str, str]:
        limits = dict.fromkeys(THREADS, str(self._cores))
        return {**os.environ, **limits, CORES_VARIABLE: ",".join(map(str, cores))}

    def ended(self) -> list[Ended]:
        """Return the processes that have ended since the last call."""
        found: list[Ended] = []
        for key, (process, cores) in list(self._running.items()):
            if (code := process.poll()) is not None:
                del self._running[key]
                self._free.append(cores)
                if process.stdin is not None:
                    process.stdin.close()
                found.append(Ended(key, code))
        return found

    def end(self, key: str) -> None:
        """Ask one process to save its run and to end."""
        self._running[key][0].send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """Ask all processes to save their runs and to end."""
        for process, _ in self._running.values():
            process.send_signal(signal.SIGTERM)

    def wait(self) -> None:
        """Wait until all processes have ended."""
        for process, _ in self._running.values():
            process.wait()

    def kill(self) -> None:
        """Kill all processes, and what they have started."""
        for process, _ in self._running.values():
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
        self.wait()
