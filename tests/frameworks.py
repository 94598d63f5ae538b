"""One noisy layer in every framework, behind one interface, in NumPy arrays."""

import os
from typing import Any, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import torch

from noisydqn import torch as noisy_torch
from noisydqn.nets import noisy
from noisydqn.nets.initial import NoiseKind

os.environ.setdefault("KERAS_BACKEND", "jax")  # before Keras is imported

import keras

from noisydqn import keras as noisy_keras


def to_numpy(tensor: Any) -> np.ndarray:
    """A tensor of Keras, whatever its backend."""
    return np.asarray(keras.ops.convert_to_numpy(tensor))


NAMES = ("weight_mu", "weight_sigma", "bias_mu", "bias_sigma")

Arrays = dict[str, np.ndarray]
"""By the names above, as in JAX: weights are [q, p]. Gradients have `x` too."""


class Framework(Protocol):
    """A noisy layer of one framework."""

    def make(
        self, p: int, q: int, kind: NoiseKind, sigma_init: float | None = None, seed: int = 0
    ) -> Any:
        """A fresh layer."""
        ...

    def get(self, layer: Any) -> Arrays:
        """Its parameters."""
        ...

    def put(self, layer: Any, values: Arrays) -> Any:
        """The layer with other parameters."""
        ...

    def outputs(self, layer: Any, x: np.ndarray, normals: np.ndarray | None) -> np.ndarray:
        """Outputs [B, q] for x [B, p] under a noise sample; None: the means."""
        ...

    def gradients(self, layer: Any, x: np.ndarray, normals: np.ndarray, at: np.ndarray) -> Arrays:
        """Gradients of sum(at * outputs), at [B, q]."""
        ...

    def sampled(self, layer: Any, x: np.ndarray, draws: int) -> np.ndarray:
        """Outputs [draws, B, q] under the layer's own samples, each shared by the batch."""
        ...


class Jax:
    """`noisydqn.NoisyLinear`."""

    def make(
        self, p: int, q: int, kind: NoiseKind, sigma_init: float | None = None, seed: int = 0
    ) -> noisy.NoisyLinear:
        """As `Framework`."""
        return noisy.NoisyLinear(p, q, noise=kind, sigma_init=sigma_init, key=jax.random.key(seed))

    def get(self, layer: noisy.NoisyLinear) -> Arrays:
        """As `Framework`."""
        return {name: np.asarray(getattr(layer, name)) for name in NAMES}

    def put(self, layer: noisy.NoisyLinear, values: Arrays) -> noisy.NoisyLinear:
        """As `Framework`."""
        new = [jnp.asarray(values[name]) for name in NAMES]
        return eqx.tree_at(lambda m: [getattr(m, name) for name in NAMES], layer, new)

    def _outputs(self, layer: noisy.NoisyLinear, x: Any, normals: Any) -> jax.Array:
        noise = None if normals is None else layer.noise_from_normals(jnp.asarray(normals))
        return jax.vmap(layer, in_axes=(0, None))(x, noise)

    def outputs(
        self, layer: noisy.NoisyLinear, x: np.ndarray, normals: np.ndarray | None
    ) -> np.ndarray:
        """As `Framework`."""
        return np.asarray(self._outputs(layer, jnp.asarray(x), normals))

    def gradients(
        self, layer: noisy.NoisyLinear, x: np.ndarray, normals: np.ndarray, at: np.ndarray
    ) -> Arrays:
        """As `Framework`."""

        def total(of: tuple[noisy.NoisyLinear, jax.Array]) -> jax.Array:
            return jnp.sum(at * self._outputs(of[0], of[1], normals))

        of_layer, of_x = jax.grad(total)((layer, jnp.asarray(x)))
        return {**self.get(of_layer), "x": np.asarray(of_x)}

    def sampled(self, layer: noisy.NoisyLinear, x: np.ndarray, draws: int) -> np.ndarray:
        """As `Framework`."""

        def one(key: jax.Array) -> jax.Array:
            return jax.vmap(layer, in_axes=(0, None))(jnp.asarray(x), layer.sample_noise(key))

        return np.asarray(jax.vmap(one)(jax.random.split(jax.random.key(1), draws)))


