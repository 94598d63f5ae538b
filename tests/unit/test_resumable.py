"""What is resumed, what is begun again, and what is refused: config, origin and checkpoints."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.host_envs import Cue
from tests.runs import results, tiny, train_until

import noisydqn
from noisydqn.checkpoint import origin
from noisydqn.checkpoint.origin import Origin
from noisydqn.checkpoint.reader import read_manifests
from noisydqn.cli import main
from noisydqn.config.config import Config
from noisydqn.errors import UserError
from noisydqn.options import hints_of
from noisydqn.runners.exploration import Noisy
from noisydqn.runs.folder import RunFolder
from noisydqn.runs.progress import StoredRun
from noisydqn.runs.resumable import FREE, differing

pytestmark = pytest.mark.slow


def short(**changes: Any) -> dict[str, Any]:
    """Options of a run of 80 steps, some of them changed."""
    return tiny(steps=80, evaluation_every=0) | changes


DEVICE = "noisydqn/Catcher-v0"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 80 steps."""
    out = tmp_path_factory.mktemp("trained") / "run"
    noisydqn.train(env=Cue, out=out, **short())
    return out


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of that run, to be changed."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def resume(out: Path, **options: Any) -> noisydqn.Result:
    return noisydqn.resume(out, trust=True, **options)


def edit(out: Path, **options: Any) -> None:
    """Change options of a run's config.json."""
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(config | options))


def stored(out: Path) -> StoredRun:
    """The record in the newest checkpoint of a run."""
    return StoredRun.decode(read_manifests(RunFolder.at(out).checkpoints)[0][0].run)


def contents(out: Path) -> dict[str, bytes]:
    """All files of a run but the lock."""
    files = [path for path in out.rglob("*") if path.is_file() and path.name != "lock"]
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


# The record


def test_a_checkpoint_records_config_and_origin(trained: Path) -> None:
    record = stored(trained)
    assert record.config == json.loads((trained / "config.json").read_text())
    sha256 = hashlib.sha256((trained / "config.json").read_bytes()).hexdigest()
    assert record.config_sha256 == sha256
    assert record.origin is not None
    assert record.origin == Origin.here()
    assert {
        "Python",
        "noisydqn",
        "jax",
        "jaxlib",
        "numpy",
        "gymnasium",
    } <= record.origin.versions.keys()
    parts: dict[str, Any] = msgspec.to_builtins(record.origin)
    assert all(parts[name] for name in ("system", "machine", "processor", "device", "cores"))


def test_gymnax_is_recorded_where_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(origin.sys.modules, "gymnax", origin)
    assert "gymnax" in Origin.here().versions
    monkeypatch.delitem(origin.sys.modules, "gymnax")
    assert "gymnax" not in Origin.here().versions


def test_a_package_that_is_not_installed_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """As this one is where it is used from its source."""
    monkeypatch.setattr(origin, "PACKAGES", ("noisydqn-tests-nothing",))
    assert Origin.here().versions["noisydqn-tests-nothing"] == "unknown"


OTHERS: dict[str, tuple[Any, str]] = {
    "versions": ({"jax": "0.1", "of-old": "1"}, "jax 0.1 (here "),
    "system": ("Plan 9", "system Plan 9 (here "),
    "machine": ("vax", "architecture vax (here "),
    "processor": ("Z80", "processor Z80 (here "),
    "device": ("abacus", "device abacus (here "),
    "cores": (1024, "cores 1024 (here "),
    "xla_flags": ("--fast", "XLA_FLAGS --fast (here "),
}


@pytest.mark.parametrize("part", OTHERS)
def test_what_differs_is_named_alone(part: str) -> None:
    value, words = OTHERS[part]
    here = Origin.here()
    then = msgspec.structs.replace(here, **{part: value})
    assert then.differences(here).startswith(words)
    assert then.differences(here).count("(here ") == 1
    assert not here.differences(here)


