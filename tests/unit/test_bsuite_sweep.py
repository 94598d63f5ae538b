"""The sweep of bsuite: records and scores as bsuite's own, whole commands, and bad ones."""

import csv
import json
import shlex
import signal
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from bsuite.experiments.deep_sea import analysis as deep_sea
from bsuite.experiments.deep_sea_stochastic import analysis as deep_sea_stochastic
from bsuite.logging import csv_load, csv_logging
from tests.commands import refused
from tests.unit.test_bsuite import loaded

from noisydqn.cli import main
from noisydqn.envs.bsuite import BsuiteEnv
from noisydqn.runs.bsuite import Agent, is_logged, record_of
from noisydqn.runs.bsuite_scores import Score, Scores, draw_radar, score_deep_sea, table
from noisydqn.runs.result import Result

pytestmark = pytest.mark.slow


def test_episodes_are_logged_as_by_bsuite() -> None:
    wrappers: Any = import_module("bsuite.utils.wrappers")
    numbers = [*range(1, 1_300), 1_400, 1_700, 2_500, 2_600, 9_999, 10_000, 12_000, 12_001]
    for number in numbers:
        assert is_logged(number) == wrappers._logarithmic_logging(number), number


@pytest.mark.parametrize(
    "bsuite_id", ["catch/0", "cartpole_swingup/0", "umbrella_length/2", "bandit/1"]
)
def test_records_equal_those_that_bsuite_writes(bsuite_id: str, tmp_path: Path) -> None:
    raw = loaded(bsuite_id)
    logged = csv_logging.wrap_environment(raw, bsuite_id, str(tmp_path))
    env = BsuiteEnv(bsuite_id)
    columns: dict[str, list[float]] = {name: [] for name in ("return", "length", "success")}
    columns |= {name: [] for name in env.episode_counts}
    choose = np.random.default_rng(0)
    number = 12 if bsuite_id.startswith("cartpole") else 45
    for _ in range(number):
        # The same numbers in both: the state of the generator is copied.
        if "_rng" in vars(raw):
            vars(vars(env)["_env"])["_rng"].set_state(raw._rng.get_state())
        step = logged.reset()
        env.reset()
        total, length, info = 0.0, 0, {}
        while not step.last():
            action = int(choose.integers(raw.action_spec().num_values))
            step = logged.step(action)
            _, reward, _, _, info = env.step(np.int64(action))
            total, length = total + reward, length + 1
        row = {"return": total, "length": float(length), "success": np.nan} | info
        for name, value in row.items():
            columns[name].append(value)
    with next(tmp_path.glob("*.csv")).open(newline="") as file:
        wanted = [{name: float(x) for name, x in row.items()} for row in csv.DictReader(file)]
    assert len(wanted) == {12: 11, 45: 17}[number]
    ours = record_of(bsuite_id, columns, number)
    assert ours == [pytest.approx(row, abs=1e-9) for row in wanted]
    assert record_of(bsuite_id, columns, 7) == ours[:7]


def bad_counts(size: int, solves_at: int) -> pd.DataFrame:
    """Make the record of an agent that makes no wrong move from some episode on."""
    episodes = [i for i in range(1, 10_001) if is_logged(i)]
    rows = [{"episode": i, "total_bad_episodes": min(i, solves_at), "size": size} for i in episodes]
    return pd.DataFrame(rows)


