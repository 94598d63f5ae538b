"""Descriptions of Gymnasium's spaces, which can be written as JSON.

`values.py` checks values against them.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal, get_args

import msgspec
import numpy as np
from gymnasium import spaces as gym

from noisydqn.errors import SpaceError, WrongValueError
from noisydqn.options import shown

MAX_NUMBERS = 2**28
"""The most numbers that an observation may hold."""
MAX_AXES = 8
MAX_PARTS, MAX_DEPTH = 4_096, 16
"""The most spaces in a space, and the most that are inside one another."""
BYTE = 255

Size = Annotated[int, msgspec.Meta(ge=0, le=MAX_NUMBERS)]
Shape = Annotated[tuple[Size, ...], msgspec.Meta(max_length=MAX_AXES)]
Start = Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)]
Key = Annotated[str, msgspec.Meta(max_length=200)]
Dtype = Literal[
    "bool",
    "uint8",
    "int8",
    "uint16",
    "int16",
    "uint32",
    "int32",
    "uint64",
    "int64",
    "float16",
    "float32",
    "float64",
]


def cast_quietly(array: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """Cast without NumPy's warnings; the caller checks the result."""
    if array.dtype == dtype:
        return array
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(dtype)


@lru_cache(maxsize=64)  # read at every step, and NumPy is slow to name a type
def numbers_in_words(dtype: np.dtype[Any], shape: tuple[int, ...]) -> str:
    """Name numbers by type and shape, such as "finite float32 [4]" or "a finite float32"."""
    kind = f"finite {dtype}" if dtype.kind == "f" else str(dtype)
    return f"{kind} {list(shape)}" if shape else f"a {kind}"


class SpaceStruct(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag=True
):
    """A description of one of Gymnasium's spaces; its kind is the name of the class."""


class Box(SpaceStruct, frozen=True):
    """An array of numbers.

    `low` and `high` are the bounds that all elements share; None if they are infinite or differ.
    """

    shape: Shape
    dtype: Dtype
    low: float | None = None
    high: float | None = None

    @property
    def size(self) -> int:
        """The number of inputs that a network receives for it."""
        return math.prod(self.shape)

    @property
    def stored(self) -> np.dtype[Any]:
        """The type in the replay buffer: bytes and booleans keep theirs, the rest is float32."""
        return np.dtype(self.dtype if self.is_bytes or self.dtype == "bool" else np.float32)

    @property
    def is_bytes(self) -> bool:
        """True for bytes that use the whole range from 0 to 255."""
        return self.dtype == "uint8" and (self.low, self.high) == (0, BYTE)

    @property
    def expected(self) -> str:
        """The accepted values, in words."""
        return numbers_in_words(self.stored, self.shape)

    @property
    def words(self) -> str:
        """The kind of space, in words."""
        image = self.is_bytes and len(self.shape) in (2, 3, 4)
        board = self.dtype == "bool" and len(self.shape) in (2, 3)
        names = {0: "number", 1: "vector", 2: "matrix"}
        name = "image" if image else "board" if board else names.get(len(self.shape), "array")
        return f"{name} {self.shape}"

    def accepts(self, value: np.ndarray) -> bool:
        """Tell whether an array's type needs no conversion other than to `stored`."""
        if self.stored == np.float32:
            return value.dtype.kind in "fiub"
        return value.dtype == self.stored

    def inside(self, value: np.ndarray) -> np.ndarray:
        """Find the values that can be stored: as float32 all finite ones; elementwise."""
        if self.stored.kind == "f":
            return np.isfinite(cast_quietly(value, self.stored))
        return cast_quietly(value, self.stored) == value

    def write(self, value: np.ndarray, out: np.ndarray) -> None:
        """Write values [B, *shape] to `out` [B, size]; as float32, bytes are divided by 255."""
        flat = value.reshape(out.shape)
        if self.is_bytes and out.dtype == np.float32:
            np.multiply(flat, np.float32(1 / BYTE), out=out)
        else:
            out[...] = flat


class MultiDiscrete(SpaceStruct, frozen=True):
    """An array of categories: element i has `nvec[i]` of them, counted from `start[i]`."""

    nvec: Annotated[tuple[Annotated[int, msgspec.Meta(ge=1, le=MAX_NUMBERS)], ...], "in C order"]
    start: tuple[Start, ...]
    shape: Shape

    def __post_init__(self) -> None:
        if not len(self.nvec) == len(self.start) == math.prod(self.shape):
            raise SpaceError(f"a MultiDiscrete of shape {self.shape} has {len(self.nvec)} numbers")

    stored = np.dtype(np.float32)
    is_bytes = False

    @property
    def size(self) -> int:
        """The number of inputs that a network receives for it, one for each category."""
        return sum(self.nvec)

    @property
    def expected(self) -> str:
        """The accepted values, in words."""
        return f"integers {list(self.shape)} of {self.words}"

    @property
    def words(self) -> str:
        """The kind of space, in words."""
        return f"MultiDiscrete {shown(list(self.nvec))}"

    def accepts(self, value: np.ndarray) -> bool:
        """Tell whether an array has a type that needs no conversion."""
        return value.dtype.kind in "iu"

    def _places(self, value: np.ndarray) -> np.ndarray:
        """Count each category from 0, [..., elements]."""
        batch = value.shape[: value.ndim - len(self.shape)]
        flat = value.reshape(*batch, len(self.nvec)).astype(np.int64)
        return flat - np.array(self.start, np.int64)

    def inside(self, value: np.ndarray) -> np.ndarray:
        """Find the integers that are categories of the space; elementwise."""
        places = self._places(value)
        inside = (places >= 0) & (places < np.array(self.nvec, np.int64))
        return inside.reshape(value.shape)

    def write(self, value: np.ndarray, out: np.ndarray) -> None:
        """Write values [B, *shape] to `out` [B, size] as one-hot vectors."""
        firsts = np.cumsum((0, *self.nvec[:-1]))
        np.put_along_axis(out, self._places(value) + firsts, 1, axis=1)


