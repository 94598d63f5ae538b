"""A sum tree with eight children a node: samples an index in proportion to its priority.

A binary tree over two million leaves needs twenty-one dependent steps to find a leaf; with eight
children a node it needs seven, each of them one vectorized look at eight numbers. Sums are
recomputed from the children, never adjusted by differences, so they do not drift.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt

FANOUT = 8

NOWHERE = 2**31 - 1
"""An index beyond every tree."""

WIDTH_BITS = 24
"""Bits of whole numbers that a float32 holds exactly."""

SumTree = Float[Array, "blocks fanout"]
"""A heap of blocks of siblings, the root's first: entry e of all, in order, is block e + 1's sum.

One array for all levels, as a compiled call takes and gives back each array it is given. Only the
last level is shortened to what the leaves need, so that the shape tells the number of levels.
"""


def _above(level: int) -> int:
    """Count the blocks in the levels above a level."""
    return (FANOUT**level - 1) // (FANOUT - 1)


def levels(tree: SumTree) -> int:
    """Count the levels of a tree."""
    level = 1
    while _above(level) < len(tree):
        level += 1
    return level


def init(capacity: int) -> SumTree:
    """Make a tree of at least `capacity` leaves, all of priority zero."""
    level = 0
    while FANOUT ** (level + 1) < capacity:
        level += 1
    return jnp.zeros((_above(level) + math.ceil(capacity / FANOUT), FANOUT), jnp.float32)


def total(tree: SumTree) -> Float[Array, ""]:
    """Return the sum of all priorities."""
    return jnp.sum(tree[0])


def get(tree: SumTree, indices: Int[Array, " n"]) -> Float[Array, " n"]:
    """Return the priorities at `indices`."""
    return tree[_above(levels(tree) - 1) + indices // FANOUT, indices % FANOUT]


def put(tree: SumTree, indices: Int[Array, " n"], values: Float[Array, " n"]) -> SumTree:
    """Set the priorities at `indices` to values of zero or more.

    Where an index repeats, the largest of its values counts, whatever the order. Indices of
    `NOWHERE` are ignored.
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


class Places(NamedTuple):
    """Places in the mass of a tree: `at / width` of its total, and further binary digits.

    A float32 has 24 bits, too few to name each of tens of millions of leaves. So a place is a long
    fixed-point number, of which `find` reads at every level as many bits as that level needs.
    """

    at: Int[Array, " n"]  # from 0 to width - 1
    width: Int[Array, " n"]
    bits: UInt[Array, " n"]  # what follows the point


def strata(key: PRNGKeyArray, number: int) -> Places:
    """Sample one place from each of `number` equal parts of the mass, in order."""
    digits = max(WIDTH_BITS - 1 - (number - 1).bit_length(), 0)
    fine, bits = jax.random.bits(key, (2, number), jnp.uint32)
    first = jnp.arange(number, dtype=jnp.int32) * 2**digits
    at = first + (fine >> (32 - digits)).astype(jnp.int32)
    return Places(at, jnp.full(number, number * 2**digits, jnp.int32), bits)


def find(tree: SumTree, places: Places) -> tuple[Int[Array, " n"], Float[Array, " n"]]:
    """Find for each place the first leaf at which the running sum of priorities exceeds it.

    Each node shares its width among its children in proportion to their sums, in whole units and
    without a gap, as an arithmetic decoder does. What the chosen child gets is stretched by a power
    of two to some 2^23 units again, and the place's next bits become its low digits. So at every
    level a child's share is right to some 2^-22 of its node, however many leaves the tree has.

    Example: children with sums 1 1 6 and a place 5 of width 16. Their running sums 1 2 8 are
    shares 1/8 2/8 8/8 of the node, so the edges are 2 4 16. Two edges lie at or below 5, hence the
    third child, which spans 4 to 16, is chosen, with place 5 - 4 = 1 of width 12. Stretched by 2^20
    the width has 24 bits, and the place becomes 2^20 plus the next 20 bits. At the last level the
    child is a leaf.

    Returns the leaves and their priorities, which are above zero whatever rounding does to sums.
    """
    at, width, bits = places
    block, priority = jnp.zeros_like(at), jnp.zeros(at.shape, jnp.float32)
    up_to = jnp.tri(FANOUT, dtype=jnp.float32)
    for level in range(levels(tree)):
        values = tree[_above(level) + block]
        # A product with a triangle, as XLA's own running sum takes several times longer here.
        running = jnp.matmul(up_to, values.T, precision="highest")  # [fanout, n]
        node = running[-1]
        edges = (running / node * width.astype(jnp.float32)).astype(jnp.int32)
        # A quotient need not be exactly 1 on every device, and `at` must lie below the last edge.
        edges = jnp.where(running < node, edges, width)
        passed = edges <= at
        child = jnp.sum(passed, axis=0, dtype=jnp.int32)
        start = jnp.max(jnp.where(passed, edges, 0), axis=0)
        end = jnp.min(jnp.where(passed, NOWHERE, edges), axis=0)
        at, width, bits = _stretch(Places(at - start, end - start, bits))
        block = block * FANOUT + child
        priority = jnp.take_along_axis(values, child[:, None], axis=-1)[:, 0]
    return block, priority


def _stretch(places: Places) -> Places:
    """Move bits from behind the point before it, until the width has `WIDTH_BITS` bits."""
    at, width, bits = places
    shift = jnp.maximum(jax.lax.clz(width) - (32 - WIDTH_BITS), 0)
    unsigned = shift.astype(jnp.uint32)
    digits = (bits >> (32 - unsigned)).astype(jnp.int32)
    return Places((at << shift) | digits, width << shift, bits << unsigned)
