"""The computation of a policy with its mean weights, stated once for every format.

`policy_values` walks through a policy and calls an `Operations` for each step. An implementation
either computes the step or records it. For another torso, write one function and add it to
`TORSOS`.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import equinox as eqx
import jax
import numpy as np

from noisydqn.distributions import Distribution, Expected
from noisydqn.errors import UserError
from noisydqn.learner.policy import Policy
from noisydqn.nets.convolutions import Conv
from noisydqn.nets.network import QNetwork
from noisydqn.nets.noisy import NoisyLinear
from noisydqn.nets.torsos import ConvTorso, Flatten, ImpalaTorso, MLPTorso, NotebookTorso
from noisydqn.preprocessing import normalize

Tensor = TypeVar("Tensor")


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

    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        """Multiply matrices, [..., p] by [p, q]."""
        ...

    def mean(self, x: Tensor, axis: int) -> Tensor:
        """Take the mean over an axis, which stays with size 1."""
        ...

    def softmax(self, x: Tensor) -> Tensor:
        """Turn logits along the last axis into probabilities."""
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

    def conv(
        self, x: Tensor, kernel: np.ndarray, bias: np.ndarray, stride: int, padding: int
    ) -> Tensor:
        """Convolve x [B, c, h, w] with a kernel [o, c, k, k], with `padding` zeros around x."""
        ...

    def max_pool(self, x: Tensor, size: int, stride: int, padding: int) -> Tensor:
        """Take the maxima of size x size windows of x [B, c, h, w]; padding is never a maximum."""
        ...


Ops = Operations[Any]


def input_shape(policy: Policy, observation: jax.ShapeDtypeStruct) -> tuple[int, ...]:
    """Return the shape of a policy's input: an observation, or [frames, ...] of them."""
    frames = () if policy.frames == 1 else (policy.frames,)
    return (*frames, *observation.shape)


def policy_values(policy: Policy, ops: Ops, x: Any, observation: jax.ShapeDtypeStruct) -> Any:
    """Compute action values [B, A] of raw observations.

    Args:
        policy: the policy to export.
        ops: the operations.
        x: observations [B, ...], or [B, frames, ...] where the policy sees several.
        observation: shape and dtype of one observation.

    Raises:
        UserError: the torso is not in `TORSOS`, or the distribution has values of another kind.
    """
    x, shape = _preprocess(policy, ops, x, observation)
    network = policy.network
    torso = TORSOS.get(type(network.torso))
    if torso is None:
        names = ", ".join(kind.__name__ for kind in TORSOS)
        raise UserError(
            f"the torso {type(network.torso).__name__} cannot be exported: expected one of "
            f"{names}; --format safetensors takes any"
        )
    outputs = _outputs(network, ops, torso(network.torso, ops, x, shape))
    values = _values(network.distribution, ops, outputs)
    return ops.reshape(values, (-1, _num_actions(network)))


def _array(x: Any) -> np.ndarray:
    return np.asarray(x, np.float32)


def _preprocess(
    policy: Policy, ops: Ops, x: Any, observation: jax.ShapeDtypeStruct
) -> tuple[Any, tuple[int, ...]]:
    """Compute the network's input and its shape."""
    shape = observation.shape
    x = ops.to_float(x)
    if policy.moments is not None:
        deviation = np.sqrt(_array(policy.moments.variance) + np.float32(normalize.EPSILON))
        x = ops.subtract(x, ops.constant(_array(policy.moments.mean)))
        x = ops.divide(x, ops.constant(deviation))
        x = x if policy.clip is None else ops.clip(x, policy.clip)
    elif observation.dtype == np.uint8:
        x = ops.multiply(x, ops.constant(_array(1 / 255)))
    if policy.frames == 1:
        return x, shape
    if len(shape) <= 1:  # vectors and numbers end to end
        size = policy.frames * int(np.prod(shape))
        return ops.reshape(x, (-1, size)), (size,)
    height, width, channels = (*shape, 1)[:3]
    x = ops.reshape(x, (-1, policy.frames, height, width, channels))
    x = ops.transpose(x, (0, 2, 3, 1, 4))  # images side by side as channels
    merged = (height, width, policy.frames * channels)
    return ops.reshape(x, (-1, *merged)), merged


# Torsos: features [B, F] of the network's input x [B, *shape]


def _channels_first(ops: Ops, x: Any, shape: tuple[int, ...]) -> Any:
    x = ops.reshape(x, (-1, *(*shape, 1)[:3]))
    return ops.transpose(x, (0, 3, 1, 2))


def _conv(ops: Ops, conv: Conv, x: Any, padding: int = 0) -> Any:
    kernel = _array(conv.kernel).transpose(3, 2, 0, 1)
    return ops.conv(x, kernel, _array(conv.bias), conv.stride, padding)


def _features(ops: Ops, x: Any, size: int) -> Any:
    """Flatten images in JAX's order, channels last."""
    return ops.reshape(ops.transpose(x, (0, 2, 3, 1)), (-1, size))


def _flatten(torso: Flatten, ops: Ops, x: Any, shape: tuple[int, ...]) -> Any:
    del shape
    return ops.reshape(x, (-1, torso.out_features))


