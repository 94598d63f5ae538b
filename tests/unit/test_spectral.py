"""Spectral normalization against singular value decompositions."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from noisydqn.nets.impala import ImpalaTorso
from noisydqn.nets.spectral import SQUARINGS, largest_singular_value, spectrally_normalized
from noisydqn.nets.torsos import features

pytestmark = pytest.mark.slow


def kernel_of(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.05, shape).astype(np.float32)


def decomposed(kernel: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
    """u, sigma and v of a kernel, with a row of the matrix for each output channel."""
    u, sigma, v = np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]).T.astype(np.float64))
    return u[:, 0], sigma[0], v[0]


@pytest.mark.parametrize(
    "shape", [(3, 3, 32, 32), (3, 3, 64, 64), (1, 1, 4, 2), (1, 1, 2, 6), (2, 2, 1, 1)]
)
def test_the_largest_singular_value(shape: tuple[int, ...]) -> None:
    for seed in range(3):
        kernel = kernel_of(shape, seed)
        sigma = largest_singular_value(jnp.asarray(kernel))
        np.testing.assert_allclose(sigma, decomposed(kernel)[1], rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_kernels_of_any_scale(scale: float) -> None:
    kernel = kernel_of((3, 3, 4, 5)) * np.float32(scale)
    expected = kernel / decomposed(kernel)[1]
    np.testing.assert_allclose(spectrally_normalized(jnp.asarray(kernel)), expected, rtol=1e-4)


def test_equal_singular_values_and_starts_that_are_singular_vectors() -> None:
    identity = 3 * np.eye(4, dtype=np.float32).reshape(1, 1, 4, 4)
    np.testing.assert_allclose(largest_singular_value(jnp.asarray(identity)), 3, rtol=1e-6)
    diagonal = np.diag(np.array([1, 2, -5, 0], np.float32)).reshape(1, 1, 4, 4)
    np.testing.assert_allclose(largest_singular_value(jnp.asarray(diagonal)), 5, rtol=1e-6)


def test_the_gradient_leaves_the_singular_vectors_constant() -> None:
    """Of W / (u^T W v) with u and v fixed: (G - <G, W / sigma> u v^T) / sigma."""
    kernel, g = kernel_of((3, 3, 4, 5)), kernel_of((3, 3, 4, 5), seed=1)
    gradient = jax.grad(lambda k: jnp.sum(g * spectrally_normalized(k)))(jnp.asarray(kernel))
    u, sigma, v = decomposed(kernel)
    outer = np.outer(v, u).reshape(kernel.shape)  # [k * k * c, o], as the kernel
    expected = (g - np.sum(g * kernel) / sigma * outer) / sigma
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-5)


def test_a_kernel_of_zeros() -> None:
    zeros = jnp.zeros((3, 3, 2, 2))
    result, gradient = jax.value_and_grad(lambda k: jnp.sum(spectrally_normalized(k)))(zeros)
    assert result == 0
    assert jnp.all(jnp.isfinite(gradient))


def dots(jaxpr: Any) -> list[Any]:
    """Every product in a program that asks for full precision, its inner programs included."""
    found: list[Any] = []
    for eqn in jaxpr.eqns:
        full = jax.lax.Precision.HIGHEST
        if eqn.primitive.name == "dot_general" and eqn.params["precision"] == (full, full):
            found.append(eqn)
        for part in jax.tree.leaves(eqn.params, is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(part, "jaxpr", part)
            found += dots(inner) if hasattr(inner, "eqns") else []
    return found


def test_a_batch_computes_it_once() -> None:
    torso = ImpalaTorso((9, 9, 2), (3, 4), spectral_norm=True, key=jax.random.key(0))
    batch = 17
    program = jax.make_jaxpr(lambda x: features(torso, x))(jnp.zeros((batch, 9, 9, 2)))
    found = dots(program.jaxpr)
    stages, kernels = 2, 4
    assert len(found) == stages * (1 + SQUARINGS + 3)  # the square, its squares, and u, W and v
    for eqn in found:
        (out,) = eqn.outvars
        assert out.aval.shape[:1] == (kernels,)
        assert batch not in out.aval.shape
