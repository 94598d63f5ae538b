"""The sum tree against a plain array of priorities."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.trees import build, places_at, total_priority

from noisydqn.learner import sum_tree
from noisydqn.learner.sum_tree import FANOUT

FIND, GET, PUT = map(jax.jit, (sum_tree.find, sum_tree.get, sum_tree.put))

STRATA = jax.jit(sum_tree.strata, static_argnums=1)


def find(tree: sum_tree.SumTree, masses: list[float]) -> tuple[jax.Array, jax.Array]:
    """Find the leaves at some masses, each below the tree's total."""
    total = Fraction(total_priority(tree))
    shares = [math.floor(Fraction(mass) / total * 2**55) for mass in masses]
    return FIND(tree, places_at(np.array(shares)))


def slow_find(priorities: np.ndarray, mass: float) -> int:
    """Walk along the priorities until their running sum exceeds the mass."""
    running = 0.0
    for index, priority in enumerate(priorities):
        running += float(priority)
        if running > mass:
            return index
    raise AssertionError("mass beyond the total")


@pytest.mark.parametrize(
    ("capacity", "levels"),
    [(1, 1), (FANOUT, 1), (FANOUT + 1, 2), (FANOUT**2, 2), (FANOUT**2 + 1, 3), (2_000_000, 7)],
)
def test_number_of_levels(capacity: int, levels: int) -> None:
    tree = sum_tree.init(capacity)
    assert sum_tree.levels(tree) == levels
    above = sum(FANOUT**level for level in range(levels - 1))
    assert capacity <= (len(tree) - above) * FANOUT < capacity + FANOUT


# Whole numbers are summed without rounding, so the twins must agree exactly.
PRIORITIES = st.lists(st.tuples(st.integers(0, 299), st.integers(0, 9)), min_size=1, max_size=30)


@settings(deadline=None, max_examples=60)
@given(st.lists(PRIORITIES, min_size=1, max_size=4), st.floats(0, 1, exclude_max=True))
def test_agrees_with_an_array(writes: list[list[tuple[int, int]]], fraction: float) -> None:
    tree, twin = sum_tree.init(300), np.zeros(300)
    for write in writes:
        indices, values = np.full(30, sum_tree.NOWHERE, np.int32), np.zeros(30, np.float32)
        for at, (index, value) in enumerate(dict(write).items()):
            indices[at], values[at], twin[index] = index, value, value
        tree = PUT(tree, indices, values)
    np.testing.assert_array_equal(GET(tree, np.arange(300)), twin)
    assert total_priority(tree) == twin.sum()
    if twin.sum() > 0:
        mass = math.floor(fraction * twin.sum()) + 0.5  # as far from an edge as there is
        assert int(find(tree, [mass])[0][0]) == slow_find(twin, mass)


def test_every_boundary_between_two_leaves() -> None:
    priorities = np.zeros(FANOUT * 3, np.float32)
    priorities[[0, 5, FANOUT - 1, FANOUT, 2 * FANOUT + 7]] = [1, 2, 3, 4, 5]
    tree = sum_tree.put(sum_tree.init(FANOUT * 3), jnp.arange(FANOUT * 3), jnp.asarray(priorities))
    found, priority = find(tree, [edge + side for edge in range(15) for side in (1e-5, 1 - 1e-5)])
    expected = [0] + [5] * 2 + [FANOUT - 1] * 3 + [FANOUT] * 4 + [2 * FANOUT + 7] * 5
    assert found.tolist() == np.repeat(expected, 2).tolist()
    np.testing.assert_array_equal(priority, priorities[np.repeat(expected, 2)])


def test_the_index_nowhere_is_ignored() -> None:
    for capacity in (5, FANOUT, 1000, 10**7):
        tree = sum_tree.init(capacity)
        nowhere = jnp.array([sum_tree.NOWHERE, 3], jnp.int32)
        tree = sum_tree.put(tree, nowhere, jnp.array([7.0, 2.0]))
        assert total_priority(tree) == 2
        assert float(jnp.sum(tree)) == 2 * sum_tree.levels(tree)


def test_the_largest_value_of_a_repeated_index_counts() -> None:
    tree = sum_tree.put(sum_tree.init(100), jnp.array([3, 70]), jnp.array([9.0, 9.0]))
    for order in ([0, 1, 2], [2, 1, 0]):
        indices, values = jnp.array([3, 3, 50])[jnp.array(order)], jnp.array([2.0, 5.0, 4.0])
        tree = sum_tree.put(tree, indices, values[jnp.array(order)])
        assert sum_tree.get(tree, jnp.array([3, 50, 70])).tolist() == [5, 4, 9]
        assert total_priority(tree) == 18


