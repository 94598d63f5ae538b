"""Running of a job: sessions for its seeds, and everything from locks to the closing lines."""

import dataclasses
import errno
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from pathlib import Path

from noisydqn.checkpoint.lock import locked
from noisydqn.checkpoint.reader import newest_whole
from noisydqn.compilation import Compiler
from noisydqn.config.config import Config
from noisydqn.envs.protocol import Environment
from noisydqn.errors import (
    DivergedError,
    EnvironmentFailedError,
    ExtensionFailedError,
    StoppedError,
    UserError,
)
from noisydqn.play.policy import GreedyPolicy
from noisydqn.program_cache import program_cache
from noisydqn.runners.schedule import UpdateSchedule
from noisydqn.runners.stop import stoppable
from noisydqn.runs.extensions import Extensions
from noisydqn.runs.folder import RunFolder, write_config, write_spaces
from noisydqn.runs.memory import check_memory
from noisydqn.runs.messages import closing_lines, describe, how_to, stopped_line
from noisydqn.runs.result import Result, SeedResult
from noisydqn.runs.seed import Context
from noisydqn.runs.session import Session
from noisydqn.runs.trackers import Terminal

UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
"""Errors of a disk that is full, read-only or broken."""


@dataclasses.dataclass(frozen=True)
class Job:
    """A run to perform, in folders that exist."""

    config: Config  # of all seeds
    env: Environment
    out: Path
    folders: list[RunFolder]  # of each seed
    extensions: Extensions
    resumed: bool = False
    names: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])
    """The names of code in the files of a resumed run, which stay."""

    @property
    def together(self) -> bool:
        """Whether one program trains all seeds at once; otherwise they take turns."""
        return self.env.trains_seeds_together

    @property
    def seeds(self) -> list[Config]:
        """The config of each seed."""
        first = self.config.run.seed
        return [
            self.config.replace(seed=first + i, num_seeds=1)
            for i in range(self.config.run.num_seeds)
        ]


def launch(job: Job, *, quiet: bool, cache: Path | str | None) -> Result:
    """Perform a run.

    Args:
        job: the run.
        quiet: print only warnings.
        cache: folder of compiled programs, as in `train`.

    Raises:
        UserError: the run cannot be resumed, a file cannot be written, or another process trains
            the run; or as `Session`.
    """
    places = [RunFolder.at(job.out)] if job.together else job.folders
    with ExitStack() as stack:
        for place in places:
            stack.enter_context(locked(place.checkpoints))
        terminal = stack.enter_context(Terminal(job.config, quiet=quiet))
        stack.enter_context(program_cache(cache, terminal.warn))
        try:
            return _perform(job, terminal)
        except OSError as error:
            resume = how_to("resume", job.out, job.config)
            if error.errno in UNWRITABLE:
                raise UserError(
                    f"{job.out} cannot be written to: {error.strerror}; make room or make it "
                    f"writable, then: {resume}"
                ) from error
            if error.filename is None or not Path(error.filename).is_relative_to(job.out):
                raise  # it is not about the run
            raise UserError(
                f"{error.filename} cannot be used: {error.strerror}; move it away, then: {resume}"
            ) from error


def _perform(job: Job, terminal: Terminal) -> Result:
    """Train the seeds, together or in turn, and say how the run ended."""
    _announce(job, terminal)
    config, out = job.config, job.out
    spec = job.env.spec
    results: list[SeedResult] = []
    with stoppable(terminal.warn) as stop, Compiler(stop.check, terminal.compiling) as compiler:
        context = Context(job.env, terminal, stop, compiler, job.extensions)
        for session in _sessions(job, context):
            with closing(session):
                for seed in session.seeds if job.resumed else ():
                    write_config(seed.folder, seed.config, job.names)
                    write_spaces(seed.folder, spec)
                _train_and_report(session, out)
            steps = session.progress.steps
            if steps > 0:
                results += [
                    SeedResult(s.folder.path, GreedyPolicy(s.best_policy, spec), s.summary)
                    for s in session.seeds
                ]
            if stop.asked:
                terminal.warn(stopped_line(stop, steps, out, config))
                break
    if config.run.num_seeds > 1:
        RunFolder.at(out).summary.write_json({"seeds": [x.summary for x in results]})
    if not stop.asked:
        terminal.say("\n".join(closing_lines(out, config, results, job.env.statistics)))
    return Result(out, results, stop.signal)


def _announce(job: Job, terminal: Terminal) -> None:
    """Say what will be trained, and warn about likely disappointments.

    Raises:
        UserError: the replay buffers do not fit into memory.
    """
    config, env = job.config, job.env
    terminal.say(
        f"{config.preset}: {config.run.steps:,} steps of {config.environment.env} into {job.out}"
    )
    first_step = UpdateSchedule.create(config.program).first_step
    if config.run.steps < first_step:
        terminal.warn(
            f"nothing will be learned: learning starts after {first_step:,} "
            "steps; raise --steps or lower --learning-starts"
        )
    if (tight := check_memory(config, env)) is not None:
        terminal.warn(tight)
    terminal.say(describe(config.program, env.spec))
    env.tell_notices(terminal.warn)
    if config.run.video_seconds > 0 and (problem := env.video_problem) is not None:
        terminal.warn(f"no video: {problem}")


def _sessions(job: Job, context: Context) -> Iterator[Session]:
    """Yield one session for all seeds if they are trained together, else one for each in turn."""

    def session(seeds: list[Config], folders: list[RunFolder], place: RunFolder) -> Session:
        warn = context.terminal.warn
        checkpoint = newest_whole(place.checkpoints, warn) if job.resumed else None
        return Session(seeds, folders, place.checkpoints, checkpoint, context)

    seeds = job.seeds
    if job.together:
        yield session(seeds, job.folders, RunFolder.at(job.out))
        return
    for seed, folder in zip(seeds, job.folders, strict=True):
        if len(seeds) > 1:
            context.terminal.start(f"seed {seed.run.seed}")
        yield session([seed], [folder], folder)


def _train_and_report(session: Session, out: Path) -> None:
    """Train and save; then evaluate and record a video, unless a stop is requested."""
    trained = f"what was trained until then is in {out}"
    try:
        session.train()
    except (EnvironmentFailedError, DivergedError, ExtensionFailedError) as failure:
        if session.progress.steps == 0:
            raise
        session.save()
        raise failure.with_hint(trained) from failure
    if session.progress.steps == 0:
        return
    session.save()
    try:
        if not session.context.stop.asked:
            _report(session)
        session.end()
    except (EnvironmentFailedError, ExtensionFailedError) as failure:
        raise failure.with_hint(trained) from failure
    except UserError as error:
        raise UserError(f"{error}; {trained}") from error


def _report(session: Session) -> None:
    """Evaluate the best weights and record a video, until a stop is requested."""
    with_video = any(seed.records_video for seed in session.seeds)
    session.context.terminal.say(
        "evaluating the best weights without noise"
        f"{' and recording a video of them' if with_video else ''}"
    )
    with suppress(StoppedError):
        session.report()
