"""Actors in real processes, of this machine and of Ray, some of which are killed."""

import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from benchmarks.ray_nodes import two_nodes
from tests import inline_actors
from tests.commands import refused
from tests.inline_actors import InlineActors
from tests.processes import all_gone, children, finish, has_rows, start, wait_until
from tests.runs import flags
from tests.unit.test_actors import SMALL, of_learning

import noisydqn
from noisydqn.cli import main

pytestmark = pytest.mark.slow

OPTIONS: dict[str, Any] = SMALL | {"actors": 2, "steps": 6_400, "evaluation_every": 0}


def command(out: Path, *more: str, **changes: Any) -> list[str]:
    return ["train", "CartPole-v1", *flags(OPTIONS | changes), "--out", str(out), *more]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The results of actors in the process of the test."""
    out = tmp_path_factory.mktemp("inline") / "out"
    with pytest.MonkeyPatch.context() as patch:
        inline_actors.use(patch, InlineActors())
        noisydqn.train(env="CartPole-v1", out=out, **OPTIONS)
    return of_learning(out)


def test_an_actor_that_is_killed(expected: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(*command(out))
    wait_until(lambda: has_rows(out / "metrics.csv"), process)
    os.kill(children(process.pid)[-1], signal.SIGKILL)
    printed = finish(process, 0)
    assert "was lost (its process was killed by SIGKILL (perhaps out of memory)): it is" in printed
    assert of_learning(out) == expected


def test_actors_end_with_a_learner_that_is_killed(expected: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(*command(out, "--checkpoint-seconds", "0.01"))
    wait_until(lambda: list((out / "checkpoints").glob("*.json")), process)
    actors = children(process.pid)
    assert len(actors) == 2
    process.kill()
    process.communicate()
    assert all_gone(actors, 10.0)
    assert main(["resume", str(out), "--quiet"]) == 0
    assert of_learning(out) == expected


def test_ctrl_c_reaches_the_learner_alone(expected: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(*command(out))
    wait_until(lambda: has_rows(out / "metrics.csv"), process)
    actors = children(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    printed = finish(process, 130)
    assert "was lost" not in printed
    assert "to resume: noisydqn resume" in printed
    assert all_gone(actors)
    assert main(["resume", str(out), "--quiet"]) == 0
    assert of_learning(out) == expected


def test_an_actor_that_was_stopped_is_ended(expected: dict[str, Any], tmp_path: Path) -> None:
    """It answers no more, and is started again after its time."""
    out = tmp_path / "out"
    process = start(*command(out, "--step-timeout", "3"))
    wait_until(lambda: has_rows(out / "metrics.csv"), process)
    stopped = children(process.pid)[-1]
    os.kill(stopped, signal.SIGSTOP)
    printed = finish(process, 0)
    assert "was lost (did not answer within 3 s): it is started again" in printed
    assert not Path(f"/proc/{stopped}").exists()
    assert of_learning(out) == expected


def test_asynchronous_actors(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(*command(out, "--actor-mode", "asynchronous"))
    wait_until(lambda: has_rows(out / "metrics.csv"), process)
    os.kill(children(process.pid)[0], signal.SIGKILL)
    assert "was lost" in finish(process, 0)
    assert of_learning(out)["summary"]["steps"] == OPTIONS["steps"]


def test_actors_on_ray(expected: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("ray")
    out = tmp_path / "out"
    process = start(*command(out, "--ray"))
    wait_until(lambda: has_rows(out / "metrics.csv"), process)
    os.kill(on_ray(process.pid)[0], signal.SIGKILL)
    printed = finish(process, 0, 300)
    assert "was lost" in printed
    assert of_learning(out) == expected


def test_training_goes_on_where_a_node_of_ray_is_killed(
    expected: dict[str, Any], tmp_path: Path
) -> None:
    """The core of the other node has an actor already, so that none is left for the second."""
    pytest.importorskip("ray")
    out = tmp_path / "out"
    with two_nodes() as nodes:
        process = start(*command(out, "--ray", nodes.address))
        wait_until(lambda: has_rows(out / "metrics.csv"), process)
        os.kill(nodes.raylet, signal.SIGKILL)
        printed = finish(process, 0, 120)
    lost = re.search(r"was lost \((.*)\): it is started again", printed)
    assert lost is not None, printed
    # Ray does not always know yet why the actor is gone.
    assert "its node has died" in lost[1] or "is unavailable" in lost[1]
    assert of_learning(out) == expected


def on_ray(session: int) -> list[int]:
    """List the processes of actors of Ray in a session."""
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            belongs = int((folder / "stat").read_text().rpartition(")")[2].split()[3]) == session
            if belongs and (folder / "cmdline").read_bytes().startswith(b"ray::OnNode"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def test_an_address_that_does_not_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray")
    began = time.monotonic()
    line = refused(capsys, *command(tmp_path / "out", "--ray", "127.0.0.1:1"))
    assert "--ray 127.0.0.1:1 does not answer" in line
    assert time.monotonic() - began < 15
    assert not (tmp_path / "out").exists()
