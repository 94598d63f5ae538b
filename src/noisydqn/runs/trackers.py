"""Trackers of a run: CSV files, TensorBoard and the terminal. A tracker cannot change the run."""

import math
import socket
import time
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.hparams import metadata, plugin_data_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

from noisydqn.config.config import Config
from noisydqn.play.evaluate import Evaluation
from noisydqn.runners.report import Episode, SeedChunk
from noisydqn.runs.consoles import make_consoles, shown
from noisydqn.runs.folder import RunFolder
from noisydqn.runs.rows import episode_row, evaluation_row, metrics_row
from noisydqn.runs.tables import CsvFile

RECENT_EPISODES = 20
"""Number of episodes over which the live view averages returns."""

PLAIN_SECONDS = 10.0
"""Shortest time between two progress lines where the output is not a terminal."""

MEANINGS = {
    "episode/Return": "Return of a training episode, played with noise while learning.",
    "episode/Length": "Steps of a training episode.",
    "episode/Success": "Success that the environment reports in the last info of an episode.",
    "episode/Q-Error": (
        "The loss that is minimized, with importance weights, a mean over the updates of a chunk; "
        "`loss` in metrics.csv."
    ),
    "learning/priority_error": (
        "Mean size of the errors that set the priorities: TD errors or, for distributions of "
        "returns, their losses, without importance weights; `q_error` in metrics.csv."
    ),
    "noise/action_change": "Share of observations on which noise changes the greedy action.",
    "noise/q_spread": "Standard deviation of an action's value over noise samples.",
    "noise/action_gap": "Distance from the best to the second best value under mean weights.",
    "noise/action_entropy": "Entropy of the greedy action over noise samples, in nats.",
    "exploration/noise_factor": "Factor of all noise while acting, which brings it to its goal.",
    "exploration/noise_goal": "Share of greedy actions that noise is to change while acting.",
    "exploration/changed_actions": "Share of greedy actions that noise changed, a moving average.",
    "evaluation/mean_return": "Mean return of whole episodes played without noise.",
}
"""Meanings of TensorBoard's tags, which it shows beside the plots."""

# protobuf makes these classes at run time, without types.
_EVENT: Any = event_pb2
_SUMMARY: Any = summary_pb2
_HPARAMS: Any = plugin_data_pb2

FLUSH_SECONDS = 60.0
"""Seconds that TensorBoard may lag behind."""


@runtime_checkable
class Tracker(Protocol):
    """A consumer of the metrics of one seed's run.

    Training calls it in its own thread and waits for it. One that raises is told of and left out
    from then on. A tracker of a resumed run may see the steps after the last checkpoint a second
    time.
    """

    def chunk(self, steps: int, seconds: float, speed: float, chunk: SeedChunk) -> None:
        """Record a chunk of training.

        Args:
            steps: environment steps since the start, summed over environments.
            seconds: seconds since the start.
            speed: environment steps per second in this chunk.
            chunk: the updates, episodes and metrics.
        """

    def evaluation(self, steps: int, seconds: float, evaluation: Evaluation) -> None:
        """Record an evaluation of the weights after `steps` and `seconds` of training.

        Evaluations run beside training, so later chunks may be recorded first.
        """

    def close(self) -> None:
        """Finish writing: training has ended."""


@runtime_checkable
class ValueTracker(Protocol):
    """A tracker that also takes the values that callbacks log."""

    def values(self, steps: int, values: Mapping[str, float]) -> None:
        """Record values by name, which a callback logged after `steps`."""


class FileTracker:
    """A tracker that writes `metrics.csv`, `episodes.csv` and `evaluations.csv`.

    The first column of each, `step`, counts environment steps, summed over environments, up to
    the end of the chunk, the end of the episode, or the weights that were evaluated. An
    episode's `success` is empty where the environment reports none; other statistics of episodes
    follow it.

    Args:
        folder: folder of the run.
        sizes: the sizes of the files when the run was saved: later rows are removed.
        warn: receives a line about each file that cannot be written, once.
    """

    def __init__(
        self,
        folder: RunFolder,
        sizes: Sequence[int] = (0, 0, 0),
        warn: Callable[[str], None] = warnings.warn,
    ) -> None:
        metrics, episodes, evaluations = sizes
        self._metrics = CsvFile(folder.metrics, metrics, warn)
        self._episodes = CsvFile(folder.episodes, episodes, warn)
        self._evaluations = CsvFile(folder.evaluations, evaluations, warn)

    def sizes(self) -> tuple[int, int, int]:
        """Flush the files to the disk, anew if they were removed; returns their sizes in bytes."""
        return self._metrics.size(), self._episodes.size(), self._evaluations.size()

    def chunk(self, steps: int, seconds: float, speed: float, chunk: SeedChunk) -> None:
        """Write a row of metrics, and one for each episode that ended."""
        self._metrics.write(metrics_row(steps, seconds, speed, chunk))
        for episode in chunk.episodes:
            self._episodes.write(episode_row(episode))

    def evaluation(self, steps: int, seconds: float, evaluation: Evaluation) -> None:
        """Write a row for the evaluation."""
        self._evaluations.write(evaluation_row(steps, seconds, evaluation))

    def close(self) -> None:
        """Close the files."""
        for file in (self._metrics, self._episodes, self._evaluations):
            file.close()


