"""Encodings of an environment's observations for the network, and of actions back.

An `Encoding` describes both spaces of an environment. It is saved as JSON beside the weights, so
that a loaded policy takes the environment's observations and returns its actions.
"""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from gymnasium import spaces as gym

from noisydqn.envs.action_masks import Source
from noisydqn.envs.spaces import (
    BYTE,
    MAX_NUMBERS,
    Box,
    Discrete,
    Plain,
    Space,
    check_nesting,
    describe_space,
    parts_of,
    values_of,
)
from noisydqn.envs.values import read_some
from noisydqn.errors import SpaceError, UserError, WrongValueError

MAX_ACTIONS = 2**16
MAX_BYTES = 2**22
"""The longest JSON of an encoding."""

COLORS = (1, 3, 4)
MAX_STACK = 16
CHANNELS = {colors * frames for colors in COLORS for frames in range(1, MAX_STACK + 1)}
"""Lengths that a channel axis may have: the colors of one frame or of several."""
PICTURE_SIDE = 36
"""The shortest side of a picture whose numbers are not bytes; boards are smaller."""
MAX_NAMED_PARTS = 6


def image_axes(box: Box) -> tuple[int, ...]:
    """Find the order of axes that moves an image's channels last; () for all else.

    Only an unmistakable image is transposed. Its channels, the colors of one frame or of several,
    are on the first axis, which is shorter than height and width. Bytes are an image at any size,
    other numbers only from 36 pixels on: a smaller array may be a board whose planes are last.
    """
    shape = box.shape
    if box.dtype == "bool":
        return ()
    if len(shape) == 3:
        channels, *sides = shape
        large = box.is_bytes or min(sides) >= PICTURE_SIDE
        return (1, 2, 0) if large and channels in CHANNELS and channels < min(sides) else ()
    if len(shape) == 4 and box.is_bytes and shape[0] <= MAX_STACK:  # stacked frames
        _, one, other, last = shape
        if last in COLORS and last < min(one, other):
            return (1, 2, 0, 3)
        if one in COLORS and one < min(other, last):
            return (2, 3, 0, 1)
    return ()


