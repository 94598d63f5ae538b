"""The command compare: what it refuses, and small grids that are trained, killed and resumed."""

import json
import os
import shlex
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from benchmarks.kills import outcome
from tests.commands import refused
from tests.processes import all_gone, finish, has_rows, start, wait_until

from noisydqn.cli import main
from noisydqn.cli.compare import CompareArgs
from noisydqn.study.grid import Variant
from noisydqn.study.ledger import read

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fast_compiler")]

SMALL = shlex.split(
    "--chunk-steps 50 --hidden 8 --batch-size 4 --learning-starts 50 --num-envs 2 "
    "--replay-capacity 200 --evaluation-episodes 1 --video-seconds 0 --checkpoint-seconds 0.1"
)
"""Options of runs that are soon compiled and checkpointed often."""
GRID = ("--vary", "exploration=noisy,epsilon-greedy", "--env", "CartPole-v1", "--seeds", "2")
VARIANTS = ("exploration=noisy", "exploration=epsilon-greedy")
RUNS = [f"CartPole-v1/{variant}/seed-{seed}" for seed in (0, 1) for variant in VARIANTS]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "the grid is empty, as it has no environment: give --env CartPole-v1"),
        (["--env"], "--env needs a value: NAME ..."),
        (["--env", "CartPol-v1"], "no environment 'CartPol-v1': did you mean CartPole-v1"),
        (["--env", "CartPole-v1", "--action-bins", "3"], "is for actions that are a Box, but the"),
        (["--env", "CartPole-v1", "cartpole"], "CartPole-v1, default and cartpole, default are eq"),
        (["--env", "CartPole-v1", "--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["--env", "CartPole-v1", "--jobs", "0"], "--jobs must be at least 1, got 0"),
        (["--env", "CartPole-v1", "--cores", "0"], "--cores must be at least 1, got 0"),
        (["--env", "CartPole-v1", "--num-seeds", "3"], "num_seeds cannot be among the options: gi"),
        (["--env", "CartPole-v1", "--preset", "x"], "preset cannot be among the options: name it"),
        (["--env", "CartPole-v1", "--stepz", "3"], "unknown option --stepz: did you mean --steps?"),
        (["--vary"], "--vary needs a value: OPTION=VALUE,VALUE"),
        (["--vary", "explorations=noisy"], "in --vary explorations=noisy: did you mean explorati"),
        (["--vary", "double"], "--vary double has a value that is empty: the form is --vary doub"),
        (["--vary", "double=yes,"], "has a value that is empty"),
        (["--vary", "n_step=1,two"], "--n-step must be a whole number, got 'two'"),
        (
            ["--vary", "noise=white"],
            "--noise must be one of factorised, independent, indexed, got 'white'",
        ),
        (
            ["--vary", "exploration=noisy,fly", "--env", "CartPole-v1"],
            "CartPole-v1, exploration=fly: --exploration must be one of",
        ),
        (
            ["--vary", "discount=0.9,2", "--env", "CartPole-v1"],
            "CartPole-v1, discount=2.0: --discount must be between 0 and 1, got 2.0",
        ),
        (["nothing.toml"], "nothing.toml cannot be used (No such file or directory): give a TOML"),
        (
            ["a.toml", "b.toml"],
            "unexpected 'b.toml': the form is noisydqn compare [FILE] [options]",
        ),
        (["--resume"], "--resume needs --out: name the folder of the comparison to resume"),
        (["--resume", "--out", "/no/folder"], "/no/folder is not a folder: name that of a compari"),
        (["--together", "perhaps"], "--together must be one of auto, always, never, got 'perhaps'"),
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
    assert message in refused(capsys, "compare", *argv)
    assert not list(tmp_path.iterdir())


def test_help_says_what_the_grid_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    printed = capsys.readouterr().out
    for name in CompareArgs.__dataclass_fields__:
        assert name == "file" or f"--{name}" in printed, name


def test_a_plan_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["compare", *GRID, "--steps", "4000", "--out", str(tmp_path / "out"), "--plan"]
    assert main([*argv, "--jobs", "2"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"4 runs of 4,000 steps into {tmp_path / 'out'}: 1 environment x 2 variants x 2 seeds",
        "environments: CartPole-v1",
        "variants: exploration=noisy; exploration=epsilon-greedy",
        "seeds: 0 to 1",
        "about 30 s with 2 jobs at a time, 1 core each, a guess until the first runs show their "
        "speed",
    ]
    assert not (tmp_path / "out").exists()


def results(out: Path) -> dict[str, Any]:
    """What every run came to, but for times."""
    return {run: outcome(out / run) for run in RUNS}


def command(out: Path, *more: str, steps: int = 1_000) -> list[str]:
    return ["compare", *GRID, *SMALL, "--steps", str(steps), "--out", str(out), *more]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grid that was not disturbed, and is not to be changed."""
    out = tmp_path_factory.mktemp("whole") / "out"
    process = start(*command(out))
    (out.parent / "printed").write_text(finish(process, 0, 300))
    return out


def test_a_grid_is_trained(whole: Path) -> None:
    lines = (whole.parent / "printed").read_text().splitlines()
    assert lines[-2:] == [f"4 of 4 runs finished, in {whole}", f"next: noisydqn report {whole}"]
    assert sum(line.startswith("finished: CartPole-v1, exploration=") for line in lines) == 4
    kept = read(whole)
    assert {entry.status for entry in kept.jobs} == {"finished"}
    assert [entry.folder for entry in kept.jobs] == RUNS
    assert kept.variants == tuple(Variant(x, {"exploration": x.split("=")[1]}) for x in VARIANTS)
    assert kept.command.startswith("noisydqn compare --vary exploration=noisy,epsilon-greedy ")
    for run in RUNS:
        config = json.loads((whole / run / "config.json").read_text())
        assert f"exploration={config['exploration']}" == run.split("/")[1]
        assert f"seed-{config['seed']}" == run.split("/")[2]
        assert "resuming" not in (whole / f"{run}.log").read_text()


def test_a_folder_that_is_taken(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = "already holds a comparison, nothing was changed: continue it with --resume"
    assert again in refused(capsys, *command(whole))
    run = whole / RUNS[0]
    assert "is not empty, nothing was changed" in refused(capsys, *command(run))
    assert "holds no comparison" in refused(capsys, "compare", "--out", str(run), "--resume")
    file = run / "config.json"
    assert "is a file: name a folder that is new or empty" in refused(capsys, *command(file))


def test_a_folder_that_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, *command(Path("/proc/out")))
    assert "--out /proc/out cannot be written to: " in line

    def denied(*_: object) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("noisydqn.study.resources.is_fresh", denied)
    assert f"{tmp_path} cannot be read: Permission denied" in refused(capsys, *command(tmp_path))


def test_a_different_grid_is_not_resumed(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for more, differing in [
        (("--seeds", "2", "--steps", "7"), "options"),
        (("--seeds", "3", "--steps", "1000"), "seeds"),
        (("--seeds", "2", "--steps", "1000", "--vary", "double=yes"), "variants"),
        (("--seeds", "2", "--steps", "1000", "--cores", "2"), "--cores"),
        (("--seeds", "2", "--steps", "1000", "--together", "always"), "--together"),
    ]:
        argv = ["compare", *GRID[:4], *SMALL, "--out", str(whole), "--resume", *more]
        line = refused(capsys, *argv)
        assert f"holds a comparison with other {differing}: resume it without options" in line
    line = refused(capsys, "compare", "--out", str(whole), "--resume", "--steps", "7")
    assert "--resume takes all of the grid or nothing of it: leave it out" in line


def test_what_has_finished_is_not_trained_again(
    whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = results(whole)
    logs = [(whole / f"{run}.log").read_text() for run in RUNS]
    assert main(["compare", "--out", str(whole), "--resume"]) == 0
    printed = capsys.readouterr().out
    assert "resuming: 4 of 4 have ended, 0 are left" in printed
    assert "4 of 4 runs finished" in printed
    assert logs == [(whole / f"{run}.log").read_text() for run in RUNS]
    assert results(whole) == before


def commands_of(pid: int) -> list[int]:
    """List the jobs of a comparison by their process numbers."""
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            found.append(int(folder.name))
    return found


def test_a_killed_grid_ends_like_one_that_was_not(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(*command(out))
    wait_until(lambda: has_rows(out / RUNS[0] / "metrics.csv"), process)
    jobs = commands_of(process.pid)
    assert jobs
    process.kill()  # and not what it started
    process.communicate()
    resumed = start("compare", "--out", str(out), "--resume", "--jobs", "1")
    printed = finish(resumed, 0, 300)
    assert all_gone(jobs, 1)
    assert "4 of 4 runs finished" in printed
    assert results(out) == results(whole)


def test_a_killed_comparison_leaves_no_jobs(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(*command(out, steps=1_000_000))
    wait_until(lambda: has_rows(out / RUNS[0] / "metrics.csv"), process)
    jobs = commands_of(process.pid)
    process.kill()
    process.communicate()
    assert jobs
    assert all_gone(jobs, 30)
    assert (out / RUNS[0] / "final.safetensors").exists()  # it was saved first


def test_ctrl_c_stops_and_saves_all_jobs(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(*command(out, steps=1_000_000))
    wait_until(lambda: has_rows(out / RUNS[0] / "metrics.csv"), process)
    jobs = commands_of(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    began = time.monotonic()
    printed = finish(process, 130)
    assert time.monotonic() - began < 20
    assert all_gone(jobs, 1)
    resume = f"to resume: noisydqn compare --out {out} --resume"
    assert f"interrupted after 0 of 4 runs; {resume}" in printed
    assert (out / RUNS[0] / "final.safetensors").exists()
    assert {entry.status for entry in read(out).jobs} == {"waiting"}


def test_the_second_ctrl_c_kills_the_jobs(tmp_path: Path) -> None:
    """While the environment takes a step that lasts for minutes, so that nothing can be saved."""
    out, env = tmp_path / "out", "python:tests.host_envs.Sleepy"
    argv = ["compare", "--env", env, "--seeds", "1", *SMALL, "--steps", "400", "--out", str(out)]
    process = start(*argv)
    log = out / "python-tests.host_envs.Sleepy" / "default" / "seed-0.log"
    wait_until(lambda: log.exists() and "asleep" in log.read_text(), process)
    jobs = commands_of(process.pid)
    for _ in range(2):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(1)
    printed = finish(process, 130, 10)
    assert "interrupted: saving (repeat to quit without saving)" in printed
    assert printed.splitlines()[-1] == "noisydqn: interrupted"
    assert all_gone(jobs, 1)


def test_diverged_runs_are_listed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    argv = ["compare", "--env", "CartPole-v1", "--seeds", "1", "--vary", "learning_rate=1e-3,1e30"]
    printed = finish(start(*argv, *SMALL, "--steps", "400", "--out", str(out)), 1, 300)
    assert (
        "diverged: CartPole-v1, learning_rate=1e+30, seed 0: training diverged at update" in printed
    )
    assert "1 of 2 runs finished" in printed
    assert [entry.status for entry in read(out).jobs] == ["finished", "diverged"]


def test_failed_runs_are_listed_and_tried_again(tmp_path: Path) -> None:
    """The environment breaks in its fourth episode, and again in the resumed run."""
    out, env = tmp_path / "out", "python:tests.host_envs.BrokenEnv"
    argv = ["compare", "--env", env, "--env-kwargs", '{"how": "raise"}', "--seeds", "1", *SMALL]
    for more in ((), ("--resume",)):
        process = start(*argv, "--steps", "400", "--out", str(out), *more)
        printed, _ = process.communicate(timeout=300)
        assert process.returncode == 1
        assert f"failed: {env}, default, seed 0: " in printed
        assert "the motor is 100% broken" in printed
        assert "0 of 1 run finished" in printed
        assert f"to try again what failed: noisydqn compare --out {out} --resume" in printed


def test_seeds_of_one_program(tmp_path: Path) -> None:
    out = tmp_path / "out"
    argv = ["compare", "--env", "python:tests.jax_envs.make_walk", "--seeds", "2", *SMALL]
    argv += ["--steps", "400", "--together", "always", "--out", str(out)]
    finish(start(*argv), 0, 300)
    folder = "python-tests.jax_envs.make_walk/default"
    assert [entry.folder for entry in read(out).jobs] == [f"{folder}/seed0", f"{folder}/seed1"]
    assert all((out / entry.folder / "summary.json").exists() for entry in read(out).jobs)
    assert (out / f"{folder}.log").exists()


def test_two_comparisons_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    process = start(*command(out, steps=1_000_000))
    wait_until((out / "compare.json").exists, process)
    assert main(["compare", "--out", str(out), "--resume"]) == 2
    assert f"is being trained by process {process.pid}" in capsys.readouterr().err
    os.killpg(process.pid, signal.SIGINT)
    finish(process, 130)


def test_the_code_of_a_file_needs_trust(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path := tmp_path / "grid.toml").write_text('env = "python:tests.jax_envs.make_walk"')
    line = refused(capsys, "compare", str(path), "--plan")
    assert "names code that would be imported and run" in line
    assert main(["compare", str(path), "--plan", "--trust"]) == 0
