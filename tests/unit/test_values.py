"""Values of environments as they are checked and converted."""

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from noisydqn.envs.spaces import Box, Discrete, MultiBinary, MultiDiscrete, Plain
from noisydqn.envs.values import Reader, check_batch, read_flag, read_reward, read_some
from noisydqn.errors import WrongValueError

BYTES = spaces.Box(0, 255, (2,), np.uint8)
FLOATS = spaces.Box(-np.inf, np.inf, (2,), np.float64)


@pytest.mark.parametrize(
    ("space", "value", "message"),
    [
        (FLOATS, [0.0, 1e300], r"observation\[1\] is 1e\+300, expected finite float32 \[2\]"),
        (spaces.Box(-1, 1, (2,)), np.array([0, 1e300]), r"observation\[1\] is 1e\+300, exp"),
        (FLOATS, [np.nan, 0.0], r"observation\[0\] is nan, expected finite float32 \[2\]"),
        (
            spaces.Box(-1, 1, (), np.float16),
            1e5,
            "observation is 100000.0, expected a fin",
        ),
        (FLOATS, [0.0], r"observation is float64 \[1\], expected finite float32 \[2\]"),
        (FLOATS, [[0.0], 1.0], "observation cannot become an array"),
        (FLOATS, None, r"observation is None, expected finite float32 \[2\]"),
        (FLOATS, ["a", "b"], r"observation is \['a', 'b'\], expected finite"),
        (BYTES, [0.5, 1.0], r"observation\[0\] is 0.5, expected uint8 \[2\]"),
        (BYTES, [0, 256], r"observation\[1\] is 256, expected uint8 \[2\]"),
        (BYTES, [-1, 0], r"observation\[0\] is -1, expected uint8 \[2\]"),
        (BYTES, [np.nan, 0], r"observation\[0\] is nan, expected uint8 \[2\]"),
        (spaces.Discrete(3, start=2), 1, "observation is 1, expected an integer from 2 to 4"),
        (spaces.Discrete(3), 3, "observation is 3, expected an integer from 0 to 2"),
        (spaces.Discrete(3), 0.5, "observation is 0.5, expected an integer from 0 to 2"),
        (spaces.MultiDiscrete([2, 3]), [1, 3], r"observation\[1\] is 3, expected integers \[2\]"),
        (spaces.MultiDiscrete([2, 3], start=[1, 0]), [0, 0], r"observation\[0\] is 0, expected"),
        (spaces.MultiBinary(2), [0, 2], r"observation\[1\] is 2, expected zeros and ones"),
        (spaces.Dict(a=BYTES), {"b": [0, 0]}, "observation has the keys b, expected a"),
        (spaces.Dict(a=BYTES), [0, 0], "observation is list, expected a dictionary of a"),
        (spaces.Dict(a=BYTES), {"a": [0, 999]}, r"observation\['a'\]\[1\] is 999"),
        (spaces.Tuple([BYTES]), ([0, 0], 1), "observation is a tuple of 2, expected a tuple of 1"),
        (spaces.Tuple([BYTES]), ([0, 999],), r"observation\[0\]\[1\] is 999"),
    ],
)
def test_what_cannot_be_stored_is_named(space: Any, value: Any, message: str) -> None:
    with pytest.raises(WrongValueError, match=f"^{message}"):
        Reader(space)(value)


@pytest.mark.parametrize(
    ("space", "value", "expected"),
    [
        (FLOATS, [1, 2], np.array([1, 2], np.float64)),
        (BYTES, np.array([3.0, 255.0]), np.array([3, 255], np.uint8)),
        (spaces.Discrete(3), np.array(2), np.int64(2)),
        (spaces.Discrete(3), 2.0, np.int64(2)),
        (spaces.MultiBinary(2), [True, False], np.array([1, 0], np.int8)),
        (spaces.MultiDiscrete([2, 300]), [1, 299], np.array([1, 299])),
    ],
)
def test_exact_values_are_converted(space: Any, value: Any, expected: Any) -> None:
    got = Reader(space)(value)
    np.testing.assert_array_equal(got, expected, strict=True)


@pytest.mark.parametrize(
    ("reward", "expected"),
    [
        (1.5, 1.5),
        (np.float32(0.25), 0.25),
        (np.array(2.0), 2.0),
        (np.array([3]), 3.0),
        ([1.0], 1.0),
        (True, 1.0),
        (-3, -3.0),
    ],
)
def test_rewards_are_numbers(reward: Any, expected: float) -> None:
    got = read_reward(reward)
    assert (type(got), got) == (float, expected)


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (None, "reward is None, expected a finite float32"),
        ("1", "reward is '1', expected a finite float32"),
        ([1.0, 2.0], r"reward is \[1.0, 2.0\], expected a finite float32"),
        (1j, "reward is 1j, expected a finite float32"),
        (1e39, r"reward is 1e\+39, expected a finite float32"),
        (np.float64(-1e39), r"reward is -1e\+39, expected a finite float32"),
        (float("nan"), "reward is nan, expected a finite float32"),
        (float("inf"), "reward is inf, expected a finite float32"),
    ],
)
def test_rewards_that_are_not(reward: Any, message: str) -> None:
    with pytest.raises(WrongValueError, match=f"^{message}"):
        read_reward(reward)


def test_flags() -> None:
    flags = True, np.bool_(True), 1, np.array([True]), 0.0, False
    assert [read_flag(flag, "terminated") for flag in flags] == [True] * 4 + [False] * 2
    for flag in (None, "no", 2, [True, False], 0.5):
        with pytest.raises(WrongValueError, match=r"^terminated is .*, expected True or False"):
            read_flag(flag, "terminated")


WRONG: list[tuple[Plain, Any, str]] = [
    (Box((2,), "float64"), [0.0, 1e300], r"x\[1\] is 1e\+300, expected finite float32 \[2\]"),
    (Box((), "float32"), np.nan, "x is nan, expected a finite float32"),
    (Discrete(3, start=2), 5, "x is 5, expected an integer from 2 to 4"),
    (MultiDiscrete((2, 3), (0, 0), (2,)), [1, 3], r"x\[1\] is 3, expected integers \[2\]"),
    (MultiBinary((2,)), [0, 2], r"x\[1\] is 2, expected zeros and ones \[2\]"),
]


@pytest.mark.parametrize(("space", "value", "message"), WRONG)
def test_a_value_and_a_batch_have_the_same_message(space: Plain, value: Any, message: str) -> None:
    with pytest.raises(WrongValueError, match=f"^{message}"):
        read_some(space, value, "x")
    batch = np.stack([np.zeros_like(value) + getattr(space, "start", 0), np.asarray(value)])
    batch = batch.astype(np.asarray(value).dtype)
    with pytest.raises(WrongValueError, match=f"^{message}") as error:
        check_batch(space, batch, "x", 2)
    assert error.value.row == 1
    with pytest.raises(WrongValueError, match=r"^x\[1"):  # one or a batch: the row is in the place
        read_some(space, batch, "x")


def test_batches_of_another_size_or_type() -> None:
    with pytest.raises(WrongValueError, match=r"x is int64 \[2\], expected a batch of 3, each"):
        check_batch(Discrete(3), np.zeros(2, int), "x", 3)
    with pytest.raises(WrongValueError, match=r"x\[0\] is 0.5, expected uint8 \[2\]"):
        check_batch(Box((2,), "uint8", 0, 255), np.full((1, 2), 0.5), "x", 1)
    check_batch(Box((2,), "uint8", 0, 255), np.full((1, 2), 5.0), "x", 1)
    check_batch(Discrete(3), np.array([2.0]), "x", 1)