def test_never_finds_an_empty_leaf() -> None:
    """Not even at either end of the mass, where rounding may lead."""
    priorities = np.zeros(1000, np.float32)
    filled = np.random.default_rng(0).choice(1000, 40, replace=False)
    priorities[filled] = np.random.default_rng(1).uniform(1e-6, 1e3, 40)
    tree = sum_tree.put(sum_tree.init(1000), jnp.arange(1000), jnp.asarray(priorities))
    places = places_at(np.append(np.linspace(0, 2**55 - 2**33, 5000).astype(int), 2**55 - 1))
    assert set(FIND(tree, places)[0].tolist()) <= set(filled.tolist())


def test_sums_do_not_drift() -> None:
    def overwrite(tree: sum_tree.SumTree, key: jax.Array) -> tuple[sum_tree.SumTree, None]:
        index = jax.random.randint(key, (4,), 0, 250) * 4 + jnp.arange(4)
        return sum_tree.put(tree, index, jax.random.uniform(key, (4,)) * 1e4), None

    tree, _ = jax.lax.scan(
        overwrite, sum_tree.init(1000), jax.random.split(jax.random.key(0), 5000)
    )
    tree = sum_tree.put(tree, jnp.arange(1000), jnp.full(1000, 0.5))
    assert total_priority(tree) == 500
    assert float(jnp.sum(tree)) == 500 * sum_tree.levels(tree)


@pytest.mark.parametrize("number", [1, 3, 32, 10_000])
def test_a_place_in_every_stratum(number: int) -> None:
    places = STRATA(jax.random.key(0), number)
    (width,) = set(places.width.tolist())
    assert 2**22 <= width <= 2**24
    assert width % number == 0
    assert np.array_equal(np.asarray(places.at) // (width // number), np.arange(number))


def test_places_are_uniform_in_their_strata() -> None:
    """Before the point and behind it, and independently."""
    at, width, bits = STRATA(jax.random.key(0), 5000)
    size = int(width[0]) // 5000
    before, behind = np.asarray(at) % size / size, np.asarray(bits) / 2**32
    for uniform in (before, behind, np.sqrt(12) * (before - 0.5) * (behind - 0.5) + 0.5):
        assert abs(uniform.mean() - 0.5) < 5 / np.sqrt(12 * 5000)


def test_frequencies() -> None:
    priorities = jnp.arange(1.0, 11.0)
    tree = sum_tree.put(sum_tree.init(500), jnp.arange(10) * 40, priorities)
    draws = 200_000
    found = np.asarray(FIND(tree, STRATA(jax.random.key(0), draws))[0]) // 40
    # One place in each of many strata: frequencies are right to a place on either side.
    assert np.abs(np.bincount(found, minlength=10) - np.arange(1, 11) / 55 * draws).max() <= 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("capacity", "equal"), [(10**7, False), (4 * 10**7, True), (4 * 10**7, False)]
)
def test_every_leaf_of_a_large_tree_in_proportion(capacity: int, equal: bool) -> None:
    """Counted on even grids of places around some leaves, grids far finer than a leaf.

    Among them are the leaves on either side of the border between two children of the root.
    """
    leaves = np.random.default_rng(0).standard_exponential(capacity, np.float32)
    if equal:
        leaves[:] = 1
    tree, total = build(leaves), leaves.sum(dtype=np.float64)
    grid, step = 2**14, 2**22
    border = FANOUT ** (sum_tree.levels(tree) - 1)
    for middle in (10, border, capacity // 3, capacity - 10):
        before = leaves[:middle].sum(dtype=np.float64) / total
        start = min(max(int(before * 2**55) - grid // 2 * step, 0), 2**55 - grid * step)
        found = np.asarray(FIND(tree, places_at(start + np.arange(grid) * step))[0])
        first, last = found[0], found[-1]
        assert first < middle < last
        assert (np.diff(found) >= 0).all()
        expected = leaves[first : last + 1] / total * 2**55 / step
        errors = np.abs(np.bincount(found - first) - expected)
        # The first and the last leaf lie partly outside of the grid.
        assert (errors <= 2 + 1e-4 * expected)[1:-1].all()
