"""Grids on nodes of Ray on this machine: the same results as without, also if a node dies."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from benchmarks.kills import outcome
from benchmarks.ray_nodes import Nodes, two_nodes
from tests.processes import finish, has_rows, start, wait_until
from tests.unit.test_compare import SMALL

from noisydqn.study.ledger import read

pytest.importorskip("ray")

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fast_compiler")]

RUNS = [f"CartPole-v1/default/seed-{seed}" for seed in (0, 1)]


def command(out: Path, *more: str, steps: int = 60_000) -> list[str]:
    grid = ("--env", "CartPole-v1", "--seeds", "2", "--steps", str(steps))
    return ["compare", *grid, *SMALL, "--out", str(out), *more]


def results(out: Path) -> dict[str, Any]:
    return {run: outcome(out / run) for run in RUNS}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The results of processes of this machine."""
    out = tmp_path_factory.mktemp("whole") / "out"
    finish(start(*command(out, "--jobs", "1")), 0, 300)
    return results(out)


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    with two_nodes() as nodes:
        yield nodes


def test_ray_on_this_machine(whole: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    printed = finish(start(*command(out, "--ray")), 0, 300)
    assert "2 of 2 runs finished" in printed
    assert results(out) == whole


def test_a_node_that_is_killed(whole: dict[str, Any], tmp_path: Path, nodes: Nodes) -> None:
    out = tmp_path / "out"
    process = start(*command(out, "--ray", nodes.address))
    wait_until(lambda: all(has_rows(out / run / "metrics.csv") for run in RUNS), process)
    os.kill(nodes.raylet, signal.SIGKILL)
    printed = finish(process, 0, 500)
    assert "1 of 2 nodes of the Ray cluster are gone" in printed
    assert "(raylet)" not in printed
    assert sum("resuming" in (out / f"{run}.log").read_text() for run in RUNS) == 1
    assert "2 of 2 runs finished" in printed
    assert results(out) == whole


def test_ctrl_c_saves_the_runs(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(*command(out, "--ray", steps=1_000_000))
    wait_until(lambda: has_rows(out / RUNS[0] / "metrics.csv"), process)
    os.killpg(process.pid, signal.SIGINT)
    printed = finish(process, 130)
    resume = f"to resume: noisydqn compare --out {out} --resume --ray local"
    assert f"interrupted after 0 of 2 runs; {resume}" in printed
    assert (out / RUNS[0] / "final.safetensors").exists()
    assert {entry.status for entry in read(out).jobs} == {"waiting"}
