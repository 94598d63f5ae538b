"""Action spaces of Gymnasium: which choices they offer, and which action a choice is.

An action is a choice in each of D dimensions, counted from 0. `Discrete` has one dimension,
`MultiDiscrete` one for each element, and so has a box, whose numbers are divided into bins.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal, get_args

import msgspec
import numpy as np
from gymnasium import spaces as gym

from noisydqn.dimensions import Sizes, places
from noisydqn.envs.spaces import MAX_NUMBERS, Discrete, Shape, SpaceStruct, Start
from noisydqn.errors import SpaceError
from noisydqn.options import shown

MAX_ACTIONS = 2**16
"""The most choices in all dimensions."""

DEFAULT_BINS = 3
"""Bins of a dimension if --action-bins is not given: both ends and the middle (Seyde et al.
2023)."""

Integer = Literal["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
Float = Literal["float16", "float32", "float64"]
MAX_BOUND = 1e300
Bound = Annotated[float, msgspec.Meta(ge=-MAX_BOUND, le=MAX_BOUND)]


class Categories(SpaceStruct, frozen=True):
    """An array of categories: element i has `sizes[i]` of them, counted from `start[i]`."""

    sizes: Annotated[tuple[Annotated[int, msgspec.Meta(ge=1, le=MAX_NUMBERS)], ...], "in C order"]
    start: tuple[Start, ...]
    shape: Shape
    dtype: Integer

    def __post_init__(self) -> None:
        if not len(self.sizes) == len(self.start) == math.prod(self.shape) > 0:
            raise SpaceError(f"actions of shape {self.shape} have {len(self.sizes)} sizes")

    @property
    def words(self) -> str:
        """The kind of space, in words."""
        return f"MultiDiscrete {shown(list(self.sizes))}"


class Bins(SpaceStruct, frozen=True):
    """A box of numbers, each of which takes one of `number` values at even distances.

    The first is the number's lower bound in `low`, the last its upper bound in `high`.
    """

    low: Annotated[tuple[Bound, ...], "in C order"]
    high: tuple[Bound, ...]
    number: Annotated[int, msgspec.Meta(ge=2, le=MAX_NUMBERS)]
    shape: Shape
    dtype: Float

    def __post_init__(self) -> None:
        if not len(self.low) == len(self.high) == math.prod(self.shape) > 0:
            raise SpaceError(f"actions of shape {self.shape} have {len(self.low)} bounds")

    @property
    def sizes(self) -> Sizes:
        """The number of values in each dimension."""
        return (self.number,) * len(self.low)

    @property
    def words(self) -> str:
        """The kind of space, in words."""
        return f"Box {list(self.shape)} in {self.number} bins each"


Actions = Discrete | Categories | Bins


def describe_actions(space: gym.Space[Any], bins: int | None) -> Actions:
    """Describe an action space of Gymnasium.

    Args:
        space: the space.
        bins: of each number of a box; None takes `DEFAULT_BINS`.

    Raises:
        SpaceError: it is not supported, or `bins` are given for another space than a box.
    """
    if isinstance(space, gym.Box):
        return _divided(space, DEFAULT_BINS if bins is None else bins)
    if bins is not None:
        raise SpaceError(
            f"--action-bins {bins} is for actions that are a Box, but the action space is {space}: "
            "leave it out"
        )
    if isinstance(space, gym.Discrete):
        return Discrete(int(space.n), int(space.start))
    if isinstance(space, gym.MultiBinary):
        nvec, start = np.full(space.shape, 2), np.zeros(space.shape, int)
    elif isinstance(space, gym.MultiDiscrete):
        nvec, start = space.nvec, np.broadcast_to(space.start, space.nvec.shape)
    else:
        raise SpaceError(
            f"the action space {space} is {type(space).__name__}, expected Discrete, "
            "MultiDiscrete, MultiBinary or Box: wrap the environment so that it offers one of these"
        )
    _check_dimensions(space, nvec)
    sizes, firsts = (tuple(int(x) for x in array.flat) for array in (nvec, start))
    kind: Any = np.dtype(space.dtype).name
    return Categories(sizes, firsts, nvec.shape, kind)


def _divided(space: gym.Box, bins: int) -> Bins:
    """Divide a box into bins."""
    if space.dtype.name not in get_args(Float):
        raise SpaceError(
            f"the action space {space} is a Box of {space.dtype}, expected floats, or "
            "MultiDiscrete for integers: wrap the environment so that it offers one of these"
        )
    _check_dimensions(space, space.low)
    if not (np.abs(np.array([space.low, space.high], np.float64)) <= MAX_BOUND).all():
        raise SpaceError(
            f"the action space {space} has no bounds, so it cannot be divided into bins: wrap the "
            "environment so that its actions have finite bounds"
        )
    low, high = (tuple(float(x) for x in bound.flat) for bound in (space.low, space.high))
    kind: Any = space.dtype.name
    return Bins(low, high, bins, space.shape, kind)


def _check_dimensions(space: gym.Space[Any], array: np.ndarray) -> None:
    if array.size == 0:
        raise SpaceError(f"the action space {space} has no dimension: there is nothing to choose")


def sizes_of(actions: Actions) -> Sizes:
    """Return the number of choices in each dimension."""
    return (actions.n,) if isinstance(actions, Discrete) else actions.sizes


@lru_cache(maxsize=64)
def numbers_of(actions: Actions) -> np.ndarray:
    """Return the environment's number for each choice, [A], those of all dimensions end to end."""
    if isinstance(actions, Bins):
        grid = np.linspace(actions.low, actions.high, actions.number, axis=-1)
        return grid.reshape(-1).astype(actions.dtype)
    start = (actions.start,) if isinstance(actions, Discrete) else actions.start
    dtype = np.int64 if isinstance(actions, Discrete) else actions.dtype
    pairs = zip(sizes_of(actions), start, strict=True)
    return np.concatenate([np.arange(first, first + n, dtype=dtype) for n, first in pairs])


