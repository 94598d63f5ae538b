"""The check of annotations that `tests/conftest.py` installs for the packages of the numerics."""

import inspect
from collections.abc import Callable
from typing import Any

from beartype import beartype


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check the annotations of a function of arrays.

    Constructors and functions without arrays are left alone. They take options and refuse wrong
    ones with messages for users; tests of those messages hand in values of wrong types.
    """
    signature = inspect.signature(function)
    hints = [*(x.annotation for x in signature.parameters.values()), signature.return_annotation]
    has_arrays = any("jaxtyping" in repr(hint) for hint in hints)
    return beartype(function) if has_arrays and function.__name__ != "__init__" else function
