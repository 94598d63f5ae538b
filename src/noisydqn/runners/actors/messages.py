"""What actors and the learner send to each other. Arrays are NumPy's, keys are raw data.

    learner ──Order (with Weights)──▶ actor ──Segment──▶ learner

Trees that hold modules travel as their leaves, as Equinox's structures do not survive pickling.

A segment is some steps of every environment that an actor has. Actors hold no state that is not
in their last segment: a `Stand` and the orders since then make another actor in its place.
"""

from typing import Any, NamedTuple

import numpy as np

from noisydqn.envs.history import SavedHistory
from noisydqn.envs.host import HostEnvironment
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.runners.options import ActorOptions, AnyProgram
from noisydqn.types import TimeStep


class Weights(NamedTuple):
    """A version of what actors act by."""

    version: int  # 0 before the first segment; counts those that were learned from
    updates: int  # of the learner
    vector: np.ndarray  # the network's parameters
    moments: Any  # of observations, rounded; None without running statistics
    reward_factor: Any  # [], what rewards are multiplied by before learning


class Order(NamedTuple):
    """The order to play a segment."""

    number: int  # of the segment; each actor plays 0, 1, 2, ...
    step: int  # environment steps before it, all environments counted
    weights: Any  # `Weights`, or what the pool made of them


class Stand(NamedTuple):
    """Where an actor stands between two segments."""

    acting: list[np.ndarray]  # the leaves of the `ActorState` of each environment, [share, 1, ...]
    newest: TimeStep | None  # [share, ...], no action was taken on it yet; None before the first
    history: SavedHistory | None  # from which the environments are played again; None: new ones


class Share(NamedTuple):
    """An actor's share of the environments."""

    actor: int
    first: int  # environment
    size: int


class Setup(NamedTuple):
    """All that an actor is made of, beside where it stands."""

    env: HostEnvironment
    spec: EnvironmentSpec  # that the environments have to have
    options: AnyProgram
    actors: ActorOptions
    share: Share
    seed: int  # of all environments
    cache: str | None  # the folder of compiled programs


class Segment(NamedTuple):
    """Some steps of an actor's environments."""

    number: int
    version: int  # of the weights that it was played with
    updates: int  # that they had
    time_steps: TimeStep  # [steps, share, ...], those that were acted on, as environments gave them
    actions: np.ndarray  # [steps, share, *d]
    errors: np.ndarray | None  # [steps, share], that set first priorities; NaN where unknown
    stats: dict[int, dict[str, np.ndarray]]  # [share], by the step that ended episodes
    stand: Stand  # at its end, without history
    exploration: dict[str, np.ndarray]  # [share], the explorer's metrics
    seconds: float  # that it took

    @property
    def share(self) -> int:
        """The number of environments."""
        return self.actions.shape[1]

    @property
    def reached(self) -> TimeStep:
        """The time steps [steps, share, ...] that its steps led to, without observations."""
        steps, newest = self.time_steps, self.stand.newest
        assert newest is not None  # noqa: S101 - something was played

        def shifted(old: np.ndarray, new: np.ndarray) -> np.ndarray:
            return np.concatenate([old[1:], new[None]])

        return TimeStep(
            observation=None,
            reward=shifted(np.asarray(steps.reward), np.asarray(newest.reward)),  # pyright: ignore[reportArgumentType]
            terminated=shifted(np.asarray(steps.terminated), np.asarray(newest.terminated)),  # pyright: ignore[reportArgumentType]
            truncated=shifted(np.asarray(steps.truncated), np.asarray(newest.truncated)),  # pyright: ignore[reportArgumentType]
            info={},
        )


class Ready(NamedTuple):
    """An actor is there."""

    notices: list[str]  # lines for the user, such as of environments that could not be restored
    differs: np.ndarray  # [share], true where an episode could not be played again
    period: int | None  # episodes in a span of the environments' history


class Failed(NamedTuple):
    """An environment failed, or an actor could not be made: another one would fail alike."""

    message: str  # a line, and perhaps the traceback of an environment


class Died(NamedTuple):
    """An actor's process is gone, or does not answer."""

    how: str


class Answer(NamedTuple):
    """Something that came from an actor, or became of it."""

    actor: int
    life: int  # counts how often it was started before
    content: Ready | Segment | Failed | Died
