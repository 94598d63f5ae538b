"""Observations and actions as an environment shows them, and as a network sees them.

An `Encoding` describes both spaces of an environment without it: it can be written as JSON beside
the weights, so that a policy plays in the environment's own terms wherever it is loaded.
"""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from gymnasium import spaces as gym

from noisydqn.envs.spaces import (
    BYTE,
    MAX_NUMBERS,
    Box,
    Discrete,
    Plain,
    Space,
    checked,
    describe_space,
    parts_of,
    values_of,
)
from noisydqn.errors import SpaceError, UserError

MAX_ACTIONS = 2**16
MAX_BYTES = 2**22
"""Size of an encoding's JSON."""

COLORS = (1, 3, 4)
MAX_STACK = 16
CHANNELS = {colors * frames for colors in COLORS for frames in range(1, MAX_STACK + 1)}
"""Lengths that an axis of channels may have: colors, of one frame or of several."""
PICTURE_SIDE = 36
"""No board is as large as this: numbers that are not bytes are a picture from here on."""
MAX_NAMED_PARTS = 6


def image_axes(box: Box) -> tuple[int, ...]:
    """Find the axes that bring an unmistakable image's channels last; () takes it as it is.

    An image has channels, the colors of one frame or of several, on an axis that is shorter than
    its height and width. Bytes are an image at any size, other numbers from 36 pixels on: smaller
    ones may be a board, whose planes are taken to be last.
    """
    shape = box.shape
    if box.dtype == "bool":
        return ()
    if len(shape) == 3:
        channels, *sides = shape
        large = box.is_bytes or min(sides) >= PICTURE_SIDE
        return (1, 2, 0) if large and channels in CHANNELS and channels < min(sides) else ()
    if len(shape) == 4 and box.is_bytes and shape[0] <= MAX_STACK:  # frames that are stacked first
        _, one, other, last = shape
        if last in COLORS and last < min(one, other):
            return (1, 2, 0, 3)
        if one in COLORS and one < min(other, last):
            return (2, 3, 0, 1)
    return ()