class Discrete(SpaceStruct, frozen=True):
    """One of `n` categories, counted from `start`."""

    n: Annotated[int, msgspec.Meta(ge=1, le=MAX_NUMBERS)]
    start: Start = 0

    shape = ()
    stored = np.dtype(np.float32)
    is_bytes = False

    @property
    def size(self) -> int:
        """The number of inputs that a network receives for it, one for each category."""
        return self.n

    @property
    def expected(self) -> str:
        """The accepted values, in words."""
        return f"an integer from {self.start} to {self.start + self.n - 1}"

    @property
    def words(self) -> str:
        """The kind of space, in words."""
        return f"Discrete({self.n})"

    def accepts(self, value: np.ndarray) -> bool:
        """Tell whether an array has a type that needs no conversion."""
        return value.dtype.kind in "iu"

    def inside(self, value: np.ndarray) -> np.ndarray:
        """Find the integers that are categories of the space; elementwise."""
        return (value >= self.start) & (value < self.start + self.n)

    def write(self, value: np.ndarray, out: np.ndarray) -> None:
        """Write values [B, *shape] to `out` [B, size] as one-hot vectors."""
        out[np.arange(len(out)), value.astype(np.int64) - self.start] = 1


class MultiBinary(SpaceStruct, frozen=True):
    """Zeros and ones."""

    shape: Shape

    stored = np.dtype(np.float32)
    is_bytes = False

    @property
    def size(self) -> int:
        """The number of inputs that a network receives for it."""
        return math.prod(self.shape)

    @property
    def expected(self) -> str:
        """The accepted values, in words."""
        return f"zeros and ones {list(self.shape)}"

    @property
    def words(self) -> str:
        """The kind of space, in words."""
        return f"MultiBinary {list(self.shape)}"

    def accepts(self, value: np.ndarray) -> bool:
        """Tell whether an array has a type that needs no conversion."""
        return value.dtype.kind in "iub"

    def inside(self, value: np.ndarray) -> np.ndarray:
        """Find the integers that are categories of the space; elementwise."""
        return (value == 0) | (value == 1)

    def write(self, value: np.ndarray, out: np.ndarray) -> None:
        """Write values [B, *shape] to `out` [B, size] as they are."""
        out[...] = value.reshape(out.shape)


class Text(SpaceStruct, frozen=True):
    """Text, which no network reads: it is left out."""


class Dict(SpaceStruct, frozen=True):
    """Named spaces; the order is that of their numbers in the stored vector."""

    keys: tuple[Key, ...]
    spaces: "tuple[Space, ...]"

    def __post_init__(self) -> None:
        if len(self.keys) != len(self.spaces) or len(set(self.keys)) != len(self.keys):
            raise SpaceError(f"a Dict has {len(self.spaces)} spaces for the keys {self.keys}")


class Tuple(SpaceStruct, frozen=True):
    """A sequence of spaces."""

    spaces: "tuple[Space, ...]"


Plain = Box | Discrete | MultiDiscrete | MultiBinary
Space = Plain | Text | Dict | Tuple

TEXT = gym.Text(1, min_length=0)
"""What `without_text` puts in the place of text; its value is always "", which takes no time."""


def is_text(space: gym.Space[Any]) -> bool:
    """Tell whether the values of a space are text, also where the class is an environment's own."""
    return space.dtype is not None and space.dtype.kind == "U"


def without_text(space: gym.Space[Any]) -> gym.Space[Any]:
    """Replace spaces of text by `TEXT`; a space without any is returned itself."""
    if is_text(space):
        return TEXT
    if isinstance(space, gym.Dict):
        named = {key: without_text(part) for key, part in space.spaces.items()}
        same = all(named[key] is part for key, part in space.spaces.items())
        return space if same else gym.Dict([*named.items()])  # in their order
    if isinstance(space, gym.Tuple):
        some = [without_text(part) for part in space.spaces]
        same = all(x is y for x, y in zip(some, space.spaces, strict=True))
        return space if same else gym.Tuple(some)
    return space


