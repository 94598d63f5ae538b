"""Processes end in one way, whatever happens to them from outside, and no worker outlives them."""

import contextlib
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.host_envs import CountingHostEnv, Fatal
from tests.processes import LONG, all_gone, children, finish, has_rows, interrupt, start, wait_until
from tests.runs import tiny

import noisydqn
from noisydqn.checkpoint.reader import newest_whole
from noisydqn.errors import FAILED, EnvironmentFailedError
from noisydqn.runs.folder import RunFolder

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = tiny(steps=160)


# Signals, from outside


def test_sighup_saves_and_exits_with_129(tmp_path: Path) -> None:
    out = tmp_path / "run"
    argv = ("CartPole-v1", *LONG)
    printed = interrupt(out, out / "metrics.csv", *argv, number=signal.SIGHUP, code=129)
    assert "hung up after " in printed
    assert (out / "final.safetensors").exists()


def test_nohup_outlives_its_terminal(tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start("train", "CartPole-v1", *LONG, "--out", str(out), before=("nohup",))
    wait_until(lambda: has_rows(out / "metrics.csv"), process)
    os.killpg(process.pid, signal.SIGHUP)
    rows = (out / "metrics.csv").read_text().count("\n")
    wait_until(lambda: (out / "metrics.csv").read_text().count("\n") > rows + 1, process)
    os.killpg(process.pid, signal.SIGTERM)
    assert "terminated after" in finish(process, 143)


def test_a_terminal_that_is_closed_ends_a_run_that_is_saved(tmp_path: Path) -> None:
    """The process leads the terminal's session, so the kernel hangs it up; writing fails."""
    out, (ours, theirs) = tmp_path / "run", pty.openpty()
    command = "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    command += "from noisydqn.cli import run; run()"
    argv = [item for item in LONG if item != "--quiet"]
    process = subprocess.Popen(
        [sys.executable, "-c", command, "train", "CartPole-v1", *argv, "--out", str(out)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        text=True,
    )
    os.close(theirs)
    os.set_blocking(ours, False)

    def shown() -> bool:
        with contextlib.suppress(BlockingIOError):
            os.read(ours, 2**16)  # a terminal that nobody reads would block
        return has_rows(out / "metrics.csv")

    wait_until(shown, process)
    os.close(ours)
    finish(process, 129)
    assert (out / "final.safetensors").exists()
    assert newest_whole(RunFolder.at(out).checkpoints, pytest.fail) is not None


def test_the_second_ctrl_c_quits_at_once(tmp_path: Path) -> None:
    """While the environment takes a step that lasts for minutes."""
    out = tmp_path / "run"
    argv = ("train", "python:tests.host_envs.Sleepy", *LONG, "--out", str(out))
    process: Any = start(*argv)
    wait_until(lambda: "asleep" in process.stdout.readline(), process)
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    began = time.monotonic()
    printed = finish(process, 130)
    assert time.monotonic() - began < 5
    lines = ["interrupted: saving (repeat to quit without saving)", "noisydqn: interrupted"]
    assert printed.splitlines()[-2:] == lines
    assert not (out / "final.safetensors").exists()


# Worker processes

SUBPROCESS = ("--vectorization", "subprocess", "--num-envs", "2")


def with_workers(env: str, out: Path) -> tuple[Any, list[int]]:
    """Start a run with workers, and wait until it trains."""
    process = start("train", env, *LONG, *SUBPROCESS, "--out", str(out))
    wait_until(lambda: len(children(process.pid)) == 2, process)
    wait_until(lambda: has_rows(out / "metrics.csv"), process)
    return process, children(process.pid)


def test_ctrl_c_reaches_the_trainer_and_not_the_workers(tmp_path: Path) -> None:
    process, workers = with_workers("CartPole-v1", tmp_path / "run")
    assert len(workers) == 2
    os.killpg(process.pid, signal.SIGINT)
    began = time.monotonic()
    printed = finish(process, 130)
    assert time.monotonic() - began < 10
    assert "interrupted after" in printed
    assert "failed" not in printed
    assert all_gone(workers)


def test_ctrl_c_while_a_worker_takes_a_step_of_minutes(tmp_path: Path) -> None:
    """The trainer does not wait for the step, which the resumed run takes again."""
    out = tmp_path / "run"
    argv = ("train", "python:tests.host_envs.Sleepy", *LONG, *SUBPROCESS, "--out", str(out))
    process: Any = start(*argv)
    wait_until(lambda: "asleep" in process.stdout.readline(), process)
    workers = children(process.pid)
    os.killpg(process.pid, signal.SIGTERM)
    began = time.monotonic()
    printed = finish(process, 143)
    assert time.monotonic() - began < 10
    assert "terminated" in printed
    assert all_gone(workers)


def test_workers_end_with_a_trainer_that_is_killed(tmp_path: Path) -> None:
    process, workers = with_workers("CartPole-v1", tmp_path / "run")
    process.kill()
    assert len(workers) == 2
    assert all_gone(workers)
    process.communicate()


class Clinging(CountingHostEnv):
    """Does not let itself be closed in a worker process."""

    def close(self) -> None:
        if threading.current_thread().name == "MainThread" and "spawn" in str(sys.orig_argv):
            time.sleep(600)


def test_a_worker_that_cannot_be_closed_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run is complete all the same."""
    monkeypatch.setattr("noisydqn.envs.workers.CLOSE_SECONDS", 0.5)
    out = tmp_path / "run"
    result = noisydqn.train(env=Clinging, out=out, vectorization="subprocess", **SMALL)
    assert result.seeds[0].summary["evaluation"] is not None
    line = "the worker process of environment 1 was asked to end after step 80, did not within 0.5"
    assert line in capsys.readouterr().err


@pytest.mark.parametrize("how", ["SIGKILL", "exit"])
def test_a_lost_worker_is_the_cause_even_if_another_cannot_be_closed(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("noisydqn.envs.workers.CLOSE_SECONDS", 0.5)
    out = tmp_path / "run"
    options: dict[str, Any] = SMALL | {"vectorization": "subprocess"}
    line = "failed at step 2: the worker process of environment . (was killed|ended with exit)"
    with pytest.raises(EnvironmentFailedError, match=line) as caught:
        noisydqn.train(env=partial(Fatal, how), out=out, **options)
    assert caught.value.code == FAILED
    assert newest_whole(RunFolder.at(out).checkpoints, pytest.fail) is not None


# Threads and forks

FORKED = """
import os, sys, threading
import noisydqn

options = dict(env="CartPole-v1", steps=40, chunk_steps=40, hidden=(8,), num_envs=2, quiet=True)
options |= dict(evaluation_episodes=1, video_seconds=0, vectorization="subprocess")

if __name__ == "__main__":
    out = sys.argv[1]
    trains = lambda: print(noisydqn.train(out=out + "/thread", **options).seeds[0].summary["steps"])
    thread = threading.Thread(target=trains)
    thread.start()
    thread.join()
    sys.stdout.flush()
    if os.fork() == 0:
        try:
            noisydqn.train(out=out + "/fork", **options)
        except noisydqn.UserError as error:
            print(error, flush=True)
        os._exit(0)
    os.wait()
"""


def test_a_thread_trains_and_a_fork_is_refused(tmp_path: Path) -> None:
    """JAX's threads do not survive a fork: the child would hang for ever."""
    script = tmp_path / "script.py"
    script.write_text(FORKED)
    command = [sys.executable, "-W", "ignore", str(script), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.splitlines()[0] == "40"
    assert done.stdout.splitlines()[1].startswith("this process was forked from one in which JAX")