class Encoding(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """The spaces of an environment and the form in which the replay buffer holds observations.

    Images are stored as [height, width] or [height, width, channels]. Spaces of several parts
    become one vector, categories one-hot vectors. Bytes stay bytes unless they share a vector with
    other numbers; then they are divided by 255.

    Args:
        observation: the observation space.
        actions: the action space.
        action_names: one for each action, to be displayed.
        axes: the order of an image's axes that puts its channels last; () keeps the order.
        action_mask: where the environment gives action masks, if it does.

    Raises:
        SpaceError: an observation holds no number or too many, or the arguments contradict each
            other.
    """

    observation: Space
    actions: Discrete
    action_names: tuple[Annotated[str, msgspec.Meta(max_length=200)], ...]
    axes: tuple[int, ...] = ()
    version: Literal[1] = 1
    action_mask: Source | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        check_nesting(self.observation)
        if not 1 <= self.size <= MAX_NUMBERS:
            remedy = "its observations are smaller" if self.size else "it shows something"
            raise SpaceError(
                f"the observation space holds {self.size:,} numbers, expected 1 to "
                f"{MAX_NUMBERS:,}: wrap the environment so that {remedy}"
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
        observation: gym.Space[Any],
        actions: gym.Space[Any],
        names: Sequence[str] | None = None,
        masks: Source | None = None,
    ) -> "Encoding":
        """Describe spaces of Gymnasium and decide how observations are stored.

        Args:
            observation: the observation space.
            actions: the action space.
            names: names of the actions; numbers replace them unless there is one for each action.
            masks: where the environment gives action masks, if it does.

        Raises:
            SpaceError: one of the spaces is not supported.
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
        given = msgspec.UNSET if masks is None else masks
        return Encoding(space, described, tuple(map(str, names)), axes, action_mask=given)

    @staticmethod
    def as_stored(
        shape: tuple[int, ...], dtype: Any, names: Sequence[str], *, masked: bool = False
    ) -> "Encoding":
        """Describe observations that are stored unchanged, and actions that are counted from 0.

        Args:
            shape: of an observation.
            dtype: of an observation.
            names: one for each action.
            masked: whether the environment has a method that gives action masks.
        """
        bounds = (0, BYTE) if np.dtype(dtype) == np.uint8 else ()
        kind: Any = np.dtype(dtype).name
        given = "method" if masked else msgspec.UNSET
        box, actions = Box(shape, kind, *bounds), Discrete(len(names))
        return Encoding(box, actions, tuple(names), action_mask=given)

    @staticmethod
    def from_json(data: bytes) -> "Encoding":
        """Decode the JSON that `to_json` returns.

        Raises:
            ValueError: the data are something else; the message is one line.
        """
        if len(data) > MAX_BYTES:
            raise ValueError(f"{len(data):,} bytes, expected at most {MAX_BYTES:,}")
        try:
            return msgspec.json.decode(data, type=Encoding)
        except RecursionError as error:
            raise ValueError("its spaces are nested too deeply") from error

    def to_json(self) -> bytes:
        """Encode as indented JSON."""
        return msgspec.json.format(msgspec.json.encode(self)) + b"\n"

    @property
    def masked(self) -> bool:
        """Whether the environment gives action masks."""
        return self.action_mask is not msgspec.UNSET

    # Stored observations

    @cached_property
    def parts(self) -> tuple[tuple[Plain, str], ...]:
        """The spaces of numbers and categories in the observation, with their names."""
        return tuple(parts_of(self.observation))

    @cached_property
    def size(self) -> int:
        """The size of a stored observation, in numbers."""
        return sum(part.size for part, _ in self.parts)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The shape of a stored observation."""
        if not isinstance(self.observation, Box):
            return (self.size,)
        shape = tuple(self.observation.shape[axis] for axis in self.axes)
        return (*shape[:2], math.prod(shape[2:])) if shape else self.observation.shape

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """The type of a stored observation: that of all its parts, float32 if theirs differ."""
        types = {part.stored for part, _ in self.parts}
        return types.pop() if len(types) == 1 else np.dtype(np.float32)

    # Observations

    @cached_property
    def _order(self) -> tuple[int, ...]:
        return (0, *(axis + 1 for axis in self.axes))

    def encode(self, shown: Any) -> np.ndarray:
        """Encode a batch from a vector environment; returns a copy [B, *shape].

        Values are not checked here: guards or `check_batch` have checked them.
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
        """Check and encode an observation of the environment, or a batch.

        Args:
            observation: one observation, or a batch as a vector environment returns it: each array
                has one more axis, the first.

        Returns:
            Stored observations [B, *shape], and true if a single observation was given.

        Raises:
            UserError: it is not an observation of this space.
        """
        try:
            given = values_of(self.observation, observation)
            values = [
                read_some(part, value, name)
                for (part, name), value in zip(self.parts, given, strict=True)
            ]
        except WrongValueError as error:
            raise UserError(f"{error}: give observations as the environment returns them") from None
        pairs = zip(self.parts, values, strict=True)
        leading = {value.shape[: value.ndim - len(part.shape)] for (part, _), value in pairs}
        if len(leading) > 1:
            sizes = " and ".join(sorted(str(list(shape)) for shape in leading))
            raise UserError(
                f"the parts of the observation are batches of different sizes ({sizes}): give one "
                "observation, or as many of each part"
            )
        single = leading == {()}
        values = [value[None] if single else value for value in values]
        if isinstance(self.observation, Box):
            return self.encode(values[0]), single
        return self._join(values), single

    # Actions

    def decode_actions(self, indices: np.ndarray) -> np.ndarray:
        """Convert indices of actions, counted from 0, to the environment's actions."""
        return np.asarray(indices, np.int64) + self.actions.start

    # Words

    @property
    def words(self) -> str:
        """The observation space, in words."""
        words = [part.words for part, _ in self.parts]
        if len(words) > MAX_NAMED_PARTS:
            left = len(words) - MAX_NAMED_PARTS + 1
            words = [*words[: MAX_NAMED_PARTS - 1], f"{left} more"]
        return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def numbered(num_actions: int, start: int = 0) -> tuple[str, ...]:
    """Return the numbers of actions as their names."""
    return tuple(map(str, range(start, start + num_actions)))
