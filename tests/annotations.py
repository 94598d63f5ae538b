"""The check of annotations that `tests/conftest.py` installs for the packages of the numerics."""

import inspect
from collections.abc import Callable
from typing import Any

from beartype import beartype


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check a function's annotations, unless it is a constructor that takes options alone.

    Such a constructor converts its arguments and refuses wrong ones with messages for users, which
    have tests of their own. Constructors with an array or a key are checked.
    """
    if function.__name__ == "__init__":
        hints = [
            parameter.annotation for parameter in inspect.signature(function).parameters.values()
        ]
        if not any("jaxtyping" in repr(hint) for hint in hints):
            return function
    return beartype(function)
