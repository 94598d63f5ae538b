"""The journal of a tuning: the trials of Optuna's study, in a file that survives kills.

Optuna is an extra, imported when a tuning begins.
"""

import importlib.util
import json
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from noisydqn.errors import MissingExtraError, UserError, in_one_line
from noisydqn.folders import File, Folder

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial

JOURNAL = "journal.log"
LOCK = f"{JOURNAL}.lock"
STUDY = "noisydqn"
STARTUP = 5
"""Trials that have to end before one is pruned."""
MAX_JOURNAL_BYTES = 2**28
IMPORTANCE = 10
"""Complete trials from which on it is worthwhile to say which options matter."""


class Ended(NamedTuple):
    """A complete trial."""

    number: int
    value: float


def check_installed() -> None:
    """Refuse to tune without Optuna, which is not imported yet.

    Raises:
        MissingExtraError: it is not installed.
    """
    if importlib.util.find_spec("optuna") is None:
        raise MissingExtraError(
            "noisydqn tune needs the package optuna, which is not installed: pip install "
            "'noisydqn[tune]'"
        )


class Journal:
    """The trials of a tuning.

    The caller holds the lock of the folder, so nobody else writes to the journal. What a killed
    process left of a line, and its lock, are removed.

    Args:
        folder: of the tuning.
        seed: of the proposals. Those of a trial depend on it, on the trial's number and on the
            trials that have ended before, so a tuning that was killed proposes the same.
        warmup: points of a trial's curve before which it is not pruned.

    Raises:
        UserError: the journal cannot be used.
    """

    def __init__(self, folder: Folder, seed: int, warmup: int) -> None:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._file, self._seed = folder.file(JOURNAL), seed
        with self._using():
            _mend(self._file)
            with suppress(FileNotFoundError):
                folder.file(LOCK).remove()
            backend = JournalFileBackend(str(self._file.path.absolute()))
            self._study = optuna.create_study(
                storage=JournalStorage(backend),
                study_name=STUDY,
                direction="maximize",
                sampler=optuna.samplers.TPESampler(seed=0),  # each trial has its own
                pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=warmup),
                load_if_exists=True,
            )

    @contextmanager
    def _using(self) -> Generator[None]:
        """Say which file cannot be used.

        Raises:
            UserError: it cannot be read or written.
        """
        try:
            yield
        except UserError:
            raise
        except OSError as error:
            raise UserError(
                f"{self._file} cannot be written: {error.strerror}; make room or make it writable, "
                "then repeat with --resume"
            ) from error
        except (ValueError, KeyError, TypeError, AssertionError, RecursionError) as error:
            raise UserError(
                f"{self._file} cannot be used ({in_one_line(error)}): restore it from a copy, or "
                "name another folder"
            ) from error

    def _trials(self) -> list["FrozenTrial"]:
        with self._using():
            return self._study.get_trials(deepcopy=False)

    @property
    def begun(self) -> int:
        """The number of trials that were begun."""
        return sum(trial.state.name != "WAITING" for trial in self._trials())

    def enqueue(self, proposals: Mapping[str, object]) -> None:
        """Let the first trial be one with given proposals, unless it is there already."""
        with self._using():
            if not self._trials():
                self._study.enqueue_trial(dict(proposals))

    def ask(self) -> "Trial":
        """Begin a trial.

        Raises:
            UserError: the journal cannot be written.
        """
        self._sample_for(self.begun)
        with self._using():
            return self._study.ask()

    def _sample_for(self, number: int) -> None:
        """Let the proposals of a trial follow from its number."""
        import optuna

        seed = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
        self._study.sampler = optuna.samplers.TPESampler(seed=seed)

    def running(self) -> list["Trial"]:
        """Return the trials that have not ended, which a process that was killed has left."""
        from optuna.trial import Trial

        found = [trial for trial in self._trials() if trial.state.name == "RUNNING"]
        return [Trial(self._study, trial._trial_id) for trial in found]  # pyright: ignore[reportPrivateUsage]

    def revive(self, trial: "Trial") -> None:
        """Prepare a trial that was left, whose proposals may be incomplete."""
        self._sample_for(trial.number)

    def report(self, trial: "Trial", points: Mapping[int, float]) -> bool:
        """Note points of a trial's curve; tell whether one is new, and the trial is to be pruned.

        Raises:
            UserError: the journal cannot be written.
        """
        known = self._trials()[trial.number].intermediate_values
        new = {step: value for step, value in points.items() if step not in known}
        with self._using():
            for step in sorted(new):
                trial.report(new[step], step)
            return bool(new) and trial.should_prune()

    def complete(self, trial: "Trial", value: float) -> None:
        """Note the value of a complete trial."""
        with self._using():
            self._study.tell(trial, value)

    def prune(self, trial: "Trial") -> None:
        """Note that a trial was pruned. One that was pruned earlier counts as worse."""
        import optuna

        with self._using():
            self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)

    def fail(self, trial: "Trial") -> None:
        """Note that a trial failed."""
        import optuna

        with self._using():
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)

    def state(self, number: int) -> str:
        """Return the state of a trial: RUNNING, COMPLETE, PRUNED or FAIL."""
        return self._trials()[number].state.name

    def best(self) -> list[Ended]:
        """List the complete trials, the best first; of equal ones, the earlier first."""
        ended = [
            Ended(trial.number, trial.value)
            for trial in self._trials()
            if trial.state.name == "COMPLETE" and trial.value is not None
        ]
        return sorted(ended, key=lambda x: (-x.value, x.number))

    def importance(self) -> dict[str, float]:
        """Return how much each option matters for being among the best trials, as shares of 1.

        By PED-ANOVA (Watanabe et al. 2023). {} if there are too few trials to tell.
        """
        import optuna

        if len(self.best()) < IMPORTANCE:
            return {}
        with warnings.catch_warnings(), suppress(ValueError, RuntimeError):
            warnings.simplefilter("ignore")
            return optuna.importance.get_param_importances(self._study)
        return {}


def _mend(file: File) -> None:
    """Remove the end of a line that a killed process has left."""
    if not file.exists():
        return
    data = file.read(MAX_JOURNAL_BYTES)
    whole = data[: data.rfind(b"\n") + 1]
    if whole != data:
        file.write(whole)
    for line in whole.splitlines():
        json.loads(line)
