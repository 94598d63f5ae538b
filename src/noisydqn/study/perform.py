"""Performance of a comparison: jobs are started, watched and noted until none is left."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Protocol

from noisydqn.checkpoint.lock import LOCKED_SECONDS, is_held
from noisydqn.errors import DIVERGED, QuitError, UserError, in_one_line
from noisydqn.folders import File, Folder
from noisydqn.runners.stop import Stop
from noisydqn.runs.folder import RunFolder, read_summary
from noisydqn.study.board import Board
from noisydqn.study.endings import STOP_CODES, reason_of
from noisydqn.study.estimate import Pace, Whole, read_pace, seconds_of, span
from noisydqn.study.jobs import Job
from noisydqn.study.ledger import Ledger
from noisydqn.study.pool import Ended, Pool

POLL_SECONDS = 0.2
PACE_SECONDS = 2.0
"""Seconds between two looks at the metrics of the jobs that run."""


@dataclass
class _Running:
    """A job that runs."""

    job: Job
    log: File
    log_start: int  # bytes that were there before
    began: float = field(default_factory=time.monotonic)
    pace: Pace | None = None
    pruned: bool = False

    @property
    def elapsed(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self.began


class Guide(Protocol):
    """A source of further jobs, which also tells which jobs are not worth their time."""

    @property
    def to_come(self) -> int:
        """The number of jobs that may still come."""
        ...

    def unwanted(self) -> Sequence[Job]:
        """Look at what the jobs have come to; return those that are to end early."""
        ...

    def more(self) -> Sequence[Job]:
        """Return jobs to start next, which the ledger lists; none if there are none for now."""
        ...


class Performance:
    """The jobs of a comparison, from the first to the last.

    Args:
        folder: of the comparison.
        jobs: all of them, in the order in which they are started.
        ledger: takes what becomes of them.
        pool: runs them.
        arguments: returns the arguments of `noisydqn` for a job.
        board: shows them.
        stop: the requests to stop.
        guide: brings further jobs, and ends some; None leaves it at `jobs`.
    """

    def __init__(
        self,
        folder: Folder,
        jobs: Sequence[Job],
        ledger: Ledger,
        pool: Pool,
        arguments: Callable[[Job], Sequence[str]],
        board: Board,
        stop: Stop,
        guide: Guide | None = None,
    ) -> None:
        self._folder, self._ledger, self._pool = folder, ledger, pool
        self._arguments, self._board, self._stop = arguments, board, stop
        self._guide = guide
        self._jobs = list(jobs)
        self._waiting = [job for job in jobs if ledger.status(job) in ("waiting", "failed")]
        self._running: dict[str, _Running] = {}
        self._began = time.monotonic()
        self._looked = self._began

    def run(self) -> None:
        """Run the jobs that wait until all have ended, or a stop was requested.

        Raises:
            QuitError: a stop was requested twice; the jobs were killed.
            UserError: the ledger or a log cannot be written; the jobs were stopped and saved.
        """
        try:
            try:
                self._run()
            except QuitError:
                raise
            except BaseException:
                self._pool.stop()
                self._pool.wait()
                raise
        except QuitError:
            self._pool.kill()
            raise

    def _run(self) -> None:
        stopped = False
        self._say("")
        while self._running or (not self._stop.asked and self._has_more()):
            ended_now = self._pool.ended()
            for ended in ended_now:
                self._take(ended)
            if ended_now:
                self._prune()
            if self._stop.asked and not stopped:
                stopped = True
                self._pool.stop()
            if not self._stop.asked:
                self._start()
            self._look()
            time.sleep(POLL_SECONDS)

    # Starting

    def _has_more(self) -> bool:
        """Tell whether jobs wait; if none does, the guide is asked for more."""
        if not self._waiting and self._guide is not None:
            more = self._guide.more()
            self._jobs += more
            self._waiting += more
        return bool(self._waiting)

    def _start(self) -> None:
        """Start jobs in the free slots."""
        while len(self._running) < self._pool.slots and self._has_more() and self._start_some():
            pass

    def _start_some(self) -> bool:
        """Start waiting jobs while there are slots; tell whether all of them were started."""
        for job in list(self._waiting):
            if len(self._running) >= self._pool.slots:
                return False
            if not self._is_free(job):
                continue
            self._waiting.remove(job)
            self._ledger.note(job, "running")
            log = self._log(job)
            try:
                log.folder.make()
                running = _Running(job, log, log.size())
                self._pool.start(job.folder, self._arguments(job), log)
            except OSError as error:
                raise UserError(f"{job.label} cannot be started: {in_one_line(error)}") from error
            self._running[job.folder] = running
            self._board.started(job.folder, job.label)
        return not self._waiting

    def _log(self, job: Job) -> File:
        """Return the file of what a job prints."""
        *parents, name = job.log.split("/")
        return reduce(Folder.folder, parents, self._folder).file(name)

    def _is_free(self, job: Job) -> bool:
        """Tell whether no process holds the folder of a job, or one has held it for too long."""
        if time.monotonic() - self._began > LOCKED_SECONDS:
            return True  # train says who holds it
        return not is_held(Folder(self._folder.path / job.folder))

    # Watching

    def _take(self, ended: Ended) -> None:
        """Note how a job has ended."""
        running = self._running.pop(ended.key)
        job, seconds = running.job, running.elapsed
        self._board.ended(ended.key)
        if ended.code == 0:
            self._ledger.note(job, "finished", seconds=seconds)
            self._say(f"finished: {job.label} in {seconds:.0f} s{self._returns(job)}")
        elif running.pruned and ended.code in STOP_CODES:
            self._ledger.note(job, "pruned", seconds=seconds)
        elif self._stop.asked and ended.code in STOP_CODES:
            self._ledger.note(job, "waiting", seconds=seconds)
        else:
            reason = reason_of(ended.code, running.log, running.log_start)
            status = "diverged" if reason.startswith(DIVERGED) else "failed"
            self._ledger.note(job, status, reason, seconds=seconds)
            self._board.warn(f"{status}: {job.label}: {reason}")
            self._say("")

    def _prune(self) -> None:
        """End jobs early that the guide does not want."""
        for job in () if self._guide is None else self._guide.unwanted():
            running = self._running.get(job.folder)
            if running is None:
                self._waiting = [x for x in self._waiting if x.folder != job.folder]
                self._ledger.note(job, "pruned")
            elif not running.pruned:
                running.pruned = True
                self._pool.end(job.folder)

    def _returns(self, job: Job) -> str:
        """Say what the last evaluation of each run came to, as far as the summaries tell."""
        folders = [RunFolder.at(self._folder.path / run.folder) for run in job.runs]
        played = [read_summary(folder).get("evaluation") for folder in folders]
        returns = [f"{x['mean_return']:.1f}" for x in played if x is not None]
        return f", return {', '.join(returns)}" if returns else ""

    def _say(self, line: str) -> None:
        """Print a line and how many runs have ended; "" only moves the bar."""
        left = [*self._waiting, *(running.job for running in self._running.values())]
        ended = len(self._ledger.stored.jobs) - sum(len(job.runs) for job in left)
        self._board.tally(line, ended, self._ledger, self.seconds_left())

    def _look(self) -> None:
        """Show how far the jobs are."""
        if time.monotonic() - self._looked < PACE_SECONDS:
            return
        self._looked = time.monotonic()
        for key, running in self._running.items():
            first = running.job.runs[0]
            metrics = RunFolder.at(self._folder.path / first.folder).metrics
            running.pace = read_pace(metrics) or running.pace
            if running.pace is not None:
                steps, speed = running.pace.newest[0], running.pace.speed
                self._board.moved(key, steps / running.job.steps, speed)
        self._prune()
        self._board.left(self.seconds_left())

    # Estimates

    def seconds_left(self) -> float:
        """Predict the seconds until all jobs have ended."""
        known = [
            Whole(job.cell, job.steps, self._ledger.seconds(job))
            for job in self._jobs
            if self._ledger.status(job) == "finished"
        ]
        left: list[float] = []
        for running in self._running.values():
            job, pace = running.job, running.pace
            whole = None if pace is None else pace.whole(job.steps)
            if whole is None or pace is None:
                left.append(max(seconds_of(job, known) - running.elapsed, 0.0))
                continue
            left.append(max(whole - pace.newest[1], 0.0))
            known.append(Whole(job.cell, job.steps, whole))
        left += [seconds_of(job, known) for job in self._waiting]
        if self._guide is not None and self._jobs:
            left += [seconds_of(self._jobs[-1], known)] * self._guide.to_come
        return span(left, self._pool.slots)
