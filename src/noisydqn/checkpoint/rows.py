"""The replay buffer's rows in blocks of slots, which are cut from the ring and pasted back."""

import math
from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from noisydqn.trees import size_of
from noisydqn.types import Row

BLOCK_BYTES = 2**24
"""Approximate size of a block of rows."""


class Layout(NamedTuple):
    """The division of a ring into blocks."""

    slots: int
    block_slots: int

    @staticmethod
    def of(rows: Row | None, axis: int) -> "Layout":
        """Choose the layout of rows whose slots are on `axis`; without rows, of one slot."""
        if rows is None:
            return Layout(1, 1)
        slots = rows.last.shape[axis]
        slot_bytes = sum(map(size_of, jax.tree.leaves(rows))) // slots
        return Layout(slots, min(max(BLOCK_BYTES // slot_bytes, 1), slots))

    def span(self, block: int) -> tuple[int, int]:
        """Return the first slot and the number of slots of a block."""
        start = block * self.block_slots
        return start, min(self.block_slots, self.slots - start)

    def changed(self, before: int, now: int) -> list[int]:
        """List the blocks that were written to between `before` and `now` rows."""
        if now - before >= self.slots:
            return list(range(math.ceil(self.slots / self.block_slots)))
        slots = np.arange(before, now) % self.slots
        return sorted({int(block) for block in np.unique(slots // self.block_slots)})


@partial(jax.jit, static_argnums=(2, 3))
def _cut(rows: Row, start: jax.Array, size: int, axis: int) -> Row:
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, size, axis), rows)


@partial(jax.jit, static_argnums=3, donate_argnums=0)
def _paste(rows: Row, block: Row, start: jax.Array, axis: int) -> Row:
    def paste(x: jax.Array, new: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_slice_in_dim(x, new, start, axis)

    return jax.tree.map(paste, rows, block)


def cut(rows: Row, axis: int, start: int, size: int) -> list[np.ndarray]:
    """Copy some slots to NumPy, field by field.

    The slice is a separate array, so the ring's buffers can be donated to the next step.
    """
    return [np.asarray(x) for x in jax.tree.leaves(_cut(rows, jnp.int32(start), size, axis))]


def paste(rows: Row, axis: int, start: int, block: Iterable[np.ndarray]) -> Row:
    """Write slots into the ring, whose arrays are donated so that it never exists twice."""
    new = jax.tree.unflatten(jax.tree.structure(rows), map(jnp.asarray, block))
    return _paste(rows, new, jnp.int32(start), axis)


def block_structs(rows: Any, axis: int, size: int) -> list[jax.ShapeDtypeStruct]:
    """Return shapes and dtypes of `size` slots, field by field."""
    return [
        jax.ShapeDtypeStruct((*x.shape[:axis], size, *x.shape[axis + 1 :]), x.dtype)
        for x in jax.tree.leaves(rows)
    ]
