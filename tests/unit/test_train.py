"""Whole runs on environments of Gymnasium, gymnax and one's own, from Python and the shell."""

import csv
import json
import runpy
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from tests.host_envs import BrokenEnv, CountingHostEnv, Cue, Drawing, Raising, Single
from tests.runs import tiny

import noisydqn
from noisydqn import cli
from noisydqn.cli import main
from noisydqn.errors import EnvironmentFailedError
from noisydqn.play.evaluate import Evaluation
from noisydqn.presets import PRESETS, config_for
from noisydqn.runs import evaluations
from noisydqn.runs.folder import RunFolder

pytestmark = pytest.mark.slow

TINY: dict[str, Any] = {
    "steps": 240,
    "chunk_steps": 60,
    "hidden": (8,),
    "num_envs": 2,
    "batch_size": 4,
    "learning_starts": 40,
    "replay_capacity": 400,
    "evaluation_episodes": 2,
    "video_seconds": 0.2,
    "quiet": True,
}


def flags(**options: Any) -> list[str]:
    """Options as the command line takes them."""
    argv: list[str] = []
    for name, value in tiny(TINY, **options).items():
        if name == "quiet":
            argv.append("--quiet")
        else:
            values = value if isinstance(value, tuple) else (value,)
            argv += [f"--{name.replace('_', '-')}", *map(str, values)]
    return argv


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def test_a_function_that_makes_an_environment(tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = noisydqn.train(env=CountingHostEnv, out=out, **TINY)
    # Half of 240, less those due before step 40.
    assert result.seeds[0].summary["updates"] == 120 - 19
    assert summary(out)["env"] == "python:tests.host_envs.CountingHostEnv"
    assert summary(out)["preset"] == "CountingHostEnv"
    assert summary(out)["evaluation"]["mean_return"] == 6.0  # each environment's first episode
    assert not (out / "policy.mp4").exists()  # it renders nothing


def test_an_error_in_closing_before_training_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line is not a Python warning, which would be an error in tests."""
    options: dict[str, Any] = TINY | {"steps": 10, "video_seconds": 0}
    noisydqn.train(env=lambda: Raising("close", OSError("gone")), out=tmp_path / "run", **options)
    line = "the environment's close() raised OSError: gone; it was ignored"
    assert capsys.readouterr().err.splitlines().count(line) == 1


def test_a_run_in_a_users_environment_is_loaded_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(["train", "python:tests.host_envs.Cue", *flags(), "--out", str(out)]) == 0
    assert "no video: the environment draws no pictures" in capsys.readouterr().err
    assert main(["evaluate", str(out), "--episodes", "2", "--json", "--trust"]) == 0
    assert json.loads(capsys.readouterr().out) == summary(out)["evaluation"]
    assert main(["record", str(out), "--trust"]) == 2
    assert "no video" in capsys.readouterr().err


def test_a_function_that_cannot_be_imported_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    noisydqn.train(env=lambda: Cue(), out=out, **TINY)  # noqa: PLW0108 - that it is one matters
    assert main(["evaluate", str(out)]) == 2
    assert "cannot be found again by its name" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("env", "options", "film"),
    [
        ("CartPole-v1", {"vectorization": "own", "frame_stack": 3}, False),
        ("Acrobot-v1", {"exploration": "epsilon-greedy"}, True),
        ("FrozenLake-v1", {"normalize_observations": "running"}, True),
        ("MinAtar/Breakout-v1", {"learner": "parallel", "frame_stack": 2}, True),
        ("gymnax:CartPole-v1", {"learner": "replay", "max_episode_steps": 7}, False),
        ("gymnax:Breakout-MinAtar", {"learner": "replay", "exploration": "both"}, False),
    ],
)
def test_environments_by_id(env: str, options: dict[str, Any], film: bool, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert main(["train", env, *flags(**options), "--out", str(out)]) == 0
    assert summary(out)["env"] == env
    assert summary(out)["updates"] > 0
    assert (out / "policy.mp4").exists() == film
    if "max_episode_steps" in options:
        with (out / "episodes.csv").open() as file:
            assert {line.split(",")[2].strip() for line in file} <= {"length", *"1234567"}
        assert summary(out)["evaluation"]["mean_return"] <= 7


def test_atari_through_its_own_vector_environment(tmp_path: Path) -> None:
    """Frames stacked by us, sticky actions, games cut by a limit, pixels as they are stored."""
    out = tmp_path / "run"
    options: dict[str, Any] = {
        "max_episode_steps": 30,
        "learning_starts": 100,
        "hidden": (16,),
        "steps": 120,
    }
    assert main(["train", "ALE/Pong-v5", *flags(**options), "--out", str(out)]) == 0
    with (out / "episodes.csv").open() as file:
        lengths = [int(line.split(",")[2]) for line in file.readlines()[1:]]
    assert lengths
    assert set(lengths) <= {30}
    assert (out / "policy.mp4").exists()
    config = json.loads((out / "config.json").read_text())
    assert (config["frame_stack"], config["reward_clip"], config["torso"]) == (4, 1.0, "nature")


def test_a_video_that_fails_in_the_report_loses_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The picture before training is right; after a step, rendering returns something else."""
    out = tmp_path / "run"
    pictures = [np.zeros((4, 6, 3), np.uint8), "no picture"]
    result = noisydqn.train(env=lambda: Drawing(pictures), out=out, **TINY)
    assert summary(out)["evaluation"] == result.seeds[0].summary["evaluation"] is not None
    assert not list(out.glob("*.mp4"))
    assert "rendered no picture" in capsys.readouterr().err


def test_training_reports_observations_and_torso(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = TINY | {"quiet": False, "video_seconds": 0}
    noisydqn.train(env=CountingHostEnv, out=tmp_path / "run", **options)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "observations: vector (4,); torso flat"
    assert "evaluating the best weights without noise" in lines


@pytest.mark.parametrize("lengths", [[2, 2], (2, 2)])
def test_an_instance_is_made_again_with_its_arguments(lengths: Any, tmp_path: Path) -> None:
    """Those that JSON can hold are in the config, others in the spec."""
    given = gymnasium.make("noisydqn-tests/Counting-v0", lengths=lengths)
    result = noisydqn.train(env=given, out=tmp_path / "run", **TINY)
    assert result.seeds[0].summary["evaluation"]["mean_return"] == 3.0  # of 1 and 2


def test_seeds_of_a_host_environment_are_trained_in_turn(tmp_path: Path) -> None:
    result = noisydqn.train(env=Cue, out=tmp_path / "run", num_seeds=2, seed=4, **TINY)
    assert [seed.summary["seed"] for seed in result.seeds] == [4, 5]
    assert (tmp_path / "run" / "seed5" / "best.safetensors").exists()


def test_training_stops_when_the_mean_return_is_reached(tmp_path: Path) -> None:
    goal: dict[str, Any] = {"stop_at_return": 10.0, "window": 2, "steps": 100_000}
    result = noisydqn.train(env=CountingHostEnv, out=tmp_path / "run", **TINY | goal)
    # Two environments end episodes of 6, 6, then of 15, 15 after 9 steps and a reset each.
    assert result.seeds[0].summary["solved_at_step"] == 18
    assert result.seeds[0].summary["steps"] == 60


def test_training_continues_until_an_evaluation_confirms_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evaluated after each chunk from the first on, and then once more in other episodes."""
    played = iter([5.0, 7.5, 8.0, 6.0])
    monkeypatch.setattr(evaluations, "evaluate", lambda *_, **__: Evaluation((next(played),)))
    goal: dict[str, Any] = {"stop_at_return": 10.0, "stop_at_evaluation": 8.0, "window": 2}
    result = noisydqn.train(env=CountingHostEnv, out=tmp_path / "run", **TINY | goal)
    assert result.seeds[0].summary["solved_at_step"] == 18
    assert result.seeds[0].summary["steps"] == 180
    assert result.seeds[0].summary["evaluation"]["mean_return"] == 6.0
    with (tmp_path / "run" / "evaluations.csv").open() as file:
        rows = [(row["step"], float(row["mean_return"])) for row in csv.DictReader(file)]
    assert rows == [("60", 5.0), ("120", 7.5), ("180", 8.0)]


def test_training_stops_when_the_time_is_used_up(tmp_path: Path) -> None:
    budget: dict[str, Any] = {"max_seconds": 0.01, "steps": 100_000}
    result = noisydqn.train(env=CountingHostEnv, out=tmp_path / "run", **TINY | budget)
    assert result.seeds[0].summary["steps"] == 60
    assert result.seeds[0].summary["evaluation"] is not None


@pytest.mark.parametrize("vectorization", ["sync", "subprocess"])
def test_what_was_trained_is_saved_when_an_environment_breaks(
    vectorization: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    broken = partial(BrokenEnv, "nan")
    with pytest.raises(EnvironmentFailedError, match=f"what was trained until then is in {out}"):
        noisydqn.train(env=broken, out=out, vectorization=vectorization, **TINY)
    assert RunFolder.at(out).final.exists()
    assert summary(out)["steps"] > 0
    assert summary(out)["evaluation"] is None


def test_what_was_trained_is_named_when_an_environment_breaks_in_the_report(
    tmp_path: Path,
) -> None:
    out = tmp_path / "run"
    # For the spaces, training, the evaluation of the last weights, and the report.
    made = iter([CountingHostEnv(), CountingHostEnv(), CountingHostEnv(), BrokenEnv("reset")])
    options: dict[str, Any] = TINY | {
        "num_envs": 1,
        "evaluation_episodes": 1,
        "evaluation_every": 0,
    }
    with pytest.raises(EnvironmentFailedError, match=f"100% empty.* until then is in {out}"):
        noisydqn.train(env=lambda: next(made), out=out, **options)
    assert RunFolder.at(out).best.exists()


def test_where_only_one_environment_can_be_made_evaluations_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = TINY | {"num_envs": 1, "evaluation_every": 80}
    result = noisydqn.train(env=Single, out=tmp_path / "run", **options)
    assert result.seeds[0].summary["steps"] == 240
    assert result.seeds[0].summary["evaluation"]["mean_return"] > 0
    lines = capsys.readouterr().err.splitlines()
    assert any("no evaluation after" in line and "the port is taken" in line for line in lines)


def test_the_traceback_of_an_environment_is_shown(tmp_path: Path) -> None:
    """Through the command, with the environment in its own process: exit code 1."""
    argv = ["train", "tests.host_envs:noisydqn-tests/Broken-v0", "--env-kwargs", '{"how": "raise"}']
    argv += [*flags(vectorization="subprocess"), "--out", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-m", "noisydqn", *argv], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    *trace, line = done.stderr.strip().splitlines()
    assert line.startswith("noisydqn: the environment failed at step 2 of episode 3")
    assert "it raised RuntimeError: the motor is 100% broken" in line
    assert "what was trained until then is in" in line
    assert any("RuntimeError: the motor is 100% broken" in text for text in trace)
    assert any("host_envs.py" in text for text in trace)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("train my_module:MyEnv-v0", True),
        ("train catcher --torso python:my_module.make", True),
        ("evaluate runs/one --trust", True),
        ("evaluate runs/one --trust=yes", True),
        ("evaluate .", False),
        ("train gymnax:CartPole-v1", False),
    ],
)
def test_the_installed_command_finds_modules_of_its_folder_if_it_names_code(
    words: str, found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["noisydqn", *words.split()])
    monkeypatch.setattr(sys, "path", ["installed"])
    monkeypatch.setattr(cli, "main", lambda: 0)
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)  # tests go on after the command
    with pytest.raises(SystemExit, match="0"):
        cli.run()
    assert sys.path == ["installed", *([str(tmp_path)] if found else [])]


def test_the_module_runs_as_the_command_does(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[bool] = []
    monkeypatch.setattr(cli, "run", lambda: ran.append(True))
    runpy.run_module("noisydqn", run_name="__main__")
    assert ran == [True]


def test_every_environment_gets_options_that_suit_it() -> None:
    assert config_for("LunarLander-v3") == PRESETS["lunarlander"]
    assert config_for("noisydqn/Catcher-v0") == PRESETS["catcher"]
    breakout = config_for("ALE/Breakout-v5")
    assert breakout == PRESETS["atari"].replace(env="ALE/Breakout-v5", preset="ALE-Breakout-v5")
    assert (
        config_for("gymnax:Asterix-MinAtar").learning.learning_rate
        == PRESETS["minatar"].learning.learning_rate
    )
    own = config_for("mine:Maze-v0")
    assert own == PRESETS["default"].replace(env="mine:Maze-v0", preset="mine-Maze-v0")


def test_environments_in_jax_get_the_parallel_learner() -> None:
    catch: dict[str, Any] = {"env": "gymnax:Catch-bsuite", "preset": "gymnax-Catch-bsuite"}
    for learner in (None, "parallel"):
        found = config_for("gymnax:Catch-bsuite", learner)
        assert found == PRESETS["default-jax"].replace(**catch)
    assert config_for("gymnax:Catch-bsuite", "replay") == PRESETS["default"].replace(**catch)


def test_the_second_notebooks_configuration() -> None:
    """What the second notebook did, option by option."""
    config = PRESETS["lunarlander-notebook"]
    wanted: dict[str, Any] = {
        "env": "LunarLander-v3",
        "max_episode_steps": 500,
        "hidden": (128, 128, 128),
        "torso": "flat",
        "dueling": False,
        "double": False,
        "exploration": "both",
        "epsilon": 0.05,
        "epsilon_final": 0.05,
        "noise": "factorised",
        "sigma_init": 0.5,
        "loss": "squared",
        "optimizer": "adam",
        "learning_rate": 1e-3,
        "learning_rate_final": None,
        "discount": 0.99,
        "n_step": 1,
        "replay": "uniform",
        "replay_capacity": 50_000,
        "batch_size": 32,
        "updates_per_step": 1.0,
        "target_period": 400,
        "target_rate": 1.0,
        "stop_at_return": 200.0,
        "window": 50,
        "num_envs": 1,
    }
    options = config.flat()
    assert {name: options[name] for name in wanted} == wanted


def test_rewards_are_clipped_and_scaled_for_learning_alone(tmp_path: Path) -> None:
    """Episodes report what the environment gave."""
    options: dict[str, Any] = {"reward_clip": 1.0, "reward_scale": 0.5}
    result = noisydqn.train(env=CountingHostEnv, out=tmp_path / "run", **TINY | options)
    with (result.folder / "episodes.csv").open() as file:
        returns = {float(line.split(",")[1]) for line in file.readlines()[1:]}
    assert returns == {6.0, 15.0}
    assert np.isfinite(result.seeds[0].summary["evaluation"]["mean_return"])
