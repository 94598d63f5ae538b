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

SumTree = Float[Array, "blocks fanout"]
"""A heap of blocks of siblings, the root's first: entry e of all, in order, is block e + 1's sum.

One array for all levels, as a compiled call takes and gives back each array it is given. Only the
last level is cut to what the leaves need, so that the shape tells the number of levels.
"""


def _above(level: int) -> int:
    """Blocks in the levels above a level."""
    return (FANOUT**level - 1) // (FANOUT - 1)


def levels(tree: SumTree) -> int:
    """How many levels a tree has."""
    level = 1
    while _above(level) < len(tree):
        level += 1
    return level


def init(capacity: int) -> SumTree:
    """A tree of at least `capacity` leaves, all of priority zero."""
    level = 0
    while FANOUT ** (level + 1) < capacity:
        level += 1
    return jnp.zeros((_above(level) + math.ceil(capacity / FANOUT), FANOUT), jnp.float32)


def total(tree: SumTree) -> Float[Array, ""]:
    """The sum of all priorities."""
    return jnp.sum(tree[0])


def get(tree: SumTree, indices: Int[Array, " n"]) -> Float[Array, " n"]:
    """The priorities at `indices`."""
    return tree[_above(levels(tree) - 1) + indices // FANOUT, indices % FANOUT]


def put(tree: SumTree, indices: Int[Array, " n"], values: Float[Array, " n"]) -> SumTree:
    """Set the priorities at `indices` to values of zero or more.

    Where an index repeats, the largest of its values counts, whatever the order. Indices of
    `NOWHERE` are passed over.
    """
    nowhere = indices == NOWHERE
    for level in reversed(range(levels(tree))):
        block = jnp.where(nowhere, len(tree), _above(level) + indices // FANOUT)
        entry = block, indices % FANOUT
        if level == levels(tree) - 1:
            tree = tree.at[entry].set(0, mode="drop").at[entry].max(values, mode="drop")
        else:
            tree = tree.at[entry].set(values, mode="drop")
        indices, values = indices // FANOUT, jnp.sum(tree[block], axis=-1)
    return tree


def find(tree: SumTree, mass: Float[Array, " n"]) -> tuple[Int[Array, " n"], Float[Array, " n"]]:
    """For each mass in [0, total) the first leaf at which the running sum of priorities exceeds it.

    Returns the leaves and their priorities, which are above zero whatever rounding does to sums.
    """
    block, priority = jnp.zeros(mass.shape, jnp.int32), jnp.zeros_like(mass)
    up_to = jnp.tri(FANOUT, dtype=jnp.float32).T
    for level in range(levels(tree)):
        values = tree[_above(level) + block]
        # A product with a triangle, as XLA's own running sum takes several times longer here.
        running = jnp.matmul(values, up_to, precision="highest")
        mass = jnp.clip(mass, 0, jnp.nextafter(running[:, -1], 0))
        passed = running <= mass[:, None]
        mass = mass - jnp.max(jnp.where(passed, running, 0), axis=-1)
        child = jnp.sum(passed, axis=-1, dtype=jnp.int32)
        block = block * FANOUT + child
        priority = jnp.take_along_axis(values, child[:, None], axis=-1)[:, 0]
    return block, priority
