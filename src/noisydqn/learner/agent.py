"""The agent: how actions are chosen and how the networks learn from a batch.

Both are pure. `update` needs no environment and can be called on its own:

    learner = agent.init(network, key)
    learner, errors, metrics = agent.update(learner, batch, draw_noise(network, key, B))
"""

import dataclasses
from functools import partial
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from noisydqn.distributions.bootstrap import Choice, Greedy, Munchausen
from noisydqn.distributions.heads import Example, ImplicitQuantile, Loss
from noisydqn.nets.network import QNetwork, features
from noisydqn.nets.noisy import NetworkNoise, mean_abs_sigma, noisy_layers, sample_noise
from noisydqn.trees import Flat
from noisydqn.types import Batch, LearnerState

Metrics = dict[str, Float[Array, ""]]


def values(
    network: QNetwork, observations: Float[Array, "batch ..."], noise: NetworkNoise | None
) -> Float[Array, "batch actions"]:
    """Action values of a batch under one shared draw of noise (None: mean weights)."""
    return jax.vmap(network.values, in_axes=(0, None))(features(network.torso, observations), noise)


def returns(
    network: QNetwork,
    observations: Float[Array, "batch ..."],
    noise: NetworkNoise | None,
    fractions: Float[Array, "batch n"] | None,
) -> Float[Array, "batch actions n"]:
    """The head's outputs for a batch under one shared draw of noise.

    `fractions` are those that an implicit quantile network is asked for, else None.
    """
    of_batch = jax.vmap(network.returns, in_axes=(0, None, 0))
    return of_batch(features(network.torso, observations), noise, fractions)


def acting_values(
    network: QNetwork,
    observations: Float[Array, "envs ..."],
    noise: NetworkNoise | None = None,
    *,
    shared: bool = True,
) -> Float[Array, "envs actions"]:
    """Compute the action values in each environment; arguments as of `act`."""
    own = not shared and noise is not None
    return jax.vmap(
        lambda x, draw: network(x, draw, own_noise=own), in_axes=(0, 0 if own else None)
    )(observations, noise)


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
    q = acting_values(network, observations, noise, shared=shared)
    return jnp.argmax(q, axis=-1).astype(jnp.int32)


class UpdateNoise(NamedTuple):
    """What is random in one update: three independent draws, each shared by the whole batch."""

    online: NetworkNoise  # of the network that is trained, at the earlier state
    target: NetworkNoise  # of the target network, which values the later state
    selector: NetworkNoise  # of the network that selects the action there
    fractions: tuple[Float[Array, "batch n"], Float[Array, "batch n"]] | None
    """Of an implicit quantile network, at the earlier and the later state, for each example."""


def draw_noise(network: QNetwork, key: PRNGKeyArray, batch_size: int) -> UpdateNoise:
    """The noise of one update of networks like `network`.

    Draw it outside of the loop that updates: XLA would otherwise compute a draw anew for every
    weight that it enters.
    """
    draws = jax.vmap(partial(sample_noise, network))(jax.random.split(key, 3))
    online, target, selector = (jax.tree.map(lambda x, i=i: x[i], draws) for i in range(3))
    fractions = None
    if isinstance(network.head, ImplicitQuantile):
        fractions = network.head.draw_fractions(jax.random.fold_in(key, 3), batch_size)
    return UpdateNoise(online, target, selector, fractions)


