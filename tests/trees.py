"""Looking into sum trees."""

import jax
import jax.numpy as jnp
import numpy as np

from noisydqn.learner import sum_tree
from noisydqn.learner.sum_tree import FANOUT, Places, SumTree


def priorities(tree: SumTree) -> np.ndarray:
    """All priorities of a tree."""
    above = sum(FANOUT**level for level in range(sum_tree.levels(tree) - 1))
    return np.asarray(tree)[above:].ravel()


def total_priority(tree: SumTree) -> float:
    """The sum of all priorities."""
    return float(jnp.sum(tree[0]))


def build(leaves: np.ndarray) -> SumTree:
    """Build a tree of many leaves level by level, which `put` would take long for."""
    shape = jax.eval_shape(lambda: sum_tree.init(len(leaves))).shape
    tree = np.zeros(shape, np.float32)
    starts = [0]
    while starts[-1] * FANOUT + 1 < len(tree):
        starts.append(starts[-1] * FANOUT + 1)
    entries, end = leaves, len(tree)
    for start in reversed(starts):
        tree[start:end].reshape(-1)[: len(entries)] = entries
        entries, end = tree[start:end].sum(axis=-1), start
    return jnp.asarray(tree)


def places_at(shares: np.ndarray) -> Places:
    """The places at shares of the mass, given as whole numbers in units of 2^-55 of it."""
    return Places(
        at=jnp.asarray(shares >> 32, jnp.int32),
        width=jnp.full(len(shares), 2**23, jnp.int32),
        bits=jnp.asarray(shares & (2**32 - 1), jnp.uint32),
    )
