"""Trees as one vector, with and without large arrays apart."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from noisydqn.trees import Flat

TREE = {
    "bias": jnp.arange(3.0),
    "head": jnp.arange(10.0, 16.0).reshape(2, 3),
    "hidden": jnp.arange(20.0, 40.0).reshape(4, 5),
    "scale": jnp.float32(7),
}


def check(found: Any, expected: Any) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("most", "large"), [(np.inf, 0), (10, 1), (5, 2), (0, 4)])
def test_a_tree_and_back(most: float, large: int) -> None:
    flat = Flat.of(TREE, most)
    assert len(flat.large) == large
    assert flat.vector.size == sum(x.size for x in TREE.values() if x.size <= most)
    check(flat.tree, TREE)
    check(
        flat.with_arrays(jax.tree.map(lambda x: 2 * x, flat.arrays)).tree,
        jax.tree.map(lambda x: 2 * x, TREE),
    )
    of_numpy = Flat.of(jax.tree.map(np.asarray, TREE), most)
    assert isinstance(of_numpy.vector, np.ndarray) or large == 4
    check(of_numpy.tree, TREE)


@pytest.mark.parametrize("most", [np.inf, 10])
def test_batches_and_gradients(most: float) -> None:
    stacked = jax.tree.map(lambda x: jnp.stack([x, -x]), TREE)
    flat = jax.vmap(lambda tree: Flat.of(tree, most))(stacked)
    check(flat.tree, stacked)

    def total(flat: Flat[Any]) -> jax.Array:
        return sum(jnp.sum(x**2) for x in jax.tree.leaves(flat.tree)) / 2  # pyright: ignore[reportReturnType]

    check(jax.grad(total)(Flat.of(TREE, most)).tree, TREE)
