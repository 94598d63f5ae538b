"""`tune.json`: what a tuning does, for whoever resumes it."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import msgspec

from noisydqn.errors import UserError
from noisydqn.folders import File, Folder, json_bytes
from noisydqn.study.ledger import Cores, decoded

TUNING = "tune.json"
VERSION = 1

Number = Annotated[int, msgspec.Meta(ge=0, lt=2**32)]


@dataclasses.dataclass(frozen=True)
class Tuning:
    """What a tuning does."""

    command: str  # that began it
    name: str  # NAME of train
    space: dict[str, Any]  # as it was given
    options: dict[str, Any]  # of every run, as they were given
    trials: Annotated[int, msgspec.Meta(ge=1, le=100_000)]
    seeds: Annotated[tuple[Number, ...], msgspec.Meta(min_length=1)]  # of each trial
    seed: Number  # of the proposals
    cores: Cores  # of each job
    together: bool  # whether one program trains all seeds, where the environment is in JAX
    version: int = VERSION


def write_tuning(folder: Folder, tuning: Tuning) -> None:
    """Write the file.

    Raises:
        UserError: it cannot be written.
    """
    file = folder.file(TUNING)
    try:
        file.write(json_bytes(msgspec.to_builtins(tuning)))
    except OSError as error:
        raise UserError(
            f"{file} cannot be written: {error.strerror}; make room or make it writable"
        ) from error


def read_tuning(path: Path) -> Tuning:
    """Read the tuning in a folder.

    Raises:
        UserError: there is none, or its file cannot be used.
    """
    file = File.at(path / TUNING)
    if not path.is_dir() or not file.taken():
        raise UserError(
            f"{path} holds no tuning (no {TUNING}): name a folder that noisydqn tune made"
        )
    return decoded(file, Tuning, VERSION)