class TensorBoardTracker:
    """A tracker that writes TensorBoard events; the horizontal axis is environment steps.

    The options of the run are hyperparameters, by which TensorBoard compares runs. Events are
    written in the calling thread: the thread of TensorBoard's own writer dies when the disk is
    full, and its caller then waits forever.
    """

    def __init__(self, folder: RunFolder, config: Config, steps: int = 0) -> None:
        """Open the events of a run that resumes after `steps`; later ones are ignored."""
        folder.tensorboard.make()
        # Microseconds, for a run that fails at once and is resumed at once. TensorBoard reads the
        # files in the order of their names.
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{steps}"
        self._writer = RecordWriter(folder.tensorboard.file(name).free().create())
        self._flushed = time.monotonic()
        self._write(file_version="brain.Event:2")
        if steps > 0:
            start = _EVENT.SessionLog(status=_EVENT.SessionLog.START)
            self._write(step=steps + 1, session_log=start)
        self._write(summary=_options_summary(config))
        self._writer.flush()

    def _write(self, **fields: Any) -> None:
        event = _EVENT.Event(wall_time=time.time(), **fields)
        self._writer.write(event.SerializeToString())

    def _scalar(self, name: str, value: float, step: int, meaning: str = "") -> None:
        if not math.isnan(value):
            meaning = meaning or MEANINGS.get(name, "")
            about = _SUMMARY.SummaryMetadata(summary_description=meaning)
            point = _SUMMARY.Summary.Value(tag=name, simple_value=value, metadata=about)
            self._write(step=step, summary=_SUMMARY.Summary(value=[point]))

    def chunk(self, steps: int, seconds: float, speed: float, chunk: SeedChunk) -> None:
        """Write each episode and the chunk's metrics; `MEANINGS` explains the tags."""
        del seconds
        for episode in chunk.episodes:
            self._scalar("episode/Return", episode.episode_return, episode.step)
            self._scalar("episode/Length", episode.length, episode.step)
            for name, value in episode.stats.items():
                self._scalar(f"episode/{name.capitalize()}", value, episode.step)
        self._scalar("episode/Q-Error", chunk.metrics["loss"], steps)
        self._scalar("learning/priority_error", chunk.metrics["q_error"], steps)
        for name in ("q_mean", "q_min", "q_max", "gradient_norm"):
            self._scalar(f"learning/{name}", chunk.metrics[name], steps)
        self._scalar("speed/steps_per_second", speed, steps)
        self._scalar("noise/action_change", chunk.action_change, steps)
        for name, value in chunk.noise.items():
            self._scalar(f"noise/{name}", value, steps)
        for layer, sigma in chunk.sigma.items():
            self._scalar(f"noise/mean_abs_sigma/{layer}", sigma, steps)
        for name, value in chunk.exploration.items():
            self._scalar(f"exploration/{name}", value, steps)
        for name, value in chunk.actors.items():
            self._scalar(f"actors/{name}", value, steps)
        now = time.monotonic()
        if now - self._flushed >= FLUSH_SECONDS:
            self._writer.flush()
            self._flushed = now

    def evaluation(self, steps: int, seconds: float, evaluation: Evaluation) -> None:
        """Write the mean return and the environment's statistics."""
        del seconds
        self._scalar("evaluation/mean_return", evaluation.mean_return, steps)
        for statistic, value in evaluation.reported:
            self._scalar(f"evaluation/{statistic.name}", value, steps, statistic.meaning)

    def values(self, steps: int, values: Mapping[str, float]) -> None:
        """Write values that a callback logs."""
        for name, value in values.items():
            self._scalar(name, value, steps)

    def close(self) -> None:
        """Flush and close the file."""
        self._writer.close()


def _options_summary(config: Config) -> Any:
    """Return the options as the hyperparameters of a TensorBoard session.

    Without an experiment's summary, TensorBoard collects options and metrics of all runs itself.
    """
    session = _HPARAMS.SessionStartInfo()
    for name, value in hyperparameters(config).items():
        if isinstance(value, bool):
            session.hparams[name].bool_value = value
        elif isinstance(value, str):
            session.hparams[name].string_value = value
        else:
            session.hparams[name].number_value = value
    data = _HPARAMS.HParamsPluginData(session_start_info=session)
    about = metadata.create_summary_metadata(data)
    tag = metadata.SESSION_START_INFO_TAG
    return _SUMMARY.Summary(value=[_SUMMARY.Summary.Value(tag=tag, metadata=about)])


