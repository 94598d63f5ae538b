"""`compare`: a grid of runs is planned, trained in a pool of processes, and resumed."""

import dataclasses
import shlex
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from noisydqn.checkpoint.lock import Lock
from noisydqn.cores import usable_cores
from noisydqn.errors import UserError, counted
from noisydqn.folders import Folder
from noisydqn.runners.stop import Stop, stoppable
from noisydqn.runs.folder import COMPARISON, DEFAULT_PARENT, RunFolder
from noisydqn.study.board import Board
from noisydqn.study.estimate import Whole, in_words, seconds_of, span
from noisydqn.study.grid import Draft, Grid
from noisydqn.study.jobs import Job, cells_of, jobs_of, with_environments
from noisydqn.study.ledger import Entry, Ledger, Stored, check_jobs, new, read
from noisydqn.study.perform import Performance
from noisydqn.study.pool import MakePool
from noisydqn.study.resources import (
    Capacity,
    folder_to_resume,
    has_accelerator,
    leave_accelerator,
    make_out,
    slots_for,
    to_resume,
)

DEFAULT_NAME = "compare"


@dataclasses.dataclass(frozen=True)
class Request:
    """What was asked for.

    Args:
        draft: what was said of the grid; empty to resume the grid of a folder.
        typed: whether all of the draft was typed rather than read from a file.
        command: the command line, for the record.
        out: folder of the comparison; None makes a new one under `runs/`.
        resume: whether `out` may hold the same comparison, which is then resumed.
        slots: jobs at a time; None takes as many as the cores suffice for.
        cores: of each job; None takes one, or all if there is an accelerator.
        together: whether one program trains all seeds where the environment is in JAX; None where
            it pays, which is on an accelerator.
        only_plan: print the plan and do nothing else.
        quiet: print only warnings.
        trust: whether code that files name may be imported and run.
        capacity: returns how many jobs run at a time on other machines, by the cores of each. None
            runs them on this one.
        again: options to repeat when the study is resumed.
    """

    draft: Draft
    typed: bool
    command: str
    out: Path | None = None
    resume: bool = False
    slots: int | None = None
    cores: int | None = None
    together: bool | None = None
    only_plan: bool = False
    quiet: bool = False
    trust: bool = False
    capacity: Capacity | None = None
    again: str = ""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a comparison came to."""

    bad: int  # runs that failed or diverged
    signal: int | None = None  # that stopped it


@dataclasses.dataclass(frozen=True)
class _Plan:
    """A grid with all that is decided about it."""

    grid: Grid
    jobs: list[Job]
    slots: int
    cores: int
    together: bool


def compare(
    request: Request, arguments: Callable[[Job, Path], Sequence[str]], make_pool: MakePool
) -> Outcome:
    """Train every run of a grid, or those that are left.

    Args:
        request: what was asked for.
        arguments: returns the arguments of `noisydqn` that train a job in a folder.
        make_pool: makes the pool that runs them.

    Raises:
        UserError: the grid or the folder cannot be used, or another process is at work in it.
        QuitError: a stop was requested twice.
    """
    before = _check_folder(request, request.out)
    plan = _plan(request, before)
    board = Board(len(plan.grid), quiet=request.quiet)
    if request.only_plan:
        _say_plan(board, plan, before, request.out or DEFAULT_PARENT / DEFAULT_NAME)
        return Outcome(0)
    out = make_out(request.out, DEFAULT_NAME)
    _say_plan(board, plan, before, out)
    with ExitStack() as stack:
        folder = Folder(out)
        stack.enter_context(Lock(folder, board.warn))
        stop = stack.enter_context(stoppable(board.warn))
        stored = _check_folder(request, out)  # another process may have been faster
        if stored is None:
            record = (request.command, plan.grid, plan.jobs)
            stored = new(*record, cores=plan.cores, together=plan.together)
        else:
            _revive(stored, plan.jobs, out)
        ledger = Ledger(folder, stored)
        ledger.write()

        def call(job: Job) -> Sequence[str]:
            return arguments(job, folder.path / job.folder)

        with board:
            pool = make_pool(plan.slots, plan.cores, board.warn)
            Performance(folder, plan.jobs, ledger, pool, call, board, stop).run()
        return _conclude(request, plan.jobs, ledger, board, stop)


# The plan


def _check_folder(request: Request, out: Path | None) -> Stored | None:
    """Return the comparison in the folder `out` if it is resumed; refuse other contents.

    Raises:
        UserError: the folder holds something else, or what is to be resumed is not there.
    """
    given = not request.draft.is_empty
    found = folder_to_resume(out, "comparison", COMPARISON, resume=request.resume, given=given)
    return None if found is None else read(found)


def _plan(request: Request, before: Stored | None) -> _Plan:
    """Decide what is trained, and how.

    Raises:
        UserError: the grid cannot be used, or is not that of the folder.
    """
    draft, usable = request.draft, len(usable_cores())
    accelerated = request.capacity is None and has_accelerator()
    if before is None:
        grid = draft.grid()
        cores = usable if accelerated else 1
        cores = cores if request.cores is None else request.cores
        together = accelerated if request.together is None else request.together
    else:
        if not draft.is_empty and not draft.environments:
            raise UserError("--resume takes all of the grid or nothing of it: leave it out")
        grid = before.grid.checked() if draft.is_empty else draft.grid()
        _refuse_other(request, before, grid)
        cores, together = before.cores, before.together
    if has_accelerator():
        leave_accelerator()
    typed = request.typed and not draft.is_empty
    cells = with_environments(cells_of(grid, trust=request.trust, typed=typed))
    jobs = jobs_of(cells, grid.seeds, together=together)
    slots = slots_for(jobs, request.slots, cores, len(jobs), request.capacity)
    return _Plan(grid, jobs, slots, cores, together)


def _refuse_other(request: Request, before: Stored, grid: Grid) -> None:
    """Refuse to resume a comparison with another grid, or with runs of another kind.

    Raises:
        UserError: it is another.
    """
    differing = grid.differing(before.grid.checked())
    differing += ["--cores"] if request.cores not in (None, before.cores) else []
    differing += ["--together"] if request.together not in (None, before.together) else []
    if differing:
        raise UserError(
            f"--out {request.out} holds a comparison with other {', '.join(differing)}: resume it "
            "without options of the grid, or name another folder"
        )


def _say_plan(board: Board, plan: _Plan, before: Stored | None, out: Path) -> None:
    """Say what will be trained, and for how long."""
    grid = plan.grid
    steps = sorted({job.cell.config.run.steps for job in plan.jobs})
    each = " to ".join(f"{x:,}" for x in dict.fromkeys((steps[0], steps[-1])))
    sizes = [
        counted(len(grid.environments), "environment"),
        counted(len(grid.variants), "variant"),
        counted(len(grid.seeds), "seed"),
    ]
    lines = [
        f"{counted(len(grid), 'run')} of {each} steps into {out}: {' x '.join(sizes)}",
        f"environments: {', '.join(grid.environments)}",
        f"variants: {'; '.join(variant.name for variant in grid.variants)}",
        f"seeds: {_range(grid.seeds)}",
        *_left_lines(plan, [] if before is None else before.jobs),
    ]
    board.say("\n".join(lines))


def _left_lines(plan: _Plan, entries: Sequence[Entry]) -> list[str]:
    """Say what is left to train, of runs that were listed before, and how long that takes."""
    ended = {x.folder: x for x in entries if x.status in ("finished", "diverged")}
    todo = [job for job in plan.jobs if job.runs[0].folder not in ended]
    runs, total = sum(len(job.runs) for job in todo), len(plan.grid)
    lines = [f"resuming: {total - runs} of {total} have ended, {runs} are left"] if entries else []
    if not todo:
        return lines
    known = [
        Whole(job.cell, job.steps, entry.seconds)
        for job in plan.jobs
        if (entry := ended.get(job.runs[0].folder)) is not None and entry.status == "finished"
    ]
    time = in_words(span([seconds_of(job, known) for job in todo], plan.slots))
    slots, cores = counted(plan.slots, "job"), counted(plan.cores, "core")
    basis = "" if known else ", a guess until the first runs show their speed"
    return [*lines, f"about {time} with {slots} at a time, {cores} each{basis}"]


def _range(seeds: Sequence[int]) -> str:
    first, last = seeds[0], seeds[-1]
    if seeds == tuple(range(first, last + 1)):
        return str(first) if first == last else f"{first} to {last}"
    return ", ".join(map(str, seeds))


# The folder


def _revive(stored: Stored, jobs: Sequence[Job], out: Path) -> None:
    """Let runs wait that a kill left running, and those that finished but whose folder is gone.

    Raises:
        UserError: the runs are not those of the jobs.
    """
    check_jobs(stored, jobs, out)
    for entry in stored.jobs:
        is_there = RunFolder.at(out / entry.folder).summary.exists()
        if entry.status == "running" or (entry.status == "finished" and not is_there):
            entry.status = "waiting"


def _conclude(
    request: Request, jobs: Sequence[Job], ledger: Ledger, board: Board, stop: Stop
) -> Outcome:
    """Say what the comparison came to, and what to do next."""
    out = ledger.folder.path
    for job in jobs:
        if ledger.status(job) in ("failed", "diverged"):
            reason = ledger.entry(job.runs[0]).reason
            board.say(f"{ledger.status(job)}: {job.label}: {reason} ({out / job.log})")
    bad = len(ledger.tally("failed")) + len(ledger.tally("diverged"))
    finished, total = len(ledger.tally("finished")), counted(len(ledger.stored.jobs), "run")
    cells = [job.cell for job in jobs]
    resume = to_resume("compare", out, cells, request.again, trust=request.trust)
    if stop.asked:
        board.warn(f"{stop.word} after {finished} of {total}; to resume: {resume}")
        return Outcome(bad, stop.signal)
    board.say(f"{finished} of {total} finished, in {out}")
    if ledger.tally("failed"):
        board.say(f"to try again what failed: {resume}")
    board.say(f"next: {shlex.join(['noisydqn', 'report', str(out)])}")
    return Outcome(bad)
