"""The live view of a comparison: a bar for each job in a terminal, plain lines elsewhere."""

from types import TracebackType
from typing import Self

from rich.progress import BarColumn, Progress, TaskID, TextColumn

from noisydqn.errors import counted
from noisydqn.report.records import JobStatus
from noisydqn.runs.consoles import make_consoles, shown
from noisydqn.study.estimate import in_words
from noisydqn.study.ledger import Ledger

ENDED_BADLY: tuple[JobStatus, ...] = ("failed", "diverged", "pruned")
"""Endings of runs that the tally counts."""


class Board:
    """The live view.

    It falls silent where nothing can be printed, and never fails.

    Args:
        total: number of runs.
        quiet: print only warnings.
    """

    def __init__(self, total: int, *, quiet: bool) -> None:
        self._console, self._errors = make_consoles(quiet=quiet)
        self._total = total
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.percentage:>3.0f}%  {task.fields[text]}", markup=False),
            console=self._console,
            disable=quiet or not self._console.is_terminal,
        )
        self._all = self._progress.add_task("all runs", total=total, text="")
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        self._console.print(shown(line), soft_wrap=True)

    def warn(self, line: str) -> None:
        """Print a line to standard error, even if quiet."""
        self._errors.print(shown(line), soft_wrap=True)

    def started(self, key: str, label: str) -> None:
        """Show a job that was started."""
        self._tasks[key] = self._progress.add_task(shown(label), total=1.0, text="starting")

    def moved(self, key: str, share: float, speed: float | None) -> None:
        """Show how far a job is, and its steps per second."""
        text = "" if speed is None else f"{speed:,.0f} steps/s"
        self._progress.update(self._tasks[key], completed=min(share, 1.0), text=text)

    def ended(self, key: str) -> None:
        """Remove a job that has ended."""
        self._progress.remove_task(self._tasks.pop(key))

    def left(self, seconds: float) -> None:
        """Show the time that is left."""
        self._progress.update(self._all, text=f"about {in_words(seconds)} left")

    def tally(self, line: str, ended: int, ledger: Ledger, seconds: float) -> None:
        """Move the bar of all runs, and print a line, if there is one, with their tally."""
        self._progress.update(self._all, completed=ended)
        counts = {status: len(ledger.tally(status)) for status in ENDED_BADLY}
        words = [f"{ended} of {counted(self._total, 'run')}"]
        words += [f"{number} {status}" for status, number in counts.items() if number]
        if ended < self._total:
            words += [f"about {in_words(seconds)} left"]
        if line:
            self.say(f"{line} ({', '.join(words)})")
