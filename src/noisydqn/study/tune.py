"""`tune`: trials of options are planned, trained in a pool of processes, and resumed."""

import dataclasses
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from noisydqn.checkpoint.lock import Lock
from noisydqn.config.config import VARIANTS, Config
from noisydqn.config.run import MAX_SEEDS
from noisydqn.cores import usable_cores
from noisydqn.errors import UserError, counted
from noisydqn.folders import Folder
from noisydqn.runners.stop import Stop, stoppable
from noisydqn.runs.folder import COMPARISON, DEFAULT_PARENT
from noisydqn.runs.preset_file import preset_text
from noisydqn.study.board import Board
from noisydqn.study.compare import Outcome
from noisydqn.study.estimate import in_words, seconds_of, span
from noisydqn.study.grid import Grid, Variant, as_text, converted
from noisydqn.study.jobs import Cell, Job, cell_of, folder_names, jobs_of, with_environments
from noisydqn.study.journal import Ended, Journal, check_installed
from noisydqn.study.ledger import Ledger, new, read
from noisydqn.study.perform import Performance
from noisydqn.study.pool import MakePool
from noisydqn.study.resources import (
    Capacity,
    folder_to_resume,
    has_accelerator,
    leave_accelerator,
    make_out,
    names_code,
    slots_for,
    to_resume,
)
from noisydqn.study.space import Raw, Space, corners, space_of
from noisydqn.study.trials import Trials, variant_name
from noisydqn.study.trials import in_words as options_in_words
from noisydqn.study.tuning import TUNING, Tuning, read_tuning, write_tuning

DEFAULT_NAME = "tune"
TRIALS, SEEDS, FIRST_SEED = 30, 3, 1_000_000
BEST = "best.toml"
SHOWN = 10
"""Trials in the table of the best ones."""
EVALUATIONS = 10
"""Evaluations of a run, if its options do not say: pruning compares them."""
WARMUP = 0.2
"""Share of the first run of a trial in which it is not pruned."""


@dataclasses.dataclass(frozen=True)
class Request:
    """What was asked for; None and what is empty are left open.

    Args:
        name: NAME of train; "" to resume the tuning of a folder.
        space: the dimensions as they were given.
        options: of every run.
        typed: whether all of this was typed rather than read from a file.
        command: the command line, for the record.
        trials: in all.
        seeds: of each trial.
        first_seed: the first of them.
        seed: of the proposals.
        out: folder of the tuning; None makes a new one under `runs/`.
        resume: whether `out` may hold the same tuning, which is then resumed.
        slots: jobs at a time; None takes as many as the cores suffice for.
        cores: of each job; None takes one, or all if there is an accelerator.
        only_plan: print the plan and do nothing else.
        quiet: print only warnings.
        trust: whether code that files name may be imported and run.
        capacity: returns how many jobs run at a time on other machines, by the cores of each. None
            runs them on this one.
        again: options to repeat when the study is resumed.
    """

    name: str
    space: Raw
    options: Mapping[str, Any]
    typed: bool
    command: str
    trials: int | None = None
    seeds: int | None = None
    first_seed: int | None = None
    seed: int | None = None
    out: Path | None = None
    resume: bool = False
    slots: int | None = None
    cores: int | None = None
    only_plan: bool = False
    quiet: bool = False
    trust: bool = False
    capacity: Capacity | None = None
    again: str = ""


@dataclasses.dataclass(frozen=True)
class _Plan:
    """A tuning with all that is decided about it."""

    tuning: Tuning
    space: Space
    base: Cell  # the options that the trials change
    slots: int
    trust: bool
    typed: bool

    @property
    def grid(self) -> Grid:
        """The grid of all trials, without its variants."""
        tuning = self.tuning
        return Grid((tuning.name,), (), tuning.seeds, run_options(tuning, self.base.config))

    @property
    def variants(self) -> dict[str, Any]:
        """The names of the base's variants by section."""
        return _variants(self.base.config)

    def jobs(self, variant: Variant) -> list[Job]:
        """Make the jobs of a trial.

        Raises:
            UserError: its options exclude one another, or do not suit the environment.
        """
        folder = f"{folder_names(self.grid.environments)[self.tuning.name]}/{variant.name}"
        cell = cell_of(
            self.grid, self.tuning.name, variant, folder, trust=self.trust, typed=self.typed
        )
        (cell,) = with_environments([cell])
        return jobs_of([cell], self.tuning.seeds, together=self.tuning.together)


