"""Checks of an environment before training: Gymnasium's own, and a look at random play.

`GuardedEnv` refuses values that training cannot use. What is found here does not keep an
environment from being trained on, but often from being learned.
"""

import math
import re
import time
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env

from noisydqn.envs.action_masks import REST
from noisydqn.envs.device_vector import STUCK, VectorEnvironment, stuck_error
from noisydqn.envs.given import Instance
from noisydqn.envs.guard import guarded
from noisydqn.envs.protocol import Environment
from noisydqn.envs.spaces import Box
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.errors import counted, in_one_line, is_stop
from noisydqn.types import Mixed, Observation, TimeStep

if TYPE_CHECKING:
    from noisydqn.envs.device import DeviceEnvironment
    from noisydqn.envs.host import HostEnvironment

STEPS = 1_000
SECONDS = 30.0
"""The longest that random play takes."""
PATIENCE = 0.2
"""The longest reset, in seconds, of an environment that is checked before training."""
REPEATED = 100
"""Steps that are played twice with one seed."""
LARGE_OBSERVATION, LARGE_REWARD = 1_000.0, 100.0
TESTED = ("gymnasium.", "ale_py", "minatar", "noisydqn.", "shimmy", "bsuite")
"""Modules of environments that need no check before training."""
TELLING = ("not within the observation space", "are equal", "greater than a high", "NaN", "inf ")
"""Parts of those warnings of Gymnasium that say more than the guard does."""
COLOR = re.compile(r"\x1b\[[0-9;]*m")


class Played(NamedTuple):
    """Random play in one environment."""

    observations: np.ndarray  # [steps + 1, ...], as they are stored; without images beside vectors
    rewards: np.ndarray  # [steps]
    last: np.ndarray  # [steps], true where an episode ended
    ignored: np.ndarray  # [steps], true where the step was a reset
    outside: int = 0  # observations that lie outside of the bounds of their space


class Examination(NamedTuple):
    """What was seen of an environment, in lines."""

    facts: list[str]
    problems: list[str]


def examine(env: Environment, steps: int = STEPS) -> Examination:
    """Play random steps in an environment, and look for what keeps it from being learned.

    Raises:
        UserError: the environment failed, so nothing can be trained on it.
    """
    problems = env.by_kind(device=lambda _: list[str](), host=_problems_of_host)
    played = env.by_kind(device=lambda x: _play_device(x, steps), host=lambda x: _play(x, steps))
    parts = env.spec.encoding.parts
    mixed = isinstance(env.spec.observation, Mixed)
    numbers = not mixed and all(isinstance(part, Box) for part, _ in parts)
    problems += problems_of(played, numbers=numbers)
    shown = f"{env.spec.encoding.words}, {env.spec.actions_in_words}"
    return Examination([shown, describe(played)], problems)


def notices_of(env: Environment) -> list[str]:
    """Check an environment of the user's as Gymnasium does, in a few steps; no error ends it.

    One that is given as a single instance is left alone.
    """
    return env.by_kind(device=lambda _: list[str](), host=_notices_of_host)


def _notices_of_host(env: "HostEnvironment") -> list[str]:
    if isinstance(env.entry, Instance) or _is_tested(env):
        return []
    return _by_gymnasium(env, PATIENCE)


def _is_tested(env: "HostEnvironment") -> bool:
    """Tell whether an environment comes from a package that tests its environments."""
    if env.vectorization == "own":
        return True
    spec: Any = env.entry
    if isinstance(spec, str):
        spec = gymnasium.registry.get(spec.partition(":")[2] or spec)
    module = spec.entry_point if isinstance(spec, EnvSpec) else ""
    return isinstance(module, str) and module.startswith(TESTED)


def _problems_of_host(env: "HostEnvironment") -> list[str]:
    if isinstance(env.entry, Instance) or env.vectorization == "own":
        return []
    return [*_by_gymnasium(env), *_repeats(env)]


def _by_gymnasium(env: "HostEnvironment", patience: float = math.inf) -> list[str]:
    """Run Gymnasium's checker; return what it says, of its errors the first.

    It resets an environment some ten times, so one whose reset takes longer than `patience`
    seconds is not checked. Nor is one with action masks, as the checker knows none.
    """
    if env.spec.masked:
        return []
    found: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = guarded(env.make, 0, lambda _: None)
        try:
            start = time.monotonic()
            made.env.reset(seed=0)
            if time.monotonic() - start <= patience:
                check_env(made.env, skip_render_check=True, skip_close_check=True)
        except BaseException as error:
            if is_stop(error):
                raise
            found.append(_shortened(in_one_line(error).removeprefix("AssertionError: ")))
        finally:
            made.close()  # an error of it is none of this check's
    told = [COLOR.sub("", str(x.message)).removeprefix("WARN: ") for x in caught]
    found += [_shortened(line) for line in told if any(part in line for part in TELLING)]
    return [f"Gymnasium's check says: {line}" for line in dict.fromkeys(found)]


