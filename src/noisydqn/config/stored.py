"""The form that a config has in files, and how older forms become today's."""

import dataclasses
from pathlib import Path
from typing import Any

from noisydqn.config.config import Config
from noisydqn.errors import UserError
from noisydqn.options import MAX_COUNT, field_names

VERSION = 2

RENAMED = {
    "normalise_observations": "normalize_observations",
    "normalise_rewards": "normalize_rewards",
    "optimiser": "optimizer",
    "vectorisation": "vectorization",
}
"""Options that version 1 spelled otherwise."""

IMPLIED: dict[str, Any] = {
    "evaluation_max_steps": MAX_COUNT,
    "step_timeout": 600.0,
    "dueling_hidden": (),
    "temperature": 1.0,
}
"""Options that the first configs of version 1 lack, with the value that their absence implied."""


def to_stored(config: Config) -> dict[str, Any]:
    """Return the form in which a config is stored as JSON."""
    return {"version": VERSION, **dataclasses.asdict(config)}


def upgrade(stored: dict[str, Any]) -> dict[str, Any]:
    """Return the options of any known version in the form of this version, without the version.

    Raises:
        ValueError: the version is not known.
    """
    stored = dict(stored)
    version = stored.pop("version", 1)  # exported policies of version 1 do not name it
    if version == 1:
        stored = IMPLIED | {RENAMED.get(name, name): value for name, value in stored.items()}
        if stored.get("replay") == "prioritised":
            stored["replay"] = "prioritized"
    elif version != VERSION:
        raise ValueError(f"version {version}, expected {VERSION} or older")
    return stored


def from_stored(stored: dict[str, Any], path: Path) -> Config:
    """Return the config that was read from `path`.

    Raises:
        UserError: the version is not known, options are missing or do not exist, or values cannot
            be used.
    """
    try:
        options, names = upgrade(stored), set(field_names(Config))
        if options.keys() != names:
            raise ValueError(f"options differ: {', '.join(sorted(options.keys() ^ names))}")
        return Config(**options)
    except ValueError as error:
        raise unusable(path, error) from error


def unusable(path: Path, error: Exception) -> UserError:
    """Return the error of a file of a run that cannot be used."""
    return UserError(
        f"{path} cannot be used ({' '.join(str(error).split())}): restore it from a copy, or use "
        "the version of noisydqn that wrote it"
    )