def tune(
    request: Request, arguments: Callable[[Job, Path], Sequence[str]], make_pool: MakePool
) -> Outcome:
    """Search a space for the best options, or continue a search.

    Args:
        request: what was asked for.
        arguments: returns the arguments of `noisydqn` that train a job in a folder.
        make_pool: makes the pool that runs them.

    Raises:
        UserError: the space, an option or the folder cannot be used, another process is at work
            in it, or Optuna is not installed.
        QuitError: a stop was requested twice.
    """
    check_installed()
    before = _check_folder(request, request.out)
    plan = _plan(request, before)
    board = Board(plan.tuning.trials * len(plan.tuning.seeds), quiet=request.quiet)
    if request.only_plan:
        _say_plan(board, plan, request.out or DEFAULT_PARENT / DEFAULT_NAME)
        return Outcome(0)
    out = make_out(request.out, DEFAULT_NAME)
    _say_plan(board, plan, out)
    with ExitStack() as stack:
        folder = Folder(out)
        stack.enter_context(Lock(folder, board.warn))
        stop = stack.enter_context(stoppable(board.warn))
        _check_folder(request, out)  # another process may have been faster
        write_tuning(folder, plan.tuning)
        ledger = _ledger(folder, plan)
        journal = Journal(folder, plan.tuning.seed, warmup=int(WARMUP * _points(plan.base.config)))
        if (own := _own_proposals(plan)) is not None:
            journal.enqueue(own)
        trials = Trials(
            journal, ledger, board, plan.space, plan.variants, plan.tuning.trials, plan.jobs
        )
        jobs = trials.revive()
        for job in trials.unwanted():  # that the last process had not noted
            ledger.note(job, "pruned")
        ledger.write()
        waiting = [job for job in jobs if ledger.status(job) == "waiting"]

        def call(job: Job) -> Sequence[str]:
            return arguments(job, folder.path / job.folder)

        with board:
            pool = make_pool(plan.slots, plan.tuning.cores, board.warn)
            Performance(folder, waiting, ledger, pool, call, board, stop, trials).run()
        return _conclude(request, plan, journal, ledger, board, stop)


# The plan


def _check_folder(request: Request, out: Path | None) -> Tuning | None:
    """Return the tuning in the folder `out` if it is resumed; refuse other contents.

    Raises:
        UserError: the folder holds something else, or what is to be resumed is not there.
    """
    given = bool(request.name)
    found = folder_to_resume(out, "tuning", TUNING, resume=request.resume, given=given)
    return None if found is None else read_tuning(found)


def _plan(request: Request, before: Tuning | None) -> _Plan:
    """Decide what is searched, and how; every value of the space is checked.

    Raises:
        UserError: the space or an option cannot be used, or is not that of the folder.
    """
    if before is None:
        tuning = _new_tuning(request)
    else:
        _refuse_other(request, before)
        trials = before.trials if request.trials is None else request.trials
        tuning = dataclasses.replace(before, trials=trials)
    typed = request.typed and (before is None or bool(request.name))
    if has_accelerator():
        leave_accelerator()
    space = space_of(tuning.space)
    grid = Grid((tuning.name,), (), tuning.seeds, converted(tuning.options, "the options"))

    def cell(options: Mapping[str, Any]) -> Cell:
        name = ",".join(f"{name}={as_text(x)}" for name, x in options.items()) or "its options"
        variant = Variant(name, dict(options))
        return cell_of(grid, tuning.name, variant, "", trust=request.trust, typed=typed)

    base = cell({})
    others = map(cell, corners(space, _variants(base.config)))
    cells = with_environments([base, *others])
    jobs = [job for each in cells for job in jobs_of([each], tuning.seeds[:1], together=False)]
    most = tuning.trials * len(tuning.seeds)
    slots = slots_for(jobs, request.slots, tuning.cores, most, request.capacity)
    return _Plan(tuning, space, cells[0], slots, request.trust, typed)


