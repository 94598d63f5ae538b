"""Environments in separate processes: whatever happens to a process is detected."""

import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.host_envs import CountingHostEnv, Fatal, Raising

from noisydqn.envs.guard import GuardedEnv, guarded
from noisydqn.envs.workers import WorkerVector
from noisydqn.errors import EnvironmentFailedError, UserError


def vector(*makers: Any, timeout: float = 60.0, notices: list[str] | None = None) -> WorkerVector:
    env = CountingHostEnv()
    return WorkerVector(
        [partial(guarded, maker, i) for i, maker in enumerate(makers)],
        env.observation_space,
        env.action_space,
        timeout=timeout,
        notice=([] if notices is None else notices).append,
    )


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("SIGKILL", "was killed by SIGKILL"),
        ("SIGSEGV", "was killed by SIGSEGV"),
        ("exit", "ended with exit code 3"),
        ("sleep", r"hangs: no answer within 0.5 s \(--step-timeout\)"),
    ],
)
def test_a_worker_that_is_lost_is_named(how: str, message: str) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    envs = vector(CountingHostEnv, partial(Fatal, how))
    envs.reset(seed=[0, 1])
    envs.step(np.array([0, 0]))
    if how == "sleep":
        envs._timeout = 0.5  # pyright: ignore[reportPrivateUsage]
    began = time.monotonic()
    where = "the environments failed at step 2: the worker process of environment 1 "
    with pytest.raises(EnvironmentFailedError, match=f"^{where}{message}"):
        envs.step(np.array([0, 0]))
    envs.close()
    assert time.monotonic() - began < 10
    assert all(process.exitcode is not None for process in envs.processes)
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


def test_what_a_worker_raises_is_raised_here() -> None:
    """In its constructor, and while closing, which ends nothing."""
    with pytest.raises(EnvironmentFailedError, match="worker raised RuntimeError: no 100% fuel"):
        vector(partial(Raising, "constructor", RuntimeError("no 100% fuel")))
    notices: list[str] = []
    envs = vector(partial(Raising, "close", RuntimeError("stuck")), notices=notices)
    envs.reset(seed=[0])
    envs.close()
    assert notices == ["the environment's close() raised RuntimeError: stuck; it was ignored"]


def test_a_maker_that_no_process_can_take() -> None:
    lock = sys.stdout.buffer
    with pytest.raises(UserError, match=r"cannot be sent to another process .*vectorization sync"):
        vector(lambda: lock and CountingHostEnv())


def test_workers_end_with_the_process_that_trains(tmp_path: Path) -> None:
    """Even if it is killed while they take a step: nobody holds its standard output then."""
    script = tmp_path / "trainer.py"
    script.write_text(
        """
from functools import partial
import numpy as np
from tests.host_envs import Fatal
from tests.unit.test_workers import vector

if __name__ == "__main__":
    envs = vector(partial(Fatal, "sleep"), partial(Fatal, "sleep"))
    envs.reset(seed=[0, 1])
    envs.step(np.zeros(2, int))
    print("ready", flush=True)
    envs.step(np.zeros(2, int))
"""
    )
    code = "import runpy, sys; sys.path.insert(0, '.'); runpy.run_path(sys.argv[1], {}, '__main__')"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(script)], stdout=subprocess.PIPE, text=True
    ) as trainer:
        assert trainer.stdout is not None
        assert trainer.stdout.readline() == "ready\n"
        trainer.kill()
        output, _ = trainer.communicate(timeout=10)
        assert output == ""


def test_a_guard_of_an_environment_that_cannot_be_closed() -> None:
    notices: list[str] = []
    env = GuardedEnv(Raising("close", SystemExit(3)), 0, notices.append)
    env.close()
    assert notices == ["the environment's close() raised SystemExit: 3; it was ignored"]
