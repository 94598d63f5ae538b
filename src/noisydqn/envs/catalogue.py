"""Gymnasium's environments by id: registering and making them, with clear errors."""

import difflib
import importlib
import importlib.util
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec
from gymnasium.wrappers import TimeLimit

from noisydqn.envs.names import ATARI, MINATAR, namespace
from noisydqn.errors import (
    EnvironmentFailedError,
    MadeInJaxError,
    UserError,
    in_one_line,
    is_stop,
)

Maker = Callable[..., gymnasium.Env[Any, Any]]
"""A function that makes an environment."""

Entry = str | EnvSpec | Maker
"""An id of Gymnasium (`"LunarLander-v3"`, `"module:Id"`), a spec of its registry, or a function
that makes an environment."""

PACKAGES = {ATARI: ("ale_py", "atari"), MINATAR: ("minatar.gym", "minatar")}
"""Namespaces of ids: the module that registers them, and our extra that installs it."""

EXTRAS = {"box2d": "box2d", "classic-control": "classic-control", "toy-text": "classic-control"}
"""Extras of Gymnasium, and our extras that install the same packages."""

ATARI_KWARGS = {
    "stack_num": 1,  # frames are stacked where they are used
    "noop_max": 0,  # sticky actions already make games differ
    "use_fire_reset": False,
    "reward_clipping": False,  # rewards are clipped only for learning
}
"""Arguments of Atari's vector environment: single gray frames of 84 x 84, every fourth, each the
maximum of two. Actions are sticky with probability 0.25, the default of its ids (Machado et al.
2018)."""


def is_atari(entry: Entry) -> bool:
    """Tell whether an entry is an id of the Arcade Learning Environment."""
    return isinstance(entry, str) and namespace(entry) == ATARI


def is_registered(name: str) -> bool:
    """Tell whether Gymnasium knows an id, given the installed packages."""
    register(name)
    return name in gymnasium.registry


def register(entry: str) -> None:
    """Import the package that registers an id with Gymnasium.

    Raises:
        UserError: the package is not installed.
    """
    module, extra = PACKAGES.get(namespace(entry), (None, None))
    if module is None:
        return
    if importlib.util.find_spec(module.split(".")[0]) is None:
        raise UserError(
            f"{entry} needs a package that is not installed: pip install 'noisydqn[{extra}]'"
        )
    package = importlib.import_module(module)
    if module == "minatar.gym" and "MinAtar/Breakout-v1" not in gymnasium.registry:
        package.register_envs()


def make(
    entry: Entry,
    *,
    kwargs: Mapping[str, Any],
    max_episode_steps: int | None,
    render_mode: str | None = None,
) -> gymnasium.Env[Any, Any]:
    """Make one environment.

    Raises:
        UserError: the id is not known, a package is missing, the arguments do not fit, or what was
            made is not an environment of Gymnasium.
        MadeInJaxError: what was made is an environment in JAX.
        EnvironmentFailedError: its constructor raised.
    """
    with _clear_errors(entry, kwargs):
        if not isinstance(entry, str | EnvSpec):
            env: Any = entry(**kwargs)
            if is_in_jax(env):
                raise MadeInJaxError(*(env if isinstance(env, tuple) else (env, None)))
            check_environment(env)
            return env if max_episode_steps is None else TimeLimit(env, max_episode_steps)
        if isinstance(entry, str):
            register(entry)
        rendering = {} if render_mode is None else {"render_mode": render_mode}
        os.environ.setdefault("SDL_AUDIODRIVER", "dummy")  # only pictures are needed, not sound
        env = gymnasium.make(
            entry,
            max_episode_steps=max_episode_steps,
            disable_env_checker=True,
            **rendering,
            **kwargs,
        )
        check_environment(env)
        return env


def is_in_jax(env: object) -> bool:
    """Tell whether this is an environment in JAX, or a tuple of one and its parameters."""
    if isinstance(env, tuple):
        parts: tuple[Any, ...] = env
        return len(parts) == 2 and is_in_jax(parts[0])
    if isinstance(env, type | gymnasium.Env):
        return False
    return any(callable(getattr(env, name, None)) for name in ("reset_env", "step_env"))


def check_environment(env: object) -> None:
    """Refuse what is not a single environment of Gymnasium.

    Raises:
        UserError: it is not.
    """
    refuse_other_kinds(env)
    kind = full_name(type(env))
    if not isinstance(env, gymnasium.Env):
        returned = "None" if env is None else f"an instance of {kind}"
        raise UserError(
            f"what makes the environment returned {returned}, expected an instance of gymnasium.Env"
        )
    for name in ("observation_space", "action_space"):
        space = getattr(env, name, None)
        if not isinstance(space, gymnasium.Space):
            raise UserError(
                f"the {name} of {kind} is {full_name(type(space))}, expected a space of "
                f"gymnasium.spaces"
            )


def refuse_other_kinds(env: object) -> None:
    """Refuse environments that are not single ones, or not Gymnasium's.

    Raises:
        UserError: it is one of these.
    """
    kind = full_name(type(env))
    if isinstance(env, gymnasium.vector.VectorEnv):
        raise UserError(
            f"{kind} is a vector of environments, expected a single one: noisydqn makes its own "
            "vectors, with --num-envs"
        )
    if any(base.__module__.split(".")[0] == "gym" for base in type(env).__mro__):
        raise UserError(
            f"{kind} is an environment of gym, expected one of its successor gymnasium: derive it "
            "from gymnasium.Env, or wrap it with the package shimmy"
        )


