"""The command tune: what it refuses, and small searches that are trained, killed and resumed."""

import os
import signal
from pathlib import Path

import pytest
from tests.commands import refused
from tests.processes import all_gone, finish, has_rows, start, wait_until
from tests.unit.test_compare import SMALL, commands_of

from noisydqn import load_preset
from noisydqn.cli import main
from noisydqn.cli.tune import TuneArgs
from noisydqn.study.ledger import read

pytest.importorskip("optuna")

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fast_compiler")]

SEARCH = ("--search", "learning_rate=log-uniform:1e-4,1e-2")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "NAME is missing: the form is noisydqn tune NAME [options]"),
        (["CartPole-v1"], "the space is empty, so there is nothing to search: give --space"),
        (["CartPol-v1", *SEARCH], "no environment 'CartPol-v1': did you mean CartPole-v1"),
        (["CartPole-v1", *SEARCH, "--action-bins", "3"], "is for actions that are a Box, but the"),
        (["CartPole-v1", *SEARCH, "--trials", "0"], "--trials must be at least 1, got 0"),
        (["CartPole-v1", *SEARCH, "--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["CartPole-v1", *SEARCH, "--seeds", "20000"], "--seeds must be between 1 and 10000, got"),
        (["CartPole-v1", *SEARCH, "--first-seed", "-1"], "--first-seed must be zero or more, got"),
        (["CartPole-v1", *SEARCH, "--seed", "x"], "--seed must be a whole number or none, got 'x'"),
        (["CartPole-v1", *SEARCH, "--num-seeds", "3"], "num_seeds cannot be among the options"),
        (["CartPole-v1", *SEARCH, "--stepz", "3"], "unknown option --stepz: did you mean --steps?"),
        (["CartPole-v1", *SEARCH, *SEARCH], "--search learning_rate is given twice: give it once"),
        (["CartPole-v1", "--search"], "--search needs a value: OPTION=KIND:LOW,HIGH"),
        (["CartPole-v1", "--search", "doubles=yes,no"], "--search doubles=yes,no: did you mean"),
        (
            ["CartPole-v1", "--search", "n_step=integer:1,"],
            "has a value that is empty: the form is",
        ),
        (
            ["CartPole-v1", "--search", "n_step=integer:1,x"],
            "--n-step must be a whole number, got ",
        ),
        (
            ["CartPole-v1", "--search", "n_step=uniform:1,3"],
            "give integer or log-uniform, not unif",
        ),
        (
            ["CartPole-v1", "--search", "discount=uniform:0.9,2"],
            "CartPole-v1, discount=2.0: --discount must be between 0 and 1, got 2.0",
        ),
        (
            ["CartPole-v1", "--search", "epsilon_final=uniform:0.01,0.1"],
            "CartPole-v1, epsilon_final=0.01: --epsilon-final 0.01 and --exploration noisy exclude",
        ),
        (
            ["CartPole-v1", "--search", "torso=mlp,nature"],
            "CartPole-v1, torso=nature: ",
        ),
        (
            ["CartPole-v1", "--space", "no.toml"],
            "no.toml cannot be used (No such file or directory",
        ),
        (["--resume"], "--resume needs --out: name the folder of the tuning to resume"),
        (["--resume", "--out", "/no/folder"], "/no/folder holds no tuning (no tune.json): name a"),
    ],
)
def test_bad_input(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    argv: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, "tune", *argv)
    assert not list(tmp_path.iterdir())


def test_help_says_what_the_options_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["tune", "--help"])
    printed = capsys.readouterr().out
    for name in TuneArgs.__dataclass_fields__:
        assert name == "name" or f"--{name.replace('_', '-')}" in printed, name


