"""The noisy layer for Keras 3 on any backend: `NoisyDense`, in place of `keras.layers.Dense`.

The same layer as `noisydqn.NoisyLinear` (Fortunato et al. 2018, equation 9): the same parameters
and the same noise give the same outputs and gradients. A Keras layer is called with its inputs
alone, so this one draws for itself, as its mode says, and never by whether it is training:

| mode | noise |
|---|---|
| `"sample"` | drawn anew in every call, one draw for the whole batch |
| `"frozen"` | the draw that is held, until `reset_noise` |
| `"mean"` | none: the mean weights |

No noise is kept in a variable. What is held is the seed of a draw, beside the seeds that Keras
keeps for dropout: so `get_weights` and `set_weights` carry no noise from one network to another.
A function that was compiled before (`jax.jit`, `tf.function`, `Model.predict`) keeps the mode it
was compiled in.
"""

from collections.abc import Callable, Sequence
from typing import Any

from noisydqn.errors import MissingExtraError
from noisydqn.initial import NoiseKind, NoiseMode, check_mode, initial_values, noise_size

try:
    import keras
    from keras import ops
except ImportError as error:
    raise MissingExtraError(
        f"noisydqn.keras needs Keras and its backend, and one is not installed ({error}): pip "
        "install 'noisydqn[keras]', and set KERAS_BACKEND to jax, torch or tensorflow"
    ) from error

Tensor = Any


class _HeldSeed(keras.random.SeedGenerator):
    """A seed that stays as it is until it is renewed, so that it gives the same draw again."""

    def next(self, ordered: bool = True) -> Tensor:
        """The seed, which is not used up."""
        del ordered
        return ops.convert_to_tensor(self.state)

    def renew(self, seed: Tensor) -> None:
        """Hold another seed."""
        self.state.assign(seed)


