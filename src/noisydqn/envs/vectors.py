"""Vectors of Gymnasium's environments, which turn their steps into `TimeStep`s.

The step after the last of an episode is a reset, whose action is ignored, as in Gymnasium's
`AutoresetMode.NEXT_STEP`. The learner therefore sees final observations like any other.
"""

import traceback
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from gymnasium import logger

from noisydqn.envs.action_masks import KEY, REST
from noisydqn.envs.backends import Backend
from noisydqn.envs.encoding import Encoding
from noisydqn.envs.guard import SUCCESS_KEYS
from noisydqn.envs.history import History, SavedHistory
from noisydqn.envs.images import AUTO
from noisydqn.envs.pictures import as_picture
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.errors import (
    EnvironmentFailedError,
    NoPictureError,
    WrongValueError,
    in_one_line,
    is_stop,
)
from noisydqn.types import Mixed, TimeStep


class HostVector:
    """Environments in lockstep, whose time steps are NumPy arrays [num_envs, ...].

    Args:
        backend: the environments; the vector closes them.
        notices: receives a line if closing the environments raises.
        images: the parts of an observation that are images, see `EnvironmentOptions`.
        bins: values of each number of actions that are a box, see `describe_actions`.

    Raises:
        SpaceError: a space is not supported, or `images` or `bins` do not fit.
    """

    def __init__(
        self,
        backend: Backend,
        notices: Callable[[str], None] = warnings.warn,
        images: tuple[str, ...] = (AUTO,),
        bins: int | None = None,
    ) -> None:
        self._backend, self._notices = backend, notices
        vector = backend.vector
        self.num_envs = vector.num_envs
        self.spaces = vector.single_observation_space, vector.single_action_space
        self.metadata: dict[str, Any] = dict(vector.metadata or {})
        self.render_mode = vector.render_mode
        try:
            names = getattr(vector.unwrapped, "action_names", None)
            seen, actions = self._seen(self.spaces[0]), self.spaces[1]
            encoding = Encoding.of(seen, actions, names, images, backend.masks, bins)
            self.spec = EnvironmentSpec.of(encoding)
        except BaseException:
            self.close()
            raise
        self._encoding = self.spec.encoding
        self._history: History | None = None
        self._steps = 0
        self.counts = backend.counts
        """The names of numbers beside "success" that environments report at an episode's end."""
        self.stats: dict[str, np.ndarray] = {}
        """Statistics [envs] of the episodes that the newest step ended, such as "success"; NaN
        where an environment reported none."""

    def reset(self, seed: int, first: int = 0) -> TimeStep:
        """Start an episode in every environment.

        Args:
            seed: of all of them.
            first: the place of the first of them, where they are a part of a larger vector: they
                then start as they would in that.

        Raises:
            EnvironmentFailedError: as `step`.
        """
        seeds = np.random.SeedSequence(seed).generate_state(first + self.num_envs)[first:]
        observation = self._call(self._backend.reset, seeds)
        nothing = np.zeros(self.num_envs, bool)
        return self._time_step(observation, np.zeros(self.num_envs), nothing, nothing)

    def step(self, actions: np.ndarray) -> TimeStep:
        """Take a step in every environment; where an episode has ended, start one instead.

        Args:
            actions: [num_envs], counted from 0; with several dimensions [num_envs, D].

        Raises:
            EnvironmentFailedError: an environment raised, or returned what it did not declare.
        """
        self._steps += 1
        history = self._history
        if history is None:
            starts = spans = np.zeros(self.num_envs, bool)
        else:
            starts, spans = history.starts(), history.episode + 1
        observation, reward, terminated, truncated, infos = self._call(
            self._backend.step, self._encoding.decode_actions(actions), starts, spans
        )
        time_step = self._time_step(observation, reward, terminated, truncated)
        last = np.asarray(time_step.last)
        self.stats = _final_stats(infos, last, self.counts) if infos else {}
        if history is not None:
            history.record(actions, np.asarray(time_step.reward), last, starts)
        return time_step

    def rest(self, envs: np.ndarray) -> None:
        """Stop playing where `envs` [num_envs], to save time; native vectors continue.

        Raises:
            EnvironmentFailedError: as `step`.
        """
        self._call(self._backend.rest, envs)

    # Replays

    @property
    def period(self) -> int | None:
        """Episodes in a span of a history; None for one span without end."""
        return self._backend.period

    def remember(self) -> None:
        """Record a history from now on; call this before the first reset."""
        shape = self.spec.action_shape
        self._history = History(self.num_envs, self._backend.period, shape)

    @property
    def history(self) -> SavedHistory:
        """The record from which `restore` replays."""
        assert self._history is not None  # noqa: S101 - `remember` was called
        return self._history.save()

    def restore(self, saved: SavedHistory, newest: TimeStep) -> np.ndarray:
        """Replay a history; call this after the reset with the same seed.

        Args:
            saved: the history.
            newest: the time step at its end.

        Returns:
            [num_envs], true where the replay ended elsewhere: the environment is not deterministic.
            Its next step starts an episode.

        Raises:
            EnvironmentFailedError: as `step`.
        """
        assert self._history is not None  # noqa: S101 - `remember` was called
        own_actions = saved._replace(actions=self._encoding.decode_actions(saved.actions))
        observation, total, over = self._call(self._backend.replay, own_actions)
        again, before = map(jax.tree.leaves, (self._encode(observation), newest.observation))
        parts = list(zip(again, map(np.asarray, before), strict=True))
        if newest.action_mask is not None:
            parts.append((self._masks(observation), np.asarray(newest.action_mask)))
        equal = [(x == y).reshape(self.num_envs, -1).all(axis=1) for x, y in parts]
        same = np.all(equal, axis=0)
        differs = ~(same & (total == saved.total) & (over == saved.over))
        self._history.load(saved)
        if differs.any():
            differs = self._call(self._backend.restart, differs)
            self._history.restart(differs)
        return differs

    def picture(self, time_step: TimeStep) -> np.ndarray:
        """Return a picture [height, width, 3] of the first environment, in bytes.

        The environment renders the picture; if it cannot, its observation is the picture, or the
        first image in it.

        Raises:
            EnvironmentFailedError: rendering raised, or returned something else.
        """
        if self._backend.renders:
            rendered: Any = self._call(self._backend.vector.render)
            try:
                return as_picture(rendered[0])
            except NoPictureError as error:
                raise EnvironmentFailedError(
                    f"the environment rendered no picture at step {self._steps}: {error}"
                ) from error
        seen: Any = time_step.observation
        if isinstance(seen, Mixed):
            seen = next(x for x in seen.images.values() if x.dtype == np.uint8)
        shown = np.asarray(seen[0])
        shown = shown[..., None] if shown.ndim == 2 else shown
        return np.repeat(shown[..., -1:], 3, axis=-1) if shown.shape[-1] != 3 else shown

    def close(self) -> None:
        """Close every environment; an error becomes a notice, unless it stops the program."""
        try:
            self._backend.vector.close()
        except BaseException as error:
            if is_stop(error):
                raise
            self._notices(f"closing the environments raised {in_one_line(error)}; it was ignored")

    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function of the backend; any error in it is a failure of an environment."""
        level, logger.min_level = logger.min_level, logger.ERROR + 1  # our errors say the same
        try:
            return function(*args)
        except BaseException as error:
            if isinstance(error, EnvironmentFailedError) or is_stop(error):
                raise
            raise EnvironmentFailedError(
                f"the environments failed at step {self._steps}: {in_one_line(error)}\n"
                f"{traceback.format_exc()}"
            ) from error
        finally:
            logger.min_level = level

    def _time_step(
        self, observation: Any, reward: Any, terminated: Any, truncated: Any
    ) -> TimeStep:
        self._check(self._backend.check_reward, reward)
        encoded: Any = self._encode(observation)  # the arrays are NumPy's until they are stored
        return TimeStep(
            observation=encoded,
            reward=reward.astype(np.float32),
            terminated=terminated,
            truncated=truncated & ~terminated,
            info={},
            action_mask=self._masks(observation),
        )

    def _seen(self, shown: Any) -> Any:
        """Return the part of observations, or of their space, that the agent sees."""
        return shown if self._backend.masks is None else shown[REST]

    def _masks(self, shown: Any) -> Any:
        """Return the action masks [num_envs, A] of observations, if there are any."""
        return None if self._backend.masks is None else np.array(shown[KEY], bool)

    def _encode(self, shown: Any) -> Any:
        observation = self._seen(shown)
        self._check(self._backend.check, self._encoding, observation)
        return self._encoding.encode(observation)

    def _check(self, check: Callable[..., None], *args: Any) -> None:
        try:
            check(*args)
        except WrongValueError as error:
            where = "" if error.row is None else f" of environment {error.row}"
            raise EnvironmentFailedError(
                f"the environment failed at step {self._steps}{where}: {error}; correct the "
                "environment"
            ) from None


def truncated_where(
    differs: np.ndarray, newest: TimeStep, first: int = 0
) -> tuple[TimeStep, list[str]]:
    """Truncate the episodes of environments that `HostVector.restore` brought elsewhere.

    Args:
        differs: [envs], what it returned.
        newest: the time step that they should have come to.
        first: the number of the first environment, in the line.

    Returns:
        The time step, and a line for the user if there are any.
    """
    if not differs.any():
        return newest, []
    names = ", ".join(map(str, first + np.flatnonzero(differs)))
    line = (
        f"environment {names} did not play again as before: it is not deterministic. Its episode "
        "is truncated and another begins; from here on the run differs from one that was not "
        "interrupted"
    )
    truncated: Any = newest.truncated | (differs & ~np.asarray(newest.terminated))
    return newest._replace(truncated=truncated), [line]


def _final_stats(
    infos: dict[str, Any], last: np.ndarray, counts: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """Return "success" and `counts` [envs] from a vector's infos where an episode ended, else NaN.

    What no episode reported is missing.
    """
    found: dict[str, np.ndarray] = {}
    for key in (*SUCCESS_KEYS, *counts):
        name = "success" if key in SUCCESS_KEYS else key
        values = np.asarray(infos.get(key))
        if name not in found and values.shape == last.shape and values.dtype.kind in "biuf":
            said = last & np.asarray(infos.get(f"_{key}", last), bool)
            found |= {name: np.where(said, values, np.nan)} if said.any() else {}
    return found
