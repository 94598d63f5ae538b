"""The command line: how options are read, help, and bad input, which is refused in one line."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.commands import TINY, refused

from noisydqn import PRESETS, Config, UserError, load_policy
from noisydqn.cli import (
    EvaluateArgs,
    ExportArgs,
    PullArgs,
    PushArgs,
    RecordArgs,
    ResumeArgs,
    main,
)
from noisydqn.cli.arguments import options_of, read, show_help
from noisydqn.cli.option_help import help_on
from noisydqn.cli.presets import PresetsArgs
from noisydqn.cli.train import TrainArgs, config_options
from noisydqn.runners.report import Episode, SeedChunk
from noisydqn.runs.trackers import Terminal

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fast_compiler")]


@pytest.mark.parametrize("argv", [["train", "catcher"], ["resume", "run"]])
@pytest.mark.parametrize("given", ["none", "here"])
def test_the_cache_is_passed_to_training(
    monkeypatch: pytest.MonkeyPatch, argv: list[str], given: str
) -> None:
    class Finished:
        signal = None

    folders: list[str] = []

    def run(*_: object, cache: str, **_options: object) -> Finished:
        folders.append(cache)
        return Finished()

    monkeypatch.setattr(f"noisydqn.runs.api.{argv[0]}", run)
    assert main([*argv, "--cache", given]) == 0
    assert folders == [given]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["fly"],
            "no command 'fly': there are train, resume, compare, tune, evaluate, record, report, "
            "doctor, export, push, pull, bsuite, presets",
        ),
        (["train", "lunarlandr"], "no environment 'lunarlandr': did you mean lunarlander"),
        (["train", "CartPole-v7"], "no environment 'CartPole-v7': did you mean CartPole-v1"),
        (["train", "CartPole-v1", "--action-bins", "3"], "is for actions that are a Box, but the"),
        (["train", "catcher", "--action-bins", "3"], "--action-bins 3 is for environments of Gym"),
        (["train", "no_such_module:X-v0"], "names a module that cannot be imported"),
        (["train", "python:no_such_module.make"], "names nothing that can be imported"),
        (["train", "gymnax:CartPol"], "no environment 'gymnax:CartPol': there are CartPole-v1"),
        (["train", "gymnax:Pendulum-v1"], "is Box, expected Discrete"),
        (["train", "catcher", "--vectorization", "sync"], "is for environments of Gymnasium"),
        (["train", "catcher", "--images", "camera"], "--images camera names parts, but the"),
        (["train", "catcher", "--env-kwargs", '{"a": 1}'], "takes none"),
        (["train", "CartPole-v1", "--env-kwargs", "{a}"], "--env-kwargs must be a JSON object"),
        (["train", "--steps", "-3"], "--steps must be at least 1, got -3"),
        (["train", "--steps", "x"], "--steps must be a whole number, got 'x'"),
        (["train", "--steps", "1.5"], "--steps must be a whole number, got '1.5'"),
        (["train", "--steps", "1e999"], "--steps must be a whole number, got '1e999'"),
        (["train", "--seed", "-1"], "--seed must be between 0 and 4294967295, got -1"),
        (["train", "--seed"], "--seed needs a value: a whole number"),
        (["train", "--seed", "--quiet"], "--seed needs a value: a whole number"),
        (["train", "--seed", "1", "--seed=2"], "--seed is given twice: give it once"),
        (["train", "--double", "--no-double"], "--double is given twice"),
        (["train", "--double=maybe"], "--double maybe is unclear: give --double or --no-double"),
        (["train", "--no-double", "yes"], "--no-double yes is unclear: give --double or"),
        (["train", "--hidden"], "--hidden needs a value: whole numbers such as --hidden 128 128"),
        (["train", "--hidden", "64,x"], "--hidden must be whole numbers such as --hidden 128 128"),
        (["train", "--max-updates", "x"], "--max-updates must be a whole number or none, got 'x'"),
        (["train", "--discount", "1.1"], "--discount must be between 0 and 1, got 1.1"),
        (["train", "--discount", "nan"], "--discount must be between 0 and 1, got nan"),
        (
            ["train", "--noise", "white"],
            "must be one of factorised, independent, indexed, got 'white'",
        ),
        (["train", "--noise"], "--noise needs a value: one of factorised, independent"),
        (["train", "--learning-rte", "1"], "--learning-rte: did you mean --learning-rate?"),
        (["train", "--learning_rte=1"], "--learning_rte: did you mean --learning-rate?"),
        (["train", "--lr", "3e-4"], "unknown option --lr: did you mean --learning-rate?"),
        (["train", "--env", "CartPole-v1"], "--env: the environment is NAME: noisydqn train"),
        (["train", "--preset", "cartpol"], "no preset 'cartpol': did you mean cartpole?"),
        (["train", "catcher", "--preset", "cartpole"], "needs an environment as NAME, got 'catch"),
        (["train", "NoSuch-v0", "--preset", "cartpole"], "no environment 'NoSuch-v0'"),
        (
            ["train", "--preset", "cartpole", "--preset-file", "mine.toml"],
            '--preset and --preset-file exclude each other: write preset = "cartpole" and',
        ),
        (["train", "--preset", "cartpole", "--from", "x"], "--preset beside --from needs NAME"),
        (["train", "--xyzzy", "3"], "unknown option --xyzzy: see noisydqn train --help-all"),
        (["train", "-s", "3"], "unknown option -s: see noisydqn train --help-all"),
        (["train", "--out", ""], "--out must be a path, got ''"),
        (["train", "catcher", "extra"], "unexpected 'extra': the form is noisydqn train [NAME]"),
        (["train", "catcher", "stepz=3"], "unexpected 'stepz=3': did you mean --steps?"),
        (["train", "nothing.json"], "nothing.json does not exist: name a run's folder or its"),
        (["train", "./nothing"], "nothing does not exist: name a run's folder or its config.json"),
        (["tran"], "no command 'tran': did you mean train?"),
        (["CartPole-v1"], "no command 'CartPole-v1': did you mean noisydqn train CartPole-v1?"),
        (["--steps", "3"], "no command '--steps': did you mean noisydqn train --steps 3?"),
        (["resume"], "DIR is missing: the form is noisydqn resume DIR [options]"),
        (["resume", "x", "--steps", "y"], "--steps must be a whole number or none, got 'y'"),
        (["evaluate"], "DIR is missing: the form is noisydqn evaluate DIR [options]"),
        (["evaluate", "x", "y"], "unexpected 'y': the form is noisydqn evaluate DIR [options]"),
        (["evaluate", ""], "DIR must be a path, got ''"),
        (["evaluate", "x", "--episode", "3"], "--episode: did you mean --episodes?"),
        (["evaluate", "x", "--weights", "bst"], "--weights must be one of best, final, got 'bst'"),
        (["evaluate", "/no/such/folder"], "is not a folder"),
        (["evaluate", "x", "--env", "X"], "--env: the environment is that of the run; evalu"),
        (["resume", "x", "--preset", "X"], "--preset: the options are those that the run was"),
        (["record", "/no/such/folder"], "is not a folder"),
        (["export", "/no/such/folder"], "is not a folder"),
        (["export", "x", "--format", "pickle"], "'pickle'"),
        (["push", "/no/such/folder", "me/run"], "is not a folder"),
        (["push", "x"], "USER/NAME is missing: the form is noisydqn push DIR USER/NAME"),
        (["pull", "run"], "'run' is not a repository: give USER/NAME"),
    ],
)
def test_bad_input(capsys: pytest.CaptureFixture[str], argv: list[str], message: str) -> None:
    assert message in refused(capsys, *argv)


@pytest.mark.parametrize(
    ("argv", "options"),
    [
        ("--steps 1e5", {"steps": 100_000}),
        ("--steps=2_000 --learning_rate 3e-4", {"steps": 2_000, "learning_rate": 3e-4}),
        ("--hidden 64 32 --seed 2", {"hidden": (64, 32), "seed": 2}),
        ("--hidden 64,32", {"hidden": (64, 32)}),
        ("--hidden=[64,32]", {"hidden": (64, 32)}),
        ("--hidden [64, 32]", {"hidden": (64, 32)}),
        ("--hidden (64,)", {"hidden": (64,)}),
        ("--hidden []", {"hidden": ()}),
        ("--hidden 8 catcher", {"hidden": (8,)}),
        ("--no-double --layer-norm", {"double": False, "layer_norm": True}),
        ("--double no --layer_norm YES", {"double": False, "layer_norm": True}),
        ("--double=False --layer-norm=1", {"double": False, "layer_norm": True}),
        ("--double catcher --seed 1", {"double": True, "seed": 1}),
        ("--observation-clip none", {"observation_clip": None}),
        ("--stop-at-return -100", {"stop_at_return": -100.0}),
        ("--stop-at-return -.5", {"stop_at_return": -0.5}),
        ('--env-kwargs {"a":-1}', {"env_kwargs": '{"a":-1}'}),
    ],
)
def test_options_may_be_spelled_in_several_ways(argv: str, options: dict[str, Any]) -> None:
    given = read(config_options(), argv.split(), "train")
    assert Config(**given.values) == Config(**options)


@pytest.mark.parametrize(
    "default",
    [
        help_on(Config(), TrainArgs("catcher")),
        ResumeArgs(Path()),
        EvaluateArgs(Path()),
        RecordArgs(Path()),
        ExportArgs(Path()),
        PushArgs(Path(), "me/run"),
        PullArgs("me/run"),
        PresetsArgs(),
    ],
)
def test_help_names_the_options_that_are_read(
    default: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        show_help(default, "command")
    named = set(re.findall(r"(?<=[ │])--[a-z][a-z-]+", capsys.readouterr().out)) - {"--help"}
    options = options_of(TrainArgs if isinstance(default, TrainArgs) else type(default))
    if isinstance(default, TrainArgs):
        options |= config_options()
    options = {name.rstrip("_"): hint for name, hint in options.items()}  # such as from_
    for option in named:
        bare = option.removeprefix("--no-").removeprefix("--").replace("-", "_")
        assert options[bare].kind is bool or not option.startswith("--no-"), option
    flags = {name.replace("_", "-") for name in options}
    assert {f"--{name}" for name in flags} <= named


def test_home_is_expanded_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    argv = [["resume"], ["evaluate"], ["record"], ["export"], ["push", "me/run"]]
    for command, *rest in argv:
        assert f"{tmp_path}/x is not a folder" in refused(capsys, command, "~/x", *rest)
    assert f"{tmp_path}/x does not exist" in refused(capsys, "train", "~/x")
    (tmp_path / "x").write_text("mine")
    assert f"--out {tmp_path}/x is a file" in refused(capsys, "train", "--out", "~/x")
    assert f"--out {tmp_path}/x is a file" in refused(capsys, "pull", "me/x", "--out", "~/x")
    with pytest.raises(UserError, match=f"^{tmp_path}/x is not a file"):
        load_policy("~/x")


TELL = (
    "from noisydqn import Config; from noisydqn.runs.trackers import Terminal; "
    "terminal = Terminal(Config(), quiet=False); terminal.say('a'); terminal.say('b')"
)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import sys; from noisydqn.cli import main; sys.exit(main(['presets']))", 141),
        ("import sys; from noisydqn.cli import main; sys.exit(main(['train', '--help']))", 141),
        (TELL, 0),  # training continues
    ],
)
def test_output_whose_reader_has_gone(code: str, expected: int) -> None:
    """As in `noisydqn train --help | head -1`; the output has a buffer, as it mostly has."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == expected


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from noisydqn.cli import main\n"
        "main(['--help']); main([])\n"
        "for command in 'resume evaluate record report export push pull'.split():\n"
        "    try: main([command, '--help'])\n"
        "    except SystemExit: pass\n"
        "print(*sys.modules)"
    )
    command = [sys.executable, "-c", code]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    modules = {name.split(".")[0] for name in printed.splitlines()[-1].split()}
    heavy = {"jax", "equinox", "optax", "matplotlib", "tensorboard", "torch", "huggingface_hub"}
    heavy |= {"jinja2", "scipy", "pandas"}
    assert "tyro" in modules
    assert not modules & heavy


