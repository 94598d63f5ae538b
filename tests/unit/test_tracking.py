"""Services that track experiments get what the tables hold, and never harm a run."""

import csv
import json
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.runs import results, tiny
from tests.transaction_log import history

import noisydqn
from noisydqn import Callback, Config, Training, UserError
from noisydqn.cli.train import parse_train
from noisydqn.errors import MissingExtraError
from noisydqn.runs.folder import RunFolder, run_name
from noisydqn.runs.tracking import ID, SERVICES, Kind, check_installed, start_of
from noisydqn.runs.tracking.service import Row, Start

SMALL: dict[str, Any] = tiny(steps=160, env="CartPole-v1")
STEPS_320: dict[str, Any] = {"steps": 320}
Points = dict[str, list[tuple[int, float]]]
"""Steps and values by name."""


# The option


@pytest.mark.parametrize(
    ("argv", "names"),
    [
        (["--track", "wandb"], ("wandb",)),
        (["--track", "wandb", "trackio", "--steps", "10"], ("wandb", "trackio")),
        (["--track", "wandb,mlflow"], ("wandb", "mlflow")),
        (["--track=mlflow"], ("mlflow",)),
        (["--track", "[]"], ()),
    ],
)
def test_the_flag_takes_names(argv: list[str], names: tuple[str, ...]) -> None:
    _, options = parse_train(["CartPole-v1", *argv])
    assert Config(track=options["track"]).run.track == names


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["comet"], "--track must be names out of wandb, mlflow, trackio, got"),
        ("wandb", "--track must be names out of wandb, mlflow, trackio, got 'wandb'"),
        (["wandb", "wandb"], "--track must be names that each come once, got"),
    ],
)
def test_other_names_are_refused(given: Any, line: str) -> None:
    with pytest.raises(UserError, match=line):
        Config(track=given)


def test_the_flag_needs_a_name() -> None:
    form = r"--track needs a value: names out of .* \(none of them: --track \[\]\)"
    with pytest.raises(UserError, match=form):
        parse_train(["--track", "--quiet"])


def test_the_option_compiles_nothing_anew() -> None:
    assert Config(track=["wandb"]).program == Config().program


@pytest.mark.parametrize("given", ["wandb", ["wandb"]])
def test_a_name_among_trackers_is_told_its_place(given: Any, tmp_path: Path) -> None:
    options: dict[str, Any] = SMALL | {"out": tmp_path / "run", "trackers": given}
    line = "put it in brackets" if given == "wandb" else r"give track=\['wandb'\]"
    with pytest.raises(UserError, match=line):
        noisydqn.train(**options)


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("one", None),
        ("one/seed3", "one"),
        ("tune/CartPole-v1/trial-2/seed-7", "tune/CartPole-v1/trial-2"),
    ],
)
def test_runs_of_a_study_are_told_apart(name: str, group: str | None) -> None:
    assert run_name(RunFolder.at(Path("runs", name))) == (name, group)


def test_a_missing_package_is_refused_before_a_folder_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    line = r"--track mlflow needs the package mlflow.*: pip install 'noisydqn\[mlflow\]'"
    with pytest.raises(MissingExtraError, match=line):
        noisydqn.train(out=tmp_path / "run", track=["mlflow"], **SMALL)
    assert not (tmp_path / "run").exists()


