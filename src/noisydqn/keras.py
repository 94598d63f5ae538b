"""The noisy layer for Keras 3 on any backend: `NoisyDense`, in place of `keras.layers.Dense`.

The layer is that of `noisydqn.NoisyLinear` (Fortunato et al. 2018, equation 9): the same
parameters and the same noise give the same outputs and gradients. A Keras layer is called with its
inputs alone, so this layer samples its own noise. Its mode says when; training or evaluation makes
no difference:

| mode | noise |
|---|---|
| `"sample"` | a new sample in every call, shared by the whole batch |
| `"frozen"` | one sample, held until `reset_noise` |
| `"mean"` | none: the mean weights |

A held sample is kept as its seed, beside the seeds that Keras keeps for dropout. No variable holds
noise, so `get_weights` and `set_weights` carry none from one network to another. A compiled
function (`jax.jit`, `tf.function`, `Model.predict`) keeps the mode that it was compiled in.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any

from noisydqn.errors import MissingExtraError
from noisydqn.nets.initial import (
    INDEX_DIM,
    NoiseKind,
    NoiseMode,
    check_mode,
    initial_values,
    noise_size,
)

try:
    import keras
    from keras import ops
except ImportError as error:
    raise MissingExtraError(
        f"noisydqn.keras needs Keras and its backend, and one is not installed ({error}): pip "
        "install 'noisydqn[keras]', and set KERAS_BACKEND to jax, torch or tensorflow"
    ) from error

Tensor = Any

_REFUSED = {
    "lora_rank": "which would freeze mu and learn another weight without noise",
    "lora_alpha": "which belongs to lora_rank",
    "quantization_config": "because quantized weights cannot have noise",
}
"""Arguments of `keras.layers.Dense` that a noisy layer refuses, and why."""


class _HeldSeed(keras.random.SeedGenerator):
    """A seed that gives the same sample until it is replaced."""

    def next(self, ordered: bool = True) -> Tensor:
        """Return the seed without advancing it."""
        del ordered
        return ops.convert_to_tensor(self.state)

    def replace(self, seed: Tensor) -> None:
        """Hold another seed."""
        self.state.assign(seed)


@keras.saving.register_keras_serializable(package="noisydqn")
class NoisyDense(keras.layers.Layer):
    """A dense layer whose weights and biases are `mu + sigma * epsilon`.

    It takes the arguments of `keras.layers.Dense`, in the same order. Those of kernel and bias
    apply to their means, mu. `lora_rank` and quantization are refused.

    Args:
        units: number of outputs, q.
        activation: function of the outputs, or its name.
        use_bias: whether the layer has a bias.
        kernel_initializer: for the kernel's means, with its own seed; None samples them uniformly
            within ±1/sqrt(p) (factorised) or ±sqrt(3/p) (independent).
        bias_initializer: for the biases' means, likewise.
        kernel_regularizer: for the kernel's means.
        bias_regularizer: for the biases' means.
        activity_regularizer: for the outputs.
        kernel_constraint: for the kernel's means.
        bias_constraint: for the biases' means.
        noise: `"factorised"` samples p + q normals for p inputs and multiplies them (equations 10
            and 11); `"independent"` samples p * q + q; `"indexed"` samples a point on the unit
            sphere in M dimensions, which each weight's sigma, [M], is multiplied with.
        index_dim: M of indexed noise.
        sigma_init: for factorised noise sigma_0, so that every sigma starts at
            `sigma_0 / sqrt(p)` (default 0.5); for independent noise the initial sigma (default
            0.017); for indexed noise sigma_0, every sigma is normal with deviation
            `sigma_0 / sqrt(p)` (default 0.5).
        mode: `"sample"`, `"frozen"` or `"mean"`, see above.
        follow_training: if true, the layer uses its means unless it is called with
            `training=True`.
        seed: seed of initial values and noise; None takes a random one. Layers of one seed sample
            the same noise, and so does a clone (`keras.models.clone_model`): give each its own.
        kwargs: arguments of every layer, such as `name`, `dtype` and `trainable`.

    Raises:
        ValueError: a size is not an integer above 0, `sigma_init` is negative, the mode or kind of
            noise is unknown, or an argument of `Dense` is refused.
    """

    def __init__(
        self,
        units: int,
        activation: str | Callable[[Tensor], Tensor] | None = None,
        use_bias: bool = True,
        kernel_initializer: Any = None,
        bias_initializer: Any = None,
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        *,
        noise: NoiseKind = "factorised",
        index_dim: int = INDEX_DIM,
        sigma_init: float | None = None,
        mode: NoiseMode = "sample",
        follow_training: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        for name, reason in _REFUSED.items():
            if kwargs.pop(name, None) is not None:
                raise ValueError(f"NoisyDense does not take {name}, {reason}: leave it out")
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        if isinstance(self.dtype_policy, keras.dtype_policies.QuantizedDTypePolicy):
            raise ValueError(
                f"NoisyDense does not take the quantized dtype {self.dtype_policy.name}: give a "
                'floating-point one, such as "float32" or "mixed_bfloat16"'
            )
        # Refuse invalid arguments before `build`.
        initial_values(1, units, noise, sigma_init, index_dim)
        check_mode(mode)
        self.units, self.use_bias = operator.index(units), use_bias
        function: Any = keras.activations.get(activation)
        self.activation: Callable[[Tensor], Tensor] = function
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        self.noise: NoiseKind = noise
        self.index_dim = index_dim
        self.sigma_init = sigma_init
        self.mode: NoiseMode = mode
        self.follow_training = follow_training
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.held_seed = _HeldSeed(seed)
        self.input_spec = keras.layers.InputSpec(min_ndim=2)
        self.supports_masking = True
        self.in_features = 0  # until it is built

    @property
    def noise_size(self) -> int:
        """Number of normals in one noise sample.

        p + q (factorised), p * q + q (independent) or M (indexed).
        """
        return noise_size(self.in_features, self.units, self.noise, self.index_dim)

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Make the parameters with their initial values."""
        inputs = input_shape[-1]
        if inputs is None:
            raise ValueError("NoisyDense needs inputs whose last axis has a size, got None")
        self.in_features = inputs
        bound, sigma = initial_values(inputs, self.units, self.noise, self.sigma_init)
        index = (self.index_dim,) if self.noise == "indexed" else ()

        def pair(name: str, shape: tuple[int, ...]) -> list[Any]:
            uniform = keras.initializers.RandomUniform(-bound, bound, self.seed_generator)
            given: dict[str, Any] = {
                "initializer": getattr(self, f"{name}_initializer") or uniform,
                "regularizer": getattr(self, f"{name}_regularizer"),
                "constraint": getattr(self, f"{name}_constraint"),
            }
            mu = self.add_weight(name=f"{name}_mu", shape=shape, **given)
            start: Any = keras.initializers.Constant(sigma)
            if self.noise == "indexed":
                start = keras.initializers.RandomNormal(0.0, sigma, self.seed_generator)
            shape = (*shape, *index)
            return [mu, self.add_weight(name=f"{name}_sigma", shape=shape, initializer=start)]

        self.kernel_mu, self.kernel_sigma = pair("kernel", (inputs, self.units))
        self.bias_mu: Any = None
        self.bias_sigma: Any = None
        if self.use_bias:
            self.bias_mu, self.bias_sigma = pair("bias", (self.units,))
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: inputs})
        self.reset_noise()
        self.built = True

    def reset_noise(self) -> None:
        """Hold another noise sample, which the mode `"frozen"` uses."""
        self.held_seed.replace(self.seed_generator.next())

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Apply the layer to `inputs` [..., p] under one noise sample; return [..., q]."""
        check_mode(self.mode)
        if self.mode == "mean" or (self.follow_training and not training):
            return self.apply(inputs, None)
        seed = self.held_seed if self.mode == "frozen" else self.seed_generator
        normals = keras.random.normal((self.noise_size,), dtype=self.compute_dtype, seed=seed)
        return self.apply(inputs, normals)

    def apply(self, inputs: Tensor, normals: Tensor | None) -> Tensor:
        """Apply the layer under given noise; return [..., q].

        Args:
            inputs: [..., p].
            normals: unit normals [noise_size]: of inputs and outputs (factorised), of weights,
                output by output, and biases (independent), or of the index, before it is scaled
                to length 1 (indexed). None uses the means.
        """
        if normals is None:
            kernel, bias = self.kernel_mu, self.bias_mu
        else:
            of_kernel, of_bias = self._deviations(normals)
            kernel = ops.add(self.kernel_mu, of_kernel)
            bias = None if of_bias is None else ops.add(self.bias_mu, of_bias)
        outputs: Tensor = ops.matmul(inputs, kernel)
        return self.activation(outputs if bias is None else ops.add(outputs, bias))

    def _deviations(self, normals: Tensor) -> tuple[Tensor, Tensor | None]:
        """Form what a sample adds to kernel, [p, q] in the kernel's layout, and biases [q]."""
        inputs, outputs = self.in_features, self.units
        kernel, bias = self.kernel_sigma, self.bias_sigma
        if self.noise == "indexed":
            index: Tensor = ops.divide(normals, ops.sqrt(ops.sum(ops.square(normals))))
            of_bias = None if bias is None else ops.matmul(bias, index)
            return ops.matmul(kernel, index), of_bias
        if self.noise == "factorised":
            scaled: Tensor = ops.multiply(ops.sign(normals), ops.sqrt(ops.abs(normals)))
            epsilon, of_outputs = ops.outer(scaled[:inputs], scaled[inputs:]), scaled[inputs:]
        else:
            weight: Tensor = ops.reshape(normals[: inputs * outputs], (outputs, inputs))
            epsilon, of_outputs = ops.transpose(weight), normals[inputs * outputs :]
        of_bias = None if bias is None else ops.multiply(bias, of_outputs)
        return ops.multiply(kernel, epsilon), of_bias

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """Return the shape of the outputs."""
        return (*input_shape[:-1], self.units)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer."""
        return {
            **super().get_config(),
            "units": self.units,
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
            "bias_constraint": keras.constraints.serialize(self.bias_constraint),
            "noise": self.noise,
            "index_dim": self.index_dim,
            "sigma_init": self.sigma_init,
            "mode": self.mode,
            "follow_training": self.follow_training,
            "seed": self.seed,
        }


def noisy_layers(model: keras.layers.Layer) -> list[NoisyDense]:
    """List the noisy layers of a model, or the layer itself."""
    # Keras has no public way to list layers within layers.
    every = model._flatten_layers()  # pyright: ignore[reportPrivateUsage]
    return [layer for layer in every if isinstance(layer, NoisyDense)]


def reset_noise(model: keras.layers.Layer) -> None:
    """Hold another noise sample in every noisy layer of a model, independent of the others."""
    for layer in noisy_layers(model):
        layer.reset_noise()


def set_mode(model: keras.layers.Layer, mode: NoiseMode) -> None:
    """Set the mode of every noisy layer of a model.

    Raises:
        ValueError: the mode is unknown.
    """
    check_mode(mode)
    for layer in noisy_layers(model):
        layer.mode = mode
