"""Environments of Gymnasium: the only place where they become our `TimeStep`s.

A step after the last of an episode is a reset whose action is void, as in Gymnasium's
`AutoresetMode.NEXT_STEP`: final observations are seen like any other.
"""

import dataclasses
import json
import traceback
import warnings
from collections.abc import Callable
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import gymnasium
import numpy as np
from gymnasium import logger, spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import concatenate, create_empty_array
from gymnasium.wrappers import TimeLimit

from noisydqn.config.config import Config
from noisydqn.envs import catalogue
from noisydqn.envs.catalogue import Entry
from noisydqn.envs.encoding import Encoding
from noisydqn.envs.given import Instance
from noisydqn.envs.guard import SUCCESS_KEYS, GuardedEnv, guarded
from noisydqn.envs.history import History, SavedHistory, span_seed
from noisydqn.envs.pictures import as_picture, frame_rate
from noisydqn.envs.spaces import Box, Discrete, MultiBinary, MultiDiscrete, values_of
from noisydqn.envs.spec import EnvironmentSpec, Statistic
from noisydqn.envs.values import FLOAT32, MAX_FLOAT32, cast_quietly
from noisydqn.envs.workers import WorkerVector
from noisydqn.errors import (
    EnvironmentFailedError,
    NoPictureError,
    UserError,
    counted,
    in_one_line,
    is_stop,
)
from noisydqn.types import TimeStep

if TYPE_CHECKING:
    from noisydqn.envs.device import DeviceEnvironment

R = TypeVar("R")

SPAN_EPISODES = 8
"""Episodes that Atari's own vector plays under one seed: a seeded reset takes it as long as a
hundred steps, as the console boots anew."""
OBSERVATION_RATE = 15.0  # pictures a second; Atari decides 15 times a second
SUCCESS = Statistic(
    "success_rate",
    "of the episodes succeeded",
    part="success",
    style=".0%",
    meaning="Share of the episodes played without noise whose last info reports a success.",
)
PICTURE_MODES = {"rgb_array", "rgb_array_list"}


class Notices:
    """Tells each line once.

    Args:
        tell: where the lines go; None holds them back until it is set.
    """

    def __init__(self, tell: Callable[[str], None] | None = warnings.warn) -> None:
        self._tell = tell
        self._lines: dict[str, None] = {}

    def __call__(self, line: str) -> None:
        """Tell a line, unless it was told before."""
        if line not in self._lines:
            self._lines[line] = None
            if self._tell is not None:
                self._tell(line)

    def tell(self, tell: Callable[[str], None]) -> None:
        """Let the lines go to `tell` from now on, first those that were held back."""
        held = [] if self._tell is not None else list(self._lines)
        self._tell = tell
        for line in held:
            tell(line)


class _Probe(NamedTuple):
    """What one instance of an environment says of itself."""

    spec: EnvironmentSpec
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    rate: float | None  # pictures a second, if it draws any


