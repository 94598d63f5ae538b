"""The noisy layer for Keras as a layer: modes, models, files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.frameworks import to_numpy  # chooses the backend

from noisydqn.initial import NoiseMode

import keras  # isort: skip

from noisydqn.keras import NoisyDense, noisy_layers, reset_noise, set_mode

X = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)


def applied(layer: Any, x: np.ndarray = X, **kwargs: Any) -> np.ndarray:
    return to_numpy(layer(x, **kwargs))


def two_layers(mode: NoiseMode = "sample") -> Any:
    layers = [NoisyDense(6, "relu", mode=mode), NoisyDense(3, mode=mode)]
    return keras.Sequential([keras.Input((4,)), *layers])


def test_modes() -> None:
    layer = NoisyDense(3)
    assert not np.array_equal(applied(layer), applied(layer))
    layer.mode = "frozen"
    held = applied(layer)
    assert np.array_equal(applied(layer), held)
    layer.reset_noise()
    assert not np.array_equal(applied(layer), held)
    layer.mode = "mean"
    kernel, _, bias, _ = layer.get_weights()
    np.testing.assert_allclose(applied(layer), X @ kernel + bias, 1e-5, 1e-6)


def test_one_draw_is_shared_by_the_batch() -> None:
    outputs = applied(NoisyDense(3), np.ones((2, 5, 4), np.float32))
    assert outputs.shape == (2, 5, 3)
    np.testing.assert_allclose(outputs, np.broadcast_to(outputs[:1, :1], outputs.shape), 1e-6)


def test_training_does_not_turn_noise_on_or_off_unless_asked_to() -> None:
    layer = NoisyDense(3)
    assert not np.array_equal(applied(layer, training=False), applied(layer, training=False))
    following = NoisyDense(3, follow_training=True)
    assert not np.array_equal(applied(following, training=True), applied(following, training=True))
    assert np.array_equal(applied(following, training=False), applied(following))


def test_a_whole_model_by_one_call() -> None:
    model = two_layers()
    assert len(noisy_layers(model)) == 2
    set_mode(model, "frozen")
    held = applied(model)
    assert np.array_equal(applied(model), held)
    reset_noise(model)
    assert not np.array_equal(applied(model), held)
    set_mode(model, "mean")
    assert np.array_equal(applied(model), applied(model))


def test_same_seed_same_noise() -> None:
    one, same, other = (NoisyDense(3, seed=seed) for seed in (1, 1, 2))
    first = applied(one)
    assert np.array_equal(first, applied(same))
    assert not np.array_equal(first, applied(one))
    assert not np.array_equal(first, applied(other))


def test_weights_hold_no_noise() -> None:
    online, target = two_layers("frozen"), two_layers("frozen")
    assert len(online.get_weights()) == 8
    target.set_weights(online.get_weights())
    assert not np.array_equal(applied(online), applied(target))
    set_mode(online, "mean")
    set_mode(target, "mean")
    assert np.array_equal(applied(online), applied(target))


def test_saved_and_loaded(tmp_path: Path) -> None:
    model = two_layers("mean")
    model.save(tmp_path / "model.keras")
    loaded: Any = keras.saving.load_model(tmp_path / "model.keras")
    assert [layer.mode for layer in noisy_layers(loaded)] == ["mean", "mean"]
    assert np.array_equal(applied(loaded), applied(model))


def test_made_anew_from_its_config() -> None:
    layer = NoisyDense(
        3,
        "relu",
        False,
        kernel_regularizer="l2",
        noise="independent",
        sigma_init=0.0,
        mode="frozen",
        follow_training=True,
        seed=5,
        name="head",
    )
    config = layer.get_config()
    again = NoisyDense.from_config(config)
    assert again.get_config() == config
    assert len(again(X).shape) == 2
    assert len(again.get_weights()) == 2
    assert again.sigma_init == 0.0


# Keras' own trainer under PyTorch uses what NumPy 2.4 deprecates.
@pytest.mark.filterwarnings("default")
def test_fit_learns_means_and_sigmas() -> None:
    model = two_layers()
    before = [np.array(x) for x in model.get_weights()]
    model.compile("adam", "mse")
    model.fit(np.tile(X, (16, 1)), np.ones((32, 3)), batch_size=8, verbose=0)
    assert all(np.any(a != b) for a, b in zip(before, model.get_weights(), strict=True))


def test_regularizers_are_of_the_means() -> None:
    layer = NoisyDense(3, kernel_regularizer="l2", bias_regularizer="l2")
    layer(X)
    kernel, _, bias, _ = layer.get_weights()
    losses = sorted(float(to_numpy(x)) for x in layer.losses)
    expected = sorted(0.01 * float(np.sum(x**2)) for x in (kernel, bias))
    np.testing.assert_allclose(losses, expected, 1e-5)


def test_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match='mode must be "sample", "mean" or "frozen", got \'off\''):
        NoisyDense(2, mode="off")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="got 'off'"):
        set_mode(two_layers(), "off")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="whose last axis has a size, got None"):
        NoisyDense(2).build((None, None))
