"""The command line: bad input is refused in one line with exit code 2; runs leave their files."""

import contextlib
import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from noisydqn import PRESETS, Config
from noisydqn.cli import main
from noisydqn.training.report import Episode, SeedChunk
from noisydqn.training.trackers import Terminal

TINY = [
    *("--steps", "1200", "--chunk-steps", "400", "--learning-starts", "400"),
    *(
        "--evaluation-every",
        "800",
        "--evaluation-episodes",
        "2",
        "--film-seconds",
        "1",
        "--seed",
        "3",
    ),
]


@pytest.fixture(scope="module")
def run_and_lines(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A short run of the default preset, and what it printed. Nothing here may change it."""
    folder = tmp_path_factory.mktemp("runs") / "one[red]"  # not to be taken for markup
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["train", *TINY, "--out", str(folder)]) == 0
    return folder, printed.getvalue().splitlines()


@pytest.fixture(scope="module")
def run_folder(run_and_lines: tuple[Path, list[str]]) -> Path:
    """The folder of that run."""
    return run_and_lines[0]


def test_plain_lines_where_there_is_no_terminal(run_and_lines: tuple[Path, list[str]]) -> None:
    folder, lines = run_and_lines
    assert lines[0] == f"catcher: 1,200 steps of noisydqn/Catcher-v0 into {folder}"
    assert any("of 1,200 steps" in line and "steps/s  sigma" in line for line in lines)
    assert sum("evaluation without noise: return" in line for line in lines) == 2
    trained, played, places, following = lines[-4:]
    assert trained.startswith("trained for 1,200 steps in ")
    assert played.startswith("without noise the best of 2 evaluated: ")
    assert played.endswith("% of the fruit caught")
    assert places == f"the video, curves, metrics and weights are in {folder}"
    assert following == f"next: noisydqn evaluate {folder}"
    assert max(map(len, lines)) < 80 + len(str(folder))


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Run a command that must be refused; returns its one line."""
    assert main(list(argv)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("noisydqn: ")
    return captured.err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["fly"],
            "no command 'fly': there are train, resume, evaluate, record, export, push, pull, "
            "presets",
        ),
        (["train", "lunarlandr"], "no environment 'lunarlandr': did you mean lunarlander"),
        (["train", "CartPole-v7"], "no environment 'CartPole-v7': did you mean CartPole-v1"),
        (["train", "Pendulum-v1"], "is continuous, expected Discrete"),
        (["train", "no_such_module:X-v0"], "names a module that cannot be imported"),
        (["train", "python:no_such_module.make"], "names nothing that can be imported"),
        (["train", "gymnax:CartPol"], "no environment 'gymnax:CartPol': there are CartPole-v1"),
        (["train", "gymnax:Pendulum-v1"], "is Box, expected Discrete"),
        (["train", "catcher", "--vectorisation", "sync"], "is for environments of Gymnasium"),
        (["train", "catcher", "--env-kwargs", '{"a": 1}'], "takes none"),
        (["train", "CartPole-v1", "--env-kwargs", "{a}"], "--env-kwargs must be a JSON object"),
        (["train", "--steps", "-3"], "--steps must be at least 1, got -3"),
        (["train", "--steps", "x"], "--steps"),
        (["train", "--discount", "1.1"], "--discount must be between 0 and 1, got 1.1"),
        (["train", "--noise", "white"], "'white'"),
        (["train", "--stepz", "3"], "--stepz"),
        (["train", "catcher", "extra"], "extra"),
        (["evaluate"], "DIR"),
        (["evaluate", "/no/such/folder"], "is not a folder"),
        (["record", "/no/such/folder"], "is not a folder"),
        (["evaluate", "x", "--episodes", "0"], "--episodes must be between 1 and 10000, got 0"),
        (["evaluate", "x", "--seed", "-1"], "--seed must be between 0 and 4294967295, got -1"),
        (["record", "x", "--seconds", "0"], "--seconds must be above zero"),
        (["record", "x", "--seed", str(2**64)], "--seed must be between 0 and 4294967295"),
        (["export", "/no/such/folder"], "is not a folder"),
        (["export", "x", "--format", "pickle"], "'pickle'"),
        (["push", "/no/such/folder", "me/run"], "is not a folder"),
        (["push", "x"], "USER/NAME"),
        (["pull", "run"], "'run' is no repository: give USER/NAME"),
        (["presets", "x"], "presets takes no arguments"),
    ],
)
def test_bad_input(capsys: pytest.CaptureFixture[str], argv: list[str], message: str) -> None:
    assert message in refused(capsys, *argv)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from noisydqn.cli import main; main(['--help'])\n"
        "for command in 'train evaluate record export push pull'.split():\n"
        "    try: main([command, '--help'])\n"
        "    except SystemExit: pass\n"
        "print(*sys.modules)"
    )
    command = [sys.executable, "-c", code]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    modules = {name.split(".")[0] for name in printed.splitlines()[-1].split()}
    heavy = {"jax", "equinox", "optax", "matplotlib", "tensorboardX", "torch", "huggingface_hub"}
    assert "tyro" in modules
    assert not modules & heavy


