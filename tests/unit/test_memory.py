"""The memory of a run is known before it begins."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from tests.probes import SMALL

import noisydqn
from noisydqn import Config, UserError
from noisydqn.envs.encoding import numbered
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.runners.replay_core import ReplayCore
from noisydqn.runs import memory
from noisydqn.runs.memory import compare, experience_bytes
from noisydqn.trees import size_of


def spec(*shape: int, dtype: Any = jnp.uint8) -> EnvironmentSpec:
    return EnvironmentSpec(jax.ShapeDtypeStruct(shape, dtype), 2, numbered(2))


@pytest.mark.parametrize("config", [SMALL, SMALL.replace(frame_stack=3, num_envs=4)])
@pytest.mark.parametrize("of", [spec(5, 4), spec(7, dtype=jnp.float32)])
def test_experience_bytes_equal_those_of_training(config: Config, of: EnvironmentSpec) -> None:
    state = jax.eval_shape(ReplayCore.create(config.program, of).init, jax.random.key(0))
    rows, tree, stack = (state.replay.rows, state.replay.tree, state.actor.stack)
    taken = sum(map(size_of, jax.tree.leaves((rows, tree, stack))))
    assert 0 <= experience_bytes(config, of) - taken <= 8  # and two numbers


ATARI = Config(replay_capacity=1_000_000)
IMAGES = spec(84, 84)  # some 7.1 GB


def test_buffers_that_fit_are_accepted() -> None:
    assert compare(ATARI, IMAGES, 1, 10 * 10**9) is None


def test_buffers_that_nearly_fill_the_memory_cause_a_warning() -> None:
    warning = compare(ATARI, IMAGES, 1, 8 * 10**9)
    assert warning == (
        "--replay-capacity 1000000 needs 7.1 GB for observations of uint8 [84, 84], but 8.0 GB "
        "are free: training may run out of memory; if it does, give 900000 or less"
    )


@pytest.mark.parametrize(
    ("seeds", "free", "message"),
    [
        (1, 2 * 10**9, "needs 7.1 GB for .* but 2.0 GB are free: give 220000 or less$"),
        (4, 2 * 10**9, "of 4 seeds needs 28.3 GB .*: give 56000 or less, or fewer --num-seeds$"),
        (1, 10**4, "but 0.0 GB are free: give it fewer or smaller observations$"),
    ],
)
def test_buffers_that_do_not_fit_are_refused(seeds: int, free: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        compare(ATARI, IMAGES, seeds, free)


def test_the_suggested_capacity_fits() -> None:
    with pytest.raises(UserError) as caught:
        compare(ATARI, IMAGES, 3, 10**9)
    capacity = int(str(caught.value).split("give ")[1].split()[0])
    assert compare(ATARI.replace(replay_capacity=capacity), IMAGES, 3, 10**9) is None


def test_a_buffer_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda _: 10**6)
    with pytest.raises(UserError, match="--replay-capacity 50000 needs"):
        noisydqn.train(env="CartPole-v1", replay_capacity=50_000, out=tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_the_memory_of_this_machine_is_known() -> None:
    free = memory.free_bytes()
    assert free is not None
    assert 10**7 < free < 10**14


def write(folder: Path, **values: int | str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in values.items():
        (folder / name.replace("__", ".")).write_text(f"{value}\n")


def test_limits_of_control_groups(tmp_path: Path) -> None:
    """The second version: a service's own limit, within a larger one of all services."""
    write(tmp_path / "proc/self", cgroup="0::/services/one")
    root = tmp_path / "sys/fs/cgroup"
    services = {"memory__max": 900, "memory__current": 500, "memory__stat": "inactive_file 50"}
    one = {"memory__max": 300, "memory__current": 100, "memory__stat": "inactive_file 20"}
    write(root / "services", **services)
    write(root / "services/one", **one)
    assert memory.left_by_groups(tmp_path) == [220, 450]
    write(root / "services", memory__max="max")
    assert memory.left_by_groups(tmp_path) == [220]


def test_limits_of_control_groups_of_the_first_version(tmp_path: Path) -> None:
    write(tmp_path / "proc/self", cgroup="3:cpuset:/\n4:memory:/job\n0::/")
    limits = {"memory__limit_in_bytes": 300, "memory__usage_in_bytes": 400, "memory__stat": "x 1"}
    write(tmp_path / "sys/fs/cgroup/memory/job", **limits)
    assert memory.left_by_groups(tmp_path) == [0]


def test_without_control_groups(tmp_path: Path) -> None:
    assert memory.left_by_groups(tmp_path) == []
