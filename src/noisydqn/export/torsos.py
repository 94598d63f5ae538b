"""Torsos as operations: features [B, F] of the network's input x [B, *shape]."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import numpy as np

from noisydqn.export.layers import array, gelu, hidden, normalize
from noisydqn.export.operations import NO_PADDING, Ops, Padding
from noisydqn.nets.convolutions import Conv, adaptive_windows, same_padding
from noisydqn.nets.hadamax import HadamaxTorso
from noisydqn.nets.impala import ImpalaTorso
from noisydqn.nets.torsos import ConvTorso, Flatten, MLPTorso, Norms, NotebookTorso

ONE_AROUND: Padding = ((1, 1), (1, 1))


def _channels_first(ops: Ops, x: Any, shape: tuple[int, ...]) -> Any:
    x = ops.reshape(x, (-1, *(*shape, 1)[:3]))
    return ops.transpose(x, (0, 3, 1, 2))


def _conv(ops: Ops, conv: Conv, x: Any, padding: Padding = NO_PADDING, kernel: Any = None) -> Any:
    """Apply a convolution, with another kernel than its own if one is given."""
    weight = array(conv.kernel if kernel is None else kernel).transpose(3, 2, 0, 1)
    return ops.conv(x, weight, array(conv.bias), conv.stride, padding)


def _normalize(ops: Ops, norm: eqx.nn.LayerNorm, x: Any) -> Any:
    """Normalize the channels of each pixel of x [B, c, h, w]."""
    x = normalize(ops, norm, ops.transpose(x, (0, 2, 3, 1)))
    return ops.transpose(x, (0, 3, 1, 2))


def _relu(ops: Ops, norms: Norms, index: int, x: Any) -> Any:
    """Apply ReLU, after the normalization at `index` if there are any."""
    return ops.relu(x if norms is None else _normalize(ops, norms[index], x))


def _features(ops: Ops, x: Any, size: int) -> Any:
    """Flatten images in JAX's order, channels last."""
    return ops.reshape(ops.transpose(x, (0, 2, 3, 1)), (-1, size))


def _flatten(torso: Flatten, ops: Ops, x: Any, shape: tuple[int, ...]) -> Any:
    del shape
    return ops.reshape(x, (-1, torso.out_features))


def _mlp_torso(torso: MLPTorso, ops: Ops, x: Any, shape: tuple[int, ...]) -> Any:
    x = ops.reshape(x, (-1, int(np.prod(shape))))
    return hidden(ops, torso.layers, torso.norms, x)


def _conv_torso(torso: ConvTorso, ops: Ops, x: Any, shape: tuple[int, ...]) -> Any:
    x = _channels_first(ops, x, shape)
    for i, conv in enumerate(torso.convs):
        x = _relu(ops, torso.norms, i, _conv(ops, conv, x))
    return _features(ops, x, torso.out_features)


def _notebook_torso(torso: NotebookTorso, ops: Ops, x: Any, shape: tuple[int, ...]) -> Any:
    x = _channels_first(ops, x, shape)
    for i, conv in enumerate((torso.first, torso.second)):
        x = ops.max_pool(_conv(ops, conv, x), torso.POOL, torso.POOL, NO_PADDING)
        x = _relu(ops, torso.norms, i, x)
    return _features(ops, x, torso.out_features)


def _impala_torso(torso: ImpalaTorso, ops: Ops, x: Any, shape: tuple[int, ...]) -> Any:
    height, width, _ = (*shape, 1)[:3]
    x = _channels_first(ops, x, shape)
    for stage in torso.stages:
        x = ops.max_pool(_conv(ops, stage.first, x, ONE_AROUND), 3, 2, ONE_AROUND)
        height, width = (height + 1) // 2, (width + 1) // 2
        kernels = stage.kernels()
        for block, convs in enumerate(stage.blocks):
            inner = x
            for i, conv in enumerate(convs, start=2 * block):
                inner = _relu(ops, stage.norms, i, inner)
                inner = _conv(ops, conv, inner, ONE_AROUND, kernels[i])
            x = ops.add(x, inner)
    x = _relu(ops, torso.norms, 0, x)
    if torso.pool is not None:
        for axis, side in ((2, height), (3, width)):
            windows = adaptive_windows(side, torso.pool)
            parts = [ops.max(ops.part(x, axis, *window), axis) for window in windows]
            x = ops.concatenate(parts, axis)
    return _features(ops, x, torso.out_features)


def _hadamax_torso(torso: HadamaxTorso, ops: Ops, x: Any, shape: tuple[int, ...]) -> Any:
    height, width, _ = (*shape, 1)[:3]
    x = _channels_first(ops, x, shape)
    for stage in torso.stages:
        around = _same(height, width, len(stage.convs[0].kernel), 1)
        one, other = (
            gelu(ops, _normalize(ops, norm, _conv(ops, conv, x, around)))
            for conv, norm in zip(stage.convs, stage.norms, strict=True)
        )
        around = _same(height, width, stage.pool, stage.stride)
        x = ops.max_pool(ops.multiply(one, other), stage.pool, stage.stride, around)
        height, width = -(-height // stage.stride), -(-width // stage.stride)
    return _features(ops, x, torso.out_features)


def _same(height: int, width: int, size: int, stride: int) -> Padding:
    return same_padding(height, size, stride), same_padding(width, size, stride)


TORSOS: dict[type, Callable[..., Any]] = {
    Flatten: _flatten,
    MLPTorso: _mlp_torso,
    ConvTorso: _conv_torso,
    NotebookTorso: _notebook_torso,
    ImpalaTorso: _impala_torso,
    HadamaxTorso: _hadamax_torso,
}
