"""Runs that meet with a misfortune: each must end soon, saved, with a line and the right code.

    python -m benchmarks.misfortune [CAUSE ...] [--runs 100] [--seed 0]

Every cause comes at a random moment, on both runners and with every vectorization that can have
it. The process must end within 10 seconds of the cause and leave no other behind. The resumed run
must equal an undisturbed one, bit for bit; only times differ.
"""

import argparse
import json
import os
import pty
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from benchmarks import results
from benchmarks.causes import CAUSES, DEADLINE, FROM_OUTSIDE, LOST, SIGNALS, STEPS, WORKS, pairs
from benchmarks.kills import REPLAY, outcome

NAME = "misfortune"
AT_END = 1.0
"""Seconds from the last look at the folder to the end of a run."""
TRACEBACK = (" ", "Traceback", "benchmarks.unlucky.")
"""Starts of lines of a traceback, which is shown beside the line that tells."""
RUNNING = 2.0  # seconds that Python itself may take to start
DISK = "3m"
ATTEMPTS = 20

Process = subprocess.Popen[bytes]


def start(work: str, out: Path, plan: dict[str, Any], **streams: Any) -> Process:
    """Train, or resume the run in `out`, in a session of its own."""
    argv = ["train", *WORKS[work].format(steps=STEPS[work]).split(), *REPLAY.split()]
    argv += ["--checkpoint-seconds", "1", "--out", str(out), "--resume"]
    unlucky = {"UNLUCKY": json.dumps(plan)} if "at" in plan else {}
    cache = {"NOISYDQN_CACHE": plan.get("cache", str(out.parent / "compiled"))}
    wanted: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, **streams}
    process: Any = subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", "from benchmarks.unlucky import main; main()", *argv],
        env={**os.environ, **cache, **unlucky},
        start_new_session=True,
        **wanted,
    )
    return process


def in_session(session: int) -> list[int]:
    """List the processes of a session."""
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(folder.name))
    return found


def left_behind(session: int) -> list[int]:
    """List the processes of a session that are still there after two seconds."""
    end = time.monotonic() + 2
    while (left := in_session(session)) and time.monotonic() < end:
        time.sleep(0.05)
    return left


