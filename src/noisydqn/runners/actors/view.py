"""How actors fare: numbers for the live view and for metrics, after each chunk."""

import contextlib
import time
from collections.abc import Generator

import numpy as np

from noisydqn.runners.actors.crew import Crew
from noisydqn.runners.actors.messages import Segment


class View:
    """Counts over the chunk under way.

    Args:
        crew: the actors.
    """

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._begin()

    def _begin(self) -> None:
        self._start, self._waited = time.perf_counter(), 0.0
        self._lags: list[int] = []
        self._before = [member.segments for member in self._crew.members]

    @contextlib.contextmanager
    def waiting(self) -> Generator[None]:
        """Count the time that the learner waits for actors."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    def add(self, segment: Segment, updates: int) -> None:
        """Count a segment that is taken in after so many updates."""
        self._lags.append(updates - segment.updates)

    def end(self, filled: float) -> dict[str, float]:
        """Return the numbers of the chunk, and begin another.

        Args:
            filled: share of the replay buffer.
        """
        crew, seconds = self._crew, time.perf_counter() - self._start
        numbers: dict[str, float] = {
            "alive": crew.num_alive,
            "weight_lag": float(np.mean(self._lags)) if self._lags else 0.0,
            "segments_lost": crew.lost,
            "segments_repeated": crew.repeated,
            "restarts": crew.restarts,
            "replay_fill": filled,
            "waiting": self._waited / seconds,
        }
        for member, before in zip(crew.members, self._before, strict=True):
            steps = (member.segments - before) * member.setup.actors.actor_steps * member.share.size
            numbers[f"steps_per_second.{member.share.actor}"] = steps / seconds
        self._begin()
        return numbers
