"""Torsos of published agents against XLA's own operations."""

import math
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.exports import with_learned_norms
from tests.probes import SMALL

import noisydqn
from noisydqn import Config, UserError
from noisydqn.envs.encoding import numbered
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.nets import impala
from noisydqn.nets.convolutions import (
    adaptive_max_pool,
    adaptive_windows,
    same_padding,
    window_max,
)
from noisydqn.nets.hadamax import HadamaxTorso
from noisydqn.nets.impala import ImpalaTorso
from noisydqn.nets.network import QNetwork
from noisydqn.nets.spectral import spectrally_normalized
from noisydqn.nets.torsos import ConvTorso, NotebookTorso, Torso, features
from noisydqn.runners import build

pytestmark = pytest.mark.slow

LAYOUT = ("NHWC", "HWIO", "NHWC")


def network(shape: tuple[int, ...], **options: Any) -> QNetwork:
    spec = EnvironmentSpec(jax.ShapeDtypeStruct(shape, jnp.float32), 3, numbered(3))
    return build.make_policy(Config(**options).program, spec, jax.random.key(0)).network


def conv(layer: Any, x: jax.Array, padding: str = "SAME", kernel: Any = None) -> jax.Array:
    kernel = layer.kernel if kernel is None else kernel
    strides = (layer.stride, layer.stride)
    y = jax.lax.conv_general_dilated(x[None], kernel, strides, padding, dimension_numbers=LAYOUT)
    return y[0] + layer.bias


def maximum(x: jax.Array, size: int, stride: int, padding: Any = "SAME") -> jax.Array:
    window, strides = (size, size, 1), (stride, stride, 1)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, strides, padding)


def normalized(norm: Any, x: jax.Array) -> jax.Array:
    """Every pixel by itself."""
    mean = jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean((x - mean) ** 2, axis=-1, keepdims=True)
    return (x - mean) / jnp.sqrt(variance + norm.eps) * norm.weight + norm.bias


# Windows


def test_windows_of_adaptive_pooling() -> None:
    assert adaptive_windows(11, 6) == [(0, 2), (1, 4), (3, 6), (5, 8), (7, 10), (9, 11)]
    assert adaptive_windows(6, 6) == [(i, i + 1) for i in range(6)]
    assert adaptive_windows(2, 6) == [(0, 1), (1, 2)]


@pytest.mark.parametrize(("height", "width"), [(11, 11), (13, 7), (6, 3), (1, 1)])
def test_adaptive_pooling_written_out(height: int, width: int) -> None:
    x = jax.random.normal(jax.random.key(0), (height, width, 2))
    pooled = adaptive_max_pool(x, 6)
    rows, columns = min(height, 6), min(width, 6)
    assert pooled.shape == (rows, columns, 2)

    def window(i: int, number: int, side: int) -> slice:
        return slice(math.floor(i * side / number), math.ceil((i + 1) * side / number))

    for i in range(rows):
        for j in range(columns):
            part = np.asarray(x)[window(i, rows, height), window(j, columns, width)]
            np.testing.assert_array_equal(pooled[i, j], part.max((0, 1)))


@pytest.mark.parametrize(("size", "stride"), [(4, 4), (2, 2), (3, 1), (3, 2), (8, 1), (1, 1)])
@pytest.mark.parametrize("side", [1, 5, 8, 21])
def test_padding_for_windows_of_every_pixel(side: int, size: int, stride: int) -> None:
    around = same_padding(side, size, stride)
    x = jax.random.normal(jax.random.key(0), (side, side, 2))
    padded = jnp.pad(x, (around, around, (0, 0)), constant_values=-jnp.inf)
    np.testing.assert_array_equal(window_max(padded, size, stride), maximum(x, size, stride))


# Normalized convolutions


def test_normalized_convolutions_written_out() -> None:
    layers = ((4, 3, 2), (5, 2, 1))
    torso = with_learned_norms(ConvTorso((9, 8), layers, layer_norm=True, key=jax.random.key(0)))
    image = jax.random.normal(jax.random.key(1), (9, 8))
    x = image[..., None]
    for layer, norm in zip(torso.convs, torso.norms, strict=True):
        x = jnp.maximum(normalized(norm, conv(layer, x, "VALID")), 0)
    np.testing.assert_allclose(torso(image), x.reshape(-1), rtol=1e-3, atol=1e-5)


