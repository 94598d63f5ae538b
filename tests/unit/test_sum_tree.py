"""The sum tree against a plain array of priorities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noisydqn.replay import sum_tree
from noisydqn.replay.sum_tree import FANOUT


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
        unique = dict(write)
        indices, values = np.array(list(unique)), np.array(list(unique.values()), np.float32)
        tree = sum_tree.put(tree, jnp.asarray(indices), jnp.asarray(values))
        twin[indices] = values
    np.testing.assert_array_equal(sum_tree.get(tree, jnp.arange(300)), twin)
    assert float(sum_tree.total(tree)) == twin.sum()
    if twin.sum() > 0:
        total = np.float32(twin.sum())
        mass = float(min(np.float32(fraction * total), np.nextafter(total, np.float32(0))))
        assert int(sum_tree.find(tree, jnp.asarray([mass]))[0][0]) == slow_find(twin, mass)


def test_every_boundary_between_two_leaves() -> None:
    priorities = np.zeros(FANOUT * 3, np.float32)
    priorities[[0, 5, FANOUT - 1, FANOUT, 2 * FANOUT + 7]] = [1, 2, 3, 4, 5]
    tree = sum_tree.put(sum_tree.init(FANOUT * 3), jnp.arange(FANOUT * 3), jnp.asarray(priorities))
    found, priority = sum_tree.find(tree, jnp.arange(15, dtype=jnp.float32))
    expected = [0] + [5] * 2 + [FANOUT - 1] * 3 + [FANOUT] * 4 + [2 * FANOUT + 7] * 5
    assert found.tolist() == expected
    np.testing.assert_array_equal(priority, priorities[expected])


def test_nowhere_is_passed_over() -> None:
    for capacity in (5, FANOUT, 1000, 10**7):
        tree = sum_tree.init(capacity)
        nowhere = jnp.array([sum_tree.NOWHERE, 3], jnp.int32)
        tree = sum_tree.put(tree, nowhere, jnp.array([7.0, 2.0]))
        assert float(sum_tree.total(tree)) == 2
        assert float(jnp.sum(tree)) == 2 * sum_tree.levels(tree)


def test_of_values_for_one_index_the_largest_counts() -> None:
    tree = sum_tree.put(sum_tree.init(100), jnp.array([3, 70]), jnp.array([9.0, 9.0]))
    for order in ([0, 1, 2], [2, 1, 0]):
        indices, values = jnp.array([3, 3, 50])[jnp.array(order)], jnp.array([2.0, 5.0, 4.0])
        tree = sum_tree.put(tree, indices, values[jnp.array(order)])
        assert sum_tree.get(tree, jnp.array([3, 50, 70])).tolist() == [5, 4, 9]
        assert float(sum_tree.total(tree)) == 18


def test_never_finds_an_empty_leaf() -> None:
    """Not even for a mass at or beyond the total, where rounding may lead."""
    priorities = np.zeros(1000, np.float32)
    filled = np.random.default_rng(0).choice(1000, 40, replace=False)
    priorities[filled] = np.random.default_rng(1).uniform(1e-6, 1e3, 40)
    tree = sum_tree.put(sum_tree.init(1000), jnp.arange(1000), jnp.asarray(priorities))
    total = float(sum_tree.total(tree))
    mass = jnp.concatenate([jnp.linspace(0, total, 5000), jnp.array([total * 1.001, 2 * total])])
    assert set(sum_tree.find(tree, mass)[0].tolist()) <= set(filled.tolist())


def test_sums_do_not_drift() -> None:
    def overwrite(tree: sum_tree.SumTree, key: jax.Array) -> tuple[sum_tree.SumTree, None]:
        index = jax.random.randint(key, (4,), 0, 250) * 4 + jnp.arange(4)
        return sum_tree.put(tree, index, jax.random.uniform(key, (4,)) * 1e4), None

    tree, _ = jax.lax.scan(
        overwrite, sum_tree.init(1000), jax.random.split(jax.random.key(0), 5000)
    )
    tree = sum_tree.put(tree, jnp.arange(1000), jnp.full(1000, 0.5))
    assert float(sum_tree.total(tree)) == 500
    assert float(jnp.sum(tree)) == 500 * sum_tree.levels(tree)


def test_frequencies() -> None:
    priorities = jnp.arange(1.0, 11.0)
    tree = sum_tree.put(sum_tree.init(500), jnp.arange(10) * 40, priorities)
    draws = 200_000
    mass = jax.random.uniform(jax.random.key(0), (draws,)) * sum_tree.total(tree)
    found = np.asarray(sum_tree.find(tree, mass)[0]) // 40
    expected = np.arange(1, 11) / 55
    error = np.bincount(found, minlength=10) / draws - expected
    assert np.abs(error).max() < 5 * np.sqrt(expected * (1 - expected) / draws).max()
