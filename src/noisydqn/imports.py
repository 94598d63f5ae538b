"""Names for the user's functions in a config, so that a saved run finds them again."""

import importlib
from collections.abc import Callable
from functools import partial
from types import MethodType
from typing import Any

from gymnasium.envs.registration import EnvSpec

from noisydqn.errors import UserError, in_one_line

PYTHON = "python:"


def name_of(function: Any) -> str:
    """Name a function for a config: `"python:module.function"`.

    A function that cannot be imported by its name, such as a lambda, gets a name in angle
    brackets, `"python:<module.function>"`, which `find` refuses.
    """
    if isinstance(function, EnvSpec):
        return f"{PYTHON}<{function.id}>"
    name = _described(function)
    if not name.startswith("__main__."):  # `__main__` is another module in another program
        try:
            if _is_same(_imported(name), function):
                return f"{PYTHON}{name}"
        except Exception:  # noqa: S110 - importing runs code, which may raise anything
            pass
    return f"{PYTHON}<{name}>"


def inert(name: str) -> str:
    """Return a name for messages alone, which `find` refuses."""
    return f"{PYTHON}<{name.removeprefix(PYTHON).strip('<>')}>"


def is_inert(name: str) -> bool:
    """Tell whether `find` refuses a name, as it does that of a lambda."""
    return name.startswith(PYTHON) and "<" in name


def _described(function: Any) -> str:
    described = function
    while isinstance(described, partial):
        described = described.func
    if not hasattr(described, "__qualname__"):
        described = type(described)
    return f"{described.__module__}.{described.__qualname__}"


def _is_same(found: Any, function: Any) -> bool:
    if isinstance(found, MethodType) and isinstance(function, MethodType):
        return found == function  # each access binds a new method
    return found is function


def _imported(name: str) -> Any:
    """Import `"module.name"` or `"module.Class.name"`; the longest importable module counts.

    Raises:
        ImportError: there is no such module.
        AttributeError: the module has no such name.
    """
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:length])
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as error:
            inside = error.name is not None and module.startswith(error.name)
            if length == 1 or not inside:  # the module exists, but one of its imports is missing
                raise
            continue
        for part in parts[length:]:
            found = getattr(found, part)
        return found
    raise ImportError("it is not 'module.function'")


def find(name: str) -> Callable[..., Any]:
    """Find the function of a name that `name_of` returned.

    Raises:
        UserError: it cannot be imported.
    """
    path = name.removeprefix(PYTHON)
    if is_inert(name):
        raise UserError(
            f"{name} cannot be found again by its name: pass the function itself from Python, as "
            "env= for an environment, or train with a function that a module defines"
        )
    try:
        found = _imported(path)
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        raise UserError(
            f"{name} names nothing that can be imported ({in_one_line(error)}): name a function in "
            "a module of this folder or of an installed package"
        ) from error
    if not callable(found):
        raise UserError(f"{name} is {type(found).__name__}, expected a function")
    return found