@dataclasses.dataclass(frozen=True)
class Agent:
    """Noisy deep Q-learning. What is learned of returns, and by which loss, is the network's head.

    Args:
        optimizer: what turns gradients into updates.
        double: select the next action with the online network (double Q-learning).
        munchausen: targets of a soft policy with its log-probability as a reward, or None.
        target_period: updates from one renewal of the target network to the next.
        target_rate: how far the target moves to the online network then; 1 is a copy.
        sigma_penalty: coefficient of the mean |sigma| of every noisy layer, added to the loss.
    """

    metric_names: ClassVar = (
        *("loss", "q_error", "q_mean", "q_min", "q_max", "gradient_norm"),
        "finite",  # 1 where loss and gradient are finite numbers
    )

    optimizer: optax.GradientTransformation
    double: bool
    munchausen: Munchausen | None
    target_period: int
    target_rate: float
    sigma_penalty: float

    @classmethod
    def no_metrics(cls) -> Flat[Metrics]:
        """All metrics zero, to add up those of updates."""
        return Flat.of({name: np.float32(0) for name in cls.metric_names})

    def init(self, network: QNetwork, key: PRNGKeyArray) -> LearnerState:
        """The state of a learner that starts from `network`."""
        flat = Flat.of(network)
        return LearnerState(
            online=flat,
            target=flat,
            optimizer=self.optimizer.init(flat.vector),
            updates=jnp.int32(0),
            key=key,
        )

    def losses(
        self, online: QNetwork, target: QNetwork, batch: Batch, noise: UpdateNoise
    ) -> tuple[Loss, Float[Array, "batch actions"]]:
        """The loss and error [B] of every transition, and the values [B, A] at its earlier state.

        The online network at the earlier state, the target network and the selecting network at
        the later one have each a draw of their own (Fortunato et al. 2018, section 3.1).
        """
        s_tm1, a_tm1, r_t, discount_t, s_t = batch.transitions
        head = online.head
        tau_tm1, tau_t = noise.fractions or (None, None)
        returns_tm1 = returns(online, s_tm1, noise.online, tau_tm1)
        returns_t = returns(target, s_t, noise.target, tau_t)
        if self.double:
            q_t_selector = values(jax.lax.stop_gradient(online), s_t, noise.selector)
        elif tau_t is None:
            q_t_selector = jax.vmap(head.values)(returns_t)
        else:  # greed is that of action values, at their own fractions
            q_t_selector = values(target, s_t, noise.target)
        choice: Choice
        if self.munchausen is None:
            choice = jax.vmap(Greedy.of)(q_t_selector)
        else:
            q_tm1 = values(target, s_tm1, noise.target)
            r_t = jax.vmap(self.munchausen.reward)(r_t, q_tm1, a_tm1)
            choice = jax.vmap(self.munchausen.choice)(q_t_selector)
        example = Example(returns_tm1, tau_tm1, a_tm1, r_t, discount_t, returns_t, choice)
        return jax.vmap(head.loss)(example), jax.vmap(head.values)(returns_tm1)

    def update(
        self, learner: LearnerState, batch: Batch, noise: UpdateNoise
    ) -> tuple[LearnerState, Float[Array, " batch"], Metrics]:
        """One step of gradient descent on a batch, and the target's copy when it is due.

        Returns the learner, the errors [B] that set the priorities, and metrics: "q_error" is
        the mean size of those errors, whose kind is the head's.
        """

        def loss_of(flat: Flat[QNetwork]) -> tuple[Float[Array, ""], tuple[Array, Array]]:
            online = flat.tree
            (losses, error), q = self.losses(online, learner.target.tree, batch, noise)
            loss = jnp.mean(batch.weights * losses)
            if self.sigma_penalty > 0:
                sigmas = [mean_abs_sigma(layer) for layer in noisy_layers(online).values()]
                loss += self.sigma_penalty * sum(sigmas)
            return loss, (error, q)

        (loss, (error, q)), gradient = jax.value_and_grad(loss_of, has_aux=True)(learner.online)
        weights = learner.online.vector
        step, optimizer = self.optimizer.update(gradient.vector, learner.optimizer, weights)
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
        learner = LearnerState(online, target, optimizer, updates, learner.key)
        return learner, error, metrics

    def _renewed(
        self, target: Flat[QNetwork], online: Flat[QNetwork], updates: Array
    ) -> Flat[QNetwork]:
        old, new = target.vector, online.vector
        goal = new if self.target_rate == 1 else old + self.target_rate * (new - old)
        if self.target_period > 1:
            goal = jnp.where(updates % self.target_period == 0, goal, old)
        return target.with_vector(goal)