def test_a_run_that_was_made_elsewhere_is_resumed_with_a_warning(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = Origin.here()
    there = msgspec.structs.replace(here, cores=999, versions=here.versions | {"jax": "0.1"})
    with monkeypatch.context() as patch:
        patch.setattr(Origin, "here", lambda: there)
        resume(run, steps=120, quiet=True)
    capsys.readouterr()
    assert resume(run, steps=160, quiet=True).seeds[0].summary["steps"] == 160
    (warned,) = capsys.readouterr().err.splitlines()
    jax = here.versions["jax"]
    assert (
        f"was made elsewhere, with jax 0.1 (here {jax}), cores 999 (here {here.cores}): " in warned
    )
    assert warned.endswith("may not end with the bits of an uninterrupted one")


def test_a_run_that_was_made_here_is_resumed_without_a_word(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    resume(run, steps=120, quiet=True)
    assert capsys.readouterr().err == ""


# The config


@pytest.mark.parametrize("name", FREE)
def test_a_free_option_may_change(name: str, run: Path) -> None:
    """The run is resumed, and ends with the bits that it would have had."""
    values = {"steps": 120, "max_seconds": 500.0, "keep": 3, "track": [], "tuned_seeds": [3]}
    value = values.get(name, 7.5)
    edit(run, **{name: value})
    resume(run, steps=120, quiet=True)
    config = json.loads((run / "config.json").read_text())
    assert config[name] == value
    assert stored(run).config == config


def test_every_other_option_is_compared() -> None:
    """Each decides what is trained, evaluated or played."""
    options = Config().flat()
    assert not differing(options, options)
    for name in options:
        assert differing(options | {name: object()}, options) == [name] * (name not in FREE)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n_step": 7}, "--n-step 7 (was {n_step})"),
        ({"hidden": [8, 8], "seed": 5}, "--seed 5 (was 0), --hidden (8, 8) (was (8,))"),
        ({"exploration": "greedy"}, "--exploration greedy (was noisy)"),
    ],
)
def test_no_other_option_may_change(changes: dict[str, Any], words: str, run: Path) -> None:
    """The flags are named, and nothing is changed."""
    record, manifest = stored(run).config, next((run / "checkpoints").glob("checkpoint-*.json"))
    assert record is not None
    edit(run, **changes)
    if "exploration" in changes:
        edit_away(run, *hints_of(Noisy))
    before = contents(run)
    with pytest.raises(UserError) as caught:
        resume(run, quiet=True)
    assert str(caught.value) == (
        f"{run}/config.json differs from the config that {manifest} was trained with: "
        f"{words.format(**record)}; restore config.json, or train anew in another folder"
    )
    assert contents(run) == before
    noisydqn.resume(run, env=Cue, restart=True, quiet=True)  # with the new options


def edit_away(out: Path, *options: str) -> None:
    """Remove options from a run's config.json."""
    config = json.loads((out / "config.json").read_text())
    kept = {name: value for name, value in config.items() if name not in options}
    (out / "config.json").write_text(json.dumps(kept))


def test_the_config_of_the_second_seed_is_compared(tmp_path: Path) -> None:
    """Before the first is trained on."""
    noisydqn.train(env=Cue, out=tmp_path, **short(num_seeds=2))
    edit(tmp_path / "seed0", n_step=7)
    edit(tmp_path / "seed1", n_step=7)
    shutil.rmtree(tmp_path / "seed0" / "checkpoints")
    for name in ("metrics.csv", "best.safetensors", "final.safetensors"):
        (tmp_path / "seed0" / name).unlink()
    with pytest.raises(UserError, match=r"seed1/config.json differs from .*--n-step 7 \(was 5\)"):
        resume(tmp_path, steps=120, quiet=True)


def test_the_name_of_an_environment_that_is_passed_stays(run: Path) -> None:
    """Also if the file is not trusted: the run can be resumed by its name later."""
    before = json.loads((run / "config.json").read_text())
    noisydqn.resume(run, env=Cue, steps=120, quiet=True)
    assert json.loads((run / "config.json").read_text()) == before | {"steps": 120}
    noisydqn.train(env=Cue, out=run, resume=True, **short(steps=160))
    assert resume(run, steps=200, quiet=True).seeds[0].summary["steps"] == 200


# Checkpoints that are missing


def without_folder(checkpoints: Path) -> None:
    shutil.rmtree(checkpoints)


def emptied(checkpoints: Path) -> None:
    without_folder(checkpoints)
    checkpoints.mkdir()


def without_manifests(checkpoints: Path) -> None:
    for path in checkpoints.glob("checkpoint-*.json"):
        path.unlink()


GONE = [without_folder, emptied, without_manifests]


@pytest.mark.parametrize("remove", GONE)
@pytest.mark.parametrize("left", [{"metrics.csv"}, {"final.safetensors"}, {"best.safetensors"}])
def test_what_was_trained_is_not_begun_again(
    remove: Callable[[Path], None], left: set[str], run: Path
) -> None:
    remove(run / "checkpoints")
    for name in {"metrics.csv", "final.safetensors", "best.safetensors"} - left:
        (run / name).unlink()
    before = contents(run)
    words = (
        f"{run} holds no checkpoints, nothing was changed: train anew in another folder, or over "
        rf"what is there: noisydqn resume {run} --restart \(in Python restart=True\)"
    )
    with pytest.raises(UserError, match=words):
        resume(run, quiet=True)
    with pytest.raises(UserError, match=words):
        noisydqn.train(env=Cue, out=run, resume=True, **short())
    assert contents(run) == before


