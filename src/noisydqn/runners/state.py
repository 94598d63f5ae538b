"""The state of a run, by the part that owns it: actor, learner, what it learns from, statistics."""

from typing import Any, NamedTuple, Protocol, TypeVar, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from noisydqn.nets.network import QNetwork
from noisydqn.preprocessing import normalize
from noisydqn.preprocessing.moments import Running
from noisydqn.trees import Flat
from noisydqn.types import Observation, TimeStep


class ActorState(NamedTuple):
    """Everything that acting changes, beside the environments.

    The actor has a key of its own. Its random numbers therefore do not depend on how many updates
    were made between two steps, and an actor can move to another process with this state alone.
    """

    key: PRNGKeyArray
    time_step: TimeStep  # [envs, ...], the newest, reward clipped: no action was taken on it yet
    stack: Observation  # [envs, ...], of frames, the newest that of `time_step`
    explorer: Any  # the explorer's own, such as the noise held


class Statistics(NamedTuple):
    """Running statistics of what the environments showed."""

    moments: Running | None  # of observations
    return_scale: normalize.ReturnScale | None


class Learner(Protocol):
    """The part of a learner's state that every learner has."""

    @property
    def online(self) -> Flat[QNetwork]:
        """The trained network."""
        ...

    @property
    def updates(self) -> Int[Array, ""]:
        """Updates made so far."""
        ...

    @property
    def key(self) -> PRNGKeyArray:
        """The learner's own key."""
        ...


class TrainingState(Protocol):
    """Everything a run needs to resume, except its environments; a named tuple.

    A learner adds what it learns from, such as a replay buffer.
    """

    @property
    def actor(self) -> ActorState:
        """The actor's part."""
        ...

    @property
    def learner(self) -> Learner:
        """The learner's part."""
        ...

    @property
    def statistics(self) -> Statistics:
        """The statistics' part."""
        ...


Part = TypeVar("Part", bound=TrainingState | Learner)


def replaced(part: Part, **changes: Any) -> Part:
    """Return a state, or a learner's part of one, with other fields."""
    return cast(Any, part)._replace(**changes)


def typed_keys(state: Any, like: Any) -> Any:
    """Wrap raw data of keys where `like` has keys."""
    return jax.tree.map(
        lambda x, as_: jax.random.wrap_key_data(x) if _is_key(as_) else x, state, like
    )


def raw_keys(state: Any) -> Any:
    """Replace keys by their raw data."""
    return jax.tree.map(lambda x: jax.random.key_data(x) if _is_key(x) else x, state)


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
