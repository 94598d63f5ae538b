"""Environments of Gymnasium: the only place where they become our `TimeStep`s.

A step after the last of an episode is a reset whose action is void, as in Gymnasium's
`AutoresetMode.NEXT_STEP`: final observations are seen like any other.
"""

import dataclasses
import json
import traceback
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import gymnasium
import jax
import numpy as np
from gymnasium import logger, spaces
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import concatenate, create_empty_array
from gymnasium.wrappers.vector import FlattenObservation

from noisydqn.config import Config
from noisydqn.envs import catalogue
from noisydqn.envs.catalogue import Entry
from noisydqn.envs.guard import SUCCESS_KEYS, EnvironmentFailedError, guarded
from noisydqn.envs.history import History, SavedHistory, span_seed
from noisydqn.envs.spec import EnvironmentSpec, numbered
from noisydqn.errors import UserError
from noisydqn.types import TimeStep

BYTE = 255
SPAN_EPISODES = 8
"""Episodes that Atari's own vector plays under one seed: a seeded reset takes it as long as a
hundred steps, as the console boots anew."""
DEFAULT_RATE, OBSERVATION_RATE = 30.0, 15.0  # pictures a second; Atari decides 15 times a second


@dataclasses.dataclass(frozen=True)
class HostEnvironment:
    """Any environment of Gymnasium with discrete actions.

    Args:
        entry: its id, or what makes one.
        kwargs: arguments for it, as JSON.
        max_episode_steps: steps after which an episode is cut; None: its own limit.
        vectorisation: "sync", "subprocess" or "own", see `Config`.
    """

    entry: Entry
    kwargs: str
    max_episode_steps: int | None
    vectorisation: str

    @staticmethod
    def create(config: Config, entry: Entry) -> "HostEnvironment":
        """The environment of a config.

        Raises:
            UserError: it cannot be made, or has spaces that are not supported.
        """
        vectorisation = config.vectorisation
        if vectorisation == "auto":
            vectorisation = "own" if catalogue.is_atari(entry) else "sync"
        if vectorisation == "own" and not isinstance(entry, str):
            raise UserError("--vectorisation own needs an environment that is given by its id")
        limit = config.max_episode_steps
        env = HostEnvironment(entry, config.env_kwargs, limit, vectorisation)
        _ = env.spec  # refuse what is not supported now
        return env

    @cached_property
    def spec(self) -> EnvironmentSpec:
        """The interface of the environment."""
        vector = self.vector(1)
        try:
            return vector.spec
        finally:
            vector.close()

    def make(self, render_mode: str | None = None) -> gymnasium.Env[Any, Any]:
        """Make one environment."""
        return catalogue.make(
            self.entry,
            kwargs=json.loads(self.kwargs),
            max_episode_steps=self.max_episode_steps,
            render_mode=render_mode,
        )

    @cached_property
    def _metadata(self) -> dict[str, Any]:
        if self.vectorisation == "own":
            return {}
        env = self.make()
        env.close()
        if callable(self.entry):  # it draws as it was made, whatever it could
            return {**env.metadata, "render_modes": [env.render_mode]}
        return dict(env.metadata)

    @property
    def _draws(self) -> bool:
        return "rgb_array" in (self._metadata.get("render_modes") or ())

    @property
    def frame_rate(self) -> float | None:
        """Pictures a second, if there are any: drawn by the environment, or its observations."""
        if self._draws:
            return float(self._metadata.get("render_fps") or DEFAULT_RATE)
        is_image = len(self.spec.observation.shape) > 1
        is_image &= self.spec.observation.dtype == np.uint8
        return OBSERVATION_RATE if is_image else None

    def vector(
        self, num_envs: int, *, processes: bool = False, pictures: bool = False
    ) -> "HostVector":
        """Make some of them, in step.

        Args:
            num_envs: how many.
            processes: in processes of their own, if they were asked for.
            pictures: with `HostVector.picture`; only where `frame_rate` is not None.
        """
        if self.vectorisation == "own":
            assert isinstance(self.entry, str)  # noqa: S101 - checked when it was made
            kwargs = json.loads(self.kwargs)
            limit = self.max_episode_steps
            own = catalogue.make_own_vector(
                self.entry, num_envs, kwargs=kwargs, max_episode_steps=limit
            )
            return HostVector(own, own=True, seeds_some=catalogue.is_atari(self.entry))
        subprocess = processes and self.vectorisation == "subprocess"
        mode = "rgb_array" if pictures and self._draws else None
        makers = [
            partial(guarded, partial(self.make, mode), i, own_process=subprocess)
            for i in range(num_envs)
        ]
        if subprocess:
            # Not a fork: JAX's threads would not survive it.
            return HostVector(AsyncVectorEnv(makers, copy=False, context="spawn"), own=False)
        return HostVector(SyncVectorEnv(makers, copy=False), own=False, draws=mode is not None)


