"""Convolutions and maxima of one image, in the forms that compile to the fastest programs.

Convolutions are written as patches times a matrix on the CPU, where the gradient of XLA's own
convolution is several times slower inside a compiled loop; elsewhere they are XLA's.
"""

import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


def _space_to_depth(x: Float[Array, "h w c"], block: int) -> Float[Array, "h2 w2 c2"]:
    height, width, channels = x.shape
    x = x.reshape(height // block, block, width // block, block, channels)
    return x.transpose(0, 2, 1, 3, 4).reshape(height // block, width // block, -1)


def _patches(x: Float[Array, "h w c"], size: int, stride: int) -> Float[Array, "oh ow k"]:
    """Every size x size window of `x`, flattened in the order row, column, channel."""
    out_height, out_width = ((side - size) // stride + 1 for side in x.shape[:2])
    windows = [
        x[
            i : i + stride * (out_height - 1) + 1 : stride,
            j : j + stride * (out_width - 1) + 1 : stride,
        ]
        for i in range(size)
        for j in range(size)
    ]
    return jnp.concatenate(windows, axis=-1)


def _conv_as_matmul(
    x: Float[Array, "h w c"], kernel: Float[Array, "k k c o"], stride: int
) -> Float[Array, "oh ow o"]:
    size, _, channels, out_channels = kernel.shape
    if stride == 1 and out_channels < channels:  # products of whole images, then shifts
        out_height, out_width = (side - size + 1 for side in x.shape[:2])
        products = x @ kernel.transpose(2, 0, 1, 3).reshape(channels, -1)
        products = products.reshape(*x.shape[:2], size, size, out_channels)
        shifted = [
            products[i : i + out_height, j : j + out_width, i, j]
            for i in range(size)
            for j in range(size)
        ]
        return jnp.asarray(sum(shifted))
    if stride > 1 and size % stride == 0:  # fewer, larger copies
        kernel = kernel.reshape(size // stride, stride, size // stride, stride, channels, -1)
        kernel = kernel.transpose(0, 2, 1, 3, 4, 5)
        height, width = ((side - size) // stride * stride + size for side in x.shape[:2])
        x = _space_to_depth(x[:height, :width], stride)
        size, stride = size // stride, 1
    patches = _patches(x, size, stride)
    flat = patches.reshape(-1, patches.shape[-1]) @ kernel.reshape(-1, out_channels)
    return flat.reshape(*patches.shape[:2], out_channels)


def _conv_xla(
    x: Float[Array, "h w c"], kernel: Float[Array, "k k c o"], stride: int
) -> Float[Array, "oh ow o"]:
    layout = ("NHWC", "HWIO", "NHWC")
    strides = (stride, stride)
    return jax.lax.conv_general_dilated(
        x[None], kernel, strides, "VALID", dimension_numbers=layout
    )[0]


def conv2d(
    x: Float[Array, "h w c"], kernel: Float[Array, "k k c o"], stride: int
) -> Float[Array, "oh ow o"]:
    """Convolve one image, without padding, the fastest way for the platform it is compiled for."""
    return jax.lax.platform_dependent(
        x,
        kernel,
        cpu=lambda x, kernel: _conv_as_matmul(x, kernel, stride),
        default=lambda x, kernel: _conv_xla(x, kernel, stride),
    )


class Conv(eqx.Module):
    """A convolution with bias. Weights and bias start uniform within ±1/sqrt(fan in)."""

    kernel: Float[Array, "k k c o"]
    bias: Float[Array, " o"]
    stride: int = eqx.field(static=True)

    def __init__(
        self, in_channels: int, out_channels: int, size: int, stride: int, *, key: PRNGKeyArray
    ) -> None:
        bound = 1 / math.sqrt(in_channels * size**2)
        kernel_key, bias_key = jax.random.split(key)
        shape = (size, size, in_channels, out_channels)
        self.kernel = jax.random.uniform(kernel_key, shape, minval=-bound, maxval=bound)
        self.bias = jax.random.uniform(bias_key, (out_channels,), minval=-bound, maxval=bound)
        self.stride = stride

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "oh ow o"]:
        """Convolve one image without padding."""
        return conv2d(x, self.kernel, self.stride) + self.bias


def as_image(x: Float[Array, "..."]) -> Float[Array, "h w c"]:
    """Add a channel axis to an image that has none."""
    return x[..., None] if x.ndim == 2 else x


def max_pool(x: Float[Array, "h w c"], size: int) -> Float[Array, "h2 w2 c"]:
    """Take the maximum of every size x size block; drop rows and columns left over."""
    height, width = (side // size for side in x.shape[:2])
    blocks = x[: height * size, : width * size].reshape(height, size, width, size, -1)
    return jnp.max(blocks, axis=(1, 3))


def window_max(x: Float[Array, "h w c"], size: int, stride: int) -> Float[Array, "h2 w2 c"]:
    """Take the maximum of every `stride`-th size x size window, without padding.

    Written as shifted planes: XLA's own is slow backwards on a CPU.
    """
    height, width = ((side - size) // stride + 1 for side in x.shape[:2])
    planes = [
        x[i : i + stride * (height - 1) + 1 : stride, j : j + stride * (width - 1) + 1 : stride]
        for i in range(size)
        for j in range(size)
    ]
    return functools.reduce(jnp.maximum, planes)


def same_padding(side: int, size: int, stride: int) -> tuple[int, int]:
    """Count the pixels to pad before and after a side, so that ceil(side / stride) windows fit.

    An odd pixel goes after it: a side of 21 with windows of 2 at every second pixel gets (0, 1).
    """
    windows = -(-side // stride)
    padding = max((windows - 1) * stride + size - side, 0)
    return padding // 2, padding - padding // 2


def adaptive_windows(side: int, number: int) -> list[tuple[int, int]]:
    """Return start and end of the windows that cover a side, `number` of them at most.

    Window i of n reaches from floor(i * side / n) to ceil((i + 1) * side / n), as in PyTorch's
    adaptive pooling. Six windows of 11 pixels: (0, 2), (1, 4), (3, 6), (5, 8), (7, 10), (9, 11).
    """
    number = min(side, number)
    return [(i * side // number, -(-(i + 1) * side // number)) for i in range(number)]


def adaptive_max_pool(x: Float[Array, "h w c"], size: int) -> Float[Array, "h2 w2 c"]:
    """Take the maxima of size x size windows that cover the image; a shorter side stays as it is.

    PyTorch's adaptive pooling repeats the pixels of a shorter side instead.
    """
    rows, columns = (adaptive_windows(side, size) for side in x.shape[:2])
    x = jnp.stack([jnp.max(x[start:end], axis=0) for start, end in rows])
    return jnp.stack([jnp.max(x[:, start:end], axis=1) for start, end in columns], axis=1)


def _phases(x: Float[Array, "h w c"], size: int, pool: int) -> dict[tuple[int, int], Array]:
    """Every `pool`-th pixel from each start that a window at some place in a block reaches."""
    height, width = ((side - size + 1) // pool for side in x.shape[:2])
    starts = [(i, j) for i in range(pool + size - 1) for j in range(pool + size - 1)]
    return {
        (i, j): x[i : i + pool * (height - 1) + 1 : pool, j : j + pool * (width - 1) + 1 : pool]
        for i, j in starts
    }


def conv_max_pool(
    x: Float[Array, "h w c"], kernel: Float[Array, "k k c o"], pool: int
) -> Float[Array, "h2 w2 o"]:
    """`max_pool(conv2d(x, kernel, 1), pool)` for few input channels, without the large middle.

    Written as sums over whole planes, which XLA fuses into one loop that keeps only the maximum
    so far: a tenth of the time of a convolution followed by a maximum, whose result is 16 times
    larger than what is kept of it.
    """
    return _differentiable_conv_max_pool(x, kernel, pool)


def _conv_max_pool_forward(
    x: Float[Array, "h w c"], kernel: Float[Array, "k k c o"], pool: int
) -> tuple[Array, tuple[Array, Array, Array]]:
    """The maxima, and what the gradient needs: the place of the first maximum in each block."""
    size, _, channels, _ = kernel.shape
    phases = _phases(x, size, pool)
    terms = [(k, m, c) for k in range(size) for m in range(size) for c in range(channels)]

    def plane(i: int, j: int) -> Array:
        y = sum(phases[i + k, j + m][..., c, None] * kernel[k, m, c] for k, m, c in terms)
        return jnp.asarray(y)

    best = plane(0, 0)
    place = jnp.zeros(best.shape, jnp.int8)
    for index in range(1, pool * pool):
        y = plane(*divmod(index, pool))
        place = jnp.where(y > best, jnp.int8(index), place)
        best = jnp.maximum(y, best)
    return best, (x, kernel, place)


def _conv_max_pool_backward(
    pool: int, saved: tuple[Array, Array, Array], gradient: Float[Array, "h2 w2 o"]
) -> tuple[Array, Array]:
    x, kernel, place = saved
    size, _, channels, out_channels = kernel.shape
    phases = _phases(x, size, pool)
    height, width = gradient.shape[:2]
    x_gradient = jnp.zeros_like(x)
    kernel_gradient = jnp.zeros((size * size * channels, out_channels))
    for i in range(pool):
        for j in range(pool):
            here = jnp.where(place == i * pool + j, gradient, 0).reshape(-1, out_channels)
            seen = [phases[i + k, j + m] for k in range(size) for m in range(size)]
            patches = jnp.concatenate(seen, axis=-1).reshape(-1, size * size * channels)
            kernel_gradient += patches.T @ here
            back = (here @ kernel.reshape(-1, out_channels).T).reshape(
                height, width, size, size, -1
            )
            for k in range(size):
                for m in range(size):
                    rows = slice(i + k, i + k + pool * (height - 1) + 1, pool)
                    columns = slice(j + m, j + m + pool * (width - 1) + 1, pool)
                    x_gradient = x_gradient.at[rows, columns].add(back[:, :, k, m])
    return x_gradient, kernel_gradient.reshape(kernel.shape)


_differentiable_conv_max_pool = jax.custom_vjp(
    lambda x, kernel, pool: _conv_max_pool_forward(x, kernel, pool)[0], nondiff_argnums=(2,)
)
_differentiable_conv_max_pool.defvjp(_conv_max_pool_forward, _conv_max_pool_backward)
