"""The torso that is chosen for observations, and the line that names it."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from tests.spaces import BITS, IMAGE, MIXED, samples, spec

from noisydqn import Config, UserError
from noisydqn.envs.encoding import numbered
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.nets.build import choose_torso
from noisydqn.preprocessing import frames
from noisydqn.runners import build
from noisydqn.runs.messages import describe


@pytest.mark.parametrize(
    ("shape", "dtype", "torso"),
    [
        ((42, 42), np.uint8, "nature"),
        ((84, 84, 4), np.uint8, "nature"),
        ((12, 10, 3), np.uint8, "minatar"),
        ((10, 10, 4), np.bool_, "minatar"),
        ((10, 10), np.bool_, "minatar"),
        ((10, 10, 4), np.float32, "minatar"),  # gymnax's MinAtar
        ((7, 7, 20), np.float32, "minatar"),
        ((5, 5), np.float32, "flat"),  # kinematics of five cars
        ((60, 40), np.float32, "flat"),  # a window of prices
        ((2, 8, 8), np.float32, "flat"),
        ((2, 2, 2, 2), np.float32, "flat"),
        ((8,), np.float32, "flat"),
        ((), np.float32, "flat"),
    ],
)
def test_torsos_are_chosen_by_shape_and_type(
    shape: tuple[int, ...], dtype: Any, torso: str
) -> None:
    assert choose_torso(shape, dtype) == torso


@pytest.mark.parametrize(
    ("torso", "shape", "smallest"),
    [
        *(("nature", (20, 84), 36), ("catcher", (8, 8), 12), ("minatar", (4,), 3)),
        *(("impala", (5,), 1), ("btr", (5,), 1), ("hadamax", (5,), 1)),
    ],
)
def test_torsos_that_observations_are_too_small_for(
    torso: str, shape: tuple[int, ...], smallest: int
) -> None:
    config = Config(torso=torso)
    seen = jax.ShapeDtypeStruct(shape, np.float32)
    with pytest.raises(UserError, match=f"torso {torso} needs images of {smallest} x {smallest}"):
        build.make_policy(config.program, EnvironmentSpec(seen, 2, numbered(2)), jax.random.key(0))


@pytest.mark.parametrize(
    ("torso", "smallest"), [("nature", 36), ("catcher", 12), ("minatar", 3), ("notebook", 26)]
)
def test_the_smallest_image_of_a_torso_has_features(torso: str, smallest: int) -> None:
    def features(side: int) -> int:
        seen = EnvironmentSpec(jax.ShapeDtypeStruct((side, side), np.uint8), 2, numbered(2))
        config = Config(torso=torso, hidden=())
        made: Any = jax.eval_shape(
            lambda: build.make_policy(config.program, seen, jax.random.key(0))
        )
        return made.network.torso.out_features

    assert features(smallest) > 0
    with pytest.raises(UserError, match="needs images"):
        features(smallest - 1)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-1, 1, ()),
        spaces.Discrete(5),
        spaces.Box(-1, 1, (4, 5)),
        MIXED,
        IMAGE,
        spaces.MultiBinary(3),
    ],
    ids=str,
)
def test_frames_of_any_observation_can_be_seen_together(space: spaces.Space[Any]) -> None:
    of = spec(space)
    config = Config(frame_stack=4, hidden=(), exploration="greedy", dueling=False)
    batch = jnp.asarray(of.encoding.encode(samples(space, 2)[1]))

    def seen_and_values(batch: jax.Array) -> tuple[jax.Array, jax.Array]:
        policy = build.make_policy(config.program, of, jax.random.key(0))
        seen = policy.preprocess(frames.start(batch, 4))
        return seen, policy.network(seen[0], None)

    seen, values = jax.eval_shape(seen_and_values, batch)
    assert seen.size == 2 * 4 * math.prod(of.observation.shape)
    assert values.shape == (3,)


def test_an_observation_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match=r"holds 0 numbers, .* so that it shows something"):
        spec(spaces.Box(0, 1, (0,)))


def test_frames_of_numbers_stay_in_order() -> None:
    stack = jnp.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(frames.merge(stack), stack)


@pytest.mark.parametrize(
    ("space", "options", "words"),
    [
        (spaces.Box(-1, 1, (8,)), {}, "vector (8,); torso flat"),
        (
            spaces.Box(0, 255, (84, 84), np.uint8),
            {"frame_stack": 4},
            "image (84, 84), images divided by 255, 4 frames together; torso nature",
        ),
        (
            spaces.Box(0, 255, (3, 84, 84), np.uint8),
            {},
            "image (3, 84, 84) with channels first -> (84, 84, 3), images divided by 255; "
            "torso nature",
        ),
        (BITS, {}, "board (10, 10, 4) with channels last; torso minatar"),
        (
            spaces.Box(-1, 1, (7, 7, 20)),
            {},
            "array (7, 7, 20) with channels last; torso minatar",
        ),
        (
            spaces.Box(-1, 1, (5, 5)),
            {},
            "matrix (5, 5) -> flattened to 25 numbers, no convolutions; torso flat",
        ),
        (spaces.Box(-1, 1, (5, 5)), {"torso": "minatar"}, "matrix (5, 5); torso minatar"),
        (
            spaces.Dict({"a": spaces.Box(0, 255, (84, 84, 3), np.uint8), "b": MIXED["speed"]}),
            {},
            "image (84, 84, 3) and vector (4,) -> flattened to 21172 numbers, images divided by "
            "255, no convolutions; torso flat",
        ),
        (
            spaces.Discrete(16),
            {},
            "Discrete(16) -> flattened to 16 numbers, categories one-hot; torso flat",
        ),
        (spaces.Box(0, 1, ()), {}, "number () -> flattened to 1 number; torso flat"),
        (
            spaces.Tuple([spaces.Box(0, 1, (2,))] * 9),
            {},
            ", ".join(["vector (2,)"] * 5) + " and 4 more -> flattened to 18 numbers; torso flat",
        ),
    ],
    ids=lambda x: str(x) if isinstance(x, spaces.Space) else "",
)
def test_the_chosen_encoding_and_torso_are_reported(space: Any, options: Any, words: str) -> None:
    assert describe(Config(**options).program, spec(space)) == f"observations: {words}"