def full_name(kind: type) -> str:
    """Name a class with its module."""
    return f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")


def make_own_vector(
    entry: str, num_envs: int, *, kwargs: Mapping[str, Any], max_episode_steps: int | None
) -> gymnasium.vector.VectorEnv[Any, Any, Any]:
    """Make the vector environment that an id registers.

    Raises:
        UserError: the id registers none, or as `make`.
    """
    kwargs = dict(kwargs)
    if is_atari(entry):
        kwargs = {**ATARI_KWARGS, **kwargs}
        if max_episode_steps is not None:
            frames = max_episode_steps * kwargs.get("frameskip", 4)
            kwargs["max_num_frames_per_episode"] = frames
    elif max_episode_steps is not None:
        kwargs["max_episode_steps"] = max_episode_steps
    with _clear_errors(entry, kwargs):
        register(entry)
        mode = gymnasium.VectorizeMode.VECTOR_ENTRY_POINT
        vector = gymnasium.make_vec(entry, num_envs, vectorization_mode=mode, **kwargs)
    mode = vector.metadata.get("autoreset_mode")
    if mode != gymnasium.vector.AutoresetMode.NEXT_STEP:
        vector.close()
        raise UserError(
            f"the vector environment of {entry} resets by {mode}, expected NEXT_STEP, which shows "
            "final observations: choose --vectorization sync or subprocess"
        )
    return vector


def name_of(entry: Entry) -> str:
    """Return the name of an environment for messages: its id, if it has one."""
    return entry if isinstance(entry, str) else getattr(entry, "id", "the environment")


class _clear_errors:  # noqa: N801 - used like a function
    """A context in which an error from making an environment becomes one line."""

    def __init__(self, entry: Entry, kwargs: Mapping[str, Any]) -> None:
        self.name = name_of(entry)
        self.is_named = isinstance(entry, str)
        self.kwargs = kwargs

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        del kind, trace
        if error is None or isinstance(error, UserError) or is_stop(error):
            return
        raise self._clear(error) from error

    def _clear(self, error: BaseException) -> UserError:
        name, reason = self.name, " ".join(str(error).split())
        if isinstance(error, gymnasium.error.DependencyNotInstalled):
            return UserError(f"{name} {missing_package(error)}")
        not_known = gymnasium.error.UnregisteredEnv | gymnasium.error.VersionNotFound
        if isinstance(error, not_known) and self.is_named:
            return UserError(unknown(name))
        if isinstance(error, ImportError) and name in gymnasium.registry:
            return UserError(f"{name} cannot be made: {reason}")
        if isinstance(error, ModuleNotFoundError) and self.is_named:
            return UserError(_not_found(name, error))
        given = f" with --env-kwargs {json.dumps(dict(self.kwargs))}" if self.kwargs else ""
        if isinstance(error, gymnasium.error.Error) or (given and isinstance(error, TypeError)):
            return UserError(f"{name}{given} cannot be made: {reason}")
        module = _not_imported(name) if self.is_named else None
        what = "its constructor" if module is None else f"importing its module {module}"
        return EnvironmentFailedError(
            f"{name}{given} cannot be made: {what} raised {in_one_line(error)}; correct the "
            f"{'environment' if module is None else 'module'}\n"
            f"{''.join(traceback.format_exception(error))}"
        )


def _not_found(name: str, error: ModuleNotFoundError) -> str:
    """Explain that the module of an id, or another that it needs, was not found."""
    cause = error.__cause__  # Gymnasium says which module it imported, not which is missing
    missing = (cause if isinstance(cause, ModuleNotFoundError) else error).name
    module = name.partition(":")[0]
    if missing is None or f"{module}.".startswith(f"{missing}."):
        reason = " ".join(str(error).split())
        return (
            f"{name} names a module that cannot be imported ({reason}): start in the folder that "
            "holds it, or install it"
        )
    return f"{name} needs the module {missing}, which cannot be found: install it"


def _not_imported(name: str) -> str | None:
    """Return the module that registers or defines an id, if it could not be imported."""
    module, _, own = name.rpartition(":")
    entry_point = getattr(gymnasium.registry.get(own), "entry_point", None)
    defines = entry_point.partition(":")[0] if isinstance(entry_point, str) else ""
    return next((x for x in (module, defines) if x and x not in sys.modules), None)


def missing_package(error: BaseException) -> str:
    """Say that a package is missing and how to install it, based on Gymnasium's error."""
    extra = re.search(r"gymnasium\[([\w-]+)\]", str(error))
    ours = None if extra is None else EXTRAS.get(extra[1].replace("_", "-"))
    how = " ".join(str(error).split()) if ours is None else f"pip install 'noisydqn[{ours}]'"
    return f"needs a package that is not installed: {how}"


def unknown(name: str, also: Mapping[str, Any] | None = None) -> str:
    """Explain that an id is not known; `also` holds other names that may have been meant."""
    known = [*(also or {}), *gymnasium.registry]
    by_lower = {key.lower(): key for key in known}
    near = difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.6)
    names = ", ".join(by_lower[key] for key in near)
    hint = f"did you mean {names}?" if near else "see noisydqn presets for some."
    return f"no environment {name!r}: {hint} Your own is 'module:Id'; gymnax's are 'gymnax:Name'"
