"""Action masks: which actions are valid in a state, and what acting and learning do with that.

A mask is true at the valid actions, bool [A]. In environments without masks it is None; all
functions here then compute what they would without it. At least one action of a mask is valid:
where a finished episode leaves none, `opened` allows all, because nothing is chosen there.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

Mask = Bool[Array, "*batch actions"]


def opened(mask: Bool[Array, "*batch actions"]) -> Bool[Array, "*batch actions"]:
    """Allow every action where a mask allows none."""
    return mask | ~jnp.any(mask, axis=-1, keepdims=True)


def masked(
    q: Float[Array, "*batch actions"], mask: Bool[Array, "*batch actions"] | None
) -> Float[Array, "*batch actions"]:
    """Replace the values of invalid actions by -infinity, so that none of them is the largest."""
    return q if mask is None else jnp.where(mask, q, -jnp.inf)


def mean_of_valid(
    x: Float[Array, "actions ..."], mask: Bool[Array, " actions"] | None
) -> Float[Array, "..."]:
    """Compute the mean over the valid actions."""
    if mask is None:
        return jnp.mean(x, axis=0)
    return jnp.mean(x, axis=0, where=mask.reshape(-1, *(1,) * (x.ndim - 1)))


def filled(
    q: Float[Array, "*batch actions"], mask: Bool[Array, "*batch actions"] | None
) -> Float[Array, "*batch actions"]:
    """Replace the values of invalid actions by the mean of the others, for metrics."""
    if mask is None:
        return q
    return jnp.where(mask, q, jnp.mean(q, axis=-1, keepdims=True, where=mask))


def made_valid(
    actions: Int[Array, "*batch"], mask: Bool[Array, "*batch actions"], key: PRNGKeyArray
) -> Int[Array, "*batch"]:
    """Replace each invalid action by a uniformly random valid one.

    Uniformly random actions thereby become uniformly random valid ones.
    """
    instead = jax.random.categorical(key, jnp.where(mask, 0.0, -jnp.inf)).astype(actions.dtype)
    taken = jnp.take_along_axis(mask, actions[..., None], axis=-1)[..., 0]
    return jnp.where(taken, actions, instead)
