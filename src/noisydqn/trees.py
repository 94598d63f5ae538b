"""A tree of arrays kept as one vector.

A network has some twenty arrays, and training state holds four things of its shape. As vectors
they are four arrays, which the optimizer and the target take in one loop each, and which a
compiled call takes and gives back in a fraction of the time.
"""

import dataclasses
import math
from functools import partial
from itertools import accumulate
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

Tree = TypeVar("Tree")


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["vector"],
    meta_fields=["structure", "shapes"],
)
@dataclasses.dataclass(frozen=True)
class Flat(Generic[Tree]):
    """A tree of float32 arrays as one vector; leading axes of the vector are batch axes."""

    vector: Float[jax.Array, "... size"]
    structure: Any
    shapes: tuple[tuple[int, ...], ...]

    @staticmethod
    def of(tree: Tree) -> "Flat[Tree]":
        """Lay the arrays of a tree end to end."""
        leaves, structure = jax.tree_util.tree_flatten(tree)
        shapes = tuple(leaf.shape for leaf in leaves)
        parts = [leaf.reshape(-1) for leaf in leaves]
        # NumPy's own for its arrays, as JAX would compile one.
        of_numpy = all(isinstance(part, np.ndarray) for part in parts)
        joined: Any = (np if of_numpy else jnp).concatenate(parts) if parts else jnp.zeros(0)
        return Flat(joined, structure, shapes)

    def with_vector(self, vector: Float[jax.Array, "... size"]) -> "Flat[Tree]":
        """Another tree of the same structure."""
        return Flat(vector, self.structure, self.shapes)

    @property
    def tree(self) -> Tree:
        """The tree."""
        sizes = [math.prod(shape) for shape in self.shapes]
        # One split, whose gradient is one concatenation; slices would each add to all of it.
        # NumPy's own for its arrays, as JAX would compile one.
        split = np.split if isinstance(self.vector, np.ndarray) else jnp.split
        parts = split(self.vector, list(accumulate(sizes))[:-1], axis=-1) if sizes else []
        batch = self.vector.shape[:-1]
        leaves = [
            part.reshape(*batch, *shape) for part, shape in zip(parts, self.shapes, strict=True)
        ]
        return jax.tree_util.tree_unflatten(self.structure, leaves)


def named(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their paths."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def structs(tree: Tree) -> Tree:
    """Shapes and types in place of the arrays of a tree."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def size_of(struct: Any) -> int:
    """Bytes of an array."""
    return math.prod(struct.shape) * np.dtype(struct.dtype).itemsize