def _variants(config: Config) -> dict[str, Any]:
    flat = config.flat()
    return {section: flat[section] for section in VARIANTS}


def _new_tuning(request: Request) -> Tuning:
    """Return what a new tuning is to do.

    Raises:
        UserError: NAME or the space is missing, or there are too many seeds.
    """
    if not request.name:
        raise UserError("NAME is missing: the form is noisydqn tune NAME [options]")
    seeds = SEEDS if request.seeds is None else request.seeds
    first = FIRST_SEED if request.first_seed is None else request.first_seed
    if not 1 <= seeds <= MAX_SEEDS:
        raise UserError(f"--seeds must be between 1 and {MAX_SEEDS}, got {seeds}")
    accelerated = request.capacity is None and has_accelerator()
    cores = len(usable_cores()) if accelerated else 1
    return Tuning(
        command=request.command,
        name=request.name,
        space=dict(request.space),
        options=dict(request.options),
        trials=TRIALS if request.trials is None else request.trials,
        seeds=tuple(range(first, first + seeds)),
        seed=0 if request.seed is None else request.seed,
        cores=cores if request.cores is None else request.cores,
        together=accelerated,
    )


def _refuse_other(request: Request, before: Tuning) -> None:
    """Refuse to resume a tuning as another one. More trials are the same tuning, continued.

    Raises:
        UserError: it is another.
    """
    given = bool(request.name or request.space or request.options)
    if given and not request.name:
        raise UserError("--resume takes all of the tuning or nothing of it: leave it out")
    asked = _new_tuning(request) if given else before
    names = ("name", "space", "options")
    differing = [x for x in names if not _same(getattr(asked, x), getattr(before, x))]
    numbers = {
        "--seeds": (request.seeds, len(before.seeds)),
        "--first-seed": (request.first_seed, before.seeds[0]),
        "--seed": (request.seed, before.seed),
        "--cores": (request.cores, before.cores),
    }
    differing += [x for x, (now, then) in numbers.items() if now not in (None, then)]
    if differing:
        raise UserError(
            f"--out {request.out} holds a tuning with other {', '.join(differing)}: resume it "
            "without them, or name another folder"
        )


