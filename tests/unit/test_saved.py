"""Saved runs are played: in the environment of the run, or in one that is handed in."""

from functools import partial
from pathlib import Path
from typing import Any, cast

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium import spaces
from tests.host_envs import ShowingEnv
from tests.runs import create_folders

import noisydqn
from noisydqn import Config, UserError
from noisydqn.cli import main
from noisydqn.envs.encoding import Encoding
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.export import export_run
from noisydqn.runners import build
from noisydqn.runs.folder import RunFolder, write_config
from noisydqn.runs.weights import save_policy

pytestmark = pytest.mark.slow

PLAIN = Config(
    env="python:nowhere.<lambda>",
    hidden=(),
    exploration="greedy",
    dueling=False,
    evaluation_max_steps=7,
)


class Walk(gymnasium.Env[Any, Any]):
    """An environment with one state forever, which can be rendered."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - Gymnasium's
    render_mode = "rgb_array"

    def __init__(self, *, size: int = 2) -> None:
        self.observation_space = spaces.Box(-1, 1, (size,))
        self.action_space = spaces.Discrete(3)

    def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
        return np.zeros(self.observation_space.shape or (), np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.reset()[0], 1.0, False, False, {"action": action}

    def render(self) -> Any:
        return np.zeros((16, 16, 3), np.uint8)


gymnasium.register("noisydqn-tests/Walk-v0", f"{__name__}:Walk")


def save_untrained(folder: RunFolder, spec: EnvironmentSpec) -> None:
    like = jax.eval_shape(lambda: build.make_policy(PLAIN.program, spec, jax.random.key(0)))
    save_policy(folder.best, jax.tree.map(lambda x: np.ones(x.shape, x.dtype), like))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run whose environment no name leads to."""
    env = Walk()
    spec = EnvironmentSpec.of(Encoding.of(env.observation_space, env.action_space))
    out, (folder,) = create_folders(PLAIN, tmp_path / "run", spec)
    save_untrained(folder, spec)
    return out


@pytest.mark.parametrize("env", [partial(Walk, size=2), Walk, Walk()])
def test_a_run_is_evaluated_in_an_environment_from_the_user(run: Path, env: Any) -> None:
    """Episodes that would never end are truncated as in training."""
    evaluation = noisydqn.evaluate(run, env=env, episodes=3)
    assert evaluation.returns == (7, 7, 7)
    assert evaluation.truncated == 3


def test_an_environment_from_the_user_is_played_unchanged(run: Path) -> None:
    """Not as that of the run was made."""
    folder = RunFolder.at(run)
    write_config(folder, PLAIN.replace(env_kwargs='{"size": 9}', max_episode_steps=3))
    evaluation = noisydqn.evaluate(run, env=Walk, episodes=1)
    assert evaluation.returns == (7,)


def test_as_many_episodes_as_the_run_evaluates(run: Path) -> None:
    write_config(RunFolder.at(run), PLAIN.replace(evaluation_episodes=3))
    assert len(noisydqn.evaluate(run, env=Walk).returns) == 3


def test_a_video_of_an_environment_from_the_user(run: Path, tmp_path: Path) -> None:
    assert noisydqn.record(run, env=Walk, seconds=0.1) == run / "policy.mp4"
    elsewhere = tmp_path / "here.mp4"
    assert noisydqn.record(run, env=Walk, seconds=0.1, out=elsewhere) == elsewhere
    with pytest.raises(UserError, match="exists, nothing was changed"):
        noisydqn.record(run, env=Walk, seconds=0.1, out=elsewhere)


def test_without_the_environment_the_remedy_is_named(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"cannot be found again by its name: pass .* as env="):
        noisydqn.evaluate(run)
    assert main(["evaluate", str(run)]) == 2
    assert "as env=" in capsys.readouterr().err


def test_a_run_older_than_its_spaces_takes_its_environment(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "spaces.json").unlink()
    assert main(["export", str(run), "--format", "safetensors"]) == 2
    line = capsys.readouterr().err
    assert "pass what makes it from Python, as env= of noisydqn.load_policy or" in line
    with pytest.raises(UserError, match=r"as env= of noisydqn.load_policy"):
        noisydqn.load_policy(run)
    for env in (Walk, Walk()):
        assert noisydqn.load_policy(run, env=env).predict(np.zeros(2, np.float32))[0] in range(3)
    assert export_run(run, "safetensors", env=Walk).exists()


