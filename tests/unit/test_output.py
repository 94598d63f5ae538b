"""Output that cannot be written to: a line says so if it can, and the run goes on."""

import errno
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.host_envs import CountingHostEnv
from tests.processes import finish, start

from noisydqn.output import Lasting, lasting_output, lasting_streams, tell
from noisydqn.runs.folder import RunFolder
from noisydqn.runs.plots import read_columns


class Gone(io.StringIO):
    """A stream that raises."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error: Exception | None = error

    def write(self, text: str) -> int:
        if self.error is not None:
            raise self.error
        return super().write(text)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.EIO, "Input/output error"), 1),
        (ValueError("I/O operation on closed file"), 1),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 0),
    ],
)
def test_a_stream_that_is_gone_falls_silent(error: Exception, told: int) -> None:
    gone, errors = Gone(error), io.StringIO()
    stream = Lasting(gone, Lasting(errors))
    stream.writelines(["a\n", "b\n"])
    gone.error = None
    stream.write("c\n")
    stream.flush()
    assert not stream.isatty()
    assert gone.getvalue() == ""
    assert errors.getvalue().count("the output cannot be written to (") == told


def test_characters_that_a_stream_does_not_know_are_spelled() -> None:
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding="ascii") as ascii_only:
        stream = Lasting(ascii_only)
        stream.write("Å\n")
        stream.flush()
        assert raw.getvalue() == b"\\xc5\n"
        assert stream.encoding == "ascii"


def test_a_signal_in_the_middle_of_a_line_is_told(tmp_path: Path) -> None:
    class Reentered(Gone):
        def fileno(self) -> int:
            return opened.fileno()

    with (tmp_path / "log").open("w") as opened:
        Lasting(Reentered(RuntimeError("reentrant call"))).write("interrupted\n")
    assert (tmp_path / "log").read_text() == "interrupted\n"


def test_streams_that_were_closed_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    with lasting_output():
        print("nowhere")
        assert lasting_streams() == (sys.stdout, sys.stderr)
    tell("nowhere")
    assert sys.stdout is None


SHORT = (
    *("--steps", "160", "--chunk-steps", "40", "--learning-starts", "40", "--hidden", "8"),
    *("--evaluation-episodes", "1", "--evaluation-every", "80", "--video-seconds", "0"),
)


class Printing(CountingHostEnv):
    """Prints at each step."""

    def step(self, action: Any) -> Any:
        print("a step" * 1000)
        return super().step(action)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "vectorization"),
    [
        ("full", "subprocess"),
        ("full and quiet", "sync"),
        ("closed", "sync"),
        ("head", "subprocess"),
    ],
)
def test_a_run_goes_on_without_anywhere_to_print(
    how: str, vectorization: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    argv = ("train", "python:tests.unit.test_output.Printing", *SHORT, "--out", str(out))
    argv += ("--vectorization", vectorization)
    if how.startswith("full"):
        argv += ("--quiet",) if how.endswith("quiet") else ()
        with open("/dev/full", "w") as full:  # noqa: PTH123
            finish(start(*argv, stdout=full, stderr=full), 0)
    elif how == "closed":
        finish(start(*argv, before=("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh")), 0)
    else:
        process = start(*argv)
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        process.stdout = None
        finish(process, 0)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["evaluation"] is not None
    assert len(read_columns(RunFolder.at(out).metrics)["step"]) == 4
    assert (out / "curves.png").exists()