@dataclasses.dataclass(frozen=True, eq=False)
class HostEnvironment:
    """Any environment of Gymnasium with discrete actions.

    Args:
        entry: its id or spec, or what makes one.
        kwargs: arguments for it, as JSON.
        max_episode_steps: steps after which an episode is truncated; None: its own limit.
        vectorization: "sync", "subprocess" or "own", see `Config`.
        step_timeout: seconds after which a worker process that gives no answer hangs.
        notices: told of what goes wrong but ends nothing.
    """

    entry: Entry
    kwargs: str
    max_episode_steps: int | None
    vectorization: str
    step_timeout: float = 600.0
    notices: Notices = dataclasses.field(default_factory=Notices)

    @staticmethod
    def create(config: Config, entry: Entry, notices: Notices | None = None) -> "HostEnvironment":
        """The environment of a config; `notices` is told of what goes wrong but ends nothing.

        Raises:
            UserError: it cannot be made, or has spaces that are not supported.
        """
        vectorization = config.vectorization
        if vectorization == "auto":
            vectorization = "own" if catalogue.is_atari(entry) else "sync"
        if vectorization == "own" and not isinstance(entry, str):
            raise UserError("--vectorization own needs an environment that is given by its id")
        if isinstance(entry, Instance):
            _check_instance(config)
        limit, timeout = config.max_episode_steps, config.step_timeout
        notices = Notices() if notices is None else notices
        env = HostEnvironment(entry, config.env_kwargs, limit, vectorization, timeout, notices)
        _ = env.spec  # refuse what is not supported now
        return env

    @cached_property
    def _probe(self) -> _Probe:
        vector = self.vector(1)
        try:
            observation_space, action_space = vector.spaces
            return _Probe(vector.spec, observation_space, action_space, self._rate(vector))
        finally:
            vector.close()

    def _rate(self, vector: "HostVector") -> float | None:
        """Pictures a second, None if it draws none."""
        if self.vectorization == "own":
            return None
        modes = vector.metadata.get("render_modes") or ()
        if not isinstance(self.entry, str | EnvSpec):  # it draws as it was made, whatever it could
            modes = () if vector.render_mode is None else (vector.render_mode,)
        if not PICTURE_MODES.intersection(modes):
            return None
        return frame_rate(vector.metadata.get("render_fps"))

    @property
    def spec(self) -> EnvironmentSpec:
        """The interface of the environment."""
        return self._probe.spec

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        """The share of successes, where the environment reports them."""
        return (SUCCESS,)

    @property
    def trains_seeds_together(self) -> bool:
        """False: a run has environments of its own, one seed after the other."""
        return False

    @property
    def plays_one_at_a_time(self) -> bool:
        """True: of some environments only one can be made."""
        return True

    def tell_notices(self, tell: Callable[[str], None]) -> None:
        """Let lines about what goes wrong but ends nothing go to `tell` from now on."""
        self.notices.tell(tell)

    def by_kind(
        self,
        *,
        device: "Callable[[DeviceEnvironment], R]",
        host: "Callable[[HostEnvironment], R]",
    ) -> R:
        """Call `host`."""
        del device
        return host(self)

    def make(self, render_mode: str | None = None) -> gymnasium.Env[Any, Any]:
        """Make one environment.

        Raises:
            UserError: it cannot be made.
        """
        return self._maker(render_mode)()

    def _maker(self, render_mode: str | None) -> Callable[[], gymnasium.Env[Any, Any]]:
        # Of functions alone, so that a worker process need not import JAX.
        return partial(
            catalogue.make,
            self.entry,
            kwargs=json.loads(self.kwargs),
            max_episode_steps=self.max_episode_steps,
            render_mode=render_mode,
        )

    @property
    def frame_rate(self) -> float | None:
        """Pictures a second, if there are any: drawn by the environment, or its observations."""
        if self._probe.rate is not None:
            return self._probe.rate
        is_image = len(self.spec.observation.shape) > 1
        is_image &= self.spec.observation.dtype == np.uint8
        return OBSERVATION_RATE if is_image else None

    @property
    def video_problem(self) -> str | None:
        """The reason, in a line, why no video can be made, or None: found by drawing one."""
        return self._video_problem

    @cached_property
    def _video_problem(self) -> str | None:
        if self.frame_rate is None:
            if self.vectorization == "own":
                return (
                    "--vectorization own draws no pictures, and the environment's observations are "
                    "not images: train with --vectorization sync"
                )
            return (
                "the environment draws no pictures (its render mode is not rgb_array) and its "
                "observations are not images"
            )
        try:
            vector = self.vector(1, pictures=True)
            try:
                vector.picture(vector.reset(0))
            finally:
                vector.close()
        except UserError as error:
            cause = error.__cause__
            if isinstance(cause, gymnasium.error.DependencyNotInstalled):
                name = catalogue.name_of(self.entry)
                return f"to draw pictures, {name} {catalogue.missing_package(cause)}"
            return str(error)
        return None

    def vector(
        self,
        num_envs: int,
        *,
        processes: bool = False,
        pictures: bool = False,
        max_steps: int | None = None,
        fewer: bool = False,
    ) -> "HostVector":
        """Make some of them, in lockstep.

        Args:
            num_envs: how many.
            processes: in processes of their own, if they were asked for.
            pictures: with `HostVector.picture`; only where `frame_rate` is not None.
            max_steps: steps after which episodes are truncated, beside the environment's own
                limit; a vector of an id's own does not know it.
            fewer: make do with fewer than `num_envs`, where no more can be made.

        Raises:
            UserError: they cannot be made; with `fewer`, not even one, whatever the reason.
            EnvironmentFailedError: a constructor raised, without `fewer`.
        """
        if self.vectorization == "own":
            assert isinstance(self.entry, str)  # noqa: S101 - checked when it was made
            kwargs = json.loads(self.kwargs)
            limit = self.max_episode_steps
            own = catalogue.make_own_vector(
                self.entry, num_envs, kwargs=kwargs, max_episode_steps=limit
            )
            seeds_some = catalogue.is_atari(self.entry)
            return HostVector(own, own=True, seeds_some=seeds_some, notices=self.notices)
        if processes and self.vectorization == "subprocess":
            maker = self._maker(None)
            workers = WorkerVector(
                [partial(guarded, maker, i) for i in range(num_envs)],
                self._probe.observation_space,
                self._probe.action_space,
                timeout=self.step_timeout,
                notice=self.notices,
            )
            return HostVector(workers, own=False, notices=self.notices)
        draws = pictures and self._probe.rate is not None
        mode = "rgb_array" if draws else None
        envs = self._made(num_envs, mode, max_steps, fewer=fewer)
        vector = SyncVectorEnv([partial(_given, env) for env in envs], copy=False)
        return HostVector(vector, own=False, draws=draws, notices=self.notices)

    def _made(
        self, num_envs: int, render_mode: str | None, max_steps: int | None, *, fewer: bool
    ) -> list[GuardedEnv]:
        """Make environments one after the other, which must have the same spaces."""
        envs: list[GuardedEnv] = []
        make = self._maker(render_mode)
        if max_steps is not None:
            make = partial(_limited, make, max_steps)
        if fewer and isinstance(self.entry, Instance):
            num_envs = 1
        try:
            for i in range(num_envs):
                envs.append(guarded(make, i, self.notices))
                _check_same_spaces(envs[0], envs[-1])
        except BaseException as error:
            if fewer and len(envs) > 0 and isinstance(error, UserError):
                made = counted(len(envs), "environment")
                self.notices(f"evaluating with {made}, not {num_envs}: {error}")
                return envs
            for env in envs:
                env.close()
            if fewer and isinstance(error, EnvironmentFailedError):  # those that train are sound
                raise UserError(str(error)) from error
            raise
        return envs


