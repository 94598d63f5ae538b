"""Trees of arrays as one vector, and by name.

A network has about twenty arrays, and the training state holds four trees of its shape. As
vectors they are four arrays. The optimizer and the target update process each in one loop, and a
compiled call takes and returns them in a fraction of the time. Large arrays stay apart: XLA copies
a part of a vector before it multiplies with it.
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

LARGE = 2**16
"""Elements of an array above which a copy of it takes longer than to pass one more array."""


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["vector", "large"],
    meta_fields=["structure", "shapes"],
)
@dataclasses.dataclass(frozen=True)
class Flat(Generic[Tree]):
    """A tree of float32 arrays as one vector; leading axes of the vector are batch axes."""

    vector: Float[jax.Array, "... size"]
    large: tuple[jax.Array, ...]  # arrays that are not part of the vector
    structure: Any
    shapes: tuple[tuple[int, ...], ...]

    @staticmethod
    def of(tree: Tree, most: float = math.inf) -> "Flat[Tree]":
        """Concatenate the arrays of a tree that have at most `most` elements."""
        leaves, structure = jax.tree_util.tree_flatten(tree)
        shapes = tuple(leaf.shape for leaf in leaves)
        parts = [leaf.reshape(-1) for leaf in leaves if leaf.size <= most]
        # NumPy concatenates its own arrays: JAX would compile a program for that.
        of_numpy = all(isinstance(part, np.ndarray) for part in parts)
        joined: Any = (np if of_numpy else jnp).concatenate(parts) if parts else jnp.zeros(0)
        large = tuple(leaf for leaf in leaves if leaf.size > most)
        return Flat(joined, large, structure, shapes)

    @property
    def arrays(self) -> Any:
        """The vector, together with the large arrays if there are any."""
        return (self.vector, *self.large) if self.large else self.vector

    def with_arrays(self, arrays: Any) -> "Flat[Tree]":
        """Return another tree of the same structure."""
        vector, *large = arrays if self.large else (arrays,)
        return dataclasses.replace(self, vector=vector, large=tuple(large))

    def with_vector(self, vector: Float[jax.Array, "... size"]) -> "Flat[Tree]":
        """Return another tree of the same structure."""
        return dataclasses.replace(self, vector=vector)

    @property
    def tree(self) -> Tree:
        """The tree of arrays."""
        batch = self.vector.shape[:-1]
        apart = {array.shape[len(batch) :] for array in self.large}
        small = [shape for shape in self.shapes if shape not in apart]
        sizes = list(map(math.prod, small))
        # One split has one concatenation as its gradient. The gradient of each slice would be a
        # whole vector of zeros to add. NumPy splits its own arrays: JAX would compile that.
        split = np.split if isinstance(self.vector, np.ndarray) else jnp.split
        parts = split(self.vector, list(accumulate(sizes))[:-1], axis=-1) if sizes else []
        shaped = (part.reshape((*batch, *shape)) for part, shape in zip(parts, small, strict=True))
        large = iter(self.large)
        leaves = [next(large if shape in apart else shaped) for shape in self.shapes]
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
