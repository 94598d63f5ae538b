"""The check of annotations that `tests/conftest.py` installs for the packages of the numerics."""

from collections.abc import Callable
from typing import Any

from beartype import beartype


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check a function's annotations, unless the function is a constructor.

    Constructors take options, convert them and refuse wrong ones with messages for users. Those
    have tests of their own, which hand in values of wrong types.
    """
    return function if function.__name__ == "__init__" else beartype(function)