@pytest.mark.parametrize("play", [noisydqn.evaluate, noisydqn.record, noisydqn.resume])
@pytest.mark.parametrize(
    ("env", "shown"),
    [
        (partial(Walk, size=3), r"vector \(3,\) of float32 and takes Discrete\(3\)"),
        (lambda: ShowingEnv(spaces.Box(-1, 1, (2,))), r"vector \(2,\) of .* Discrete\(3\)"),
        (lambda: gymnasium.make("FrozenLake-v1"), r"Discrete\(16\) of .* Discrete\(4\)"),
        (gymnasium.make("noisydqn-tests/Walk-v0", size=3), r"vector \(3,\) of .* Discrete\(3\)"),
        ("gymnax:Breakout-MinAtar", r"array \(10, 10, 4\) of .* Discrete\(3\)"),
        ("noisydqn/Catcher-v0", r"image \(42, 42\) of .* Discrete\(3\)"),
    ],
)
def test_another_environment_is_refused(run: Path, play: Any, env: Any, shown: str) -> None:
    """Even where the weights would fit: actions may be counted from elsewhere."""
    before = (run / "config.json").read_bytes()
    with pytest.raises(UserError, match=f"the environment shows {shown}, but that of .* showed"):
        play(run, env=env)
    assert (run / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    ("argv", "options", "message"),
    [
        (["evaluate", "--episodes", "0"], {"episodes": 0}, "--episodes must be between 1 and"),
        (["evaluate", "--seed", "-1"], {"seed": -1}, "--seed must be between 0 and"),
        (["record", "--seconds", "0"], {"seconds": 0}, "--seconds must be above zero and at most"),
        (["record", "--seed", str(2**64)], {"seed": 2**64}, "--seed must be between 0 and"),
    ],
)
def test_numbers_out_of_range_are_refused(
    run: Path,
    argv: list[str],
    options: dict[str, Any],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(UserError, match=message):
        getattr(noisydqn, argv[0])(run, **options)
    assert main([argv[0], str(run), *argv[1:]]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        ("evaluate", {"episodes": "3"}, "--episodes must be a whole number or None, got '3'"),
        ("evaluate", {"episodes": 2.5}, "--episodes must be a whole number or None, got 2.5"),
        ("evaluate", {"seed": 3.5}, "--seed must be a whole number or None, got 3.5"),
        ("record", {"seconds": "20"}, "--seconds must be a number, got '20'"),
        ("resume", {"quiet": "no"}, "--quiet must be True or False, got 'no'"),
        ("resume", {"cache": 3}, "--cache must be a path, got 3"),
        ("evaluate", {"n_eval_episodes": 9}, "unknown option 'n_eval_episodes': noisydqn evaluate"),
        ("evaluate", {"episode": 9}, "unknown option 'episode': did you mean episodes"),
        ("record", {"second": 9}, "unknown option 'second': did you mean seconds"),
        ("record", {"preset": "a"}, "unknown option 'preset': the options are those that the run"),
        ("resume", {"callback": 9}, "unknown option 'callback': did you mean callbacks"),
        ("resume", {"total_timesteps": 9}, "unknown option 'total_timesteps': did you mean steps"),
        ("resume", {"color": 9}, "unknown option 'color': noisydqn resume --help lists"),
    ],
)
def test_arguments_of_another_kind_are_refused(
    run: Path, function: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        getattr(noisydqn, function)(run, **options)


def test_numbers_are_converted_where_that_is_exact(run: Path) -> None:
    evaluation = noisydqn.evaluate(run, env=Walk, episodes=cast(Any, 2.0), seed=cast(Any, 3.0))
    assert evaluation.returns == (7, 7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quiet": "no"}, "--quiet must be True or False, got 'no'"),
        ({"resume": 3}, "--resume must be True or False, got 3"),
        ({"cache": 3}, "--cache must be a path, got 3"),
    ],
)
def test_training_refuses_them_before_anything_is_made(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        noisydqn.train(env="CartPole-v1", steps=1, out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_commands_take_the_runs_of_several_seeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = PLAIN.replace(env="CartPole-v1", num_seeds=2, evaluation_max_steps=1)
    spec = EnvironmentSpec.of(Encoding.of(spaces.Box(-9, 9, (4,)), spaces.Discrete(2)))
    out, folders = create_folders(config, tmp_path / "two")
    for folder in folders:
        save_untrained(folder, spec)
    assert main(["evaluate", str(out), "--episodes", "1"]) == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == [
        str(folder.path) for folder in folders
    ]
    for command, kind in (("record", "video"), ("export", "file")):
        assert main([command, str(out), "--out", str(tmp_path / "one")]) == 2
        assert f"--out names one {kind}, but {out} holds 2 runs" in capsys.readouterr().err
    with pytest.raises(UserError, match="holds 2 runs: name the folder of one of them: seed0"):
        noisydqn.evaluate(out)
