"""The core of a learner: what a runner asks for at each step, whoever moves the environments.

All of it is pure and compiled by the runner. In a cycle:

    environments ──TimeStep──▶ observe ──▶ act ──actions──▶ environments
                                            │
                                            ▼
                                   learn, resample the noise

A learner is a core beside the others: `ReplayCore` learns from a replay buffer, `ParallelCore` from
rollouts. All act in the same way, by `Acting`.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Protocol

from jaxtyping import Array, Bool, Int, PRNGKeyArray

from noisydqn.compilation import Runs
from noisydqn.imports import PYTHON
from noisydqn.learner.gradient import Metrics
from noisydqn.nets.network import QNetwork
from noisydqn.runners.acting import Acting
from noisydqn.runners.exploration import Imported
from noisydqn.runners.options import AnyProgram
from noisydqn.runners.probe import Probe
from noisydqn.runners.schedule import Schedule
from noisydqn.trees import Flat
from noisydqn.types import Row, TimeStep


class Beginning(NamedTuple):
    """What a run starts from that has taken no step."""

    change: Callable[[Any], Any]  # of the `TrainingState`
    rows: int  # that its replay buffer then holds for each environment


class Core(Protocol):
    """The steps of training with one learner on environments of one kind."""

    @property
    def acting(self) -> Acting:
        """How it acts."""
        ...

    @property
    def schedule(self) -> Schedule:
        """When it learns."""
        ...

    runs: ClassVar[Runs]
    """How often a program of it and its environments runs, for the compiler."""

    def init(self, key: PRNGKeyArray) -> Any:
        """Make the state before the first time step: as if an episode had ended everywhere."""
        ...

    def observe(self, state: Any, time_step: TimeStep) -> Any:
        """Take in what the environments show next; after the last step that is a reset."""
        ...

    def act(self, state: Any, step: Int[Array, ""]) -> tuple[Any, Int[Array, " envs *d"]]:
        """Choose the actions [envs].

        `step` counts environment steps before this one.
        """
        ...

    def learn(
        self, state: Any, number: Int[Array, ""], sums: Flat[Metrics]
    ) -> tuple[Any, Flat[Metrics]]:
        """Make the updates that are due, `number` of them; `sums` adds up their metrics."""
        ...

    def resample(self, state: Any, updated: Bool[Array, ""]) -> Any:
        """Let the explorer resample its noise.

        `updated` tells whether updates were scheduled after the newest step.
        """
        ...

    def probe(self, state: Any) -> tuple[Any, Probe]:
        """Measure sigma and, on recent observations, what noise does to values and actions."""
        ...

    def with_network(self, state: Any, network: QNetwork) -> Any:
        """Replace the weights in a state before the first step; the optimizer starts anew."""
        ...

    def rows(self, state: Any) -> Row | None:
        """Return the rows of a replay buffer, which checkpoints store separately, if any."""
        ...

    def with_rows(self, state: Any, rows: Row | None) -> Any:
        """Replace those rows."""
        ...


def program_key(options: AnyProgram, *parts: object) -> str | None:
    """Return all that programs depend on, beside code; None if it is not known.

    Args:
        options: of the programs.
        parts: what else they depend on, such as the environment.
    """
    if options.network.torso.startswith(PYTHON) or isinstance(options.exploration, Imported):
        return None  # code that is not this package's
    return "\n".join(map(repr, (options, *parts)))
