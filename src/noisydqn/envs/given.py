"""Environments as users pass them in Python: an id, a function, or an environment itself."""

import copy
import json
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import gymnasium
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import VectorEnv

from noisydqn.envs.catalogue import (
    Entry,
    Maker,
    check_environment,
    is_in_jax,
    refuse_other_kinds,
)
from noisydqn.errors import UserError, is_stop
from noisydqn.options import shown


class Given(NamedTuple):
    """An environment from the user, and the options that it brings."""

    entry: Entry | None
    options: dict[str, Any]


class Instance:
    """A maker of one environment: the instance from the user, lent to one caller at a time.

    Closing the environment that it makes does not close the instance, which belongs to the user.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        self.env, self.in_use = env, False
        kind = type(env.unwrapped)
        self.__module__, self.__qualname__ = kind.__module__, kind.__qualname__

    def __call__(self) -> gymnasium.Env[Any, Any]:
        """Lend the instance.

        Raises:
            UserError: it is lent already.
        """
        if self.in_use:
            raise UserError(
                "the environment is one instance, which is in use: give a function that makes one"
            )
        self.in_use = True
        return _Lent(self)


class JaxInstance:
    """A maker of one environment in JAX: the instance from the user, for any number of callers.

    Args:
        env: the environment.
        params: its parameters; None takes the environment's defaults.
    """

    def __init__(self, env: Any, params: Any = None) -> None:
        self.env, self.params = env, params
        self.__module__, self.__qualname__ = type(env).__module__, type(env).__qualname__

    def __call__(self) -> Any:
        """Return the environment and its parameters."""
        return self.env, self.params


class _Lent(gymnasium.Wrapper[Any, Any, Any, Any]):
    def __init__(self, instance: Instance) -> None:
        super().__init__(instance.env)
        self._instance = instance

    def close(self) -> None:
        self._instance.in_use = False


def refuse_for_instance(asked: Mapping[str, bool]) -> None:
    """Refuse options that need a second instance of an environment that has only one.

    Args:
        asked: whether each option is used, by its spelling.

    Raises:
        UserError: one of them is.
    """
    for option, is_asked in asked.items():
        if is_asked:
            raise UserError(
                f"{option} needs more than the one instance that was given as env, which cannot be "
                "made again: give a function that makes one"
            )


def accept(env: object) -> Given:
    """Accept an environment as users pass it.

    An instance is made again from its spec, as often as needed; later changes to it are lost. An
    instance that cannot be made again is used itself, alone. An environment in JAX has no state of
    its own and is used itself.

    Raises:
        UserError: it is not an id, a function, or an environment.
    """
    if env is None or isinstance(env, str):
        return Given(env, {})
    if isinstance(env, gymnasium.Env):
        return _accept_instance(env)
    if is_in_jax(env):
        return Given(JaxInstance(*env) if isinstance(env, tuple) else JaxInstance(env), {})
    if isinstance(env, type) and issubclass(env, VectorEnv):
        raise UserError(
            f"env is the class {env.__qualname__} of vectors of environments, expected a single "
            "one: noisydqn makes its own vectors, with --num-envs"
        )
    if callable(env):
        return Given(cast(Maker, env), {})  # what it makes is checked when it is called
    if isinstance(env, EnvSpec):
        return _accept_spec(_without_rendering(env))
    refuse_other_kinds(env)
    raise UserError(
        f"env is {shown(env)}, expected an id, a function that makes an environment, or an "
        "environment of Gymnasium or with gymnax's interface"
    )


def _accept_instance(env: gymnasium.Env[Any, Any]) -> Given:
    check_environment(env)
    try:
        spec = _without_rendering(env.spec)
        gymnasium.make(spec, disable_env_checker=True).close()
    except BaseException as error:
        if is_stop(error):
            raise
        return Given(Instance(env), {"num_envs": 1})  # it cannot be made again, for any reason
    return _accept_spec(spec)


def _without_rendering(spec: EnvSpec | None) -> EnvSpec:
    """Copy a spec without its render mode, which is set where pictures are needed."""
    if spec is None:
        raise ValueError("there is no spec")
    spec = copy.deepcopy(spec)
    spec.kwargs.pop("render_mode", None)
    return spec


def _accept_spec(spec: EnvSpec) -> Given:
    """Accept a spec: by its id and arguments if options can hold them, else the spec itself."""
    registered = gymnasium.registry.get(spec.id)
    options: dict[str, Any] = {}
    if registered is None or registered.entry_point != spec.entry_point or spec.additional_wrappers:
        return Given(spec, options)
    if spec.kwargs != registered.kwargs:
        text = _as_json(spec.kwargs)
        if text is None:
            return Given(spec, options)
        options["env_kwargs"] = text
    if spec.max_episode_steps != registered.max_episode_steps:
        if spec.max_episode_steps is None:
            return Given(spec, options)
        options["max_episode_steps"] = spec.max_episode_steps
    return Given(spec.id, options)


def _as_json(kwargs: Mapping[str, Any]) -> str | None:
    try:
        text = json.dumps(kwargs)
        return text if json.loads(text) == kwargs else None
    except (TypeError, ValueError):
        return None