def test_a_folder_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights & Biases makes one of its name where it is run."""
    (tmp_path / "wandb_like").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtraError, match="wandb_like"):
        check_installed(["wandb_like"])


# The id of a run


def test_a_run_keeps_its_id(tmp_path: Path) -> None:
    folder = RunFolder.at(tmp_path)
    first = start_of(folder, Config())
    assert ID.fullmatch(first.id)
    assert start_of(folder, Config()).id == first.id
    assert (first.name, first.group) == (tmp_path.name, None)
    assert first.options["learning_rate"] == Config().learning.learning_rate


def test_seeds_have_a_group(tmp_path: Path) -> None:
    (tmp_path / "one" / "seed3").mkdir(parents=True)
    start = start_of(RunFolder.at(tmp_path / "one" / "seed3"), Config())
    assert (start.name, start.group) == ("one/seed3", "one")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"id": 3}', '{"id": "../x"}', '{"id": "someone-elses-run"}', "[" * 9999],
)
def test_an_id_that_noisydqn_did_not_make_is_replaced(text: str, tmp_path: Path) -> None:
    folder = RunFolder.at(tmp_path)
    folder.tracking.path.write_text(text)
    new = start_of(folder, Config()).id
    assert ID.fullmatch(new)
    assert json.loads(folder.tracking.path.read_text()) == {"id": new}


# A service that keeps what it gets


class Fake:
    """A service that keeps all it gets, and raises in one of its methods, each time."""

    fails = ""
    opened: list["Fake"] = []  # noqa: RUF012 - of a test

    def __init__(self, start: Start) -> None:
        self.start, self.place = start, "nowhere"
        self.rows: list[Row] = []
        self.videos: list[tuple[bytes, int]] = []
        self.closed: list[bool] = []
        self.fail("start")
        self.opened.append(self)

    def fail(self, method: str) -> None:
        if method == self.fails:
            raise ConnectionError("no\nnetwork")

    def log(self, rows: Sequence[Row]) -> None:
        self.fail("log")
        self.rows += rows

    def video(self, path: Path, step: int) -> None:
        self.fail("video")
        self.videos.append((path.read_bytes(), step))

    def close(self, *, complete: bool) -> None:
        self.fail("close")
        self.closed.append(complete)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[Fake]:
    """A service in the place of Weights & Biases."""

    class Fresh(Fake):
        opened: list[Fake] = []  # noqa: RUF012 - of a test

    monkeypatch.setitem(SERVICES, "wandb", Kind("Weights & Biases", Fresh))
    monkeypatch.setattr("noisydqn.runs.tracking._installed", lambda _: True)
    return Fresh


def tables(out: Path) -> Points:
    """All numbers of a run's tables, by the names that services get, in order."""
    points: Points = {}
    for table in ("metrics", "episodes", "evaluations"):
        with (out / f"{table}.csv").open() as file:
            for row in csv.DictReader(file):
                for name, value in row.items():
                    if name != "step" and value not in ("", "nan"):
                        point = (int(row["step"]), float(value))
                        points.setdefault(f"{table}/{name}", []).append(point)
    return points


def points_of(rows: Sequence[tuple[int, Mapping[str, float]]]) -> Points:
    points: Points = {}
    for step, values in rows:
        for name, value in values.items():
            points.setdefault(name, []).append((step, value))
    return points


def without_result(points: Points) -> Points:
    return {name: x for name, x in points.items() if not name.startswith("final/")}


def check(points: Points, out: Path) -> None:
    """Compare what a service got of a resumed run with the tables.

    An evaluation that the checkpoint had not recorded comes twice, and points come in any order.
    """
    found = without_result(points)
    assert {x: set(y) for x, y in found.items()} == {x: set(y) for x, y in tables(out).items()}
    summary = json.loads((out / "summary.json").read_text())
    assert points["final/mean_return"][-1] == (
        summary["steps"],
        summary["evaluation"]["mean_return"],
    )


class Logs(Callback):
    """Logs values of its own."""

    def on_chunk(self, training: Training, *_: Any) -> None:
        training.log({"mine/thousandth": training.steps / 1_000})

    def on_end(self, training: Training, *_: Any) -> None:
        training.log({"mine/end": 1})


