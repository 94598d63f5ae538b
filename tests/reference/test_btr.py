"""The torso of "Beyond The Rainbow" (Clark et al. 2024) against PyTorch's own layers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from noisydqn.nets.convolutions import Conv
from noisydqn.nets.impala import ImpalaTorso

pytestmark = pytest.mark.slow

STEPS = 200
"""Steps of power iteration in a forward pass, of which PyTorch takes one by default."""


def layer_of(conv: Conv, *, spectral: bool) -> nn.Module:
    """A layer of PyTorch with the weights of one of ours."""
    kernel = torch.from_numpy(np.array(conv.kernel).transpose(3, 2, 0, 1).copy())
    outputs, inputs, size, _ = kernel.shape
    layer = nn.Conv2d(inputs, outputs, size, padding=1)
    layer.weight.data, layer.bias.data = kernel, torch.from_numpy(np.array(conv.bias))  # pyright: ignore[reportOptionalMemberAccess]
    if not spectral:
        return layer
    return parametrizations.spectral_norm(layer, n_power_iterations=STEPS)


class Residual(nn.Module):
    def __init__(self, convs: Any) -> None:
        super().__init__()
        first, second = (layer_of(conv, spectral=True) for conv in convs)
        self.inner = nn.Sequential(nn.ReLU(), first, nn.ReLU(), second)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inner(x)


def twin(torso: ImpalaTorso) -> nn.Module:
    layers: list[nn.Module] = []
    for stage in torso.stages:
        layers += [layer_of(stage.first, spectral=False), nn.MaxPool2d(3, 2, padding=1)]
        layers += map(Residual, stage.blocks)
    return nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveMaxPool2d(6))


def test_features_and_gradients() -> None:
    """The gradient too: PyTorch holds u and v constant as well."""
    torso = ImpalaTorso((41, 54, 2), (5, 4), spectral_norm=True, pool=6, key=jax.random.key(0))
    assert torso.out_features == 6 * 6 * 4
    image = np.random.default_rng(0).normal(size=(41, 54, 2)).astype(np.float32)
    weights = np.random.default_rng(1).normal(size=torso.out_features).astype(np.float32)

    def loss(torso: ImpalaTorso) -> tuple[jax.Array, jax.Array]:
        features = torso(jnp.asarray(image))
        return jnp.sum(weights * features), features

    (_, ours), gradient = jax.value_and_grad(loss, has_aux=True)(torso)
    model = twin(torso)
    channels_first = torch.from_numpy(image.transpose(2, 0, 1).copy())[None]
    theirs = model(channels_first)[0].permute(1, 2, 0).reshape(-1)
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-3, atol=1e-5)
    (torch.from_numpy(weights) * theirs).sum().backward()
    kernels = [x for x in model.parameters() if x.ndim == 4]
    own: list[Any] = []
    for stage in gradient.stages:
        own += [stage.first.kernel, *(conv.kernel for block in stage.blocks for conv in block)]
    assert len(own) == len(kernels) == 10
    for a, b in zip(own, kernels, strict=True):
        assert b.grad is not None
        scale = float(b.grad.abs().max())
        expected = b.grad.numpy().transpose(2, 3, 1, 0)
        np.testing.assert_allclose(a, expected, rtol=1e-3, atol=1e-3 * scale)
