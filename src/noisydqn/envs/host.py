"""The adapter for environments of Gymnasium, which makes them alone and in vectors."""

import dataclasses
import json
from collections.abc import Callable
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers import TimeLimit

from noisydqn.envs import catalogue
from noisydqn.envs.action_masks import Source
from noisydqn.envs.backends import GuardedBackend, NativeBackend, SeedEach, SeedTogether
from noisydqn.envs.catalogue import Entry
from noisydqn.envs.given import Instance, refuse_for_instance
from noisydqn.envs.guard import GuardedEnv, guarded
from noisydqn.envs.images import AUTO
from noisydqn.envs.notices import Notices
from noisydqn.envs.options import EnvironmentOptions
from noisydqn.envs.pictures import frame_rate
from noisydqn.envs.spec import EnvironmentSpec, Statistic
from noisydqn.envs.vectors import HostVector
from noisydqn.envs.workers import WorkerVector
from noisydqn.errors import EnvironmentFailedError, UserError, counted
from noisydqn.types import Mixed

if TYPE_CHECKING:
    from noisydqn.envs.device import DeviceEnvironment

R = TypeVar("R")

OBSERVATION_RATE = 15.0  # pictures per second; Atari decides 15 times per second
SUCCESS = Statistic(
    "success_rate",
    "of the episodes succeeded",
    part="success",
    style=".0%",
    meaning="Share of the episodes played without noise whose last info reports a success.",
)
PICTURE_MODES = {"rgb_array", "rgb_array_list"}


class _Probe(NamedTuple):
    """The properties of one instance of an environment."""

    spec: EnvironmentSpec
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    rate: float | None  # pictures per second; None if it renders none
    counts: tuple[str, ...]  # its `episode_counts`
    masks: Source | None  # where it gives action masks


