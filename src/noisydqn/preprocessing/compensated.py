"""Compensated sums in float32, which stay accurate however many numbers are added.

A plain float32 sum loses everything below the last of its 24 bits: 2^24 + 1 is 2^24. Here the
part that rounding removes is kept and added later (Neumaier 1974).
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float


class Sum(NamedTuple):
    """A sum, which is `value + rest`; `value` is its rounding to float32."""

    value: Float[Array, "..."]
    rest: Float[Array, "..."]

    def add(self, x: Float[Array, "..."]) -> "Sum":
        """Add a number to each sum."""
        rough = self.value + x
        added = rough - self.value
        lost = (self.value - (rough - added)) + (x - added)
        rest = self.rest + lost
        value = rough + rest
        return Sum(value, rest - (value - rough))


def zero(shape: tuple[int, ...]) -> Sum:
    """Make empty sums."""
    return Sum(jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.float32))
