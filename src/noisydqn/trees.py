"""Trees of arrays as one vector, and by name.

A network has about twenty arrays, and the training state holds four trees of its shape. As
vectors they are four arrays. The optimizer and the target update process each in one loop, and a
compiled call takes and returns them in a fraction of the time.
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
        """Concatenate the arrays of a tree."""
        leaves, structure = jax.tree_util.tree_flatten(tree)
        shapes = tuple(leaf.shape for leaf in leaves)
        parts = [leaf.reshape(-1) for leaf in leaves]
        # NumPy concatenates its own arrays: JAX would compile a program for that.
        of_numpy = all(isinstance(part, np.ndarray) for part in parts)
        joined: Any = (np if of_numpy else jnp).concatenate(parts) if parts else jnp.zeros(0)
        return Flat(joined, structure, shapes)

    def with_vector(self, vector: Float[jax.Array, "... size"]) -> "Flat[Tree]":
        """Return another tree of the same structure."""
        return Flat(vector, self.structure, self.shapes)

    @property
    def tree(self) -> Tree:
        """The tree of arrays."""
        sizes = [math.prod(shape) for shape in self.shapes]
        # One split has one concatenation as its gradient. The gradient of each slice would be a
        # whole vector of zeros to add. NumPy splits its own arrays: JAX would compile that.
        split = np.split if isinstance(self.vector, np.ndarray) else jnp.split
        parts = split(self.vector, list(accumulate(sizes))[:-1], axis=-1) if sizes else []
        batch = self.vector.shape[:-1]
        leaves = [
            part.reshape(*batch, *shape) for part, shape in zip(parts, self.shapes, strict=True)
        ]
        return jax.tree_util.tree_unflatten(self.structure, leaves)


def named(tree: Any) -> dict[str, Any]:
    """List the leaves of a tree by their paths, such as `"online.hidden.0.weight_mu"`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def structs(tree: Tree) -> Tree:
    """Replace the arrays of a tree by their shapes and dtypes."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def zeros(structs: Any, *batch: int) -> Any:
    """Make arrays of zeros like `structs`, with further leading axes."""
    return jax.tree.map(lambda x: jnp.zeros((*batch, *x.shape), x.dtype), structs)


def num_rows(batch: Any) -> int:
    """Return the size of the leading axis that all arrays of a tree share."""
    return jax.tree.leaves(batch)[0].shape[0]


def size_of(struct: Any) -> int:
    """Compute the size of an array in bytes."""
    return math.prod(struct.shape) * struct.dtype.itemsize
