"""Services that track experiments. Their packages are extras, imported when a run is tracked."""

import importlib.util
import re
import secrets
from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from noisydqn.config.config import Config
from noisydqn.errors import MissingExtraError
from noisydqn.runs.folder import MAX_JSON_BYTES, RunFolder, run_name
from noisydqn.runs.trackers import hyperparameters
from noisydqn.runs.tracking.mlflow import Mlflow
from noisydqn.runs.tracking.service import Service, ServiceTracker, Start
from noisydqn.runs.tracking.trackio import Trackio
from noisydqn.runs.tracking.wandb import Wandb

ID = re.compile(r"[0-9a-f]{12}")


class Kind(NamedTuple):
    """A service: its name in messages, and how a run of it is started or continued."""

    title: str
    start: Callable[[Start], Service]


SERVICES = {
    "wandb": Kind("Weights & Biases", Wandb),
    "mlflow": Kind("MLflow", Mlflow),
    "trackio": Kind("Trackio", Trackio),
}
"""The services by the names of their packages."""


def check_installed(names: Iterable[str]) -> None:
    """Refuse services whose packages are not installed, without importing them.

    Raises:
        MissingExtraError: one is not installed.
    """
    for name in names:
        if not _installed(name):
            raise MissingExtraError(
                f"--track {name} needs the package {name}, which is not installed: pip install "
                f"'noisydqn[{name}]'"
            )


def _installed(name: str) -> bool:
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None  # not a mere folder, such as W&B makes


def open_tracker(
    name: str, folder: RunFolder, config: Config, say: Callable[[str], None]
) -> ServiceTracker:
    """Start the run of a service, or continue it if the folder holds its id.

    Args:
        name: the service.
        folder: the folder of one seed's run.
        config: its config.
        say: receives a line with the place where the service shows the run.

    Raises:
        MissingExtraError: the service's package is not installed.
    """
    check_installed([name])
    title, start = SERVICES[name]
    service = start(start_of(folder, config))
    say(f"{title}: {service.place}")
    return ServiceTracker(service)


def start_of(folder: RunFolder, config: Config) -> Start:
    """Return what a service is told of a run."""
    name, group = run_name(folder)
    return Start(_identify(folder), name, group, hyperparameters(config))


class _Identity(msgspec.Struct):
    id: str


def _identify(folder: RunFolder) -> str:
    """Return the id of a run: that of its folder, or a new one, which the folder then holds."""
    try:
        known = msgspec.json.decode(folder.tracking.read(MAX_JSON_BYTES), type=_Identity).id
        if ID.fullmatch(known):
            return known
    except (FileNotFoundError, ValueError, RecursionError):  # msgspec's errors are ValueErrors
        pass
    new = secrets.token_hex(6)
    folder.tracking.write_json({"id": new})
    return new
