"""Environments whose actions are arrays; an action of another form is an error."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv

PLACES, FIRST = np.array([3, 2, 4]), np.array([1, 0, -2])
"""The number of places of every lever, and the number of the first."""


class Levers(gymnasium.Env[np.ndarray, np.ndarray]):
    """Put three levers where a cue says; only the last of two steps has a reward.

    That is the mean over the levers of 1 for the right place and -1 for another, so it is also the
    value of the levers' places at the last step. Where the cue is 1, all belong to their first
    place, where it is -1, to their last. It shows (cue, step).
    """

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-1, 1, (2,), np.float32)
        self.action_space = spaces.MultiDiscrete(PLACES, start=FIRST)
        self.cue = self.time = 0

    def _shown(self) -> np.ndarray:
        return np.array([self.cue, self.time], np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self.cue, self.time = int(self.np_random.choice([-1, 1])), 0
        return self._shown(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        right = FIRST if self.cue == 1 else FIRST + PLACES - 1
        reward = float(np.where(action == right, 1, -1).mean()) if self.time == 1 else 0.0
        self.time += 1
        return self._shown(), reward, self.time == 2, False, {}


class Aim(gymnasium.Env[np.ndarray, np.ndarray]):
    """One step: the nearer a matrix of numbers to the target shown, the smaller the loss."""

    low = np.array([[-1.0, 0.0], [2.0, -0.1]], np.float32)
    high = np.array([[1.0, 5.0], [4.0, 0.1]], np.float32)

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0, 1, (4,), np.float32)
        self.action_space = spaces.Box(self.low, self.high)
        self.target = np.zeros(4, np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self.target = self.np_random.choice(np.array([0, 0.5, 1], np.float32), 4)
        return self.target, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        places = ((action - self.low) / (self.high - self.low)).reshape(-1)
        return self.target, -float(np.abs(places - self.target).mean()), True, False, {}


gymnasium.register("noisydqn-tests/Levers-v0", "tests.action_envs:Levers")
gymnasium.register("noisydqn-tests/Aim-v0", "tests.action_envs:Aim")


def vector(num_envs: int) -> SyncVectorEnv:
    """Make levers in a vector of their own."""
    return SyncVectorEnv([Levers] * num_envs)
