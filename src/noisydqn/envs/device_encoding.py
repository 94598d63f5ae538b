"""Observations of several parts from environments in JAX: their spaces, and how they are stored."""

from typing import Any, cast

import jax.numpy as jnp
import numpy as np
from gymnasium import spaces as gym
from jaxtyping import Array

from noisydqn.envs.encoding import Encoding
from noisydqn.envs.spaces import BYTE, Plain, values_of
from noisydqn.errors import UserError, WrongValueError
from noisydqn.types import Mixed


def space_of(observation: Any, name: str) -> gym.Space[Any]:
    """Describe an observation as a space of Gymnasium.

    Bytes have the full range from 0 to 255, booleans stay booleans, other numbers are float32.

    Args:
        observation: an array, or a dictionary or tuple of observations; shapes and types suffice.
        name: how messages name it.

    Raises:
        UserError: it is, or contains, something else.
    """
    if isinstance(observation, dict):
        return gym.Dict(
            {str(key): space_of(x, f"{name}[{key!r}]") for key, x in observation.items()}
        )
    if isinstance(observation, tuple):
        return gym.Tuple([space_of(x, f"{name}[{i}]") for i, x in enumerate(observation)])
    dtype, shape = getattr(observation, "dtype", None), getattr(observation, "shape", ())
    if dtype == jnp.uint8:
        return gym.Box(0, BYTE, shape, np.uint8)
    if dtype == jnp.bool_:
        return gym.Box(0, 1, shape, cast(Any, bool))
    real = dtype is not None and any(
        jnp.issubdtype(dtype, kind) for kind in (jnp.integer, jnp.floating)
    )
    if not real:
        got = type(observation).__name__ if dtype is None else str(dtype)
        raise UserError(
            f"{name} is {got}, expected an array of numbers, or a dictionary or tuple of arrays"
        )
    return gym.Box(-np.inf, np.inf, shape, np.float32)


def encode(encoding: Encoding, observation: Any, name: str) -> Any:
    """Encode one observation in compiled code, as `Encoding.encode` does a batch.

    Args:
        encoding: of observations that are dictionaries or tuples.
        observation: arrays of the shapes that its space has.
        name: how messages name it.

    Returns:
        An array or a `Mixed`, as in `encoding.stored`.

    Raises:
        UserError: it has other parts, or parts of other shapes, than the space.
    """
    try:
        values = [jnp.asarray(x) for x in values_of(encoding.observation, observation, name)]
    except WrongValueError as error:
        raise UserError(f"{error}: every reset and step has to show the same parts") from None
    for (part, _), path, value in zip(encoding.parts, encoding.paths, values, strict=True):
        if value.shape != part.shape:
            raise UserError(
                f"{name} has {path} of shape {list(value.shape)}, expected {list(part.shape)} as "
                "after a reset"
            )
    if not encoding.images:
        pairs = zip(encoding.parts, values, strict=True)
        return jnp.concatenate([_vector(part, value, encoding.dtype) for (part, _), value in pairs])
    mixed = Mixed({}, {})
    for (part, _), path, value in zip(encoding.parts, encoding.paths, values, strict=True):
        axes = encoding.axes_of_images.get(path)
        if axes is None:
            mixed.vectors[path] = _vector(part, value, np.dtype(np.float32))
        else:
            stored = encoding.stored.images[path]
            turned = jnp.transpose(value, axes) if axes else value
            mixed.images[path] = turned.reshape(stored.shape).astype(stored.dtype)
    return mixed


def _vector(part: Plain, value: Array, dtype: np.dtype[Any]) -> Array:
    flat = value.reshape(-1).astype(dtype)
    return flat * np.float32(1 / BYTE) if part.is_bytes and dtype == np.float32 else flat