class Case:
    """One run with a misfortune.

    Args:
        cause: its name.
        work: the training.
        out: a folder for the run, in one for its files.
        chance: decides the moment.
        length: seconds that an undisturbed run takes.
    """

    def __init__(
        self, cause: str, work: str, out: Path, chance: random.Random, length: float
    ) -> None:
        self.name, self.cause, self.work, self.out = cause, CAUSES[cause], work, out
        self.moment = chance.uniform(RUNNING, length)
        self.mark = out.with_name(f"{out.name}.mark")
        self.plan: dict[str, Any] = {}
        if cause in FROM_OUTSIDE and chance.random() < 0.3:
            self.plan["cache"] = ""  # so that it may hit compilation
        elif cause not in FROM_OUTSIDE and cause not in ("output full", "disk full"):
            per_env = work == "device" or cause in ("callback", "tracker")
            most = STEPS[work] if per_env else STEPS[work] // 2
            at = chance.randint(most // 20, most * 9 // 10)
            self.plan = {"cause": cause, "at": at, "mark": str(self.mark)}

    def run(self) -> dict[str, Any]:
        """Train until the run ends by its cause; returns what came of it."""
        with self._streams() as streams:
            self.process = start(self.work, self.out, self.plan, **streams)
            try:
                self.process.wait(self.moment if self.name in (*FROM_OUTSIDE, "disk full") else 0)
            except subprocess.TimeoutExpired:
                began = self._strike(streams)
            else:
                began = None  # it was sooner
            errors = self._end()
        ended = time.time()
        if self.mark.exists():
            began = float(self.mark.read_text())
        seconds = 0.0 if began is None else ended - began
        self._check(errors, began, seconds)
        return {
            "cause": self.name,
            "work": self.work,
            "code": self.process.returncode,
            "struck": began is not None,
            "seconds": round(seconds, 2),
        }

    @contextmanager
    def _streams(self) -> Generator[dict[str, Any]]:
        """Open the standard streams of the process, as its cause wants them."""
        if self.name == "output full":
            with open("/dev/full", "wb") as full:  # noqa: PTH123
                yield {"stdout": full, "stderr": full}
        elif self.name == "terminal closed":
            self._terminal, theirs = pty.openpty()
            os.set_blocking(self._terminal, False)
            with os.fdopen(theirs, "r+b", 0) as stream:
                yield {"stdin": stream, "stdout": stream, "stderr": stream, "preexec_fn": _lead}
        elif self.name == "output closed":
            yield {"stdout": subprocess.PIPE}
        else:
            yield {}

    def _strike(self, streams: dict[str, Any]) -> float:
        """Let it happen from outside; returns the time."""
        process, out = self.process, self.out
        outside: dict[str, Callable[[], object]] = {
            "terminal closed": lambda: self._hang_up(streams["stdin"]),
            "output closed": lambda: _closed(process.stdout),
            "folder removed": lambda: shutil.rmtree(out, ignore_errors=True),
            "folder renamed": lambda: out.exists() and out.rename(f"{out}-renamed"),
            "disk full": lambda: _fill(out.parent / "ballast"),
        }
        began = time.time()
        if self.name in SIGNALS:
            name = "SIGTERM" if self.name == "table damaged" else self.name.split()[0]
            os.killpg(process.pid, signal.Signals[name])
            if self.name == "SIGINT twice":
                time.sleep(0.2)
                os.killpg(process.pid, signal.SIGINT)
            if self.name == "SIGKILL":
                process.wait()
        elif self.name in outside:
            outside[self.name]()
        return began

    def _hang_up(self, theirs: IO[bytes]) -> None:
        theirs.close()
        os.close(self._terminal)

    def _end(self) -> str:
        try:
            _, errors = self.process.communicate(timeout=DEADLINE)
        finally:
            self.process.kill()
        return (errors or b"").decode(errors="replace")

    def _check(self, errors: str, began: float | None, seconds: float) -> None:
        """Raise if the run did not end as it should."""
        code, cause = self.process.returncode, self.cause
        whole = self.name in ("output full", "output closed") or began is None
        left = left_behind(self.process.pid)
        early = code < 0 and code != -signal.SIGKILL  # before there was anything to save
        said = [line for line in errors.splitlines() if not line.startswith(TRACEBACK)]
        lines = [line for line in said if re.search(cause.line, line)]
        late = self.name in SIGNALS or (self.name == "folder removed" and seconds < AT_END)
        complete = late and code == 0  # it ended just before
        told = early or whole or complete or not cause.line or len(lines) == 1
        fine = (*cause.codes, *((0,) if whole or complete else ()))
        if code not in fine or not told or left or seconds > cause.allowed:
            raise RuntimeError(
                f"{self.name} of {self.work} ({self.plan or round(self.moment, 1)}): exit code "
                f"{code} after {seconds:.1f} s, left {left}, told {len(lines)} times: {errors}"
            )

    def resume(self) -> dict[str, Any]:
        """Finish the run; returns its results."""
        renamed = Path(f"{self.out}-renamed")
        out = renamed if renamed.exists() else self.out
        (out.parent / "ballast").unlink(missing_ok=True)
        if self.name == "disk full" and not any((out / "checkpoints").glob("*.json")):
            shutil.rmtree(out, ignore_errors=True)  # there was room for no checkpoint
        table = out / "metrics.csv"
        if self.name == "table damaged" and table.exists():
            table.write_bytes(table.read_bytes()[:-7] + b"8O\xff")
        process = start(self.work, out, {"cache": str(out.parent / "compiled")})
        _, errors = process.communicate(timeout=DEADLINE)
        if process.returncode != 0:
            raise RuntimeError(f"{self.name} of {self.work}, resumed: {errors.decode()}")
        return outcome(out) if self.name != "table damaged" else weights(out)


def _lead() -> None:
    """Make the terminal that of the session, so that the kernel hangs it up."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _closed(stream: IO[bytes] | None) -> None:
    if stream is not None:
        stream.close()


def _fill(path: Path) -> None:
    """Leave a disk no room."""
    with suppress(OSError), path.open("wb", 0) as file:
        while True:
            file.write(bytes(2**12))


def weights(folder: Path) -> dict[str, Any]:
    """Read the weights of a run."""
    names = ("final.safetensors", "best.safetensors")
    return {name: (folder / name).read_bytes() for name in names}


@contextmanager
def place(parent: Path, cause: str) -> Generator[Path | None]:
    """Make a folder, on a small disk if it is to be full; None where none can be mounted."""
    folder = Path(tempfile.mkdtemp(dir=parent))
    if cause != "disk full":
        yield folder
        return
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:  # noqa: S603
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)  # noqa: S603, S607


class Suite:
    """Cases that share the undisturbed runs.

    Args:
        folder: for all of them.
        seed: of the moments.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.chance = folder, random.Random(seed)  # noqa: S311 - moments
        self._whole: dict[str, tuple[float, dict[str, Any]]] = {}

    def whole(self, work: str) -> tuple[float, dict[str, Any]]:
        """Return the seconds and the results of an undisturbed run."""
        if work not in self._whole:
            out = self.folder / work
            before = time.monotonic()
            process = start(work, out, {"cache": str(self.folder / "compiled")})
            _, errors = process.communicate(timeout=DEADLINE)
            if process.returncode != 0:
                raise RuntimeError(errors.decode())
            self._whole[work] = time.monotonic() - before, outcome(out)
        return self._whole[work]

    def case(self, cause: str, work: str) -> dict[str, Any] | None:
        """Run one case until its cause comes before the end of the run; None where it cannot be.

        Raises:
            RuntimeError: it did not end as it should, or its cause never came in time.
        """
        for _ in range(ATTEMPTS):
            ended = self._attempt(cause, work)
            if ended is None or ended["struck"]:
                return ended
        raise RuntimeError(f"{cause} of {work}: too late {ATTEMPTS} times")

    def _attempt(self, cause: str, work: str) -> dict[str, Any] | None:
        length, expected = self.whole(work)
        with place(self.folder, cause) as folder:
            if folder is None:
                return None
            (folder / "compiled").symlink_to(self.folder / "compiled")
            case = Case(cause, work, folder / "run", self.chance, length)
            ended = case.run()
            found = case.resume()
            shutil.rmtree(folder / "run", ignore_errors=True)
        ignored = LOST.get(cause, ())
        differing = [
            name for name in found if name not in ignored and found[name] != expected[name]
        ]
        if differing:
            raise RuntimeError(f"{cause} of {work}: {ended}: different {', '.join(differing)}")
        return ended


def table(rows: list[dict[str, Any]]) -> str:
    """Format the results."""
    lines: list[tuple[object, ...]] = []
    for cause in dict.fromkeys(row["cause"] for row in rows):
        own = [row for row in rows if row["cause"] == cause]
        codes = sorted({row["code"] for row in own})
        slowest = max(row["seconds"] for row in own)
        works = ", ".join(dict.fromkeys(row["work"] for row in own))
        lines.append((cause, works, len(own), ", ".join(map(str, codes)), f"{slowest:.1f}"))
    header = ("cause", "vectorization", "runs", "exit codes", "slowest end, s")
    return results.markdown(header, lines)


def main() -> None:
    """Run the cases, print the table, save."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("causes", nargs="*", default=list(CAUSES), metavar="CAUSE")
    parser.add_argument("--runs", type=int, default=100, help="in all, over these causes")
    parser.add_argument("--seed", type=int, default=0, help="of the order and the moments")
    args = parser.parse_args()
    wanted = pairs(args.causes)
    random.Random(args.seed).shuffle(wanted)  # noqa: S311
    rows: list[dict[str, Any]] = []
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        suite = Suite(Path(name), args.seed)
        for i in range(args.runs):
            cause, work = wanted[i % len(wanted)]
            try:
                ended = suite.case(cause, work)
            except RuntimeError as error:
                failed.append(f"{cause} of {work}")
                print(f"{i + 1} of {args.runs}: {error}", flush=True)
                continue
            print(f"{i + 1} of {args.runs}: {ended or f'{cause} cannot be here'}", flush=True)
            rows += [] if ended is None else [{"seed": args.seed, **ended}]
    print(f"\n{table(rows)}")
    if failed:
        raise SystemExit(f"{len(failed)} did not end as they should: {', '.join(failed)}")
    rows = results.others(NAME, rows, ("seed",)) + rows
    results.save(NAME, "python -m benchmarks.misfortune " + " ".join(sys.argv[1:]), rows)


if __name__ == "__main__":
    main()
