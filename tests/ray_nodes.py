"""Two nodes of Ray on this machine, each for one job at a time, until the input ends.

    python -m tests.ray_nodes

Ray starts its processes by forking, which JAX forbids; this process has no JAX. It prints the
address of the cluster and the process id of the second node's raylet.
"""

import sys
from typing import Any


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