def test_no_command_prints_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage: noisydqn" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [["train", "--help"], ["evaluate", "-h"], ["record", "-h"]])
def test_help(capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 0
    assert "usage: noisydqn" in capsys.readouterr().out


def test_help_does_not_import_jax() -> None:
    code = (
        "import sys; from noisydqn.cli import main\n"
        "try: main(['train', '--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit('jax' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=True)


def test_presets(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(PRESETS)


def test_what_a_run_leaves(run_folder: Path) -> None:
    assert {path.name for path in run_folder.iterdir()} == {
        "best.safetensors",
        "config.json",
        "curves.png",
        "episodes.csv",
        "evaluations.csv",
        "final.safetensors",
        "metrics.csv",
        "policy.mp4",
        "summary.json",
        "checkpoints",
        "tensorboard",
    }


def test_summary(run_folder: Path) -> None:
    summary: dict[str, Any] = json.loads((run_folder / "summary.json").read_text())
    assert list(summary) == [
        "preset",
        "env",
        "seed",
        "steps",
        "updates",
        "episodes",
        "train_seconds",
        "steps_per_second",
        "solved_at_step",
        "solved_at_seconds",
        "evaluation",
    ]
    assert (summary["preset"], summary["env"]) == ("catcher", "noisydqn/Catcher-v0")
    assert (summary["seed"], summary["steps"]) == (3, 1200)
    assert summary["updates"] == (1200 - 400) // 8 + 1
    assert summary["solved_at_step"] is None
    evaluation: dict[str, Any] = summary["evaluation"]
    assert set(evaluation) == {"episodes", "mean_return", "caught_fraction"}


def test_metrics(run_folder: Path) -> None:
    with (run_folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [400, 800, 1200]
    assert {"loss", "action_change", "steps_per_second", "sigma.hidden.0", "sigma.value"} <= set(
        rows[0]
    )
    with (run_folder / "evaluations.csv").open() as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == [800, 1200]
    with (run_folder / "episodes.csv").open() as file:
        episodes = list(csv.DictReader(file))
    summary = json.loads((run_folder / "summary.json").read_text())
    assert len(episodes) == summary["episodes"] > 0


def test_tensorboard(run_folder: Path) -> None:
    events = EventAccumulator(str(run_folder / "tensorboard"))
    events.Reload()
    scalars: Any = events.Tags()["scalars"]
    tags = set(scalars)
    assert {
        "episode/Return",
        "episode/Q-Error",
        "speed/steps_per_second",
        "noise/action_change",
        "noise/mean_abs_sigma/hidden.0",
        "noise/mean_abs_sigma/advantage",
        "noise/mean_abs_sigma/value",
    } <= tags
    summary = json.loads((run_folder / "summary.json").read_text())
    assert len(events.Scalars("episode/Return")) == summary["episodes"]


def test_film(run_folder: Path) -> None:
    film = str(run_folder / "policy.mp4")
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", film]
    raw = subprocess.run(
        [*command, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], check=True, stdout=subprocess.PIPE
    )
    frames = np.frombuffer(raw.stdout, np.uint8).reshape(-1, 384, 576, 3)
    assert len(frames) == 30
    assert (frames[0, 350:364, :384] > 200).any()  # the paddle, white
    assert (frames[0, :, 384:] > 100).any()  # the panel's text


def test_evaluate_repeats_the_summary(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run_folder), "--episodes", "2", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    summary = json.loads((run_folder / "summary.json").read_text())
    assert printed == summary["evaluation"]
    assert main(["evaluate", str(run_folder), "--episodes", "3", "--weights", "final"]) == 0
    assert "3 episodes without noise" in capsys.readouterr().out


def test_record_takes_a_free_name(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run_folder / "policy.mp4").read_bytes()
    assert main(["record", str(run_folder), "--seconds", "0.5"]) == 0
    film = run_folder / "policy-2.mp4"
    assert capsys.readouterr().out.strip() == str(film)
    assert (run_folder / "policy.mp4").read_bytes() == before
    assert "exists, nothing was changed" in refused(
        capsys, "record", str(run_folder), "--out", str(film)
    )
    film.unlink()


def test_films_that_cannot_be_written(
    run_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for out in (tmp_path / "no" / "film.mp4", tmp_path / "film.txt"):
        refused(capfd, "record", str(run_folder), "--seconds", "0.2", "--out", str(out))
    taken = tmp_path / "film.part.mp4"  # where the film is made before it gets its name
    taken.mkdir()
    with pytest.raises(OSError, match="directory"):
        main(["record", str(run_folder), "--seconds", "0.2", "--out", str(tmp_path / "film.mp4")])


def test_a_run_too_short_to_learn_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "short"
    argv = ["--steps", "10", "--evaluation-episodes", "1", "--film-seconds", "0"]
    assert main(["train", *argv, "--out", str(out), "--quiet"]) == 0
    assert "learning starts after 1,000 steps" in capsys.readouterr().err
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["steps"], summary["updates"]) == (16, 0)  # two steps of eight environments
    assert (out / "curves.png").exists()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_folder_that_holds_a_run_is_refused(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(run_folder)
    assert "already holds a run, nothing was changed" in refused(
        capsys, "train", *TINY, "--out", str(run_folder)
    )
    assert contents(run_folder) == before


def test_other_folders_that_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert "is not empty" in refused(capsys, "train", *TINY, "--out", str(tmp_path))
    file = str(tmp_path / "notes.txt")
    assert "is a file" in refused(capsys, "train", *TINY, "--out", file)
    assert "cannot be written to" in refused(capsys, "train", *TINY, "--out", "/proc/run")
    assert "holds no run" in refused(capsys, "evaluate", str(tmp_path))


@pytest.fixture
def copied(run_folder: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be damaged."""
    for name in ("config.json", "best.safetensors", "final.safetensors"):
        (tmp_path / name).write_bytes((run_folder / name).read_bytes())
    return tmp_path


def test_missing_weights(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copied / "best.safetensors").unlink()
    assert "holds no best.safetensors" in refused(capsys, "evaluate", str(copied))
    assert "holds no best.safetensors" in refused(capsys, "record", str(copied))


@pytest.mark.parametrize("keep", [0, 4, 100, 5000])
def test_truncated_weights(copied: Path, keep: int, capsys: pytest.CaptureFixture[str]) -> None:
    path = copied / "best.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert "is damaged and cannot be read" in refused(capsys, "evaluate", str(copied))


def test_weights_that_are_none(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copied / "best.safetensors").write_bytes(b"\x80\x04 a pickle, perhaps" * 100)
    assert "is damaged and cannot be read" in refused(capsys, "evaluate", str(copied))


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("hidden", [64], "does not fit the config beside it"),
        ("dueling", False, "does not fit the config beside it"),
        ("steps", "many", "cannot be used"),
        ("steps", -1, "--steps must be at least 1"),
        ("version", 99, "version 99, expected 1"),
        ("surprise", 1, "options differ: surprise"),
    ],
)
def test_config_that_does_not_fit(
    copied: Path, option: str, value: object, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copied / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {option: value}))
    assert message in refused(capsys, "evaluate", str(copied))


def test_config_that_is_no_json(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copied / "config.json").write_text("{")
    assert "config.json cannot be used" in refused(capsys, "evaluate", str(copied))


def test_several_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "three"
    argv = [*TINY, "--num-seeds", "2", "--film-seconds", "0", "--out", str(out), "--quiet"]
    assert main(["train", *argv]) == 0
    assert capsys.readouterr() == ("", "")
    names = {"checkpoints", "seed3", "seed4", "summary.json"}
    assert {path.name for path in out.iterdir()} == names
    summary = json.loads((out / "summary.json").read_text())
    assert [seed["seed"] for seed in summary["seeds"]] == [3, 4]
    assert main(["evaluate", str(out), "--episodes", "2", "--json"]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert printed == [seed["evaluation"] for seed in summary["seeds"]]


def interrupt(
    out: Path, until: Path, *argv: str, number: int = signal.SIGINT, code: int = 130
) -> str:
    """Start training, press Ctrl-C once a file has something in it, and return what is printed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "noisydqn", "train", *argv, "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 240
    while not (until.exists() and until.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, number)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == code
    assert "Traceback" not in printed
    return printed


def test_ctrl_c_saves_and_says_where(tmp_path: Path) -> None:
    out = tmp_path / "long"
    printed = interrupt(out, out / "metrics.csv", "--steps", "1000000", "--quiet")
    assert f"weights and metrics are in {out}" in printed
    summary = json.loads((out / "summary.json").read_text())
    assert 0 < summary["steps"] < 1_000_000
    assert summary["evaluation"] is None
    assert (out / "final.safetensors").exists()
    assert main(["evaluate", str(out), "--episodes", "1", "--json"]) == 0


def test_ctrl_c_while_filming_keeps_what_was_trained(tmp_path: Path) -> None:
    out = tmp_path / "film"
    argv = [*TINY, "--film-seconds", "3600"]
    printed = interrupt(out, out / "policy.part.mp4", *argv)
    assert f"weights and metrics are in {out}" in printed
    assert not list(out.glob("*.mp4"))
    assert json.loads((out / "summary.json").read_text())["evaluation"] is not None
    assert (out / "final.safetensors").exists()


def test_a_bar_in_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "140")
    chunk = SeedChunk(
        updates=50,
        episodes=[Episode(10, 3.0, 5), Episode(20, 4.0, 5)],
        metrics={"loss": 0.25},
        sigma={"value": 0.02, "advantage": 0.04},
        action_change=0.1,
    )
    with Terminal(Config(steps=2_000), quiet=False) as terminal:
        terminal.chunk(1_000, 1.0, 1234.0, chunk)
    shown = capsys.readouterr().out
    for figure in ("50%", "return 3.5", "loss 0.25", "1,234 steps/s", "sigma 0.03"):
        assert figure in shown
