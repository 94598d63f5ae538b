"""The core of each learner."""

from collections.abc import Callable, Mapping
from typing import Any

from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.learner.options import LearnerOptions, ParallelOptions, ReplayOptions
from noisydqn.runners.core import Core
from noisydqn.runners.options import AnyProgram
from noisydqn.runners.parallel_core import ParallelCore
from noisydqn.runners.replay_core import ReplayCore
from noisydqn.shards import ONE, Shards

CORES: Mapping[type[LearnerOptions], Callable[[Any, EnvironmentSpec, Shards], Core]] = {
    ReplayOptions: ReplayCore.create,
    ParallelOptions: ParallelCore.create,
}
"""Makes the core of a learner, by the type of its options."""


def make_core(options: AnyProgram, spec: EnvironmentSpec, shards: Shards = ONE) -> Core:
    """Make the core of a program for environments with an interface.

    On several devices it is the core of each, with a share of the environments and of what is
    learned from.
    """
    return CORES[type(options.learner)](options, spec, shards)