def _shortened(line: str, most: int = 200) -> str:
    line = " ".join(line.split())
    return line if len(line) <= most else f"{line[:most]}..."


# Random play


def _play(env: "HostEnvironment", steps: int) -> Played:
    vector = env.vector(1)
    try:
        played = _collect(_taken(_host_steps(vector, 0), steps))
        space: Any = vector.spaces[0]
        space = space[REST] if env.spec.masked else space
        return played._replace(outside=_outside(space, played.observations))
    finally:
        vector.close()


def _outside(space: Any, observations: np.ndarray) -> int:
    """Count the observations outside of the bounds of a space that is one box of numbers."""
    numbers = np.issubdtype(observations.dtype, np.floating)
    if not isinstance(space, gymnasium.spaces.Box) or not numbers:
        return 0
    seen = observations.reshape(len(observations), -1)
    low, high = (np.asarray(x, seen.dtype).reshape(-1) for x in (space.low, space.high))
    if low.size != seen.shape[1]:
        return 0
    return int(((seen < low) | (seen > high)).any(axis=1).sum())


def _host_steps(vector: Any, seed: int) -> Iterator[TimeStep]:
    rng, shown = np.random.default_rng(seed), vector.reset(seed)
    while True:
        yield shown
        shown = vector.step(_valid_action(rng, shown, vector.spec))


def _valid_action(rng: np.random.Generator, shown: TimeStep, spec: EnvironmentSpec) -> np.ndarray:
    """Choose a random action [1] among the valid ones; with several dimensions [1, D]."""
    if shown.action_mask is None:
        sizes = spec.action_sizes
        return rng.integers(sizes[0] if len(sizes) == 1 else sizes, size=(1, *spec.action_shape))
    return rng.choice(np.flatnonzero(np.asarray(shown.action_mask)[0]), size=1)


def _play_device(env: "DeviceEnvironment", steps: int) -> Played:
    vector = VectorEnvironment(env, 1)
    step = jax.jit(vector.step)

    def played() -> Iterator[TimeStep]:
        states, shown = jax.jit(vector.reset)(jax.random.key(0))
        yield shown
        keys, rng = jax.random.split(jax.random.key(1), steps), np.random.default_rng(0)
        for step_number, key in enumerate(keys, 1):
            actions = _valid_action(rng, shown, env.spec)
            states, shown = step(key, states, jnp.asarray(actions, jnp.int32), shown.last)
            if np.any(np.asarray(shown.info.get(STUCK, 0)) > 0):
                raise stuck_error(f"at step {step_number:,}", env.name)
            yield shown

    return _collect(_taken(played(), steps))


def _taken(shown: Iterator[TimeStep], steps: int) -> list[TimeStep]:
    """Take time steps of one environment, at most `steps` after the first."""
    start, found = time.monotonic(), [next(shown)]
    for _ in range(steps):
        found.append(next(shown))
        if time.monotonic() - start > SECONDS:
            break
    return found


def _collect(found: list[TimeStep]) -> Played:
    last = np.array([np.asarray(x.last)[0] for x in found])
    return Played(
        np.stack([_numbers(x.observation) for x in found]),
        np.array([float(np.asarray(x.reward)[0]) for x in found[1:]]),
        last[1:],
        last[:-1],
    )


def _numbers(observation: Observation) -> np.ndarray:
    """Return the only observation of a batch; of images and vectors, the vectors as one."""
    if not isinstance(observation, Mixed):
        return np.asarray(observation)[0]
    return np.concatenate([np.zeros(0, np.float32), *(x[0] for x in observation.vectors.values())])


