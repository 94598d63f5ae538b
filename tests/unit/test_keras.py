"""The noisy layer for Keras as a layer: modes, models, files."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.frameworks import to_numpy  # chooses the backend

from noisydqn.nets.initial import NoiseMode

import keras  # isort: skip

from noisydqn.keras import NoisyDense, noisy_layers, reset_noise, set_mode

X = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
# Every layer has 4 outputs, as JAX compiles each operation for each shape of its arguments. Other
# sizes are in tests/reference/test_layers.py.


def applied(layer: Any, x: np.ndarray = X, **kwargs: Any) -> np.ndarray:
    return to_numpy(layer(x, **kwargs))


def two_layers(mode: NoiseMode = "sample") -> Any:
    layers = [NoisyDense(4, "relu", mode=mode), NoisyDense(4, mode=mode)]
    return keras.Sequential([keras.Input((4,)), *layers])


def test_modes() -> None:
    layer = NoisyDense(4)
    assert not np.array_equal(applied(layer), applied(layer))
    layer.mode = "frozen"
    held = applied(layer)
    assert np.array_equal(applied(layer), held)
    layer.reset_noise()
    assert not np.array_equal(applied(layer), held)
    layer.mode = "mean"
    kernel, _, bias, _ = layer.get_weights()
    np.testing.assert_allclose(applied(layer), X @ kernel + bias, 1e-5, 1e-6)


def test_one_sample_is_shared_by_the_batch() -> None:
    outputs = applied(NoisyDense(4), np.ones((2, 5, 4), np.float32))
    assert outputs.shape == (2, 5, 4)
    np.testing.assert_allclose(outputs, np.broadcast_to(outputs[:1, :1], outputs.shape), 1e-6)


def test_training_does_not_turn_noise_on_or_off_unless_asked_to() -> None:
    layer = NoisyDense(4)
    assert not np.array_equal(applied(layer, training=False), applied(layer, training=False))
    following = NoisyDense(4, follow_training=True)
    assert not np.array_equal(applied(following, training=True), applied(following, training=True))
    assert np.array_equal(applied(following, training=False), applied(following))


def test_one_call_sets_a_whole_model() -> None:
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
    one, same, other = (NoisyDense(4, seed=seed) for seed in (1, 1, 2))
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


def test_made_again_from_its_config() -> None:
    layer = NoisyDense(
        4,
        "relu",
        False,
        kernel_initializer="he_normal",
        bias_initializer="zeros",
        kernel_regularizer="l2",
        activity_regularizer="l1",
        kernel_constraint="non_neg",
        bias_constraint="max_norm",
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


def test_made_from_the_config_of_dense() -> None:
    dense = keras.layers.Dense(4, "relu", bias_initializer="ones")
    layer: Any = NoisyDense.from_config(dense.get_config())
    layer(X)
    assert (layer.units, layer.activation) == (4, keras.activations.relu)
    assert to_numpy(layer.bias_mu).tolist() == [1, 1, 1, 1]


def test_takes_the_arguments_of_dense() -> None:
    """In the same order; whatever Keras adds has to be accepted or refused here, too."""

    def arguments(layer: type) -> list[str]:
        return [name for name in inspect.signature(layer.__init__).parameters if name != "kwargs"]

    of_dense = arguments(keras.layers.Dense)
    refused = ["lora_rank", "lora_alpha", "quantization_config"]
    shared = [name for name in of_dense if name not in refused]
    assert arguments(NoisyDense)[: len(shared)] == shared
    make: Any = NoisyDense
    for name in refused:
        assert make(4, **{name: None}).units == 4
        with pytest.raises(ValueError, match=f"does not take {name}, .*: leave it out$"):
            make(4, **{name: 2})


def test_arguments_of_dense_apply_to_the_means() -> None:
    """Initializers as in `Dense`, constraints after each update; sigma starts as ever."""
    layer = NoisyDense(4, None, True, "identity", "ones", kernel_constraint="non_neg")
    layer(X)
    kernel, kernel_sigma, bias, bias_sigma = layer.get_weights()
    assert np.array_equal(kernel, np.eye(4))
    assert np.array_equal(bias, np.ones(4))
    assert (kernel_sigma == 0.25).all()
    assert (bias_sigma == 0.25).all()
    optimizer = keras.optimizers.SGD(1.0)
    optimizer.build(layer.trainable_variables)
    ones = [keras.ops.ones(variable.shape) for variable in layer.trainable_variables]
    optimizer.apply(ones)
    kernel, kernel_sigma, bias, _ = layer.get_weights()
    assert np.array_equal(kernel, np.zeros((4, 4)))
    assert (kernel_sigma == -0.75).all()
    assert (bias == 0).all()


def test_shared_frozen_and_cloned() -> None:
    """A layer that a model uses twice stays one layer in a clone, and frozen."""
    layer = NoisyDense(4, trainable=False)
    inputs = keras.Input((4,))
    model: Any = keras.Model(inputs, layer(layer(inputs)))
    clone: Any = keras.models.clone_model(model)
    for each in (model, clone):
        assert len(noisy_layers(each)) == 1
        assert (len(each.weights), len(each.trainable_variables)) == (4, 0)
    clone.set_weights(model.get_weights())
    assert not np.array_equal(applied(model), applied(clone))  # noise of its own
    set_mode(model, "mean")
    set_mode(clone, "mean")
    assert np.array_equal(applied(model), applied(clone))


def test_fit_learns_means_and_sigmas() -> None:
    model = two_layers()
    before = [np.array(x) for x in model.get_weights()]
    model.compile("adam", "mse")
    model.fit(np.tile(X, (16, 1)), np.ones((32, 4)), batch_size=8, verbose=0)
    assert all(np.any(a != b) for a, b in zip(before, model.get_weights(), strict=True))


def test_regularizers_apply_to_the_means() -> None:
    layer = NoisyDense(4, kernel_regularizer="l2", bias_regularizer="l2")
    layer(X)
    kernel, _, bias, _ = layer.get_weights()
    assert not layer.trainable_variables[1].regularizer
    losses = sorted(float(to_numpy(x)) for x in layer.losses)
    expected = sorted(0.01 * float(np.sum(x**2)) for x in (kernel, bias))
    np.testing.assert_allclose(losses, expected, 1e-5)


def test_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match='mode must be "sample", "mean" or "frozen", got \'off\''):
        NoisyDense(2, mode="off")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="got 'off'"):
        set_mode(two_layers(), "off")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"whole numbers of inputs and outputs, got 2\.5"):
        NoisyDense(2.5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="the quantized dtype int8_from_float32"):
        NoisyDense(2, dtype="int8_from_float32")
    with pytest.raises(ValueError, match="whose last axis has a size, got None"):
        NoisyDense(2).build((None, None))