def _num_actions(space: spaces.Space[Any]) -> int:
    if not isinstance(space, spaces.Discrete):
        kind = "continuous" if isinstance(space, spaces.Box) else type(space).__name__
        raise UserError(
            f"the action space {space} is {kind}, expected Discrete: noisydqn learns a value for "
            "each action; wrap the environment so that it offers a list of actions"
        )
    return int(space.n)


def _final_stats(infos: dict[str, Any], last: np.ndarray) -> dict[str, np.ndarray]:
    """Return "success" [envs] from a vector's infos where an episode ended, else NaN."""
    for key in SUCCESS_KEYS:
        values = np.asarray(infos.get(key))
        if values.shape == last.shape and values.dtype.kind in "biuf":
            reported = last & np.asarray(infos.get(f"_{key}", last), bool)
            return {"success": np.where(reported, values, np.nan)} if reported.any() else {}
    return {}


@dataclasses.dataclass(frozen=True)
class _Encoding:
    """How observations of a Box become what is stored: type, and place of an image's channels."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    channels_first: bool

    @staticmethod
    def of(space: spaces.Box) -> "_Encoding":
        shape = space.shape
        # The channels are the shortest of the first and the last axis of three.
        channels_first = len(shape) == 3 and shape[0] < shape[2]
        full_bytes = space.dtype == np.uint8 and bool((space.high == BYTE).all())
        keep = full_bytes or space.dtype == np.bool_
        dtype = np.dtype(space.dtype if keep else np.float32)
        if channels_first:
            shape = (*shape[1:], shape[0])
        return _Encoding(shape, dtype, channels_first)

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        """Encode a batch; a copy, as the vector may use its memory again."""
        if self.channels_first:
            observations = np.moveaxis(observations, 1, -1)
        return np.array(observations, self.dtype, order="C")


class HostVector:
    """Environments in step, as time steps [num_envs, ...] in NumPy."""

    def __init__(
        self,
        vector: VectorEnv[Any, Any, Any],
        *,
        own: bool,
        draws: bool = False,
        seeds_some: bool = False,
    ) -> None:
        """Take over a vector of environments.

        `own`: it is no vector of guarded environments, but one that an id brings itself.
        `seeds_some`: such a vector can reset some environments, with a seed for each.
        """
        try:
            actions = vector.single_action_space
            num_actions = _num_actions(actions)
            space = vector.single_observation_space
            if not isinstance(space, spaces.Box):
                if not space.is_np_flattenable:
                    raise UserError(
                        f"the observation space {space} is not supported: expected Box, Discrete, "
                        "MultiDiscrete, MultiBinary, or Dict or Tuple of these; wrap the "
                        "environment so that it shows an array"
                    )
                vector = FlattenObservation(vector)
                space = vector.single_observation_space
            assert isinstance(space, spaces.Box)  # noqa: S101 - what flattening gives
            self._encode = _Encoding.of(space)
        except BaseException:
            vector.close()
            raise
        self._vector, self._own, self._draws = vector, own, draws
        self._seeds_some = seeds_some
        self._seeds = np.zeros(vector.num_envs, np.int64)
        self._history: History | None = None
        self._first_action = int(actions.start)  # pyright: ignore[reportAttributeAccessIssue]
        self._steps = 0
        self.stats: dict[str, np.ndarray] = {}
        """Statistics [envs] of the episodes that the newest step ended, such as "success"; NaN
        where an environment reported none."""
        observation = jax.ShapeDtypeStruct(self._encode.shape, self._encode.dtype)
        meanings = getattr(vector.unwrapped, "action_names", None)
        self.spec = EnvironmentSpec(observation, num_actions, meanings or numbered(num_actions))

    @property
    def num_envs(self) -> int:
        """How many environments there are."""
        return self._vector.num_envs

    def reset(self, seed: int) -> TimeStep:
        """Start an episode everywhere.

        Raises:
            EnvironmentFailedError: as `step`.
        """
        self._seeds = np.random.SeedSequence(seed).generate_state(self.num_envs)
        if self._own:
            observation = self._begin(np.zeros(self.num_envs, np.int64))
        else:
            seeds = [int(x) for x in self._seeds]
            observation, _ = self._call(self._vector.reset, seed=seeds)
        nothing = np.zeros(self.num_envs, bool)
        return self._time_step(observation, np.zeros(self.num_envs), nothing, nothing)

    def step(self, actions: np.ndarray) -> TimeStep:
        """Take one step everywhere; where an episode has ended, start one instead.

        Raises:
            EnvironmentFailedError: an environment raised, or gave what it did not declare.
        """
        self._steps += 1
        observation, reward, terminated, truncated, infos = self._call(
            self._vector.step, actions + self._first_action
        )
        history = self._history
        begun = np.zeros(self.num_envs, bool) if history is None else history.due()
        if self._own:
            if history is not None and begun.any():
                observation = self._begin(history.episode + 1, begun)
                reward, terminated, truncated = (
                    np.where(begun, 0, x).astype(x.dtype) for x in (reward, terminated, truncated)
                )
            self._check("observation", observation)
            self._check("reward", reward)
        time_step = self._time_step(observation, reward, terminated, truncated)
        self.stats = _final_stats(infos, np.asarray(time_step.last)) if infos else {}
        if history is not None:
            history.take(actions, np.asarray(time_step.reward), np.asarray(time_step.last), begun)
        return time_step

    def rest(self, envs: np.ndarray) -> None:
        """Where `envs`, play no more, which saves time; an id's own vector plays on."""
        if not self._own:
            self._call(self._guarded.call, "rest", envs.tolist())

    # Playing again what was played

    def remember(self) -> None:
        """Keep from now on what it takes to play again; to be called before the first reset."""
        period = None if self._own else 1
        self._history = History(self.num_envs, SPAN_EPISODES if self._seeds_some else period)

    @property
    def history(self) -> SavedHistory:
        """What it takes to play again."""
        assert self._history is not None  # noqa: S101 - `remember` was called
        return self._history.save()

    def restore(self, saved: SavedHistory, newest: TimeStep) -> np.ndarray:
        """Play again what was played; to be called after the reset with the same seed.

        Args:
            saved: what it takes.
            newest: the time step that it must lead to.

        Returns:
            Where it led elsewhere, [envs]: such an environment is not deterministic. Its next
            step starts an episode.

        Raises:
            EnvironmentFailedError: as `step`.
        """
        assert self._history is not None  # noqa: S101 - `remember` was called
        observation, total, over = (self._replay_own if self._own else self._replay)(saved)
        same = self._encode(observation) == np.asarray(newest.observation)
        same = same.reshape(self.num_envs, -1).all(axis=1)
        differs = ~(same & (total == saved.total) & (over == saved.over))
        if self._own and not self._seeds_some and differs.any():
            differs = np.ones(self.num_envs, bool)  # they can only be reset together
        self._history.load(saved)
        if differs.any():
            self._history.cut(differs)
            if not self._own:
                self._call(self._guarded.call, "cut", differs.tolist())
        return differs

    @property
    def _guarded(self) -> Any:
        return self._vector.unwrapped

    def _replay(self, saved: SavedHistory) -> tuple[Any, np.ndarray, np.ndarray]:
        actions = saved.actions + self._first_action
        taken = [actions[len(actions) - n :, i] for i, n in enumerate(saved.length)]
        seeds = [int(x) for x in self._seeds]
        played = self._call(self._guarded.call, "replay", seeds, saved.episode.tolist(), taken)
        observations, totals, over = zip(*played, strict=True)
        space = self._guarded.single_observation_space
        batch: Any = create_empty_array(space, self.num_envs)
        batch = concatenate(space, observations, batch)
        if isinstance(self._vector, FlattenObservation):
            batch = self._vector.observations(batch)
        return batch, np.array(totals), np.array(over)

    def _replay_own(self, saved: SavedHistory) -> tuple[Any, np.ndarray, np.ndarray]:
        """Each environment joins when as many steps are left as its span has."""
        total, over = np.zeros(self.num_envs), np.zeros(self.num_envs, bool)
        observation: Any = None
        for i in range(len(saved.actions) + 1):
            begins = saved.length == len(saved.actions) - i
            if begins.any():
                observation = self._begin(saved.span, begins)
                total, over = np.where(begins, 0, total), over & ~begins
            if i < len(saved.actions):
                step = self._call(self._vector.step, saved.actions[i] + self._first_action)
                observation, reward, terminated, truncated, _ = step
                total = total + reward.astype(np.float32)
                over = np.asarray(terminated | truncated)
        return observation, total, over

    def _begin(self, spans: np.ndarray, envs: np.ndarray | None = None) -> Any:
        """Seed and reset the environments of a vector of an id's own, or some; what all show."""
        pairs = zip(self._seeds, spans, strict=True)
        seeds = np.array([span_seed(int(seed), int(span)) for seed, span in pairs])
        if not self._seeds_some:
            return self._call(self._vector.reset, seed=int(seeds[0]))[0]
        if envs is None:
            return self._call(self._vector.reset, seed=seeds)[0]
        options = {"reset_mask": envs}
        return self._call(self._vector.reset, seed=seeds[envs], options=options)[0]

    def _call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function of the vector environment; whatever it raises is a failure of it."""
        level, logger.min_level = logger.min_level, logger.ERROR + 1  # we say it ourselves
        try:
            return function(*args, **kwargs)
        except EnvironmentFailedError:
            raise
        except Exception as error:
            raise EnvironmentFailedError(
                f"the environments failed at step {self._steps}: {type(error).__name__}: "
                f"{' '.join(str(error).split())}\n{traceback.format_exc()}"
            ) from error
        finally:
            logger.min_level = level

    def _check(self, name: str, values: np.ndarray) -> None:
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            env = int(np.argwhere(~np.isfinite(values))[0][0])
            raise EnvironmentFailedError(
                f"the environment failed at step {self._steps} of environment {env}: {name} is "
                "not finite; correct the environment"
            )

    def _time_step(
        self,
        observation: np.ndarray,
        reward: Any,
        terminated: Any,
        truncated: Any,
    ) -> TimeStep:
        encoded: Any = self._encode(observation)  # the arrays are NumPy's until they are stored
        return TimeStep(
            observation=encoded,
            reward=reward.astype(np.float32),
            terminated=terminated,
            truncated=truncated & ~terminated,
            info={},
        )

    def picture(self, time_step: TimeStep) -> np.ndarray:
        """What the first environment draws [height, width, 3] or, if nothing, what it shows."""
        if self._draws:
            drawn = self._vector.render()
            return np.asarray(drawn[0], np.uint8)  # pyright: ignore[reportOptionalSubscript]
        shown = np.asarray(time_step.observation[0])
        shown = shown[..., None] if shown.ndim == 2 else shown
        return np.repeat(shown[..., -1:], 3, axis=-1) if shown.shape[-1] != 3 else shown

    def close(self) -> None:
        """Close them all."""
        self._vector.close()
