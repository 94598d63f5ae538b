"""The user's trackers and callbacks: accepting them, making them for each seed, calling them."""

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from noisydqn.config.config import Config
from noisydqn.errors import ExtensionFailedError, UserError, in_one_line
from noisydqn.options import shown
from noisydqn.play.evaluate import Evaluation
from noisydqn.runners.report import SeedChunk
from noisydqn.runs.callbacks import Callback, Training
from noisydqn.runs.trackers import Tracker

TrackerMaker = Callable[[Path, Config], Tracker]
"""A function that makes the tracker of one seed from its run's folder and config."""


class Extensions(NamedTuple):
    """The trackers and callbacks of a run."""

    trackers: tuple[Tracker | TrackerMaker, ...] = ()
    callbacks: tuple[Callback, ...] = ()

    @classmethod
    def accept(cls, trackers: object, callbacks: object) -> "Extensions":
        """Check the trackers and callbacks of a call.

        Raises:
            UserError: something is neither a tracker, a maker of one, nor a callback.
        """
        watching, called = _items("trackers", trackers), _items("callbacks", callbacks)
        for tracker in watching:
            if not (isinstance(tracker, Tracker) or callable(tracker)):
                raise UserError(
                    f"trackers: {shown(tracker)} lacks a method of noisydqn.Tracker (chunk, "
                    "evaluation, close), and is not a function that makes a tracker"
                )
        for callback in called:
            if not isinstance(callback, Callback):
                hint = "give an instance" if isinstance(callback, type) else "derive from it"
                raise UserError(f"callbacks: {shown(callback)} is not a noisydqn.Callback: {hint}")
        return cls(watching, called)

    def check_seeds(self, num_seeds: int) -> None:
        """Refuse a single tracker for several seeds.

        Raises:
            UserError: there is one.
        """
        single = [tracker for tracker in self.trackers if not _is_maker(tracker)]
        if single and num_seeds > 1:
            raise UserError(
                f"trackers: {shown(single[0])} is one tracker for {num_seeds} seeds: give a "
                "function of (folder, config) that makes one for each"
            )


def _items(name: str, given: object) -> tuple[Any, ...]:
    if not isinstance(given, Iterable):
        raise UserError(f"{name} must be a list, got {shown(given)}: put it in brackets")
    return tuple(given)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def _is_maker(tracker: object) -> bool:
    return isinstance(tracker, type) or not isinstance(tracker, Tracker)


@contextmanager
def _blamed(kind: str, extension: object, action: str) -> Generator[None]:
    """Name the tracker or callback in whose code an error is raised."""
    try:
        yield
    except Exception as error:
        name = getattr(extension, "__name__", type(extension).__name__)
        raise ExtensionFailedError(
            f"the {kind} {name} failed in {action}: {in_one_line(error)}"
        ) from error


class Watchers:
    """The user's trackers and callbacks of one seed.

    Each method raises `ExtensionFailedError` if one of them does; `close` only warns.

    Args:
        extensions: the trackers and callbacks of the run.
        folder: folder of the seed's run.
        config: config of the seed's run.
        warn: receives a line about each tracker that cannot be closed.
    """

    def __init__(
        self, extensions: Extensions, folder: Path, config: Config, warn: Callable[[str], None]
    ) -> None:
        self._callbacks, self._warn = extensions.callbacks, warn
        self._trackers: list[Tracker] = []
        for given in extensions.trackers:
            self._trackers.append(_made(given, folder, config) if _is_maker(given) else given)  # pyright: ignore[reportArgumentType]

    def start(self, training: Training) -> None:
        """Announce the start of training."""
        for callback in self._callbacks:
            with _blamed("callback", callback, "on_start"):
                callback.on_start(training)

    def chunk(self, training: Training, speed: float, chunk: SeedChunk) -> None:
        """Announce a chunk, trained at `speed` steps a second."""
        for tracker in self._trackers:
            with _blamed("tracker", tracker, f"chunk after {training.steps:,} steps"):
                tracker.chunk(training.steps, training.seconds, speed, chunk)
        for callback in self._callbacks:
            with _blamed("callback", callback, f"on_chunk after {training.steps:,} steps"):
                if callback.on_chunk(training, chunk):
                    training.stop()

    def evaluation(
        self, training: Training, steps: int, seconds: float, evaluation: Evaluation
    ) -> None:
        """Announce an evaluation of the weights reached after `steps` and `seconds`."""
        for tracker in self._trackers:
            with _blamed("tracker", tracker, f"evaluation of step {steps:,}"):
                tracker.evaluation(steps, seconds, evaluation)
        for callback in self._callbacks:
            with _blamed("callback", callback, f"on_evaluation of step {steps:,}"):
                if callback.on_evaluation(training, steps, evaluation):
                    training.stop()

    def end(self, training: Training, summary: dict[str, Any]) -> None:
        """Announce the end of the run."""
        for callback in self._callbacks:
            with _blamed("callback", callback, "on_end"):
                callback.on_end(training, summary)

    def close(self) -> None:
        """Close the trackers, each once; the run is over, so a failure is only a warning."""
        while self._trackers:
            tracker = self._trackers.pop(0)
            try:
                with _blamed("tracker", tracker, "close"):
                    tracker.close()
            except ExtensionFailedError as error:
                self._warn(str(error))


def _made(maker: Callable[[Path, Config], object], folder: Path, config: Config) -> Tracker:
    with _blamed("tracker", maker, "its construction"):
        tracker = maker(folder, config)
        if not isinstance(tracker, Tracker) or isinstance(tracker, type):
            raise TypeError(
                f"it made {shown(tracker)}, which lacks a method of noisydqn.Tracker (chunk, "
                "evaluation, close)"
            )
        return tracker
