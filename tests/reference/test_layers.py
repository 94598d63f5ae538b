"""The noisy layer of every framework against the formulas of Fortunato et al. 2018, and equal."""

import math
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from tests.frameworks import FRAMEWORKS, NAMES, Arrays, Framework, Keras

from noisydqn.nets.initial import INDEX_DIM, NoiseKind, noise_size

KINDS: list[NoiseKind] = ["factorised", "independent", "indexed"]
P, Q = 5, 3
DRAWS = 40_000 if "KERAS_BACKEND_TESTED" not in os.environ else 4_000  # one by one there

ABS_NORMAL_MEAN = math.sqrt(2 / math.pi)  # of |x|, x a unit normal: also the variance of f(x)

EVERY = pytest.mark.parametrize("framework", FRAMEWORKS.values(), ids=FRAMEWORKS)
OTHERS = pytest.mark.parametrize(
    "framework", [FRAMEWORKS["torch"], FRAMEWORKS["keras"]], ids=["torch", "keras"]
)


def epsilons(
    framework: Framework, kind: NoiseKind, draws: int = DRAWS
) -> tuple[np.ndarray, np.ndarray]:
    """eps_w [draws, q, p] and eps_b [draws, q] of many samples, formed from the layer's output."""
    layer = framework.make(P, Q, kind)
    zero, one = np.zeros((Q, P), np.float32), np.ones((Q, P), np.float32)
    layer = framework.put(layer, dict(zip(NAMES, [zero, one, zero[:, 0], one[:, 0]], strict=True)))
    inputs = np.concatenate([np.zeros((1, P)), np.eye(P)]).astype(np.float32)
    outputs = framework.sampled(layer, inputs, draws)
    bias = outputs[:, 0]
    return np.swapaxes(outputs[:, 1:] - bias[:, None], 1, 2), bias


# Statistics


@EVERY
def test_initial_values_factorised(framework: Framework) -> None:
    values = framework.get(framework.make(400, 300, "factorised"))
    bound = 1 / math.sqrt(400)
    for name in ("weight_mu", "bias_mu"):
        mu = values[name]
        assert np.abs(mu).max() <= bound
        assert np.abs(mu).max() > 0.95 * bound
        # The variance of a uniform variable on ±b is b^2 / 3.
        assert np.var(mu) == pytest.approx(bound**2 / 3, rel=0.15)
    # sigma_0 / sqrt(p) for weights and for biases: not sqrt(q).
    np.testing.assert_allclose(values["weight_sigma"], 0.5 / math.sqrt(400))
    np.testing.assert_allclose(values["bias_sigma"], 0.5 / math.sqrt(400))


@EVERY
def test_initial_values_independent(framework: Framework) -> None:
    values = framework.get(framework.make(400, 300, "independent"))
    bound = math.sqrt(3 / 400)
    assert 0.99 * bound < np.abs(values["weight_mu"]).max() <= bound
    np.testing.assert_allclose(values["weight_sigma"], 0.017)
    np.testing.assert_allclose(values["bias_sigma"], 0.017)


@EVERY
def test_initial_values_indexed(framework: Framework) -> None:
    """Means as with factorised noise; every sigma is normal, so that components of xi differ."""
    values = framework.get(framework.make(400, 300, "indexed"))
    assert 0.95 / math.sqrt(400) < np.abs(values["weight_mu"]).max() <= 1 / math.sqrt(400)
    for name, shape in (("weight_sigma", (300, 400)), ("bias_sigma", (300,))):
        sigma = values[name]
        assert sigma.shape == (*shape, INDEX_DIM)
        deviation = 0.5 / math.sqrt(400)
        np.testing.assert_allclose(sigma.std(), deviation, rtol=8 / math.sqrt(sigma.size))
        assert abs(sigma.mean()) < 5 * deviation / math.sqrt(sigma.size)


@EVERY
@pytest.mark.parametrize("kind", KINDS)
def test_sigma_init_zero_is_respected(framework: Framework, kind: NoiseKind) -> None:
    values = framework.get(framework.make(P, Q, kind, sigma_init=0.0))
    assert not np.any(values["weight_sigma"])
    assert not np.any(values["bias_sigma"])


@EVERY
def test_statistics_of_factorised_noise(framework: Framework) -> None:
    weight, bias = epsilons(framework, "factorised")
    # f(x) = sgn(x) sqrt(|x|) has mean 0, variance v = E|x| = sqrt(2/pi), fourth moment E x^2 = 1.
    v = ABS_NORMAL_MEAN
    four_sigma = 4 / math.sqrt(DRAWS)
    assert np.abs(bias.mean(0)).max() < four_sigma * math.sqrt(v)
    np.testing.assert_allclose(bias.var(0), v, atol=four_sigma * math.sqrt(1 - v**2))
    assert np.abs(weight.mean(0)).max() < four_sigma * v
    np.testing.assert_allclose(weight.var(0), v**2, atol=four_sigma)
    # Entries are uncorrelated, but squares in one row or column are not:
    # cov(w_ji^2, w_jk^2) = E[f^4] E[f^2]^2 - E[f^2]^4 = v^2 - v^4.
    correlations = np.corrcoef(weight.reshape(DRAWS, -1).T) - np.eye(P * Q)
    assert np.abs(correlations).max() < 5 / math.sqrt(DRAWS) * 2
    same_row = np.cov(weight[:, 0, 0] ** 2, weight[:, 0, 1] ** 2)[0, 1]
    assert same_row == pytest.approx(v**2 - v**4, abs=10 / math.sqrt(DRAWS))
    apart = np.cov(weight[:, 0, 0] ** 2, weight[:, 1, 1] ** 2)[0, 1]
    assert apart == pytest.approx(0, abs=10 / math.sqrt(DRAWS))


