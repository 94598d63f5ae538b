"""Kills of a comparison at random moments; its tables must be those of an undisturbed one.

    python -m benchmarks.compare_kills [--kills 3] [--seed 0]
    python -m benchmarks.compare_kills --node    on two nodes of Ray, one of which is killed

A grid of 20 runs is trained once undisturbed, and once killed with SIGKILL and resumed several
times. Every second kill takes the jobs along; the others kill only the comparison, and the jobs
have to notice. Weights, summaries and tables of all runs must then be equal, bit for bit; only
times differ.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import results
from benchmarks.kills import DEADLINE, outcome
from benchmarks.ray_nodes import two_nodes
from noisydqn.study.ledger import read

GRID = (
    "--vary exploration=noisy,epsilon-greedy --env CartPole-v1 Acrobot-v1 --seeds 5 --steps 2000 "
    "--chunk-steps 100 --replay-capacity 2000 --evaluation-every 1000 --evaluation-episodes 2 "
    "--video-seconds 0 --hidden 16 --num-envs 2 --batch-size 8 --learning-starts 200 "
    "--checkpoint-seconds 0.3"
)
"""Two environments, two variants and five seeds: 20 runs."""
SLEEP_SECONDS = 0.1
FAST = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
"""Flags by which programs are soon compiled: it is the kills that matter here, not the speed."""

Process = subprocess.Popen[bytes]


def start(out: Path, *more: str) -> Process:
    """Start the comparison, or resume it."""
    command = [sys.executable, "-m", "noisydqn", "compare", *more, "--out", str(out)]
    return subprocess.Popen(  # noqa: S603
        command,
        env={**os.environ, "NOISYDQN_CACHE": str(out.parent / "compiled"), "XLA_FLAGS": FAST},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def finish(process: Process) -> None:
    """Wait for a comparison to end with exit code 0."""
    _, errors = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"exit code {process.returncode}: {errors.decode()}")


def statuses(out: Path) -> Counter[str]:
    """Count the runs by what has become of them."""
    return Counter(entry.status for entry in read(out).jobs)


def jobs_of(pid: int) -> list[int]:
    """List the processes that a process has started."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(path.parent.name))
    return found


def wait(process: Process, out: Path, moment: int, chance: random.Random) -> None:
    """Wait until so many runs have finished, and then up to five seconds more."""
    while process.poll() is None:
        if (out / "compare.json").exists() and statuses(out)["finished"] >= moment:
            break
        time.sleep(SLEEP_SECONDS)
    time.sleep(chance.uniform(0, 5))
    if process.poll() is not None:
        raise RuntimeError("the comparison ended before anything could be killed")


def kill(
    process: Process, out: Path, moment: int, chance: random.Random, *, with_jobs: bool
) -> dict[str, Any]:
    """Kill a comparison once so many runs have finished, in the middle of others."""
    wait(process, out, moment, chance)
    jobs = jobs_of(process.pid)
    process.kill()
    for job in jobs if with_jobs else ():
        with suppress(ProcessLookupError):
            os.kill(job, signal.SIGKILL)
    process.communicate()
    began = time.monotonic()
    while any(Path(f"/proc/{job}").exists() for job in jobs):
        time.sleep(SLEEP_SECONDS)
        if time.monotonic() - began > DEADLINE:
            raise RuntimeError("jobs do not end although the comparison has")
    return {
        "finished": statuses(out)["finished"],
        "jobs": len(jobs),
        "jobs_killed": with_jobs,
        "seconds_until_jobs_ended": round(time.monotonic() - began, 1),
    }


def kill_often(out: Path, moments: Sequence[int], chance: random.Random) -> list[dict[str, Any]]:
    """Train the grid, killed at each moment and resumed."""
    done: list[dict[str, Any]] = []
    more = GRID.split()
    for i, moment in enumerate(moments):
        done.append(kill(start(out, *more), out, moment, chance, with_jobs=i % 2 == 1))
        print(f"killed: {done[-1]}", flush=True)
        more = ["--resume"]
    finish(start(out, *more))
    return done


def kill_node(out: Path, moments: Sequence[int], chance: random.Random) -> list[dict[str, Any]]:
    """Train the grid on two nodes of Ray, one of which is killed at the first moment."""
    with two_nodes() as nodes:
        process = start(out, *GRID.split(), "--ray", nodes.address)
        wait(process, out, moments[0], chance)
        os.kill(nodes.raylet, signal.SIGKILL)
        killed = {"finished": statuses(out)["finished"], "node_killed": True}
        print(f"killed: {killed}", flush=True)
        finish(process)
    return [killed]


def run(kills: int, seed: int, *, node: bool) -> dict[str, Any]:
    """Train the grid twice, once with kills; raise if a run ends differently."""
    chance = random.Random(seed)  # noqa: S311 - moments, not secrets
    with tempfile.TemporaryDirectory() as name:
        whole, killed = Path(name) / "whole", Path(name) / "killed"
        began = time.monotonic()
        finish(start(whole, *GRID.split()))
        seconds = time.monotonic() - began
        runs = [entry.folder for entry in read(whole).jobs]
        moments = sorted(chance.sample(range(len(runs) - 2), kills))
        done = (kill_node if node else kill_often)(killed, moments, chance)
        different: dict[str, list[str]] = {}
        for folder in runs:
            expected, found = outcome(whole / folder), outcome(killed / folder)
            if names := [name for name in expected if expected[name] != found[name]]:
                different[folder] = names
        if different:
            raise RuntimeError(f"different: {different}")
        listed = [
            [msgspec.structs.replace(x, seconds=0.0) for x in read(y).jobs] for y in (whole, killed)
        ]
        if listed[0] != listed[1]:
            raise RuntimeError("compare.json lists other results")
    about = {"seed": seed, "place": "ray" if node else "local", "runs": len(runs)}
    return {**about, "seconds": round(seconds), "kills": done, "same": True}


def main() -> None:
    """Kill, compare, save."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument(
        "--node", action="store_true", help="kill a node of Ray, once, instead of the comparison"
    )
    args = parser.parse_args()
    done = run(args.kills, args.seed, node=args.node)
    print(f"{done['runs']} runs after {len(done['kills'])} kills: as those of an undisturbed grid")
    rows = [*results.others("compare_kills", [done], ("seed", "place")), done]
    results.save(
        "compare_kills", "python -m benchmarks.compare_kills " + " ".join(sys.argv[1:]), rows
    )


if __name__ == "__main__":
    main()
