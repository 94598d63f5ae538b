"""The computation of a policy with its mean weights, stated once for every format.

`policy_values` walks through a policy and calls an `Operations` for each step. An implementation
either computes the step or records it.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from noisydqn.dimensions import Sizes, firsts
from noisydqn.distributions import Distribution, Expected
from noisydqn.errors import UserError
from noisydqn.export.layers import array, hidden, linear
from noisydqn.export.operations import Ops
from noisydqn.export.torsos import TORSOS
from noisydqn.learner.policy import Policy
from noisydqn.nets.network import QNetwork
from noisydqn.nets.torsos import MixedTorso, Torso
from noisydqn.preprocessing import frames, normalize


def input_structs(policy: Policy, observation: Any) -> Any:
    """Return shape and dtype of a policy's input: an observation, or [frames, ...] of them.

    Of a `Mixed` observation it is one of inputs, with frames of the images.
    """

    def stacked(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        leading = () if policy.frames == 1 else (policy.frames,)
        return jax.ShapeDtypeStruct((*leading, *x.shape), x.dtype)

    return frames.by_kind(stacked, lambda x: x, observation)


def policy_values(policy: Policy, ops: Ops, x: Any, observation: Any, mask: Any = None) -> Any:
    """Compute action values [B, A] of raw observations; with a mask, -infinity if invalid.

    Args:
        policy: the policy to export.
        ops: the operations.
        x: observations [B, ...], or [B, frames, ...] where the policy sees several; of images and
            vectors, a `Mixed` of tensors.
        observation: shape and dtype of one observation, or a `Mixed` of those of its parts.
        mask: the valid actions, bool [B, A]; None without action masks.

    Raises:
        UserError: a torso is not in `TORSOS`, or the distribution has values of another kind.
    """
    network = policy.network
    outputs = _outputs(network, ops, _features(policy, ops, x, observation), mask)
    values = _values(network.distribution, ops, outputs)
    values = ops.reshape(values, (-1, _num_actions(network)))
    return values if mask is None else ops.only(values, mask)


def _features(policy: Policy, ops: Ops, x: Any, observation: Any) -> Any:
    """Compute the torso's features [B, F]."""
    torso, moments = policy.network.torso, policy.moments
    if not isinstance(torso, MixedTorso):
        known = moments if isinstance(moments, normalize.Moments) else None
        return _torso(torso, ops, *_preprocess(policy, ops, x, observation, known))
    parts: list[Any] = []
    for path in sorted(torso.images):
        seen = _preprocess(policy, ops, x.images[path], observation.images[path], None)
        parts.append(_torso(torso.images[path], ops, *seen))
    single = dataclasses.replace(policy, frames=1)
    for path in sorted(torso.vectors):
        known = moments[path] if isinstance(moments, dict) else None
        seen = _preprocess(single, ops, x.vectors[path], observation.vectors[path], known)
        parts.append(_torso(torso.vectors[path], ops, *seen))
    return ops.concatenate(parts, 1)


def _torso(torso: Torso, ops: Ops, x: Any, shape: tuple[int, ...]) -> Any:
    """Compute the features of a torso that sees one array.

    Raises:
        UserError: it is not in `TORSOS`.
    """
    of = TORSOS.get(type(torso))
    if of is None:
        names = ", ".join(kind.__name__ for kind in TORSOS)
        raise UserError(
            f"the torso {type(torso).__name__} cannot be exported: expected one of {names}; "
            "--format safetensors takes any"
        )
    return of(torso, ops, x, shape)


def _preprocess(
    policy: Policy,
    ops: Ops,
    x: Any,
    observation: jax.ShapeDtypeStruct,
    moments: normalize.Moments | None,
) -> tuple[Any, tuple[int, ...]]:
    """Compute a torso's input and its shape."""
    shape = observation.shape
    x = ops.to_float(x)
    if moments is not None:
        deviation = np.sqrt(array(moments.variance) + np.float32(normalize.EPSILON))
        x = ops.subtract(x, ops.constant(array(moments.mean)))
        x = ops.divide(x, ops.constant(deviation))
        x = x if policy.clip is None else ops.clip(x, policy.clip)
    elif observation.dtype == np.uint8:
        x = ops.multiply(x, ops.constant(array(1 / 255)))
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


# Layers: the distribution's outputs [B, A, N] of features


def _num_actions(network: QNetwork) -> int:
    return sum(network.sizes)


def _outputs(network: QNetwork, ops: Ops, x: Any, mask: Any) -> Any:
    """Compute the distribution's outputs [B, A, N], for its acting query if it has queries."""
    layers, norms = network.hidden, network.norms
    query = network.distribution.acting_query()
    if network.embedding is not None and query is not None:
        first = network.embedded_depth
        x = hidden(ops, layers[:first], norms, x)
        layers, norms = layers[first:], norms and norms[first:]
        embedded = array(jax.vmap(network.embedding)(query))
        x = ops.reshape(x, (-1, 1, embedded.shape[1]))
        x = ops.multiply(x, ops.constant(embedded))  # [B, N, features]
    x = hidden(ops, layers, norms, x)
    advantage = hidden(ops, network.advantage_hidden, network.advantage_norms, x)
    advantage = linear(ops, network.advantage, advantage)
    advantage = _by_action(network, ops, advantage, _num_actions(network))
    if network.value is None:
        return advantage
    value = hidden(ops, network.value_hidden, network.value_norms, x)
    value = _by_action(network, ops, linear(ops, network.value, value), 1)
    return ops.add(value, ops.subtract(advantage, _mean_of_valid(network, ops, advantage, mask)))


def _mean_of_valid(network: QNetwork, ops: Ops, advantage: Any, mask: Any) -> Any:
    """Compute the mean [B, 1, N] over the valid actions; with several dimensions [B, A, N]."""
    if len(network.sizes) > 1:
        return ops.concatenate(_means(network.sizes, ops, advantage), 1)
    if mask is None:
        return ops.mean(advantage, 1)
    counted = ops.reshape(ops.to_float(mask), (-1, _num_actions(network), 1))
    return ops.divide(ops.mean(ops.multiply(advantage, counted), 1), ops.mean(counted, 1))


def _means(sizes: Sizes, ops: Ops, advantage: Any) -> list[Any]:
    """Compute the mean of every dimension, once for each of its choices."""
    starts = firsts(sizes)
    parts = (ops.part(advantage, 1, int(i), int(i) + n) for i, n in zip(starts, sizes, strict=True))
    return [mean for n, part in zip(sizes, parts, strict=True) for mean in [ops.mean(part, 1)] * n]


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
    return ops.matmul(ops.softmax(outputs), ops.constant(array(distribution.support)[:, None]))
