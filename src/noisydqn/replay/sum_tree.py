"""A sum tree with a wide fan-out: draws an index in proportion to its priority.

A binary tree over two million leaves needs twenty dependent steps to find a leaf; with 128
children a node it needs three, each of them one vectorised look at 128 numbers. Sums are
recomputed from the children, never adjusted by differences, so they do not drift.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

FANOUT = 128

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
    """Set the priorities at `indices`; where an index repeats, its values must be equal."""
    levels = list(tree)
    for depth in reversed(range(len(levels))):
        block = indices // FANOUT
        level = levels[depth].at[block, indices % FANOUT].set(values)
        levels[depth] = level
        indices, values = block, jnp.sum(level[block], axis=-1)
    return tuple(levels)


def find(tree: SumTree, mass: Float[Array, " n"]) -> Int[Array, " n"]:
    """For each mass in [0, total) the first leaf at which the running sum of priorities exceeds it.

    The leaf found always has a priority above zero, whatever rounding does to the sums.
    """
    block = jnp.zeros(mass.shape, jnp.int32)
    for level in tree:
        running = jnp.cumsum(level[block], axis=-1)
        below_all = jnp.nextafter(running[:, -1], 0)
        mass = jnp.clip(mass, 0, below_all)
        child = jnp.sum(running <= mass[:, None], axis=-1)
        before = jnp.take_along_axis(running, jnp.maximum(child - 1, 0)[:, None], axis=-1)[:, 0]
        mass = mass - jnp.where(child > 0, before, 0)
        block = block * FANOUT + child
    return block
