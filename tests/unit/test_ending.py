"""Runs end in one way: saved, with the first cause in a line, and the code that belongs to it."""

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from gymnasium.envs.classic_control import CartPoleEnv
from tests.host_envs import CountingHostEnv, Raising
from tests.processes import LONG
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

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = tiny(steps=160)


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