@pytest.mark.parametrize("remove", [*GONE, lambda _: None])
def test_restart_trains_from_the_beginning(
    remove: Callable[[Path], None], run: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says so, and ends with the same bits."""
    remove(run / "checkpoints")
    old_events = set((run / "tensorboard").iterdir())
    assert main(["resume", str(run), "--restart", "--trust"]) == 0
    said = capsys.readouterr().out
    assert f"{run} holds no checkpoint: training begins at step 0" in said.splitlines()
    assert results(run) == results(trained)
    assert len(list((run / "checkpoints").glob("checkpoint-*.json"))) == 1
    assert not old_events & set((run / "tensorboard").iterdir())


def test_restart_of_what_cannot_be_removed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied", f"{run}/checkpoints/state-00000001.bin")

    monkeypatch.setattr("noisydqn.runs.resumable.clear", refuse)
    words = "state-00000001.bin cannot be removed: Permission denied; make its folder writable"
    with pytest.raises(UserError, match=words):
        resume(run, restart=True)


def test_restart_of_seeds_that_are_trained_together(tmp_path: Path) -> None:
    options = short(num_seeds=2)
    noisydqn.train(env=DEVICE, out=tmp_path / "run", **options)
    before = {seed: results(tmp_path / "run" / seed) for seed in ("seed0", "seed1")}
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(UserError, match="run holds no checkpoints, nothing was changed"):
        noisydqn.resume(tmp_path / "run")
    noisydqn.resume(tmp_path / "run", restart=True, quiet=True)
    assert {seed: results(tmp_path / "run" / seed) for seed in before} == before
    words = f"it was trained together with others: resume {tmp_path / 'run'}"
    for restart in (False, True):
        with pytest.raises(UserError, match=words):
            noisydqn.resume(tmp_path / "run" / "seed0", restart=restart)
    (tmp_path / "run" / "seed1" / "config.json").unlink()
    words = "seed1 holds no config.json, nothing was changed: restore it, or repeat the command"
    with pytest.raises(UserError, match=words):
        noisydqn.resume(tmp_path / "run")


def test_one_of_several_seeds_is_restarted_alone(tmp_path: Path) -> None:
    """Where seeds take turns; the others stay."""
    noisydqn.train(env=Cue, out=tmp_path, **short(num_seeds=2))
    before = {seed: results(tmp_path / seed) for seed in ("seed0", "seed1")}
    shutil.rmtree(tmp_path / "seed1" / "checkpoints")
    with pytest.raises(UserError, match="seed1 holds no checkpoints, nothing was changed"):
        resume(tmp_path)
    resume(tmp_path / "seed1", restart=True, quiet=True)
    resume(tmp_path, quiet=True)
    assert {seed: results(tmp_path / seed) for seed in before} == before


def test_a_run_that_was_ended_before_its_first_checkpoint(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It begins again, and says that what it had trained is trained again."""
    out = tmp_path / "run"
    train_until(2, monkeypatch, env=Cue, out=out, **short())
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["none-yet"]
    resume(out)
    printed = capsys.readouterr()
    words = f"{out} was ended before its first checkpoint: what it had trained is trained again"
    assert words in printed.err
    assert f"{out} holds no checkpoint: training begins at step 0" in printed.out
    assert results(out) == results(trained)
    assert not (out / "checkpoints" / "none-yet").exists()


def test_a_run_that_was_ended_before_its_first_step(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is lost, so nothing is warned of."""
    (out := tmp_path / "run").mkdir()
    for name in ("config.json", "spaces.json"):
        shutil.copy(trained / name, out)
    (out / "metrics.csv").touch()
    resume(out)
    printed = capsys.readouterr()
    assert printed.err == ""
    assert f"{out} holds no checkpoint: training begins at step 0" in printed.out
    assert results(out) == results(trained)


def test_metrics_that_cannot_be_read_count_as_trained(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    for name in ("metrics.csv", "final.safetensors", "best.safetensors"):
        (run / name).unlink()
    (run / "metrics.csv").mkdir()
    with pytest.raises(UserError, match="holds no checkpoints, nothing was changed"):
        resume(run)


def test_every_test_that_the_guide_names_exists() -> None:
    root = Path(__file__).parent.parent.parent
    guide = (root / "docs" / "resume.md").read_text()
    tests = "".join(path.read_text() for path in (root / "tests").rglob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", guide)
    assert len(named) > 20
    assert not [name for name in named if f"def {name}(" not in tests]
    files = re.findall(r"`((?:tests|benchmarks)/[\w/]+\.py)`", guide)
    assert not [name for name in files if not (root / name).exists()]
