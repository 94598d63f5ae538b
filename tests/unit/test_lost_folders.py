"""Folders of a run that are removed or renamed while it is trained."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.host_envs import CountingHostEnv, Cue
from tests.runs import results, tiny, train_until

import noisydqn
from noisydqn.checkpoint.lock import Lock
from noisydqn.checkpoint.reader import newest_whole
from noisydqn.checkpoint.writer import CheckpointWriter
from noisydqn.errors import UserError
from noisydqn.folders import Folder
from noisydqn.runs import seed
from noisydqn.runs.callbacks import Callback, Training
from noisydqn.runs.folder import RunFolder
from noisydqn.runs.session import Session
from noisydqn.runs.tables import CsvFile

ENVS = {"device": "noisydqn/Catcher-v0", "host": CountingHostEnv}
EARLY = {"lock", "config.json", "spaces.json"}


class At(Callback):
    """Does something to the run's folder after a number of steps."""

    def __init__(self, steps: int, action: Callable[[Path], Any]) -> None:
        self.steps, self.action = steps, action

    def on_chunk(self, training: Training, _: Any, /) -> bool:
        if training.steps == self.steps:
            self.action(training.folder)
        return False


def options(**changes: Any) -> dict[str, Any]:
    return tiny(checkpoint_seconds=1e-9, **changes)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The results of runs that were left alone, on both runners."""
    outs = {kind: tmp_path_factory.mktemp(kind) / "run" for kind in ENVS}
    for kind, env in ENVS.items():
        noisydqn.train(env=env, out=outs[kind], **options())
    return {kind: results(out) for kind, out in outs.items()}


@pytest.fixture(autouse=True)
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints are whole before anything is removed."""
    save = CheckpointWriter.save

    def waiting(self: CheckpointWriter, *args: Any) -> None:
        save(self, *args)
        self.wait()

    monkeypatch.setattr(CheckpointWriter, "save", waiting)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def check_whole(out: Path) -> None:
    """The newest checkpoint can be resumed."""
    folder = RunFolder.at(out)
    assert newest_whole(folder.checkpoints, pytest.fail) is not None
    result = noisydqn.resume(out, trust=True, steps=tiny()["steps"] + 40, quiet=True)
    assert result.seeds[0].summary["steps"] == tiny()["steps"] + 40


# What is removed


def remove(checkpoints: Path) -> None:
    shutil.rmtree(checkpoints)


def empty(checkpoints: Path) -> None:
    for path in checkpoints.iterdir():
        path.unlink()


def replace(checkpoints: Path) -> None:
    remove(checkpoints)
    checkpoints.mkdir()


LOSSES = [remove, empty, replace]


