"""The command makes a run and reads it again: its files, evaluations and videos, or damage."""

import contextlib
import csv
import io
import json
import subprocess
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.commands import TINY, refused

import noisydqn
from noisydqn import UserError, load_config
from noisydqn.cli import main
from noisydqn.config.stored import VERSION

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fast_compiler")]


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
    trained, played, places, page, following = lines[-5:]
    assert trained.startswith("trained for 1,200 steps in ")
    assert played.startswith("without noise the best of 2 evaluated: ")
    assert played.endswith("% of the fruit caught")
    assert places == f"the video, curves, metrics and weights are in {folder}"
    assert page == f"all of it on one page: {folder / 'report.html'}"
    assert following == f"next: noisydqn evaluate '{folder}'"
    assert max(map(len, lines)) < 80 + len(str(folder))


def test_paths_under_home_are_written_to(
    run_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    argv = ["export", str(run_folder), "--format", "safetensors", "--out", "~/x.safetensors"]
    assert main(argv) == 0
    assert main(["record", str(run_folder), "--seconds", "1", "--out", "~/x.mp4"]) == 0
    capsys.readouterr()
    names = {"x.mp4", "x.safetensors", "x.safetensors.json"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_a_run_leaves_these_files(run_folder: Path) -> None:
    assert {path.name for path in run_folder.iterdir()} == {
        "best.safetensors",
        "config.json",
        "curves.png",
        "episodes.csv",
        "evaluations.csv",
        "final.safetensors",
        "lock",
        "metrics.csv",
        "policy.mp4",
        "report.html",
        "spaces.json",
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
    assert set(evaluation) == {
        "episodes",
        "mean_return",
        "truncated_episodes",
        "caught_fraction",
    }


def test_metrics(run_folder: Path) -> None:
    with (run_folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [400, 800, 1200]
    noise = {f"noise.{name}" for name in ("q_spread", "action_gap", "action_entropy")}
    assert noise | {"loss", "action_change", "steps_per_second", "sigma.value"} <= set(rows[0])
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
        "noise/q_spread",
        "noise/action_gap",
        "noise/action_entropy",
        "noise/mean_abs_sigma/hidden.0",
        "noise/mean_abs_sigma/advantage",
        "noise/mean_abs_sigma/value",
    } <= tags
    summary = json.loads((run_folder / "summary.json").read_text())
    assert len(events.Scalars("episode/Return")) == summary["episodes"]


def test_a_video_shows_game_and_panel(run_folder: Path) -> None:
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
    assert main(["evaluate", str(run_folder), "--episodes", "2", "--weights", "final"]) == 0
    assert "2 episodes without noise" in capsys.readouterr().out
    assert main(["evaluate", str(run_folder), "--episodes", "1"]) == 0
    assert "1 episode without noise" in capsys.readouterr().out


def test_record_takes_a_free_name(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run_folder / "policy.mp4").read_bytes()
    assert main(["record", str(run_folder), "--seconds", "1"]) == 0
    film = run_folder / "policy-2.mp4"
    assert capsys.readouterr().out.strip() == str(film)
    assert (run_folder / "policy.mp4").read_bytes() == before
    assert "exists, nothing was changed" in refused(
        capsys, "record", str(run_folder), "--out", str(film)
    )
    film.unlink()


def test_a_video_of_the_bare_game(run_folder: Path, tmp_path: Path) -> None:
    film = tmp_path / "bare.mp4"
    words = ["--seconds", "0.2", "--no-panel", "--out", str(film)]
    assert main(["record", str(run_folder), *words]) == 0
    probe = subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(film)], check=False, stderr=subprocess.PIPE
    )
    assert b"384x384" in probe.stderr
    with pytest.raises(UserError, match="panel"):
        noisydqn.record(run_folder, panel="maybe")  # pyright: ignore[reportArgumentType]


def test_videos_that_cannot_be_written(
    run_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for out in (tmp_path / "no" / "film.mp4", tmp_path / "film.txt"):
        refused(capfd, "record", str(run_folder), "--seconds", "1", "--out", str(out))
    taken = tmp_path / "film.mp4.part"  # where the video is written before it gets its name
    taken.mkdir()
    film = str(tmp_path / "film.mp4")
    assert f"{film} cannot be written: Is a directory" in refused(
        capfd, "record", str(run_folder), "--seconds", "1", "--out", film
    )


def test_another_run_with_the_options_of_one(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is also too short to learn, and says so."""
    out = tmp_path / "short"
    argv = [str(run_folder / "config.json"), "--steps", "10", "--out", str(out), "--quiet"]
    assert main(["train", *argv]) == 0
    assert "learning starts after 400 steps" in capsys.readouterr().err
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["steps"], summary["updates"]) == (16, 0)  # two steps of eight environments
    assert (out / "curves.png").exists()
    assert load_config(out) == load_config(run_folder).replace(steps=10)


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
    (copied / "checkpoints").mkdir(exist_ok=True)
    assert f"resume it: noisydqn resume {copied}, or" in refused(capsys, "evaluate", str(copied))


@pytest.mark.parametrize("keep", [0, 4, 100, 5000])
def test_truncated_weights(copied: Path, keep: int, capsys: pytest.CaptureFixture[str]) -> None:
    path = copied / "best.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert "is damaged and cannot be read" in refused(capsys, "evaluate", str(copied))


def test_files_that_are_not_weights_are_refused(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copied / "best.safetensors").write_bytes(b"\x80\x04 a pickle, perhaps" * 100)
    assert "is damaged and cannot be read" in refused(capsys, "evaluate", str(copied))


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("hidden", [64], "does not fit the config beside it"),
        ("dueling", False, "does not fit the config beside it"),
        ("steps", "many", "cannot be used"),
        ("steps", -1, "--steps must be at least 1"),
        ("version", 99, f"version 99, expected {VERSION} or older"),
        ("surprise", 1, "unknown option 'surprise'"),
    ],
)
def test_config_that_does_not_fit(
    copied: Path, option: str, value: object, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copied / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {option: value}))
    assert message in refused(capsys, "evaluate", str(copied))


def test_config_that_is_not_json(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copied / "config.json").write_text("{")
    assert "config.json cannot be used" in refused(capsys, "evaluate", str(copied))


def test_several_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "three"
    argv = [*TINY, "--num-seeds", "2", "--out", str(out), "--quiet"]
    argv[argv.index("--video-seconds") + 1] = "0"
    assert main(["train", *argv]) == 0
    assert capsys.readouterr() == ("", "")
    names = {"checkpoints", "lock", "report.html", "seed3", "seed4", "summary.json"}
    assert {path.name for path in out.iterdir()} == names
    summary = json.loads((out / "summary.json").read_text())
    assert [seed["seed"] for seed in summary["seeds"]] == [3, 4]
    assert main(["evaluate", str(out), "--episodes", "2", "--json"]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert printed == [seed["evaluation"] for seed in summary["seeds"]]
