"""The state of a run, by the part that owns it: actor, learner, what it learns from, statistics."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, Self, TypeVar

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

    def _replace(self, **changes: Any) -> Self: ...


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

    def _replace(self, **changes: Any) -> Self: ...


State = TypeVar("State", bound=TrainingState)


def map_keys(state: State, convert: Callable[[PRNGKeyArray], Any]) -> State:
    """Convert the actor's and the learner's key."""
    actor, learner = state.actor, state.learner
    return state._replace(
        actor=actor._replace(key=convert(actor.key)),
        learner=learner._replace(key=convert(learner.key)),
    )
