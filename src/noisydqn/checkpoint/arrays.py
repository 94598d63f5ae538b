"""Conversion of JAX arrays to NumPy and back, bit for bit."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

Tree = TypeVar("Tree")


def is_key(x: Any) -> bool:
    """Tell whether an array or a struct holds random keys."""
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def to_host(leaf: Any) -> np.ndarray:
    """Copy an array to NumPy; for random keys, copy their data."""
    if isinstance(leaf, jax.Array) and is_key(leaf):
        leaf = jax.random.key_data(leaf)
    return np.array(leaf, copy=True, order="C")


def host_struct(leaf: Any) -> jax.ShapeDtypeStruct:
    """Return the shape and dtype of the result of `to_host`."""
    if is_key(leaf):
        return jax.eval_shape(jax.random.key_data, leaf)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def from_host(array: np.ndarray, like: Any) -> Any:
    """Undo `to_host`: make an array of the kind of `like`, in JAX or NumPy."""
    if isinstance(like, np.ndarray):
        return array
    # A copy, because JAX may otherwise share NumPy's memory, which cannot be donated.
    copied = jnp.array(array, copy=True)
    return jax.random.wrap_key_data(copied) if is_key(like) else copied
