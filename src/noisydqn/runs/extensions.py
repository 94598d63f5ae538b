"""The user's trackers and callbacks: accepting them, making them for each seed, calling them."""

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from noisydqn.config.config import Config
from noisydqn.errors import ExtensionFailedError, UserError, in_one_line, is_stop
from noisydqn.folders import File
from noisydqn.options import shown
from noisydqn.play.evaluate import Evaluation
from noisydqn.runners.report import SeedChunk
from noisydqn.runs.callbacks import Callback, Training
from noisydqn.runs.trackers import Tracker, ValueTracker
from noisydqn.runs.tracking import SERVICES
from noisydqn.runs.tracking.service import ServiceTracker
from noisydqn.runs.walls import Wall

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
                service = isinstance(tracker, str) and tracker in SERVICES
                hint = f": give track=[{tracker!r}]" if service else ""
                raise UserError(
                    f"trackers: {shown(tracker)} lacks a method of noisydqn.Tracker (chunk, "
                    f"evaluation, close), and is not a function that makes a tracker{hint}"
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
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise UserError(f"{name} must be a list, got {shown(given)}: put it in brackets")
    return tuple(given)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def _is_maker(tracker: object) -> bool:
    return isinstance(tracker, type) or not isinstance(tracker, Tracker)


class Watchers:
    """The trackers of one seed, ours and the user's, each behind a wall.

    Args:
        warn: receives a line about each tracker that fails, once.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._trackers: list[tuple[Tracker, Wall]] = []

    def add(self, name: str, make: Callable[[], Tracker]) -> None:
        """Make a tracker, which is called `name` where it fails."""
        wall = Wall(name, self._warn)
        tracker = wall.call("in its construction", make)
        if tracker is not None:
            self._trackers.append((tracker, wall))

    def add_given(self, extensions: Extensions, folder: Path, config: Config) -> None:
        """Add the user's trackers of the seed whose run is in `folder`."""
        for given in extensions.trackers:
            name = f"the tracker {_name(given)}"
            if _is_maker(given):
                self.add(name, partial(_made, given, folder, config))  # pyright: ignore[reportArgumentType]
            else:
                self.add(name, partial(_itself, given))  # pyright: ignore[reportArgumentType]

    def chunk(self, steps: int, seconds: float, speed: float, chunk: SeedChunk) -> None:
        """Announce a chunk, trained at `speed` steps a second."""
        for tracker, wall in self._trackers:
            action = f"in chunk after {steps:,} steps"
            wall.call(action, tracker.chunk, steps, seconds, speed, chunk)

    def evaluation(self, steps: int, seconds: float, evaluation: Evaluation) -> None:
        """Announce an evaluation of the weights reached after `steps` and `seconds`."""
        for tracker, wall in self._trackers:
            action = f"in evaluation of step {steps:,}"
            wall.call(action, tracker.evaluation, steps, seconds, evaluation)

    def values(self, steps: int, values: Mapping[str, float]) -> None:
        """Announce values that a callback logged after `steps`, to the trackers that take them."""
        for tracker, wall in self._trackers:
            if isinstance(tracker, ValueTracker):
                wall.call(f"in values after {steps:,} steps", tracker.values, steps, values)

    def result(self, steps: int, evaluation: Mapping[str, Any], video: File | None) -> None:
        """Announce the final evaluation and the video to services."""
        for tracker, wall in self._trackers:
            if isinstance(tracker, ServiceTracker):
                wall.call("in result", tracker.result, steps, evaluation, video)

    def close(self) -> None:
        """Close the trackers, each once, also those that failed."""
        while self._trackers:
            tracker, wall = self._trackers.pop(0)
            wall.finish("in close", tracker.close)


def _made(maker: Callable[[Path, Config], object], folder: Path, config: Config) -> Tracker:
    tracker = maker(folder, config)
    if not isinstance(tracker, Tracker) or isinstance(tracker, type):
        raise TypeError(
            f"it made {shown(tracker)}, which lacks a method of noisydqn.Tracker (chunk, "
            "evaluation, close)"
        )
    return tracker


def _itself(tracker: Tracker) -> Tracker:
    return tracker


def _name(extension: object) -> str:
    return getattr(extension, "__name__", type(extension).__name__)


class Callbacks:
    """The user's callbacks, which may end a run: by asking for it, or by an error.

    Each method raises `ExtensionFailedError` if one of them does.
    """

    def __init__(self, callbacks: tuple[Callback, ...]) -> None:
        self._callbacks = callbacks

    def start(self, training: Training) -> None:
        """Announce the start of training."""
        for callback in self._callbacks:
            with _blamed(callback, "on_start"):
                callback.on_start(training)

    def chunk(self, training: Training, chunk: SeedChunk) -> None:
        """Announce a chunk, and before it the episodes that ended in it."""
        for callback in self._callbacks:
            for episode in chunk.episodes:
                with _blamed(callback, f"on_episode of step {episode.step:,}"):
                    if callback.on_episode(training, episode):
                        training.stop()
            with _blamed(callback, f"on_chunk after {training.steps:,} steps"):
                if callback.on_chunk(training, chunk):
                    training.stop()

    def evaluation(self, training: Training, steps: int, evaluation: Evaluation) -> None:
        """Announce an evaluation of the weights reached after `steps`."""
        for callback in self._callbacks:
            with _blamed(callback, f"on_evaluation of step {steps:,}"):
                if callback.on_evaluation(training, steps, evaluation):
                    training.stop()

    def end(self, training: Training, summary: dict[str, Any]) -> None:
        """Announce the end of the run."""
        for callback in self._callbacks:
            with _blamed(callback, "on_end"):
                callback.on_end(training, summary)


@contextmanager
def _blamed(callback: Callback, action: str) -> Generator[None]:
    """Name the callback in whose code an error is raised."""
    try:
        yield
    except BaseException as error:
        if is_stop(error):
            raise
        raise ExtensionFailedError(
            f"the callback {_name(callback)} failed in {action}: {in_one_line(error)}"
        ) from error
