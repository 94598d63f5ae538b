"""The agent: how actions are chosen and how the networks learn from a batch.

Both are pure. `update` needs no environment and can be called by itself:

    learner = agent.init(network, key)
    noise = sample_update_noise(network, key, batch_size)
    learner, errors, metrics = agent.update(learner, batch, noise)
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from noisydqn.distributions import joint
from noisydqn.distributions.base import Example, Loss, Queries
from noisydqn.distributions.bootstrap import Choice, Greedy, Munchausen
from noisydqn.learner.gradient import Descent, Losses, Metrics
from noisydqn.learner.noise_rule import PUBLISHED, NoiseRule
from noisydqn.masks import filled
from noisydqn.nets.network import QNetwork, features
from noisydqn.nets.noisy import (
    NetworkNoise,
    is_shared,
    sample_noise,
)
from noisydqn.shards import ONE, Shards
from noisydqn.trees import LARGE, Flat
from noisydqn.types import Batch, LearnerState, Mixed


def values(
    network: QNetwork,
    observations: Float[Array, "batch ..."] | Mixed,
    noise: NetworkNoise | None,
    masks: Bool[Array, "batch actions"] | None = None,
) -> Float[Array, "batch *d actions"]:
    """Compute the action values of a batch under one shared noise sample (None: mean weights).

    With action masks, those of invalid actions are -infinity.
    """
    of_batch = jax.vmap(network.values, in_axes=(0, None, 0))
    return of_batch(features(network, observations), noise, masks)


def outputs(
    network: QNetwork,
    observations: Float[Array, "batch ..."] | Mixed,
    noise: NetworkNoise | None,
    query: Float[Array, "batch n"] | None,
    masks: Bool[Array, "batch actions"] | None = None,
) -> Float[Array, "batch actions n"]:
    """Compute the distribution's outputs for a batch under one shared noise sample.

    Args:
        network: the network.
        observations: of the batch, preprocessed.
        noise: a shared sample. None uses the mean weights.
        query: a query for each example, if the distribution has queries.
        masks: the valid actions; the outputs of others say nothing. None if all are valid.
    """
    of_batch = jax.vmap(network.outputs, in_axes=(0, None, 0, 0))
    return of_batch(features(network, observations), noise, query, masks)


def acting_values(
    network: QNetwork,
    observations: Float[Array, "envs ..."] | Mixed,
    noise: NetworkNoise | None = None,
    masks: Bool[Array, "envs actions"] | None = None,
) -> Float[Array, "envs *d actions"]:
    """Compute the action values in each environment.

    Args:
        network: the online network.
        observations: one per environment, preprocessed.
        noise: a noise sample that all environments share or, sampled with `shared=False`, samples
            with a leading axis, one for each environment. None uses the mean weights.
        masks: the valid actions; the value of others is -infinity. None if all are valid.
    """
    of_envs = jax.vmap(network, in_axes=(0, None if is_shared(noise) else 0, 0))
    return of_envs(observations, noise, masks)


def acting_outputs(
    network: QNetwork,
    observations: Float[Array, "envs ..."] | Mixed,
    noise: NetworkNoise | None = None,
    masks: Bool[Array, "envs actions"] | None = None,
) -> Float[Array, "envs actions n"]:
    """Compute the distribution's outputs that `acting_values` takes its values from.

    XLA computes what is common to both only once.
    """
    query = network.distribution.acting_query()

    def of_one(x: Any, noise: NetworkNoise | None, mask: Array | None) -> Array:
        return network.outputs(network.features(x), noise, query, mask)

    of_envs = jax.vmap(of_one, in_axes=(0, None if is_shared(noise) else 0, 0))
    return of_envs(observations, noise, masks)


def reported_values(
    network: QNetwork,
    outputs: Float[Array, "batch actions n"],
    masks: Bool[Array, "batch actions"] | None,
) -> Float[Array, "batch values"]:
    """Compute action values for metrics: their mean, least and greatest are those of all actions.

    With several dimensions they are those of the n joint actions that take the lowest choice in
    each, the next, and so on to the highest.
    """
    q = jax.vmap(network.values_of)(outputs)
    if len(network.sizes) == 1:
        return filled(q, masks)
    return jnp.mean(jnp.sort(filled(q, jnp.isfinite(q)), axis=-1), axis=-2)


class UpdateNoise(NamedTuple):
    """The randomness of one update: noise samples, each shared by the batch.

    Of several samples for each network, [K, ...].
    """

    online: NetworkNoise  # of the network that is trained, at the state
    target: NetworkNoise  # of the target network, which values the next state
    selector: NetworkNoise  # of the network that selects the action there
    queries: Queries | None  # of the distribution, if it has any


def sample_update_noise(
    network: QNetwork,
    key: PRNGKeyArray,
    batch_size: int,
    noise: NoiseRule = PUBLISHED,
    shards: Shards = ONE,
) -> UpdateNoise:
    """Sample the randomness of one update of networks like `network`.

    All devices that share a batch have the same noise samples. Each has queries of its own, for
    `batch_size` examples.

    Sample outside of the loop that updates: XLA would otherwise compute a sample anew for every
    weight that it enters.
    """
    query_key = shards.own_key(jax.random.fold_in(key, 3))
    queries = network.distribution.sample_queries(query_key, batch_size)
    if noise.mean:
        return UpdateNoise(None, None, None, queries)

    def of_one(key: PRNGKeyArray) -> tuple[NetworkNoise, NetworkNoise, NetworkNoise]:
        """Sample for the three networks."""
        if noise.matched:
            sample = sample_noise(network, key)
            return sample, sample, sample
        samples = jax.vmap(partial(sample_noise, network))(jax.random.split(key, 3))
        online, target, selector = (jax.tree.map(lambda x, i=i: x[i], samples) for i in range(3))
        return online, target, selector

    if noise.samples == 1:
        return UpdateNoise(*of_one(key), queries)
    return UpdateNoise(*jax.vmap(of_one)(jax.random.split(key, noise.samples)), queries)


@dataclasses.dataclass(frozen=True)
class Agent:
    """Noisy deep Q-learning. The network's distribution says what is learned, and by which loss.

    Args:
        descent: takes the steps.
        double: select the next action with the online network (double Q-learning).
        munchausen: targets of a soft policy with its log-probability as a reward, or None.
        target_period: updates of the online network for each update of the target network.
        target_rate: how far the target then moves to the online network; 1 is a copy.
        noise: which noise samples an update learns under.
        perturbation: what each transition's random vector is multiplied by before its product with
            the index is added to the target (Osband et al. 2018, equation 3; Li et al. 2024).
    """

    descent: Descent
    double: bool
    munchausen: Munchausen | None
    target_period: int
    target_rate: float
    noise: NoiseRule = PUBLISHED
    perturbation: float = 0.0

    def init(self, network: QNetwork, key: PRNGKeyArray) -> LearnerState:
        """Start a learner from `network`; everything random that it does comes from `key`."""
        flat = Flat.of(network, LARGE)
        return LearnerState(
            online=flat,
            target=flat,
            optimizer=self.descent.init(flat),
            updates=jnp.int32(0),
            key=key,
        )

    def losses(
        self, online: QNetwork, target: QNetwork, batch: Batch, noise: UpdateNoise
    ) -> tuple[Loss, Float[Array, "batch actions"]]:
        """Compute loss and error [B] of every transition, and the values [B, A] at its state.

        The online network at the state, the target network and the selecting network at the next
        state each have a noise sample of `noise`: as published, independent ones (Fortunato et al.
        2018, section 3.1). Invalid actions of the next state are neither selected nor mixed in.
        """
        s_tm1, a_tm1, r_t, discount_t, s_t, perturbation, mask_tm1, mask_t = batch.transitions
        if perturbation is not None:
            r_t += self.perturbation * (perturbation @ noise.online.advantage.index)
        distribution = online.distribution
        query_tm1, query_t = noise.queries or (None, None)
        outputs_tm1 = outputs(online, s_tm1, noise.online, query_tm1, mask_tm1)
        outputs_t = outputs(target, s_t, noise.target, query_t, mask_t)
        if self.double:
            q_t_selector = values(jax.lax.stop_gradient(online), s_t, noise.selector, mask_t)
        elif query_t is None:
            q_t_selector = jax.vmap(target.values_of)(outputs_t, mask_t)
        else:  # action values answer another query
            q_t_selector = values(target, s_t, noise.target, mask_t)
        choice: Choice
        if self.munchausen is None:
            choice = jax.vmap(Greedy.of)(q_t_selector)
        else:
            q_tm1 = values(target, s_tm1, noise.target, mask_tm1)
            r_t = jax.vmap(self.munchausen.reward)(r_t, q_tm1, a_tm1)
            choice = jax.vmap(self.munchausen.choice)(q_t_selector, mask_t)
        example = Example(outputs_tm1, query_tm1, a_tm1, r_t, discount_t, outputs_t, choice)
        example = jax.vmap(partial(joint.of_example, online.sizes))(example)
        loss = jax.vmap(distribution.loss_of)(example)
        return loss, reported_values(online, outputs_tm1, mask_tm1)

    def _losses(
        self, online: QNetwork, target: QNetwork, batch: Batch, noise: UpdateNoise
    ) -> tuple[Loss, Float[Array, "batch actions"]]:
        """Compute `losses`, averaged over noise samples where there are several.

        Only what depends on the sample is computed for each.
        """
        if self.noise.samples == 1:
            return self.losses(online, target, batch, noise)
        axes = UpdateNoise(online=0, target=0, selector=0, queries=None)
        of_samples = jax.vmap(self.losses, in_axes=(None, None, None, axes))
        return jax.tree.map(lambda x: jnp.mean(x, axis=0), of_samples(online, target, batch, noise))

    def update(
        self, learner: LearnerState, batch: Batch, noise: UpdateNoise
    ) -> tuple[LearnerState, Float[Array, " batch"], Metrics]:
        """Take one step of gradient descent on a batch, and update the target if it is time.

        Returns the learner, the errors [B] that set the priorities, and the metrics of
        `Descent.step`.
        """

        def losses_of(online: QNetwork) -> Losses:
            (losses, error), q = self._losses(online, learner.target.tree, batch, noise)
            return Losses(jnp.mean(batch.weights * losses), error, q)

        online, optimizer, error, metrics = self.descent.step(
            learner.online, learner.optimizer, losses_of
        )
        updates = learner.updates + 1
        target = self._updated_target(learner.target, online, updates)
        learner = LearnerState(online, target, optimizer, updates, learner.key)
        return learner, error, metrics

    def _updated_target(
        self, target: Flat[QNetwork], online: Flat[QNetwork], updates: Array
    ) -> Flat[QNetwork]:
        def updated(old: Array, new: Array) -> Array:
            goal = new if self.target_rate == 1 else old + self.target_rate * (new - old)
            if self.target_period > 1:
                goal = jnp.where(updates % self.target_period == 0, goal, old)
            return goal

        return jax.tree.map(updated, target, online)
