"""The journal of a tuning, and tunings whose runs are made up in a moment."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from tests.commands import refused

from noisydqn import UserError, load_preset
from noisydqn.folders import File, Folder
from noisydqn.study import journal as journals
from noisydqn.study import perform
from noisydqn.study.jobs import Job
from noisydqn.study.ledger import read
from noisydqn.study.pool import Ended
from noisydqn.study.trials import curve_points, numbered, objective
from noisydqn.study.tune import Request, tune
from noisydqn.study.tuning import read_tuning

optuna = pytest.importorskip("optuna")

# Curves


def test_the_value_of_a_trial_is_an_interquartile_mean() -> None:
    values = [1.0, 9.0, 2.0, 100.0, 4.0]
    assert objective(values) == stats.trim_mean(values, 0.25) == 5.0
    assert objective([3.0]) == 3.0


def test_curves_of_seeds_follow_one_another() -> None:
    first = numbered([(105, 1.0), (210, 3.0)], 100)
    second, third = {1: 3.0, 2: 5.0}, {2: 7.0}
    assert first == {1: 1.0, 2: 3.0}
    assert curve_points([first, {}, {}], [False, False, False], 2) == first
    # The second run is ahead, but counts only from the end of the first on.
    assert curve_points([first, second, {}], [False, True, False], 2) == first
    assert curve_points([first, second, third], [True, True, False], 2) == {
        **{1: 1.0, 2: 3.0, 3: 2.0, 4: 4.0},
        6: np.mean([3.0, 5.0, 7.0]),
    }


def test_points_of_a_curve_that_others_lack_are_left_out() -> None:
    assert curve_points([{1: 1.0}, {1: 2.0, 2: 9.0}], [True, True], 2) == {1: 1.0, 3: 1.5}


# The journal


def opened(folder: Path, seed: int = 0) -> journals.Journal:
    return journals.Journal(Folder(folder), seed, warmup=0)


def proposals(folder: Path, number: int, seed: int = 0, *, again: bool = False) -> list[float]:
    """Ask for trials and end them; the journal is opened again before each, if so wanted."""
    found: list[float] = []
    journal = opened(folder, seed)
    for _ in range(number):
        journal = opened(folder, seed) if again else journal
        trial = journal.ask()
        found.append(trial.suggest_float("x", 0, 1))
        journal.complete(trial, found[-1])
    return found


def test_proposals_depend_on_the_seed_and_what_has_ended_alone(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).mkdir()
    whole = proposals(tmp_path / "a", 13)
    assert len(set(whole)) == 13
    assert proposals(tmp_path / "b", 13, again=True) == whole
    assert proposals(tmp_path / "c", 3, seed=1) != whole[:3]
    assert opened(tmp_path / "a").importance() == {"x": 1.0}
    assert opened(tmp_path / "c").importance() == {}  # of too few trials
    best = opened(tmp_path / "a").best()
    assert [x.value for x in best] == sorted(whole, reverse=True)


def test_a_trial_that_was_left_proposes_again_what_it_proposed(tmp_path: Path) -> None:
    value = opened(tmp_path).ask().suggest_float("x", 0, 1)
    (left,) = opened(tmp_path).running()
    assert (left.number, left.suggest_float("x", 0, 1)) == (0, value)


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    assert len(proposals(tmp_path, 2)) == 2
    path = tmp_path / "journal.log"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code": 5, "tri')
    (tmp_path / "journal.log.lock").symlink_to("nowhere")
    assert opened(tmp_path).begun == 2
    assert path.read_bytes().startswith(whole)
    assert all(json.loads(line) for line in path.read_bytes().splitlines())
    assert not (tmp_path / "journal.log.lock").is_symlink()


@pytest.mark.parametrize("line", [b"{\n", b"{}\n", b"3\n", b'{"op_code": 99}\n'])
def test_a_damaged_journal(tmp_path: Path, line: bytes) -> None:
    assert len(proposals(tmp_path, 1)) == 1
    path = tmp_path / "journal.log"
    path.write_bytes(line + path.read_bytes())
    with pytest.raises(UserError, match=r"journal.log cannot be used .*restore it from a copy"):
        opened(tmp_path)


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = opened(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("optuna.storages.journal.JournalFileBackend.append_logs", full)
    with pytest.raises(UserError, match=r"journal.log cannot be written: No space .*--resume"):
        journal.ask()


def test_optuna_is_an_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(journals.importlib.util, "find_spec", lambda _: None)
    monkeypatch.chdir(tmp_path)
    line = refused(capsys, "tune", "CartPole-v1", "--search", "n_step=1,3")
    assert "needs the package optuna, which is not installed: pip install 'noisydqn[tune]'" in line


# Tunings of made-up runs

POINTS = 10


@dataclasses.dataclass
class MadeUp:
    """A pool whose runs are evaluated once in each look at them.

    `returns` gives the return by the job's options; None fails, NaN diverges.
    """

    returns: Callable[[dict[str, Any]], float | None]
    slots: int = 1
    limit: int = 10_000  # looks until the process is killed
    started: list[str] = dataclasses.field(default_factory=list[str])
    running: dict[str, tuple[Path, float | None]] = dataclasses.field(
        default_factory=dict[str, tuple[Path, float | None]]
    )
    stopping: set[str] = dataclasses.field(default_factory=set[str])
    looks: int = 0

    def start(self, key: str, arguments: Sequence[str], log: File) -> None:
        out, options = arguments
        value = self.returns(json.loads(options))
        self.started.append(key)
        self.running[key] = Path(out), value
        Path(out).mkdir(parents=True, exist_ok=True)
        with log.appending() as file:
            file.write(b"noisydqn: it broke\n" if value is None else b"")
            file.write(b"noisydqn: training diverged at 3\n" if value != value else b"")  # noqa: PLR0124

    def ended(self) -> list[Ended]:
        self.looks += 1
        if self.looks > self.limit:
            raise KeyboardInterrupt
        codes = {key: self._code(key) for key in self.running}
        for key in [key for key, code in codes.items() if code is not None]:
            del self.running[key]
        return [Ended(key, code) for key, code in codes.items() if code is not None]

    def _code(self, key: str) -> int | None:
        out, value = self.running[key]
        if key in self.stopping:
            return 143
        if value is None or value != value:  # noqa: PLR0124 - NaN
            return 1
        path = out / "evaluations.csv"
        rows = path.read_text().splitlines() if path.exists() else ["step,mean_return"]
        rows.append(f"{100 * len(rows)},{value}")
        path.write_text("\n".join(rows) + "\n")
        return 0 if len(rows) == POINTS + 1 else None

    def end(self, key: str) -> None:
        self.stopping.add(key)

    def stop(self) -> None:
        self.stopping |= self.running.keys()

    def wait(self) -> None:
        pass

    def kill(self) -> None:
        pass


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perform, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(perform, "PACE_SECONDS", 0.0)


def request(out: Path, **changes: Any) -> Request:
    asked = Request(
        "CartPole-v1",
        {"learning_rate": {"log-uniform": [1e-4, 1e-2]}, "double": [True, False]},
        {"steps": 100 * POINTS, "hidden": (8,)},
        typed=True,
        command="noisydqn tune",
        trials=12,
        seeds=2,
        out=out,
    )
    return dataclasses.replace(asked, **changes)


def arguments(job: Job, out: Path) -> list[str]:
    return [str(out), json.dumps(job.options)]


def search(asked: Request, pool: MadeUp) -> int:
    return tune(asked, arguments, lambda *_: pool).bad


def by_rate(options: dict[str, Any]) -> float:
    """Return the more, the nearer the learning rate is to 2e-3; another seed returns 1 more."""
    rate = options.get("learning_rate", 1.0)
    return 100 - 10 * abs(np.log10(rate / 2e-3)) + options["seed"] % 2


def test_the_best_options_are_found_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pool = MadeUp(by_rate)
    assert search(request(tmp_path / "out"), pool) == 0
    printed = capsys.readouterr().out
    assert "12 of 12 trials ended" in printed
    assert "trial 0 has the options of CartPole-v1 as they are" in printed
    assert (
        "the best trials, by the interquartile mean of the last evaluation over 2 seeds" in printed
    )
    table = printed[printed.index("the best trials") :].splitlines()
    best = int(table[2].split()[0])
    variants = {x.name: x.options for x in read(tmp_path / "out").variants}
    rates = [x["learning_rate"] for x in variants.values()]
    nearest = min(rates, key=lambda x: abs(np.log10(x / 2e-3)))
    assert variants[f"trial-{best}"]["learning_rate"] == nearest
    assert variants["trial-0"] == {"learning_rate": 1e-3, "double": True}
    config = load_preset(tmp_path / "out" / "best.toml")
    assert config.learning.learning_rate == nearest
    assert config.run.tuned_seeds == (1_000_000, 1_000_001)
    assert (config.run.seed, config.run.steps, config.run.evaluation_every) == (0, 1_000, 0)
    assert (config.run.video_seconds, config.network.hidden) == (20.0, (8,))


def test_runs_are_evaluated_on_their_way_and_name_their_seeds(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []

    def returns(options: dict[str, Any]) -> float:
        seen.append(options)
        return 1.0

    search(request(tmp_path / "out", trials=1), MadeUp(returns))
    assert [x["seed"] for x in seen] == [1_000_000, 1_000_001]
    assert all(x["evaluation_every"] == 100 and x["video_seconds"] == 0 for x in seen)
    assert all(x["tuned_seeds"] == [1_000_000, 1_000_001] for x in seen)


def test_trials_below_the_median_are_pruned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pool = MadeUp(by_rate)
    search(request(tmp_path / "out"), pool)
    printed = capsys.readouterr().out
    entries = read(tmp_path / "out").jobs
    pruned = {x.variant for x in entries if x.status == "pruned"}
    assert pruned
    assert {x.status for x in entries} == {"finished", "pruned"}
    for variant in pruned:
        first, second = (x for x in entries if x.variant == variant)
        assert f"{variant} is pruned at a return of " in printed
        if first.status == "pruned":  # the second seed was never started
            assert second.folder not in pool.started
            rows = (tmp_path / "out" / first.folder / "evaluations.csv").read_text().splitlines()
            assert 2 <= len(rows) - 1 < POINTS  # not in the warm-up


def test_a_killed_tuning_comes_to_the_same(tmp_path: Path) -> None:
    search(request(tmp_path / "whole", trials=7), MadeUp(by_rate))
    again = request(tmp_path / "out", name="", space={}, options={}, seeds=None, trials=None)
    kills = 0
    for looks in (15, 25, 35, 45, 10_000):
        first = request(tmp_path / "out", trials=7)
        asked = dataclasses.replace(again, resume=True) if kills else first
        try:
            search(asked, MadeUp(by_rate, limit=looks))
        except KeyboardInterrupt:
            kills += 1
    assert kills == 4
    found, whole = read(tmp_path / "out"), read(tmp_path / "whole")
    assert found.variants == whole.variants
    assert [x.status for x in found.jobs] == [x.status for x in whole.jobs]
    best = [(tmp_path / name / "best.toml").read_text() for name in ("out", "whole")]
    assert best[0] == best[1]


def test_more_trials_are_added(tmp_path: Path) -> None:
    out = tmp_path / "out"
    search(request(out, trials=2), MadeUp(by_rate))
    pool = MadeUp(by_rate)
    again = request(out, name="", space={}, options={}, seeds=None, resume=True, trials=3)
    search(again, pool)
    assert {key.split("/")[1] for key in pool.started} == {"trial-2"}
    assert read_tuning(out).trials == 3
    search(dataclasses.replace(again, trials=None), pool)
    assert len(read(out).variants) == 3


def test_failed_and_diverged_runs_end_their_trials(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def returns(options: dict[str, Any]) -> float | None:
        if options["learning_rate"] > 2e-3:
            return float("nan")
        return None if options["learning_rate"] < 5e-4 else 10.0

    bad = search(request(tmp_path / "out"), MadeUp(returns))
    entries = read(tmp_path / "out").jobs
    failed = [x for x in entries if x.status == "failed"]
    diverged = [x for x in entries if x.status == "diverged"]
    assert bad == len(failed) > 0
    assert diverged
    printed = capsys.readouterr()
    assert f"{diverged[0].variant} is over, as a run of it diverged" in printed.out
    assert f"failed: CartPole-v1, {failed[0].variant}, seed 1000000: it broke" in printed.err
    for entry in (*failed, *diverged):
        _, second = (x for x in entries if x.variant == entry.variant)
        assert second.status == "pruned"


def test_no_trial_is_complete(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert search(request(tmp_path / "out", trials=2), MadeUp(lambda _: None)) == 2
    assert "no trial is complete: compare.json says why" in capsys.readouterr().err
    assert not (tmp_path / "out" / "best.toml").exists()


def test_options_are_not_trained_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pool = MadeUp(lambda options: 5.0 + (options["hidden"] == [8]))
    space = {"double": [True, False]}
    search(request(tmp_path / "out", space=space, trials=6), pool)
    assert len(read(tmp_path / "out").variants) == 2
    assert len(pool.started) == 4
    assert "trial-5 proposes what trial-" in capsys.readouterr().out


def test_options_that_exclude_one_another_fail_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = {"stop_at_return": ["none", 475], "stop_at_evaluation": ["none", 480]}
    search(request(tmp_path / "out", space=space, trials=9), MadeUp(lambda _: 5.0))
    captured = capsys.readouterr()
    assert "9 of 9 trials ended" in captured.out
    assert "is not trained: CartPole-v1, trial-" in captured.err
    assert "--stop-at-evaluation 480.0 needs --stop-at-return" in captured.err


def test_several_jobs_at_a_time(tmp_path: Path) -> None:
    search(request(tmp_path / "out", trials=6), MadeUp(by_rate, slots=3))
    found = read(tmp_path / "out")
    assert len(found.variants) == 6
    assert {x.status for x in found.jobs} <= {"finished", "pruned"}