def _mlp_torso(torso: MLPTorso, ops: Ops, x: Any, shape: tuple[int, ...]) -> Any:
    x = ops.reshape(x, (-1, int(np.prod(shape))))
    return _hidden(ops, torso.layers, torso.norms, x)


def _conv_torso(torso: ConvTorso, ops: Ops, x: Any, shape: tuple[int, ...]) -> Any:
    x = _channels_first(ops, x, shape)
    for conv in torso.convs:
        x = ops.relu(_conv(ops, conv, x))
    return _features(ops, x, torso.out_features)


def _notebook_torso(torso: NotebookTorso, ops: Ops, x: Any, shape: tuple[int, ...]) -> Any:
    x = _channels_first(ops, x, shape)
    for conv in (torso.first, torso.second):
        x = ops.relu(ops.max_pool(_conv(ops, conv, x), torso.POOL, torso.POOL, 0))
    return _features(ops, x, torso.out_features)


def _impala_torso(torso: ImpalaTorso, ops: Ops, x: Any, shape: tuple[int, ...]) -> Any:
    x = _channels_first(ops, x, shape)
    for stage in torso.stages:
        x = ops.max_pool(_conv(ops, stage.first, x, padding=1), 3, 2, 1)
        for one, other in stage.blocks:
            inner = ops.relu(_conv(ops, one, ops.relu(x), padding=1))
            x = ops.add(x, _conv(ops, other, inner, padding=1))
    return _features(ops, ops.relu(x), torso.out_features)


TORSOS: dict[type, Callable[..., Any]] = {
    Flatten: _flatten,
    MLPTorso: _mlp_torso,
    ConvTorso: _conv_torso,
    NotebookTorso: _notebook_torso,
    ImpalaTorso: _impala_torso,
}


# Layers: the distribution's outputs [B, A, N] of features


def _linear(ops: Ops, layer: Any, x: Any) -> Any:
    """Apply a noisy layer with its means, or a plain layer."""
    product = ops.matmul(x, ops.constant(_weight(layer).T.copy()))
    bias = layer.bias_mu if isinstance(layer, NoisyLinear) else layer.bias
    return ops.add(product, ops.constant(_array(bias)))


def _weight(layer: Any) -> np.ndarray:
    return _array(layer.weight_mu if isinstance(layer, NoisyLinear) else layer.weight)


def _hidden(
    ops: Ops, layers: Sequence[Any], norms: Sequence[eqx.nn.LayerNorm] | None, x: Any
) -> Any:
    """Apply layers, each followed by its normalization, if any, and by ReLU."""
    for i, layer in enumerate(layers):
        x = _linear(ops, layer, x)
        if norms is not None:
            norm = norms[i]
            x = ops.layer_norm(x, _array(norm.weight), _array(norm.bias), norm.eps)
        x = ops.relu(x)
    return x


def _num_actions(network: QNetwork) -> int:
    return len(_weight(network.advantage)) // network.distribution.num_outputs


def _outputs(network: QNetwork, ops: Ops, x: Any) -> Any:
    """Compute the distribution's outputs [B, A, N], for its acting query if it has queries."""
    hidden, norms = network.hidden, network.norms
    query = network.distribution.acting_query()
    if network.embedding is not None and query is not None:
        first = network.embedded_depth
        x = _hidden(ops, hidden[:first], norms, x)
        hidden, norms = hidden[first:], norms and norms[first:]
        embedded = _array(jax.vmap(network.embedding)(query))
        x = ops.reshape(x, (-1, 1, embedded.shape[1]))
        x = ops.multiply(x, ops.constant(embedded))  # [B, N, features]
    x = _hidden(ops, hidden, norms, x)
    advantage = _hidden(ops, network.advantage_hidden, network.advantage_norms, x)
    advantage = _linear(ops, network.advantage, advantage)
    advantage = _by_action(network, ops, advantage, _num_actions(network))
    if network.value is None:
        return advantage
    value = _hidden(ops, network.value_hidden, network.value_norms, x)
    value = _by_action(network, ops, _linear(ops, network.value, value), 1)
    return ops.add(value, ops.subtract(advantage, ops.mean(advantage, 1)))


def _by_action(network: QNetwork, ops: Ops, x: Any, actions: int) -> Any:
    """Bring a layer's outputs, [B, actions * N] or [B, N, actions], to [B, actions, N]."""
    if network.embedding is not None:
        return ops.transpose(x, (0, 2, 1))
    return ops.reshape(x, (-1, actions, network.distribution.num_outputs))


# Distributions: action values [B, A, 1] of their outputs [B, A, N]


def _values(distribution: Distribution, ops: Ops, outputs: Any) -> Any:
    """Compute the action values [B, A, 1] of outputs [B, A, N]."""
    if isinstance(distribution, Expected):
        return outputs
    if type(distribution).values is not Distribution.values:
        raise UserError(
            f"the distribution {type(distribution).__name__} cannot be exported: it computes "
            "action values in another way than from its support; --format safetensors takes any"
        )
    if distribution.support is None:
        return ops.mean(outputs, 2)
    return ops.matmul(ops.softmax(outputs), ops.constant(_array(distribution.support)[:, None]))
