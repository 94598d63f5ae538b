"""The state of a run, by the part that owns it: actor, learner, replay buffer, statistics."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, PRNGKeyArray, Shaped

from noisydqn.learner.replay import ReplayState
from noisydqn.preprocessing import normalize
from noisydqn.types import LearnerState, Row, TimeStep


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


class TrainingState(NamedTuple):
    """Everything a run needs to resume, except its environments."""

    actor: ActorState
    learner: LearnerState
    replay: ReplayState
    statistics: Statistics

    def with_rows(self, rows: Row | None) -> "TrainingState":
        """Replace the rows of the replay buffer; checkpoints store rows separately."""
        return self._replace(replay=self.replay._replace(rows=rows))

    def map_keys(self, convert: Callable[[PRNGKeyArray], Any]) -> "TrainingState":
        """Convert the actor's and the learner's key."""
        return self._replace(
            actor=self.actor._replace(key=convert(self.actor.key)),
            learner=self.learner._replace(key=convert(self.learner.key)),
        )