@EVERY
def test_factorised_noise_is_an_outer_product(framework: Framework) -> None:
    """Catches layers that claim factorised noise but sample independent noise."""
    weight, bias = epsilons(framework, "factorised", draws=50)
    for matrix, vector in zip(weight, bias, strict=True):
        assert np.linalg.matrix_rank(matrix, tol=1e-4) == 1
        # Each column is the bias noise times a number: the outputs' noise is shared.
        np.testing.assert_allclose(matrix * vector[0], np.outer(vector, matrix[0]), atol=1e-4)


@EVERY
def test_statistics_of_independent_noise(framework: Framework) -> None:
    weight, bias = epsilons(framework, "independent")
    flat = np.concatenate([weight.reshape(DRAWS, -1), bias], axis=1)
    bound = 5 / math.sqrt(DRAWS)
    assert np.abs(flat.mean(0)).max() < bound
    np.testing.assert_allclose(flat.var(0), 1, atol=bound * math.sqrt(2))
    assert np.abs(np.corrcoef(flat.T) - np.eye(P * Q + Q)).max() < bound
    assert np.abs(np.corrcoef((flat**2).T) - np.eye(P * Q + Q)).max() < 2 * bound


@EVERY
def test_statistics_of_an_index(framework: Framework) -> None:
    """Uniform on the unit sphere: length 1, mean 0, covariance 1/M times the identity."""
    layer = framework.make(1, INDEX_DIM, "indexed")
    zero, of_bias = np.zeros((INDEX_DIM, 1), np.float32), np.eye(INDEX_DIM, dtype=np.float32)
    arrays = [zero, np.zeros((INDEX_DIM, 1, INDEX_DIM), np.float32), zero[:, 0], of_bias]
    layer = framework.put(layer, dict(zip(NAMES, arrays, strict=True)))
    index = framework.sampled(layer, np.zeros((1, 1), np.float32), DRAWS)[:, 0]
    np.testing.assert_allclose(np.linalg.norm(index, axis=1), 1, rtol=1e-5)
    bound = 5 / math.sqrt(DRAWS * INDEX_DIM)
    assert np.abs(index.mean(0)).max() < bound
    np.testing.assert_allclose(np.cov(index.T), np.eye(INDEX_DIM) / INDEX_DIM, atol=bound)


# Equality


def example(kind: NoiseKind) -> tuple[Arrays, np.ndarray, np.ndarray, np.ndarray]:
    """Parameters, inputs [B, p], normals and cotangents [B, q]."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    index = (INDEX_DIM,) if kind == "indexed" else ()
    drawn = [normal(Q, P), normal(Q, P, *index), normal(Q), normal(Q, *index)]
    values: Arrays = dict(zip(NAMES, drawn, strict=True))
    size = noise_size(P, Q, kind)
    return values, normal(4, P), normal(size), normal(4, Q)


@OTHERS
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("noisy", [True, False])
def test_outputs_equal_those_of_jax(framework: Framework, kind: NoiseKind, noisy: bool) -> None:
    values, x, normals, _ = example(kind)

    def outputs(of: Framework) -> np.ndarray:
        return of.outputs(of.put(of.make(P, Q, kind), values), x, normals if noisy else None)

    np.testing.assert_allclose(outputs(framework), outputs(FRAMEWORKS["jax"]), 1e-6, 1e-6)


@OTHERS
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_those_of_jax(framework: Framework, kind: NoiseKind) -> None:
    values, x, normals, at = example(kind)

    def gradients(of: Framework) -> Arrays:
        return of.gradients(of.put(of.make(P, Q, kind), values), x, normals, at)

    ours, reference = gradients(framework), gradients(FRAMEWORKS["jax"])
    assert ours.keys() == reference.keys() == {*NAMES, "x"}
    for name, gradient in reference.items():
        np.testing.assert_allclose(ours[name], gradient, 1e-6, 1e-6, err_msg=name)


GOOD: dict[str, Any] = {"p": P, "q": Q, "kind": "factorised"}
BAD: list[tuple[dict[str, Any], str]] = [
    ({"q": 0}, "at least one input and one output"),
    ({"kind": "gaussian"}, 'must be "factorised", "independent" or "indexed", got \'gaussian\''),
    ({"sigma_init": -0.1}, "sigma_init must be zero or more, got -0.1"),
    ({"sigma_init": math.nan}, "sigma_init must be zero or more, got nan"),
]


@EVERY
@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_refuses_bad_arguments(
    framework: Framework, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        framework.make(**(GOOD | arguments))


@pytest.mark.skipif("KERAS_BACKEND_TESTED" in os.environ, reason="it is this test that runs them")
def test_keras_passes_with_pytorch_as_its_backend() -> None:
    """All tests of Keras also pass with PyTorch as its backend."""
    assert isinstance(FRAMEWORKS["keras"], Keras)
    environment = {**os.environ, "KERAS_BACKEND": "torch", "KERAS_BACKEND_TESTED": "torch"}
    files = ["tests/reference/test_layers.py", "tests/unit/test_keras.py"]
    command = [sys.executable, "-m", "pytest", *files, "-k", "keras", "-p", "no:cacheprovider"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