def test_a_plan_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    argv = ["tune", "CartPole-v1", *SEARCH, "--search", "n_step=1,5", "--steps", "4000"]
    assert main([*argv, "--out", str(out), "--plan", "--jobs", "2", "--trials", "10"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"10 trials of 3 seeds and 4,000 steps into {out}",
        "search learning_rate: log-uniform from 0.0001 to 0.01",
        "search n_step: one of 1, 5",
        "seeds: 1000000 to 1000002, which no result is to be reported on",
        "trial 0 has the options of CartPole-v1 as they are",
        "about 4 min with 2 jobs at a time if nothing is pruned, a guess",
    ]
    assert not out.exists()


def test_the_code_of_a_file_needs_trust(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path := tmp_path / "space.toml").write_text(
        '[space]\nn_step = [1, 3]\n[options]\nexploration = "python:tests.explorers.x"'
    )
    line = refused(capsys, "tune", "CartPole-v1", "--space", str(path), "--plan")
    assert "names code that would be imported and run" in line


def command(out: Path, *more: str, steps: int = 400) -> list[str]:
    trials = ("--trials", "2", "--seeds", "1", "--jobs", "1")
    return ["tune", "CartPole-v1", *SEARCH, *SMALL, *trials, "--steps", str(steps),
            "--out", str(out), *more]  # fmt: skip


def test_a_search_is_killed_and_continued(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    process = start(*command(out))
    first = out / "CartPole-v1" / "trial-0" / "seed-1000000"
    wait_until(lambda: has_rows(first / "metrics.csv"), process)
    jobs = commands_of(process.pid)
    process.kill()  # and not what it started
    process.communicate()
    assert "already holds a tuning, nothing was changed" in refused(capsys, *command(out))
    other = command(out, "--resume", steps=7)
    assert "holds a tuning with other options: resume it without" in refused(capsys, *other)
    line = refused(capsys, "tune", "--out", str(out), "--resume", "--seed", "3")
    assert "holds a tuning with other --seed: resume it without them" in line
    line = refused(capsys, "tune", "--out", str(out), "--resume", "--steps", "3")
    assert "--resume takes all of the tuning or nothing of it: leave it out" in line
    printed = finish(start("tune", "--out", str(out), "--resume"), 0, 300)
    assert all_gone(jobs, 1)
    assert "2 of 2 trials ended" in printed
    assert "resuming" in (out / "CartPole-v1" / "trial-0" / "seed-1000000.log").read_text()
    assert load_preset(out / "best.toml").run.tuned_seeds == (1_000_000,)
    assert main(["report", str(out), "--out", str(tmp_path / "page.html")]) == 0
    assert "Options were tuned on seed 1000000" in (tmp_path / "page.html").read_text()


def test_ctrl_c_stops_and_saves_the_runs(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(*command(out, steps=1_000_000))
    first = out / "CartPole-v1" / "trial-0" / "seed-1000000"
    wait_until(lambda: has_rows(first / "metrics.csv"), process)
    jobs = commands_of(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    printed = finish(process, 130)
    assert all_gone(jobs, 1)
    resume = f"to resume: noisydqn tune --out {out} --resume"
    assert f"interrupted after 0 of 2 trials; {resume}" in printed
    assert (first / "final.safetensors").exists()
    assert {entry.status for entry in read(out).jobs} == {"waiting"}


def test_files_that_cannot_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (file := tmp_path / "tune.json").write_text("{")
    argv = ["tune", "--out", str(tmp_path), "--resume"]
    assert "tune.json cannot be used (" in refused(capsys, *argv)
    file.write_text(
        '{"command": "", "name": "CartPole-v1", "space": {}, "options": {}, "trials": 1, "seeds": '
        '[1], "seed": 0, "cores": 1, "together": false, "version": 9}'
    )
    assert "version 9, expected 1" in refused(capsys, *argv)
    assert "tune.json is a file: name a folder" in refused(capsys, *argv[:2], str(file))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x").touch()
    line = refused(capsys, *command(tmp_path / "other"))
    assert "is not empty, nothing was changed: name another" in line