@keras.saving.register_keras_serializable(package="noisydqn")
class NoisyDense(keras.layers.Layer):
    """A dense layer whose weights and biases are `mu + sigma * epsilon`.

    Args:
        units: number of outputs, q.
        activation: function of the outputs, or its name.
        use_bias: whether there is a bias.
        kernel_regularizer: of the kernel's means.
        bias_regularizer: of the biases' means.
        noise: `"factorised"` draws p + q normals for p inputs and takes products of them
            (equations 10 and 11); `"independent"` draws p * q + q.
        sigma_init: with factorised noise sigma_0, so that every sigma starts at
            `sigma_0 / sqrt(p)` (default 0.5); with independent noise the starting value itself
            (default 0.017).
        mode: `"sample"`, `"frozen"` or `"mean"`, see above.
        follow_training: if true, the layer uses its means unless it is called with
            `training=True`.
        seed: of initial values and noise; None takes a random one. Layers of one seed draw the
            same noise: give each its own.
        kwargs: as any layer: `name`, `dtype`, `trainable`, `activity_regularizer`.

    Raises:
        ValueError: a size below 1, a negative `sigma_init`, or an unknown mode or kind of noise.
    """

    def __init__(
        self,
        units: int,
        activation: str | Callable[[Tensor], Tensor] | None = None,
        use_bias: bool = True,
        *,
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        noise: NoiseKind = "factorised",
        sigma_init: float | None = None,
        mode: NoiseMode = "sample",
        follow_training: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        initial_values(1, units, noise, sigma_init)  # refuse now what cannot be built
        check_mode(mode)
        self.units, self.use_bias = units, use_bias
        function: Any = keras.activations.get(activation)
        self.activation: Callable[[Tensor], Tensor] = function
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.noise: NoiseKind = noise
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
        """How many normals one draw takes: p + q (factorised) or p * q + q (independent)."""
        return noise_size(self.in_features, self.units, self.noise)

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Make the parameters: `mu` uniform in ±1/sqrt(p) (factorised) or ±sqrt(3/p)."""
        inputs = input_shape[-1]
        if inputs is None:
            raise ValueError("NoisyDense needs inputs whose last axis has a size, got None")
        self.in_features = inputs
        bound, sigma = initial_values(inputs, self.units, self.noise, self.sigma_init)

        def pair(name: str, shape: tuple[int, ...], regularizer: Any) -> list[Any]:
            uniform = keras.initializers.RandomUniform(-bound, bound, self.seed_generator)
            constant = keras.initializers.Constant(sigma)
            mu = self.add_weight(
                name=f"{name}_mu", shape=shape, initializer=uniform, regularizer=regularizer
            )
            return [mu, self.add_weight(name=f"{name}_sigma", shape=shape, initializer=constant)]

        shape = (inputs, self.units)
        self.kernel_mu, self.kernel_sigma = pair("kernel", shape, self.kernel_regularizer)
        self.bias_mu: Any = None
        self.bias_sigma: Any = None
        if self.use_bias:
            self.bias_mu, self.bias_sigma = pair("bias", (self.units,), self.bias_regularizer)
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: inputs})
        self.reset_noise()
        self.built = True

    def reset_noise(self) -> None:
        """Hold another draw, which `"frozen"` uses."""
        self.held_seed.renew(self.seed_generator.next())

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Apply the layer to `inputs` [..., p]; gives [..., q]. All of it shares one draw."""
        check_mode(self.mode)
        if self.mode == "mean" or (self.follow_training and not training):
            return self.apply(inputs, None)
        seed = self.held_seed if self.mode == "frozen" else self.seed_generator
        normals = keras.random.normal((self.noise_size,), dtype=self.compute_dtype, seed=seed)
        return self.apply(inputs, normals)

    def apply(self, inputs: Tensor, normals: Tensor | None) -> Tensor:
        """The outputs [..., q] under noise that is given.

        Args:
            inputs: [..., p].
            normals: unit normals [noise_size]: those of inputs and outputs (factorised), or of
                weights, output by output, and biases (independent). None uses the means.
        """
        if normals is None:
            kernel, bias = self.kernel_mu, self.bias_mu
        else:
            epsilon_kernel, epsilon_bias = self._epsilon(normals)
            kernel = ops.add(self.kernel_mu, ops.multiply(self.kernel_sigma, epsilon_kernel))
            bias = self.bias_mu
            if bias is not None:
                bias = ops.add(bias, ops.multiply(self.bias_sigma, epsilon_bias))
        outputs: Tensor = ops.matmul(inputs, kernel)
        return self.activation(outputs if bias is None else ops.add(outputs, bias))

    def _epsilon(self, normals: Tensor) -> tuple[Tensor, Tensor]:
        """eps_w [p, q], as the kernel lies here, and eps_b [q]."""
        inputs, outputs = self.in_features, self.units
        if self.noise == "factorised":
            scaled: Tensor = ops.multiply(ops.sign(normals), ops.sqrt(ops.abs(normals)))
            return ops.outer(scaled[:inputs], scaled[inputs:]), scaled[inputs:]
        weight: Tensor = ops.reshape(normals[: inputs * outputs], (outputs, inputs))
        return ops.transpose(weight), normals[inputs * outputs :]

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """The shape of the outputs."""
        return (*input_shape[:-1], self.units)

    def get_config(self) -> dict[str, Any]:
        """What makes such a layer anew."""
        return {
            **super().get_config(),
            "units": self.units,
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
            "noise": self.noise,
            "sigma_init": self.sigma_init,
            "mode": self.mode,
            "follow_training": self.follow_training,
            "seed": self.seed,
        }


def noisy_layers(model: keras.layers.Layer) -> list[NoisyDense]:
    """Every noisy layer of a model, or the layer itself."""
    # Keras has no public way to layers within layers.
    every = model._flatten_layers()  # pyright: ignore[reportPrivateUsage]
    return [layer for layer in every if isinstance(layer, NoisyDense)]


def reset_noise(model: keras.layers.Layer) -> None:
    """Hold another draw in every noisy layer of a model, independent of each other."""
    for layer in noisy_layers(model):
        layer.reset_noise()


def set_mode(model: keras.layers.Layer, mode: NoiseMode) -> None:
    """Set the mode of every noisy layer of a model.

    Raises:
        ValueError: it is no mode.
    """
    check_mode(mode)
    for layer in noisy_layers(model):
        layer.mode = mode
