"""Stops of training by signals and killed workers; resumed runs must end like undisturbed ones.

    python -m benchmarks.signals [--stops 20] [--seed 0]

Every stop comes at a random moment of a process's life, including start and compilation. The
process must end within 10 seconds with everything saved. The resumed run must equal an undisturbed
one, bit for bit; only times differ. Every process compiles again, so that stops hit compilation.
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
from benchmarks.kills import COMMON, outcome

WORKS = {
    "catcher": (
        "catcher --steps 40000 --chunk-steps 10000 --replay-capacity 4000 --evaluation-every 20000"
    ),
    "lunarlander": (
        "LunarLander-v3 --steps 6000 --chunk-steps 3000 --replay-capacity 4000 "
        "--evaluation-every 3000"
    ),
    "workers": (
        "CartPole-v1 --steps 6000 --chunk-steps 3000 --replay-capacity 4000 "
        "--evaluation-every 3000 --vectorization subprocess"
    ),
}
"""Arguments of trainings: by the device runner, by the host runner, and with workers."""

STOPS = {
    "catcher": ("SIGINT", "SIGTERM"),
    "lunarlander": ("SIGINT", "SIGTERM"),
    "workers": ("worker", "SIGINT", "worker", "SIGTERM"),
}
CODES = {"SIGINT": 130, "SIGTERM": 143, "worker": 2}
LIMIT = 10.0  # seconds
DEADLINE = 600.0
RUNNING = 2.0  # seconds that Python itself may take to start


def start(work: str, out: Path) -> "subprocess.Popen[bytes]":
    """Train, or resume the run in `out`, in a separate process group."""
    argv = ["train", *WORKS[work].split(), *COMMON.split(), "--out", str(out), "--resume"]
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "noisydqn", *argv, "--cache", "none"],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def workers_of(pid: int) -> list[int]:
    """List the worker processes of a process."""
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            line = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == pid and b"spawn_main" in line:
            found.append(int(folder.name))
    return found


def stop(process: "subprocess.Popen[bytes]", kind: str, moment: float) -> dict[str, Any] | None:
    """Stop a process after `moment` seconds; return the outcome, or None if it ended before."""
    try:
        process.wait(moment)
    except subprocess.TimeoutExpired:
        pass
    else:
        process.communicate()
        return None
    workers = workers_of(process.pid)
    if kind == "worker" and not workers:
        kind = "SIGINT"  # there is no worker yet
    before = time.monotonic()
    if kind == "worker":
        os.kill(workers[-1], signal.SIGKILL)
    else:
        os.killpg(process.pid, signal.Signals[kind])
    _, errors = process.communicate(timeout=DEADLINE)
    seconds = time.monotonic() - before
    left = [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    fine = {CODES[kind], 0}  # 0 where it ended at that very moment
    if kind in ("SIGINT", "SIGTERM"):
        fine.add(-signal.Signals[kind])  # before there was anything to save
    if process.returncode not in fine or seconds > LIMIT or left:
        raise RuntimeError(
            f"{kind} after {moment:.1f} s: exit code {process.returncode} after {seconds:.1f} s, "
            f"orphans {left}: {errors.decode()}"
        )
    return {
        "kind": kind,
        "after": round(moment, 1),
        "code": process.returncode,
        "seconds": round(seconds, 2),
    }


def run(work: str, stops: int, seed: int) -> list[dict[str, Any]]:
    """Stop a training so often, twice a run; raise if a run ends differently."""
    chance = random.Random(f"{work}{seed}")  # noqa: S311 - moments, not secrets
    done: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        whole = Path(name) / "whole"
        before = time.monotonic()
        _finish(start(work, whole))
        length, expected = time.monotonic() - before, outcome(whole)
        while len(done) < stops:
            out = Path(name) / f"stopped{len(done)}"
            for _ in range(min(2, stops - len(done))):
                kind = STOPS[work][len(done) % len(STOPS[work])]
                stopped = stop(start(work, out), kind, chance.uniform(RUNNING, length))
                if stopped is None:
                    break
                done.append({"seed": seed, "work": work, **stopped})
                print(done[-1], flush=True)
            _finish(start(work, out))
            found = outcome(out)
            differing = [key for key in expected if expected[key] != found[key]]
            if differing:
                raise RuntimeError(f"{work} after {done[-2:]}: different {', '.join(differing)}")
            print(f"{work}: {len(done)} stops, all ended equal", flush=True)
    return done


def _finish(process: "subprocess.Popen[bytes]") -> None:
    _, errors = process.communicate(timeout=DEADLINE)
    if process.returncode != 0:
        raise RuntimeError(f"exit code {process.returncode}: {errors.decode()}")


def main() -> None:
    """Stop, compare, save."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("works", nargs="*", default=list(WORKS), metavar="WORK")
    parser.add_argument("--stops", type=int, default=20, help="in all, over these works")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for i, work in enumerate(args.works):
        rows += run(work, len(range(i, args.stops, len(args.works))), args.seed)
    rows = results.others("signals", rows, ("work", "seed")) + rows
    results.save("signals", "python -m benchmarks.signals " + " ".join(sys.argv[1:]), rows)


if __name__ == "__main__":
    main()