def test_no_command_prints_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage: noisydqn" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv", [["train", "--help"], ["evaluate", "-h"], ["record", "-h"], ["bsuite", "--help"]]
)
def test_help(capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 0
    assert "usage: noisydqn" in capsys.readouterr().out


def test_presets(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(PRESETS)


def interrupt(ready: Callable[[], bool], *argv: str) -> int:
    """Train, and press Ctrl-C as soon as it is ready; returns the exit code."""
    over = threading.Event()

    def press() -> None:
        while not over.wait(0.02):
            if ready():
                os.kill(os.getpid(), signal.SIGINT)
                return

    thread = threading.Thread(target=press)
    thread.start()
    try:
        return main(["train", *argv])
    finally:
        over.set()
        thread.join()


def test_ctrl_c_saves_and_says_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "long"
    argv = [*TINY, "--out", str(out), "--quiet"]
    argv[1] = "1000000"
    metrics = out / "metrics.csv"

    def trained() -> bool:
        return metrics.exists() and len(metrics.read_text().splitlines()) > 1

    assert interrupt(trained, *argv) == 130
    assert f"weights and metrics are in {out}" in capsys.readouterr().err
    summary = json.loads((out / "summary.json").read_text())
    assert 0 < summary["steps"] < 1_000_000
    assert summary["evaluation"] is None
    assert (out / "final.safetensors").exists()
    assert main(["evaluate", str(out), "--episodes", "2", "--json"]) == 0


def test_ctrl_c_while_recording_keeps_what_was_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where videos are encoded
    out = tmp_path / "film"
    argv = [*TINY, "--out", str(out)]
    argv[argv.index("--video-seconds") + 1] = "600"

    def evaluated_and_filming() -> bool:
        if not list(tmp_path.glob("*/film.mp4")):
            return False
        return json.loads((out / "summary.json").read_text())["evaluation"] is not None

    assert interrupt(evaluated_and_filming, *argv) == 130
    assert f"weights and metrics are in {out}" in capsys.readouterr().err
    assert not list(tmp_path.glob("*/*.mp4"))
    assert json.loads((out / "summary.json").read_text())["evaluation"] is not None
    assert (out / "final.safetensors").exists()


def test_a_terminal_shows_a_progress_bar(
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
