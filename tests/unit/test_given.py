"""What users give as an environment: an id, any callable, an environment itself."""

import functools
from typing import Any

import gymnasium
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers import TransformReward
from tests.host_envs import CountingHostEnv, CountingVectorEnv
from tests.probes import SMALL

from noisydqn.envs.given import Instance, accept
from noisydqn.envs.host import HostEnvironment
from noisydqn.errors import UserError
from noisydqn.imports import find, name_of


class Makers:
    """Makers of every kind."""

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def __eq__(self, other: object) -> bool:
        raise TypeError("it cannot be compared")

    def __call__(self) -> CountingHostEnv:
        return CountingHostEnv()

    @staticmethod
    def static() -> CountingHostEnv:
        return CountingHostEnv()

    @classmethod
    def of_class(cls) -> CountingHostEnv:
        return CountingHostEnv()

    def bound(self) -> CountingHostEnv:
        return CountingHostEnv()


def of_main() -> CountingHostEnv:
    return CountingHostEnv()


of_main.__module__ = "__main__"

HERE = __name__


@pytest.mark.parametrize(
    ("maker", "name"),
    [
        (CountingHostEnv, "python:tests.host_envs.CountingHostEnv"),
        (Makers.static, f"python:{HERE}.Makers.static"),
        (Makers.of_class, f"python:{HERE}.Makers.of_class"),
        (Makers().bound, f"python:<{HERE}.Makers.bound>"),
        (Makers(), f"python:<{HERE}.Makers>"),
        (lambda: CountingHostEnv(), f"python:<{HERE}.<lambda>>"),  # noqa: PLW0108
        (functools.partial(CountingHostEnv, (2, 4)), "python:<tests.host_envs.CountingHostEnv>"),
        (of_main, "python:<__main__.of_main>"),
    ],
)
def test_every_callable_makes_environments(maker: Any, name: str) -> None:
    assert accept(maker) == (maker, {}) or isinstance(maker, Makers)
    env = HostEnvironment.create(SMALL.environment, maker)
    assert env.spec.num_actions == 2
    assert hash(env) == hash(env)
    assert env != HostEnvironment.create(SMALL.environment, maker)
    assert name_of(maker) == name
    if "<" in name:
        with pytest.raises(UserError, match="cannot be found again by its name: pass the funct"):
            find(name)
    else:
        assert find(name) == maker


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("python:no_such_module.make", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("python:tests.host_envs.no_such", "no attribute 'no_such'"),
        ("python:make", "it is not 'module.function'"),
        (f"python:{HERE}.HERE", "is str, expected a function"),
    ],
)
def test_names_that_name_nothing(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find(name)


def test_instances_are_made_again_from_their_specs() -> None:
    def given(**kwargs: Any) -> tuple[Any, dict[str, Any]]:
        env = gymnasium.make("noisydqn-tests/Counting-v0", **kwargs)
        return accept(env)

    name = "noisydqn-tests/Counting-v0"
    assert given() == (name, {})
    assert given(lengths=[2, 3]) == (name, {"env_kwargs": '{"lengths": [2, 3]}'})
    assert given(max_episode_steps=7) == (name, {"max_episode_steps": 7})
    assert accept(gymnasium.make("CartPole-v1", render_mode="rgb_array")) == ("CartPole-v1", {})
    entry, options = given(lengths=(2, 3))  # JSON has no tuples
    assert isinstance(entry, EnvSpec)
    assert options == {}
    env = HostEnvironment.create(SMALL.environment, entry)
    assert env.make().unwrapped.lengths == (2, 3)  # pyright: ignore[reportAttributeAccessIssue]
    assert name_of(entry) == f"python:<{name}>"


def test_instances_that_cannot_be_made_again_are_used_themselves() -> None:
    own = CountingHostEnv()
    wrapped = TransformReward(gymnasium.make("CartPole-v1"), lambda reward: -float(reward))
    unregistered: list[gymnasium.Env[Any, Any]] = [own, Unrecorded(gymnasium.make("CartPole-v1"))]
    for env in unregistered:
        entry, options = accept(env)
        assert isinstance(entry, Instance)
        assert entry.env is env
        assert options == {"num_envs": 1}
    assert isinstance(accept(wrapped)[0], EnvSpec)  # which its wrapper is part of
    assert name_of(Instance(own)) == "python:<tests.host_envs.CountingHostEnv>"


class Unrecorded(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A wrapper that does not record how it was made."""


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (CountingVectorEnv(2), "is a vector of environments, expected a single one"),
        (SyncVectorEnv, "the class SyncVectorEnv of vectors of environments, expected a single"),
        (3, "env is 3, expected an id, a function that makes an environment, or an env"),
    ],
)
def test_what_cannot_be_an_environment(env: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        accept(env)
