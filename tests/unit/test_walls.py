"""What merely watches a run can fail: a line says so, and nothing else changes."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.runs import results, tiny

import noisydqn
from noisydqn.checkpoint.reader import newest_whole
from noisydqn.errors import UserError
from noisydqn.folders import File
from noisydqn.runs import seed, tables
from noisydqn.runs.folder import RunFolder
from noisydqn.runs.plots import read_columns
from noisydqn.runs.progress import StoredRun
from noisydqn.runs.tables import CsvFile
from noisydqn.runs.walls import Wall

SMALL: dict[str, Any] = tiny(steps=120)
STEPS_80: dict[str, Any] = {"steps": 80}
STEPS_160: dict[str, Any] = {"steps": 160}

# One wall


def test_a_wall_tells_the_first_failure_and_tries_nothing_more() -> None:
    lines: list[str] = []
    wall = Wall("the bell", lines.append)
    assert wall.call("", lambda: 3) == 3
    assert wall.call("at noon", lambda: 1 // 0) is None
    assert wall.call("at one", lambda: 3) is None
    assert wall.finish("in close", lambda: 4) == 4
    assert wall.finish("in close", lambda: 1 // 0) is None
    failure = "ZeroDivisionError: integer division or modulo by zero"
    assert lines == [f"the bell failed at noon: {failure}; the run goes on without it"]


def test_a_wall_holds_back_no_request_to_stop() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Wall("the bell", pytest.fail).call("", interrupted)


# Tables


def test_a_table_on_a_full_disk_keeps_whole_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    path = tmp_path / "metrics.csv"
    table = CsvFile(File.at(path), 0, lines.append)
    table.write({"step": 1, "loss": 0.5})
    write, size = os.write, table.size()

    def full(descriptor: int, data: bytes) -> int:
        if len(data) < 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[:3])

    with monkeypatch.context() as patch:
        patch.setattr(tables.os, "write", full)
        table.write({"step": 2, "loss": 0.25})
    table.write({"step": 3, "loss": 0.125})  # there is room again, but a row is missing
    assert table.size() == size
    table.close()
    assert path.read_bytes() == b"step,loss\r\n1,0.5\r\n"
    reason = "OSError: [Errno 28] No space left on device"
    assert lines == [f"{path} failed: {reason}; the run goes on without it"]


def test_a_table_that_cannot_be_opened_keeps_its_last_known_size(tmp_path: Path) -> None:
    lines: list[str] = []
    (tmp_path / "metrics.csv").mkdir()
    table = CsvFile(File.at(tmp_path / "metrics.csv"), 77, lines.append)
    table.write({"step": 1})
    assert table.size() == 77
    table.close()
    assert len(lines) == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"step,return\n1,2\n3,4x\n", "could not convert string to float: '4x'"),
        (b"step,return\n1,2\n3\n", "shorter than"),
        (b"1,2\n3,4\n", "it has no column return"),
        (b"step,loss\n1,2\n", "it has no column return"),
        (b"step,return\n\xff\xfe,2\n", "UnicodeDecodeError"),
        (b"step,return\n1,\x00\n", ""),
    ],
)
def test_a_damaged_table_is_named(text: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "episodes.csv").write_bytes(text)
    line = f"episodes.csv is damaged .*{reason}.*: restore it from a copy, or remove it"
    with pytest.raises(UserError, match=line):
        read_columns(File.at(tmp_path / "episodes.csv"), "return")


def test_a_table_without_rows_has_no_columns(tmp_path: Path) -> None:
    for text in ("", "step,return\n"):
        (tmp_path / "episodes.csv").write_text(text)
        assert read_columns(File.at(tmp_path / "episodes.csv")) == {}
    assert read_columns(File.at(tmp_path / "none.csv")) == {}


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_link(path: Path) -> None:
    path.rename(path.with_suffix(".old"))
    path.symlink_to(path.with_suffix(".old"))


def remove_header(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))


def spoil_digit(path: Path) -> None:
    path.write_text(path.read_text().replace("80", "8O"))


def write_garbage(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00" * 20)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "dropped"),
    [
        (make_folder, True),
        (make_link, True),
        (remove_header, True),
        (write_garbage, True),
        (spoil_digit, False),
    ],
)
def test_a_damaged_table_changes_nothing_of_a_resumed_run(
    damage: Callable[[Path], None],
    dropped: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options: dict[str, Any] = SMALL | {"env": "CartPole-v1"}
    noisydqn.train(out=tmp_path / "whole", **(options | STEPS_160))
    out = tmp_path / "run"
    noisydqn.train(out=out, **options)
    damage(out / "metrics.csv")
    before = (out / "metrics.csv").read_bytes() if (out / "metrics.csv").is_file() else b""
    capsys.readouterr()
    noisydqn.resume(out, steps=160, quiet=True)
    warned = capsys.readouterr().err
    assert warned.count("metrics.csv failed: ") == dropped
    assert warned.count("drawing the curves failed: ") == 1
    summary, whole = (
        json.loads((x / "summary.json").read_text()) for x in (out, out.parent / "whole")
    )
    assert summary["evaluation"] == whole["evaluation"] is not None
    if dropped and before:
        assert (out / "metrics.csv").read_bytes()[: len(before)] == before
    checkpoint = newest_whole(RunFolder.at(out).checkpoints, pytest.fail)
    assert checkpoint is not None
    sizes = StoredRun.decode(checkpoint.manifest.run).file_sizes[0]
    assert sizes[1] == (out / "episodes.csv").stat().st_size


# TensorBoard, trackers, plots, video


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The results of a run that nobody watched."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    noisydqn.train(env="CartPole-v1", out=out, **SMALL)
    return results(out)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["file", "link"])
def test_tensorboard_without_a_folder(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    noisydqn.train(env="CartPole-v1", out=out, **(SMALL | STEPS_80))
    for path in (out / "tensorboard").iterdir():
        path.unlink()
    (out / "tensorboard").rmdir()
    if kind == "file":
        (out / "tensorboard").write_text("mine")
    else:
        (out / "tensorboard").symlink_to(tmp_path)
    noisydqn.resume(out, steps=120, quiet=True)
    assert results(out)["summary"]["steps"] == 120
    assert results(out)["summary"]["evaluation"] is not None
    assert capsys.readouterr().err.count("TensorBoard failed in its construction: ") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


class Faulty:
    """A tracker that raises in one of its methods, each time."""

    def __init__(self, where: str, error: BaseException) -> None:
        self.where, self.error = where, error
        self.calls: dict[str, int] = dict.fromkeys(METHODS, 0)

    def _called(self, method: str) -> None:
        self.calls[method] += 1
        if method == self.where:
            raise self.error

    def chunk(self, *_: Any) -> None:
        self._called("chunk")

    def evaluation(self, *_: Any) -> None:
        self._called("evaluation")

    def close(self) -> None:
        self._called("close")


METHODS = ("chunk", "evaluation", "close")


@pytest.mark.slow
@pytest.mark.parametrize("error", [RuntimeError("no\nnetwork"), SystemExit("no network")])
@pytest.mark.parametrize("where", METHODS)
def test_a_tracker_that_raises_is_left_out(
    where: str,
    error: BaseException,
    whole: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    faulty, sound = Faulty(where, error), Faulty("", error)
    trackers: Any = [faulty, sound]
    out = tmp_path / "run"
    noisydqn.train(env="CartPole-v1", out=out, trackers=trackers, **SMALL)
    assert results(out) == whole
    lines = [x for x in capsys.readouterr().err.splitlines() if "the tracker Faulty failed" in x]
    assert len(lines) == 1
    assert f"in {where}" in lines[0]
    assert lines[0].endswith(f"{type(error).__name__}: no network; the run goes on without it")
    assert sound.calls == {"chunk": 3, "evaluation": 1, "close": 1}
    assert faulty.calls[where] == 1
    assert faulty.calls["close"] == 1


def maker(*_: Any) -> Any:
    """Make something that is not a tracker."""
    return 3


@pytest.mark.slow
def test_a_tracker_that_cannot_be_made_is_left_out(
    whole: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(*_: Any) -> Any:
        raise ConnectionError("no network")

    out = tmp_path / "run"
    noisydqn.train(env="CartPole-v1", out=out, trackers=[failing, maker], **SMALL)
    assert results(out) == whole
    told = capsys.readouterr().err
    assert "the tracker failing failed in its construction: ConnectionError: no network" in told
    assert "the tracker maker failed in its construction: TypeError: it made 3, which la" in told


@pytest.mark.slow
def test_plots_and_video_that_fail_in_any_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no fonts")

    monkeypatch.setattr(seed, "save_curves", fail)
    monkeypatch.setattr(seed, "save_film", fail)
    options: dict[str, Any] = SMALL | {"env": "FrozenLake-v1", "video_seconds": 1}
    result = noisydqn.train(out=tmp_path / "run", **options)
    assert result.seeds[0].summary["evaluation"] is not None
    assert capsys.readouterr().err.splitlines() == [
        "drawing the curves failed: RuntimeError: no fonts; the run goes on without it",
        "recording a video failed: RuntimeError: no fonts; the run goes on without it",
    ]


@pytest.mark.slow
def test_best_weights_that_cannot_be_written_now_are_written_at_the_end(
    whole: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(seed.SeedSession, "_save_best", full)
    out = tmp_path / "run"
    noisydqn.train(env="CartPole-v1", out=out, **SMALL)
    assert results(out) == whole
    assert capsys.readouterr().err.count("best.safetensors failed: ") == 1
