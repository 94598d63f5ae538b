"""Runs end in one way: saved, with the first cause in a line, and the code that belongs to it."""

import contextlib
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from gymnasium.envs.classic_control import CartPoleEnv
from tests.host_envs import CountingHostEnv, Fatal, Raising
from tests.processes import all_gone, children, finish, has_rows, interrupt, start, wait_until
from tests.runs import results, tiny

import noisydqn
from noisydqn import Callback
from noisydqn.checkpoint.reader import newest_whole
from noisydqn.cli import main
from noisydqn.config.config import Config
from noisydqn.errors import (
    FAILED,
    REFUSED,
    EnvironmentFailedError,
    ExtensionFailedError,
    QuitError,
    StoppedError,
    UserError,
)
from noisydqn.runners.stop import Stop, stoppable
from noisydqn.runs import evaluations, seed
from noisydqn.runs.ending import Ending
from noisydqn.runs.folder import RunFolder
from noisydqn.runs.session import Session

SMALL: dict[str, Any] = tiny(steps=160)
LONG = (
    *("--steps", "1000000", "--chunk-steps", "100", "--hidden", "8", "--quiet"),
    *("--evaluation-episodes", "1", "--evaluation-every", "0", "--video-seconds", "0"),
)
"""Options of a run that would take hours."""


# The first cause


@contextmanager
def noted(*errors: BaseException, saves: bool = False) -> Generator[tuple[Ending, list[str]]]:
    """The end of a run in whose parts errors were raised, one after the other."""
    lines: list[str] = []
    ending = Ending(Stop(warn=lines.append), lines.append)
    for error in errors:
        with ending.noting("a part", saves=saves):
            raise error
    yield ending, lines


def test_later_failures_are_told_and_replace_nothing() -> None:
    with noted(ValueError("first"), UserError("second"), OSError("third")) as (ending, lines):
        assert str(ending.failure) == "first"
        assert lines == ["a part failed, too: second", "a part failed, too: OSError: third"]
        with pytest.raises(ValueError, match="first"):
            ending.conclude(Path("out"), Config())


def test_a_failure_after_a_signal_is_not_the_cause() -> None:
    with noted(KeyboardInterrupt(), UserError("second")) as (ending, lines):
        assert ending.stop.signal == signal.SIGINT
        assert ending.failure is None
        assert lines[0].startswith("interrupted: saving")
        assert lines[1:] == ["a part failed, too: second"]
        ending.conclude(Path("out"), Config())  # raises nothing


def test_a_signal_after_a_failure_is_not_the_cause() -> None:
    with noted(UserError("first"), KeyboardInterrupt(), StoppedError()) as (ending, _):
        assert str(ending.failure) == "first"
        with pytest.raises(UserError, match=r"^first$"):
            ending.conclude(Path("out"), Config())


def test_the_second_interrupt_leaves_at_once() -> None:
    for errors in ((KeyboardInterrupt(), KeyboardInterrupt()), (QuitError(),)):
        with pytest.raises(QuitError), noted(*errors):
            pass


@pytest.mark.parametrize(
    ("trained", "saves", "line", "code"),
    [
        (False, False, "first", REFUSED),
        (True, False, "first; what was trained until then is in out", FAILED),
        (True, True, "first", FAILED),
    ],
)
def test_the_line_says_what_is_saved(trained: bool, saves: bool, line: str, code: int) -> None:
    with noted(UserError("first"), OSError("no room"), saves=saves) as (ending, _):
        ending.trained = trained
        with pytest.raises(UserError) as caught:
            ending.conclude(Path("out"), Config())
        assert (str(caught.value), caught.value.code) == (line, code)


def test_a_file_that_cannot_be_written_is_a_line() -> None:
    with noted(OSError(28, "No space left on device", "out/a"), saves=True) as (ending, _):
        ending.trained = True
        line = "out/a cannot be written: No space left on device; make room .*noisydqn resume out$"
        with pytest.raises(UserError, match=line):
            ending.conclude(Path("out"), Config())


