"""Descriptions of Gymnasium's spaces, which can be written as JSON; values are checked by them."""

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_args

import msgspec
import numpy as np
from gymnasium import spaces as gym

from noisydqn.errors import SpaceError, UserError

MAX_NUMBERS = 2**28
"""Numbers in an observation."""
MAX_AXES = 8
BYTE = 255

Size = Annotated[int, msgspec.Meta(ge=0, le=MAX_NUMBERS)]
Shape = Annotated[tuple[Size, ...], msgspec.Meta(max_length=MAX_AXES)]
Start = Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)]
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


class _Space(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag=True):
    """A description of one of Gymnasium's spaces; its kind is the name of the class."""


class Box(_Space, frozen=True):
    """Numbers; `low` and `high` are None where they are infinite or differ between elements."""

    shape: Shape
    dtype: Dtype
    low: float | None = None
    high: float | None = None

    @property
    def size(self) -> int:
        """The number of numbers that a network sees."""
        return math.prod(self.shape)

    @property
    def stored(self) -> np.dtype[Any]:
        """The type in which it is stored: bytes and booleans stay, all else becomes float32."""
        return np.dtype(self.dtype if self.is_bytes or self.dtype == "bool" else np.float32)

    @property
    def is_bytes(self) -> bool:
        """Whether it holds bytes of the whole range from 0 to 255."""
        return self.dtype == "uint8" and (self.low, self.high) == (0, BYTE)

    @property
    def expected(self) -> str:
        """What it takes, in words."""
        return f"{self.stored} {list(self.shape)}"

    @property
    def words(self) -> str:
        """What it is, in words."""
        image = self.is_bytes and len(self.shape) in (2, 3, 4)
        board = self.dtype == "bool" and len(self.shape) in (2, 3)
        names = {0: "number", 1: "vector", 2: "matrix"}
        name = "image" if image else "board" if board else names.get(len(self.shape), "array")
        return f"{name} {self.shape}"

    def accepts(self, value: np.ndarray) -> bool:
        """Whether values are of its type."""
        if self.stored == np.float32:
            return value.dtype.kind in "fiub"
        return value.dtype == self.stored

    def inside(self, value: np.ndarray) -> np.ndarray:
        """Where values can be stored: they are finite."""
        if value.dtype.kind != "f":
            return np.ones(value.shape, bool)
        with np.errstate(over="ignore"):
            return np.isfinite(value.astype(np.float32))

    def write(self, value: np.ndarray, out: np.ndarray) -> None:
        """Write values [B, ...] to `out` [B, size]; bytes become 0 to 1 among other numbers."""
        flat = value.reshape(out.shape)
        if self.is_bytes and out.dtype == np.float32:
            np.multiply(flat, np.float32(1 / BYTE), out=out)
        else:
            out[...] = flat


class MultiDiscrete(_Space, frozen=True):
    """Some categories: element i is one of `nvec[i]`, counted from `start[i]`."""

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
        """As `Box`, like all that follow."""
        return sum(self.nvec)

    @property
    def expected(self) -> str:
        """As `Box`."""
        return f"integers {list(self.shape)} of MultiDiscrete {list(self.nvec)}"

    @property
    def words(self) -> str:
        """As `Box`."""
        return f"MultiDiscrete {list(self.nvec)}"

    def accepts(self, value: np.ndarray) -> bool:
        """As `Box`."""
        return value.dtype.kind in "iu"

    def _places(self, value: np.ndarray) -> np.ndarray:
        """Each category counted from 0, [..., elements]."""
        batch = value.shape[: value.ndim - len(self.shape)]
        flat = value.reshape(*batch, len(self.nvec)).astype(np.int64)
        return flat - np.array(self.start, np.int64)

    def inside(self, value: np.ndarray) -> np.ndarray:
        """As `Box`."""
        places = self._places(value)
        inside = (places >= 0) & (places < np.array(self.nvec, np.int64))
        return inside.reshape(value.shape)

    def write(self, value: np.ndarray, out: np.ndarray) -> None:
        """As `Box`: one number for each category, 1 for the one that is shown."""
        firsts = np.cumsum((0, *self.nvec[:-1]))
        np.put_along_axis(out, self._places(value) + firsts, 1, axis=1)


class Discrete(_Space, frozen=True):
    """One of `n` categories, counted from `start`."""

    n: Annotated[int, msgspec.Meta(ge=1, le=MAX_NUMBERS)]
    start: Start = 0

    shape = ()
    stored = np.dtype(np.float32)
    is_bytes = False

    @property
    def size(self) -> int:
        """As `Box`, like all that follow."""
        return self.n

    @property
    def expected(self) -> str:
        """As `Box`."""
        return f"an integer from {self.start} to {self.start + self.n - 1}"

    @property
    def words(self) -> str:
        """As `Box`."""
        return f"Discrete({self.n})"

    def accepts(self, value: np.ndarray) -> bool:
        """As `Box`."""
        return value.dtype.kind in "iu"

    def inside(self, value: np.ndarray) -> np.ndarray:
        """As `Box`."""
        return (value >= self.start) & (value < self.start + self.n)

    def write(self, value: np.ndarray, out: np.ndarray) -> None:
        """As `Box`: one number for each category, 1 for the one that is shown."""
        out[np.arange(len(out)), value.astype(np.int64) - self.start] = 1