class Torch:
    """`noisydqn.torch.NoisyLinear`."""

    def make(
        self, p: int, q: int, kind: NoiseKind, sigma_init: float | None = None, seed: int = 0
    ) -> noisy_torch.NoisyLinear:
        """As `Framework`."""
        generator = torch.Generator().manual_seed(seed)
        return noisy_torch.NoisyLinear(p, q, noise=kind, sigma_init=sigma_init, generator=generator)

    def get(self, layer: noisy_torch.NoisyLinear) -> Arrays:
        """As `Framework`."""
        return {name: value.numpy() for name, value in layer.state_dict().items()}

    def put(self, layer: noisy_torch.NoisyLinear, values: Arrays) -> noisy_torch.NoisyLinear:
        """As `Framework`."""
        layer.load_state_dict({name: torch.tensor(value) for name, value in values.items()})
        return layer

    def outputs(
        self, layer: noisy_torch.NoisyLinear, x: np.ndarray, normals: np.ndarray | None
    ) -> np.ndarray:
        """As `Framework`."""
        layer.mode = "mean" if normals is None else "frozen"
        if normals is not None:
            layer.reset_noise(torch.tensor(normals))
        return layer(torch.tensor(x)).detach().numpy()

    def gradients(
        self, layer: noisy_torch.NoisyLinear, x: np.ndarray, normals: np.ndarray, at: np.ndarray
    ) -> Arrays:
        """As `Framework`."""
        layer.mode = "frozen"
        layer.reset_noise(torch.tensor(normals))
        inputs = torch.tensor(x, requires_grad=True)
        layer.zero_grad()
        (layer(inputs) * torch.tensor(at)).sum().backward()
        gradients = {name: value.grad for name, value in layer.named_parameters()}
        gradients["x"] = inputs.grad
        return {name: x.numpy() for name, x in gradients.items() if x is not None}

    def sampled(self, layer: noisy_torch.NoisyLinear, x: np.ndarray, draws: int) -> np.ndarray:
        """As `Framework`."""
        layer.mode = "sample"
        inputs = torch.tensor(x)
        with torch.no_grad():
            return np.stack([layer(inputs).numpy() for _ in range(draws)])


class Keras:
    """`noisydqn.keras.NoisyDense`, on the backend of the environment."""

    def make(
        self, p: int, q: int, kind: NoiseKind, sigma_init: float | None = None, seed: int = 0
    ) -> noisy_keras.NoisyDense:
        """As `Framework`."""
        layer = noisy_keras.NoisyDense(q, noise=kind, sigma_init=sigma_init, seed=seed)
        layer.build((None, p))
        return layer

    def get(self, layer: noisy_keras.NoisyDense) -> Arrays:
        """As `Framework`."""
        return self._named([to_numpy(x) for x in layer.trainable_variables])

    def _named(self, values: list[np.ndarray]) -> Arrays:
        kernels, biases = [value.swapaxes(0, 1) for value in values[:2]], values[2:]
        return dict(zip(NAMES, [*kernels, *biases], strict=True))

    def put(self, layer: noisy_keras.NoisyDense, values: Arrays) -> noisy_keras.NoisyDense:
        """As `Framework`."""
        arrays = [values[name] for name in NAMES]
        layer.set_weights([*(x.swapaxes(0, 1) for x in arrays[:2]), *arrays[2:]])
        return layer

    def outputs(
        self, layer: noisy_keras.NoisyDense, x: np.ndarray, normals: np.ndarray | None
    ) -> np.ndarray:
        """As `Framework`."""
        given = None if normals is None else keras.ops.convert_to_tensor(normals)
        return to_numpy(layer.apply(keras.ops.convert_to_tensor(x), given))

    def gradients(
        self, layer: noisy_keras.NoisyDense, x: np.ndarray, normals: np.ndarray, at: np.ndarray
    ) -> Arrays:
        """As `Framework`."""
        if keras.backend.backend() == "torch":
            variables = [variable.value for variable in layer.trainable_variables]
            inputs = torch.tensor(x, requires_grad=True)
            total = (layer.apply(inputs, torch.tensor(normals)) * torch.tensor(at)).sum()
            gradients = [g.numpy() for g in torch.autograd.grad(total, [*variables, inputs])]
        else:

            def of(values: list[jax.Array], inputs: jax.Array) -> jax.Array:
                pairs = zip(layer.trainable_variables, values, strict=True)
                with keras.StatelessScope(state_mapping=list(pairs)):
                    return jnp.sum(at * layer.apply(inputs, jnp.asarray(normals)))

            values = [variable.value for variable in layer.trainable_variables]
            of_values, of_x = jax.grad(of, argnums=(0, 1))(values, jnp.asarray(x))
            gradients = [np.asarray(g) for g in (*of_values, of_x)]
        return {**self._named(gradients[:-1]), "x": gradients[-1]}

    def sampled(self, layer: noisy_keras.NoisyDense, x: np.ndarray, draws: int) -> np.ndarray:
        """As `Framework`."""
        layer.mode = "sample"
        if keras.backend.backend() == "torch":
            with torch.no_grad():
                return np.stack([layer(x).numpy() for _ in range(draws)])
        trainable = [variable.value for variable in layer.trainable_variables]
        inputs = jnp.asarray(x)

        def one(seeds: list[jax.Array], _: None) -> tuple[list[jax.Array], jax.Array]:
            called = layer.stateless_call(trainable, seeds, inputs)
            return called[1], called[0]

        seeds = [variable.value for variable in layer.non_trainable_variables]
        return np.asarray(jax.lax.scan(one, seeds, None, draws)[1])


FRAMEWORKS: dict[str, Framework] = {"jax": Jax(), "torch": Torch(), "keras": Keras()}
