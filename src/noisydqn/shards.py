"""The data of one run, divided over devices: what each device keeps, what all combine.

A program for several devices runs under `jax.shard_map`, over an axis named `AXIS`. Each device has
its share of the environments, of what is learned from and of every batch; weights, optimizer and
statistics are the same on all. Code that is written for one device asks `Shards` wherever a number
depends on all the data, as in `shards.mean(gradient)`.

On one device every method returns what it is given, so the program stays the same.
"""

import dataclasses
from typing import TypeVar

import jax
from jaxtyping import PRNGKeyArray

AXIS = "devices"
"""The name of the axis of devices."""

Tree = TypeVar("Tree")


@dataclasses.dataclass(frozen=True)
class Shards:
    """The shares of a run's data, one on each device.

    Args:
        number: how many there are. With more than one, `own_key` and the methods after it may be
            called only under `jax.shard_map` over `AXIS`.
    """

    number: int = 1

    def part(self, count: int) -> int:
        """Divide a count of environments or examples; return the share of one device."""
        return -(-count // self.number)

    def own_key(self, key: PRNGKeyArray) -> PRNGKeyArray:
        """Return another key on each device, made from one that all have."""
        return key if self.number == 1 else jax.random.fold_in(key, jax.lax.axis_index(AXIS))

    def mean(self, tree: Tree) -> Tree:
        """Average the arrays of a tree over the devices."""
        return tree if self.number == 1 else jax.lax.pmean(tree, AXIS)

    def total(self, tree: Tree) -> Tree:
        """Add up the arrays of a tree over the devices."""
        return tree if self.number == 1 else jax.lax.psum(tree, AXIS)

    def least(self, tree: Tree) -> Tree:
        """Return the smallest of the devices' numbers, element by element."""
        return tree if self.number == 1 else jax.lax.pmin(tree, AXIS)

    def greatest(self, tree: Tree) -> Tree:
        """Return the largest of the devices' numbers, element by element."""
        return tree if self.number == 1 else jax.lax.pmax(tree, AXIS)

    def joined(self, tree: Tree) -> Tree:
        """Join the arrays of all devices along their first axis."""
        if self.number == 1:
            return tree
        return jax.tree.map(lambda x: jax.lax.all_gather(x, AXIS, tiled=True), tree)


ONE = Shards()
"""All data on one device."""