@dataclasses.dataclass(frozen=True, eq=False)
class HostEnvironment:
    """Any environment of Gymnasium whose actions can be listed or divided into bins.

    Args:
        entry: its id or spec, or a function that makes one.
        kwargs: its arguments, as JSON.
        max_episode_steps: steps after which an episode is truncated; None keeps the environment's
            own limit.
        vectorization: "sync", "subprocess" or "own", see `EnvironmentOptions`.
        step_timeout: seconds after which a worker process without an answer counts as hanging.
        images: the parts of observations that are images, see `EnvironmentOptions`.
        masks: whether action masks are looked for.
        bins: values of each number of actions that are a box, see `EnvironmentOptions`.
        notices: receives lines about problems that do not end a run.
    """

    entry: Entry
    kwargs: str
    max_episode_steps: int | None
    vectorization: str
    step_timeout: float = 600.0
    images: tuple[str, ...] = (AUTO,)
    notices: Notices = dataclasses.field(default_factory=Notices)
    masks: bool = True
    bins: int | None = None

    @staticmethod
    def create(
        options: EnvironmentOptions, entry: Entry, notices: Notices | None = None
    ) -> "HostEnvironment":
        """Make an environment; `notices` receives lines about problems that do not end a run.

        Raises:
            UserError: it cannot be made, or has spaces that are not supported.
        """
        vectorization = options.vectorization
        if vectorization == "auto":
            vectorization = "own" if catalogue.is_atari(entry) else "sync"
        if vectorization == "own" and not isinstance(entry, str):
            raise UserError("--vectorization own needs an environment that is given by its id")
        if isinstance(entry, Instance):
            _check_instance(options)
        limit, timeout = options.max_episode_steps, options.step_timeout
        notices = Notices() if notices is None else notices
        env = HostEnvironment(
            *(entry, options.env_kwargs, limit, vectorization, timeout, options.images, notices),
            bins=options.action_bins,
        )
        _ = env.spec  # refuse spaces that are not supported before anything else happens
        return env

    @cached_property
    def _probe(self) -> _Probe:
        vector, masks = self._first_vector()
        try:
            observation_space, action_space = vector.spaces
            rate, counts = self._rate(vector), vector.counts
            return _Probe(vector.spec, observation_space, action_space, rate, counts, masks)
        finally:
            vector.close()

    def _first_vector(self) -> tuple["HostVector", Source | None]:
        """Make a vector of one environment, and find out where that gives action masks."""
        if self.vectorization == "own":
            return self._own_vector(1), None
        (env,) = self._made(1, None, None)
        try:
            masks = env.detect_masks() if self.masks else None
        except BaseException:
            env.close()
            raise
        return self._in_lockstep([env], masks), masks

    def _rate(self, vector: "HostVector") -> float | None:
        """Return the pictures per second; None if the environment renders none."""
        if self.vectorization == "own":
            return None
        modes = vector.metadata.get("render_modes") or ()
        if not isinstance(self.entry, str | EnvSpec):  # its render mode is fixed
            modes = () if vector.render_mode is None else (vector.render_mode,)
        if not PICTURE_MODES.intersection(modes):
            return None
        return frame_rate(vector.metadata.get("render_fps"))

    @property
    def spec(self) -> EnvironmentSpec:
        """The interface of the environment."""
        return self._probe.spec

    @property
    def episode_counts(self) -> tuple[str, ...]:
        """The names of numbers beside "success" that it reports at an episode's end."""
        return self._probe.counts

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        """The share of successes, where the environment reports them."""
        return (SUCCESS,)

    @property
    def trains_seeds_together(self) -> bool:
        """False: seeds are trained one after the other, each with its own environments."""
        return False

    @property
    def plays_one_at_a_time(self) -> bool:
        """True: some environments can be made only once."""
        return True

    def tell_notices(self, tell: Callable[[str], None]) -> None:
        """Send notices to `tell` from now on: lines about problems that do not end a run."""
        self.notices.tell(tell)

    def with_notices(self, notices: Notices) -> "HostEnvironment":
        """Return the same environment with another receiver of notices."""
        return dataclasses.replace(self, notices=notices)

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
        # Made of functions only, so that a worker process need not import JAX.
        return partial(
            catalogue.make,
            self.entry,
            kwargs=json.loads(self.kwargs),
            max_episode_steps=self.max_episode_steps,
            render_mode=render_mode,
        )

    @property
    def frame_rate(self) -> float | None:
        """Pictures per second, of renderings or of observations; None if there are neither."""
        if self._probe.rate is not None:
            return self._probe.rate
        seen = self.spec.observation
        parts = seen.images.values() if isinstance(seen, Mixed) else (seen,)
        is_image = any(len(part.shape) > 1 and part.dtype == np.uint8 for part in parts)
        return OBSERVATION_RATE if is_image else None

    @property
    def video_problem(self) -> str | None:
        """The reason, in a line, why no video can be made, or None: found by rendering one."""
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
        check: Callable[[], None] = lambda: None,
    ) -> "HostVector":
        """Make a vector of environments in lockstep.

        Args:
            num_envs: number of environments.
            processes: in worker processes, if `vectorization` is "subprocess".
            pictures: able to return `HostVector.picture`; only if `frame_rate` is not None.
            max_steps: steps after which episodes are truncated, besides the environment's own
                limit; a native vector ignores it.
            fewer: accept fewer than `num_envs` environments if no more can be made.
            check: called while worker processes are waited for; it may raise to stop waiting.

        Raises:
            UserError: the environments cannot be made; with `fewer`, not even one can, whatever
                the reason.
            EnvironmentFailedError: a constructor raised, without `fewer`.
        """
        if self.vectorization == "own":
            return self._own_vector(num_envs)
        masks = self._probe.masks
        if processes and self.vectorization == "subprocess":
            maker = self._maker(None)
            workers = WorkerVector(
                [partial(guarded, maker, i, masks=self._of_guard(masks)) for i in range(num_envs)],
                self._probe.observation_space,
                self._probe.action_space,
                timeout=self.step_timeout,
                notice=self.notices,
                check=check,
            )
            backend = GuardedBackend(workers, counts=self._probe.counts, masks=masks)
            return HostVector(backend, self.notices, self.images, self.bins)
        renders = pictures and self._probe.rate is not None
        mode = "rgb_array" if renders else None
        envs = self._made(num_envs, mode, max_steps, fewer=fewer, masks=masks)
        return self._in_lockstep(envs, masks, renders=renders)

    def _of_guard(self, masks: Source | None) -> Source | Literal["ignored"] | None:
        return masks if self.masks else "ignored"

    def _own_vector(self, num_envs: int) -> "HostVector":
        """Make the vector that the environment's id registers."""
        assert isinstance(self.entry, str)  # noqa: S101 - checked when it was made
        own = catalogue.make_own_vector(
            self.entry,
            num_envs,
            kwargs=json.loads(self.kwargs),
            max_episode_steps=self.max_episode_steps,
        )
        seeding = SeedEach() if catalogue.is_atari(self.entry) else SeedTogether()
        return HostVector(NativeBackend(own, seeding), self.notices, self.images, self.bins)

    def _in_lockstep(
        self, envs: list[GuardedEnv], masks: Source | None, *, renders: bool = False
    ) -> "HostVector":
        """Make a vector of environments in this process."""
        vector = SyncVectorEnv([partial(_given, env) for env in envs], copy=False)
        counts = envs[0].episode_counts
        backend = GuardedBackend(vector, renders=renders, counts=counts, masks=masks)
        return HostVector(backend, self.notices, self.images, self.bins)

    def _made(
        self,
        num_envs: int,
        render_mode: str | None,
        max_steps: int | None,
        *,
        fewer: bool = False,
        masks: Source | None = None,
    ) -> list[GuardedEnv]:
        """Make environments one after the other, and check that their spaces are the same."""
        envs: list[GuardedEnv] = []
        make = self._maker(render_mode)
        if max_steps is not None:
            make = partial(_limited, make, max_steps)
        if fewer and isinstance(self.entry, Instance):
            num_envs = 1
        try:
            for i in range(num_envs):
                envs.append(guarded(make, i, self.notices, self._of_guard(masks)))
                _check_same_spaces(envs[0], envs[-1])
        except BaseException as error:
            if fewer and len(envs) > 0 and isinstance(error, UserError):
                made = counted(len(envs), "environment")
                self.notices(f"evaluating with {made}, not {num_envs}: {error}")
                return envs
            for env in envs:
                env.close()
            if fewer and isinstance(error, EnvironmentFailedError):  # training has its own
                raise UserError(str(error)) from error
            raise
        return envs


def _limited(
    make: Callable[[], gymnasium.Env[Any, Any]], max_steps: int
) -> gymnasium.Env[Any, Any]:
    return TimeLimit(make(), max_steps)


def _given(env: GuardedEnv) -> GuardedEnv:
    return env


def _check_instance(options: EnvironmentOptions) -> None:
    refuse_for_instance(
        {
            f"--vectorization {options.vectorization}": options.vectorization == "subprocess",
            f"--env-kwargs {options.env_kwargs}": bool(json.loads(options.env_kwargs)),
        }
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
