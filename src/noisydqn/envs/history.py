"""What it takes to play environments of Gymnasium again: seeds, and the actions since.

Their state cannot be saved, but it can be reached again: every environment is seeded anew from
time to time, and what it did since is replayed. A span is what an environment plays under one
seed.
"""

import dataclasses
from typing import NamedTuple

import numpy as np


def span_seed(seed: int, span: int) -> int:
    """The seed, of 31 bits, of a span of an environment that was first reset with `seed`."""
    return int(np.random.SeedSequence([seed, span]).generate_state(1)[0]) >> 1


class SavedHistory(NamedTuple):
    """What a checkpoint holds of environments of Gymnasium."""

    episode: np.ndarray  # [envs]; the number of the episode under way
    span: np.ndarray  # [envs]; the episode with which the span under way began
    length: np.ndarray  # [envs]; steps since
    total: np.ndarray  # [envs]; rewards since, summed
    over: np.ndarray  # [envs]; whether the episode has ended
    actions: np.ndarray  # [longest length, envs], int32; the newest last


@dataclasses.dataclass
class History:
    """Counts episodes and keeps the actions of the spans under way.

    Args:
        num_envs: how many environments there are.
        period: episodes in a span; None if there is but one, without end.
    """

    num_envs: int
    period: int | None

    def __post_init__(self) -> None:
        self.episode, self.span, self.length = (np.zeros(self.num_envs, np.int64) for _ in range(3))
        self.total, self.over = np.zeros(self.num_envs), np.zeros(self.num_envs, bool)
        self._cut = np.zeros(self.num_envs, bool)
        self._actions, self._count = np.zeros((1024, self.num_envs), np.int32), 0

    def due(self) -> np.ndarray:
        """Where the next step begins a span [envs]."""
        if self.period is None or not self.over.any():
            return self._cut
        return self._cut | (self.over & (self.episode + 1 - self.span >= self.period))

    def cut(self, envs: np.ndarray) -> None:
        """Let a span, and with it an episode, begin with the next step where `envs` [envs]."""
        self.over = self.over | envs
        self._cut = envs

    def take(
        self, actions: np.ndarray, reward: np.ndarray, last: np.ndarray, begun: np.ndarray
    ) -> None:
        """Count a step; where a span has `begun` with it, the action before is void."""
        self._append(actions)
        self.length += 1
        self.total += reward
        if self.over.any():
            self.episode += self.over
        if begun.any():
            self.span[begun] = self.episode[begun]
            self.length[begun] = 0
            self.total[begun] = 0
            self._cut = self._cut & ~begun
        self.over = np.array(last)

    def _append(self, actions: np.ndarray) -> None:
        if self._count == len(self._actions):
            kept = self._actions[self._count - int(self.length.max()) : self._count]
            self._actions = np.zeros((2 * max(len(kept), 512), self.num_envs), np.int32)
            self._actions[: len(kept)] = kept
            self._count = len(kept)
        self._actions[self._count] = actions
        self._count += 1

    def save(self) -> SavedHistory:
        """A copy of what it takes to play again."""
        actions = self._actions[self._count - int(self.length.max()) : self._count]
        parts = (self.episode, self.span, self.length, self.total, self.over, actions)
        return SavedHistory(*map(np.copy, parts))

    def load(self, saved: SavedHistory) -> None:
        """Go on from there."""
        self.episode, self.span, self.length, self.total, self.over = map(np.array, saved[:-1])
        self._actions, self._count = np.array(saved.actions), len(saved.actions)
