"""Kills of training at random moments; the resumed run must end like an undisturbed one.

    python -m benchmarks.kills [WORK ...] [--kills 50] [--seed 0]

Every second kill comes while a checkpoint is being written, the others at any moment of training.
A run is killed several times before it may end. Its weights, summary and tables must then equal
those of the undisturbed run, bit for bit; only times differ. Results of other seeds are kept.
"""

import argparse
import csv
import json
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

COMMON = "--quiet --video-seconds 0 --hidden 16 --num-envs 2 --evaluation-episodes 2 --keep 2"
REPLAY = f"{COMMON} --batch-size 8 --learning-starts 200"
PARALLEL = f"{COMMON} --learner parallel --rollout-steps 32 --minibatches 4"
WORKS = {
    "catcher": (
        "catcher --steps 60000 --chunk-steps 500 --replay-capacity 4000 --evaluation-every 20000 "
        + REPLAY
    ),
    "lunarlander": (
        "LunarLander-v3 --steps 12000 --chunk-steps 200 --replay-capacity 4000 "
        "--evaluation-every 5000 " + REPLAY
    ),
    "cartpole": (
        "CartPole-v1 --steps 16000 --chunk-steps 200 --replay-capacity 4000 "
        "--evaluation-every 5000 --replay prioritized " + REPLAY
    ),
    "pong": (
        "ALE/Pong-v5 --steps 3000 --chunk-steps 100 --replay-capacity 1000 "
        "--evaluation-every 1000 --updates-per-step 0.1 --max-episode-steps 100 " + REPLAY
    ),
    "breakout-parallel": (
        "gymnax:Breakout-MinAtar --steps 60000 --chunk-steps 500 --evaluation-every 20000 "
        "--exploration noisy --acting-noise step " + PARALLEL
    ),
    "cartpole-parallel": (
        "CartPole-v1 --steps 30000 --chunk-steps 200 --evaluation-every 10000 " + PARALLEL
    ),
}
"""Arguments of each training; Catcher and gymnax's Breakout use the device runner, the others the
host runner."""

CHECKPOINT_SECONDS = "0.3"
DEADLINE = 240.0


Process = subprocess.Popen[bytes]


def start(work: str, out: Path, steps: int | None = None) -> Process:
    """Train, or resume the run in `out`, in a separate process group."""
    argv = ["train", *WORKS[work].split()]
    if steps is not None:
        argv[argv.index("--steps") + 1] = str(steps)
    argv += ["--checkpoint-seconds", CHECKPOINT_SECONDS, "--out", str(out), "--resume"]
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "noisydqn", *argv],
        env={**os.environ, "NOISYDQN_CACHE": str(out.parent / "compiled")},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def finish(process: Process) -> None:
    """Wait for a process to end with exit code 0."""
    _, errors = process.communicate(timeout=DEADLINE)
    if process.returncode != 0:
        raise RuntimeError(f"exit code {process.returncode}: {errors.decode()}")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def kill(process: Process, out: Path, chance: random.Random, *, writing: bool) -> str:
    """Kill a process once it has trained a little; return the phase, or "" if it ended before."""
    metrics, before = out / "metrics.csv", _size(out / "metrics.csv")
    parts = set((out / "checkpoints").glob("*.part"))
    deadline = time.monotonic() + DEADLINE
    while process.poll() is None and _size(metrics) == before and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(chance.uniform(0, 2.5))
    if writing:
        checkpoints = out / "checkpoints"
        while process.poll() is None and time.monotonic() < deadline:
            if any(path.name.endswith(".part") for path in checkpoints.iterdir()):
                break
    ended = process.poll() is not None
    if not ended:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    if ended:
        return ""
    return "writing" if set((out / "checkpoints").glob("*.part")) - parts else "training"


def outcome(folder: Path) -> dict[str, Any]:
    """Read the results of a run, without times and without what befell its actors."""
    summary = json.loads((folder / "summary.json").read_text())
    found: dict[str, Any] = {
        k: v for k, v in summary.items() if "seconds" not in k and "per" not in k
    }
    for name in ("final.safetensors", "best.safetensors"):
        found[name] = (folder / name).read_bytes()
    for name in ("metrics", "episodes", "evaluations"):
        with (folder / f"{name}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        found[name] = [
            {k: v for k, v in row.items() if "second" not in k and not k.startswith("actors.")}
            for row in rows
        ]
    return found


def run(
    work: str, kills: int, each: int, seed: int, steps: int | None = None
) -> list[dict[str, Any]]:
    """Kill a training so often, `each` times a run; raise if a run ends differently."""
    chance = random.Random(f"{work}{seed}")  # noqa: S311 - moments, not secrets
    done: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        whole = Path(name) / "whole"
        finish(start(work, whole, steps))
        expected = outcome(whole)
        while len(done) < kills:
            out = Path(name) / f"killed{len(done)}"
            moments: list[str] = []
            while len(moments) < min(each, kills - len(done)):
                writing = len(moments) % 2 == 0
                moment = kill(start(work, out, steps), out, chance, writing=writing)
                if not moment:
                    break
                moments.append(moment)
            finish(start(work, out, steps))
            found = outcome(out)
            differing = [key for key in expected if expected[key] != found[key]]
            if differing:
                raise RuntimeError(f"{work} after {moments}: different {', '.join(differing)}")
            done += [{"seed": seed, "moment": moment, "same": True} for moment in moments]
            print(f"{work}: {len(done)} kills ({', '.join(moments)}), all ended equal", flush=True)
    return done


def main() -> None:
    """Kill, compare, save."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("works", nargs="*", default=list(WORKS), metavar="WORK")
    parser.add_argument("--kills", type=int, default=50, help="in all, over these works")
    parser.add_argument("--each", type=int, default=4, help="kills of a run before it may end")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    counts = [len(range(i, args.kills, len(args.works))) for i in range(len(args.works))]
    for work, count in zip(args.works, counts, strict=True):
        name = f"kills_{work}"
        done = run(work, count, args.each, args.seed)
        rows = results.others(name, done, ("seed",)) + done
        results.save(name, "python -m benchmarks.kills " + " ".join(sys.argv[1:]), rows)


if __name__ == "__main__":
    main()
