"""What a policy computes with its mean weights, said once for every format.

`policy_values` walks through a policy and says each step to an `Operations`: one that computes,
or one that writes the step down. For another torso or head write one function and name it in
`TORSOS` or `HEADS`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import jax
import numpy as np

from noisydqn.build import Policy
from noisydqn.envs import normalise
from noisydqn.errors import UserError
from noisydqn.networks import Conv, ConvTorso, Flatten, NotebookTorso, QNetwork

Tensor = TypeVar("Tensor")


class Operations(Protocol[Tensor]):
    """The steps that a policy is made of, on tensors with a leading batch axis."""

    def constant(self, value: np.ndarray) -> Tensor:
        """An array of the policy."""
        ...

    def to_float(self, x: Tensor) -> Tensor:
        """As float32."""
        ...

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """The sum, with broadcasting, as in the next three."""
        ...

    def subtract(self, x: Tensor, y: Tensor) -> Tensor:
        """The difference."""
        ...

    def multiply(self, x: Tensor, y: Tensor) -> Tensor:
        """The product, element by element."""
        ...

    def divide(self, x: Tensor, y: Tensor) -> Tensor:
        """The quotient."""
        ...

    def clip(self, x: Tensor, bound: float) -> Tensor:
        """Bounded to ±`bound`."""
        ...

    def relu(self, x: Tensor) -> Tensor:
        """What is above zero."""
        ...

    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        """The matrix product [B, p] [p, q]."""
        ...

    def mean(self, x: Tensor) -> Tensor:
        """The mean over the last axis, which stays with size 1."""
        ...

    def transpose(self, x: Tensor, axes: tuple[int, ...]) -> Tensor:
        """The axes in another order."""
        ...

    def reshape(self, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Another shape; the batch axis is -1."""
        ...

    def conv(self, x: Tensor, kernel: np.ndarray, bias: np.ndarray, stride: int) -> Tensor:
        """The convolution of x [B, c, h, w] with a kernel [o, c, k, k], without padding."""
        ...

    def max_pool(self, x: Tensor, size: int) -> Tensor:
        """The maximum of every size x size block of x [B, c, h, w]; what is left over is lost."""
        ...


Ops = Operations[Any]


def policy_values(policy: Policy, ops: Ops, x: Any, observation: jax.ShapeDtypeStruct) -> Any:
    """Action values [B, A] of raw observations.

    Args:
        policy: what is exported.
        ops: what takes the steps.
        x: observations [B, ...], or [B, frames, ...] where the policy sees several.
        observation: shape and type of one.

    Raises:
        UserError: its torso or head is not known here.
    """
    x, shape = _preprocess(policy, ops, x, observation)
    network = policy.network
    torso = _known(TORSOS, network.torso, "torso")
    head = _known(HEADS, network, "network")
    return head(network, ops, torso(network.torso, ops, x, shape))


def _known(functions: dict[type, Any], part: object, what: str) -> Any:
    function = functions.get(type(part))
    if function is None:
        names = ", ".join(kind.__name__ for kind in functions)
        raise UserError(
            f"the {what} {type(part).__name__} cannot be exported: expected one of {names}; "
            "--format safetensors takes any"
        )
    return function


def _array(x: Any) -> np.ndarray:
    return np.asarray(x, np.float32)


def _preprocess(
    policy: Policy, ops: Ops, x: Any, observation: jax.ShapeDtypeStruct
) -> tuple[Any, tuple[int, ...]]:
    """What the network sees, and its shape."""
    shape = observation.shape
    x = ops.to_float(x)
    if policy.moments is not None:
        deviation = np.sqrt(_array(policy.moments.variance) + np.float32(normalise.EPSILON))
        x = ops.subtract(x, ops.constant(_array(policy.moments.mean)))
        x = ops.divide(x, ops.constant(deviation))
        x = x if policy.clip is None else ops.clip(x, policy.clip)
    elif observation.dtype == np.uint8:
        x = ops.multiply(x, ops.constant(_array(1 / 255)))
    if policy.frames == 1:
        return x, shape
    if len(shape) == 1:  # vectors end to end
        return ops.reshape(x, (-1, policy.frames * shape[0])), (policy.frames * shape[0],)
    height, width, channels = (*shape, 1)[:3]
    x = ops.reshape(x, (-1, policy.frames, height, width, channels))
    x = ops.transpose(x, (0, 2, 3, 1, 4))  # images side by side as channels
    merged = (height, width, policy.frames * channels)
    return ops.reshape(x, (-1, *merged)), merged


# Torsos: features [B, F] of what the network sees, x [B, *shape]


def _channels_first(ops: Ops, x: Any, shape: tuple[int, ...]) -> Any:
    x = ops.reshape(x, (-1, *(*shape, 1)[:3]))
    return ops.transpose(x, (0, 3, 1, 2))


def _conv(ops: Ops, conv: Conv, x: Any) -> Any:
    kernel = _array(conv.kernel).transpose(3, 2, 0, 1)
    return ops.conv(x, kernel, _array(conv.bias), conv.stride)


def _features(ops: Ops, x: Any, size: int) -> Any:
    """Images as they lie in JAX, channels last, flattened."""
    return ops.reshape(ops.transpose(x, (0, 2, 3, 1)), (-1, size))


def _flatten(torso: Flatten, ops: Ops, x: Any, shape: tuple[int, ...]) -> Any:
    del shape
    return ops.reshape(x, (-1, torso.out_features))


def _conv_torso(torso: ConvTorso, ops: Ops, x: Any, shape: tuple[int, ...]) -> Any:
    x = _channels_first(ops, x, shape)
    for conv in torso.convs:
        x = ops.relu(_conv(ops, conv, x))
    return _features(ops, x, torso.out_features)


def _notebook_torso(torso: NotebookTorso, ops: Ops, x: Any, shape: tuple[int, ...]) -> Any:
    x = _channels_first(ops, x, shape)
    for conv in (torso.first, torso.second):
        x = ops.relu(ops.max_pool(_conv(ops, conv, x), torso.POOL))
    return _features(ops, x, torso.out_features)


TORSOS: dict[type, Callable[..., Any]] = {
    Flatten: _flatten,
    ConvTorso: _conv_torso,
    NotebookTorso: _notebook_torso,
}


# Networks: action values [B, A] of features


def _linear(ops: Ops, layer: Any, x: Any) -> Any:
    """A noisy layer by its means, or a plain one."""
    noisy = hasattr(layer, "weight_mu")
    weight, bias = (layer.weight_mu, layer.bias_mu) if noisy else (layer.weight, layer.bias)
    product = ops.matmul(x, ops.constant(_array(weight).T.copy()))
    return ops.add(product, ops.constant(_array(bias)))


Q_NETWORK_PARTS = {"torso", "hidden", "advantage", "value"}


def _q_network(network: QNetwork, ops: Ops, x: Any) -> Any:
    parts = {field.name for field in dataclasses.fields(network)}
    if parts != Q_NETWORK_PARTS:
        other = ", ".join(sorted(parts ^ Q_NETWORK_PARTS))
        raise UserError(
            f"a network with {other} cannot be exported; --format safetensors takes any"
        )
    for layer in network.hidden:
        x = ops.relu(_linear(ops, layer, x))
    advantage = _linear(ops, network.advantage, x)
    if network.value is None:
        return advantage
    centred = ops.subtract(advantage, ops.mean(advantage))
    return ops.add(_linear(ops, network.value, x), centred)


HEADS: dict[type, Callable[..., Any]] = {QNetwork: _q_network}
