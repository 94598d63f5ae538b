"""A sum tree with eight children a node: draws an index in proportion to its priority.

A binary tree over two million leaves needs twenty-one dependent steps to find a leaf; with eight
children a node it needs seven, each of them one vectorised look at eight numbers. Sums are
recomputed from the children, never adjusted by differences, so they do not drift.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

FANOUT = 8

NOWHERE = 2**31 - 1
"""An index beyond every tree."""

SumTree = tuple[Float[Array, "blocks fanout"], ...]
"""The levels from the root to the leaves, each in blocks of siblings.

Entry j of level l is the sum of block j of level l + 1. The root level is a single block.
"""


def init(capacity: int) -> SumTree:
    """A tree of at least `capacity` leaves, all of priority zero."""
    levels: list[Float[Array, "blocks fanout"]] = []
    size = capacity
    while True:
        size = math.ceil(size / FANOUT)
        levels.append(jnp.zeros((size, FANOUT), jnp.float32))
        if size == 1:
            return tuple(reversed(levels))


def total(tree: SumTree) -> Float[Array, ""]:
    """The sum of all priorities."""
    return jnp.sum(tree[0])


def get(tree: SumTree, indices: Int[Array, " n"]) -> Float[Array, " n"]:
    """The priorities at `indices`."""
    return tree[-1][indices // FANOUT, indices % FANOUT]


def put(tree: SumTree, indices: Int[Array, " n"], values: Float[Array, " n"]) -> SumTree:
    """Set the priorities at `indices`; where an index repeats, its values must be equal.

    Indices of `NOWHERE` are passed over.
    """
    levels = list(tree)
    for depth in reversed(range(len(levels))):
        block = indices // FANOUT
        level = levels[depth].at[block, indices % FANOUT].set(values, mode="drop")
        levels[depth] = level
        indices, values = block, jnp.sum(level[block], axis=-1)
    return tuple(levels)


def find(tree: SumTree, mass: Float[Array, " n"]) -> tuple[Int[Array, " n"], Float[Array, " n"]]:
    """For each mass in [0, total) the first leaf at which the running sum of priorities exceeds it.

    Returns the leaves and their priorities, which are above zero whatever rounding does to sums.
    """
    block, priority = jnp.zeros(mass.shape, jnp.int32), jnp.zeros_like(mass)
    up_to = jnp.tri(FANOUT, dtype=jnp.float32).T
    for level in tree:
        values = level[block]
        # A product with a triangle, as XLA's own running sum takes several times longer here.
        running = jnp.sum(values[:, :, None] * up_to, axis=1)
        mass = jnp.clip(mass, 0, jnp.nextafter(running[:, -1], 0))
        passed = running <= mass[:, None]
        mass = mass - jnp.max(jnp.where(passed, running, 0), axis=-1)
        child = jnp.sum(passed, axis=-1, dtype=jnp.int32)
        block = block * FANOUT + child
        priority = jnp.take_along_axis(values, child[:, None], axis=-1)[:, 0]
    return block, priority
