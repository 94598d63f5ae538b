"""The options of a runner, and all options that a compiled program depends on."""

import dataclasses
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

from noisydqn.distributions import Distribution
from noisydqn.learner.options import LearnerOptions, LearningOptions
from noisydqn.nets.options import NetworkOptions
from noisydqn.options import at_least, at_most, convert_fields
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
