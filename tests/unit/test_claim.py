"""The lock of a run's folder, and folders that were half made: one run, one writer."""

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.host_envs import CountingHostEnv
from tests.runs import flags, tiny

import noisydqn
from noisydqn import folders
from noisydqn.checkpoint.lock import Lock
from noisydqn.errors import UserError
from noisydqn.folders import Folder
from noisydqn.runs import api
from noisydqn.runs.claim import is_half_made
from noisydqn.runs.folder import RunFolder
from noisydqn.runs.launch import Job

pytestmark = pytest.mark.slow

EARLY = {"lock", "config.json", "spaces.json"}


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


@contextmanager
def holding(folder: Path, program: str) -> Generator[tuple[int, int]]:
    """Another process that locks a folder and runs a program; gives its number and what it says."""
    code = (
        "import os, time\n"
        "from noisydqn.checkpoint.lock import Lock\n"
        "from noisydqn.folders import Folder\n"
        f"lock = Lock(Folder({str(folder)!r}), print)\n"
        f"lock.take()\n{program}"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    said = int(process.stdout.readline())
    try:
        yield process.pid, said
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


# Locks


def test_the_lock_of_another_process(tmp_path: Path) -> None:
    """It is named, and gone when it is killed."""
    with holding(tmp_path, "print(os.getpid(), flush=True); time.sleep(600)") as (process, _):
        words = f"{tmp_path} is being trained by process {process}, nothing was changed: wait until"
        with pytest.raises(UserError, match=words), Lock(Folder(tmp_path), pytest.fail):
            pass
    with Lock(Folder(tmp_path), pytest.fail):
        assert (tmp_path / "lock").read_text().split() == [str(os.getpid()), os.uname().nodename]


def test_the_lock_of_a_process_on_another_machine(tmp_path: Path) -> None:
    """Its number says nothing here."""
    with Lock(Folder(tmp_path), pytest.fail):
        (tmp_path / "lock").write_text("4194305 elsewhere\n")
        words = "is being trained by process 4194305 of elsewhere, nothing was changed"
        with pytest.raises(UserError, match=words), Lock(Folder(tmp_path), pytest.fail):
            pass


def test_a_lock_that_a_child_of_a_dead_process_holds(tmp_path: Path) -> None:
    """A fork has the locks of its parent: the dead one is named, and the child to be ended."""
    fork = (
        "child = os.fork()\n"
        "if child == 0:\n    os.close(1); time.sleep(600)\n"
        "print(child, flush=True); os._exit(1)"
    )
    with holding(tmp_path, fork) as (process, child):
        time.sleep(0.2)  # until it has ended
        words = (
            rf"was trained by process {process}, which has ended; a process that it started "
            rf"\({child}\) still holds its lock, nothing was changed: end that process"
        )
        with pytest.raises(UserError, match=words), Lock(Folder(tmp_path), pytest.fail):
            pass
        os.kill(child, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                with Lock(Folder(tmp_path), pytest.fail):
                    return
            except UserError:
                time.sleep(0.01)
        pytest.fail("it is still locked")


def test_a_dead_process_where_no_others_can_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS, which has no /proc."""
    monkeypatch.setattr("noisydqn.checkpoint.lock._users", lambda _: set[int]())
    with Lock(Folder(tmp_path), pytest.fail):
        for process in (2**22 + 1, 10**40):  # larger than any
            (tmp_path / "lock").write_text(f"{process}\n")
            words = r"which has ended; a process that it started \(number unknown\) still holds"
            with pytest.raises(UserError, match=words), Lock(Folder(tmp_path), pytest.fail):
                pass
        (tmp_path / "lock").write_text(f"{os.getppid()}\n")
        words = f"is being trained by process {os.getppid()}, "
        with pytest.raises(UserError, match=words), Lock(Folder(tmp_path), pytest.fail):
            pass


def broken_flock(number: int) -> Callable[..., None]:
    def flock(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    return flock


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_without_locks(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line warns, and the run goes on."""
    monkeypatch.setattr(fcntl, "flock", broken_flock(number))
    warnings: list[str] = []
    with Lock(Folder(tmp_path), warnings.append):
        assert (tmp_path / "lock").read_text().startswith(str(os.getpid()))
    assert warnings == [
        f"{tmp_path} is on a file system without locks ({os.strerror(number)}): a second process "
        "that trains this run is not refused, so start only one"
    ]


def test_a_lock_needs_a_folder_that_can_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    words = "cannot be written to: .*; make it writable, or copy the run to a folder that is"
    with pytest.raises(UserError, match=words), Lock(Folder(tmp_path / "file"), pytest.fail):
        pass


def test_a_lock_that_cannot_be_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", broken_flock(errno.EIO))
    words = "cannot be locked: Input/output error; copy the run to another file system"
    with pytest.raises(UserError, match=words), Lock(Folder(tmp_path), pytest.fail):
        pass


def test_a_lock_is_taken_again_in_a_folder_that_was_made_anew(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with Lock(Folder(out), pytest.fail) as lock:
        shutil.rmtree(out)
        lock.take()
        with pytest.raises(UserError, match="is being trained by"), Lock(Folder(out), pytest.fail):
            pass


# Folders of new runs


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """The jobs that would be trained. None is."""
    jobs: list[Job] = []

    def launch(job: Job, **_: Any) -> None:
        jobs.append(job)

    monkeypatch.setattr(api, "launch", launch)
    return jobs


def begin(out: Path, **options: Any) -> None:
    noisydqn.train(env=CountingHostEnv, out=out, **tiny(**options))


class KilledError(BaseException):
    """Stands for a kill: no code that cleans up can catch it, nor change a file."""


class MortalOs:
    """The module `os`, until a number of changes are made."""

    CHANGES = ("open", "mkdir", "rename", "link", "unlink", "rmdir", "fsync")

    def __init__(self, changes: int) -> None:
        self.left = changes

    def __getattr__(self, name: str) -> Any:
        if name not in self.CHANGES:
            return getattr(os, name)

        def change(*args: Any, **kwargs: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise KilledError
            return getattr(os, name)(*args, **kwargs)

        return change


def killed(changes: int, monkeypatch: pytest.MonkeyPatch, call: Callable[[], None]) -> bool:
    """Tell whether a call was killed, after a number of changes to files."""
    with monkeypatch.context() as patch:
        patch.setattr(folders, "os", MortalOs(changes))
        try:
            call()
        except KilledError:
            return True
    return False


@pytest.mark.usefixtures("launched")
@pytest.mark.parametrize("num_seeds", [1, 2])
def test_a_run_that_is_killed_before_it_trains(
    num_seeds: int, tmp_path: Path, launched: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any moment: its folder can be used again, with any options, and the run be resumed."""
    options = {"seed": 3, "num_seeds": num_seeds}
    changes = 0
    while killed(changes, monkeypatch, partial(begin, left := tmp_path / f"{changes}", **options)):
        changes += 1
        if not left.exists():
            continue
        assert is_half_made(RunFolder.at(left))
        for resume in (False, True):
            again = tmp_path / "again"
            shutil.copytree(left, again)
            begin(again, resume=resume, **options)
            assert [seed.run.seed for seed in launched.pop().seeds] == [3, 4][:num_seeds]
            shutil.rmtree(again)
        if len(list(left.rglob("config.json"))) == num_seeds:
            noisydqn.resume(left, trust=True)
            assert [seed.run.seed for seed in launched.pop().seeds] == [3, 4][:num_seeds]
        else:
            with pytest.raises(UserError, match=r"holds no (run|config\.json)"):
                noisydqn.resume(left, trust=True)
        begin(left, seed=7, n_step=2)
        assert names(left) == EARLY
        assert (config(left)["seed"], config(left)["n_step"]) == (7, 2)
        begin(left, seed=8, num_seeds=2)
        folders_of_seeds = {"seed8", "seed9"}
        files = {f"{seed}/{name}" for seed in folders_of_seeds for name in EARLY}
        assert names(left) == {"lock"} | folders_of_seeds | files
    assert changes > 10 * num_seeds


@pytest.mark.usefixtures("launched")
@pytest.mark.parametrize(
    "foreign",
    ["notes.txt", "config.json", "seed3/notes.txt", "checkpoints/mine", "seed3/seed4/lock"],
)
def test_what_others_left_is_not_touched(foreign: str, tmp_path: Path) -> None:
    """Not even a lock is left in a folder that is refused."""
    (tmp_path / foreign).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / foreign).write_text("{}")
    before = names(tmp_path)
    with pytest.raises(UserError, match=r"(is not empty|already holds a run), nothing was changed"):
        begin(tmp_path)
    assert names(tmp_path) == before


@pytest.mark.usefixtures("launched")
def test_a_link_is_not_part_of_a_half_made_folder(tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    (out / "checkpoints").symlink_to(elsewhere)
    with pytest.raises(UserError, match="is not empty, nothing was changed"):
        begin(out)


@pytest.mark.usefixtures("launched")
def test_a_seed_that_is_trained_is_not_removed(tmp_path: Path) -> None:
    begin(tmp_path, seed=3, num_seeds=2)
    with Lock(Folder(tmp_path / "seed4"), pytest.fail):
        with pytest.raises(UserError, match="seed4 is being trained by process"):
            begin(tmp_path, seed=7)
        with pytest.raises(UserError, match="seed4 is being trained by process"):
            noisydqn.resume(tmp_path, trust=True)
    assert config(tmp_path / "seed4")["seed"] == 4


def test_a_run_that_begins_while_its_folder_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is known as a run of ours at whatever moment it begins."""
    taken = folders.File.taken

    def taken_then_begun(file: folders.File) -> bool:
        was_taken = taken(file)
        for name in ("lock", "config.json"):
            (tmp_path / name).write_text("{}")
        return was_taken

    monkeypatch.setattr(folders.File, "taken", taken_then_begun)
    assert is_half_made(RunFolder.at(tmp_path))


def test_the_fastest_of_several_calls_has_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is whole, and of that call alone."""

    def launch(job: Job, **_: Any) -> Any:
        for _moment in range(20):
            assert config(job.out)["seed"] == job.config.run.seed
            assert names(job.out) == EARLY
            time.sleep(0.005)
        return job.config.run.seed

    monkeypatch.setattr(api, "launch", launch)

    def attempt(out: Path, seed: int) -> Any:
        try:
            return noisydqn.train(env=CountingHostEnv, out=out, **tiny(seed=seed))
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor(8) as pool:
        for number in range(10):
            out = tmp_path / f"{number}"
            outcomes = list(pool.map(attempt, [out] * 8, range(8)))
            won = [outcome for outcome in outcomes if isinstance(outcome, int)]
            lost = [outcome for outcome in outcomes if isinstance(outcome, str)]
            assert won
            assert config(out)["seed"] == won[-1] or len(won) > 1  # one after the other
            assert not [words for words in lost if "is being trained by process" not in words]


def test_two_commands_at_once(tmp_path: Path) -> None:
    """One trains, as if it were alone; the other is refused in a line."""
    out, go = tmp_path / "run", tmp_path / "go"
    code = (
        "import sys, time, pathlib, noisydqn.runs.api\n"
        "from noisydqn.cli import main\n"
        "print(flush=True)\n"
        f"while not pathlib.Path({str(go)!r}).exists(): pass\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    argv = ["train", "CartPole-v1", *flags(tiny(steps=80)), "--out", str(out), "--seed"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, *argv, str(seed)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in (1, 2)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    go.touch()
    errors = [process.communicate(timeout=240)[1] for process in processes]
    codes = [process.returncode for process in processes]
    assert sorted(codes) == [0, 2], errors
    winner, loser = codes.index(0), codes.index(2)
    refused = errors[loser].splitlines()[-1]
    held = f"{out} is being trained by process {processes[winner].pid}, nothing was changed"
    assert held in refused or "already holds a run, nothing was changed" in refused
    assert config(out)["seed"] == 1 + winner
    assert json.loads((out / "summary.json").read_text())["seed"] == 1 + winner
    files = {name.split("/")[0] for name in names(out)}
    tables = {"metrics.csv", "episodes.csv", "evaluations.csv", "tensorboard"}
    tables |= {"curves.png", "report.html"}
    weights = {"final.safetensors", "best.safetensors", "summary.json", "checkpoints"}
    assert files == EARLY | tables | weights
