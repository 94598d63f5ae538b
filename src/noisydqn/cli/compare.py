"""The command compare: a grid from flags or a file, and the calls of train for its jobs."""

import dataclasses
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from noisydqn.cli.arguments import (
    fill,
    options_of,
    read,
    show_help,
    spell,
    value_of,
    wants_help,
)
from noisydqn.cli.cluster import (
    ClusterArgs,
    cluster_help,
    cluster_of,
    place,
    with_address,
    write_script,
)
from noisydqn.cli.train import config_options
from noisydqn.config.config import option_hints
from noisydqn.errors import UserError
from noisydqn.files import given_path
from noisydqn.options import at_least, help_command, hint_of
from noisydqn.study.grid import Draft, read_draft

if TYPE_CHECKING:
    from noisydqn.study.jobs import Job

TOGETHER = {"auto": None, "always": True, "never": False}


@dataclasses.dataclass(frozen=True)
class CompareArgs:
    """Train every variant in every environment with every seed: noisydqn compare [FILE] [options].

    Every option of train may be given, too, and then holds for all runs (noisydqn train
    --help-all); --seed is the first seed. Each run is a folder as train makes it,
    OUT/environment/variant/seed-0, and OUT/compare.json says what has become of it. FILE is a TOML
    file with env, seeds, [options], [vary] and [[variant]]; options given beside it come first.
    """

    file: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[FILE]")] = ""
    """The grid, as a TOML file."""
    vary: Annotated[tuple[str, ...], tyro.conf.arg(metavar="OPTION=VALUE,VALUE")] = ()
    """An option of train and its values, such as exploration=noisy,epsilon-greedy. May be repeated:
    then every combination is a variant."""
    env: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ()
    """The environments, each as NAME of train."""
    seeds: int | None = None
    """Number of seeds, from --seed on. If not given, 10."""
    out: Path | None = None
    """Folder for the comparison, new or empty. If not given, a new folder under runs/."""
    resume: bool = False
    """Continue the comparison in --out: skip runs that finished or diverged, resume the others with
    the same bits. The grid need not be given again."""
    jobs: int | None = None
    """Jobs at a time. If not given, as many as cores and memory suffice for; 1 with an
    accelerator."""
    cores: int | None = None
    """Cores of each job. If not given, 1; all with an accelerator."""
    together: Literal["auto", "always", "never"] = "auto"
    """Whether one program trains all seeds of a variant, if the environment is in JAX. They then
    end together. auto: with an accelerator only."""
    plan: bool = False
    """Print what would be trained, and for how long, and end."""
    cache: str | None = None
    """Folder that keeps compiled programs for later runs; "none" keeps nothing. If not given,
    NOISYDQN_CACHE or a folder in the user's cache folder."""
    trust: bool = False
    """Import and run code that files name: the grid's, or the config of a run."""
    quiet: bool = False
    """Print only warnings."""


def parse_compare(argv: Sequence[str]) -> tuple[CompareArgs, ClusterArgs, Draft]:
    """Parse the arguments of compare; returns them and what they say of the grid.

    Raises:
        UserError: an argument cannot be used.
        SystemExit: help was asked for and given.
    """
    if wants_help(argv):
        show_help(CompareArgs(), "compare", cluster_help())
    argv = with_address(argv)
    own = options_of(CompareArgs) | options_of(ClusterArgs)
    of_runs = config_options() | {"preset": option_hints()["preset"]}  # which is refused
    options = of_runs | own
    given = read(options, argv, "compare")
    args = fill(CompareArgs(), given, options, "compare")
    cluster = cluster_of(given, options, "compare")
    for name in ("jobs", "cores", "seeds"):
        at_least(1).check(name, getattr(args, name))
    return (
        args,
        cluster,
        Draft(
            environments=args.env,
            vary=tuple(_varied(text) for text in args.vary),
            seeds=args.seeds,
            options={name: x for name, x in given.values.items() if name not in own},
        ),
    )


def _varied(text: str) -> tuple[str, tuple[Any, ...]]:
    """Read an option and its values: `sigma_init=0.5,1.0`; commas in brackets do not divide.

    Raises:
        UserError: the option does not exist, or does not take one of the values.
    """
    name, values = assigned("--vary", text)
    words = divided(values)
    if not all(words):
        raise UserError(
            f"--vary {text} has a value that is empty: the form is --vary {name}=VALUE,VALUE"
        )
    hint = option_hints()[name]
    return name, tuple(value_of(name, word, hint) for word in words)


def assigned(flag: str, text: str) -> tuple[str, str]:
    """Divide the value of a flag, OPTION=VALUES, into the name of an option of train and the rest.

    Raises:
        UserError: the option does not exist.
    """
    spelled, _, values = text.partition("=")
    name = spelled.strip().removeprefix("--").replace("-", "_")
    hints = option_hints()
    if name not in hints:
        hint = hint_of(name, hints) or f"{help_command('train')} lists the options"
        raise UserError(f"unknown option {spelled!r} in {flag} {text}: {hint}")
    return name, values


def divided(text: str) -> list[str]:
    """Divide a text at its commas, but for those in brackets: `[8, 8],[16]` has two parts."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def _flags(options: Mapping[str, Any]) -> list[str]:
    """Spell options with "=", so that no value can be taken for an option."""
    return [f"{x}={' '.join(values)}" if values else x for x, *values in spell(options)]


def job_arguments(
    *, cache: str | None, trust: bool, elsewhere: bool
) -> Callable[["Job", Path], list[str]]:
    """Return what makes the arguments of `noisydqn` that train a job in a folder, or resume it.

    Args:
        cache: as the option of that name.
        trust: as the option of that name.
        elsewhere: whether jobs run on other machines, which find absolute paths alone.
    """
    passed = [] if cache is None else ["--cache", cache]
    passed += ["--trust"] if trust else []

    def arguments(job: "Job", out: Path) -> list[str]:
        where = ["--out", str(out.absolute() if elsewhere else out), "--resume"]
        return ["train", job.cell.environment, *_flags(job.options), *where, *passed]

    return arguments


def run_compare(argv: Sequence[str]) -> tuple[int, int | None]:
    """Run the command; returns the runs that failed or diverged, and the signal that stopped it.

    Raises:
        UserError: as `noisydqn.study.compare.compare`.
    """
    args, cluster, draft = parse_compare(argv)
    if args.file:
        draft = draft.over(read_draft(given_path(args.file, "FILE")))
    from noisydqn.study.compare import Request, compare

    request = Request(
        draft,
        typed=not args.file,
        command=shlex.join(["noisydqn", "compare", *argv]),
        out=None if args.out is None else given_path(args.out),
        resume=args.resume,
        slots=args.jobs,
        cores=args.cores,
        together=TOGETHER[args.together],
        only_plan=args.plan,
        quiet=args.quiet,
        trust=args.trust,
        again=cluster.repeated(trust=args.trust),
    )
    if cluster.slurm is not None:
        return write_script(cluster, "compare", argv, args.out), None
    arguments = job_arguments(cache=args.cache, trust=args.trust, elsewhere=cluster.ray is not None)
    with place(cluster) as (make_pool, capacity):
        request = dataclasses.replace(request, capacity=capacity)
        outcome = compare(request, arguments, make_pool)
    return outcome.bad, outcome.signal
