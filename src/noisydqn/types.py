"""The data, from the environment to the learner, on one page.

    environment ──TimeStep──▶ replay (one Row a step) ──Transition──▶ update

A `TimeStep` is one step of an environment. The replay buffer stores one `Row` for each step, so
each observation is stored once; n-step returns are formed when a batch is sampled. From there on
there is no gamma, no n and no "done": a `Transition` carries its discount.

Where every action is always valid, action masks are None and take no place.
"""

from typing import Any, NamedTuple

from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from noisydqn.trees import Flat


class Mixed(NamedTuple):
    """An observation of images and vectors, by their paths in the space, such as "arm.camera".

    Observations of one kind are one array instead.
    """

    images: dict[str, Any]  # [..., height, width] or [..., height, width, channels]
    vectors: dict[str, Any]  # [..., size], float32


Observation = Any
"""An array, or a `Mixed` of arrays; comments beside it name the leading axes of each array."""


class TimeStep(NamedTuple):
    """The result of one step, or of a reset (reward 0, both flags False).

    A vector of environments has leading axes "*batch", such as [envs].
    """

    observation: Observation  # [*batch, ...]
    reward: Float[Array, "*batch"]
    terminated: Bool[Array, "*batch"]  # the episode ended by its rules: no value follows
    truncated: Bool[Array, "*batch"]  # the episode was truncated, for instance by a time limit
    info: dict[str, Array]  # numbers to be summed over an episode, such as points won
    action_mask: Bool[Array, "*batch actions"] | None = None  # the valid actions, if not all are

    @property
    def last(self) -> Bool[Any, "..."]:  # an array of JAX or, from Gymnasium, of NumPy
        """True where the episode ends, by termination or truncation."""
        return self.terminated | self.truncated


class Row(NamedTuple):
    """One step of one environment in the replay buffer.

    `action` is the action taken at `observation`; `reward`, `terminated` and `last` describe how
    `observation` was reached. A row that is `last` ends its episode, and its action is ignored.
    """

    observation: Observation
    action: Int[Array, "*d"]  # with several dimensions, a choice in each
    reward: Float[Array, ""]
    terminated: Bool[Array, ""]
    last: Bool[Array, ""]
    perturbation: Float[Array, "*m"] | None = None  # a normal for each dimension of an index
    action_mask: Bool[Array, " actions"] | None = None  # the valid actions at `observation`


class Transition(NamedTuple):
    """An n-step transition: `r_t` sums n discounted rewards, `discount_t` is gamma^n or 0."""

    s_tm1: Observation
    a_tm1: Int[Array, "*d"]
    r_t: Float[Array, ""]
    discount_t: Float[Array, ""]
    s_t: Observation
    perturbation: Float[Array, "*m"] | None = None  # that of the first row
    mask_tm1: Bool[Array, " actions"] | None = None  # the valid actions at the state
    mask_t: Bool[Array, " actions"] | None = None  # those at the next state


class Batch(NamedTuple):
    """Transitions [B, ...] sampled from the replay buffer, with their importance weights."""

    transitions: Transition
    indices: Int[Array, " batch"]  # places in the replay buffer, to set priorities
    weights: Float[Array, " batch"]  # importance weights; the largest of the whole batch is 1


class LearnerState(NamedTuple):
    """The learner alone, without its replay buffer: all that `Agent.update` changes."""

    online: Flat[Any]  # the trained network
    target: Flat[Any]  # its older copy, which values the next state
    optimizer: Any
    updates: Int[Array, ""]
    key: PRNGKeyArray  # of batches and their noise; `Agent.update` itself is not random
