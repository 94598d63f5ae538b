"""The parts of a comparison: jobs, the ledger, estimates, endings, and their performance."""

import json
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.runs import create_folders

from noisydqn import Config, UserError
from noisydqn.errors import MissingExtraError, QuitError
from noisydqn.folders import File, Folder
from noisydqn.runners.stop import Stop
from noisydqn.study import perform, resources
from noisydqn.study.board import Board
from noisydqn.study.endings import reason_of
from noisydqn.study.estimate import (
    Pace,
    Whole,
    guess,
    in_words,
    read_pace,
    seconds_of,
    span,
)
from noisydqn.study.grid import Draft, Grid, Variant
from noisydqn.study.jobs import Cell, Job, cells_of, folder_names, jobs_of, with_environments
from noisydqn.study.ledger import Ledger, Stored, check_jobs, is_fresh, new, read
from noisydqn.study.perform import Performance
from noisydqn.study.pool import Ended

VARIANTS = tuple(Variant(f"exploration={x}", {"exploration": x}) for x in ("noisy", "greedy"))
GRID = Grid(("CartPole-v1", "Acrobot-v1"), VARIANTS, (0, 1), {"steps": 400, "video_seconds": 0.0})


def cells(grid: Grid = GRID) -> list[Cell]:
    return cells_of(grid, trust=False, typed=True)


def jobs(grid: Grid = GRID) -> list[Job]:
    return jobs_of(cells(grid), grid.seeds, together=False)


# Jobs


def test_jobs_have_the_options_and_folders_of_their_runs() -> None:
    first, second, *_, last = jobs()
    assert len(jobs()) == len(GRID) == 8
    assert first.folder == "CartPole-v1/exploration=noisy/seed-0"
    assert second.folder == "CartPole-v1/exploration=greedy/seed-0"
    assert last.folder == "Acrobot-v1/exploration=greedy/seed-1"
    assert first.label == "CartPole-v1, exploration=noisy, seed 0"
    assert first.options == {**GRID.options, "exploration": "noisy", "seed": 0}
    assert first.steps == 400
    config = last.cell.config
    assert (config.preset, config.environment.env) == ("acrobot", "Acrobot-v1")
    assert config.exploration == Config(exploration="greedy").exploration


def test_seeds_that_train_together_are_one_job() -> None:
    in_jax = [replace(cell, in_jax=cell.environment == "Acrobot-v1") for cell in cells()]
    whole, *_, alone = jobs_of(in_jax, (3, 4), together=True)
    assert whole.folder == "Acrobot-v1/exploration=noisy"
    assert [run.folder for run in whole.runs] == [f"{whole.folder}/seed3", f"{whole.folder}/seed4"]
    assert (whole.options["seed"], whole.options["num_seeds"]) == (3, 2)
    assert whole.label == "Acrobot-v1, exploration=noisy, seeds 3 to 4"
    assert not alone.together
    assert not any(job.together for job in jobs_of(in_jax, (3,), together=True))


def test_a_run_of_several_seeds_gives_options_for_one(tmp_path: Path) -> None:
    out, _ = create_folders(Config(env="CartPole-v1", num_seeds=2), tmp_path / "multi")
    (job,) = jobs(Grid((str(out),), GRID.variants[:1], (7,), {}))
    assert (job.options["seed"], job.options["num_seeds"]) == (7, 1)


def test_a_service_that_is_not_installed_is_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("noisydqn.runs.tracking._installed", lambda _: False)
    with pytest.raises(MissingExtraError, match="--track wandb needs the package wandb"):
        cells(Grid(GRID.environments, VARIANTS, (0,), {"track": ("wandb",)}))


def test_folders_are_safe_and_differ() -> None:
    names = ["ALE/Pong-v5", "ALE:Pong-v5", "../x", "a=b,c", "", "A=B,c", "é" * 300, "hidden=8 8"]
    found = folder_names(names)
    assert found["ALE/Pong-v5"] == "ALE-Pong-v5"
    assert found["ALE:Pong-v5"] == "ALE-Pong-v5-2"
    assert found["a=b,c"] == "a=b,c"
    assert len({name.lower() for name in found.values()}) == len(names)
    for name in found.values():
        assert name
        assert "/" not in name
        assert not name.startswith((".", "-"))
        assert len(name) < 120


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"environments": ("CartPole-v7",)}, "no environment 'CartPole-v7': did you mean"),
        (
            {"variants": (Variant("a", {}), Variant("b", {"exploration": "noisy"}))},
            "the variants a and b are equal in CartPole-v1, all of their options are the same",
        ),
        (
            {"environments": ("cartpole", "CartPole-v1")},
            "cartpole, exploration=noisy and CartPole-v1, exploration=noisy are equal",
        ),
        (
            {"variants": (Variant("fly", {"exploration": "fly"}),)},
            "CartPole-v1, fly: --exploration must be one of noisy, epsilon-greedy",
        ),
        (
            {"options": {"epsilon_final": 0.1}},
            "CartPole-v1, exploration=noisy: --epsilon-final 0.1 and --exploration noisy exclude",
        ),
        ({"options": {"discount": 2.0}}, "--discount must be between 0 and 1, got 2.0"),
    ],
)
def test_cells_that_are_refused(changes: dict[str, Any], message: str) -> None:
    grid = Grid(**{name: getattr(GRID, name) for name in Grid.__struct_fields__} | changes)
    with pytest.raises(UserError) as refused:
        cells(grid)
    assert message in str(refused.value)