def test_the_notebooks_normalized_torso_written_out() -> None:
    torso = with_learned_norms(NotebookTorso((27, 30), layer_norm=True, key=jax.random.key(0)))
    image = jax.random.normal(jax.random.key(1), (27, 30))
    x = image[..., None]
    for layer, norm in zip((torso.first, torso.second), torso.norms, strict=True):
        x = jnp.maximum(normalized(norm, maximum(conv(layer, x, "VALID"), 4, 4, "VALID")), 0)
    np.testing.assert_allclose(torso(image), x.reshape(-1), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("torso", ["catcher", "minatar", "nature", "impala", "btr", "notebook"])
def test_hidden_layers_and_convolutions_are_normalized_by_options_of_their_own(torso: str) -> None:
    def norms(**options: Any) -> tuple[int, int]:
        """In the torso, and behind it."""
        made = jax.eval_shape(lambda: network((36, 36), torso=torso, hidden=(5,), **options))
        found = jax.tree.leaves(made, is_leaf=lambda x: isinstance(x, eqx.nn.LayerNorm))
        inside = jax.tree.leaves(made.torso, is_leaf=lambda x: isinstance(x, eqx.nn.LayerNorm))
        of_torso = sum(isinstance(x, eqx.nn.LayerNorm) for x in inside)
        return of_torso, sum(isinstance(x, eqx.nn.LayerNorm) for x in found) - of_torso

    relus = {"catcher": 2, "minatar": 1, "nature": 3, "notebook": 2}.get(torso, 3 * 4 + 1)
    assert norms() == (0, 0)
    assert norms(layer_norm=True) == (0, 1)
    assert norms(torso_layer_norm=True) == (relus, 0)


@pytest.mark.parametrize("torso", ["flat", "mlp", "hadamax", "python:module.make"])
def test_torsos_without_convolutions_to_normalize(torso: str) -> None:
    with pytest.raises(UserError, match=f"--torso-layer-norm and --torso {torso} exclude each"):
        Config(torso=torso, torso_layer_norm=True)


def test_observations_without_convolutions_to_normalize() -> None:
    config = Config(torso_layer_norm=True)
    spec = EnvironmentSpec(jax.ShapeDtypeStruct((4,), jnp.float32), 2, numbered(2))
    message = r"--torso-layer-norm needs convolutions, but observations are \[4\]"
    with pytest.raises(UserError, match=message) as caught:
        build.make_policy(config.program, spec, jax.random.key(0))
    assert "\n" not in str(caught.value)


# Residual torsos


def residual(torso: Any, image: jax.Array) -> jax.Array:
    """An IMPALA torso with all its options."""
    x = image
    for stage in torso.stages:
        x = maximum(conv(stage.first, x), 3, 2, ((1, 1), (1, 1), (0, 0)))
        for block, convs in enumerate(stage.blocks):
            inner = x
            for place, layer in enumerate(convs):
                norm = None if stage.norms is None else stage.norms[2 * block + place]
                inner = jnp.maximum(inner if norm is None else normalized(norm, inner), 0)
                kernel = layer.kernel
                if stage.spectral_norm:
                    kernel = spectrally_normalized(kernel)
                inner = conv(layer, inner, kernel=kernel)
            x = x + inner
    x = jnp.maximum(x if torso.norms is None else normalized(torso.norms[0], x), 0)
    if torso.pool is not None:
        rows, columns = (adaptive_windows(side, torso.pool) for side in x.shape[:2])
        windows = [[jnp.max(x[a:b, c:d], axis=(0, 1)) for c, d in columns] for a, b in rows]
        x = jnp.asarray(windows)
    return x.reshape(-1)


@pytest.mark.parametrize("spectral_norm", [False, True])
@pytest.mark.parametrize("layer_norm", [False, True])
def test_residual_torsos_written_out(layer_norm: bool, spectral_norm: bool) -> None:
    options: dict[str, Any] = {"layer_norm": layer_norm, "spectral_norm": spectral_norm}
    pool = 3 if spectral_norm else None
    torso = with_learned_norms(
        ImpalaTorso((18, 9, 2), (3, 4), pool=pool, key=jax.random.key(0), **options)
    )
    assert torso.out_features == (3 if pool else 5) * 3 * 4
    image = jax.random.normal(jax.random.key(1), (18, 9, 2))
    np.testing.assert_allclose(torso(image), residual(torso, image), rtol=1e-3, atol=1e-4)


def test_the_torso_of_beyond_the_rainbow() -> None:
    """Table of Clark et al. 2024: channels 32, 64, 64 and 6 x 6 maxima of 84 x 84 frames."""
    made: Any = jax.eval_shape(lambda: network((84, 84, 4), torso="btr", hidden=())).torso
    assert made.out_features == 6 * 6 * 64
    assert all(stage.spectral_norm for stage in made.stages)
    channels = [stage.first.kernel.shape[-1] for stage in made.stages]
    assert channels == [2 * x for x in impala.IMPALA_CHANNELS]
    wider: Any = jax.eval_shape(
        lambda: network((84, 84, 4), torso="btr", torso_widths=(64, 128, 128))
    ).torso
    assert wider.out_features == 6 * 6 * 128
    plain: Any = jax.eval_shape(lambda: network((84, 84, 4), torso="impala")).torso
    assert plain.out_features == 11 * 11 * 32
    assert not any(stage.spectral_norm for stage in plain.stages)


# Hadamax


def test_hadamax_written_out() -> None:
    layers = ((3, 8, 4, 4), (5, 4, 2, 2), (4, 3, 3, 1))
    torso: Any = with_learned_norms(HadamaxTorso((21, 10, 2), layers, key=jax.random.key(0)))
    image = x = jax.random.normal(jax.random.key(1), (21, 10, 2))
    for stage, (_, _, pool, stride) in zip(torso.stages, layers, strict=True):
        one, other = (
            jax.nn.gelu(normalized(norm, conv(layer, x)))
            for layer, norm in zip(stage.convs, stage.norms, strict=True)
        )
        x = maximum(one * other, pool, stride)
    assert x.shape == (3, 2, 4)
    assert torso.out_features == 24
    np.testing.assert_allclose(torso(image), x.reshape(-1), rtol=1e-3, atol=1e-4)


def test_hadamax_as_published() -> None:
    torso: Any = network((84, 84, 4), torso="hadamax", hidden=()).torso
    kernels = [[conv.kernel.shape for conv in stage.convs] for stage in torso.stages]
    shapes = [(8, 8, 4, 32), (4, 4, 32, 64), (3, 3, 64, 64)]
    assert kernels == [[shape, shape] for shape in shapes]
    assert torso.out_features == 11 * 11 * 64
    for stage in torso.stages:
        one, other = stage.convs
        assert not np.array_equal(one.kernel, other.kernel)
        fans = one.kernel.size * (1 / one.kernel.shape[2] + 1 / one.kernel.shape[3])
        for layer, norm in zip(stage.convs, stage.norms, strict=True):
            assert not layer.bias.any()
            assert norm.eps == 1e-6
            np.testing.assert_allclose(np.std(layer.kernel), np.sqrt(2 / fans), rtol=0.05)


# In programs and runs


@pytest.mark.parametrize("name", ["btr", "hadamax"])
def test_a_program_of_several_seeds(name: str) -> None:
    """Values and gradients are those of each seed by itself."""

    shape = (29, 28, 2)

    def make(key: jax.Array) -> Torso:
        if name == "hadamax":
            return HadamaxTorso(shape, ((3, 4, 2, 2), (4, 3, 3, 1)), key=key)
        return ImpalaTorso(shape, (3, 4), spectral_norm=True, pool=6, key=key)

    def loss(torso: Torso, x: jax.Array) -> jax.Array:
        return jnp.mean(features(torso, x) ** 2)

    keys = jax.random.split(jax.random.key(0), 3)
    torsos = jax.vmap(make)(keys)
    x = jax.random.normal(
        jax.random.key(1), (3, 2, *((9, 8, 2) if name == "hadamax" else (29, 28, 2)))
    )
    together = jax.jit(jax.vmap(jax.value_and_grad(loss)))(torsos, x)
    one = jax.jit(jax.value_and_grad(loss))
    for seed in range(3):
        alone = one(jax.tree.map(lambda leaf, seed=seed: leaf[seed], torsos), x[seed])
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(a[seed], b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"torso": "btr", "torso_widths": (2, 2, 2), "optimizer": "radam"},
        {"torso": "hadamax", "num_envs": 1},
        {"torso": "catcher", "torso_layer_norm": True},
    ],
    ids=str,
)
def test_a_run_of_two_seeds_is_loaded_again(options: dict[str, Any], tmp_path: Path) -> None:
    config = SMALL.replace(
        **{"env": "noisydqn/Catcher-v0", "steps": 40, "num_seeds": 2, "video_seconds": 0},
        **{"evaluation_episodes": 1, "evaluation_max_steps": 10, **options},
    )
    result = noisydqn.train(config, out=tmp_path / "run", quiet=True)
    for seed in result.seeds:
        loaded = noisydqn.load_policy(seed.folder)
        seen = np.random.default_rng(0).integers(0, 256, (3, 42, 42), np.uint8)
        assert np.isfinite(loaded.values(seen)).all()
        assert seed.summary["updates"] > 0
