"""Layers of a policy with their mean weights, as operations."""

import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import numpy as np

from noisydqn.export.operations import Ops
from noisydqn.nets.noisy import NoisyLinear


def array(x: Any) -> np.ndarray:
    """Return an array of the policy as float32 of NumPy."""
    return np.asarray(x, np.float32)


def linear(ops: Ops, layer: Any, x: Any) -> Any:
    """Apply a noisy layer with its means, or a plain layer."""
    product = ops.matmul(x, ops.constant(weight(layer).T.copy()))
    bias = layer.bias_mu if isinstance(layer, NoisyLinear) else layer.bias
    return ops.add(product, ops.constant(array(bias)))


def weight(layer: Any) -> np.ndarray:
    """Return the mean weight of a noisy layer, or the weight of a plain layer."""
    return array(layer.weight_mu if isinstance(layer, NoisyLinear) else layer.weight)


def hidden(
    ops: Ops, layers: Sequence[Any], norms: Sequence[eqx.nn.LayerNorm] | None, x: Any
) -> Any:
    """Apply layers, each followed by its normalization, if any, and by ReLU."""
    for i, layer in enumerate(layers):
        x = linear(ops, layer, x)
        if norms is not None:
            x = normalize(ops, norms[i], x)
        x = ops.relu(x)
    return x


def normalize(ops: Ops, norm: eqx.nn.LayerNorm, x: Any) -> Any:
    """Normalize along the last axis."""
    return ops.layer_norm(x, array(norm.weight), array(norm.bias), norm.eps)


def gelu(ops: Ops, x: Any) -> Any:
    """Apply GELU in its approximation x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))."""

    def number(value: float) -> Any:
        return ops.constant(array(value))

    cube = ops.multiply(x, ops.multiply(x, x))
    inner = ops.add(x, ops.multiply(number(0.044715), cube))
    sign = ops.tanh(ops.multiply(number(math.sqrt(2 / math.pi)), inner))
    return ops.multiply(ops.multiply(number(0.5), x), ops.add(number(1), sign))