def test_code_that_a_file_names_needs_trust() -> None:
    grid = Grid(("python:no_such_module.make",), VARIANTS, (0,), {})
    assert cells_of(grid, trust=False, typed=True)
    assert cells_of(grid, trust=True, typed=False)
    with pytest.raises(UserError, match=r"names code .*env python:no_such_module.make.*--trust"):
        cells_of(grid, trust=False, typed=False)


def test_environments_are_made_before_anything_runs() -> None:
    found = with_environments(cells())
    assert not any(cell.in_jax for cell in found)
    catcher = Grid(("catcher",), VARIANTS, (0,), {})
    assert all(cell.in_jax for cell in with_environments(cells(catcher)))
    bins = Grid(("CartPole-v1",), VARIANTS, (0,), {"action_bins": 5})
    with pytest.raises(UserError, match="--action-bins"):
        with_environments(cells(bins))
    convolutions = Grid(("CartPole-v1",), VARIANTS, (0,), {"torso": "nature"})
    with pytest.raises(UserError, match="CartPole-v1, exploration=noisy: "):
        with_environments(cells(convolutions))


# The ledger


def stored(grid: Grid = GRID) -> Stored:
    return new("noisydqn compare", grid, jobs(grid), cores=1, together=False)


def test_the_ledger_is_read_as_it_was_written(tmp_path: Path) -> None:
    kept = Ledger(Folder(tmp_path), stored())
    first, second, *_ = jobs()
    kept.note(first, "running")
    kept.note(first, "finished", seconds=1.5)
    kept.note(second, "failed", "the reason", seconds=1)
    assert read(tmp_path) == kept.stored
    written = json.loads((tmp_path / "compare.json").read_text())
    assert written["variants"][0] == {
        "name": "exploration=noisy",
        "options": {"exploration": "noisy"},
    }
    assert written["jobs"][1] == {
        "environment": "CartPole-v1",
        "variant": "exploration=greedy",
        "seed": 0,
        "folder": "CartPole-v1/exploration=greedy/seed-0",
        "status": "failed",
        "reason": "the reason",
        "seconds": 1.0,
    }
    assert (kept.status(first), kept.seconds(first)) == ("finished", 1.5)
    assert [x.folder for x in kept.tally("failed")] == [second.folder]
    assert read(tmp_path).grid.checked() == GRID.checked()


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (None, "holds no comparison (no compare.json): name a folder that noisydqn compare made"),
        ("{", "compare.json cannot be used (DecodeError: Input data was truncated"),
        ("{}", "missing required field `version`"),
        ("version", "(ValueError: version 9, expected 1): restore it from a copy, or use the"),
        ("status", "Invalid enum value 'lost'"),
    ],
)
def test_a_ledger_that_cannot_be_used(tmp_path: Path, contents: str | None, message: str) -> None:
    whole = stored()
    if contents == "version":
        whole.version = 9
    if contents is not None:
        Ledger(Folder(tmp_path), whole).write()
        text = (tmp_path / "compare.json").read_text()
        made = {"version": text, "status": text.replace("waiting", "lost")}
        (tmp_path / "compare.json").write_text(made.get(contents, contents))
    with pytest.raises(UserError) as refused:
        read(tmp_path)
    assert message in str(refused.value)