def _same(one: Any, other: Any) -> bool:
    """Tell whether values are the same as files keep them, where tuples are lists."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[x], other[x]) for x in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return one == other


def run_options(tuning: Tuning, base: Config) -> dict[str, Any]:
    """Return the options of every run of a tuning: those given, and those that it needs.

    A run is evaluated on its way, makes no video, and names the seeds on which it was tuned.
    """
    given = converted(tuning.options, "the options")
    needed: dict[str, Any] = {"video_seconds": 0.0, "tuned_seeds": tuning.seeds}
    if not base.run.evaluation_every:
        needed["evaluation_every"] = max(base.run.steps // EVALUATIONS, 1)
    return needed | given


def _points(base: Config) -> int:
    """Return the number of evaluations of a run."""
    every = base.run.evaluation_every
    return base.run.steps // every if every else EVALUATIONS


def _own_proposals(plan: _Plan) -> dict[str, Any] | None:
    """Return the options of NAME as they are, as proposals; None if the space lacks them."""
    flat = plan.base.config.flat()
    inside = {name: x for name, x in plan.space.items() if name in flat}
    if not inside or not all(x.holds(flat[name]) for name, x in inside.items()):
        return None
    return {name: x.proposed(flat[name]) for name, x in inside.items()}


def _say_plan(board: Board, plan: _Plan, out: Path) -> None:
    """Say what will be searched, and for how long."""
    tuning, steps = plan.tuning, plan.base.config.run.steps
    seeds, first, last = counted(len(tuning.seeds), "seed"), tuning.seeds[0], tuning.seeds[-1]
    job = jobs_of([plan.base], tuning.seeds[:1], together=False)[0]
    most = tuning.trials * len(tuning.seeds)
    time = in_words(span([seconds_of(job, [])] * most, plan.slots))
    own = _own_proposals(plan) is not None
    lines = [
        f"{counted(tuning.trials, 'trial')} of {seeds} and {steps:,} steps into {out}",
        *(f"search {name}: {dimension.words}" for name, dimension in plan.space.items()),
        f"seeds: {first} to {last}, which no result is to be reported on",
        *([f"trial 0 has the options of {tuning.name} as they are"] if own else []),
        f"about {time} with {counted(plan.slots, 'job')} at a time if nothing is pruned, a guess",
    ]
    board.say("\n".join(lines))


# The folder


def _ledger(folder: Folder, plan: _Plan) -> Ledger:
    """Return the ledger of the folder, a new one if it has none yet."""
    if folder.file(COMPARISON).taken():
        return Ledger(folder, read(folder.path))
    tuning = plan.tuning
    ledger = Ledger(
        folder, new(tuning.command, plan.grid, (), cores=tuning.cores, together=tuning.together)
    )
    ledger.write()
    return ledger


def _conclude(
    request: Request, plan: _Plan, journal: Journal, ledger: Ledger, board: Board, stop: Stop
) -> Outcome:
    """Say which options are the best, write them, and say what to do next."""
    out, best = ledger.folder.path, journal.best()
    options = {variant.name: variant.options for variant in ledger.stored.variants}
    ranked = [x for x in best if variant_name(x.number) in options]
    bad = len(ledger.tally("failed"))
    if ranked:
        board.say(_table(ranked, options, plan))
        _write_best(plan, ledger, ranked[0], options[variant_name(ranked[0].number)])
        for name, share in journal.importance().items():
            board.say(f"importance of {name}: {share:.2f}")
    done, total = (
        min(journal.begun - len(journal.running()), plan.tuning.trials),
        plan.tuning.trials,
    )
    cells = [plan.base]
    resume = to_resume("tune", out, cells, request.again, trust=request.trust)
    if stop.asked:
        board.warn(f"{stop.word} after {done} of {counted(total, 'trial')}; to resume: {resume}")
        return Outcome(bad, stop.signal)
    board.say(f"{done} of {counted(total, 'trial')} ended, in {out}")
    if not ranked:
        board.warn(f"no trial is complete: {COMPARISON} says why, and the logs beside the runs")
        return Outcome(max(bad, 1))
    trust = ["--trust"] if request.trust or names_code(cells) else []
    preset = ["noisydqn", "train", "--preset-file", str(out / BEST), *trust]
    board.say(f"next, with seeds of its own: {shlex.join(preset)}")
    return Outcome(bad)


def _table(best: Sequence[Ended], options: Mapping[str, Mapping[str, Any]], plan: _Plan) -> str:
    """Return the best trials as a table."""
    seeds = counted(len(plan.tuning.seeds), "seed")
    lines = [
        f"the best trials, by the interquartile mean of the last evaluation over {seeds}:",
        f"{'trial':>7}  {'return':>10}  options",
    ]
    for number, value in best[:SHOWN]:
        text = options_in_words(options[variant_name(number)])
        lines.append(f"{number:7}  {value:10.1f}  {text}")
    return "\n".join(lines)


def _write_best(plan: _Plan, ledger: Ledger, best: Ended, options: Mapping[str, Any]) -> None:
    """Write the options of the best trial as a preset file.

    Raises:
        UserError: the file cannot be written.
    """
    tuning = plan.tuning
    given = converted(tuning.options, "the options") | converted(options, "the best trial")
    grid = Grid((tuning.name,), (), tuning.seeds, {})
    variant = Variant("best", given | {"tuned_seeds": tuning.seeds})
    cell = cell_of(grid, tuning.name, variant, "", trust=plan.trust, typed=plan.typed)
    about = (
        f"{tuning.name}, tuned: trial {best.number} of {tuning.trials} returned {best.value:.1f}, "
        f"the interquartile mean over the seeds {tuning.seeds[0]} to {tuning.seeds[-1]}. Report "
        "other seeds."
    )
    file = ledger.folder.file(BEST)
    try:
        file.write(preset_text(cell.config.replace(seed=Config().run.seed), about).encode())
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}; make room") from error
