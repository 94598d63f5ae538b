"""Values of environments as they are checked and converted."""

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from noisydqn.envs.values import read, read_flag, read_reward
from noisydqn.errors import WrongValueError

BYTES = spaces.Box(0, 255, (2,), np.uint8)
FLOATS = spaces.Box(-np.inf, np.inf, (2,), np.float64)


@pytest.mark.parametrize(
    ("space", "value", "message"),
    [
        (FLOATS, [0.0, 1e300], r"observation\[1\] is 1e\+300, beyond float32"),
        (spaces.Box(-1, 1, (2,)), np.array([0, 1e300]), r"observation\[1\] is 1e\+300, beyond"),
        (FLOATS, [np.nan, 0.0], r"observation\[0\] is nan"),
        (FLOATS, [0.0], r"observation has shape \[1\], declared is \[2\]"),
        (FLOATS, [[0.0], 1.0], "observation cannot become an array"),
        (FLOATS, None, "observation is None, expected numbers"),
        (FLOATS, ["a", "b"], r"observation is \['a', 'b'\], expected numbers"),
        (BYTES, [0.5, 1.0], r"observation\[0\] is 0.5, declared is Box"),
        (BYTES, [0, 256], r"observation\[1\] is 256, declared is Box"),
        (BYTES, [-1, 0], r"observation\[0\] is -1, declared is Box"),
        (BYTES, [np.nan, 0], r"observation\[0\] is nan, declared is Box"),
        (spaces.Discrete(3, start=2), 1, "observation is 1, declared is Discrete"),
        (spaces.Discrete(3), 3, "observation is 3, declared is Discrete"),
        (spaces.Discrete(3), 0.5, "observation is 0.5, declared is Discrete"),
        (spaces.MultiDiscrete([2, 3]), [1, 3], r"observation\[1\] is 3, declared is MultiDisc"),
        (spaces.MultiDiscrete([2, 3], start=[1, 0]), [0, 0], r"observation\[0\] is 0, declared"),
        (spaces.MultiBinary(2), [0, 2], r"observation\[1\] is 2, declared is MultiBinary"),
        (spaces.Dict(a=BYTES), {"b": [0, 0]}, r"observation does not have the keys \['a'\]"),
        (spaces.Dict(a=BYTES), {"a": [0, 999]}, r"observation\['a'\]\[1\] is 999"),
        (spaces.Tuple([BYTES]), ([0, 0], 1), "observation is not a tuple of 1"),
        (spaces.Tuple([BYTES]), ([0, 999],), r"observation\[0\]\[1\] is 999"),
    ],
)
def test_what_cannot_be_stored_is_named(space: Any, value: Any, message: str) -> None:
    with pytest.raises(WrongValueError, match=f"^{message}"):
        read(space, value, "observation")


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
    got = read(space, value, "observation")
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
        (None, "reward is None, expected one number"),
        ("1", "reward is '1', expected one number"),
        ([1.0, 2.0], r"reward is \[1.0, 2.0\], expected one number"),
        (1j, "reward is 1j, expected one number"),
        (1e39, r"reward is 1e\+39, beyond float32"),
        (np.float64(-1e39), r"reward is -1e\+39, beyond float32"),
        (float("nan"), "reward is nan$"),
        (float("inf"), "reward is inf$"),
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