def test_a_folder_that_is_not_there_holds_no_comparison(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder: name that of a comparison"):
        read(tmp_path / "missing")


def test_a_ledger_of_other_runs_is_refused(tmp_path: Path) -> None:
    other = stored()
    other.jobs[0].folder = "../elsewhere"
    with pytest.raises(UserError, match="lists other runs than those of its grid"):
        check_jobs(other, jobs(), tmp_path)


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(File, "write", full)
    with pytest.raises(
        UserError, match=r"compare.json cannot be written: No space left .*--resume"
    ):
        Ledger(Folder(tmp_path), stored()).write()


def test_a_folder_is_fresh_until_a_comparison_is_in_it(tmp_path: Path) -> None:
    assert is_fresh(Folder(tmp_path / "missing"))
    assert is_fresh(Folder(tmp_path))
    (tmp_path / "lock").touch()
    (tmp_path / "compare.json.part").touch()
    assert is_fresh(Folder(tmp_path))
    (tmp_path / "other").touch()
    assert not is_fresh(Folder(tmp_path))


# Estimates


def test_a_job_takes_as_long_as_those_that_are_most_like_it() -> None:
    job = jobs()[0]
    cell, in_environment, elsewhere = job.cell, jobs()[1].cell, jobs()[-1].cell
    known = [Whole(elsewhere, 400, 400.0)]
    assert seconds_of(job, []) == guess(job) == 15 + 400 / 2_000
    assert seconds_of(job, known) == 400
    known.append(Whole(in_environment, 400, 40.0))
    assert seconds_of(job, known) == 40
    known += [Whole(cell, 400, 4.0), Whole(cell, 400, 8.0)]
    assert seconds_of(job, known) == 6


def test_a_span_is_divided_among_slots_but_for_the_longest() -> None:
    assert span([], 2) == 0
    assert span([10, 10, 10, 10], 2) == 20
    assert span([10, 100], 2) == 100


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "10 s"),
        (44, "40 s"),
        (100, "2 min"),
        (3_600, "60 min"),
        (9_000, "2.5 h"),
        (3e5, "3 days"),
    ],
)
def test_durations_are_rounded(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def test_the_pace_of_a_run_is_read_from_its_metrics(tmp_path: Path) -> None:
    file = Folder(tmp_path).file("metrics.csv")
    assert read_pace(file) is None
    path = tmp_path / "metrics.csv"
    path.write_text("step,seconds,loss\r\n")
    assert read_pace(file) is None
    path.write_text("step,seconds,loss\r\n100,5.0,1\r\n")
    assert read_pace(file) == Pace((100, 5.0), (100, 5.0))
    assert Pace((100, 5.0), (100, 5.0)).whole(500) is None
    path.write_text(
        "step,seconds,loss\r\n100,5.0,1\r\n" + "200,6.0,1\r\n" * 5_000 + "300,7.0,1\r\n400"
    )
    pace = read_pace(file)
    assert pace is not None
    assert pace == Pace((100, 5.0), (300, 7.0))
    assert pace.speed == 100
    assert pace.whole(500) == 9
    path.write_bytes(b"\xff\xfe\x00")
    assert read_pace(file) is None


# Endings


@pytest.mark.parametrize(
    ("code", "printed", "reason"),
    [
        (1, "noisydqn: old\n", "it ended with exit code 1"),
        (1, "noisydqn: old\nx\nnoisydqn: a \x1b reason\ny\n", "a \\x1b reason"),
        (-9, "noisydqn: old\n", "it was killed by SIGKILL, perhaps out of memory"),
        (-11, "noisydqn: old\n", "it was killed by SIGSEGV"),
        (143, "noisydqn: old\n", "it was stopped by SIGTERM"),
        (-15, "noisydqn: old\n", "it was stopped by SIGTERM"),
    ],
)
def test_reasons_are_one_line(tmp_path: Path, code: int, printed: str, reason: str) -> None:
    (tmp_path / "log").write_text(printed)
    start = len("noisydqn: old\n")
    assert reason_of(code, Folder(tmp_path).file("log"), start) == reason


def test_a_reason_without_a_log(tmp_path: Path) -> None:
    assert reason_of(3, Folder(tmp_path).file("log"), 0) == "it ended with exit code 3"


# Performance


class FakePool:
    """Runs each job in the moment it is looked at: `codes` says how it ends, by folder."""

    def __init__(self, codes: dict[str, int], slots: int = 2) -> None:
        self.codes, self.slots = codes, slots
        self.started: list[str] = []
        self.running: list[str] = []
        self.stopped = 0
        self.waited = self.killed = False

    def start(self, key: str, arguments: Sequence[str], log: File) -> None:
        assert len(self.running) < self.slots
        assert arguments == [key]
        self.started.append(key)
        self.running.append(key)
        code = self.codes.get(key, 0)
        line = "training diverged at update 3" if code == 1 else "it broke"
        with log.appending() as file:
            file.write(f"noisydqn: {line}\n".encode())

    def ended(self) -> list[Ended]:
        ended = [Ended(key, self.codes.get(key, 0)) for key in self.running]
        self.running.clear()
        return ended

    def end(self, key: str) -> None:
        raise AssertionError(key)

    def stop(self) -> None:
        self.stopped += 1

    def wait(self) -> None:
        self.waited = True

    def kill(self) -> None:
        self.killed = True


def performance(
    folder: Path, pool: FakePool, whole: Stored | None = None, stop: Stop | None = None
) -> tuple[Performance, Ledger]:
    kept = Ledger(Folder(folder), whole or stored())
    board = Board(len(GRID), quiet=False)
    made = Performance(
        Folder(folder), jobs(), kept, pool, lambda job: [job.folder], board, stop or Stop()
    )
    return made, kept


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perform, "POLL_SECONDS", 0.0)


