"""Two nodes of Ray on this machine, each with one core, until the input ends.

    python -m benchmarks.ray_nodes

Ray starts its processes by forking, which JAX forbids; this process has no JAX. It prints the
address of the cluster and the process id of the second node's raylet.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Generator
from typing import Any, NamedTuple


class Nodes(NamedTuple):
    """A cluster of two nodes, each with one core."""

    address: str
    raylet: int  # the process of the second node


@contextlib.contextmanager
def two_nodes() -> Generator[Nodes]:
    """Start the nodes in a separate process, and stop them in the end."""
    command = [sys.executable, "-m", "benchmarks.ray_nodes"]
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}
    with subprocess.Popen(  # noqa: S603
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        said = next((x for x in process.stdout if x.startswith("nodes ")), None)
        assert said is not None, "Ray's nodes did not start"
        _, address, raylet = said.split()
        yield Nodes(address, int(raylet))
        process.communicate(timeout=60)


def add_node(cluster: Any, attempts: int = 5) -> Any:
    """Start a node; on a busy machine, it may not be there within Ray's half a minute."""
    for attempt in range(attempts):
        try:
            return cluster.add_node(num_cpus=1, include_dashboard=False)
        except Exception:
            if attempt == attempts - 1:
                raise
    return None


def main() -> None:
    """Start the nodes, and stop them in the end."""
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    try:
        nodes = [add_node(cluster) for _ in range(2)]
        (raylet,) = nodes[1].all_processes["raylet"]
        print("nodes", cluster.address, raylet.process.pid, flush=True)
        sys.stdin.read()
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
