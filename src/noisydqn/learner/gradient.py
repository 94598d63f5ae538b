"""One step of gradient descent on a network, and the metrics that every learner reports of it."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from noisydqn.nets.network import QNetwork
from noisydqn.nets.noisy import mean_abs_sigma, noisy_layers, with_sigma
from noisydqn.shards import ONE, Shards
from noisydqn.trees import LARGE, Flat

Metrics = dict[str, Float[Array, ""]]

METRIC_NAMES = (
    *("loss", "q_error", "q_mean", "q_min", "q_max", "gradient_norm"),
    "finite",  # 1 where loss and gradient are finite numbers
)


def no_metrics() -> Flat[Metrics]:
    """Return all metrics as zero, to add up those of updates."""
    return Flat.of({name: np.float32(0) for name in METRIC_NAMES})


class Losses(NamedTuple):
    """The loss of a batch [B] and what is reported beside it."""

    loss: Float[Array, ""]
    error: Float[Array, " batch"]
    q: Float[Array, "batch actions"]  # at the states


@dataclasses.dataclass(frozen=True)
class Descent:
    """Gradient descent on a network.

    Args:
        optimizer: turns gradients into steps.
        sigma_penalty: coefficient of the mean |sigma| of every noisy layer, added to the loss.
        sigma_rate: factor of the optimizer's steps where they change a sigma.
        shards: the devices that batches are divided over, whose gradients are averaged.
    """

    optimizer: optax.GradientTransformation
    sigma_penalty: float
    sigma_rate: float
    shards: Shards = ONE

    def init(self, online: Flat[QNetwork]) -> Any:
        """Make the optimizer's state."""
        return self.optimizer.init(online.arrays)

    def step(
        self, online: Flat[QNetwork], optimizer_state: Any, losses_of: Callable[[QNetwork], Losses]
    ) -> tuple[Flat[QNetwork], Any, Float[Array, " batch"], Metrics]:
        """Take one step.

        Args:
            online: the network.
            optimizer_state: of the optimizer.
            losses_of: computes the loss of a network, on several devices that of a device's share
                of the batch. The loss of the batch is their mean.

        Returns:
            The network, the optimizer's state, the errors [B], and metrics: "q_error" is the mean
            size of those errors, whose kind the distribution defines. Errors are those of the
            share; all else is the same on every device.
        """

        def loss_of(flat: Flat[QNetwork]) -> tuple[Float[Array, ""], tuple[Array, Array]]:
            network = flat.tree
            loss, error, q = losses_of(network)
            if self.sigma_penalty > 0:
                sigmas = [mean_abs_sigma(layer) for layer in noisy_layers(network).values()]
                loss += self.sigma_penalty * sum(sigmas)
            return loss, (error, q)

        (loss, (error, q)), gradient = jax.value_and_grad(loss_of, has_aux=True)(online)
        shards = self.shards
        mean: Any = jax.tree.map(shards.mean, gradient.arrays)
        step, optimizer_state = self.optimizer.update(mean, optimizer_state, online.arrays)
        if (rates := self._rates(online.tree)) is not None:
            step = jax.tree.map(jnp.multiply, step, Flat.of(rates, LARGE).arrays)
        online = online.with_arrays(optax.apply_updates(online.arrays, step))
        squares = [jnp.vdot(x, x) for x in jax.tree.leaves(mean)]
        norm, loss = jnp.sqrt(sum(squares)), shards.mean(loss)
        metrics = {
            "loss": loss,
            "q_error": shards.mean(jnp.mean(jnp.abs(error))),
            "q_mean": shards.mean(jnp.mean(q)),
            "q_min": shards.least(jnp.min(q)),
            "q_max": shards.greatest(jnp.max(q)),
            "gradient_norm": norm,
            "finite": jnp.isfinite(loss + norm).astype(jnp.float32),
        }
        return online, optimizer_state, error, metrics

    def _rates(self, network: QNetwork) -> QNetwork | None:
        """Return what the optimizer's steps are multiplied by; None if all of it is 1.

        The prior stays as it is: weight decay, too, leaves it alone.
        """
        if self.sigma_rate == 1 and network.prior is None:
            return None
        rates = with_sigma(jax.tree.map(jnp.ones_like, network), self.sigma_rate)
        fixed = jax.tree.map(jnp.zeros_like, network.prior)
        return eqx.tree_at(lambda x: x.prior, rates, fixed, is_leaf=lambda x: x is None)
