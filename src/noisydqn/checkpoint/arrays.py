"""Trees of arrays as named arrays in NumPy, and back: the same bits."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

Tree = TypeVar("Tree")


def is_key(x: Any) -> bool:
    """Whether an array, or what stands for one, holds random keys."""
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def to_host(leaf: Any) -> np.ndarray:
    """A copy of an array; of random keys their data."""
    if isinstance(leaf, jax.Array) and is_key(leaf):
        leaf = jax.random.key_data(leaf)
    return np.array(leaf, copy=True, order="C")


def host_struct(leaf: Any) -> jax.ShapeDtypeStruct:
    """Shape and type of what `to_host` gives."""
    if is_key(leaf):
        return jax.eval_shape(jax.random.key_data, leaf)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def from_host(array: np.ndarray, like: Any) -> Any:
    """The array that `to_host` was given; `like` has its shape and type, and NumPy's stay so."""
    if isinstance(like, np.ndarray):
        return array
    # A copy, as JAX may otherwise keep NumPy's memory, which a later call could not be given.
    copied = jnp.array(array, copy=True)
    return jax.random.wrap_key_data(copied) if is_key(like) else copied
