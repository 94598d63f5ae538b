"""Spectral normalization of kernels (Miyato et al. 2018), as a function without state.

A kernel is seen as a matrix with a row for each output channel and divided by the matrix's largest
singular value sigma. As in the paper, the gradient flows through sigma = u^T W v but not through
the singular vectors u and v.

The paper keeps u between the updates and improves it by one step of power iteration in each
forward pass, so its u lags behind the weights and its sigma is a little too small. Here nothing is
kept: u is computed anew from the kernel alone, by as many steps as reach the precision of float32.
A network stays a value, its target network and a resumed run compute the same sigma, and training
and evaluation do not differ. Sigma does not depend on observations, so a vmap over them computes
it once.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

SQUARINGS = 8
"""Squarings of W W^T, each of which doubles the steps of power iteration: 2^8 = 256 steps."""


def largest_singular_value(kernel: Float[Array, "k k c o"]) -> Float[Array, ""]:
    """Compute sigma of a kernel, with a row of the matrix for each of its output channels.

    The power iteration is done from all unit vectors at once: column j of (W W^T)^256 is the
    result of 256 steps from the j-th. The unit vector nearest to u, which cannot be orthogonal to
    it, is the one with the largest entry on the diagonal: the matrix tends to u u^T.
    """
    matrix = kernel.reshape(-1, kernel.shape[-1]).T  # [o, k * k * c]
    fixed = jax.lax.stop_gradient(matrix)
    power = _product(fixed, fixed.T)
    for _ in range(SQUARINGS):
        power /= _nonzero(jnp.trace(power))  # the eigenvalues then add up to 1
        power = _product(power, power)
    u = _unit(power[jnp.argmax(jnp.diagonal(power))])
    v = _unit(_product(u, fixed))
    return _product(u, _product(matrix, v))


def spectrally_normalized(kernel: Float[Array, "k k c o"]) -> Float[Array, "k k c o"]:
    """Divide a kernel by its largest singular value; a kernel of zeros stays as it is."""
    return kernel / _nonzero(largest_singular_value(kernel))


def _product(x: Float[Array, "..."], y: Float[Array, "..."]) -> Float[Array, "..."]:
    """Multiply in full float32, which accelerators do not by default."""
    return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)


def _unit(x: Float[Array, " n"]) -> Float[Array, " n"]:
    return x / _nonzero(jnp.linalg.norm(x))


def _nonzero(x: Float[Array, ""]) -> Float[Array, ""]:
    return jnp.where(x > 0, x, 1)