def _limited(
    make: Callable[[], gymnasium.Env[Any, Any]], max_steps: int
) -> gymnasium.Env[Any, Any]:
    return TimeLimit(make(), max_steps)


def _given(env: GuardedEnv) -> GuardedEnv:
    return env


def _check_instance(config: Config) -> None:
    """Refuse options that need a second instance of an environment, where there is but one."""
    needs = {
        f"--num-envs {config.num_envs}": config.num_envs > 1,
        f"--evaluation-every {config.evaluation_every}": config.evaluation_every > 0,
        f"--stop-at-evaluation {config.stop_at_evaluation}": config.stop_at_evaluation is not None,
        f"--vectorization {config.vectorization}": config.vectorization == "subprocess",
        f"--env-kwargs {config.env_kwargs}": bool(json.loads(config.env_kwargs)),
    }
    asked = [option for option, is_asked in needs.items() if is_asked]
    if asked:
        raise UserError(
            f"{asked[0]} needs more than the one instance that was given as env, which cannot be "
            "made again: give a function that makes one"
        )


def _check_same_spaces(first: GuardedEnv, other: GuardedEnv) -> None:
    pairs = {
        "observation": (first.observation_space, other.observation_space),
        "action": (first.action_space, other.action_space),
    }
    for name, (one, another) in pairs.items():
        if one != another:
            raise UserError(
                f"two environments that were made alike have the {name} spaces {one} and "
                f"{another}, expected equal ones: correct the environment"
            )


def _final_stats(infos: dict[str, Any], last: np.ndarray) -> dict[str, np.ndarray]:
    """Return "success" [envs] from a vector's infos where an episode ended, else NaN."""
    for key in SUCCESS_KEYS:
        values = np.asarray(infos.get(key))
        if values.shape == last.shape and values.dtype.kind in "biuf":
            reported = last & np.asarray(infos.get(f"_{key}", last), bool)
            return {"success": np.where(reported, values, np.nan)} if reported.any() else {}
    return {}