def decoded(actions: Actions, choices: np.ndarray) -> np.ndarray:
    """Convert choices to the environment's actions.

    Args:
        actions: the action space.
        choices: [..., D], counted from 0; with one dimension [...].

    Returns:
        [...] for `Discrete`, of the type of `choices`; else [..., *shape] of the space's type.
    """
    if isinstance(actions, Discrete):
        return choices + actions.start
    sizes = sizes_of(actions)
    batch = choices.shape if len(sizes) == 1 else choices.shape[:-1]
    return numbers_of(actions)[places(choices, sizes)].reshape(*batch, *actions.shape)


def names_of(actions: Actions, given: Sequence[str] | None) -> tuple[str, ...]:
    """Return a name for each choice.

    Args:
        actions: the action space, of at most `MAX_ACTIONS` choices.
        given: the environment's own names, which count if there is one for each choice.
    """
    sizes = sizes_of(actions)
    if given is not None and len(given) == sum(sizes):
        return tuple(map(str, given))
    style = ".4g" if isinstance(actions, Bins) else "d"
    numbers = tuple(format(number, style) for number in numbers_of(actions))
    if len(sizes) == 1:
        return numbers
    dimensions = np.repeat(np.arange(len(sizes)), sizes)
    return tuple(f"{i}: {number}" for i, number in zip(dimensions, numbers, strict=True))


def check_number(actions: Actions) -> None:
    """Refuse more than `MAX_ACTIONS` choices.

    Raises:
        SpaceError: there are more.
    """
    if sum(sizes_of(actions)) > MAX_ACTIONS:
        raise SpaceError(
            f"the action space {actions.words} has too many actions, expected at most "
            f"{MAX_ACTIONS:,}: wrap the environment so that it offers fewer"
        )
