"""A check around every environment of Gymnasium, which names what is wrong with what it shows."""

import signal
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from noisydqn.envs.catalogue import Maker
from noisydqn.errors import UserError


class EnvironmentFailedError(UserError):
    """An environment raised or gave what cannot be learned from. What was trained is saved.

    `traceback` is that of what the environment raised, empty if it raised nothing.
    """

    def __init__(self, message: "str | EnvironmentFailedError") -> None:
        # From a process of its own an error comes as the argument of a new one.
        if isinstance(message, EnvironmentFailedError):
            message = str(message.args[0])
        self.line, _, self.traceback = message.partition("\n")
        super().__init__(message)

    def __str__(self) -> str:
        return self.line

    def with_hint(self, hint: str) -> "EnvironmentFailedError":
        """The same, with one more thing to say."""
        return EnvironmentFailedError(f"{self.line}; {hint}\n{self.traceback}")


def _problem(space: spaces.Space[Any], value: Any, name: str) -> str | None:
    """What is wrong with a value of a space, with the name of the part that is wrong."""
    if isinstance(space, spaces.Dict):
        if not isinstance(value, Mapping) or value.keys() != space.spaces.keys():
            return f"{name} has not the keys {list(space.spaces)}"
        parts = [(space[key], value[key], f"{name}[{key!r}]") for key in space.spaces]
    elif isinstance(space, spaces.Tuple):
        if not isinstance(value, tuple | list) or len(value) != len(space.spaces):
            return f"{name} is not a tuple of {len(space.spaces)}"
        numbered_parts = enumerate(zip(space.spaces, value, strict=True))
        parts = [(part, x, f"{name}[{i}]") for i, (part, x) in numbered_parts]
    else:
        return _array_problem(space, np.asarray(value), name)
    return next((p for p in (_problem(*part) for part in parts) if p is not None), None)


def _array_problem(space: spaces.Space[Any], value: np.ndarray, name: str) -> str | None:
    """What is wrong with an array: its shape, or a number that is none."""
    if value.shape != space.shape:
        return f"{name} has shape {list(value.shape)}, declared is {list(space.shape or ())}"
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        place = list(map(int, np.argwhere(~np.isfinite(value))[0]))
        return f"{name}{place or ''} is {value[tuple(place)]}"
    if isinstance(space, spaces.Discrete) and not space.start <= value < space.start + space.n:
        return f"{name} is {value}, declared is {space}"
    return None


SUCCESS_KEYS = ("is_success", "success")
"""Where environments report in `info` that an episode reached its goal."""


def success(info: Mapping[str, Any]) -> dict[str, float]:
    """Return {"success": x} if an episode's last `info` reports one number for it, else {}."""
    for key in SUCCESS_KEYS:
        value = info.get(key)
        if isinstance(value, bool | int | float | np.number | np.bool_):
            return {"success": float(value)}
    return {}


class GuardedEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Checks what an environment gives, names what is wrong, and seeds every episode.

    Episode k of an environment that was first reset with seed s starts from a seed made of s and
    k alone, so that it can be played again by itself.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], index: int) -> None:
        super().__init__(env)
        self._index, self._seed, self._episode, self._step = index, 0, 0, 0
        self._restart = self._resting = False
        self._newest: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start the next episode, or, with a seed, the first."""
        self._resting = self._resting and seed is None
        if self._resting:
            return self._newest, {}
        self._episode = 0 if seed is not None else self._episode + 1
        self._seed = self._seed if seed is None else seed
        sequence = np.random.SeedSequence([self._seed, self._episode])
        episode_seed = int(sequence.generate_state(1)[0])
        self._step = 0
        observation, _ = self._call(self.env.reset, seed=episode_seed, options=options)
        self._check(observation)
        return observation, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take a step."""
        if self._resting:
            return self._newest, 0.0, False, False, {}
        if self._restart:
            self._restart = False
            return self.reset()[0], 0.0, False, False, {}
        self._step += 1
        observation, reward, terminated, truncated, info = self._call(self.env.step, action)
        self._check(observation)
        if not np.isfinite(reward):
            raise self._failure(f"reward is {reward}")
        stats = success(info) if terminated or truncated else {}
        return observation, float(reward), bool(terminated), bool(truncated), stats

    def replay(
        self, seeds: list[int], episodes: list[int], actions: list[np.ndarray]
    ) -> tuple[Any, float, bool]:
        """Play an episode again; each argument has an entry for every environment in step.

        Returns the newest observation, the sum of the rewards, and whether the episode is over;
        then the next step starts another.
        """
        self._seed, self._episode = seeds[self._index], episodes[self._index] - 1
        observation, _ = self.reset()
        total, over = 0.0, False
        for action in actions[self._index]:
            if over:
                return observation, float("nan"), over  # it was longer when it was played
            observation, reward, terminated, truncated, _ = self.step(action)
            total += float(np.float32(reward))
            over = terminated or truncated
        self._restart = over
        return observation, total, over

    def cut(self, envs: list[bool]) -> None:
        """Where `envs`, start an episode with the next step."""
        self._restart = self._restart or envs[self._index]

    def rest(self, envs: list[bool]) -> None:
        """Where `envs`, play no more: show what was seen last, until a reset with a seed."""
        self._resting = envs[self._index]

    def _check(self, observation: Any) -> None:
        problem = _problem(self.env.observation_space, observation, "observation")
        if problem is not None:
            raise self._failure(problem)
        self._newest = observation

    def _call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            reason = f"it raised {type(error).__name__}: {' '.join(str(error).split())}"
            raise self._failure(reason, traceback.format_exc()) from error

    def _failure(self, what: str, trace: str = "") -> EnvironmentFailedError:
        where = f"step {self._step} of episode {self._episode} of environment {self._index}"
        return EnvironmentFailedError(
            f"the environment failed at {where}: {what}; correct the environment\n{trace}"
        )


def guarded(make: Maker, index: int, *, own_process: bool) -> GuardedEnv:
    """Make an environment and guard it; `index` is its place among those in step."""
    if own_process:
        # Signals may reach every process; the one that trains decides what becomes of them.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return GuardedEnv(make(), index)
