"""`compare.json`: the grid of a comparison, and what has become of each of its runs."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Protocol, TypeVar

import msgspec

from noisydqn.checkpoint.lock import NAME as LOCK
from noisydqn.errors import UserError, in_one_line
from noisydqn.folders import PART, File, Folder, json_bytes
from noisydqn.report.records import JobStatus
from noisydqn.runs.folder import COMPARISON, MAX_JSON_BYTES
from noisydqn.study.grid import Grid, Variant
from noisydqn.study.jobs import Job, Run

VERSION = 1

Cores = Annotated[int, msgspec.Meta(ge=1, le=2**16)]


class Versioned(Protocol):
    """The contents of a file of a study."""

    @property
    def version(self) -> int:
        """The version of the file's format."""
        ...


T = TypeVar("T", bound=Versioned)


class Entry(msgspec.Struct, forbid_unknown_fields=True):
    """What has become of a run."""

    environment: str
    variant: str
    seed: int
    folder: str  # in that of the comparison
    status: JobStatus = "waiting"
    reason: str | None = None  # one line, of a run that failed or diverged
    seconds: Annotated[float, msgspec.Meta(ge=0)] = 0.0  # of all its processes, by the clock


class Stored(msgspec.Struct, forbid_unknown_fields=True):
    """The contents of the file."""

    version: int
    command: str  # that began the comparison
    environments: tuple[str, ...]
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...]
    options: dict[str, object]  # of every run
    cores: Cores  # of each job
    together: bool  # whether one program trains all seeds, where the environment is in JAX
    jobs: list[Entry]

    @property
    def grid(self) -> Grid:
        """The grid."""
        return Grid(self.environments, self.variants, self.seeds, self.options)


class Ledger:
    """The file, which is written at every change.

    Args:
        folder: of the comparison.
        stored: what the file is to hold.
    """

    def __init__(self, folder: Folder, stored: Stored) -> None:
        self.folder, self.stored = folder, stored
        self._entries = {entry.folder: entry for entry in stored.jobs}

    def entry(self, run: Run) -> Entry:
        """Return what has become of a run."""
        return self._entries[run.folder]

    def status(self, job: Job) -> JobStatus:
        """Return what has become of a job, whose runs share it."""
        return self.entry(job.runs[0]).status

    def seconds(self, job: Job) -> float:
        """Return the seconds that a job has taken."""
        return self.entry(job.runs[0]).seconds

    def note(
        self, job: Job, status: JobStatus, reason: str | None = None, *, seconds: float = 0.0
    ) -> None:
        """Note what has become of a job, after further seconds.

        Raises:
            UserError: the file cannot be written.
        """
        for run in job.runs:
            entry = self.entry(run)
            entry.status, entry.reason = status, reason
            entry.seconds = round(entry.seconds + seconds, 2)
        self.write()

    def write(self) -> None:
        """Write the file.

        Raises:
            UserError: it cannot be written.
        """
        file = self.folder.file(COMPARISON)
        try:
            file.write(json_bytes(msgspec.to_builtins(self.stored)))
        except OSError as error:
            raise UserError(
                f"{file} cannot be written: {error.strerror}; make room or make it writable, then "
                f"repeat with --resume"
            ) from error

    def add(self, variant: Variant, jobs: Iterable[Job]) -> None:
        """List the runs of a further variant.

        Raises:
            UserError: the file cannot be written.
        """
        entries = entries_of(jobs)
        self.stored.variants = (*self.stored.variants, variant)
        self.stored.jobs += entries
        self._entries |= {entry.folder: entry for entry in entries}
        self.write()

    def tally(self, status: JobStatus) -> list[Entry]:
        """List the runs of a status."""
        return [entry for entry in self.stored.jobs if entry.status == status]


def new(command: str, grid: Grid, jobs: Iterable[Job], *, cores: int, together: bool) -> Stored:
    """Return the contents of a new file."""
    return Stored(
        VERSION,
        command,
        grid.environments,
        grid.variants,
        grid.seeds,
        grid.options,
        cores,
        together,
        entries_of(jobs),
    )


def entries_of(jobs: Iterable[Job]) -> list[Entry]:
    """Return the entries of runs that wait."""
    return [Entry(**dataclasses.asdict(run)) for job in jobs for run in job.runs]


def is_fresh(folder: Folder, first: str = COMPARISON) -> bool:
    """Tell whether a study may begin in a folder: it is new, empty, or has only its lock.

    Args:
        folder: the folder.
        first: the first file of the study, which may be half written.
    """
    return not folder.exists() or set(folder.names()) <= {LOCK, first + PART}


def read(path: Path) -> Stored:
    """Read the comparison in a folder.

    Raises:
        UserError: there is none, or its file cannot be used.
    """
    if not path.is_dir():
        raise UserError(f"{path} is not a folder: name that of a comparison (compare's --out)")
    file = File.at(path / COMPARISON)
    if not file.taken():
        raise UserError(
            f"{path} holds no comparison (no {COMPARISON}): name a folder that noisydqn compare "
            "made"
        )
    return decoded(file, Stored, VERSION)


def decoded(file: File, kind: type[T], version: int) -> T:
    """Read the file of a study.

    Args:
        file: the file.
        kind: of its contents, which have a `version`.
        version: the one that can be read.

    Raises:
        UserError: the file cannot be used.
    """
    try:
        stored = msgspec.json.decode(file.read(MAX_JSON_BYTES), type=kind)
        if stored.version != version:
            raise ValueError(f"version {stored.version}, expected {version}")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{file} cannot be used ({in_one_line(error)}): restore it from a copy, or use the "
            "version of noisydqn that wrote it"
        ) from error
    return stored


def check_jobs(stored: Stored, jobs: Sequence[Job], path: Path) -> None:
    """Check that a file lists the runs of its grid.

    Raises:
        UserError: it lists others.
    """
    listed = [(x.environment, x.variant, x.seed, x.folder) for x in stored.jobs]
    runs = [dataclasses.astuple(run) for job in jobs for run in job.runs]
    if sorted(listed) != sorted(runs):
        raise UserError(
            f"{path / COMPARISON} lists other runs than those of its grid: restore it from a copy"
        )
