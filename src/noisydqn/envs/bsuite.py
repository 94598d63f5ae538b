"""The experiments of bsuite, by name: `bsuite:catch/0` (Osband et al. 2020).

DeepSea runs on the device, by the rules of `deep_sea`. Everything else is bsuite's own environment
with the interface of dm_env, which `BsuiteEnv` turns into Gymnasium's.
"""

import difflib
import importlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from noisydqn.envs.deep_sea import DeepSea
from noisydqn.envs.device import DeviceEnvironment
from noisydqn.envs.host import HostEnvironment
from noisydqn.envs.names import BSUITE
from noisydqn.envs.notices import Notices
from noisydqn.envs.options import EnvironmentOptions
from noisydqn.errors import MissingExtraError, UserError, in_one_line

DEEP_SEAS = {"deep_sea": True, "deep_sea_stochastic": False}
"""Experiments with DeepSea, and whether they are deterministic."""

RAW_RETURN, BEST_EPISODE = "raw_return", "best_episode"
"""Two counts of bsuite. The second is the largest raw return of an episode, or 0, and not a sum."""
DIGITS = 6
"""Digits that differences of counts have, of which all are multiples of 0.1. A resumed run counts
from elsewhere, and would otherwise differ in the last bits."""


def sweep() -> Any:
    """Import `bsuite.sweep`, which lists the experiments and their settings.

    Raises:
        MissingExtraError: bsuite is not installed.
    """
    try:
        return importlib.import_module("bsuite.sweep")
    except ImportError as error:
        raise MissingExtraError(
            f"bsuite needs a package that is not installed ({error}): pip install "
            "'noisydqn[bsuite]'"
        ) from error


def settings_of(bsuite_id: str) -> Mapping[str, Any]:
    """Return the arguments of an experiment's setting, such as "deep_sea/7".

    Raises:
        UserError: there is no such setting, or bsuite is not installed.
    """
    settings: Mapping[str, Mapping[str, Any]] = sweep().SETTINGS
    if bsuite_id not in settings:
        raise _unknown("setting", bsuite_id, settings, _experiments(settings))
    return settings[bsuite_id]


class BsuiteEnv(gymnasium.Env[np.ndarray, np.int64]):
    """An environment of bsuite for Gymnasium.

    The `info` of an episode's last step holds bsuite's counts, such as `total_regret`, of this
    episode alone. Those of a run are their sums.

    A seed replaces those of bsuite's settings, of which many leave theirs open.

    Args:
        bsuite_id: the experiment and the number of its setting, such as "catch/0".

    Raises:
        UserError: there is no such setting, bsuite is not installed, or its data cannot be
            downloaded.
    """

    def __init__(self, bsuite_id: str) -> None:
        settings = settings_of(bsuite_id)
        bsuite: Any = importlib.import_module("bsuite")
        try:
            self._env: Any = bsuite.load(bsuite_id.partition("/")[0], settings)
        except OSError as error:  # of mnist, which fetches its images
            raise UserError(
                f"bsuite's {bsuite_id} cannot be made ({in_one_line(error)}): bsuite downloads its "
                "data when it is first made; go online, or leave it out"
            ) from error
        self.observation_space = _box(self._env.observation_spec())
        self.action_space = spaces.Discrete(self._env.action_spec().num_values)
        self._before = self._counts()
        self.episode_counts = tuple(self._before)

    def _counts(self) -> dict[str, float]:
        counts = self._env.bsuite_info().items()
        return {name: float(x) for name, x in counts if name != BEST_EPISODE}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode."""
        super().reset(seed=seed, options=options)
        if seed is not None:
            generators = list(_generators(self._env))
            seeds = np.random.SeedSequence(seed).generate_state(len(generators))
            for generator, own in zip(generators, seeds, strict=True):
                generator.seed(own)
        self._before = self._counts()
        return self._env.reset().observation, {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take a step."""
        step = self._env.step(int(action))
        info: dict[str, Any] = {}
        if step.last():
            for name, count in self._counts().items():
                info[name] = round(count - self._before[name], DIGITS)
        terminated = bool(step.last() and step.discount == 0)
        truncated = step.last() and not terminated
        return step.observation, float(step.reward), terminated, truncated, info


def _box(spec: Any) -> spaces.Box:
    """Return the space of an array's spec of dm_env; without bounds, all numbers of its type."""
    low, high = getattr(spec, "minimum", -np.inf), getattr(spec, "maximum", np.inf)
    return spaces.Box(
        np.broadcast_to(low, spec.shape).astype(spec.dtype),
        np.broadcast_to(high, spec.shape).astype(spec.dtype),
        dtype=spec.dtype,
    )


def _generators(env: Any) -> Iterator[np.random.RandomState]:
    """Yield the random generators of an environment of bsuite and of those that it wraps.

    bsuite offers no way to seed an environment after it was made, but keeps its generators under
    one name.
    """
    while env is not None:
        own = vars(env)
        if isinstance(own.get("_rng"), np.random.RandomState):
            yield own["_rng"]
        env = own.get("_env")


def make(
    options: EnvironmentOptions, notices: Notices | None = None
) -> DeviceEnvironment | HostEnvironment:
    """Make the environment of an experiment's setting.

    Raises:
        UserError: there is no such setting, bsuite is not installed, or there are arguments beside
            those of the setting.
    """
    bsuite_id = options.env.removeprefix(BSUITE)
    settings = settings_of(bsuite_id)
    if json.loads(options.env_kwargs):
        raise UserError(f"--env-kwargs: {options.env} takes none, as bsuite sets its arguments")
    experiment = bsuite_id.partition("/")[0]
    if experiment in DEEP_SEAS:
        sea = DeepSea(**settings, deterministic=DEEP_SEAS[experiment])
        return DeviceEnvironment.from_options(options, sea, cache_key=repr(sea))
    entry = EnvSpec(
        options.env, f"{__name__}:{BsuiteEnv.__name__}", kwargs={"bsuite_id": bsuite_id}
    )
    return HostEnvironment.create(options, entry, notices)


def settings_named(names: Sequence[str]) -> list[str]:
    """Return the settings that names of experiments, tags or settings stand for, in bsuite's order.

    Args:
        names: such as "deep_sea", "exploration" or "deep_sea/7".

    Raises:
        UserError: one of them is not known, or bsuite is not installed.
    """
    of_tags: Mapping[str, Sequence[str]] = sweep().TAGS
    settings: Mapping[str, Any] = sweep().SETTINGS
    experiments, chosen = _experiments(settings), set[str]()
    for name in names:
        if name in of_tags:
            chosen |= set(of_tags[name])
        elif name in experiments:
            chosen |= {known for known in settings if known.partition("/")[0] == name}
        elif name in settings:
            chosen.add(name)
        else:
            listed = [*of_tags, *experiments]
            raise _unknown("experiment, tag or setting", name, [*listed, *settings], listed)
    return [known for known in settings if known in chosen]


def _experiments(settings: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(known.partition("/")[0] for known in settings))


def _unknown(what: str, name: str, known: Iterable[str], listed: Iterable[str]) -> UserError:
    near = difflib.get_close_matches(name, list(known), n=3)
    hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(listed)}"
    return UserError(f"bsuite has no {what} {name!r}: {hint}")
