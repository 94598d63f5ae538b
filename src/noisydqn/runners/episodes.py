"""Returns and lengths of training episodes, counted on the host."""

import numpy as np

from noisydqn.runners.report import Episode
from noisydqn.types import TimeStep


class Episodes:
    """Returns and lengths of the episodes under way."""

    def __init__(self, num_envs: int) -> None:
        self._returns, self._lengths = np.zeros(num_envs), np.zeros(num_envs, int)
        self._started = np.zeros(num_envs, bool)

    def take(self, time_step: TimeStep, step: int, stats: dict[str, np.ndarray]) -> list[Episode]:
        """Count a time step, reached after `step` steps; return the episodes that it ends.

        `stats` [envs] are those that the environments report of these episodes; NaN is none.
        """
        self._returns += time_step.reward
        self._lengths += 1
        if self._started.any():  # a reset's reward is none, and it is no step
            self._returns[self._started] = self._lengths[self._started] = 0
        self._started = last = np.asarray(time_step.last)
        if not last.any():
            return []
        return [
            Episode(
                step,
                float(self._returns[i]),
                int(self._lengths[i]),
                {name: float(x[i]) for name, x in stats.items() if not np.isnan(x[i])},
            )
            for i in np.flatnonzero(last)
        ]

    @property
    def counts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns and lengths so far, and where an episode starts next."""
        return self._returns, self._lengths, self._started

    @counts.setter
    def counts(self, counts: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
        self._returns, self._lengths, self._started = map(np.array, counts)

    def begin_anew(self) -> None:
        """Forget the episodes under way: environments have just been reset."""
        self._returns, self._lengths = np.zeros_like(self._returns), np.zeros_like(self._lengths)
        self._started = np.zeros_like(self._started)

    def truncate(self, envs: np.ndarray) -> None:
        """Let episodes start next where `envs`; those under way are not reported."""
        self._started = self._started | envs
