"""A connection to a Ray cluster.

Ray is an extra, imported when a cluster is asked for.
"""

import importlib.util
import logging
import os
import socket
import warnings
from collections.abc import Mapping
from typing import Any

from noisydqn.cores import usable_cores
from noisydqn.errors import MissingExtraError, UserError, in_one_line

LOCAL, AUTO = "local", "auto"
"""Addresses: Ray is started on this machine; the cluster that `ray start` began here."""
ANSWER_SECONDS = 5.0
"""Seconds in which each step of the first contact with a cluster has to be answered."""
RAY_VARIABLES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # a node that died would print its last words
}
"""Environment variables of Ray, read when it is imported."""
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""The beginning of a connection of HTTP/2, which gRPC and so Ray speaks (RFC 9113, section 3.4)."""
SETTINGS = 4
"""The type of the first frame in the answer."""


class RayCluster:
    """A connection to Ray, until `close`.

    Args:
        address: `local`, `auto`, or HOST:PORT of a cluster of which this machine is a node.

    Raises:
        UserError: Ray is not installed, or no cluster answers there.
    """

    def __init__(self, address: str) -> None:
        if importlib.util.find_spec("ray") is None:
            raise MissingExtraError(
                "--ray needs the package ray, which is not installed: pip install 'noisydqn[ray]'"
            )
        for name, value in RAY_VARIABLES.items():
            os.environ.setdefault(name, value)
        import ray

        self._ray = ray
        logging.getLogger("ray").setLevel(logging.ERROR)
        options: dict[str, Any] = {"num_cpus": len(usable_cores()), "include_dashboard": False}
        if address != LOCAL:
            options = {}
            check_answers(address, find_running() if address == AUTO else address)
        options |= {"log_to_driver": False, "logging_level": logging.ERROR}
        try:
            with warnings.catch_warnings():  # it forks, but only to start programs
                warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)
                ray.init(address=address, **options)
        except Exception as error:  # Ray raises what it likes
            ray.shutdown()
            hint = "run the command on a node of it, with the same versions of Ray and Python"
            if address == LOCAL:
                hint = "repeat it when this machine is less busy, or leave --ray out"
            raise UserError(
                f"--ray {address} cannot be used ({in_one_line(error)}): {hint}"
            ) from error

    @property
    def ray(self) -> Any:
        """The module."""
        return self._ray

    def capacity(self, cores: int, gpus: float) -> int:
        """Return how many jobs the nodes can run at a time.

        Raises:
            UserError: the cluster does not answer.
        """
        return sum(
            fitting(node["Resources"], cores, gpus) for node in self.nodes() if node["Alive"]
        )

    def nodes(self) -> list[dict[str, Any]]:
        """List the nodes as Ray knows them.

        Raises:
            UserError: the cluster does not answer.
        """
        try:
            return self._ray.nodes()
        except Exception as error:
            raise UserError(
                f"the Ray cluster does not answer any more ({in_one_line(error)}): start it again, "
                "then repeat with --resume"
            ) from error

    def close(self) -> None:
        """Leave the cluster, and end it if it was started here."""
        self._ray.shutdown()


def fitting(resources: Mapping[str, float], cores: int, gpus: float) -> int:
    """Return how many jobs fit on a node at a time."""
    number = int(resources.get("CPU", 0.0) // cores)
    return min(number, int(resources.get("GPU", 0.0) / gpus)) if gpus else number


def find_running() -> str:
    """Return the address of the cluster that runs on this machine, or that RAY_ADDRESS names.

    Raises:
        UserError: there is none.
    """
    if address := os.environ.get("RAY_ADDRESS"):
        return address
    from ray._private.services import (  # pyright: ignore[reportPrivateUsage]
        find_bootstrap_address,
    )

    address = find_bootstrap_address(None)
    if not address:
        raise UserError(
            "--ray auto finds no Ray on this machine: start it with ray start --head, or give its "
            "HOST:PORT"
        )
    return str(address)


def check_answers(given: str, address: str) -> None:
    """Refuse an address at which nothing speaks Ray's protocol, before Ray waits for it.

    Args:
        given: what the user gave, for the message.
        address: HOST:PORT.

    Raises:
        UserError: nothing answers, or something else does.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or "/" in host:
        raise UserError(
            f"--ray {given} is not an address: give {LOCAL}, {AUTO}, or HOST:PORT as ray start "
            "prints it"
        )
    try:
        with socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS) as connection:
            connection.settimeout(ANSWER_SECONDS)
            connection.sendall(PREFACE)
            answer = connection.recv(9)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise UserError(
            f"--ray {given} does not answer ({reason or in_one_line(error)}): start it with ray "
            "start --head, or give the HOST:PORT that this prints"
        ) from error
    if len(answer) < 4 or answer[3] != SETTINGS:
        raise UserError(
            f"--ray {given} is answered by something else than Ray: give the HOST:PORT that ray "
            "start --head prints"
        )