def hyperparameters(config: Config) -> dict[str, str | int | float]:
    """Return the options of a run as numbers or text, the types of TensorBoard's parameters."""
    options = config.flat().items()
    return {name: x if isinstance(x, bool | int | float) else str(x) for name, x in options}


def _number(value: float, digits: int = 3) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}g}"


def describe(recent: deque[Episode], speed: float, chunk: SeedChunk) -> str:
    """Return the live view's numbers in one line."""
    returns = [episode.episode_return for episode in recent]
    mean = sum(returns) / len(returns) if returns else math.nan
    metrics = f"return {_number(mean)}  loss {_number(chunk.metrics['loss'])}  {speed:,.0f} steps/s"
    successes = [episode.stats["success"] for episode in recent if "success" in episode.stats]
    if successes:
        metrics = f"success {sum(successes) / len(successes):.0%}  {metrics}"
    if chunk.sigma:
        metrics += f"  sigma {_number(sum(chunk.sigma.values()) / len(chunk.sigma))}"
    return metrics if not chunk.actors else f"{metrics}  {_describe_actors(chunk.actors)}"


def _describe_actors(actors: Mapping[str, float]) -> str:
    """Return how actors fare in a few words."""
    speeds = [value for name, value in actors.items() if name.startswith("steps_per_second.")]
    words = (
        f"actors {actors['alive']:.0f}/{len(speeds)} ({min(speeds):,.0f} to {max(speeds):,.0f} "
        f"steps/s)  lag {_number(actors['weight_lag'])}  replay {actors['replay_fill']:.0%}"
    )
    lost = actors["segments_lost"]
    return f"{words}  {lost:.0f} segments lost" if lost else words


class _MetricsColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(task.fields["metrics"], style="cyan")


class Terminal:
    """The live view: a progress bar in a terminal, plain lines elsewhere, nothing if quiet.

    With several seeds it shows those of the first. Plain lines come in the order of their steps:
    a line of training waits while the evaluation of an earlier step is running.

    It falls silent where nothing can be printed, and never fails.
    """

    def __init__(self, config: Config, *, quiet: bool) -> None:
        self._console, self._errors = make_consoles(quiet=quiet)
        self._live = self._console.is_terminal and not quiet
        self._total, self._max_updates = config.run.steps, config.learner.update_limit
        self._recent: deque[Episode] = deque(maxlen=RECENT_EPISODES)
        self._evaluating: deque[int] = deque()  # steps
        self._waiting: deque[tuple[int, str]] = deque()  # steps, and a line about them
        self._last_line = -math.inf
        self._compiled = False
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(),
            _MetricsColumn(),
            console=self._console,
            disable=not self._live,
        )
        self._task = self._progress.add_task("compiling", total=1.0, metrics="")

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

    def start(self, name: str) -> None:
        """Reset the bar, for the part of the run called `name`."""
        self._recent.clear()
        self._progress.reset(self._task, description="compiling")
        self.say(name)

    def compiling(self, names: Sequence[str]) -> None:
        """Show the programs that are being compiled; none at the end."""
        if names and not self._live and not self._compiled:
            self.say(f"compiling {', '.join(names)}")
        self._compiled = True
        if names:
            self._progress.update(self._task, description=f"compiling {', '.join(names)}")

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self._console.print(shown(line), soft_wrap=True)

    def warn(self, line: str) -> None:
        """Print a line to standard error, even if quiet."""
        self._errors.print(shown(line), soft_wrap=True)

    def chunk(self, steps: int, seconds: float, speed: float, chunk: SeedChunk) -> None:
        """Move the bar, or print a line if the last one is `PLAIN_SECONDS` old."""
        self._recent.extend(chunk.episodes)
        metrics = describe(self._recent, speed, chunk)
        done = min(steps / self._total, 1.0)
        if self._max_updates is not None:
            done = max(done, chunk.updates / self._max_updates)
        self._progress.update(self._task, completed=done, metrics=metrics, description="training")
        now = time.monotonic()
        if not self._live and (now - self._last_line >= PLAIN_SECONDS or done >= 1):
            self._last_line = now
            line = f"{steps:>9,} of {self._total:,} steps  {seconds:5.0f} s  {metrics}"
            self._waiting.append((steps, line))
            self._say_waiting()

    def evaluating(self, steps: int) -> None:
        """Note that the evaluation of the weights after `steps` has started."""
        self._evaluating.append(steps)

    def evaluation(self, steps: int, seconds: float, evaluation: Evaluation) -> None:
        """Print the outcome."""
        self.say(
            f"{steps:>9,} steps  {seconds:5.0f} s  evaluation without noise: "
            f"{evaluation.describe()}"
        )
        if steps in self._evaluating:
            self._evaluating.remove(steps)
        self._say_waiting()

    def _say_waiting(self) -> None:
        while self._waiting and self._waiting[0][0] <= min(self._evaluating, default=math.inf):
            self.say(self._waiting.popleft()[1])

    def close(self) -> None:
        """Print the lines that still wait for evaluations."""
        self._evaluating.clear()
        self._say_waiting()
