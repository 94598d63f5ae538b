"""The agent: how actions are chosen and how the networks learn from a batch.

Both are pure. `update(learner, batch, key)` needs no environment and can be called on its own:

    learner = agent.init(network)
    learner, td_errors, metrics = agent.update(learner, batch, key)
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import ClassVar

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


def _independent_draws(network: QNetwork, key: PRNGKeyArray) -> list[NetworkNoise]:
    """Three draws, for networks like `network`.

    They are made in a loop because XLA does not fuse across one: it would otherwise compute each
    draw anew for every weight that it enters, and an update would take two thirds more time.
    """
    draws = jax.lax.map(partial(sample_noise, network), jax.random.split(key, 3))
    return [jax.tree.map(lambda x, i=i: x[i], draws) for i in range(3)]


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

    metric_names: ClassVar = (
        *("loss", "q_error", "q_mean", "q_min", "q_max", "gradient_norm"),
        "finite",  # 1 where loss and gradient are finite numbers
    )

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
        self, online: QNetwork, target: QNetwork, batch: Batch, key: PRNGKeyArray
    ) -> tuple[Float[Array, " batch"], Float[Array, "batch actions"]]:
        """The TD error [B] of every transition, and the values [B, A] at its earlier state.

        Noise: one draw for the online network at the earlier state, one for the target network
        and one for the selecting network at the later state, each shared by the whole batch and
        independent of the others (Fortunato et al. 2018, section 3.1).
        """
        s_tm1, a_tm1, r_t, discount_t, s_t = batch.transitions
        online_noise, target_noise, selector_noise = _independent_draws(online, key)
        q_tm1 = values(online, s_tm1, online_noise)
        q_t_value = values(target, s_t, target_noise)
        if self.double:
            q_t_selector = values(jax.lax.stop_gradient(online), s_t, selector_noise)
        else:
            q_t_selector = q_t_value
        errors = jax.vmap(losses.td_error)(q_tm1, a_tm1, r_t, discount_t, q_t_value, q_t_selector)
        return errors, q_tm1

    def update(
        self, learner: LearnerState, batch: Batch, key: PRNGKeyArray
    ) -> tuple[LearnerState, Float[Array, " batch"], Metrics]:
        """One step of gradient descent on a batch, and the target's copy when it is due.

        Returns the learner, the TD errors [B] that set the priorities, and metrics.
        """

        def loss_of(flat: Flat[QNetwork]) -> tuple[Float[Array, ""], tuple[Array, Array]]:
            online = flat.tree
            error, q = self.td_errors(online, learner.target.tree, batch, key)
            penalty = sum(mean_abs_sigma(layer) for layer in noisy_layers(online).values())
            loss = jnp.mean(batch.weights * jax.vmap(self.loss)(error))
            return loss + self.sigma_penalty * penalty, (error, q)

        (loss, (error, q)), gradient = jax.value_and_grad(loss_of, has_aux=True)(learner.online)
        weights = learner.online.vector
        step, optimiser = self.optimiser.update(gradient.vector, learner.optimiser, weights)
        online = learner.online.with_vector(jnp.asarray(optax.apply_updates(weights, step)))
        updates = learner.updates + 1
        target = self._renewed(learner.target, online, updates)
        norm = jnp.sqrt(jnp.vdot(gradient.vector, gradient.vector))
        metrics = {
            "loss": loss,
            "q_error": jnp.mean(jnp.abs(error)),
            "q_mean": jnp.mean(q),
            "q_min": jnp.min(q),
            "q_max": jnp.max(q),
            "gradient_norm": norm,
            "finite": jnp.isfinite(loss + norm).astype(jnp.float32),
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