class Encoding(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """The spaces of an environment, and how its observations are stored.

    Images are stored [height, width] or [height, width, channels]; spaces of several parts as one
    vector, categories in it as one-hot; bytes as bytes or, among other numbers, divided by 255.

    Args:
        observation: the observation space.
        actions: the action space.
        action_names: for people.
        axes: the order of an image's axes that puts its channels last; () is as it is shown.

    Raises:
        SpaceError: it holds nothing or too much, or its parts contradict each other.
    """

    observation: Space
    actions: Discrete
    action_names: tuple[Annotated[str, msgspec.Meta(max_length=200)], ...]
    axes: tuple[int, ...] = ()
    version: Literal[1] = 1

    def __post_init__(self) -> None:
        if not 1 <= self.size <= MAX_NUMBERS:
            shows = "less" if self.size else "something"
            raise SpaceError(
                f"the observation space holds {self.size:,} numbers, expected 1 to "
                f"{MAX_NUMBERS:,}: wrap the environment so that it shows {shows}"
            )
        if self.actions.n > MAX_ACTIONS:
            raise SpaceError(
                f"the action space {self.actions.words} has too many actions, expected at most "
                f"{MAX_ACTIONS:,}: wrap the environment so that it offers fewer"
            )
        if len(self.action_names) != self.actions.n:
            raise SpaceError(f"{self.actions.n} actions have {len(self.action_names)} names")
        box = self.observation
        turned = isinstance(box, Box) and sorted(self.axes) == list(range(len(box.shape)))
        if self.axes and not (turned and len(self.axes) in (3, 4)):
            raise SpaceError(f"the axes {self.axes} are not those of the observation")

    @staticmethod
    def of(
        observation: gym.Space[Any], actions: gym.Space[Any], names: Sequence[str] | None = None
    ) -> "Encoding":
        """Describe spaces of Gymnasium and decide how observations are stored.

        Args:
            observation: the observation space.
            actions: the action space.
            names: of the actions; None or a wrong number takes the actions themselves.

        Raises:
            SpaceError: one of them is not supported.
        """
        if not isinstance(actions, gym.Discrete):
            kind = "continuous" if isinstance(actions, gym.Box) else type(actions).__name__
            raise SpaceError(
                f"the action space {actions} is {kind}, expected Discrete: noisydqn learns a value "
                "for each action; wrap the environment so that it offers a list of actions"
            )
        described = Discrete(int(actions.n), int(actions.start))
        space = describe_space(observation)
        axes = image_axes(space) if isinstance(space, Box) else ()
        if names is None or len(names) != described.n:
            names = numbered(min(described.n, MAX_ACTIONS + 1), described.start)
        return Encoding(space, described, tuple(map(str, names)), axes)

    @staticmethod
    def as_stored(shape: tuple[int, ...], dtype: Any, names: Sequence[str]) -> "Encoding":
        """Describe observations that are shown as they are stored, and actions from 0 on."""
        bounds = (0, BYTE) if np.dtype(dtype) == np.uint8 else ()
        kind: Any = np.dtype(dtype).name
        return Encoding(Box(shape, kind, *bounds), Discrete(len(names)), tuple(names))

    @staticmethod
    def from_json(data: bytes) -> "Encoding":
        """Read what `to_json` gave.

        Raises:
            ValueError: it is something else, in one line.
        """
        if len(data) > MAX_BYTES:
            raise ValueError(f"{len(data):,} bytes, expected at most {MAX_BYTES:,}")
        try:
            return msgspec.json.decode(data, type=Encoding)
        except RecursionError as error:
            raise ValueError("its spaces are nested too deeply") from error

    def to_json(self) -> bytes:
        """Write it down, in indented JSON."""
        return msgspec.json.format(msgspec.json.encode(self)) + b"\n"

    # What is stored

    @cached_property
    def parts(self) -> tuple[tuple[Plain, str], ...]:
        """The spaces of numbers and categories in the observation, with their names."""
        return tuple(parts_of(self.observation))

    @cached_property
    def size(self) -> int:
        """The number of numbers in an observation."""
        return sum(part.size for part, _ in self.parts)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The shape of an observation as it is stored."""
        if not isinstance(self.observation, Box):
            return (self.size,)
        shape = tuple(self.observation.shape[axis] for axis in self.axes)
        return (*shape[:2], math.prod(shape[2:])) if shape else self.observation.shape

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """The type of an observation as it is stored: that of its parts if they share one."""
        types = {part.stored for part, _ in self.parts}
        return types.pop() if len(types) == 1 else np.dtype(np.float32)

    # Observations

    @cached_property
    def _order(self) -> tuple[int, ...]:
        return (0, *(axis + 1 for axis in self.axes))

    def encode(self, shown: Any) -> np.ndarray:
        """Encode a batch as a vector environment shows it; a copy [B, *shape].

        Values are taken as they come: whoever shows them has checked them.
        """
        if isinstance(self.observation, Box):
            turned = np.transpose(shown, self._order) if self.axes else shown
            return np.array(turned, self.dtype, order="C").reshape(len(shown), *self.shape)
        return self._join([np.asarray(x) for x in values_of(self.observation, shown)])

    def _join(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """Write the parts of a batch side by side, [B, size]."""
        joined = np.zeros((len(values[0]), self.size), self.dtype)
        first = 0
        for (part, _), value in zip(self.parts, values, strict=True):
            part.write(value, joined[:, first : first + part.size])
            first += part.size
        return joined

    def read(self, observation: Any) -> tuple[np.ndarray, bool]:
        """Check and encode an observation, or a batch, as the environment shows it.

        Args:
            observation: one observation, or a batch as a vector environment shows it: each of its
                arrays has one more axis, the first.

        Returns:
            Observations [B, *shape] as they are stored, and whether there was a single one.

        Raises:
            UserError: it is not an observation of this space.
        """
        given = values_of(self.observation, observation)
        pairs = zip(self.parts, given, strict=True)
        values = [checked(part, value, name) for (part, name), value in pairs]
        leading = {
            x.shape[: x.ndim - len(p.shape)] for (p, _), x in zip(self.parts, values, strict=True)
        }
        if len(leading) > 1:
            sizes = " and ".join(sorted(str(list(shape)) for shape in leading))
            raise UserError(
                f"the parts of the observation are batches of different sizes ({sizes}): give one "
                "observation, or as many of each part"
            )
        single = leading == {()}
        values = [x[None] if single else x for x in values]
        if isinstance(self.observation, Box):
            return self.encode(values[0]), single
        return self._join(values), single

    # Actions

    def decode_actions(self, places: np.ndarray) -> np.ndarray:
        """Turn the places of actions, counted from 0, into the environment's own actions."""
        return np.asarray(places, np.int64) + self.actions.start

    # Words

    @property
    def words(self) -> str:
        """What the environment shows, in words."""
        words = [part.words for part, _ in self.parts]
        if len(words) > MAX_NAMED_PARTS:
            left = len(words) - MAX_NAMED_PARTS + 1
            words = [*words[: MAX_NAMED_PARTS - 1], f"{left} more"]
        return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def numbered(num_actions: int, start: int = 0) -> tuple[str, ...]:
    """Name actions that have no names by their numbers."""
    return tuple(map(str, range(start, start + num_actions)))
