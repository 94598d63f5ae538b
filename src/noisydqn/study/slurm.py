"""A job script for Slurm, which starts Ray on the allocated nodes and runs a command there."""

import shlex
from collections.abc import Sequence

PORT = 6379
"""The port of Ray's head, Ray's own default."""

SCRIPT = """\
#!/bin/bash
#SBATCH --job-name=noisydqn
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@240
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

# Starts Ray on all nodes, then runs the command on the first one. Slurm sends SIGTERM four minutes
# before the time is up: the runs are saved, and the same script continues them.

set -euo pipefail
cd {home}

nodes=($(scontrol show hostnames "$SLURM_JOB_NODELIST"))
head="${{nodes[0]}}"
port={port}
export RAY_USAGE_STATS_ENABLED=0
cores="${{SLURM_CPUS_ON_NODE:-1}}"
ray get-auth-token --generate >/dev/null 2>&1 || true  # into the home folder, which nodes share

srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" \\
  ray start --head --node-ip-address="$head" --port="$port" --num-cpus="$cores" --block &

for _ in $(seq 120); do
  (exec 3<>"/dev/tcp/$head/$port") 2>/dev/null && break
  sleep 1
done

if [ "${{#nodes[@]}}" -gt 1 ]; then
  srun --overlap --nodes="$((${{#nodes[@]}} - 1))" --ntasks="$((${{#nodes[@]}} - 1))" \\
    --exclude="$head" ray start --address="$head:$port" --num-cpus="$cores" --block &
  sleep 15
fi

{command} --ray "$head:$port" &
command=$!
trap 'kill -TERM "$command" 2>/dev/null' TERM
code=0
wait "$command" || code=$?
if kill -0 "$command" 2>/dev/null; then  # a signal ended the wait, not the command
  code=0
  wait "$command" || code=$?
fi
kill $(jobs -p) 2>/dev/null || true
exit "$code"
"""


def script(command: Sequence[str], nodes: int, home: str) -> str:
    """Return a job script.

    Args:
        command: the words of the command, without --ray.
        nodes: that it asks for.
        home: the folder in which the command runs.
    """
    return SCRIPT.format(
        nodes=nodes, home=shlex.quote(home), port=PORT, command=shlex.join(command)
    )
