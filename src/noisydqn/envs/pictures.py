"""Conversion of rendered pictures of any form to RGB bytes."""

from typing import Any

import numpy as np

from noisydqn.errors import NoPictureError

CHANNELS = (1, 3, 4)
"""Numbers of channels: gray, RGB, and RGBA, whose opacity is ignored."""

DEFAULT_RATE, MAX_RATE = 30.0, 240.0
"""Pictures per second of a video: the default and the maximum."""


def frame_rate(declared: Any) -> float:
    """Return the declared pictures per second, or the default if they are out of range."""
    if not isinstance(declared, int | float) or not 0 < declared <= MAX_RATE:
        return DEFAULT_RATE
    return float(declared)


def as_picture(rendered: Any) -> np.ndarray:
    """Convert what `render` returned to bytes [height, width, 3].

    `render` may return an array, or a list of arrays, of which the last is taken. Its shape is
    [height, width] or has 1, 3 or 4 channels, first or last. It holds bytes, booleans, integers
    from 0 to 255, or floats from 0 to 1 or from 0 to 255.

    Raises:
        NoPictureError: `rendered` is something else.
    """
    if isinstance(rendered, list | tuple) and all(isinstance(x, np.ndarray) for x in rendered):
        if not rendered:
            raise NoPictureError("render returned an empty list, expected a picture")
        rendered = rendered[-1]
    try:
        array = np.asarray(rendered)
    except ValueError as error:
        raise NoPictureError(f"render returned what is not an array ({error})") from error
    if array.dtype.kind not in "biuf":
        kind = type(rendered).__name__
        raise NoPictureError(f"render returned {kind}, expected an array [height, width, 3]")
    return _as_bytes(_as_rgb(array))


def _as_rgb(array: np.ndarray) -> np.ndarray:
    shape = array.shape
    if array.ndim == 3 and shape[2] not in CHANNELS and shape[0] in CHANNELS:
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in CHANNELS or array.size == 0:
        raise NoPictureError(f"render returned shape {list(shape)}, expected [height, width, 3]")
    return np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array[..., :3]


def _as_bytes(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return np.array(array, order="C")  # a copy, as an environment may draw into one array
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 255):
        raise NoPictureError(
            f"render returned values from {low:g} to {high:g}, expected 0 to 255, or floats from "
            "0 to 1"
        )
    unit = array.dtype.kind == "b" or (array.dtype.kind == "f" and high <= 1)
    return np.ascontiguousarray(np.rint(array * (255.0 if unit else 1.0)).astype(np.uint8))