@pytest.mark.filterwarnings("ignore:The inplace keyword")  # in bsuite's function
@pytest.mark.parametrize("deterministic", [True, False])
def test_deep_sea_is_scored_as_by_bsuite(
    deterministic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bsuite's function calls `Series.append`, which pandas removed."""

    def append(one: Any, other: Any) -> Any:
        return pd.concat([one, other])

    monkeypatch.setattr(pd.Series, "append", append, raising=False)
    theirs: Any = deep_sea if deterministic else deep_sea_stochastic
    for ends in ((3, 50, 900, 20_000), (1, 70, 75, 85), (20_000,) * 4, (0,) * 4):
        records = pd.concat(
            [bad_counts(size, end) for size, end in zip((4, 6, 10, 12), ends, strict=True)]
        )
        score = score_deep_sea(records, deterministic=deterministic)
        assert score == theirs.score(records)


TINY = shlex.split(
    "--hidden 8 --batch-size 8 --evaluation-episodes 1 --chunk-steps 60 --episodes 25"
)


def test_a_sweep_trains_records_and_scores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    argv = ["bsuite", "catch/1,deep_sea/0", "--out", str(out), *TINY]
    assert main([*argv, "--label", "one", "--num-seeds", "2"]) == 0
    printed = capsys.readouterr().out
    assert "1 of 2: catch/1, " in printed
    assert "2 of 2: deep_sea/0, " in printed
    assert "* settings or episodes are missing" in printed
    records: Any = csv_load.load_bsuite(str(out / "one" / "seed1"))[0]
    assert set(records.bsuite_id) == {"catch/1", "deep_sea/0"}
    of_sea = records[records.bsuite_id == "deep_sea/0"].sort_values("episode")
    assert of_sea.episode.tolist() == [*range(1, 11), 12, 14, 17, 20, 25]
    assert of_sea.steps.tolist() == [10 * i for i in of_sea.episode]
    assert (of_sea.total_bad_episodes + of_sea.denoised_return).tolist() == of_sea.episode.tolist()
    runs = out / "one" / "runs"
    assert sorted(path.name for path in runs.iterdir()) == ["catch-1", "deep_sea-0"]
    seeds = [json.loads(path.read_text())["seed"] for path in runs.glob("*/*/config.json")]
    assert sorted(seeds) == [0, 1, 1000, 1001]
    assert not list(runs.glob("**/checkpoints/*"))

    assert main([*argv, "--label", "two", "--exploration", "epsilon-greedy"]) == 0
    assert main([*argv, "--label", "one", "--num-seeds", "2"]) == 0
    assert "1 of 2: catch/1, done before" in capsys.readouterr().out
    assert main(["bsuite", "--out", str(out)]) == 0
    header = capsys.readouterr().out.splitlines()[0]
    assert header.split() == ["experiments", "one", "two"]
    summary = json.loads((out / "summary.json").read_text())
    assert len(summary["one"]["experiments"]["catch"]["seeds"]) == 2
    assert set(summary["two"]["tags"]) == {"basic", "credit_assignment", "exploration"}
    assert (out / "radar.png").read_bytes().startswith(b"\x89PNG")

    line = refused(capsys, *argv, "--label", "one", "--num-seeds", "2", "--discount", "0.5")
    assert "holds results with discount 0.99, not 0.5: give another --label" in line


def test_bad_commands_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    for argv, message in (
        (["deepsea"], "no experiment, tag or setting 'deepsea': did you mean deep_sea"),
        (["catch", "--label", "a/b"], "--label must be letters, digits and any of +-_., got 'a/b'"),
        (["catch", "--episodes", "0"], "--episodes must be at least 1, got 0"),
        (["catch", "--num-seeds", "1001"], "--num-seeds must be at most 1000 for bsuite"),
        (["catch", "--seed", "4294967000"], "--seed must be at most 4294867295 for bsuite, got 42"),
        (["--discount", "0.5"], "--discount needs EXPERIMENTS: name some, such as noisydqn bsuite"),
        (["catch", "more"], "unexpected 'more': the form is noisydqn bsuite [EXPERIMENTS]"),
        (["catch", "--xyzzy", "1"], "unknown option --xyzzy: see noisydqn bsuite --help-all"),
        ([], "out holds no results: name experiments, such as noisydqn bsuite deep_sea"),
    ):
        assert message in refused(capsys, "bsuite", "--out", out, *argv)
    (tmp_path / "file").write_text("mine")
    line = refused(capsys, "bsuite", "catch", "--out", str(tmp_path / "file"))
    assert "cannot be used (" in line
    assert "give another --out or --label" in line


def test_a_stopped_sweep_says_so_and_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["bsuite", "catch/0,catch/1", "--out", str(tmp_path), *TINY]
    run = Agent.run

    def stopped(agent: Agent, bsuite_id: str, **_: Any) -> Result | None:
        if bsuite_id == "catch/1":
            return Result(tmp_path, [], signal.SIGINT)
        return run(agent, bsuite_id)

    monkeypatch.setattr(Agent, "run", stopped)
    assert main(argv) == 128 + signal.SIGINT
    printed = capsys.readouterr().out
    assert "1 of 2: catch/0" in printed
    assert printed.endswith("the sweep was stopped: the same command continues it\n")
    monkeypatch.setattr(Agent, "run", run)
    assert main(argv) == 0
    printed = capsys.readouterr().out
    assert "1 of 2: catch/0, done before" in printed
    assert "2 of 2: catch/1, " in printed


def test_tables_and_radars_have_gaps_where_scores_are_missing() -> None:
    one = Scores({"catch": Score((0.5, 0.75), True)}, {"basic": Score((0.5, 0.75), True)})
    two = Scores({"deep_sea": Score((1.0,), False)}, {"exploration": Score((1.0,), False)})
    assert list(table({"a": one, "agent-two": two})) == [
        "experiments  a            agent-two",
        "catch        0.62 ± 0.12  -",
        "deep_sea     -            1.00 *",
        "",
        "tags         a            agent-two",
        "basic        0.62 ± 0.12  -",
        "exploration  -            1.00 *",
        "",
        "* settings or episodes are missing",
    ]
    assert draw_radar({"a": one, "agent-two": two}).startswith(b"\x89PNG")