def test_a_hang_up_never_quits(capsys: pytest.CaptureFixture[str]) -> None:
    """A terminal that closes may send it twice, with another signal before or after."""
    del capsys
    with stoppable(lambda _: None) as stop:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
        assert (stop.signal, stop.word) == (signal.SIGHUP, "hung up")
        with pytest.raises(QuitError) as caught:
            signal.raise_signal(signal.SIGTERM)
    assert caught.value.signal == signal.SIGTERM


# Causes of all kinds


class Unlucky(CartPoleEnv):
    """Raises at one of its steps, in training or in evaluations, and when it is closed."""

    at = 31
    error: BaseException | None = None
    where = "MainThread"
    closing: BaseException | None = None

    taken = 0

    def step(self, action: Any) -> Any:
        self.taken += 1
        here = threading.current_thread().name == Unlucky.where
        if here and self.taken == Unlucky.at and Unlucky.error is not None:
            raise Unlucky.error
        return super().step(action)

    def close(self) -> None:
        if Unlucky.closing is not None:
            raise Unlucky.closing


@pytest.fixture
def unlucky(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def let(**attributes: Any) -> None:
        for name, value in attributes.items():
            monkeypatch.setattr(Unlucky, name, value)

    return let


@pytest.fixture
def whole(tmp_path: Path) -> dict[str, Any]:
    """The results of a run that was not interrupted."""
    noisydqn.train(env=Unlucky, out=tmp_path / "whole", **SMALL)
    return results(tmp_path / "whole")


def resumed(out: Path) -> dict[str, Any]:
    """The results of the rest of a run."""
    noisydqn.resume(out, trust=True, quiet=True)
    return results(out)


class Quarrelsome(Callback):
    """Raises after the second chunk."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def on_chunk(self, training: Any, *_: Any) -> None:
        if training.steps == 80:
            raise self.error


pytestmark = pytest.mark.slow
FILES = ("final", "best", "summary")


@pytest.mark.parametrize(
    ("attributes", "callbacks", "kind", "line"),
    [
        (
            {"error": RuntimeError("a cable is loose"), "closing": OSError("stuck")},
            [],
            EnvironmentFailedError,
            "it raised RuntimeError: a cable is loose; correct the environment",
        ),
        ({"error": SystemExit(3)}, [], EnvironmentFailedError, "it raised SystemExit: 3"),
        (
            {"error": SystemExit(3), "where": "evaluation", "at": 5},
            [],
            EnvironmentFailedError,
            "it raised SystemExit: 3",
        ),
        ({}, [Quarrelsome(SystemExit(3))], ExtensionFailedError, "on_chunk .*: SystemExit: 3"),
    ],
)
def test_what_fails_is_named_and_all_is_saved(
    attributes: dict[str, Any],
    callbacks: list[Callback],
    kind: type[UserError],
    line: str,
    unlucky: Callable[..., None],
    whole: dict[str, Any],
    tmp_path: Path,
) -> None:
    unlucky(**attributes)
    out = tmp_path / "run"
    with pytest.raises(kind, match=line) as caught:
        noisydqn.train(env=Unlucky, out=out, callbacks=callbacks, **SMALL)
    assert str(caught.value).endswith(f"; what was trained until then is in {out}")
    assert caught.value.code == FAILED
    assert all(getattr(RunFolder.at(out), name).exists() for name in FILES)
    unlucky(error=None, closing=None)
    assert resumed(out) == whole


@pytest.mark.parametrize("in_thread", [False, True])
def test_a_keyboard_interrupt_of_an_environment_is_a_stop(
    in_thread: bool, unlucky: Callable[..., None], whole: dict[str, Any], tmp_path: Path
) -> None:
    """As when a signal cannot be handled, in another thread than the main one."""
    out = tmp_path / "run"
    unlucky(error=KeyboardInterrupt(), where="trainer" if in_thread else "MainThread")
    found: list[noisydqn.Result] = []

    def train() -> None:
        found.append(noisydqn.train(env=Unlucky, out=out, **SMALL))

    if in_thread:
        thread = threading.Thread(target=train, name="trainer")
        thread.start()
        thread.join()
    else:
        train()
    assert found[0].signal == signal.SIGINT
    unlucky(error=None)
    assert resumed(out) == whole


def test_a_defect_is_noted_and_all_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defect(*_: Any) -> None:
        raise RuntimeError("never thought of")

    monkeypatch.setattr(Session, "_watch", defect)
    out = tmp_path / "run"
    with pytest.raises(RuntimeError, match="never thought of") as caught:
        noisydqn.train(env=CountingHostEnv, out=out, **SMALL)
    assert caught.value.__notes__ == [f"what was trained until then is in {out}"]
    assert newest_whole(RunFolder.at(out).checkpoints, pytest.fail) is not None


def test_the_command_shows_the_traceback_of_a_defect_and_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def defect(*_: Any) -> None:
        raise RuntimeError("never thought of")

    monkeypatch.setattr(Session, "_watch", defect)
    out = tmp_path / "run"
    assert main(["train", "CartPole-v1", *LONG, "--out", str(out)]) == FAILED
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first.startswith("Traceback")
    line = f"noisydqn: RuntimeError: never thought of; what was trained until then is in {out}"
    assert last == line


def no_room(*_: Any) -> None:
    raise OSError(28, "No space left on device", "final.safetensors")


def test_weights_that_cannot_be_saved_are_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(seed, "save_policy", no_room)
        line = "cannot be written: No space left .*noisydqn.resume"
        with pytest.raises(UserError, match=line) as caught:
            noisydqn.train(env=lambda: CountingHostEnv(), out=out, **SMALL)  # noqa: PLW0108
    assert caught.value.code == FAILED
    assert newest_whole(RunFolder.at(out).checkpoints, pytest.fail) is not None


def test_weights_that_cannot_be_saved_after_a_failure_are_told(
    unlucky: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The failure comes first, and does not claim that all was saved."""
    unlucky(error=RuntimeError("a cable is loose"))
    monkeypatch.setattr(seed, "save_policy", no_room)
    with pytest.raises(EnvironmentFailedError, match=r"correct the environment$"):
        noisydqn.train(env=Unlucky, out=tmp_path / "run", **SMALL)
    assert "saving the weights failed, too: OSError" in capsys.readouterr().err


def test_weights_that_cannot_be_saved_after_a_signal_are_told(
    unlucky: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    unlucky(error=KeyboardInterrupt())
    monkeypatch.setattr(seed, "save_policy", no_room)
    assert noisydqn.train(env=Unlucky, out=tmp_path / "run", **SMALL).interrupted
    printed = capsys.readouterr().err
    assert "saving the weights failed, too: OSError" in printed
    assert "weights and metrics are in" not in printed


def test_an_evaluation_that_hangs_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()

    def hang(*_: Any, **__: Any) -> None:
        over.wait(60)

    monkeypatch.setattr(evaluations, "START_SECONDS", 0.2)
    monkeypatch.setattr(evaluations, "evaluate", hang)
    out = tmp_path / "run"
    line = r"an evaluation hangs: .* within 1 s \(--step-timeout\); what was trained"
    try:
        with pytest.raises(EnvironmentFailedError, match=line):
            noisydqn.train(env=CountingHostEnv, out=out, step_timeout=1, **SMALL)
    finally:
        over.set()
    assert newest_whole(RunFolder.at(out).checkpoints, pytest.fail) is not None


def test_a_failure_before_anything_is_trained_is_a_refusal(tmp_path: Path) -> None:
    broken = partial(Raising, "reset", RuntimeError("no fuel"))
    with pytest.raises(EnvironmentFailedError, match=r"correct the environment$") as caught:
        noisydqn.train(env=broken, out=tmp_path / "run", **SMALL)
    assert caught.value.code == REFUSED


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
    argv = ("train", "python:tests.unit.test_ending.Sleepy", *LONG, "--out", str(out))
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


class Sleepy(CountingHostEnv):
    """Falls asleep in its second step in training."""

    def step(self, action: Any) -> Any:
        if self.time == 1:
            print("asleep", flush=True)
            time.sleep(600)
        return super().step(action)


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
    argv = ("train", "python:tests.unit.test_ending.Sleepy", *LONG, *SUBPROCESS, "--out", str(out))
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
