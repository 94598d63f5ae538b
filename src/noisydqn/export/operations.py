"""The operations of which exported policies consist."""

from typing import Any, Protocol, TypeVar

import numpy as np

Tensor = TypeVar("Tensor")

Padding = tuple[tuple[int, int], tuple[int, int]]
"""Pixels before and after the rows, and before and after the columns."""

NO_PADDING: Padding = ((0, 0), (0, 0))


class Operations(Protocol[Tensor]):
    """The operations that policies need, on tensors with a leading batch axis."""

    def constant(self, value: np.ndarray) -> Tensor:
        """Make a tensor of an array of the policy."""
        ...

    def to_float(self, x: Tensor) -> Tensor:
        """Convert to float32."""
        ...

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """Add, with broadcasting, as in the next three operations."""
        ...

    def subtract(self, x: Tensor, y: Tensor) -> Tensor:
        """Subtract `y` from `x`."""
        ...

    def multiply(self, x: Tensor, y: Tensor) -> Tensor:
        """Multiply element by element."""
        ...

    def divide(self, x: Tensor, y: Tensor) -> Tensor:
        """Divide `x` by `y`."""
        ...

    def clip(self, x: Tensor, bound: float) -> Tensor:
        """Clip to ±`bound`."""
        ...

    def relu(self, x: Tensor) -> Tensor:
        """Replace negative numbers by zero."""
        ...

    def tanh(self, x: Tensor) -> Tensor:
        """Take the hyperbolic tangent."""
        ...

    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        """Multiply matrices, [..., p] by [p, q]."""
        ...

    def mean(self, x: Tensor, axis: int) -> Tensor:
        """Take the mean over an axis, which stays with size 1."""
        ...

    def softmax(self, x: Tensor) -> Tensor:
        """Turn logits along the last axis into probabilities."""
        ...

    def only(self, x: Tensor, mask: Tensor) -> Tensor:
        """Replace `x` by -infinity where the mask, of the same shape, is false."""
        ...

    def layer_norm(self, x: Tensor, weight: np.ndarray, bias: np.ndarray, epsilon: float) -> Tensor:
        """Compute `(x - mean) / sqrt(variance + epsilon) * weight + bias` along the last axis."""
        ...

    def transpose(self, x: Tensor, axes: tuple[int, ...]) -> Tensor:
        """Reorder the axes."""
        ...

    def reshape(self, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Change the shape; the batch axis is -1."""
        ...

    def concatenate(self, parts: list[Tensor], axis: int) -> Tensor:
        """Join tensors along an axis."""
        ...

    def conv(
        self, x: Tensor, kernel: np.ndarray, bias: np.ndarray, stride: int, padding: Padding
    ) -> Tensor:
        """Convolve x [B, c, h, w], padded with zeros, with a kernel [o, c, k, k]."""
        ...

    def max_pool(self, x: Tensor, size: int, stride: int, padding: Padding) -> Tensor:
        """Take the maxima of size x size windows of x [B, c, h, w]; padding is never a maximum."""
        ...

    def part(self, x: Tensor, axis: int, start: int, end: int) -> Tensor:
        """Take an axis from `start` to before `end`."""
        ...

    def max(self, x: Tensor, axis: int) -> Tensor:
        """Take the maximum over an axis, which stays with size 1."""
        ...


Ops = Operations[Any]
