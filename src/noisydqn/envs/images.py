"""Images in observations: which parts are images, and the order of their axes."""

from collections import Counter
from collections.abc import Sequence
from typing import Annotated

import msgspec

from noisydqn.envs.spaces import (
    Box,
    Dict,
    MultiBinary,
    Plain,
    Space,
    Text,
    Tuple,
    leaves_of,
)
from noisydqn.errors import SpaceError

COLORS = (1, 3, 4)
MAX_STACK = 16
CHANNELS = {colors * frames for colors in COLORS for frames in range(1, MAX_STACK + 1)}
"""Lengths that a channel axis may have: the colors of one frame or of several."""
PICTURE_SIDE = 36
"""The shortest side of a picture whose numbers are not bytes; boards are smaller."""
SMALLEST_SIDE = 3
"""The shortest side of an image: smaller ones have nothing to convolve."""
AUTO, NONE = "auto", "none"
"""Words in the place of the paths of images: those that are detected, and no part at all."""
MAX_PATH = 4_096

Path = Annotated[str, msgspec.Meta(max_length=MAX_PATH)]


class Image(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of an observation that is an image.

    Args:
        path: the keys that lead to it, joined by dots, such as "arm.camera".
        axes: the order of its axes that puts its channels last; () keeps the order.
    """

    path: Path
    axes: tuple[int, ...] = ()


def path_of(keys: Sequence[str | int]) -> str:
    """Join the keys that lead to a part."""
    return ".".join(map(str, keys))


def image_axes(box: Box, *, declared: bool = False) -> tuple[int, ...]:
    """Find the order of axes that moves an image's channels last; () for all else.

    Only an unmistakable image is transposed. Its channels, the colors of one frame or of several,
    are on the first axis, which is shorter than height and width. Bytes are an image at any size,
    and so is what the user `declared`, other numbers only from 36 pixels on: a smaller array may be
    a board whose planes are last.
    """
    shape = box.shape
    if box.dtype == "bool" and not declared:
        return ()
    if len(shape) == 3:
        channels, *sides = shape
        large = box.is_bytes or declared or min(sides) >= PICTURE_SIDE
        return (1, 2, 0) if large and channels in CHANNELS and channels < min(sides) else ()
    if len(shape) == 4 and (box.is_bytes or declared) and shape[0] <= MAX_STACK:  # stacked frames
        _, one, other, last = shape
        if last in COLORS and last < min(one, other):
            return (1, 2, 0, 3)
        if one in COLORS and one < min(other, last):
            return (2, 3, 0, 1)
    return ()


def as_image(part: Plain | Text, path: str, *, declared: bool) -> Image | None:
    """Describe a part as an image; None if it cannot be one, or is not one unless `declared`."""
    if isinstance(part, Box):
        axes = image_axes(part, declared=declared)
    elif isinstance(part, MultiBinary) and declared:
        axes = ()
    else:
        return None
    fits = len(part.shape) in (2, 3) or len(axes) == 4
    if not fits or not (declared or part.is_bytes):
        return None
    height, width = (part.shape[axis] for axis in axes[:2] or (0, 1))
    return Image(path, axes) if min(height, width) >= SMALLEST_SIDE and part.size > 0 else None


def find_images(space: Space, names: Sequence[str]) -> tuple[Image, ...]:
    """Find the images among the parts of an observation.

    Args:
        space: the observation space, a Dict or Tuple.
        names: paths of all images; or "auto" for those of bytes from 0 to 255, or "none".

    Raises:
        SpaceError: a path is not that of a part that can be an image, or belongs to two parts.
    """
    detected, whole = list(names) == [AUTO], not isinstance(space, Dict | Tuple)
    if list(names) == [NONE] or (detected and whole):
        return ()
    if whole:
        raise SpaceError(
            f"--images {' '.join(names)} names parts, but the observation is one array: leave it "
            "out, --torso chooses how the array is read"
        )
    parts = [(path_of(keys), part) for part, keys in leaves_of(space)]
    if not detected:
        return _declared(parts, names)
    found = [as_image(part, path, declared=False) for path, part in parts]
    images = tuple(image for image in found if image is not None)
    if images:
        _check_distinct(parts)
    return images


def _declared(parts: Sequence[tuple[str, Plain | Text]], names: Sequence[str]) -> tuple[Image, ...]:
    """Describe the parts that the user declared to be images."""
    _check_distinct(parts)
    by_path = dict(parts)
    images: list[Image] = []
    for name in dict.fromkeys(names):
        part = by_path.get(name)
        if part is None:
            raise SpaceError(
                f"--images {name} is not a part of the observation: expected {AUTO}, {NONE}, or "
                f"parts out of {', '.join(by_path)}"
            )
        image = as_image(part, name, declared=True)
        if image is None:
            words = "text" if isinstance(part, Text) else part.words
            raise SpaceError(
                f"--images {name} names {words}, expected a Box or MultiBinary [height, width] or "
                f"[height, width, channels] of {SMALLEST_SIDE} x {SMALLEST_SIDE} or more: leave "
                "it out of --images"
            )
        images.append(image)
    return tuple(images)


def _check_distinct(parts: Sequence[tuple[str, Plain | Text]]) -> None:
    (most, times), *_ = Counter(path for path, _ in parts).most_common(1) or [("", 0)]
    if times > 1:
        raise SpaceError(
            f"two parts of the observation have the path {most}: rename their keys, or give "
            f"--images {NONE}"
        )
