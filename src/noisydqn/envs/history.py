"""Records from which environments of Gymnasium are replayed when a run is resumed.

The state of such an environment cannot be saved, but it can be reached again: the environment is
reseeded from time to time, and a checkpoint holds the actions since. A span is the time under one
seed: an episode or, for environments that are slow to reseed, several.
"""

import dataclasses
from typing import NamedTuple

import numpy as np


def span_seed(seed: int, span: int) -> int:
    """Return the seed, of 31 bits, of a span; `seed` is that of the environment's first reset."""
    return int(np.random.SeedSequence([seed, span]).generate_state(1)[0]) >> 1


class SavedHistory(NamedTuple):
    """The record of a vector of environments in a checkpoint."""

    episode: np.ndarray  # [envs]; the number of the current episode
    span: np.ndarray  # [envs]; the number of the first episode of the current span
    length: np.ndarray  # [envs]; steps in the current span
    total: np.ndarray  # [envs]; the sum of the rewards in the current span
    over: np.ndarray  # [envs]; true if the episode has ended
    actions: np.ndarray  # [longest length, envs, *d], int32; the newest last

    def of_share(self, share: slice) -> "SavedHistory":
        """Return the record of some of the environments."""
        told, actions = self[:-1], self.actions[:, share]
        part = SavedHistory(*(x[share] for x in told), actions=actions)
        longest = int(part.length.max())
        return part._replace(actions=actions[len(actions) - longest :])

    def is_possible(self) -> bool:
        """Tell whether a record that was read can be one, whatever its actions."""
        ordered = (self.span >= 0) & (self.span <= self.episode)
        whole = (self.length >= 0) & (self.length <= len(self.actions))
        return bool(ordered.all() and whole.all())


@dataclasses.dataclass
class History:
    """The episodes of a vector of environments, counted, and the actions of the current spans.

    Args:
        num_envs: the number of environments.
        period: episodes in a span; None for one span without end.
        action_shape: that of an action: () or, with several dimensions, (D,).
    """

    num_envs: int
    period: int | None
    action_shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self.episode, self.span, self.length = (np.zeros(self.num_envs, np.int64) for _ in range(3))
        self.total, self.over = np.zeros(self.num_envs), np.zeros(self.num_envs, bool)
        self._restarts = np.zeros(self.num_envs, bool)
        self._actions, self._count = self._room(1024), 0

    def _room(self, steps: int) -> np.ndarray:
        return np.zeros((steps, self.num_envs, *self.action_shape), np.int32)

    def starts(self) -> np.ndarray:
        """Return [envs], true where the next step starts a span."""
        if self.period is None or not self.over.any():
            return self._restarts
        return self._restarts | (self.over & (self.episode + 1 - self.span >= self.period))

    def restart(self, envs: np.ndarray) -> None:
        """Start a span, and with it an episode, with the next step where `envs` [envs]."""
        self.over = self.over | envs
        self._restarts = envs

    def record(
        self, actions: np.ndarray, reward: np.ndarray, last: np.ndarray, started: np.ndarray
    ) -> None:
        """Count a step.

        Args:
            actions: [envs, *d], that were taken.
            reward: [envs].
            last: [envs], true where the step ended an episode.
            started: [envs], true where the step started a span; its action is ignored.
        """
        self._append(actions)
        self.length += 1
        self.total += reward
        if self.over.any():
            self.episode += self.over
        if started.any():
            self.span[started] = self.episode[started]
            self.length[started] = 0
            self.total[started] = 0
            self._restarts = self._restarts & ~started
        self.over = np.array(last)

    def _append(self, actions: np.ndarray) -> None:
        if self._count == len(self._actions):
            kept = self._actions[self._count - int(self.length.max()) : self._count]
            self._actions = self._room(2 * max(len(kept), 512))
            self._actions[: len(kept)] = kept
            self._count = len(kept)
        self._actions[self._count] = actions
        self._count += 1

    def save(self) -> SavedHistory:
        """Copy the record."""
        actions = self._actions[self._count - int(self.length.max()) : self._count]
        parts = (self.episode, self.span, self.length, self.total, self.over, actions)
        return SavedHistory(*map(np.copy, parts))

    def load(self, saved: SavedHistory) -> None:
        """Continue from a record."""
        self.episode, self.span, self.length, self.total, self.over = map(np.array, saved[:-1])
        self._actions, self._count = np.array(saved.actions), len(saved.actions)
