"""The memory's rows in blocks of slots: which have changed, and how they leave and enter a ring."""

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
"""Rows are written in blocks of about this size."""


class Layout(NamedTuple):
    """How a ring is cut into blocks."""

    slots: int
    block_slots: int

    @staticmethod
    def of(rows: Row, axis: int) -> "Layout":
        """The layout of rows whose slots are on an axis."""
        slots = rows.last.shape[axis]
        slot_bytes = sum(size_of(x) for x in rows) // slots
        return Layout(slots, min(max(BLOCK_BYTES // slot_bytes, 1), slots))

    def span(self, block: int) -> tuple[int, int]:
        """First slot and number of slots of a block."""
        start = block * self.block_slots
        return start, min(self.block_slots, self.slots - start)

    def changed(self, before: int, now: int) -> list[int]:
        """The blocks with slots that were written after the first `before` rows of `now`."""
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
    """A copy of some slots, field by field.

    The slice is an array of its own, so the ring's buffers can be given to the next step.
    """
    return [np.asarray(x) for x in _cut(rows, jnp.int32(start), size, axis)]


def paste(rows: Row, axis: int, start: int, block: Iterable[np.ndarray]) -> Row:
    """Put slots back; `rows` is given up, so that a ring is never there twice."""
    return _paste(rows, Row(*map(jnp.asarray, block)), jnp.int32(start), axis)


def block_structs(rows: Any, axis: int, size: int) -> list[jax.ShapeDtypeStruct]:
    """Shapes and types of `size` slots, field by field."""
    return [
        jax.ShapeDtypeStruct((*x.shape[:axis], size, *x.shape[axis + 1 :]), x.dtype) for x in rows
    ]
