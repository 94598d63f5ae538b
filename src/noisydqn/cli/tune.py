"""The command tune: a space from flags or a file, and the options of its runs."""

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import tyro

from noisydqn.cli.arguments import fill, options_of, read, show_help, value_of, wants_help
from noisydqn.cli.cluster import (
    ClusterArgs,
    cluster_help,
    cluster_of,
    place,
    with_address,
    write_script,
)
from noisydqn.cli.compare import assigned, divided, job_arguments
from noisydqn.cli.train import config_options
from noisydqn.config.config import option_hints
from noisydqn.errors import UserError
from noisydqn.files import given_path
from noisydqn.options import at_least
from noisydqn.study.space import CATEGORICAL, KINDS, RangeKind, read_space


@dataclasses.dataclass(frozen=True)
class TuneArgs:
    """Search for the options that learn best: noisydqn tune NAME [options].

    Every option of train may be given, too, and then holds for all runs (noisydqn train
    --help-all). A trial is a choice of options, trained with several seeds. OUT/best.toml has the
    best one, as a preset file for train; noisydqn report OUT shows the trials. It needs Optuna:
    pip install 'noisydqn[tune]'.
    """

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[NAME]")] = ""
    """An environment, a preset or a run, as NAME of train."""
    space: Path | None = None
    """A TOML file with a table [space], such as learning_rate = { log-uniform = [1e-4, 1e-2] } or
    n_step = [1, 3, 5], and options of every run in [options]."""
    search: Annotated[tuple[str, ...], tyro.conf.arg(metavar="OPTION=KIND:LOW,HIGH")] = ()
    """An option of train and where it is searched: learning_rate=log-uniform:1e-4,1e-2,
    sigma_init=uniform:0.1,1, batch_size=integer:16,128 or n_step=1,3,5. May be repeated."""
    trials: int | None = None
    """Trials in all. If not given, 30."""
    seeds: int | None = None
    """Seeds of each trial. If not given, 3."""
    first_seed: int | None = None
    """The first of the seeds of each trial. They must not be those that are reported later. If not
    given, 1,000,000."""
    seed: int | None = None
    """Seed of the search. If not given, 0."""
    out: Path | None = None
    """Folder for the tuning, new or empty. If not given, a new folder under runs/."""
    resume: bool = False
    """Continue the tuning in --out: trials that have ended stay, the others continue from their
    checkpoints. Nothing need be given again; --trials may be larger than before."""
    jobs: int | None = None
    """Jobs at a time. If not given, as many as cores and memory suffice for; 1 with an
    accelerator."""
    cores: int | None = None
    """Cores of each job. If not given, 1; all with an accelerator."""
    plan: bool = False
    """Print what would be searched, and for how long, and end."""
    cache: str | None = None
    """Folder that keeps compiled programs for later runs; "none" keeps nothing. If not given,
    NOISYDQN_CACHE or a folder in the user's cache folder."""
    trust: bool = False
    """Import and run code that files name: the space's, or the config of a run."""
    quiet: bool = False
    """Print only warnings."""


def parse_tune(
    argv: Sequence[str],
) -> tuple[TuneArgs, ClusterArgs, dict[str, Any], dict[str, Any]]:
    """Parse the arguments of tune; returns them, the space that flags say, and options of the runs.

    Raises:
        UserError: an argument cannot be used.
        SystemExit: help was asked for and given.
    """
    if wants_help(argv):
        show_help(TuneArgs(), "tune", cluster_help())
    argv = with_address(argv)
    own = options_of(TuneArgs) | options_of(ClusterArgs)
    of_runs = config_options() | {"preset": option_hints()["preset"]}  # which is refused
    options = of_runs | own
    given = read(options, argv, "tune")
    args = fill(TuneArgs(), given, options, "tune")
    cluster = cluster_of(given, options, "tune")
    for name in ("jobs", "cores", "seeds", "trials"):
        at_least(1).check(name, getattr(args, name))
    for name in ("seed", "first_seed"):
        at_least(0).check(name, getattr(args, name))
    space: dict[str, Any] = {}
    for text in args.search:
        name, dimension = _searched(text)
        if name in space:
            raise UserError(f"--search {name} is given twice: give it once")
        space[name] = dimension
    return args, cluster, space, {name: x for name, x in given.values.items() if name not in own}


def _searched(text: str) -> tuple[str, dict[str, list[Any]]]:
    """Read a dimension: `sigma_init=uniform:0.1,1`, or `n_step=1,3` for one of some values.

    Raises:
        UserError: the option does not exist, or does not take one of the values.
    """
    name, values = assigned("--search", text)
    kind, colon, rest = values.partition(":")
    if not colon or kind.strip() not in KINDS:
        kind, rest = CATEGORICAL, values
    words = divided(rest)
    if not all(words):
        raise UserError(
            f"--search {text} has a value that is empty: the form is --search {name}=VALUE,VALUE "
            f"or --search {name}=KIND:LOW,HIGH with {', '.join(get_args(RangeKind))}"
        )
    hint = option_hints()[name]
    return name, {kind.strip(): [value_of(name, word, hint) for word in words]}


def run_tune(argv: Sequence[str]) -> tuple[int, int | None]:
    """Run the command; returns the runs that failed, and the signal that stopped it.

    Raises:
        UserError: as `noisydqn.study.tune.tune`.
    """
    args, cluster, space, options = parse_tune(argv)
    if args.space is not None:
        of_file, file_options = read_space(given_path(args.space, "--space"))
        space, options = of_file | space, file_options | options
    from noisydqn.study.tune import Request, tune

    request = Request(
        args.name,
        space,
        options,
        typed=args.space is None,
        command=shlex.join(["noisydqn", "tune", *argv]),
        trials=args.trials,
        seeds=args.seeds,
        first_seed=args.first_seed,
        seed=args.seed,
        out=None if args.out is None else given_path(args.out),
        resume=args.resume,
        slots=args.jobs,
        cores=args.cores,
        only_plan=args.plan,
        quiet=args.quiet,
        trust=args.trust,
        again=cluster.repeated(trust=args.trust),
    )
    if cluster.slurm is not None:
        return write_script(cluster, "tune", argv, args.out), None
    arguments = job_arguments(cache=args.cache, trust=args.trust, elsewhere=cluster.ray is not None)
    with place(cluster) as (make_pool, capacity):
        request = dataclasses.replace(request, capacity=capacity)
        outcome = tune(request, arguments, make_pool)
    return outcome.bad, outcome.signal
