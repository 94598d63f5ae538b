"""Checks of values from environments and users against the space that declares them.

The replay buffer holds float32, bytes and booleans. A number beyond float32 is therefore as wrong
as NaN. Every message names the place of the first wrong value, such as "observation['speed'][1]".
"""

from functools import partial
from typing import Any

import numpy as np
from gymnasium import spaces

from noisydqn.envs.spaces import (
    Box,
    Plain,
    cast_quietly,
    check_keys,
    check_length,
    describe_space,
    is_text,
    numbers_in_words,
)
from noisydqn.errors import WrongValueError

FLOAT32 = np.dtype(np.float32)
MAX_FLOAT32 = float(np.finfo(np.float32).max)
NUMBER = Box((), "float32")
INTEGER = np.dtype(np.int64)


def storable(space: Plain, values: np.ndarray) -> np.ndarray:
    """Find the numbers that the replay buffer can hold as values of a space, elementwise."""
    if isinstance(space, Box):
        return space.inside(values)
    whole = cast_quietly(values, INTEGER)
    return (whole == values) & space.inside(whole)


def refuse_unless(
    fine: np.ndarray, values: np.ndarray, name: str, expected: str, *, batched: bool = False
) -> None:
    """Refuse values unless all are `fine`; the error names the first that is not.

    Args:
        fine: elementwise; a false element is refused.
        values: of the same shape.
        name: what the values are, such as "observation".
        expected: what they should be, in words.
        batched: the first axis counts examples; the error names the wrong one by its `row`.

    Raises:
        WrongValueError: an element is not fine.
    """
    if fine.all():
        return
    place = tuple(map(int, np.argwhere(~fine)[0]))
    inner = place[1:] if batched else place
    raise WrongValueError(
        f"{name}{list(inner) or ''} is {values[place]}, expected {expected}",
        row=place[0] if batched else None,
    )


def as_numbers(value: Any, name: str, expected: str) -> np.ndarray:
    """Convert a value to an array of numbers.

    Raises:
        WrongValueError: the value is ragged, or does not consist of numbers.
    """
    try:
        array = np.asarray(value)
    except Exception as error:
        raise WrongValueError(
            f"{name} cannot become an array ({error}), expected {expected}"
        ) from error
    if array.dtype.kind not in "biuf":
        raise WrongValueError(f"{name} is {_short(value)}, expected {expected}")
    return array


def check_shape(array: np.ndarray, shape: tuple[int, ...], name: str, expected: str) -> None:
    """Check the shape of an array.

    Raises:
        WrongValueError: the array has another shape.
    """
    if array.shape != shape:
        raise _wrong_kind(array, name, expected)


def _wrong_kind(array: np.ndarray, name: str, expected: str) -> WrongValueError:
    return WrongValueError(f"{name} is {array.dtype} {list(array.shape)}, expected {expected}")


def check_batch(space: Plain, values: Any, name: str, size: int) -> None:
    """Check a batch [size, *space.shape] of values of a space.

    Raises:
        WrongValueError: the batch has another shape, or the replay buffer cannot hold a value.
    """
    array = as_numbers(values, name, space.expected)
    expected = f"a batch of {size}, each {space.expected}"
    check_shape(array, (size, *space.shape), name, expected)
    if isinstance(space, Box) and array.dtype == space.stored and array.dtype.kind != "f":
        return
    refuse_unless(storable(space, array), array, name, space.expected, batched=True)


def read_some(space: Plain, value: Any, name: str) -> np.ndarray:
    """Check one value of a space, or a batch of them [B, *space.shape], without converting it.

    Raises:
        WrongValueError: it has another shape or type, or the replay buffer could not hold it.
    """
    array = as_numbers(value, name, space.expected)
    extra = array.ndim - len(space.shape)
    if extra not in (0, 1) or array.shape[extra:] != space.shape or not space.accepts(array):
        raise _wrong_kind(array, name, f"{space.expected} or a batch of these")
    refuse_unless(storable(space, array), array, name, space.expected)
    return array