def describe_space(space: gym.Space[Any], name: str = "observation") -> Space:
    """Describe a space of Gymnasium.

    Args:
        space: the space.
        name: of its values in messages.

    Raises:
        SpaceError: it, or a part of it, is not supported.
    """
    if isinstance(space, gym.Dict):
        named = [describe_space(part, f"{name}[{k!r}]") for k, part in space.spaces.items()]
        return Dict(tuple(map(str, space.spaces)), tuple(named))
    if isinstance(space, gym.Tuple):
        parts = [describe_space(part, f"{name}[{i}]") for i, part in enumerate(space.spaces)]
        return Tuple(tuple(parts))
    return Text() if is_text(space) else _describe_plain(space, name)


def _describe_plain(space: gym.Space[Any], name: str) -> Plain:
    match space:
        case gym.Box() if space.dtype.name in get_args(Dtype) and len(space.shape) <= MAX_AXES:
            low, high = _common(space.low), _common(space.high)
            kind: Any = space.dtype.name
            return Box(space.shape, kind, low, high)
        case gym.Discrete():
            return Discrete(int(space.n), int(space.start))
        case gym.MultiDiscrete():
            start = np.broadcast_to(space.start, space.nvec.shape)
            nvec = tuple(int(n) for n in space.nvec.flat)
            return MultiDiscrete(nvec, tuple(int(x) for x in start.flat), space.nvec.shape)
        case gym.MultiBinary():
            return MultiBinary(tuple(space.shape))
        case _:
            whole = name == "observation"
            what = f"the observation space {space}" if whole else f"the space {space} of {name}"
            remedy = "shows an array" if whole else "leaves this part out, or shows an array there"
            raise SpaceError(
                f"{what} is not supported: expected Box, Discrete, MultiDiscrete, MultiBinary, or "
                f"Dict or Tuple of these; wrap the environment so that it {remedy}"
            )


def _common(bound: np.ndarray) -> float | None:
    """Return the bound that all elements share, None unless there is a finite one."""
    if bound.size == 0 or not np.isfinite(bound.flat[0]) or (bound != bound.flat[0]).any():
        return None
    return float(bound.flat[0])


def check_nesting(space: Space) -> None:
    """Refuse a space of too many spaces, before their names are made, which grow with the depth.

    Raises:
        SpaceError: it is one.
    """
    level: tuple[Space, ...] = (space,)
    number = depth = 0
    while level:
        number, depth = number + len(level), depth + 1
        if number > MAX_PARTS or depth > MAX_DEPTH:
            raise SpaceError(
                f"the observation space holds more than {MAX_PARTS:,} spaces, or more than "
                f"{MAX_DEPTH} inside one another: wrap the environment so that it shows an array"
            )
        level = tuple(x for each in level if isinstance(each, Dict | Tuple) for x in each.spaces)


def parts_of(space: Space, name: str = "observation") -> Iterator[tuple[Plain, str]]:
    """Yield the spaces of numbers and categories in a space, with their names."""
    for part, keys in leaves_of(space):
        if not isinstance(part, Text):
            yield part, name + "".join(f"[{key!r}]" for key in keys)


def leaves_of(
    space: Space, keys: tuple[str | int, ...] = ()
) -> Iterator[tuple[Plain | Text, tuple[str | int, ...]]]:
    """Yield the spaces in a space that have no parts, each with the keys that lead to it."""
    if isinstance(space, Dict):
        for key, part in zip(space.keys, space.spaces, strict=True):
            yield from leaves_of(part, (*keys, key))
    elif isinstance(space, Tuple):
        for i, part in enumerate(space.spaces):
            yield from leaves_of(part, (*keys, i))
    else:
        yield space, keys


def values_of(space: Space, value: Any, name: str = "observation") -> Iterator[Any]:
    """Yield the parts of a value of a space, in the order of `parts_of`.

    Raises:
        WrongValueError: a dictionary or tuple does not have the parts of its space.
    """
    if isinstance(space, Dict):
        check_keys(value, space.keys, name)
        for key, part in zip(space.keys, space.spaces, strict=True):
            yield from values_of(part, value[key], f"{name}[{key!r}]")
    elif isinstance(space, Tuple):
        check_length(value, len(space.spaces), name)
        for i, (part, x) in enumerate(zip(space.spaces, value, strict=True)):
            yield from values_of(part, x, f"{name}[{i}]")
    elif not isinstance(space, Text):
        yield value


def check_keys(value: Any, keys: Collection[str], name: str) -> None:
    """Check that a value is a mapping with these keys.

    Raises:
        WrongValueError: the value is something else, or has other keys.
    """
    expected = ", ".join(map(str, keys))
    if not isinstance(value, Mapping):
        raise WrongValueError(
            f"{name} is {type(value).__name__}, expected a dictionary of {expected}"
        )
    if set(value) != set(keys):
        got = ", ".join(map(str, value))
        raise WrongValueError(f"{name} has the keys {got}, expected {expected}")


def check_length(value: Any, length: int, name: str) -> None:
    """Check that a value is a tuple of length `length`.

    Raises:
        WrongValueError: the value is something else, or has another length.
    """
    if not isinstance(value, tuple) or len(value) != length:
        got = f"a tuple of {len(value)}" if isinstance(value, tuple) else type(value).__name__
        raise WrongValueError(f"{name} is {got}, expected a tuple of {length}")