class MultiBinary(_Space, frozen=True):
    """Zeros and ones."""

    shape: Shape

    stored = np.dtype(np.float32)
    is_bytes = False

    @property
    def size(self) -> int:
        """As `Box`, like all that follow."""
        return math.prod(self.shape)

    @property
    def expected(self) -> str:
        """As `Box`."""
        return f"zeros and ones {list(self.shape)}"

    @property
    def words(self) -> str:
        """As `Box`."""
        return f"MultiBinary {list(self.shape)}"

    def accepts(self, value: np.ndarray) -> bool:
        """As `Box`."""
        return value.dtype.kind in "iub"

    def inside(self, value: np.ndarray) -> np.ndarray:
        """As `Box`."""
        return (value == 0) | (value == 1)

    def write(self, value: np.ndarray, out: np.ndarray) -> None:
        """As `Box`."""
        out[...] = value.reshape(out.shape)


class Dict(_Space, frozen=True):
    """Spaces by name, in the order in which they are joined."""

    keys: tuple[str, ...]
    spaces: "tuple[Space, ...]"

    def __post_init__(self) -> None:
        if len(self.keys) != len(self.spaces) or len(set(self.keys)) != len(self.keys):
            raise SpaceError(f"a Dict has {len(self.spaces)} spaces for the keys {self.keys}")


class Tuple(_Space, frozen=True):
    """Spaces by place."""

    spaces: "tuple[Space, ...]"


Plain = Box | Discrete | MultiDiscrete | MultiBinary
Space = Plain | Dict | Tuple


def describe_space(space: gym.Space[Any]) -> Space:
    """Describe a space of Gymnasium.

    Raises:
        SpaceError: it is not supported.
    """
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
        case gym.Dict():
            keys = tuple(space.spaces)
            return Dict(tuple(map(str, keys)), tuple(describe_space(space[key]) for key in keys))
        case gym.Tuple():
            return Tuple(tuple(map(describe_space, space.spaces)))
        case _:
            raise SpaceError(
                f"the observation space {space} is not supported: expected Box, Discrete, "
                "MultiDiscrete, MultiBinary, or Dict or Tuple of these; wrap the environment so "
                "that it shows an array"
            )


def _common(bound: np.ndarray) -> float | None:
    """The bound that all elements share, if it is finite."""
    if bound.size == 0 or not np.isfinite(bound.flat[0]) or (bound != bound.flat[0]).any():
        return None
    return float(bound.flat[0])


def parts_of(space: Space, name: str = "the observation") -> Iterator[tuple[Plain, str]]:
    """Walk through the spaces of numbers and categories in a space, with their names."""
    if isinstance(space, Dict):
        for key, part in zip(space.keys, space.spaces, strict=True):
            yield from parts_of(part, f"{name}[{key!r}]")
    elif isinstance(space, Tuple):
        for i, part in enumerate(space.spaces):
            yield from parts_of(part, f"{name}[{i}]")
    else:
        yield space, name


def values_of(space: Space, value: Any, name: str = "the observation") -> Iterator[Any]:
    """Walk through a value of a space in the order of `_parts`.

    Raises:
        UserError: it is not a dictionary or tuple with the space's parts.
    """
    kind = type(value).__name__
    if isinstance(space, Dict):
        if not isinstance(value, Mapping):
            raise UserError(f"{name} is {kind}, expected a dictionary of {', '.join(space.keys)}")
        if set(value) != set(space.keys):
            raise UserError(
                f"{name} has the keys {', '.join(map(str, value))}, expected "
                f"{', '.join(space.keys)}: give what the environment shows"
            )
        for key, part in zip(space.keys, space.spaces, strict=True):
            yield from values_of(part, value[key], f"{name}[{key!r}]")
    elif isinstance(space, Tuple):
        if not isinstance(value, tuple) or len(value) != len(space.spaces):
            raise UserError(
                f"{name} is {kind}, expected a tuple of {len(space.spaces)}: give what the "
                "environment shows"
            )
        for i, (part, x) in enumerate(zip(space.spaces, value, strict=True)):
            yield from values_of(part, x, f"{name}[{i}]")
    else:
        yield value


def checked(space: Plain, value: Any, name: str) -> np.ndarray:
    """Check a value of a space, or a batch of them [B, ...]."""
    try:
        array = np.asarray(value)
    except Exception as error:
        raise UserError(f"{name} cannot become an array: expected {space.expected}") from error
    extra = array.ndim - len(space.shape)
    if extra not in (0, 1) or array.shape[extra:] != space.shape or not space.accepts(array):
        raise UserError(
            f"{name} is {array.dtype} {list(array.shape)}, expected {space.expected} or a batch "
            "of these: give what the environment shows"
        )
    inside = space.inside(array)
    if not inside.all():
        place = tuple(map(int, np.argwhere(~inside)[0]))
        finite = ", all finite" if isinstance(space, Box) else ""
        raise UserError(
            f"{name}{list(place) or ''} is {array[place]}, expected {space.expected}{finite}"
        )
    return array