def _repeats(env: "HostEnvironment") -> list[str]:
    """Play the same steps twice with one seed; say where they differ."""
    vector = env.vector(1)
    try:
        one, other = (_taken(_host_steps(vector, 3), REPEATED) for _ in range(2))
    finally:
        vector.close()
    same = [
        all(map(np.array_equal, *map(jax.tree.leaves, pair)))
        for pair in zip(one, other, strict=False)  # the slower one may have been ended
    ]
    if all(same):
        return []
    return [
        f"the same seed and actions give another episode from step {same.index(False)} on: runs "
        "cannot be repeated, nor resumed exactly; draw from self.np_random alone, and let reset "
        "put everything back"
    ]


# What is seen in it


def _episodes(played: Played) -> tuple[np.ndarray, np.ndarray]:
    """Return length and return of the episodes that ended, each [episodes]."""
    number = np.cumsum(played.ignored)[played.last]
    group = np.cumsum(played.ignored)
    counted_steps = (~played.ignored).astype(float)
    lengths = np.bincount(group, counted_steps)[number]
    return lengths, np.bincount(group, played.rewards)[number]


def _span(values: np.ndarray) -> str:
    low, high = float(values.min()), float(values.max())
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"


def describe(played: Played) -> str:
    """Describe random play in a line."""
    lengths, returns = _episodes(played)
    steps = f"{len(played.rewards):,} random steps"
    if not len(lengths):
        return f"{steps}: no episode ended; rewards {_span(played.rewards)}"
    return (
        f"{steps}: {counted(len(lengths), 'episode')} of {_span(lengths)} steps that returned "
        f"{_span(returns)}; rewards {_span(played.rewards[~played.ignored])}"
    )


def problems_of(played: Played, *, numbers: bool) -> list[str]:
    """Say what keeps an environment from being learned, as far as random play tells.

    Args:
        played: the play.
        numbers: whether no element of the observation stands for a category.
    """
    return [line for rule in RULES if (line := rule(played, numbers))]


def never_ends(played: Played, numbers: bool) -> str:
    """No episode ended."""
    del numbers
    if played.last.any() or len(played.rewards) < STEPS:
        return ""
    return (
        f"no episode ended in {len(played.rewards):,} random steps: make sure that they end, "
        "or truncate them with --max-episode-steps"
    )


def ends_at_once(played: Played, numbers: bool) -> str:
    """All episodes end with their first step."""
    del numbers
    lengths, _ = _episodes(played)
    if len(lengths) < 2 or lengths.max() > 1:
        return ""
    return "every episode ended with its first step: check when it terminates"


def one_reward(played: Played, numbers: bool) -> str:
    """All rewards are 0, so random play finds none."""
    del numbers
    if not len(played.rewards) or played.rewards.any():
        return ""
    return (
        f"no reward in {len(played.rewards):,} random steps: it must be found by chance; explore "
        "more deeply (--preset sparse), or shape the reward"
    )


def large_rewards(played: Played, numbers: bool) -> str:
    """Rewards are large."""
    del numbers
    most = float(np.abs(played.rewards).max(initial=0.0))
    if most < LARGE_REWARD:
        return ""
    return f"rewards reach {most:,.0f}: scale them, for instance with --reward-scale 0.1"


def outside_space(played: Played, numbers: bool) -> str:
    """Observations lie outside of the bounds of their space."""
    del numbers
    if not played.outside:
        return ""
    return (
        f"{played.outside:,} of {len(played.observations):,} observations lie outside of the "
        "bounds of their space: correct the bounds, or what is shown"
    )


def large_observations(played: Played, numbers: bool) -> str:
    """Numbers in observations are large."""
    seen = played.observations
    if not numbers or not np.issubdtype(seen.dtype, np.floating) or not seen.size:
        return ""
    most = float(np.abs(seen).max())
    if most < LARGE_OBSERVATION:
        return ""
    return (
        f"observations reach {most:,.0f}: scale them, for instance with --normalize-observations "
        "running"
    )


def constant_elements(played: Played, numbers: bool) -> str:
    """Elements of vector observations never change."""
    seen = played.observations
    if not numbers or seen.ndim != 2 or len(seen) < REPEATED:
        return ""
    same = np.flatnonzero((seen == seen[0]).all(axis=0))
    if not len(same):
        return ""
    which = ", ".join(map(str, same[:8])) + (" and others" if len(same) > 8 else "")
    return (
        f"{counted(len(same), 'element')} of the observation never changed (number {which}): check "
        "that the environment fills them in, or leave them out"
    )


RULES: tuple[Callable[[Played, bool], str], ...] = (
    *(never_ends, ends_at_once, one_reward),
    *(large_rewards, outside_space, large_observations, constant_elements),
)
"""What random play is examined for."""
