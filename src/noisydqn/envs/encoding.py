"""Encodings of an environment's observations for the network, and of actions back.

An `Encoding` describes both spaces of an environment. It is saved as JSON beside the weights, so
that a loaded policy takes the environment's observations and returns its actions.
"""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Any, Literal

import jax
import msgspec
import numpy as np
from gymnasium import spaces as gym

from noisydqn.dimensions import Sizes
from noisydqn.envs.action_masks import Source
from noisydqn.envs.actions import (
    Actions,
    check_number,
    decoded,
    describe_actions,
    names_of,
    sizes_of,
)
from noisydqn.envs.images import NONE, Image, find_images, image_axes, path_of
from noisydqn.envs.spaces import (
    BYTE,
    MAX_NUMBERS,
    Box,
    Dict,
    Discrete,
    MultiBinary,
    Plain,
    Space,
    Text,
    Tuple,
    check_nesting,
    describe_space,
    leaves_of,
    parts_of,
    values_of,
)
from noisydqn.envs.values import read_some
from noisydqn.errors import SpaceError, UserError, WrongValueError
from noisydqn.options import shown
from noisydqn.types import Mixed

MAX_BYTES = 2**22
"""The longest JSON of an encoding."""

MAX_NAMED_PARTS = 6


class Encoding(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """The spaces of an environment and the form in which the replay buffer holds observations.

    Images are stored as [height, width] or [height, width, channels]. Spaces of several parts
    become one vector, categories one-hot vectors. Bytes stay bytes unless they share a vector with
    other numbers; then they are divided by 255.

    If some parts are images, every part is an array of its own: a `Mixed`. The other parts are
    vectors there, float32, with bytes divided by 255.

    Args:
        observation: the observation space.
        actions: the action space.
        action_names: one for each action, to be displayed; with several dimensions for each choice.
        axes: the order of an image's axes that puts its channels last; () keeps the order.
        images: the parts that are images, from `find_images`; () joins all parts to one vector.
        action_mask: where the environment gives action masks, if it does.

    Raises:
        SpaceError: an observation holds no number or too many, or the arguments contradict each
            other.
    """

    observation: Space
    actions: Actions
    action_names: tuple[Annotated[str, msgspec.Meta(max_length=200)], ...]
    axes: tuple[int, ...] = ()
    images: tuple[Image, ...] = ()
    version: Literal[1] = 1
    action_mask: Source | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        check_nesting(self.observation)
        if not 1 <= self.size <= MAX_NUMBERS:
            remedy = "its observations are smaller" if self.size else "it shows something"
            text = " beside text, which is left out," if self.ignored else ","
            raise SpaceError(
                f"the observation space holds {self.size:,} numbers{text} expected 1 to "
                f"{MAX_NUMBERS:,}: wrap the environment so that {remedy}"
            )
        check_number(self.actions)
        if len(self.action_names) != self.num_actions:
            raise SpaceError(f"{self.num_actions} actions have {len(self.action_names)} names")
        box = self.observation
        turned = isinstance(box, Box) and sorted(self.axes) == list(range(len(box.shape)))
        if self.axes and not (turned and len(self.axes) in (3, 4)):
            raise SpaceError(f"the axes {self.axes} are not those of the observation")
        self._check_images()

    def _check_images(self) -> None:
        parts = {path: part for path, (part, _) in zip(self.paths, self.parts, strict=True)}
        distinct = len(parts) == len(self.parts)
        if self.images and (not distinct or not isinstance(self.observation, Dict | Tuple)):
            raise SpaceError("the observation has images, but not parts with paths of their own")
        for path, axes in self.axes_of_images.items():
            part = parts.get(path)
            number = len(part.shape) if isinstance(part, Box | MultiBinary) else 0
            turned = number in (3, 4) and sorted(axes) == list(range(number))
            if not (turned if axes else number in (2, 3)):
                raise SpaceError(f"the image {shown(path)} is not an image of the observation")

    @staticmethod
    def of(
        observation: gym.Space[Any],
        actions: gym.Space[Any],
        names: Sequence[str] | None = None,
        images: Sequence[str] = (NONE,),
        masks: Source | None = None,
        bins: int | None = None,
    ) -> "Encoding":
        """Describe spaces of Gymnasium and decide how observations are stored.

        Args:
            observation: the observation space.
            actions: the action space.
            names: names of the actions; numbers replace them unless there is one for each action.
            images: the paths of all images, or one word, as in `find_images`.
            masks: where the environment gives action masks, if it does.
            bins: values of each number of actions that are a box, see `describe_actions`.

        Raises:
            SpaceError: one of the spaces is not supported, or `images` or `bins` do not fit.
        """
        described = describe_actions(actions, bins)
        check_number(described)
        space = describe_space(observation)
        axes = image_axes(space) if isinstance(space, Box) else ()
        found = find_images(space, images)
        given = msgspec.UNSET if masks is None else masks
        named = names_of(described, names)
        return Encoding(space, described, named, axes, found, action_mask=given)

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
    def paths(self) -> tuple[str, ...]:
        """The paths of the parts, in their order."""
        found = leaves_of(self.observation)
        return tuple(path_of(keys) for part, keys in found if not isinstance(part, Text))

    @cached_property
    def ignored(self) -> tuple[str, ...]:
        """The paths of the parts that are left out: text."""
        found = leaves_of(self.observation)
        return tuple(path_of(keys) for part, keys in found if isinstance(part, Text))

    @cached_property
    def axes_of_images(self) -> dict[str, tuple[int, ...]]:
        """The order of each image's axes, as in `axes`, by its path."""
        return {image.path: image.axes for image in self.images}

    @cached_property
    def size(self) -> int:
        """The size of a stored observation, in numbers."""
        return sum(part.size for part, _ in self.parts)

    @cached_property
    def stored(self) -> Any:
        """Shape and type of a stored observation, or a `Mixed` of those of its parts."""
        if not self.images:
            return jax.ShapeDtypeStruct(self.shape, self.dtype)
        mixed = Mixed({}, {})
        for path, (part, _) in zip(self.paths, self.parts, strict=True):
            axes = self.axes_of_images.get(path)
            if axes is None:
                mixed.vectors[path] = jax.ShapeDtypeStruct((part.size,), np.dtype(np.float32))
            else:
                shape = _image_shape(part.shape, axes)
                mixed.images[path] = jax.ShapeDtypeStruct(shape, part.stored)
        return mixed

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The shape of a stored observation, if it is one array."""
        if not isinstance(self.observation, Box):
            return (self.size,)
        return _image_shape(self.observation.shape, self.axes)

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """The type of a stored observation, if it is one array.

        It is that of all its parts, float32 if theirs differ.
        """
        types = {part.stored for part, _ in self.parts}
        return types.pop() if len(types) == 1 else np.dtype(np.float32)

    # Observations

    def encode(self, batch: Any) -> Any:
        """Encode a batch from a vector environment; returns copies [B, ...] as in `stored`.

        Values are not checked here: guards or `check_batch` have checked them.
        """
        if isinstance(self.observation, Box):
            return _image(batch, self.axes, self.dtype)
        return self._encoded([np.asarray(x) for x in values_of(self.observation, batch)])

    def _encoded(self, values: Sequence[np.ndarray]) -> Any:
        """Encode the parts of a batch."""
        if not self.images:
            return self._join(values)
        mixed = Mixed({}, {})
        for path, (part, _), value in zip(self.paths, self.parts, values, strict=True):
            axes = self.axes_of_images.get(path)
            if axes is None:
                vector = mixed.vectors[path] = np.zeros((len(value), part.size), np.float32)
                part.write(value, vector)
            else:
                mixed.images[path] = _image(value, axes, part.stored)
        return mixed

    def _join(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """Write the parts of a batch side by side, [B, size]."""
        joined = np.zeros((len(values[0]), self.size), self.dtype)
        first = 0
        for (part, _), value in zip(self.parts, values, strict=True):
            part.write(value, joined[:, first : first + part.size])
            first += part.size
        return joined

    def read(self, observation: Any) -> tuple[Any, bool]:
        """Check and encode an observation of the environment, or a batch.

        Args:
            observation: one observation, or a batch as a vector environment returns it: each array
                has one more axis, the first.

        Returns:
            Stored observations [B, ...], and true if a single observation was given.

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
        return self._encoded(values), single

    # Actions

    @cached_property
    def sizes(self) -> Sizes:
        """The number of choices in each dimension of an action."""
        return sizes_of(self.actions)

    @property
    def num_actions(self) -> int:
        """The number of actions; with several dimensions that of the choices in all."""
        return sum(self.sizes)

    def decode_actions(self, choices: np.ndarray) -> np.ndarray:
        """Convert actions that are counted from 0 to the environment's; see `decoded`."""
        return decoded(self.actions, choices)

    # Words

    @property
    def words(self) -> str:
        """The observation space, in words."""
        words = [part.words for part, _ in self.parts]
        if len(words) > MAX_NAMED_PARTS:
            left = len(words) - MAX_NAMED_PARTS + 1
            words = [*words[: MAX_NAMED_PARTS - 1], f"{left} more"]
        return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _image_shape(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of an array of a shape as it is stored: channels last, in one axis."""
    turned = tuple(shape[axis] for axis in axes)
    return (*turned[:2], math.prod(turned[2:])) if turned else shape


def _image(batch: Any, axes: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """Copy a batch of arrays, with the order of axes in which they are stored."""
    turned = np.transpose(batch, (0, *(axis + 1 for axis in axes))) if axes else batch
    copied = np.array(turned, dtype, order="C")
    return copied.reshape(len(copied), *_image_shape(np.shape(batch)[1:], axes))


def numbered(num_actions: int, start: int = 0) -> tuple[str, ...]:
    """Return the numbers of actions as their names."""
    return tuple(map(str, range(start, start + num_actions)))
