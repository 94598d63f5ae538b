"""A run whose environments step outside of compiled programs, chunk by chunk.

What such runs have in common: counts of steps and updates, the loop over chunks, and what is
reported at the end of each. The host runner steps environments here, the runner with actors takes
in what other processes played.
"""

import abc
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from noisydqn.checkpoint.reader import Checkpoint
from noisydqn.checkpoint.snapshot import Snapshot
from noisydqn.compilation import Program
from noisydqn.errors import EnvironmentFailedError
from noisydqn.learner.gradient import no_metrics
from noisydqn.runners.core import Core
from noisydqn.runners.probe import Probe
from noisydqn.runners.report import Chunk, Episode, SeedChunk, as_arrays, of_arrays, seed_chunk
from noisydqn.runners.stop import Stop
from noisydqn.trees import structs


class SteppedRun(abc.ABC):
    """A run under way.

    Args:
        core: of the learner.
        probe: measures the noise, of the run's state.
        vector_steps: steps of all environments in a whole chunk.
        total_steps: environment steps of the whole run.
        counts: the names of numbers that environments report at an episode's end.
        stop: if it is asked for, training ends.
    """

    state: Any

    def __init__(
        self,
        core: Core,
        probe: Program[tuple[Any, Probe]],
        vector_steps: int,
        total_steps: int,
        counts: tuple[str, ...],
        stop: Stop,
    ) -> None:
        self.core, self.stop = core, stop
        self._probe, self._counts = probe, counts
        self.num_envs, self.total_steps = core.acting.num_envs, total_steps
        self.chunk_steps = vector_steps * self.num_envs
        self.schedule, self.layers = core.schedule, core.acting.noisy_layers
        self.inherited = 0  # rows of each environment in the replay buffer before the first step
        self.steps, self.steps_before = 0, 0  # since the start; before the chunk under way
        self.updates, self.updates_before = 0, 0  # the same of updates
        self.ended: list[Episode] = []  # in the chunk under way
        self.sums = no_metrics()  # over its updates

    @property
    @abc.abstractmethod
    def training(self) -> Any:
        """The core's part of the state."""

    @abc.abstractmethod
    def _step(self) -> None:
        """Make the steps that come next; none if a stop is asked for meanwhile.

        Raises:
            EnvironmentFailedError: an environment failed.
        """

    @abc.abstractmethod
    def snapshot(self) -> Snapshot:
        """Collect all that is needed to resume here."""

    def chunks(self) -> Iterator[Chunk]:
        """Train to the end of the budget, or until a stop is asked for."""
        while self.steps_before < self.total_steps and not self.schedule.exhausted(
            self.updates_before
        ):
            failure = self._advance(min(self.steps_before + self.chunk_steps, self.total_steps))
            if failure is not None or (self.stop.asked and self.steps < self.total_steps):
                yield self._chunk([])
                if failure is not None:
                    raise failure
                return
            yield self._chunk([self._end()])

    def _advance(self, end: int) -> EnvironmentFailedError | None:
        """Make the steps up to `end`, unless a stop is asked for; return what went wrong."""
        try:
            while self.steps < end and not self.stop.asked:
                self._step()
        except EnvironmentFailedError as failure:
            return failure
        return None

    def _end(self) -> SeedChunk:
        """Close the chunk; return the report on it."""
        self.state, probe = self._probe(self.state)
        number = self.updates - self.updates_before
        report = seed_chunk(self.updates, number, self.ended, self.sums, probe, self.layers)
        self.steps_before, self.updates_before, self.ended = self.steps, self.updates, []
        self.sums = no_metrics()
        return report

    def _chunk(self, seeds: list[SeedChunk]) -> Chunk:
        training = self.training
        return Chunk(
            steps=self.steps,
            seeds=seeds,
            state=training,
            policy=lambda _: self.core.acting.copy_policy(training),
            snapshot=self.snapshot,
        )

    # Stopping and resuming

    @property
    def _reported(self) -> dict[str, Any]:
        """The part of a snapshot that is about the chunk under way."""
        return {"ended": as_arrays(self.ended, self._counts), "sums": self.sums}

    def _restore_reported(self, checkpoint: Checkpoint, ended: int) -> None:
        """Read `_reported`, with so many episodes that ended."""
        blank = as_arrays([Episode(0, 0.0, 0)], self._counts)
        no_episodes = jax.tree.map(lambda x: np.broadcast_to(x, ended), blank)
        self.ended = of_arrays(checkpoint.read("ended", no_episodes))
        self.sums = checkpoint.read("sums", structs(self.sums))

    def _counts_are_possible(self, ended: int, beyond: int = 0) -> bool:
        """Tell whether counts that were read can be those of a run with these options.

        Args:
            ended: episodes in the chunk under way.
            beyond: steps by which a run may exceed its budget.
        """
        return (
            0 <= self.steps_before <= self.steps <= self.total_steps + beyond
            and self.steps - self.steps_before <= self.chunk_steps
            and 0 <= self.updates_before <= self.updates <= np.iinfo(np.int32).max
            and 0 <= ended <= self.chunk_steps
        )
