"""A wrapper around every environment of Gymnasium, which checks each value that it returns."""

import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, cast

import gymnasium
import numpy as np
from gymnasium import spaces

from noisydqn.envs.action_masks import KEY, NAMES, REST, MaskReader, Source, declared_source
from noisydqn.envs.spaces import without_text
from noisydqn.envs.values import Reader, read_flag, read_reward
from noisydqn.errors import EnvironmentFailedError, WrongValueError, counted, in_one_line, is_stop

OUTCOME = "observation, reward, terminated, truncated, info"
OLD_STEP = "expected 5, got 4"
"""Part of Python's message where one of Gymnasium's wrappers unpacks a step of four values."""

SUCCESS_KEYS = ("is_success", "success")
"""Where environments report in `info` that an episode reached its goal."""


def reported(info: Any, counts: Sequence[str] = ()) -> dict[str, float]:
    """Return the numbers that the `info` of an episode's last step reports.

    Args:
        info: anything; what is not a mapping reports none.
        counts: the names of numbers beside "success".
    """
    known = cast(Mapping[str, Any], info) if isinstance(info, Mapping) else {}
    numbers = {
        name: float(known[name])
        for name in (*SUCCESS_KEYS, *counts)
        if isinstance(known.get(name), bool | int | float | np.number | np.bool_)
    }
    for key in reversed(SUCCESS_KEYS):
        if key in numbers:
            numbers["success"] = numbers.pop(key)
    return numbers


class GuardedEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment whose values are checked and whose episodes are all seeded.

    Text in its observations is left out: nothing else has to carry it.

    The seed of episode k follows from k and the seed of the first reset alone. Any episode can
    therefore be replayed without those before it.

    Where the environment gives action masks, its observations are those of `MaskReader.space`: what
    the agent sees, and the mask.

    Its methods raise `EnvironmentFailedError` if the environment raises or returns a wrong value.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        index: int,
        notice: Callable[[str], None] = warnings.warn,
        masks: Source | Literal["ignored"] | None = None,
    ) -> None:
        """Guard an environment.

        Args:
            env: the environment.
            index: its index in the vector.
            notice: receives a line if closing the environment raises.
            masks: where it gives action masks, if it does; "ignored" never looks at them.

        Raises:
            SpaceError: the masks do not fit the spaces.
        """
        super().__init__(env)
        self.metadata = dict(env.metadata or {})  # a copy, as a vector writes into it
        self.notice = notice
        space = getattr(env, "observation_space", None)
        if isinstance(space, spaces.Space) and (encoded := without_text(space)) is not space:
            self.observation_space = encoded
        self._index, self._seed, self._episode, self._step = index, 0, 0, 0
        self._restarts = self._resting = False
        self._newest: Any = None
        self._masks: MaskReader | None = None
        self._ignores_masks = masks == "ignored"
        self._use_masks(None if masks == "ignored" else masks)

    def _use_masks(self, source: Source | None) -> None:
        if source is not None:
            self._masks = MaskReader(self.env, self.observation_space, source)
            self.observation_space = self._masks.space

    def detect_masks(self) -> Source | None:
        """Find out where the environment gives action masks, by a reset if need be, and read them.

        An error of that reset is left to the next one.

        Raises:
            SpaceError: the masks do not fit the spaces.
        """
        source = declared_source(self.env, self.env.observation_space)
        if source is None:
            try:
                _, info = self.env.reset(seed=0)
                source = "info" if KEY in info else None
            except BaseException as error:
                if is_stop(error):
                    raise
        self._use_masks(source)
        return source

    @cached_property
    def _reader(self) -> Reader:
        return Reader(self.env.observation_space if self._masks is None else self._masks.rest)

    @cached_property
    def episode_counts(self) -> tuple[str, ...]:
        """The names of numbers that the environment declares to report at an episode's end."""
        names = getattr(self.env.unwrapped, "episode_counts", ())
        listed: list[Any] = list(names) if isinstance(names, tuple | list) else []
        return tuple(name for name in listed if isinstance(name, str))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start the next episode or, with a seed, the first."""
        self._resting = self._resting and seed is None
        if self._resting:
            return self._newest, {}
        self._episode = 0 if seed is not None else self._episode + 1
        self._seed = self._seed if seed is None else seed
        sequence = np.random.SeedSequence([self._seed, self._episode])
        episode_seed = int(sequence.generate_state(1)[0])
        self._step = 0
        shown = self._call(self.env.reset, seed=episode_seed, options=options)
        if not isinstance(shown, tuple | list) or len(shown) != 2:
            raise self._failure(
                f"reset returned {type(shown).__name__}, expected (observation, info)"
            )
        return self._show(self._read(shown[0]), *shown), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take a step; after `restart`, start an episode instead, as a step of reward 0."""
        if self._resting:
            return self._newest, 0.0, False, False, {}
        if self._restarts:
            self._restarts = False
            return self.reset()[0], 0.0, False, False, {}
        self._step += 1
        outcome = self._call(self.env.step, action)
        if not isinstance(outcome, tuple | list) or len(outcome) != 5:
            number = len(outcome) if isinstance(outcome, tuple | list) else 1
            raise self._failure(f"step returned {counted(number, 'value')}, expected 5: {OUTCOME}")
        given, reward, terminated, truncated, info = outcome
        observation = self._read(given)
        try:
            reward = read_reward(reward)
            terminated = read_flag(terminated, "terminated")
            truncated = read_flag(truncated, "truncated")
        except WrongValueError as error:
            raise self._failure(str(error)) from None
        observation = self._show(observation, given, info, terminated=terminated)
        stats = reported(info, self.episode_counts) if terminated or truncated else {}
        return observation, reward, terminated, truncated, stats

    def render(self) -> Any:
        """Render a picture."""
        return self._call(self.env.render)

    def close(self) -> None:
        """Close the environment; an error becomes a notice, unless it stops the program."""
        try:
            self.env.close()
        except BaseException as error:
            if is_stop(error):
                raise
            self.notice(f"the environment's close() raised {in_one_line(error)}; it was ignored")

    def replay(
        self, seeds: list[int], episodes: list[int], actions: list[np.ndarray]
    ) -> tuple[Any, float, bool]:
        """Replay an episode from its start; the step after its last one starts another.

        Args:
            seeds: the seed of the first reset, for each environment of the vector.
            episodes: the episode to replay, for each environment of the vector.
            actions: the actions since its start, for each environment of the vector.

        Returns:
            The newest observation, the sum of the rewards (NaN if the episode ends before the
            actions do), and whether the episode is over.
        """
        self._seed, self._episode = seeds[self._index], episodes[self._index] - 1
        observation, _ = self.reset()
        total, over = 0.0, False
        for action in actions[self._index]:
            if over:
                return observation, float("nan"), over  # the original episode was longer
            observation, reward, terminated, truncated, _ = self.step(action)
            total += float(np.float32(reward))
            over = terminated or truncated
        self._restarts = over
        return observation, total, over

    def restart(self, envs: list[bool]) -> None:
        """Start an episode with the next step, if this is one of `envs`."""
        self._restarts = self._restarts or envs[self._index]

    def rest(self, envs: list[bool]) -> None:
        """Repeat the newest observation until a reset with a seed, if this is one of `envs`."""
        self._resting = envs[self._index]

    def _read(self, observation: Any) -> Any:
        """Check an observation; returns what the agent sees of it."""
        try:
            masks = self._masks
            return self._reader(observation if masks is None else masks.without(observation))
        except WrongValueError as error:
            raise self._failure(str(error)) from None

    def _show(self, seen: Any, observation: Any, info: Any, *, terminated: bool = False) -> Any:
        """Return what the environment shows: what the agent sees and, if there is one, the mask."""
        self._newest = seen
        if self._masks is not None:
            given = self._call(self._masks.given, observation, info)
            try:
                mask = self._masks.read(given, terminated=terminated)
            except WrongValueError as error:
                raise self._failure(str(error)) from None
            self._newest = {REST: seen, KEY: mask.astype(np.int8)}
        elif isinstance(info, dict) and KEY in info and not self._ignores_masks:
            raise self._failure(
                f"{NAMES['info']} was not there when the environment was first reset: give it at "
                "every reset and step, or never"
            )
        return self._newest

    def _call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            if is_stop(error):
                raise
            reason = f"it raised {in_one_line(error)}"
            if isinstance(error, ValueError) and OLD_STEP in str(error):
                reason += f" (step must return 5 values: {OUTCOME})"
            raise self._failure(reason, traceback.format_exc()) from error

    def _failure(self, what: str, trace: str = "") -> EnvironmentFailedError:
        where = f"step {self._step} of episode {self._episode} of environment {self._index}"
        return EnvironmentFailedError(
            f"the environment failed at {where}: {what}; correct the environment\n{trace}"
        )


def guarded(
    make: Callable[[], gymnasium.Env[Any, Any]],
    index: int,
    notice: Callable[[str], None] = warnings.warn,
    masks: Source | Literal["ignored"] | None = None,
) -> GuardedEnv:
    """Make an environment and guard it; the other arguments are those of `GuardedEnv`."""
    return GuardedEnv(make(), index, notice, masks)
