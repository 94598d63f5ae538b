"""The options of a runner, and all options that a compiled program depends on."""

import dataclasses
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar

from noisydqn.distributions import Distribution
from noisydqn.learner.options import LearnerOptions, LearningOptions
from noisydqn.nets.options import NetworkOptions
from noisydqn.options import at_least, at_most, between, convert_fields
from noisydqn.preprocessing.options import PreprocessingOptions
from noisydqn.runners.explorer import Explorer

MAX_DEVICES = 2**16


@dataclasses.dataclass(frozen=True)
class RunnerOptions:
    """Acting: environments in lockstep, chunks of steps, and random steps at the start."""

    num_envs: Annotated[int, at_least(1)] = 4
    """Number of environments that step in lockstep."""
    chunk_steps: Annotated[int, at_least(1)] = 1_000
    """Environment steps in a chunk; progress is shown after each chunk."""
    random_steps: Annotated[int, at_least(0)] = 0
    """Environment steps with uniformly random actions at the start."""
    devices: Annotated[int, at_least(1), at_most(MAX_DEVICES)] = 1
    """Number of devices, such as GPUs. The environments, the replay buffer and every batch of a run
    are divided over them, and gradients are averaged; several seeds are divided instead. Only for
    environments in JAX."""

    def __post_init__(self) -> None:
        convert_fields(self)

    @property
    def vector_steps(self) -> int:
        """Steps of all environments in a chunk."""
        return max(self.chunk_steps // self.num_envs, 1)

    @property
    def of_one(self) -> "RunnerOptions":
        """The same options with a single environment."""
        return dataclasses.replace(self, num_envs=1)


@dataclasses.dataclass(frozen=True)
class ActorOptions:
    """Actors: processes that play while another one learns. For environments of Gymnasium."""

    actors: Annotated[int, between(0, 10_000)] = 0
    """Number of actors: processes, here or on a Ray cluster, each of which plays an equal share of
    the environments. With 0, the process that learns plays, too."""
    actor_mode: Literal["synchronous", "asynchronous"] = "synchronous"
    """"synchronous": actors act with weights that lag by a fixed number of segments, so results
    depend on the seed and the environments alone. "asynchronous": with the newest weights there
    are, and nobody waits for a slow actor."""
    actor_steps: Annotated[int, between(1, 10_000)] = 16
    """Steps of each environment in a segment, which is what an actor sends at a time. The budget of
    steps is rounded up to whole segments."""
    actor_lag: Annotated[int, between(0, 100)] = 1
    """Segments that actors may be ahead of the learner. In synchronous mode the weights that act
    are always that many segments older; with 0 actors and learner take turns."""

    def __post_init__(self) -> None:
        convert_fields(self)

    @property
    def asynchronous(self) -> bool:
        """Whether actors do not wait for each other."""
        return self.actor_mode == "asynchronous"


Learner = TypeVar("Learner", bound=LearnerOptions)


class ProgramOptions(NamedTuple, Generic[Learner]):
    """Every option that a compiled program depends on; its repr is part of the compile key."""

    preprocessing: PreprocessingOptions
    network: NetworkOptions
    distribution: Distribution
    exploration: Explorer
    learning: LearningOptions
    learner: Learner
    runner: RunnerOptions


AnyProgram = ProgramOptions[Any]
"""The options of a program with any learner."""
