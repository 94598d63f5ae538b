"""Callbacks: user code that training calls and that may end training."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from noisydqn.config.config import Config
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.errors import UserError
from noisydqn.learner.policy import Policy
from noisydqn.options import shown
from noisydqn.play.evaluate import Evaluation
from noisydqn.play.policy import GreedyPolicy
from noisydqn.runners.report import Episode, SeedChunk


@dataclasses.dataclass(frozen=True)
class Training:
    """The state of one seed's training, as a callback sees it; a value that never changes."""

    config: Config
    """The options; `config.run.seed` tells several seeds apart."""
    folder: Path
    """The folder of the seed's run."""
    steps: int
    """Environment steps since the start, summed over environments."""
    seconds: float
    """Seconds of training since the start."""
    num_updates: int
    """Updates since the start."""
    num_episodes: int
    """Training episodes that ended since the start."""
    _weights: Policy | None = dataclasses.field(repr=False)
    _spec: EnvironmentSpec = dataclasses.field(repr=False)
    _stop: Callable[[], None] = dataclasses.field(repr=False)
    _save: Callable[[], None] = dataclasses.field(repr=False)
    _log: Callable[[int, Mapping[str, float]], None] = dataclasses.field(repr=False)

    @property
    def policy(self) -> GreedyPolicy:
        """The newest weights, as a policy that plays without noise.

        Raises:
            UserError: no chunk has been trained yet.
        """
        if self._weights is None:
            raise UserError("there is no policy before the first chunk: read it in on_chunk")
        return GreedyPolicy(self._weights, self._spec)

    def stop(self) -> None:
        """Request that training ends after this chunk, for all seeds that are trained together."""
        self._stop()

    def save(self) -> None:
        """Request a checkpoint of all seeds that are trained together, after this chunk."""
        self._save()

    def log(self, values: Mapping[str, float]) -> None:
        """Record values of your own, by name, as those after `steps`.

        TensorBoard, the services of `--track` and trackers with a method `values` receive them; the
        CSV files have fixed columns.

        Raises:
            UserError: a value is not a number.
        """
        try:
            numbers = {name: float(value) for name, value in values.items()}
        except (TypeError, ValueError) as error:
            raise UserError(f"log: {shown(values)} must hold numbers by name ({error})") from error
        self._log(self.steps, numbers)


class Callback:
    """A base class for code that training calls; override the methods that you need.

    Training calls the methods in its own thread and waits for them. With several seeds it calls
    them for each seed. A method that returns True ends training after the chunk. The run is then
    complete: it is evaluated and saved. An error in a method also ends the run; what was trained is
    saved first.
    """

    def on_start(self, training: Training, /) -> None:
        """React to the start of training, including that of a resumed run.

        `training.stop()` takes effect after the first chunk.
        """

    def on_chunk(self, training: Training, chunk: SeedChunk, /) -> bool | None:
        """React to a trained chunk; its row is already in `metrics.csv`."""

    def on_episode(self, training: Training, episode: Episode, /) -> bool | None:
        """React to a training episode that ended in a chunk, before `on_chunk`.

        `training` is that after the chunk; `episode.step` says when the episode ended.
        """

    def on_evaluation(
        self, training: Training, steps: int, evaluation: Evaluation, /
    ) -> bool | None:
        """React to the evaluation of the weights that training had reached after `steps`.

        Evaluations run beside training, so `training.steps` may be larger, and differ from one run
        to the next. Stop at a return with the option `stop_at_evaluation`, which waits.
        """

    def on_end(self, training: Training, summary: dict[str, Any], /) -> None:
        """React to the end of the run, after everything is saved; `summary` is `summary.json`.

        A run that Ctrl-C stopped also ends here, with None as `summary["evaluation"]`. A run that
        fails does not.
        """
