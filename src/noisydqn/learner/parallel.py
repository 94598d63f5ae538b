"""The learning rule without replay buffer and target network: Q(lambda) on rollouts.

Gallici et al. 2024, "Simplifying Deep Temporal Difference Learning" (PQN), with noisy layers and
any distribution. All of it is pure: `targets` computes the returns of a rollout, `update` learns
from a part of it.
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from noisydqn.dimensions import Sizes
from noisydqn.distributions import Distribution, joint
from noisydqn.distributions.lambda_returns import Steps, lambda_returns
from noisydqn.learner.agent import outputs, reported_values
from noisydqn.learner.gradient import Descent, Losses, Metrics
from noisydqn.learner.noise_rule import PUBLISHED, NoiseRule
from noisydqn.nets.network import QNetwork
from noisydqn.nets.noisy import NetworkNoise
from noisydqn.trees import LARGE, Flat
from noisydqn.types import Observation


class Rollout(NamedTuple):
    """Steps of all environments, [T, envs, ...].

    With matched targets a state has one greedy return for each of K noise samples.
    """

    observation: Observation  # [T, envs, ...], stack of frames that was acted on
    action: Int[Array, "steps envs *d"]
    value: Float[Array, "steps envs *k m"]  # the greedy return there, as the network then said
    reward: Float[Array, "steps envs"]  # of the step, clipped
    terminated: Bool[Array, "steps envs"]
    last: Bool[Array, "steps envs"]  # the step ended an episode
    ignored: Bool[Array, "steps envs"]  # the step was a reset
    action_mask: Bool[Array, "steps envs actions"] | None = None  # at `observation`


class Minibatch(NamedTuple):
    """Part of a rollout, [B, ...]."""

    observation: Observation  # [B, ...], preprocessed
    action: Int[Array, " batch *d"]
    target: Float[Array, "batch *k m"]  # the lambda return, as the distribution describes it
    weight: Float[Array, " batch"]  # 0 for resets, else 1
    action_mask: Bool[Array, "batch actions"] | None = None


def greedy_return(
    distribution: Distribution,
    sizes: Sizes,
    outputs: Float[Array, "actions n"],
    mask: Bool[Array, " actions"] | None,
) -> Float[Array, " m"]:
    """Describe the return of the greedy action among the valid ones."""
    if mask is not None or len(sizes) > 1:
        q = joint.values_of(distribution, sizes, outputs, mask)
        # The return of one action is that of the greedy one among itself.
        outputs, row = joint.of_action(sizes, outputs, jnp.argmax(q, axis=-1))
        outputs = outputs[row][None]
    return distribution.greedy_return(outputs)


class ParallelLearner(NamedTuple):
    """The learner alone: all that `ParallelAgent.update` changes."""

    online: Flat[QNetwork]
    optimizer: Any
    updates: Int[Array, ""]
    key: PRNGKeyArray  # of minibatches and their noise; `ParallelAgent.update` is not random


@dataclasses.dataclass(frozen=True)
class ParallelAgent:
    """Noisy Q(lambda) on rollouts.

    Args:
        descent: takes the steps.
        discount: gamma, of one step.
        return_lambda: lambda.
        noise: which noise samples an update learns under.
    """

    descent: Descent
    discount: float
    return_lambda: float
    noise: NoiseRule = PUBLISHED

    def init(self, network: QNetwork, key: PRNGKeyArray) -> ParallelLearner:
        """Start a learner from `network`; everything random that it does comes from `key`."""
        flat = Flat.of(network, LARGE)
        return ParallelLearner(flat, self.descent.init(flat), jnp.int32(0), key)

    def targets(
        self,
        distribution: Distribution,
        rollout: Rollout,
        final: Float[Array, "envs *k m"],
        reward_factor: Array | float,
        key: PRNGKeyArray,
    ) -> Float[Array, "steps envs *k m"]:
        """Compute the lambda return from every step's state.

        Those of resets mean nothing. A step that leads to the end of an episode is followed by the
        row of the reset, whose `value` is that of the final observation.

        Args:
            distribution: of the network.
            rollout: the steps.
            final: the greedy return at the states that the last steps lead to.
            reward_factor: what rewards are multiplied by before learning.
            key: of mixtures that sample.
        """
        bootstrap = jnp.concatenate([rollout.value[1:], final[None]])

        def of_env(
            reward: Array, terminated: Array, last: Array, bootstrap: Array, key: PRNGKeyArray
        ) -> Array:
            steps = Steps(
                r_t=reward * reward_factor,
                discount_t=self.discount * (1.0 - terminated),
                last=last,
                bootstrap=bootstrap,
            )
            return lambda_returns(distribution, steps, self.return_lambda, key)

        of_envs = jax.vmap(of_env, in_axes=(1, 1, 1, 1, 0), out_axes=1)
        if self.noise.matched:  # every sample has returns of its own
            of_envs = jax.vmap(of_envs, in_axes=(None, None, None, 2, None), out_axes=2)
        keys = jax.random.split(key, final.shape[0])
        return of_envs(rollout.reward, rollout.terminated, rollout.last, bootstrap, keys)

    def update(
        self,
        learner: ParallelLearner,
        batch: Minibatch,
        noise: NetworkNoise | None,
        query: Float[Array, "batch n"] | None,
    ) -> tuple[ParallelLearner, Metrics]:
        """Take one step of gradient descent on a minibatch.

        Args:
            learner: the learner.
            batch: the minibatch, on several devices a device's share of it.
            noise: a sample that it shares, or several, [K, ...]. None uses the mean weights.
            query: of the distribution, for each example, if it has queries.

        Returns:
            The learner, and the metrics of `Descent.step`.
        """
        shards = self.descent.shards

        def losses_of(network: QNetwork) -> Losses:
            loss, error, q = self._losses(network, batch, noise, query)
            # Of several devices, whose losses are averaged: the mean number that count on each.
            counted = jnp.maximum(shards.mean(jnp.sum(batch.weight)), 1 / shards.number)
            share = batch.weight / counted
            return Losses(jnp.sum(share * loss), error * batch.weight, q)

        online, optimizer, _, metrics = self.descent.step(
            learner.online, learner.optimizer, losses_of
        )
        learner = ParallelLearner(online, optimizer, learner.updates + 1, learner.key)
        return learner, metrics

    def _losses(
        self,
        network: QNetwork,
        batch: Minibatch,
        noise: NetworkNoise | None,
        query: Float[Array, "batch n"] | None,
    ) -> tuple[Float[Array, " batch"], Float[Array, " batch"], Float[Array, "batch actions"]]:
        """Compute loss and error of every example, and the values at its state.

        They are averaged over noise samples where there are several.
        """
        distribution = network.distribution

        def under(noise: NetworkNoise | None, target: Array) -> tuple[Array, Array, Array]:
            said = outputs(network, batch.observation, noise, query, batch.action_mask)
            taken = jax.vmap(partial(joint.of_action, network.sizes))(said, batch.action)
            loss, error = jax.vmap(distribution.loss_to)(taken[0], query, taken[1], target)
            return loss, error, reported_values(network, said, batch.action_mask)

        if not self.noise.several:
            return under(noise, batch.target)
        of_samples = jax.vmap(under, in_axes=(0, 1 if self.noise.matched else None))
        loss, error, q = (jnp.mean(x, axis=0) for x in of_samples(noise, batch.target))
        return loss, error, q
