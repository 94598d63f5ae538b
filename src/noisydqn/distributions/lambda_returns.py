"""Lambda returns of every distribution, backwards over the steps of one environment."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from noisydqn.distributions.base import Distribution


class Steps(NamedTuple):
    """The steps of one environment in a rollout, T of them."""

    r_t: Float[Array, " steps"]
    discount_t: Float[Array, " steps"]  # 0 where the episode terminates
    last: Bool[Array, " steps"]  # the episode ends: nothing after the step belongs to it
    bootstrap: Float[Array, "steps m"]  # the greedy return at the state that the step leads to


def lambda_returns(
    distribution: Distribution, steps: Steps, lambda_: float, key: PRNGKeyArray
) -> Float[Array, "steps m"]:
    """Compute the return from each step's state, in the form that the distribution passes on.

        G_t = r_t + discount_t * (lambda G_(t+1) + (1 - lambda) Z(s_t))

    with the greedy return Z at the state that the step leads to: Peng's Q(lambda), as in Gallici et
    al. 2024 (PQN). The sum in brackets is a mixture of distributions. After the last step
    of an episode or of the rollout Z alone follows: a truncated episode bootstraps from its true
    final state.

    Args:
        distribution: says how returns are backed up and mixed.
        steps: of one environment, in order.
        lambda_: 0 gives one-step returns, 1 those of whole episodes.
        key: of mixtures that sample.
    """

    def back(
        following: Float[Array, " m"], step: tuple[Steps, PRNGKeyArray]
    ) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
        (r_t, discount_t, last, bootstrap), key = step
        mixed = distribution.mix(key, lambda_, following, bootstrap)
        target = distribution.backup(r_t, discount_t, jnp.where(last, bootstrap, mixed))
        return target, target

    keys = jax.random.split(key, len(steps.r_t))
    _, returns = jax.lax.scan(back, steps.bootstrap[-1], (steps, keys), reverse=True)
    return returns
