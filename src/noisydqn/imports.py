"""Functions of the user's, named in a config so that a saved run can be loaded again."""

import importlib
from collections.abc import Callable
from typing import Any

from noisydqn.errors import UserError

PYTHON = "python:"


def name_of(function: Callable[..., Any]) -> str:
    """The name under which a function is kept in a config: `"python:module.function"`."""
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{PYTHON}{getattr(function, '__module__', '')}.{name}"


def find(name: str) -> Callable[..., Any]:
    """The function of a name that `name_of` gave.

    Raises:
        UserError: it cannot be imported.
    """
    module, _, function = name.removeprefix(PYTHON).rpartition(".")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"{name} names nothing that can be imported ({error}): name a function in a module of "
            "this folder or of an installed package"
        ) from error
