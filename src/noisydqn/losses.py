"""Temporal-difference losses for one example: pure functions of arrays, no network inside.

The caller vmaps over the batch. Names: `q_tm1` [A] are the action values at the earlier state,
`q_t_value` and `q_t_selector` [A] those at the later one.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def td_error(
    q_tm1: Float[Array, " actions"],
    a_tm1: Int[Array, ""],
    r_t: Float[Array, ""],
    discount_t: Float[Array, ""],
    q_t_value: Float[Array, " actions"],
    q_t_selector: Float[Array, " actions"],
) -> Float[Array, ""]:
    """Target minus estimate: `r_t + discount_t * q_t_value[argmax q_t_selector] - q_tm1[a_tm1]`.

    Double Q-learning (van Hasselt et al. 2016, equation 4) selects with the online network and
    values with the target network; `q_t_selector = q_t_value` gives plain Q-learning. The target
    carries no gradient.
    """
    target = r_t + discount_t * q_t_value[jnp.argmax(q_t_selector)]
    return jax.lax.stop_gradient(target) - q_tm1[a_tm1]


def squared(error: Float[Array, ""]) -> Float[Array, ""]:
    """Half the square of the error, so that its slope is the error."""
    return 0.5 * error**2


def smooth_l1(error: Float[Array, ""]) -> Float[Array, ""]:
    """The Huber loss with threshold 1: half the square up to 1, linear beyond."""
    size = jnp.abs(error)
    return jnp.where(size <= 1, 0.5 * size**2, size - 0.5)
