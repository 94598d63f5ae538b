"""What actors cannot do is refused in a line, before anything is made."""

import threading
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from tests.commands import refused
from tests.host_envs import CountingHostEnv
from tests.runs import tiny

import noisydqn
from noisydqn import Config, UserError, cluster
from noisydqn.config.config import option_hints
from noisydqn.config.stored import from_stored, to_stored
from noisydqn.runners.actors import ray_actors
from noisydqn.runners.actors.ray_actors import RayActors
from noisydqn.runs.actors import RAY_UNITS, Here, OnRay


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["CartPole-v1", "--actors", "3", "--num-envs", "4"],
            "--actors 3 does not divide --num-envs 4, and all have equal shares: give --actors 2, "
            "or --num-envs 6",
        ),
        (
            ["CartPole-v1", "--actors", "8", "--num-envs", "4"],
            "--actors 8 does not divide --num-envs 4, and all have equal shares: give --actors 4, "
            "or --num-envs 8",
        ),
        (["CartPole-v1", "--actors", "-1"], "--actors must be between 0 and 10000, got -1"),
        (["CartPole-v1", "--actor-steps", "0"], "--actor-steps must be between 1 and 10000, got 0"),
        (["CartPole-v1", "--actor-mode", "x"], "--actor-mode must be one of synchronous, asynchr"),
        (
            ["CartPole-v1", "--actors", "2", "--learner", "parallel"],
            "--actors 2 and --learner parallel exclude each other, as its rollouts are of the new",
        ),
        (
            ["CartPole-v1", "--actors", "2", "--acting-noise-shared"],
            "--actors 2 and --acting-noise-shared exclude each other: environments of actors act",
        ),
        (
            ["catcher", "--actors", "2"],
            "--actors 2 plays environments of Gymnasium, and noisydqn/Catcher-v0 is one in JAX, "
            "which the learner steps on its own device: leave out --actors",
        ),
        (
            ["CartPole-v1", "--actors", "2", "--vectorization", "own"],
            "--actors 2 and --vectorization own exclude each other, as such environments cannot be",
        ),
        (["CartPole-v1", "--ray", "auto"], "--ray starts actors on a cluster: say how many, with"),
        (["CartPole-v1", "--actors", "2", "--ray", "x:y"], "unexpected 'x:y'"),
    ],
)
def test_bad_options(
    argv: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, "train", *argv)
    assert not list(tmp_path.iterdir())


def test_ray_is_an_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda _: None)
    line = refused(capsys, "train", "CartPole-v1", "--actors", "2", "--ray")
    assert "needs the package ray, which is not installed: pip install 'noisydqn[ray]'" in line
    assert not list(tmp_path.iterdir())


def test_an_instance_has_no_shares(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--actors 1 needs more than the one instance that was"):
        noisydqn.train(
            env=CountingHostEnv(),
            out=tmp_path / "x",
            **tiny(actors=1, num_envs=1, evaluation_every=0),
        )


@pytest.mark.slow
def test_an_environment_that_cannot_be_sent(tmp_path: Path) -> None:
    lock = threading.Lock()

    def make() -> gymnasium.Env[Any, Any]:
        assert lock
        return CountingHostEnv()

    with pytest.raises(UserError, match="the environment cannot be sent to an actor"):
        noisydqn.train(env=make, out=tmp_path / "x", **tiny(actors=2))


@pytest.mark.slow
def test_an_environment_that_actors_cannot_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in a module of this process alone."""
    (tmp_path / "only_here.py").write_text(
        "import os\n"
        "if os.environ.get('ONLY_HERE') != str(os.getpid()):\n"
        "    raise ImportError('not in this process')\n"
        "from tests.host_envs import CountingHostEnv\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("ONLY_HERE", str(__import__("os").getpid()))
    from only_here import (  # pyright: ignore[reportMissingImports]
        CountingHostEnv as Hidden,  # pyright: ignore[reportUnknownVariableType]
    )

    Hidden.__module__ = "only_here"
    try:
        with pytest.raises(UserError, match="the environment cannot be imported by an actor"):
            noisydqn.train(env=Hidden, out=tmp_path / "x", **tiny(actors=2))  # pyright: ignore[reportUnknownArgumentType]
    finally:
        Hidden.__module__ = "tests.host_envs"


def test_more_actors_than_cores_are_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("noisydqn.runs.actors.usable_cores", lambda: [0, 1])
    assert Here().warning(2) is None
    assert Here().warning(3) == (
        "--actors 3 are more than the 2 cores that they and the learner share: they will be slower "
        "than fewer"
    )


def test_actors_share_the_cores_of_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    class Cluster:
        ray: Any = None

        def __init__(self, address: str) -> None:
            self.address = address

        def nodes(self) -> list[dict[str, Any]]:
            cores = (2.0, 1.0)
            return [{"Alive": True, "Resources": {"CPU": x}} for x in cores] + [{"Alive": False}]

    given: list[float] = []

    def make(cluster: Cluster, cores: float, warn: Any) -> None:
        del cluster, warn
        given.append(cores)

    monkeypatch.setattr("noisydqn.runs.actors.RayCluster", Cluster)
    monkeypatch.setattr("noisydqn.runs.actors.RayActors", make)
    for actors in (1, 3, 4, 9, 10):
        OnRay("auto", actors).make_pool(print)
    assert given == [1, 1, 0.5, 3333 / RAY_UNITS, 0.25]
    assert OnRay("auto", 3).warning(3) is None
    assert "--actors 4 are more than the 3 cores of the Ray cluster" in str(OnRay("", 4).warning(4))


class FullRay:
    """Ray whose object store is full for a while."""

    def __init__(self, times: int) -> None:
        self.times = times

    def remote(self, kind: type) -> Any:
        del kind
        return self

    def put(self, weights: Any) -> Any:
        self.times -= 1
        if self.times >= 0:
            raise MemoryError("no room")
        return weights


def test_a_full_object_store_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_actors, "RETRY_SECONDS", 0.0)
    warned: list[str] = []

    def pool(times: int) -> RayActors:
        fake: Any = type("Cluster", (), {"ray": FullRay(times)})
        return RayActors(fake, 1.0, warned.append)

    weights: Any = "weights"
    assert pool(0).publish(weights) == "weights"
    assert not warned
    assert pool(3).publish(weights) == "weights"
    assert warned == [
        "Ray's object store takes no weights (MemoryError: no room): waiting for room"
    ]
    monkeypatch.setattr(ray_actors, "FULL_SECONDS", -1.0)
    with pytest.raises(UserError, match=r"takes no weights .*: start Ray with more --object-store"):
        pool(3).publish(weights)


def test_steps_are_whole_segments() -> None:
    config = Config(env="CartPole-v1", num_envs=4, steps=1_000)
    assert config.total_steps == 1_000
    assert config.replace(actors=2).total_steps == 1_024
    assert config.replace(actors=2, actor_steps=10).total_steps == 1_000


def test_older_configs_have_no_actors(tmp_path: Path) -> None:
    config = Config(env="CartPole-v1", actors=2)
    stored = to_stored(config)
    assert from_stored(stored, tmp_path).options == config.flat()
    names = [name for name in option_hints() if name.startswith("actor")]
    assert sorted(names) == ["actor_lag", "actor_mode", "actor_steps", "actors"]
    older = {name: x for name, x in stored.items() if name not in names} | {"version": 4}
    assert from_stored(older, tmp_path).options == config.replace(actors=0).flat()