class HostVector:
    """Environments in step, as time steps [num_envs, ...] in NumPy."""

    def __init__(
        self,
        vector: VectorEnv[Any, Any, Any],
        *,
        own: bool,
        draws: bool = False,
        seeds_some: bool = False,
        notices: Callable[[str], None] = warnings.warn,
    ) -> None:
        """Take over a vector of environments.

        `own`: it is not a vector of guarded environments, but one that an id brings itself.
        `seeds_some`: such a vector can reset some environments, with a seed for each.
        `notices`: told, in a line, of what goes wrong while closing.
        """
        self._vector, self._notices = vector, notices
        self.spaces = vector.single_observation_space, vector.single_action_space
        self.metadata: dict[str, Any] = dict(vector.metadata or {})
        self.render_mode = vector.render_mode
        try:
            names = getattr(vector.unwrapped, "action_names", None)
            encoding = Encoding.of(*self.spaces, names)
        except BaseException:
            self.close()
            raise
        self._vector, self._own, self._draws = vector, own, draws
        self._seeds_some = seeds_some
        self._seeds = np.zeros(vector.num_envs, np.int64)
        self._history: History | None = None
        self._encode, self._first_action = encoding.encode, encoding.actions.start
        self._steps = 0
        self.stats: dict[str, np.ndarray] = {}
        """Statistics [envs] of the episodes that the newest step ended, such as "success"; NaN
        where an environment reported none."""
        self.spec = EnvironmentSpec.of(encoding)

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
        if self._own and history is not None and begun.any():
            observation = self._begin(history.episode + 1, begun)
            reward, terminated, truncated = (
                np.where(begun, 0, x).astype(x.dtype) for x in (reward, terminated, truncated)
            )
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
        same = self._encoded(observation) == np.asarray(newest.observation)
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
        self,
        observation: Any,
        reward: Any,
        terminated: Any,
        truncated: Any,
    ) -> TimeStep:
        dtype = np.dtype(self.spec.observation.dtype)
        if self._own:  # others are checked by their guards
            self._check("reward", reward, FLOAT32)
            if isinstance(observation, np.ndarray):
                self._check("observation", observation, dtype)
        encoded: Any = self._encoded(observation)  # the arrays are NumPy's until they are stored
        if self._own and not isinstance(observation, np.ndarray):
            self._check("observation", encoded, dtype)
        return TimeStep(
            observation=encoded,
            reward=reward.astype(np.float32),
            terminated=terminated,
            truncated=truncated & ~terminated,
            info={},
        )

    def _encoded(self, observation: Any) -> np.ndarray:
        encoding = self.spec.encoding
        if self._own and not isinstance(encoding.observation, Box):
            values = values_of(encoding.observation, observation)
            for (part, name), value in zip(encoding.parts, values, strict=True):
                if not isinstance(part, Box):
                    self._check_categories(part, name.removeprefix("the "), np.asarray(value))
        return self._encode(observation)

    def _check_categories(
        self, space: Discrete | MultiDiscrete | MultiBinary, name: str, values: np.ndarray
    ) -> None:
        """Check categories before they become one-hot, which those outside their space cannot."""
        expected = (self.num_envs, *space.shape)
        if values.shape != expected or values.dtype.kind not in "biuf":
            raise self._failure(
                f"{name} is {values.dtype} {list(values.shape)}, expected integers {list(expected)}"
            )
        whole = cast_quietly(values, np.dtype(np.int64))
        fine = (whole == values) & space.inside(whole)
        if not fine.all():
            place = np.argwhere(~fine)[0]
            inside = list(map(int, place[1:])) or ""
            raise self._failure(
                f"{name}{inside} is {values[tuple(place)]}, expected {space.expected}",
                int(place[0]),
            )

    def _failure(self, what: str, env: int | None = None) -> EnvironmentFailedError:
        where = "" if env is None else f" of environment {env}"
        return EnvironmentFailedError(
            f"the environment failed at step {self._steps}{where}: {what}; correct the environment"
        )

    def _check(self, name: str, values: np.ndarray, stored: np.dtype[Any]) -> None:
        """Check what is stored as another type; beyond float32 it would become infinite."""
        if values.dtype == stored and stored.kind != "f":
            return
        if stored.kind != "f":
            fine = cast_quietly(values, stored) == values
        elif values.dtype.itemsize > FLOAT32.itemsize:
            fine = np.abs(values) <= MAX_FLOAT32
        else:
            fine = np.isfinite(values)
        if not fine.all():
            place = np.argwhere(~fine)[0]
            raise self._failure(
                f"{name} is {values[tuple(place)]}, which cannot be stored as {stored}",
                int(place[0]),
            )

    def picture(self, time_step: TimeStep) -> np.ndarray:
        """What the first environment draws [height, width, 3] or, if nothing, what it shows.

        Raises:
            EnvironmentFailedError: it raised, or what it drew is not a picture.
        """
        if self._draws:
            drawn: Any = self._call(self._vector.render)
            try:
                return as_picture(drawn[0])
            except NoPictureError as error:
                raise EnvironmentFailedError(
                    f"the environment drew no picture at step {self._steps}: {error}"
                ) from error
        shown = np.asarray(time_step.observation[0])
        shown = shown[..., None] if shown.ndim == 2 else shown
        return np.repeat(shown[..., -1:], 3, axis=-1) if shown.shape[-1] != 3 else shown

    def close(self) -> None:
        """Close them all; what goes wrong with that is noticed and goes no further."""
        try:
            self._vector.close()
        except BaseException as error:
            if is_stop(error):
                raise
            self._notices(f"closing the environments raised {in_one_line(error)}; it was ignored")
