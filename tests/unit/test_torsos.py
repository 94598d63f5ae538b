"""Torsos beyond plain convolutions, layer normalization, and where the noise is."""

import sys
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.probes import SMALL

import noisydqn
from noisydqn import Config, UserError, sample_noise
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.nets.impala import halve
from noisydqn.nets.network import QNetwork
from noisydqn.nets.noisy import noisy_layers
from noisydqn.nets.torsos import MLPTorso, UserTorso
from noisydqn.runners import build


def network(shape: tuple[int, ...] = (4,), **options: Any) -> QNetwork:
    spec = EnvironmentSpec(jax.ShapeDtypeStruct(shape, jnp.float32), 3, ("a", "b", "c"))
    return build.make_policy(Config(**options).program, spec, jax.random.key(0)).network


@pytest.mark.parametrize("layer_norm", [False, True])
def test_mlp_written_out(layer_norm: bool) -> None:
    torso = MLPTorso(6, (5, 4), layer_norm=layer_norm, key=jax.random.key(0))
    x = np.linspace(-1, 2, 6).reshape(2, 3).astype(np.float32)
    expected = x.reshape(-1)
    for layer in torso.layers:
        expected = np.asarray(layer.weight) @ expected + np.asarray(layer.bias)
        if layer_norm:
            expected = (expected - expected.mean()) / np.sqrt(expected.var() + 1e-5)
        expected = np.maximum(expected, 0)
    np.testing.assert_allclose(torso(jnp.asarray(x)), expected, rtol=1e-4, atol=1e-5)
    assert torso.out_features == 4


@pytest.mark.parametrize("shape", [(8, 8, 2), (7, 5, 1), (1, 1, 3)])
def test_halving_and_its_gradient(shape: tuple[int, ...]) -> None:
    x = jax.random.normal(jax.random.key(0), shape)

    def reference(x: jax.Array) -> jax.Array:
        padding = ((1, 1), (1, 1), (0, 0))
        window = (3, 3, 1)
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, (2, 2, 1), padding)

    np.testing.assert_array_equal(halve(x), reference(x))
    ours, theirs = (jax.grad(lambda x, f=f: jnp.sum(f(x) ** 2))(x) for f in (halve, reference))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "shape", "features"),
    [
        ({"torso": "mlp"}, (4,), 128),
        ({"torso": "mlp", "torso_widths": (7, 6)}, (4,), 6),
        ({"torso": "impala", "torso_widths": (2, 4)}, (9, 6, 2), 3 * 2 * 4),
    ],
)
def test_torsos_of_a_config(options: dict[str, Any], shape: tuple[int, ...], features: int) -> None:
    made = jax.eval_shape(lambda: network(shape, hidden=(5,), **options))
    assert made.torso.out_features == features
    assert made.hidden[0].in_features == features


def test_layer_norm_in_hidden_layers() -> None:
    made = network(hidden=(6, 5), layer_norm=True, dueling=False)
    noise = sample_noise(made, jax.random.key(1))
    x = expected = jnp.linspace(-1, 1, 4)
    for layer, draw in zip(made.hidden, noise.hidden, strict=True):
        expected = layer(expected, draw)  # pyright: ignore[reportCallIssue]
        expected = (expected - jnp.mean(expected)) / jnp.sqrt(jnp.var(expected) + 1e-5)
        expected = jnp.maximum(expected, 0)
    expected = made.advantage(expected, noise.advantage)  # pyright: ignore[reportCallIssue]
    np.testing.assert_allclose(made(x, noise), expected, rtol=1e-4, atol=1e-5)


def test_noise_in_the_head_alone() -> None:
    everywhere, head = network(hidden=(6, 5)), network(hidden=(6, 5), noise_in="head")
    assert list(noisy_layers(everywhere)) == ["hidden.0", "hidden.1", "advantage", "value"]
    assert list(noisy_layers(head)) == ["advantage", "value"]
    streams = network(hidden=(6,), dueling_hidden=(5,), noise_in="head")
    assert list(noisy_layers(streams)) == ["advantage", "value"]


# A module of the user's

MODULE = """
import equinox as eqx
import jax


def make(shape, key):
    return eqx.nn.MLP(shape[0], 6, 5, 1, activation=jax.nn.tanh, key=key)


def number(shape, key):
    return 3


def matrix(shape, key):
    return eqx.nn.Lambda(lambda x: x[:, None])


class Counter(eqx.Module):
    count: jax.Array

    def __call__(self, x):
        return x


def counter(shape, key):
    return Counter(jax.numpy.int32(0))
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "my_torsos.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_torsos", raising=False)
    import my_torsos  # pyright: ignore[reportMissingImports]

    return my_torsos


def test_a_users_module_is_a_torso(module: Any) -> None:
    torso = UserTorso.make("python:my_torsos.make", (4,), jax.random.key(0))
    x = jnp.linspace(-1, 1, 4)
    expected = module.make((4,), jax.random.key(0))(x)
    np.testing.assert_allclose(torso(x), expected, rtol=1e-6)
    assert torso.out_features == 6
    assert all(eqx.is_array(leaf) for leaf in jax.tree.leaves(torso))


@pytest.mark.slow
def test_a_run_with_a_users_module_is_loaded_again(module: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = SMALL.replace(steps=40, video_seconds=0, evaluation_episodes=2, max_episode_steps=20)
    result = noisydqn.train(config, env="CartPole-v1", torso=module.make, out=out, quiet=True)
    assert isinstance(result.seeds[0].policy.network.torso, UserTorso)
    assert '"torso": "python:my_torsos.make"' in (out / "config.json").read_text()
    assert (
        noisydqn.evaluate(out, episodes=2, trust=True).summary()
        == result.seeds[0].summary["evaluation"]
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "python:my_torsos.nothing names nothing that can be imported"),
        ("number", "made int, expected an equinox.Module that is called with one observation"),
        ("matrix", r"gives \(4, 1\) for an observation of \(4,\), expected a vector"),
        ("counter", "has an array of int32, expected float32"),
    ],
)
@pytest.mark.usefixtures("module")
def test_refuses_what_is_not_a_torso(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        network(torso=f"python:my_torsos.{name}")
    assert "\n" not in str(caught.value)


def test_refuses_a_torso_that_could_not_be_found_again() -> None:
    with pytest.raises(UserError, match="cannot be found again by its name"):
        noisydqn.train(SMALL, torso=lambda shape, key: eqx.nn.Linear(shape[0], 2, key=key))
