"""Kills of runs with actors at random moments; the results must be those of an undisturbed run.

    python -m benchmarks.actor_kills [WORK ...] [--actor 30] [--learner 20] [--driver 10]
        [--ray] [--asynchronous] [--seed 0]

The kills, with SIGKILL, are spread over the works. One of an actor leaves the run alone, which has
to start another. One of the learner leaves its actors alone, which have to end; the run is
resumed. One of the driver takes learner and actors at once. In synchronous mode weights, summary
and tables must then equal those of a run without kills, bit for bit; only times differ. In
asynchronous mode the run must end. Results of other seeds, modes and places are kept.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.kills import DEADLINE, Process, finish, outcome

REPLAY = (
    "--quiet --video-seconds 0 --hidden 16 --num-envs 4 --evaluation-episodes 2 --batch-size 8 "
    "--learning-starts 200 --checkpoint-seconds 0.3 --actors 2"
)
WORKS = {
    "cartpole": (
        "CartPole-v1 --steps 30000 --chunk-steps 256 --replay-capacity 4000 "
        "--evaluation-every 10000 "
    ),
    "lunarlander": (
        "LunarLander-v3 --steps 20000 --chunk-steps 256 --replay-capacity 4000 "
        "--evaluation-every 10000 "
    ),
    "pong": (
        "ALE/Pong-v5 --steps 4000 --chunk-steps 128 --replay-capacity 1000 --evaluation-every 2000 "
        "--updates-per-step 0.1 --max-episode-steps 100 --actor-steps 8 "
    ),
}
"""Arguments of each training."""

GONE_SECONDS = 20.0
"""Seconds that actors have to end after their learner."""
TARGETS = ("actor", "learner", "driver")


def start(work: str, out: Path, more: tuple[str, ...]) -> Process:
    """Train, or resume the run in `out`, in a separate session."""
    argv = ["train", *WORKS[work].split(), *REPLAY.split(), *more]
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "noisydqn", *argv, "--out", str(out), "--resume"],
        env={**os.environ, "NOISYDQN_CACHE": str(out.parent / "compiled")},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def actors_of(process: Process) -> list[int]:
    """List the processes of a run's actors; on Ray, those of its session."""
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            line = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        is_child = int(stat[1]) == process.pid and b"spawn_main" in line
        if is_child or (int(stat[3]) == process.pid and line.startswith(b"ray::OnNode")):
            found.append(int(folder.name))
    return sorted(found)


def kill(process: Process, out: Path, target: str, chance: random.Random) -> bool:
    """Kill a part of a run once it has trained a little; return whether it was still running.

    Raises:
        RuntimeError: actors outlive their learner.
    """
    metrics = out / "metrics.csv"
    before = metrics.stat().st_size if metrics.exists() else 0
    end = time.monotonic() + DEADLINE
    while process.poll() is None and time.monotonic() < end:
        if metrics.exists() and metrics.stat().st_size != before and actors_of(process):
            break
        time.sleep(0.02)
    time.sleep(chance.uniform(0, 1.0))
    actors = actors_of(process)
    if process.poll() is not None or not actors:
        return False
    if target == "actor":
        os.kill(chance.choice(actors), signal.SIGKILL)
        return True
    if target == "learner":
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    end = time.monotonic() + GONE_SECONDS
    while left := [pid for pid in actors if Path(f"/proc/{pid}").exists()]:
        if time.monotonic() > end:
            raise RuntimeError(f"actors {left} outlive their {target}")
        time.sleep(0.05)
    return True


def run(
    work: str, targets: list[str], more: tuple[str, ...], chance: random.Random, *, exact: bool
) -> list[dict[str, Any]]:
    """Make some kills, several in a run; raise if a run ends differently."""
    done: list[dict[str, Any]] = []
    waiting = list(targets)
    with tempfile.TemporaryDirectory() as name:
        whole = Path(name) / "whole"
        finish(start(work, whole, more))
        expected = outcome(whole)
        while waiting:
            out = Path(name) / f"killed{len(done)}"
            process, made = start(work, out, more), list[str]()
            while waiting and kill(process, out, waiting[0], chance):
                made.append(waiting.pop(0))
                if made[-1] != "actor":
                    process = start(work, out, more)
            finish(process)
            found = outcome(out)
            differing = [key for key in expected if expected[key] != found[key]]
            if exact and differing:
                raise RuntimeError(f"{work} after {made}: different {', '.join(differing)}")
            if found["steps"] != expected["steps"]:
                raise RuntimeError(f"{work} after {made}: only {found['steps']} steps")
            done += [{"target": target, "same": exact} for target in made]
            print(f"{work}: {len(done)} kills ({', '.join(made)}), all ended", flush=True)
    return done


def main() -> None:
    """Kill, compare, save."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("works", nargs="*", default=list(WORKS), metavar="WORK")
    for target, number in zip(TARGETS, (30, 20, 10), strict=True):
        parser.add_argument(f"--{target}", type=int, default=number, help="kills over all works")
    parser.add_argument("--ray", action="store_true", help="actors on Ray, on this machine")
    parser.add_argument("--asynchronous", action="store_true", help="actors do not wait")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    chance = random.Random(args.seed)  # noqa: S311 - moments, not secrets
    targets = [x for x in TARGETS for _ in range(getattr(args, x))]
    chance.shuffle(targets)
    more = (*(("--ray", "local") if args.ray else ()),)
    more += ("--actor-mode", "asynchronous") if args.asynchronous else ()
    about = {
        "seed": args.seed,
        "place": "ray" if args.ray else "local",
        "mode": "asynchronous" if args.asynchronous else "synchronous",
    }
    for i, work in enumerate(args.works):
        own = targets[i :: len(args.works)]
        done = run(work, own, more, chance, exact=not args.asynchronous)
        rows = [{**about, **row} for row in done]
        name = f"actor_kills_{work}"
        rows = results.others(name, rows, tuple(about)) + rows
        results.save(name, "python -m benchmarks.actor_kills " + " ".join(sys.argv[1:]), rows)


if __name__ == "__main__":
    main()
