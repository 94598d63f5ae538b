"""Actions of several dimensions: a choice in each, and the values of all choices.

`sizes` holds the number of choices of every dimension. Where values are learned, the choices of all
dimensions lie end to end, [A] with A = sum(sizes). Where one is chosen in each dimension, they are
a matrix [D, n] with n = max(sizes), in which -infinity stands for choices that a dimension does not
have; the greedy action is then the argmax along the last axis, [D].

With one dimension both are a vector [A], and an action is a number without an axis.

    sizes (3, 2):   [a0 a1 a2 b0 b1]   ->   [[a0, a1, a2],
                                              [b0, b1, -inf]]
"""

import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

Sizes = tuple[int, ...]
"""The number of choices in each dimension."""


def firsts(sizes: Sizes) -> np.ndarray:
    """Return the place of every dimension's first choice, [D]."""
    return np.array([0, *itertools.accumulate(sizes[:-1])], np.int32)


def existing(sizes: Sizes) -> np.ndarray | None:
    """Return [D, n], true at the choices that exist; None if all do, or with one dimension."""
    if len(set(sizes)) == 1:
        return None
    return np.arange(max(sizes)) < np.array(sizes)[:, None]


def by_dimension(
    values: Shaped[Array, "*batch actions"], sizes: Sizes
) -> Shaped[Array, "*batch_and_d n"]:
    """Arrange values that lie end to end, [..., A], as [..., D, n]; leave one dimension."""
    if len(sizes) == 1:
        return values
    exists = existing(sizes)
    if exists is None:
        return values.reshape(*values.shape[:-1], len(sizes), sizes[0])
    places = firsts(sizes)[:, None] + np.where(exists, np.arange(max(sizes)), 0)
    return jnp.where(exists, values[..., places], -jnp.inf)


def end_to_end(values: Any, sizes: Sizes) -> Any:
    """Undo `by_dimension`, for an array of JAX or NumPy."""
    if len(sizes) == 1:
        return values
    exists = existing(sizes)
    if exists is None:
        return values.reshape(*values.shape[:-2], -1)
    return values[..., *np.nonzero(exists)]


def places(actions: Any, sizes: Sizes) -> Any:
    """Return the places, end to end, of the choices of actions [..., D], or [...] with one."""
    return actions if len(sizes) == 1 else actions + firsts(sizes)
