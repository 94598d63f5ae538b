"""Running of a job: sessions for its seeds, and everything from locks to the closing lines."""

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

from noisydqn.checkpoint.reader import newest_whole
from noisydqn.compilation import Compiler
from noisydqn.config.config import Config
from noisydqn.envs.check import notices_of
from noisydqn.envs.protocol import Environment
from noisydqn.errors import UserError
from noisydqn.options import flag
from noisydqn.play.policy import GreedyPolicy
from noisydqn.program_cache import program_cache
from noisydqn.runners.stop import stoppable
from noisydqn.runs.actors import Place
from noisydqn.runs.claim import Claim
from noisydqn.runs.devices import describe_devices
from noisydqn.runs.ending import Ending
from noisydqn.runs.extensions import Extensions
from noisydqn.runs.folder import RunFolder, write_config, write_spaces
from noisydqn.runs.keeper import Keeper
from noisydqn.runs.memory import check_memory
from noisydqn.runs.messages import (
    closing_lines,
    describe,
    describe_actions,
    describe_masks,
    stopped_line,
)
from noisydqn.runs.pages import write_page
from noisydqn.runs.result import Result, SeedResult
from noisydqn.runs.seed import Context
from noisydqn.runs.session import Session
from noisydqn.runs.start import read_record
from noisydqn.runs.trackers import Terminal
from noisydqn.runs.walls import Wall


@dataclasses.dataclass(frozen=True)
class Job:
    """A run to perform, in folders that exist."""

    config: Config  # of all seeds
    env: Environment
    claim: Claim  # to the run's folder
    folders: list[RunFolder]  # of each seed
    extensions: Extensions
    place: Place  # where its actors play
    resumed: bool = False

    @property
    def out(self) -> Path:
        """The path of the run's folder, which may be renamed while the run is trained."""
        return self.claim.whole.path

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
        UserError: the run cannot be resumed, or another process trains it; or what ended the run
            after all that was trained was saved.
        QuitError: a second stop was requested; what was trained since the last checkpoint is lost.
    """
    with ExitStack() as stack:
        terminal = stack.enter_context(Terminal(job.config, quiet=quiet))
        stop = stack.enter_context(stoppable(terminal.warn))
        stack.enter_context(program_cache(cache, terminal.warn))
        ending = Ending(stop, terminal.warn)
        seeds = list(zip(job.folders, job.seeds, strict=True))
        keeper = Keeper(job.claim, seeds, job.env.spec, terminal.warn)
        compiler = stack.enter_context(Compiler(stop.check, terminal.compiling))
        results: list[SeedResult] = []
        with ending.noting("the run"):
            _announce(job, terminal)
            context = Context(
                job.env, terminal, ending, compiler, job.extensions, keeper, job.place
            )
            _perform(context, job, results)
        stopped_by = stop.signal
        with ending.noting("the summary of all seeds", saves=True):
            if job.config.run.num_seeds > 1 and results:
                keeper.restore()
                job.claim.whole.summary.write_json({"seeds": [x.summary for x in results]})
        if job.config.run.num_seeds > 1 and not ending.near:
            Wall("writing the page", terminal.warn).call(
                "", write_page, job.claim.whole, job.folders
            )
        ending.conclude(job.out, job.config)
        if stopped_by is None:
            _diagnose(job, terminal)
            terminal.say("\n".join(closing_lines(job.out, job.config, results, job.env.statistics)))
        else:
            saved = not ending.lost
            terminal.warn(stopped_line(stop.word, ending.steps, job.out, job.config, saved=saved))
        return Result(job.out, results, stopped_by)


def _diagnose(job: Job, terminal: Terminal) -> None:
    """Say what looks wrong with the run; nothing if all is well."""
    # Not needed before the end of a run.
    from noisydqn.runs.diagnosis import findings_of

    lines: list[str] = []
    with suppress(UserError):  # a table is damaged, which the page has said
        lines = findings_of(job.folders)
    if lines:
        terminal.say("\n".join(["what looks wrong, and what to try:", *(f"- {x}" for x in lines)]))


def _perform(context: Context, job: Job, results: list[SeedResult]) -> None:
    """Train the seeds, together or in turn, until the end is near; adds to the results."""
    ending, spec = context.ending, job.env.spec
    for session in _sessions(job, context):
        with closing(session):
            with ending.noting("writing the options"):
                for seed in session.seeds if job.resumed else ():
                    write_config(seed.folder, seed.config)
                    write_spaces(seed.folder, spec)
            _train_and_report(session)
        ending.steps = session.progress.steps
        if ending.steps > 0:
            results += [
                SeedResult(s.folder.path, GreedyPolicy(s.best_policy, spec), s.summary)
                for s in session.seeds
            ]
        if ending.near:
            return


def _announce(job: Job, terminal: Terminal) -> None:
    """Say what will be trained, and warn about likely disappointments.

    Raises:
        UserError: the replay buffers do not fit into memory.
    """
    config, env = job.config, job.env
    for notice in job.claim.notices:
        terminal.warn(notice)
    terminal.say(
        f"{config.preset}: {config.run.steps:,} steps of {config.environment.env} into {job.out}"
    )
    if not job.resumed and (record := read_record(job.folders[0])) is not None:
        terminal.say(f"starts from {record.words}; the optimizer starts anew")
    first_step = config.learner.first_step(config.runner.num_envs)
    if config.run.steps < first_step:
        terminal.warn(
            f"nothing will be learned: learning starts after {first_step:,} "
            f"steps; raise --steps or lower {flag(config.learner.started_by)}"
        )
    if (tight := check_memory(config, env)) is not None:
        terminal.warn(tight)
    if (divided := describe_devices(config)) is not None:
        terminal.say(divided)
    if (crowded := job.place.warning(config.actors.actors)) is not None:
        terminal.warn(crowded)
    terminal.say(describe(config.program, env.spec))
    for line in filter(None, (describe_actions(env.spec), describe_masks(env.spec))):
        terminal.say(line)
    env.tell_notices(terminal.warn)
    for line in () if job.resumed else notices_of(env):
        terminal.say(f"the environment: {line}")
    if config.run.video_seconds > 0 and (problem := env.video_problem) is not None:
        terminal.warn(f"no video: {problem}")


def _sessions(job: Job, context: Context) -> Iterator[Session]:
    """Yield one session for all seeds if they are trained together, else one for each in turn."""

    def session(seeds: list[Config], folders: list[RunFolder], place: RunFolder) -> Session:
        warn = context.terminal.warn
        checkpoint = newest_whole(place.checkpoints, warn) if job.resumed else None
        if job.resumed and checkpoint is None:
            context.terminal.say(f"{place.path} holds no checkpoint: training begins at step 0")
        return Session(seeds, folders, place.checkpoints, checkpoint, context)

    seeds = job.seeds
    if job.together:
        yield session(seeds, job.folders, job.claim.whole)
        return
    for seed, folder in zip(seeds, job.folders, strict=True):
        if len(seeds) > 1:
            context.terminal.start(f"seed {seed.run.seed}")
        yield session([seed], [folder], folder)


def _train_and_report(session: Session) -> None:
    """Train and save; then evaluate and record a video, unless the end has come before."""
    ending = session.context.ending
    if not ending.near:
        session.train()
    session.save()
    if session.progress.steps == 0:
        return
    if not ending.near:
        with_video = any(seed.records_video for seed in session.seeds)
        session.context.terminal.say(
            "evaluating the best weights without noise"
            f"{' and recording a video of them' if with_video else ''}"
        )
        session.report()
    if ending.failure is None:
        session.end()
