"""Several devices: the checks before a run, and the tests of `tests/sharded`, with four devices."""

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from tests.forced_devices import environment, run_tests
from tests.host_envs import CountingHostEnv
from tests.probes import CountingEnv

import noisydqn
from noisydqn.errors import UserError
from noisydqn.runners import placement
from noisydqn.runners.placement import Placement
from noisydqn.shards import Shards


@pytest.fixture
def eight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let JAX seem to have eight devices, which nothing runs on."""
    monkeypatch.setattr(placement, "usable_devices", lambda: jax.devices()[:1] * 8)


PARALLEL = {"learner": "parallel", "rollout_steps": 8}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"devices": 4, "num_envs": 6},
            "--num-envs 6 cannot be divided evenly over --devices 4: give --num-envs 4 or 8, or "
            "--devices 3",
        ),
        (
            {"devices": 4, "num_envs": 2},
            "--num-envs 2 cannot be divided evenly over --devices 4: give --num-envs 4, or "
            "--devices 2",
        ),
        (
            {"devices": 4, "batch_size": 30},
            "--batch-size 30 cannot be divided evenly over --devices 4: give --batch-size 28 or 32",
        ),
        (
            {"devices": 4, "num_envs": 4, "minibatches": 16, **PARALLEL},
            "with --devices 4 the rollout of each device has 8 steps, which --minibatches 16 does "
            "not divide: give --minibatches 8",
        ),
        (
            {"devices": 2, "num_seeds": 3},
            "--num-seeds 3 cannot be divided evenly over --devices 2: give --num-seeds 2 or 4, or "
            "--devices 1",
        ),
        (
            {"devices": 2, "acting_noise_shared": True},
            "--acting-noise-shared and --devices 2 exclude each other: every device acts under "
            "noise of its own; give --no-acting-noise-shared",
        ),
        ({"devices": 9}, r"--devices 9: JAX has 8 devices here \(cpu\); give --devices 8 or less"),
    ],
)
@pytest.mark.usefixtures("eight")
def test_what_cannot_be_divided_is_refused(
    options: dict[str, Any], line: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    given: dict[str, Any] = {"num_envs": 4, "learner": "replay"} | options
    with pytest.raises(UserError, match=f"^{line}$"):
        noisydqn.train(env=CountingEnv(), out=out, quiet=True, **given)
    assert not out.exists()


@pytest.mark.usefixtures("eight")
def test_environments_of_gymnasium_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^--devices 2 is for environments in JAX; .* leave it out"
    ):
        noisydqn.train(env=CountingHostEnv, devices=2, out=tmp_path / "run", quiet=True)


def test_more_devices_than_there_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^--devices 2: JAX has 1 device here .* --devices 1 or"):
        noisydqn.train(env=CountingEnv(), devices=2, out=tmp_path / "run", quiet=True)


def test_a_device_that_the_program_chose_is_the_only_one() -> None:
    with jax.default_device(jax.devices()[0]):
        assert placement.usable_devices() == jax.devices()[:1]


def test_environments_of_shards_follow_one_another() -> None:
    devices = tuple(jax.devices()[:1] * 2)
    log = np.array([[["a0", "a1"], ["b0", "b1"]], [["a2", "a3"], ["b2", "b3"]]])
    joined = Placement(1, Shards(2), devices).by_seed(log)
    assert joined.tolist() == [[["a0", "a1", "a2", "a3"], ["b0", "b1", "b2", "b3"]]]
    assert Placement(2, Shards(), devices).by_seed(log) is log


def test_on_one_device_nothing_is_exchanged() -> None:
    """So its programs stay what they were."""
    one, x, key = Shards(), {"x": np.ones(2)}, jax.random.key(0)
    same = (one.mean, one.total, one.least, one.greatest, one.joined)
    assert all(method(x) is x for method in same)
    assert one.own_key(key) is key
    assert one.part(7) == 7


@pytest.mark.slow
@pytest.mark.parametrize("file", ["updates_on_devices.py", "runs_on_devices.py"])
def test_on_several_devices(file: str) -> None:
    run_tests(file)


def _process(address: str, processes: int, process: int) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "tests.sharded.two_processes", address]
    return subprocess.Popen(
        [*argv, str(processes), str(process)],
        env=environment(devices=1),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _printed(process: subprocess.Popen[str]) -> dict[str, str]:
    try:
        out, errors = process.communicate(timeout=180)
    finally:
        process.kill()
    assert process.returncode == 0, errors[-3_000:]
    lines = (line.partition(" ") for line in out.splitlines())
    return {name: rest for name, _, rest in lines if name in ("devices", "weights", "sums")}


@pytest.mark.slow
def test_two_processes_average_their_gradients() -> None:
    """Five updates of Adam: both have the same weights, which are those of one process."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        address = f"localhost:{found.getsockname()[1]}"
    first, second = map(_printed, [_process(address, 2, i) for i in range(2)])
    alone = _printed(_process(address, 1, 0))
    assert first["devices"] == "1 of 2"
    assert first == second
    ours, theirs = ([float(x) for x in each["sums"].split()] for each in (first, alone))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