class Reader:
    """Checks of a space's values and their exact conversion to the types of the space.

    Args:
        space: the space that an environment declares.
        name: of its values in messages.

    Raises:
        SpaceError: the space is not supported.
    """

    def __init__(self, space: spaces.Space[Any], name: str = "observation") -> None:
        self._name = name
        if isinstance(space, spaces.Dict):
            parts = {k: Reader(part, f"{name}[{k!r}]") for k, part in space.spaces.items()}
            self._read = partial(self._mapping, parts)
        elif isinstance(space, spaces.Tuple):
            some = [Reader(part, f"{name}[{i}]") for i, part in enumerate(space.spaces)]
            self._read = partial(self._sequence, some)
        elif is_text(space):
            self._read = _no_text
        else:
            described: Any = describe_space(space, name)
            dtype: Any = space.dtype
            self._read = partial(self._array, described, np.dtype(dtype))

    def __call__(self, value: Any) -> Any:
        """Convert a value of the space; only floats may change, by rounding to their type.

        Raises:
            WrongValueError: the value has another shape, is not finite as float32, or is outside
                its space in a way that cannot be stored: a fraction as a byte, a category that
                does not exist.
        """
        return self._read(value)

    def _mapping(self, parts: "dict[str, Reader]", value: Any) -> dict[str, Any]:
        check_keys(value, parts.keys(), self._name)
        return {key: part(value[key]) for key, part in parts.items()}

    def _sequence(self, parts: "list[Reader]", value: Any) -> tuple[Any, ...]:
        value = tuple(value) if isinstance(value, list) else value
        check_length(value, len(parts), self._name)
        return tuple(part(x) for part, x in zip(parts, value, strict=True))

    def _array(self, space: Plain, dtype: np.dtype[Any], value: Any) -> Any:
        expected = _declared(space, dtype)
        array = as_numbers(value, self._name, expected)
        check_shape(array, space.shape, self._name, expected)
        converted = cast_quietly(array, dtype)
        if dtype.kind == "f":
            fine = storable(space, converted)
        elif isinstance(space, Box):
            if array.dtype == dtype:
                return array
            fine = converted == array
        else:
            fine = storable(space, array)
        refuse_unless(fine, array, self._name, expected)
        return converted[()] if space.shape == () and not isinstance(space, Box) else converted


def _no_text(value: Any) -> str:
    """Return the value of `TEXT`, whatever an environment shows as text."""
    del value
    return ""


def _declared(space: Plain, dtype: np.dtype[Any]) -> str:
    """Say which values an environment may return for a space; floats must fit in float32."""
    if not isinstance(space, Box):
        return space.expected
    beyond = dtype.kind == "f" and dtype.itemsize > FLOAT32.itemsize
    return numbers_in_words(FLOAT32 if beyond else dtype, space.shape)


def read_reward(reward: Any) -> float:
    """Convert a reward, a number or an array of one.

    Raises:
        WrongValueError: the reward is something else, or float32 cannot hold it.
    """
    if isinstance(reward, float):  # NumPy's float64 is one
        number = float(reward)
    else:
        number = _number(reward, "reward", NUMBER.expected)
    if -MAX_FLOAT32 <= number <= MAX_FLOAT32:
        return number
    raise WrongValueError(f"reward is {number}, expected {NUMBER.expected}")


def read_flag(flag: Any, name: str) -> bool:
    """Convert `terminated` or `truncated`: a boolean, 0 or 1, or an array of one of these.

    Raises:
        WrongValueError: the flag is something else.
    """
    if type(flag) is bool:
        return flag
    number = _number(flag, name, "True or False")
    if number not in (0.0, 1.0):
        raise WrongValueError(f"{name} is {_short(flag)}, expected True or False")
    return bool(number)


def _number(value: Any, name: str, expected: str) -> float:
    try:
        array = np.asarray(value)
    except Exception:
        array = np.asarray(None)
    if array.dtype.kind not in "biuf" or array.size != 1:
        raise WrongValueError(f"{name} is {_short(value)}, expected {expected}")
    return float(array.item())


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:80]}..."
