"""The agent: how actions are chosen and how the networks learn from a batch.

Both are pure. `update` needs no environment and can be called on its own:

    learner = agent.init(network)
    learner, td_errors, metrics = agent.update(learner, batch, draw_noise(network, key))
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from noisydqn import losses
from noisydqn.flat import Flat
from noisydqn.networks import QNetwork, features
from noisydqn.noisy import NetworkNoise, mean_abs_sigma, noisy_layers, sample_noise
from noisydqn.types import Batch, LearnerState

Metrics = dict[str, Float[Array, ""]]


def values(
    network: QNetwork, observations: Float[Array, "batch ..."], noise: NetworkNoise | None
) -> Float[Array, "batch actions"]:
    """Action values of a batch under one shared draw of noise (None: mean weights)."""
    return jax.vmap(network.values, in_axes=(0, None))(features(network.torso, observations), noise)


def act(
    network: QNetwork,
    observations: Float[Array, "envs ..."],
    noise: NetworkNoise | None,
    *,
    shared: bool,
) -> Int[Array, " envs"]:
    """The greedy action in each environment.

    Args:
        network: the online network.
        observations: one per environment, preprocessed.
        noise: None acts with mean weights. A draw acts noisily: one that all environments share
            if `shared`, else one with a leading axis, a draw of its own for each environment.
        shared: see `noise`.
    """
    own = not shared and noise is not None
    q = jax.vmap(lambda x, draw: network(x, draw, own_noise=own), in_axes=(0, 0 if own else None))(
        observations, noise
    )
    return jnp.argmax(q, axis=-1).astype(jnp.int32)


class UpdateNoise(NamedTuple):
    """The noise of one update: three independent draws, each shared by the whole batch."""

    online: NetworkNoise  # of the network that is trained, at the earlier state
    target: NetworkNoise  # of the target network, which values the later state
    selector: NetworkNoise  # of the network that selects the action there


def draw_noise(network: QNetwork, key: PRNGKeyArray) -> UpdateNoise:
    """The noise of one update of networks like `network`.

    Draw it outside of the loop that updates: XLA would otherwise compute a draw anew for every
    weight that it enters.
    """
    draws = jax.vmap(partial(sample_noise, network))(jax.random.split(key, 3))
    return UpdateNoise(*(jax.tree.map(lambda x, i=i: x[i], draws) for i in range(3)))


@dataclasses.dataclass(frozen=True)
class Agent:
    """Noisy double deep Q-learning.

    Args:
        optimiser: what turns gradients into updates.
        loss: of a TD error, `losses.smooth_l1` or `losses.squared`.
        double: select the next action with the online network (double Q-learning).
        target_period: updates from one renewal of the target network to the next.
        target_rate: how far the target moves to the online network then; 1 is a copy.
        sigma_penalty: coefficient of the mean |sigma| of every noisy layer, added to the loss.
    """

    metric_names: ClassVar = ("loss", "q_error", "q_mean", "gradient_norm")

    optimiser: optax.GradientTransformation
    loss: Callable[[Float[Array, ""]], Float[Array, ""]]
    double: bool
    target_period: int
    target_rate: float
    sigma_penalty: float

    def init(self, network: QNetwork) -> LearnerState:
        """The state of a learner that starts from `network`."""
        flat = Flat.of(network)
        return LearnerState(
            online=flat,
            target=flat,
            optimiser=self.optimiser.init(flat.vector),
            updates=jnp.int32(0),
        )

    def td_errors(
        self, online: QNetwork, target: QNetwork, batch: Batch, noise: UpdateNoise
    ) -> tuple[Float[Array, " batch"], Float[Array, "batch actions"]]:
        """The TD error [B] of every transition, and the values [B, A] at its earlier state.

        The online network at the earlier state, the target network and the selecting network at
        the later one have each a draw of their own (Fortunato et al. 2018, section 3.1).
        """
        s_tm1, a_tm1, r_t, discount_t, s_t = batch.transitions
        q_tm1 = values(online, s_tm1, noise.online)
        q_t_value = values(target, s_t, noise.target)
        if self.double:
            q_t_selector = values(jax.lax.stop_gradient(online), s_t, noise.selector)
        else:
            q_t_selector = q_t_value
        errors = jax.vmap(losses.td_error)(q_tm1, a_tm1, r_t, discount_t, q_t_value, q_t_selector)
        return errors, q_tm1

    def update(
        self, learner: LearnerState, batch: Batch, noise: UpdateNoise
    ) -> tuple[LearnerState, Float[Array, " batch"], Metrics]:
        """One step of gradient descent on a batch, and the target's copy when it is due.

        Returns the learner, the TD errors [B] that set the priorities, and metrics.
        """

        def loss_of(flat: Flat[QNetwork]) -> tuple[Float[Array, ""], tuple[Array, Array]]:
            online = flat.tree
            error, q = self.td_errors(online, learner.target.tree, batch, noise)
            loss = jnp.mean(batch.weights * jax.vmap(self.loss)(error))
            if self.sigma_penalty > 0:
                sigmas = [mean_abs_sigma(layer) for layer in noisy_layers(online).values()]
                loss += self.sigma_penalty * sum(sigmas)
            return loss, (error, q)

        (loss, (error, q)), gradient = jax.value_and_grad(loss_of, has_aux=True)(learner.online)
        weights = learner.online.vector
        step, optimiser = self.optimiser.update(gradient.vector, learner.optimiser, weights)
        online = learner.online.with_vector(jnp.asarray(optax.apply_updates(weights, step)))
        updates = learner.updates + 1
        target = self._renewed(learner.target, online, updates)
        metrics = {
            "loss": loss,
            "q_error": jnp.mean(jnp.abs(error)),
            "q_mean": jnp.mean(q),
            "gradient_norm": jnp.sqrt(jnp.vdot(gradient.vector, gradient.vector)),
        }
        return LearnerState(online, target, optimiser, updates), error, metrics

    def _renewed(
        self, target: Flat[QNetwork], online: Flat[QNetwork], updates: Array
    ) -> Flat[QNetwork]:
        old, new = target.vector, online.vector
        goal = new if self.target_rate == 1 else old + self.target_rate * (new - old)
        if self.target_period > 1:
            goal = jnp.where(updates % self.target_period == 0, goal, old)
        return target.with_vector(goal)