def test_a_service_gets_what_the_tables_hold(fake: type[Fake], tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = noisydqn.train(out=out, track=["wandb"], callbacks=[Logs()], **SMALL)
    (service,) = fake.opened
    points = points_of(service.rows)
    assert points.pop("mine/thousandth") == [(x, x / 1_000) for x in (40, 80, 120, 160)]
    assert points.pop("mine/end") == [(160, 1)]
    evaluation = result.seeds[0].summary["evaluation"]
    assert points.pop("final/mean_return") == [(160, evaluation["mean_return"])]
    assert without_result(points) == tables(out)
    assert service.closed == [True]
    assert service.start.options["steps"] == 160


def test_a_resumed_run_continues_with_its_services(fake: type[Fake], tmp_path: Path) -> None:
    out = tmp_path / "run"
    noisydqn.train(out=out, track=["wandb"], **SMALL)
    noisydqn.resume(out, steps=240, quiet=True)
    first, second = fake.opened
    assert first.start.id == second.start.id
    check(points_of(first.rows + second.rows), out)
    noisydqn.resume(out, restart=True, quiet=True)
    assert fake.opened[-1].start.id != first.start.id
    noisydqn.train(out=out, resume=True, track=[], **(SMALL | STEPS_320))
    assert len(fake.opened) == 3


@pytest.mark.slow
def test_a_service_gets_the_video(fake: type[Fake], tmp_path: Path) -> None:
    out = tmp_path / "run"
    options: dict[str, Any] = SMALL | {"env": "FrozenLake-v1", "video_seconds": 1}
    noisydqn.train(out=out, track=["wandb"], **options)
    assert fake.opened[0].videos == [((out / "policy.mp4").read_bytes(), 160)]
    noisydqn.resume(out, quiet=True)  # which records nothing
    assert fake.opened[1].videos == []
    assert fake.opened[1].closed == [True]


@pytest.mark.slow
def test_each_seed_is_a_run(fake: type[Fake], tmp_path: Path) -> None:
    options: dict[str, Any] = SMALL | {"env": "noisydqn/Catcher-v0", "num_seeds": 2}
    noisydqn.train(out=tmp_path / "run", track=["wandb"], **options)
    assert [x.start.name for x in fake.opened] == ["run/seed0", "run/seed1"]
    for service in fake.opened:
        points = without_result(points_of(service.rows))
        assert points == tables(tmp_path / service.start.name)


@pytest.fixture(scope="module")
def unwatched(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The results of a run that no service tracks."""
    out = tmp_path_factory.mktemp("runs") / "run"
    noisydqn.train(out=out, **SMALL)
    return results(out)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["start", "log", "close"])
def test_an_error_in_a_service_stops_nothing_and_is_told_once(
    where: str,
    fake: type[Fake],
    unwatched: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fake.fails = where
    noisydqn.train(out=tmp_path / "run", track=["wandb"], **SMALL)
    found = results(tmp_path / "run")
    assert found == unwatched
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tracking with Weights & Biases failed in ")
    assert line.endswith(": ConnectionError: no network; the run goes on without it")


def test_a_package_that_is_gone_stops_no_resumed_run(
    fake: type[Fake],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    noisydqn.train(out=tmp_path / "run", track=["wandb"], **SMALL)
    monkeypatch.setattr("noisydqn.runs.tracking._installed", lambda _: False)
    result = noisydqn.resume(tmp_path / "run", steps=200, quiet=True)
    assert result.seeds[0].summary["steps"] == 200
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install 'noisydqn[wandb]'; the run goes on without it" in line
    assert len(fake.opened) == 1


# The services themselves, on this machine alone


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let nothing in this process connect to another machine, and fail if something tries."""
    tried: list[Any] = []
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: Any) -> None:
        if self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "::1", "localhost"):
            return connect(self, address)
        tried.append(address)
        raise ConnectionRefusedError(f"a test may not connect to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    yield
    assert tried == []


@pytest.fixture
def wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    wandb: Any = pytest.importorskip("wandb")
    folder = tmp_path / "kept"
    folder.mkdir()
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(folder))
    yield folder / "wandb"
    wandb.teardown()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.usefixtures("no_network")
def test_wandb_offline(wandb_offline: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    noisydqn.train(out=out, track=["wandb"], **SMALL)
    noisydqn.resume(out, steps=240, quiet=True)
    logs = sorted(wandb_offline.glob("offline-run-*/run-noisydqn-*.wandb"))
    assert len({log.name for log in logs}) == 1
    rows = [row for log in logs for row in history(log)]
    points = points_of([(int(row["step"]), row) for row in rows])
    check({name: x for name, x in points.items() if name[0] != "_" and name != "step"}, out)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.usefixtures("no_network")
def test_mlflow_in_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow: Any = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    out = tmp_path / "run"
    options: dict[str, Any] = SMALL | {"env": "FrozenLake-v1", "video_seconds": 1}
    noisydqn.train(out=out, track=["mlflow"], **options)
    noisydqn.resume(out, steps=240, quiet=True)
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("noisydqn")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["learning_rate"] == str(Config().learning.learning_rate)
    points: Points = {
        name: [(x.step, x.value) for x in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
    }
    check(points, out)
    (file,) = tmp_path.glob("mlruns/*/*/artifacts/policy.mp4")
    assert file.read_bytes() == (out / "policy.mp4").read_bytes()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.usefixtures("no_network")
def test_mlflow_that_cannot_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mlflow")
    (tmp_path / "mlruns").write_text("a file in the place of the folder")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    result = noisydqn.train(out=tmp_path / "run", track=["mlflow"], **SMALL)
    assert result.seeds[0].summary["steps"] == 160
    lines = [x for x in capsys.readouterr().err.splitlines() if "tracking with MLflow failed" in x]
    assert len(lines) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.usefixtures("no_network")
def test_wandb_without_a_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wandb: Any = pytest.importorskip("wandb")
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    result = noisydqn.train(out=tmp_path / "run", track=["wandb"], **SMALL)
    wandb.teardown()
    assert result.seeds[0].summary["steps"] == 160
    (line,) = capsys.readouterr().err.splitlines()
    assert "nobody is logged in: run wandb login, or set WANDB_MODE=offline; the run goes" in line


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.usefixtures("no_network")
def test_trackio_in_its_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is imported
    pytest.importorskip("trackio")
    storage: Any = pytest.importorskip("trackio.sqlite_storage").SQLiteStorage
    out = tmp_path / "run"
    noisydqn.train(out=out, track=["trackio"], **SMALL)
    noisydqn.resume(out, steps=240, quiet=True)
    (run,) = storage.get_runs("noisydqn")
    rows = storage.get_logs("noisydqn", run)
    points = points_of([(row["step"], row) for row in rows])
    check({name: x for name, x in points.items() if "/" in name}, out)