@pytest.mark.slow
@pytest.mark.parametrize("lose", LOSSES)
@pytest.mark.parametrize("kind", ENVS)
def test_checkpoints_that_are_removed(
    kind: str,
    lose: Callable[[Path], None],
    tmp_path: Path,
    undisturbed: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The next one is whole."""
    out, lost = tmp_path / "run", At(200, lambda folder: lose(folder / "checkpoints"))
    noisydqn.train(env=ENVS[kind], out=out, callbacks=[lost], **options())
    assert capsys.readouterr().err == ""
    assert results(out) == undisturbed[kind]
    check_whole(out)


@pytest.mark.slow
@pytest.mark.parametrize("lose", LOSSES)
@pytest.mark.parametrize("env", [ENVS["device"], Cue])
def test_a_kill_after_checkpoints_were_removed(
    env: Any, lose: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is resumed from the next one, to the same bits."""
    noisydqn.train(env=env, out=tmp_path / "whole", **options())
    lost = At(200, lambda folder: lose(folder / "checkpoints"))
    train_until(8, monkeypatch, env=env, out=tmp_path / "run", callbacks=[lost], **options())
    noisydqn.resume(tmp_path / "run", trust=True, quiet=True)
    assert results(tmp_path / "run") == results(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ENVS)
def test_a_run_that_is_renamed(
    kind: str, tmp_path: Path, undisturbed: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """It goes on in the renamed folder, and says where it is."""
    out, new = tmp_path / "run", tmp_path / "renamed"
    renamed = At(200, lambda folder: folder.rename(new))
    result = noisydqn.train(env=ENVS[kind], out=out, callbacks=[renamed], **options(quiet=False))
    printed = capsys.readouterr()
    assert printed.err == ""
    assert f"curves, metrics and weights are in {new}\n" in printed.out
    assert f"next: noisydqn evaluate {new}" in printed.out
    assert result.folder == result.seeds[0].folder == new
    assert not out.exists()
    assert results(new) == undisturbed[kind]
    check_whole(new)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ENVS)
def test_a_run_that_is_removed(
    kind: str, tmp_path: Path, undisturbed: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """It is made anew, with all that it needs to be resumed, and a line says so."""
    out = tmp_path / "run"

    def check_lock(folder: Path) -> None:
        with pytest.raises(UserError, match="is being trained by"), Lock(Folder(folder), print):
            pass

    lost, locked = At(200, shutil.rmtree), At(240, check_lock)
    noisydqn.train(env=ENVS[kind], out=out, callbacks=[lost, locked], **options())
    assert capsys.readouterr().err == (
        f"{out} was removed while it was trained: it is made anew, with a checkpoint of all that "
        "was trained\n"
    )
    assert names(out) > EARLY
    assert results(out) == undisturbed[kind]
    check_whole(out)


@pytest.mark.slow
def test_a_removed_run_whose_name_is_taken(
    tmp_path: Path, undisturbed: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """The run that has taken it is left alone."""
    out = tmp_path / "run"

    def replace_run(folder: Path) -> None:
        shutil.rmtree(folder)
        folder.mkdir()
        (folder / "config.json").write_text("of another run")

    result = noisydqn.train(
        env=CountingHostEnv, out=out, callbacks=[At(200, replace_run)], **options()
    )
    new = tmp_path / "run-2"
    assert f"{out} was removed while it was trained: it is made anew as {new}, with" in (
        capsys.readouterr().err
    )
    assert result.folder == new
    assert names(out) == {"config.json"}
    assert results(new) == undisturbed["host"]
    check_whole(new)


@pytest.mark.slow
def test_a_run_that_is_removed_while_it_is_evaluated_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its weights and its summary are written again."""
    out = tmp_path / "run"

    def lose(folder: RunFolder) -> None:
        shutil.rmtree(folder.path)

    monkeypatch.setattr(seed, "save_curves", lose)
    noisydqn.train(env=CountingHostEnv, out=out, **options(steps=80))
    assert "was removed while it was trained" in capsys.readouterr().err
    assert names(out) == EARLY | {"final.safetensors", "best.safetensors", "summary.json"}
    assert noisydqn.evaluate(out, trust=True).returns


@pytest.mark.slow
def test_seeds_that_are_removed_while_the_second_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second is saved; the first can be trained again."""
    changes = options(steps=120, num_seeds=2)
    noisydqn.train(env=Cue, out=tmp_path / "whole", **changes)
    out = tmp_path / "run"

    def lose(folder: Path) -> None:
        if folder.name == "seed1":
            shutil.rmtree(folder.parent)

    noisydqn.train(env=Cue, out=out, callbacks=[At(40, lose)], **changes)
    assert capsys.readouterr().err.startswith(f"{out} was removed while it was trained")
    assert names(out / "seed0") == EARLY
    noisydqn.resume(out, trust=True, quiet=True)
    for name in ("seed0", "seed1"):
        assert results(out / name) == results(tmp_path / "whole" / name)


@pytest.mark.slow
def test_one_of_the_seeds_that_are_trained_together_is_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = options(num_seeds=2)
    noisydqn.train(env=ENVS["device"], out=tmp_path / "whole", **changes)
    out = tmp_path / "run"
    lost = At(200, lambda _: shutil.rmtree(out / "seed1", ignore_errors=True))
    noisydqn.train(env=ENVS["device"], out=out, callbacks=[lost], **changes)
    assert f"{out / 'seed1'} was removed while it was trained" in capsys.readouterr().err
    for name in ("seed0", "seed1"):
        assert results(out / name) == results(tmp_path / "whole" / name)


# Folders


def test_the_path_of_a_renamed_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Folder("run")
    assert folder.make()
    inner = folder.folder("inner")
    assert inner.make()
    assert inner.path == Path("run/inner")  # as it was named
    Path("run").rename("other")
    assert inner.file("file").path == tmp_path / "other/inner/file"
    inner.file("file").write(b"here")
    assert (tmp_path / "other/inner/file").read_bytes() == b"here"
    shutil.rmtree("other")
    assert folder.path == Path("run")
    assert not folder.exists()


def test_where_the_system_does_not_tell_the_new_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder(tmp_path / "run")
    folder.make()
    os.listdir(folder.handle)  # noqa: PTH208
    (tmp_path / "run").rename(tmp_path / "other")

    def refuse(_: Path) -> Path:
        raise OSError

    monkeypatch.setattr(Path, "readlink", refuse)
    assert folder.path == tmp_path / "run"


def test_a_removed_folder_is_made_anew(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "run")
    inner = folder.folder("inner")
    assert inner.make()
    assert not inner.make()
    shutil.rmtree(tmp_path / "run")
    assert inner.make()
    assert inner.names() == []
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "run").mkdir()  # by another process
    (tmp_path / "run-2").mkdir()
    assert folder.make()
    assert folder.path == tmp_path / "run-3"
    assert inner.make()
    inner.remove()
    assert names(tmp_path / "run-3") == set()


def test_a_run_that_is_removed_before_its_tables_are_opened(
    undisturbed: dict[str, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, start = tmp_path / "run", Session.__init__

    def removed(self: Session, *args: Any, **kwargs: Any) -> None:
        shutil.rmtree(out)
        start(self, *args, **kwargs)

    monkeypatch.setattr(Session, "__init__", removed)
    noisydqn.train(env=CountingHostEnv, out=out, **options())
    assert results(out) == undisturbed["host"]
    assert capsys.readouterr().err.count("was removed while it was trained") == 1


def test_a_run_that_is_removed_while_its_trackers_are_opened(
    undisturbed: dict[str, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """After two of the tables; the rest makes the folder anew, but writes no config."""
    out, opened, start = tmp_path / "run", [0], CsvFile.__init__

    def removed(self: CsvFile, *args: Any) -> None:
        opened[0] += 1
        if opened[0] == 3:
            shutil.rmtree(out)
        start(self, *args)

    monkeypatch.setattr(CsvFile, "__init__", removed)
    noisydqn.train(env=CountingHostEnv, out=out, **options())
    assert results(out) == undisturbed["host"]
    assert (out / "config.json").exists()
    err = capsys.readouterr().err
    assert err.count("was removed while it was trained") == err.count("\n") == 1