def test_failed_and_diverged_runs_are_noted_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failed, diverged = jobs()[2].folder, jobs()[5].folder
    pool = FakePool({failed: 3, diverged: 1})
    made, kept = performance(tmp_path, pool)
    made.run()
    assert pool.started == [job.folder for job in jobs()]
    assert [x.folder for x in kept.tally("failed")] == [failed]
    assert [x.reason for x in kept.tally("failed")] == ["it broke"]
    assert [x.reason for x in kept.tally("diverged")] == ["training diverged at update 3"]
    assert len(kept.tally("finished")) == 6
    printed = capsys.readouterr()
    assert "failed: Acrobot-v1, exploration=noisy, seed 0: it broke" in printed.err
    assert "(8 of 8 runs, 1 failed, 1 diverged)" in printed.out
    assert "about " in printed.out


def test_what_ended_is_not_started_again_but_what_failed_is(tmp_path: Path) -> None:
    whole = stored()
    for entry, status in zip(whole.jobs, ("finished", "diverged", "failed"), strict=False):
        entry.status = status
    pool = FakePool({})
    made, kept = performance(tmp_path, pool, whole)
    made.run()
    assert pool.started == [job.folder for job in jobs()[2:]]
    assert len(kept.tally("diverged")) == 1


def test_a_stop_lets_the_rest_wait(tmp_path: Path) -> None:
    stop = Stop()

    class Stopped(FakePool):
        def ended(self) -> list[Ended]:
            if self.stopped:
                return super().ended()
            if len(self.running) == 2:
                stop.request(signal.SIGINT)
            return []

    pool = Stopped({jobs()[0].folder: 143, jobs()[1].folder: 0})
    made, kept = performance(tmp_path, pool, stop=stop)
    made.run()
    assert (len(pool.started), pool.stopped) == (2, 1)
    assert (len(kept.tally("waiting")), len(kept.tally("finished"))) == (7, 1)


def test_an_error_stops_the_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = FakePool({})
    made, kept = performance(tmp_path, pool)

    def full(*_: object, **__: object) -> None:
        raise UserError("no room")

    note = kept.note

    def noting(job: Job, status: Any, *args: Any, **kwargs: Any) -> None:
        (note if status == "running" else full)(job, status, *args, **kwargs)

    monkeypatch.setattr(kept, "note", noting)
    with pytest.raises(UserError, match="no room"):
        made.run()
    assert (pool.stopped, pool.waited, pool.killed) == (1, True, False)


def test_a_second_stop_kills_the_jobs(tmp_path: Path) -> None:
    stop = Stop()

    class Stopped(FakePool):
        def ended(self) -> list[Ended]:
            if self.running:
                stop.request(signal.SIGINT)
            return []

    pool = Stopped({})
    made, kept = performance(tmp_path, pool, stop=stop)
    with pytest.raises(QuitError):
        made.run()
    assert (pool.stopped, pool.killed) == (1, True)
    assert len(kept.tally("running")) == 2


# The plan


def test_accelerators_are_detected_without_jax(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    plugins: list[str] = []
    monkeypatch.setattr(resources, "entry_points", lambda group: plugins if group else None)
    assert not resources.has_accelerator()
    plugins.append("cuda")
    assert resources.has_accelerator()
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert not resources.has_accelerator()
    monkeypatch.setenv("JAX_PLATFORMS", "cuda,cpu")
    assert resources.has_accelerator()


def test_as_many_jobs_run_as_fit_into_memory() -> None:
    """The largest job needs 20 bytes."""
    sized = [
        replace(x, cell=replace(x.cell, experience=10 + 10 * i)) for i, x in enumerate(jobs()[:2])
    ]
    fitting = resources.fitting
    assert fitting(sized, 4, None, None) == fitting(sized, 4, 4, 80) == 4
    assert fitting(sized, 4, None, 79) == 3
    assert fitting(sized, 4, None, 5) == 1
    assert fitting(sized, 1, 1, 5) == 1  # what does not fit alone is refused elsewhere
    with pytest.raises(UserError, match=r"--jobs 4 need .* but .* are free: give --jobs 3, or"):
        fitting(sized, 4, 4, 79)


def test_an_empty_draft_is_not_a_grid() -> None:
    with pytest.raises(UserError, match="the grid is empty"):
        Draft().grid()
