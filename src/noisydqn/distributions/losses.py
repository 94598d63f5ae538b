"""Temporal-difference losses for one example: pure functions of arrays, no network inside.

The caller vmaps over the batch. Losses have no gradient with respect to targets.
"""

import jax
import jax.numpy as jnp
from jax.scipy.special import xlogy
from jaxtyping import Array, Float, Int

from noisydqn.distributions.bootstrap import Choice

HUBER_THRESHOLD = 1.0
"""kappa of the quantile loss."""


def bootstrap_target(
    r_t: Float[Array, ""] | float,
    discount_t: Float[Array, ""] | float,
    returns_t: Float[Array, "actions ..."],
    choice: Choice,
) -> Float[Array, "..."]:
    """Form `r_t + discount_t * returns_t[a_t]`, a_t being the choice, or its mean over a policy.

    Args:
        r_t: reward.
        discount_t: discount.
        returns_t: action values or quantiles at the next state, of the target network.
        choice: how the next state is valued.
    """
    return r_t + discount_t * choice.expect(returns_t)


def td_error(
    q_tm1: Float[Array, " actions"],
    a_tm1: Int[Array, ""] | int,
    r_t: Float[Array, ""] | float,
    discount_t: Float[Array, ""] | float,
    q_t: Float[Array, " actions_t"],
    choice: Choice,
) -> Float[Array, ""]:
    """Subtract the estimate `q_tm1[a_tm1]` from the target.

    Args:
        q_tm1: action values at the state, of the online network.
        a_tm1: action taken there.
        r_t: reward.
        discount_t: discount.
        q_t: action values at the next state, of the target network.
        choice: how the next state is valued.
    """
    target = bootstrap_target(r_t, discount_t, q_t, choice)
    return jax.lax.stop_gradient(target) - q_tm1[a_tm1]


def squared(error: Float[Array, ""]) -> Float[Array, ""]:
    """Return half the square of the error, so that its slope is the error."""
    return 0.5 * error**2


def smooth_l1(error: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return the Huber loss with threshold 1: half the square up to 1, linear beyond."""
    size = jnp.abs(error)
    return jnp.where(size <= 1, 0.5 * size**2, size - 0.5)


def project(
    atoms: Float[Array, " m"], probabilities: Float[Array, " m"], support: Float[Array, " n"]
) -> Float[Array, " n"]:
    """Project a distribution onto an evenly spaced support, [n] probabilities.

    Each atom's probability goes to its two neighbors in proportion to nearness, and beyond the
    ends to the end (Bellemare et al. 2017, equation 7): entry i is
    `sum_j [1 - |clip(atoms_j) - support_i| / spacing]_0^1 * probabilities_j`, one loop without
    gathers or scatters.
    """
    spacing = (support[-1] - support[0]) / (len(support) - 1)
    places = (jnp.clip(atoms, support[0], support[-1]) - support[0]) / spacing
    index = jnp.arange(len(support), dtype=places.dtype)
    share = jnp.clip(1 - jnp.abs(places - index[:, None]), 0, 1)
    return share @ probabilities


def categorical_target(
    r_t: Float[Array, ""],
    discount_t: Float[Array, ""],
    logits_t: Float[Array, "actions atoms"],
    choice: Choice,
    support: Float[Array, " atoms"],
) -> Float[Array, " atoms"]:
    """Project the distribution of `r_t + discount_t * Z` onto the support.

    This is algorithm 1 of Bellemare et al. 2017. Under a soft policy Z is the mixture of the
    actions' distributions, each moved by its bonus.
    """

    def projected(logits: Float[Array, " atoms"], bonus: Float[Array, ""]) -> Array:
        atoms = r_t + discount_t * (support + bonus)
        return project(atoms, jax.nn.softmax(logits), support)

    weights, logits, bonus = choice.branches(logits_t)
    return jax.lax.stop_gradient(weights @ jax.vmap(projected)(logits, bonus))


def categorical_loss(
    logits_tm1: Float[Array, " atoms"], target: Float[Array, " atoms"]
) -> Float[Array, ""]:
    """Compute the Kullback-Leibler divergence of the taken action's estimate from the target.

    Its gradient is that of the cross entropy (Bellemare et al. 2017, algorithm 1), but it is zero
    where the two agree, so that it also serves as a priority (Hessel et al. 2018, section 3).
    """
    log_estimate = jax.nn.log_softmax(logits_tm1)
    return jnp.sum(xlogy(target, target) - target * log_estimate)


def quantile_loss(
    quantiles_tm1: Float[Array, " n"],
    fractions_tm1: Float[Array, " n"],
    targets: Float[Array, " m"],
) -> Float[Array, ""]:
    """Compute the quantile Huber loss: summed over estimates, mean over targets.

    `sum_i mean_j |tau_i - 1[u_ij < 0]| L(u_ij) / kappa` with `u_ij = targets_j - quantiles_i` and
    the Huber loss L with threshold kappa = 1 (Dabney et al. 2018a, equation 10; 2018b,
    equation 3).
    """
    u = jax.lax.stop_gradient(targets) - quantiles_tm1[:, None]
    huber = smooth_l1(u / HUBER_THRESHOLD) * HUBER_THRESHOLD
    weight = jnp.abs(fractions_tm1[:, None] - (u < 0))
    return jnp.sum(jnp.mean(weight * huber, axis=1))
