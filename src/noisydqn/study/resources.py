"""What a study uses of the machine: devices, memory for its jobs, and its folder."""

import os
import shlex
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import entry_points
from pathlib import Path

import jax

from noisydqn.config.gate import named_code
from noisydqn.cores import usable_cores
from noisydqn.errors import UserError
from noisydqn.folders import Folder
from noisydqn.runs.claim import unwritable
from noisydqn.runs.folder import DEFAULT_PARENT, make_folder, unreadable
from noisydqn.runs.memory import free_bytes
from noisydqn.study.jobs import Cell, Job
from noisydqn.study.ledger import is_fresh

Capacity = Callable[[int], int]
"""Returns how many jobs run at a time, by the cores of each."""


def has_accelerator() -> bool:
    """Tell whether JAX will use an accelerator, without taking hold of it.

    JAX finds devices besides the processor through plugins, or is told by `JAX_PLATFORMS`.
    """
    if platforms := os.environ.get("JAX_PLATFORMS", ""):
        return platforms.split(",")[0] != "cpu"
    return bool(entry_points(group="jax_plugins"))


def leave_accelerator() -> None:
    """Keep this process off the accelerator, whose memory is for the jobs."""
    jax.config.update("jax_platforms", "cpu")


def slots_for(
    jobs: Sequence[Job],
    given: int | None,
    cores: int,
    most: int,
    capacity: Capacity | None = None,
) -> int:
    """Return how many jobs run at a time.

    Args:
        jobs: the largest of them have to fit into memory side by side.
        given: the number that was asked for; None takes as many as the cores suffice for.
        cores: of each job.
        most: jobs that there are.
        capacity: of other machines, whose memory is not known; None is this machine.

    Raises:
        UserError: so many jobs were asked for, and do not fit into memory.
    """
    if capacity is not None:
        return min(max(capacity(cores), 1) if given is None else given, most)
    accelerated = has_accelerator()
    slots = 1 if accelerated else max(len(usable_cores()) // cores, 1)
    slots = min(slots if given is None else given, most)
    return slots if accelerated else fitting(jobs, slots, given, free_bytes())


def fitting(jobs: Sequence[Job], slots: int, given: int | None, free: int | None) -> int:
    """Return how many jobs at a time fit into `free` bytes of memory: at most `slots`, at least 1.

    Raises:
        UserError: so many jobs were `given`, and do not fit.
    """
    largest = max(job.experience for job in jobs)
    if free is None or slots * largest <= free:
        return slots
    most = max(free // largest, 1)
    if given is not None and most < slots:
        raise UserError(
            f"--jobs {given} need {slots * largest / 1e9:,.1f} GB for what they learn from, but "
            f"{free / 1e9:,.1f} GB are free: give --jobs {most}, or a smaller replay buffer"
        )
    return most


def make_out(out: Path | None, name: str) -> Path:
    """Make the folder of a study if it is missing; None makes a new one, by `name`.

    Raises:
        UserError: it cannot be written to.
    """
    try:
        if out is None:
            return make_folder(name)
        Folder(out).make()
    except OSError as error:
        raise unwritable(out or DEFAULT_PARENT, error) from error
    return out


def folder_to_resume(
    out: Path | None, what: str, first: str, *, resume: bool, given: bool
) -> Path | None:
    """Return the folder `out` if it holds a study to resume, None if one begins in it.

    Args:
        out: the folder that was named; None if there is none.
        what: the study in words.
        first: the first of its files.
        resume: whether a study in the folder is to be resumed.
        given: whether the study was given, so that it may also begin.

    Raises:
        UserError: the folder holds something else, or cannot be read, or none was named to resume.
    """
    if out is None:
        if resume:
            raise UserError(f"--resume needs --out: name the folder of the {what} to resume")
        return None
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: name a folder that is new or empty")
    try:
        fresh = is_fresh(Folder(out), first)
    except OSError as error:
        raise unreadable(out, error) from error
    if resume and not (fresh and given):
        return out
    if not fresh:
        holds = (out / first).exists()
        state = f"already holds a {what}" if holds else "is not empty"
        hint = "continue it with --resume, or name another folder" if holds else "name another"
        raise UserError(f"--out {out} {state}, nothing was changed: {hint}")
    return None


def names_code(cells: Iterable[Cell]) -> bool:
    """Tell whether runs use code of the user's, which needs --trust where a file names it."""
    return any(named_code(cell.config.flat()) for cell in cells)


def to_resume(command: str, out: Path, cells: Iterable[Cell], again: str, *, trust: bool) -> str:
    """Spell the command that resumes a study.

    Args:
        command: of noisydqn.
        out: the folder.
        cells: of its runs.
        again: options to repeat, with --trust if it was given.
        trust: whether it was.
    """
    words = shlex.split(again)
    if not trust and names_code(cells):  # it was typed, and will be read from a file
        words = ["--trust", *words]
    return shlex.join(["noisydqn", command, "--out", str(out), "--resume", *words])
