"""Spaces of Gymnasium: how observations become arrays, and what is not supported."""

from functools import partial
from typing import Any, cast

import jax
import numpy as np
import pytest
from gymnasium import spaces
from tests.host_envs import ShowingEnv
from tests.hosts import SMALL, make
from tests.probes import run_host

from noisydqn.errors import UserError

pytestmark = pytest.mark.slow

IMAGE = spaces.Box(0, 255, (12, 10, 3), np.uint8)


def flat(space: spaces.Space[Any], value: Any) -> np.ndarray:
    return np.asarray(spaces.flatten(space, value), np.float32)


@pytest.mark.parametrize(
    ("space", "shape", "dtype", "encode"),
    [
        (spaces.Box(-1, 1, (3,), np.float64), (3,), "float32", np.float32),
        (spaces.Box(-5, 5, (2, 1), np.int32), (2, 1), "float32", np.float32),
        (spaces.Box(0, 255, (7,), np.uint8), (7,), "uint8", np.asarray),
        (spaces.Box(0, 3, (7,), np.uint8), (7,), "float32", np.float32),
        (spaces.Box(0, 1, (5, 5, 2), cast(Any, bool)), (5, 5, 2), "bool", np.asarray),
        (IMAGE, (12, 10, 3), "uint8", np.asarray),
        (
            spaces.Box(0, 255, (3, 12, 10), np.uint8),
            (12, 10, 3),
            "uint8",
            lambda x: x.transpose(1, 2, 0),
        ),
        (spaces.Box(0, 255, (12, 10), np.uint8), (12, 10), "uint8", np.asarray),
        (spaces.Discrete(4, start=2), (4,), "float32", lambda x: np.eye(4)[x - 2]),
        (spaces.MultiBinary(3), (3,), "float32", np.float32),
        (spaces.MultiDiscrete([2, 3]), (5,), "float32", None),
        (
            spaces.Dict({"a": spaces.Box(0, 1, (2,)), "b": spaces.Discrete(3)}),
            (5,),
            "float32",
            None,
        ),
        (
            spaces.Tuple([spaces.Box(0, 1, (2,), np.float64), spaces.Discrete(3)]),
            (5,),
            "float32",
            None,
        ),
    ],
    ids=lambda x: str(x) if isinstance(x, spaces.Space) else "",
)
def test_observation_spaces(space: Any, shape: Any, dtype: str, encode: Any) -> None:
    space.seed(0)
    showing = ShowingEnv(space)
    env = make(lambda: showing)
    assert env.spec.observation.shape == shape
    assert env.spec.observation.dtype == dtype
    assert env.spec.num_actions == 3
    showing.shown.clear()
    vector = env.vector(1)
    steps = [vector.reset(0), *(vector.step(np.array([i % 3])) for i in range(6))]
    encode = partial(flat, space) if encode is None else encode
    for step, shown in zip(steps, showing.shown, strict=True):
        np.testing.assert_array_equal(step.observation[0], encode(shown))
        assert step.observation.dtype == dtype
    showing.shown.clear()
    (*_, last) = run_host(SMALL.replace(steps=40), env, jax.random.key(0))
    assert last.seeds[0].updates > 0


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (spaces.Box(-np.inf, 1, (2,)), "has no bounds, so it cannot be divided into bins"),
        (spaces.Tuple([spaces.Discrete(2)]), "is Tuple, expected Discrete, MultiDiscrete, Multi"),
    ],
)
def test_action_spaces_that_are_not_supported(actions: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(lambda: ShowingEnv(spaces.Box(0, 1, (2,)), actions))


def test_observation_space_that_is_not_supported() -> None:
    with pytest.raises(UserError, match="is not supported: expected Box, Discrete"):
        make(lambda: ShowingEnv(spaces.Sequence(spaces.Discrete(2))))
