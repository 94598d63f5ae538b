"""TOML files that users write, as data: nothing in them is imported."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from noisydqn.config.config import option_hints
from noisydqn.errors import UserError, in_one_line
from noisydqn.folders import File
from noisydqn.options import convert, refuse_unknown

MAX_TOML_BYTES = 2**20
NONE = "none"
"""What stands for None, which TOML lacks, as on the command line."""

Form = TypeVar("Form")


def read_toml(path: Path, form: type[Form], contents: str) -> Form:
    """Read a TOML file.

    Args:
        path: of the file.
        form: what its tables become.
        contents: what it should hold, in words, for messages.

    Raises:
        UserError: the file cannot be read, is too large, is not TOML, or has another form.
    """
    try:
        text = File.at(path).read(MAX_TOML_BYTES).decode("utf-8-sig")
        return msgspec.convert(tomllib.loads(text), form)
    except (OSError, ValueError, RecursionError) as error:  # the last two also of the parsers
        if isinstance(error, UnicodeDecodeError):
            reason = f"it is not UTF-8: byte 0x{error.object[error.start]:02x} at {error.start}"
        else:
            reason = error.strerror if isinstance(error, OSError) else in_one_line(error)
        raise UserError(
            f"{path} cannot be used ({reason}): give a TOML file with {contents}"
        ) from error


def from_toml(options: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Convert options that a TOML file gives to the types that they have.

    Args:
        options: values by flat name; "none" stands for None.
        where: they were given, as in " in the options", for messages.

    Raises:
        ConfigError: an option does not exist, or a value is not one of its option.
    """
    hints = option_hints()
    refuse_unknown(options, hints, where=where)
    return {
        name: None if hints[name].optional and value == NONE else convert(name, value, hints[name])
        for name, value in options.items()
    }
