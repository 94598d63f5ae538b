"""Values that environments give: checked against what is stored, and converted where exact.

Stored are float32, bytes and booleans, so a number beyond float32 is as wrong as NaN.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from noisydqn.errors import WrongValueError

FLOAT32 = np.dtype(np.float32)
MAX_FLOAT32 = float(np.finfo(np.float32).max)


def read(space: spaces.Space[Any], value: Any, name: str) -> Any:
    """Check a value of a space; returns it as arrays of the space's own type.

    Args:
        space: what was declared.
        value: what the environment gave.
        name: of the value, for the message.

    Raises:
        WrongValueError: it has another shape, is not finite as float32, or is outside its space
            in a way that cannot be stored: a byte space with fractions, a category beyond the last.
    """
    if isinstance(space, spaces.Box):
        return _box(space, value, name)
    if isinstance(space, spaces.Discrete) and isinstance(value, int | np.integer):
        if space.start <= value < space.start + space.n:
            return value
        raise WrongValueError(f"{name} is {value}, declared is {space}")
    if isinstance(space, spaces.Dict):
        if not isinstance(value, Mapping) or value.keys() != space.spaces.keys():
            raise WrongValueError(f"{name} does not have the keys {list(space.spaces)}")
        return {k: read(space[k], value[k], f"{name}[{k!r}]") for k in space.spaces}
    if isinstance(space, spaces.Tuple):
        if not isinstance(value, tuple | list) or len(value) != len(space.spaces):
            raise WrongValueError(f"{name} is not a tuple of {len(space.spaces)}")
        parts = enumerate(zip(space.spaces, value, strict=True))
        return tuple(read(part, x, f"{name}[{i}]") for i, (part, x) in parts)
    array = _exact(_array(value, space.shape, name), space.dtype, space, name)
    if isinstance(space, spaces.Discrete):
        _check_range(array, space.start, space.start + space.n, space, name)
        return array[()]
    if isinstance(space, spaces.MultiDiscrete):
        _check_range(array, space.start, space.start + space.nvec, space, name)
    elif isinstance(space, spaces.MultiBinary):
        _check_range(array, 0, 2, space, name)
    return array


def _array(value: Any, shape: tuple[int, ...] | None, name: str) -> np.ndarray:
    try:
        array = np.asarray(value)
    except Exception as error:
        raise WrongValueError(f"{name} cannot become an array ({error})") from error
    if array.dtype.kind not in "biuf":
        raise WrongValueError(f"{name} is {_short(value)}, expected numbers")
    if array.shape != shape:
        declared = list(shape or ())
        raise WrongValueError(f"{name} has shape {list(array.shape)}, declared is {declared}")
    return array


def _box(space: spaces.Box, value: Any, name: str) -> np.ndarray:
    array = _array(value, space.shape, name)
    dtype = space.dtype
    if dtype.kind != "f":
        return array if array.dtype == dtype else _exact(array, dtype, space, name)
    if array.dtype != dtype:
        array = cast_quietly(array, dtype)
    # Numbers of more than 32 bits are stored as float32.
    stored = array if dtype.itemsize <= FLOAT32.itemsize else cast_quietly(array, FLOAT32)
    if not np.isfinite(stored).all():
        place = list(map(int, np.argwhere(~np.isfinite(stored))[0]))
        given = np.asarray(value)[tuple(place)]
        beyond = f", beyond {FLOAT32}" if np.isfinite(given) else ""
        raise WrongValueError(f"{name}{place or ''} is {given}{beyond}")
    return array


def cast_quietly(array: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """Cast without NumPy's warnings; whoever calls compares what came of it."""
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(dtype)


def _exact(
    array: np.ndarray, dtype: np.dtype[Any] | None, space: spaces.Space[Any], name: str
) -> np.ndarray:
    """Cast to the type of a space that is not one of floats, if no value changes by it."""
    cast = cast_quietly(array, np.dtype(dtype))
    if array.dtype.kind == cast.dtype.kind == "b" or (cast == array).all():
        return cast
    place = list(map(int, np.argwhere(cast != array)[0]))
    raise WrongValueError(f"{name}{place or ''} is {array[tuple(place)]}, declared is {space}")


def _check_range(
    array: np.ndarray, low: Any, beyond: Any, space: spaces.Space[Any], name: str
) -> None:
    inside = (low <= array) & (array < beyond)
    if not inside.all():
        place = list(map(int, np.argwhere(~inside)[0]))
        raise WrongValueError(f"{name}{place or ''} is {array[tuple(place)]}, declared is {space}")


def read_reward(reward: Any) -> float:
    """Check a reward: a number, or an array of one, that float32 can hold.

    Raises:
        WrongValueError: it is not.
    """
    number = reward if type(reward) is float else _number(reward, "reward", "one number")
    if -MAX_FLOAT32 <= number <= MAX_FLOAT32:
        return number
    beyond = f", beyond {FLOAT32}" if np.isfinite(number) else ""
    raise WrongValueError(f"reward is {number}{beyond}")


def read_flag(flag: Any, name: str) -> bool:
    """Check `terminated` or `truncated`: a boolean, 0 or 1, or an array of one.

    Raises:
        WrongValueError: it is not.
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
