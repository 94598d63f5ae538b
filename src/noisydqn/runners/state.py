"""The state of a run, by the part that owns it: actor, learner, what it learns from, statistics."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar, cast

from jaxtyping import Array, Int, PRNGKeyArray, Shaped

from noisydqn.nets.network import QNetwork
from noisydqn.preprocessing import normalize
from noisydqn.trees import Flat
from noisydqn.types import TimeStep


class ActorState(NamedTuple):
    """Everything that acting changes, beside the environments.

    The actor has a key of its own. Its random numbers therefore do not depend on how many updates
    were made between two steps, and an actor can move to another process with this state alone.
    """

    key: PRNGKeyArray
    time_step: TimeStep  # [envs, ...], the newest, reward clipped: no action was taken on it yet
    stack: Shaped[Array, "envs ..."]  # of frames, the newest that of `time_step`
    explorer: Any  # the explorer's own, such as the noise held


class Statistics(NamedTuple):
    """Running statistics of what the environments showed."""

    moments: normalize.RunningMoments | None  # of observations
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


def map_keys(state: Any, convert: Callable[[PRNGKeyArray], Any]) -> Any:
    """Convert the actor's and the learner's key of a training state."""
    actor, learner = state.actor, state.learner
    return state._replace(
        actor=actor._replace(key=convert(actor.key)),
        learner=learner._replace(key=convert(learner.key)),
    )
